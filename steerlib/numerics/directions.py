"""From hidden states to directions: what all methods have in common.

How a direction is found is up to a method (`steerlib.numerics.methods`). Here every method's vectors become unit
directions that point from negative to positive, all draws of a labelling at once, so that the null goes through exactly
the pipeline of the real direction. Shapes: ``r`` draws, ``m`` pairs, ``n = 2m`` states, ``d`` hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from steerlib.numerics.methods import Method, create

if TYPE_CHECKING:
    from steerlib.numerics.labels import Labelling, States


PER_DRAW = ("vector", "length", "sign", "spread")


@dataclass(frozen=True, eq=False)
class Directions:
    """What a method found, one direction a draw."""

    method: str
    vector: Float[np.ndarray, "r d"]  # of unit length, from negative to positive; zero where there is no direction
    length: Float[np.ndarray, " r"]  # norm as the method found it: the `raw` scale
    sign: Float[np.ndarray, " r"]  # -1 where the method's own vector had to be turned
    spread: Float[np.ndarray, " r"]  # of the fitting states' projections, see `spread`: the `projection_std` scale

    @classmethod
    def side_by_side(cls, found: Sequence[Directions]) -> Directions:
        """The draws of several fits of one method as one."""
        return cls(found[0].method, *(np.concatenate([getattr(one, name) for one in found]) for name in PER_DRAW))

    def __getitem__(self, draws: slice | Int[np.ndarray, " k"]) -> Directions:
        """Some of the draws, in the order asked for."""
        return Directions(self.method, *(getattr(self, name)[draws] for name in PER_DRAW))


def fit(method: str | dict | Method, states: States, labels: Labelling, seed=0, layer: int | None = None) -> Directions:
    """Directions of all draws of a labelling.

    Only methods that read files, made for one layer each, ask for ``layer``. Classes that differ by rounding only
    have no direction. Nulls are not turned: which end is positive is among the things that they do not know.
    Raises ValueError for an unknown method or option, FloatingPointError for states that are not finite.
    """
    method = method if isinstance(method, Method) else create(method)
    states = np.asarray(states, dtype=np.float64)
    if not np.isfinite(states).all():
        raise FloatingPointError("hidden states hold NaN or infinite values")
    vectors = method.vectors(states, labels, seed, layer)
    units, length = unit(vectors), np.linalg.norm(vectors, axis=1)
    scores = units @ states.T
    high, low = (np.take_along_axis(scores, labels[..., side], 1) for side in (0, 1))
    gap = high.mean(1) - low.mean(1)
    sign = np.where(method.serious & (gap < 0), -1.0, 1.0)
    # A gap of rounding's size has a sign of chance, and so would a direction read off it.
    real = (np.abs(gap) > 1e-12 * np.linalg.norm(states, axis=1).max()) | (not method.serious)
    within = np.sqrt((high.var(1) + low.var(1)) / 2) * ((length > 0) & real)
    return Directions(method.name, units * (sign * real)[:, None], length * real, sign, within)


def spread(vectors: Float[np.ndarray, "... d"], states: States, pairs: int) -> Float[np.ndarray, "..."]:
    """Standard deviation within classes of the projections of states, which are all positives, then all negatives."""
    scores = vectors @ states.T
    return np.sqrt((scores[..., :pairs].var(-1) + scores[..., pairs:].var(-1)) / 2)


def random_directions(draws: int, hidden: int, seed) -> Float[np.ndarray, "r d"]:
    """Isotropic unit vectors."""
    return unit(np.random.default_rng(seed).standard_normal((draws, hidden)))


def unit(vectors: Float[np.ndarray, "... d"]) -> Float[np.ndarray, "... d"]:
    """Vectors at norm one; a zero vector (identical classes) has no direction and stays zero."""
    norm = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(norm == 0, 1.0, norm)
