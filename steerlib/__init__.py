"""steerlib: when, during pretraining, does a language model become controllable?

    study = steerlib.open("params/toy.yaml")

opens a study by hand (`steerlib.results.opening`), and `steerlib.explore(study)` shows it in a notebook, to be pushed
with sliders (`steerlib.running.explore`). `steerlib.Monitor` watches a training of transformers' Trainer while it goes
on (`steerlib.running.monitor`). `SteerlibError` is the one kind of error that speaks to a person.
"""

import os
import random
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from typing import Any

OFFERED = {  # where each is
    "Monitor": ("running.monitor", "Monitor"),
    "explore": ("running.explore", "explore"),
    "open": ("results.opening", "open_study"),
}
__all__ = ["SteerlibError", *OFFERED]
LINE = 1000  # characters of a message's line

# PyTorch's threads that wait for one another sleep instead of spinning, where it is imported after this: on a busy
# machine spinning costs many times the work, and a notebook of seconds looks as if it hung.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def __getattr__(name: str) -> Any:
    """These are looked up when they are asked for: the package itself imports none of its wings."""
    if name not in OFFERED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, called = OFFERED[name]
    drawn = random.getstate()  # there are libraries that draw as they are imported, and a training may be seeded by now
    try:
        return getattr(import_module(f"steerlib.{module}"), called)
    finally:
        random.setstate(drawn)


def __dir__() -> list[str]:
    """What is offered to who types ``steerlib.`` and asks for more, and shown by ``help``."""
    return [*globals(), *OFFERED]


def nearest(name: object, names: Iterable) -> str:
    """What a message asks at its end: whether the nearest of the names was meant; nothing where none is near."""
    known = {str(one).casefold(): one for one in names}
    return "".join(f"; did you mean {known[near]!r}?" for near in get_close_matches(str(name).casefold(), known, 1))


def printable(text: str) -> str:
    """The text in one line, with escapes for what a terminal would obey and nobody would see."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


class SteerlibError(Exception):
    """A mistake in the input or the surroundings, told in a message without a traceback; or several, a line each.

    It may quote what others wrote: whatever that is, it stays a line.
    """

    def __init__(self, *mistakes: object):
        lines = map(printable, map(str, mistakes))
        super().__init__(*(line if len(line) <= LINE else f"{line[: LINE - 303]} … {line[-300:]}" for line in lines))

    def __str__(self) -> str:
        return "\n".join(self.args)

    def _render_traceback_(self) -> list[str]:
        """What IPython and Jupyter show of it."""
        return [f"SteerlibError: {self}"]
