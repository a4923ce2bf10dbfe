"""Every way to find a direction, one file a method or a close family. May import what numerics may.

To add one, put a file into this folder (or import it from anywhere) with a class as `Method` says, and name it in a
study: ``methods: [mean_difference, median]``. Nothing else need be touched.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import ValidationError

from steerlib import nearest
from steerlib.files.params import Strict, explain

if TYPE_CHECKING:  # for which nobody waits who only looks at a study
    from jaxtyping import Float

    from steerlib.numerics.labels import Labelling, States

__all__ = ["METHODS", "Method", "create", "integer"]
METHODS: dict[str, type[Method]] = {}  # filled as classes are defined


class Method(Strict):
    r"""One way to find a direction; its fields are its options.

        class Median(Method, name="median"):
            formula = r"v = \operatorname{med}(h^+) - \operatorname{med}(h^-)"
            source = "..."
            rotates = False  # a median is one of each dimension by itself

            def vectors(self, states, labels, seed, layer):
                return np.median(states[labels[..., 0]], 1) - np.median(states[labels[..., 1]], 1)

    `steerlib.numerics.directions.fit` makes of its vectors unit directions that point from negative to positive; null
    draws, storage and tests treat every method alike.
    """

    name: ClassVar[str]
    formula: ClassVar[str]  # LaTeX, one line
    source: ClassVar[str]  # the paper
    serious: ClassVar[bool] = True  # False: a null, which knows nothing of the concept, not even its sign
    supervised: ClassVar[bool] = True  # False: labels choose the sign only, so shuffled labels give the same axis
    of_pairs: ClassVar[bool] = False  # True: states that are in none of a draw's pairs make no difference to it
    rotates: ClassVar[bool] = True  # turned states give the turned direction; False: single dimensions matter

    def __init_subclass__(cls, name: str | None = None, **options):
        """Enter the registry. Raises TypeError for a name that is taken, or without formula and source.

        Without a name the class is only a base for others.
        """
        super().__init_subclass__(**options)
        if name is None:
            return
        cls.name = name
        if missing := [word for word in ("formula", "source") if not isinstance(getattr(cls, word, None), str)]:
            raise TypeError(f"method {name!r} must say its {' and '.join(missing)}")
        taken = METHODS.get(name)
        # Running a notebook cell again defines the same class anew, which is no clash.
        if taken and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(f"method {name!r} is taken by {taken.__module__}.{taken.__qualname__}; choose another name")
        METHODS[name] = cls

    @abstractmethod
    def vectors(self, states: States, labels: Labelling, seed, layer: int | None) -> Float[np.ndarray, "r d"]:
        """One vector a draw, of any length and sign, zero where there is none."""

    def files(self) -> list[Path]:
        """Files that it reads."""
        return []


def create(spec: str | dict[str, dict]) -> Method:
    """The method of a name, ``"k_sparse"``, or of a name with options, ``{"k_sparse": {"k": 8}}``.

    Raises ValueError that names what is allowed instead.
    """
    if isinstance(spec, str):
        spec = {spec: {}}
    if not isinstance(spec, dict) or len(spec) != 1:
        raise ValueError(f"a method is a name, or one name with its options as in {{k_sparse: {{k: 8}}}}; found {spec}")
    ((name, options),) = spec.items()
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; allowed: {', '.join(METHODS)}{nearest(name, METHODS)}")
    method = METHODS[name]
    try:
        return method.model_validate({} if options is None else options)
    except ValidationError as invalid:
        errors = explain(invalid, method, lambda loc: ": ".join([name, *map(str, loc)]), "unknown option; allowed")
        raise ValueError("; ".join(errors)) from None


def integer(seed) -> int:
    """A seed for libraries that want a single number."""
    return int(np.random.SeedSequence(seed).generate_state(1)[0])


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
