"""Params of depth: the layers of a model that are looked at."""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from steerlib.files.params import Strict, whole

MOST = 1_000, "as no model has more layers"


class Spread(Strict):
    """Layers spread evenly."""

    every: whole(*MOST) | None = None  # the first, and then each so-manyth
    count: whole(*MOST, least=2) | None = None  # so many, from the first to the last

    @model_validator(mode="after")
    def _one_of_them(self):
        if (self.every is None) == (self.count is None):
            raise ValueError("say either every or count, as in {every: 3}")
        return self


def _increasing(layers: list[int]) -> list[int]:
    if layers != sorted(set(layers)):
        raise ValueError("layers must increase, each once")
    return layers


def _kind(given: Any) -> str | None:
    return "[all]" if given == "all" else {list: "[list]", dict: "[spread]", Spread: "[spread]"}.get(type(given))


# The tags stand in brackets, as errors leave such words out of the place that they name.
Layers = Annotated[
    Annotated[Literal["all"], Tag("[all]")]
    | Annotated[list[whole(*MOST, least=0)], Field(min_length=1), AfterValidator(_increasing), Tag("[list]")]
    | Annotated[Spread, Tag("[spread]")],
    Discriminator(
        _kind, custom_error_type="layers", custom_error_message="is all, a list as [0, 3], {every: 3} or {count: 8}"
    ),
]
Neighbours = Annotated[
    Annotated[Literal["all"], Tag("[all]")] | Annotated[whole(*MOST, least=0), Tag("[int]")],
    Discriminator(lambda given: "[all]" if isinstance(given, str) else "[int]"),
]


def chosen(asked: Layers, there: int) -> list[int]:
    """Of a model of so many layers, the numbers of those asked for. Raises ValueError where there are no such."""
    every = [*range(there)]
    if asked == "all":
        return every
    if isinstance(asked, list) and asked[-1] < there:
        return asked
    if isinstance(asked, Spread) and asked.every:
        return every[:: asked.every]
    if isinstance(asked, Spread) and asked.count <= there:
        return np.linspace(0, there - 1, asked.count).round().astype(int).tolist()
    told = f"layer {asked[-1]} is" if isinstance(asked, list) else f"{asked.count} layers are"
    raise ValueError(f"{told} asked for, and the model has {there}: 0 to {there - 1}")
