"""Means and covariances, also of more states than fit in memory.

Moments of chunks are merged exactly (Chan, Golub and LeVeque 1983), in float64, so that streaming gives what a batch
gives. Besides mean and scatter, two moments of the norm are kept: the Ledoit–Wolf shrinkage needs them.
Shapes: ``b`` pairs of a chunk, ``n`` points, ``d`` hidden, ``k`` axes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from steerlib.numerics.labels import flips

Points = Float[np.ndarray, "n d"]


@dataclass(frozen=True, eq=False)
class Cloud:
    """Moments of a set of points; y is a point minus the mean."""

    count: int
    mean: Float[np.ndarray, " d"]
    scatter: Float[np.ndarray, "d d"]  # Σ y yᵀ
    cubic: Float[np.ndarray, " d"]  # Σ ‖y‖² y
    quartic: float  # Σ ‖y‖⁴

    @classmethod
    def of(cls, points: Points) -> Cloud:
        points = np.asarray(points, dtype=np.float64)
        mean = points.mean(0) if len(points) else np.zeros(points.shape[1])
        y = points - mean
        norm = (y**2).sum(1)
        return cls(len(y), mean, y.T @ y, norm @ y, float(norm @ norm))

    def __add__(self, other: Cloud) -> Cloud:
        """Moments of the union."""
        count = self.count + other.count
        if not count:
            return self
        mean = (self.count * self.mean + other.count * other.mean) / count
        return self.about(mean).pooled(other.about(mean))

    def about(self, mean: Float[np.ndarray, " d"]) -> Cloud:
        """Moments taken about another point than their own mean."""
        shift = self.mean - mean
        square, along, trace = shift @ shift, self.scatter @ shift, np.trace(self.scatter)
        return Cloud(
            self.count,
            mean,
            self.scatter + self.count * np.outer(shift, shift),
            self.cubic + 2 * along + (trace + self.count * square) * shift,
            self.quartic + 4 * self.cubic @ shift + 4 * along @ shift + (2 * trace + self.count * square) * square,
        )

    def pooled(self, other: Cloud) -> Cloud:
        """Moments added up, each about its own centre."""
        return Cloud(
            self.count + other.count,
            self.mean,
            self.scatter + other.scatter,
            self.cubic + other.cubic,
            self.quartic + other.quartic,
        )


@dataclass(frozen=True, eq=False)
class Moments:
    """All that streaming methods need to know of pairs of states; ``update`` adds a chunk of pairs.

    ``differences`` are positive minus negative, the order within each pair drawn by ``seed`` (see method `pca`).
    """

    positive: Cloud
    negative: Cloud
    differences: Cloud
    seed: object = 0

    @classmethod
    def start(cls, hidden: int, seed=0) -> Moments:
        """Moments of no pairs yet."""
        nothing = Cloud.of(np.zeros((0, hidden)))
        return cls(nothing, nothing, nothing, seed)

    @classmethod
    def of(cls, positive: Float[np.ndarray, "b d"], negative: Float[np.ndarray, "b d"], seed=0) -> Moments:
        return cls.start(positive.shape[1], seed).update(positive, negative)

    def update(self, positive: Float[np.ndarray, "b d"], negative: Float[np.ndarray, "b d"]) -> Moments:
        """Moments with these pairs added; nothing is changed in place.

        Raises ValueError when there are not as many positives as negatives, FloatingPointError for states that are
        not finite.
        """
        positive, negative = np.asarray(positive, dtype=np.float64), np.asarray(negative, dtype=np.float64)
        if positive.shape != negative.shape:
            raise ValueError(f"positives and negatives come in pairs; found {positive.shape} and {negative.shape}")
        if not (np.isfinite(positive).all() and np.isfinite(negative).all()):
            raise FloatingPointError("hidden states hold NaN or infinite values")
        signs = flips((len(positive), 1), self.seed, start=self.count)
        return replace(
            self,
            positive=self.positive + Cloud.of(positive),
            negative=self.negative + Cloud.of(negative),
            differences=self.differences + Cloud.of(signs * (positive - negative)),
        )

    @property
    def count(self) -> int:
        """Pairs seen."""
        return self.positive.count

    @property
    def gap(self) -> Float[np.ndarray, " d"]:
        """Mean of positives minus mean of negatives."""
        return self.positive.mean - self.negative.mean

    @property
    def within(self) -> Cloud:
        """All states, each about the mean of its class."""
        return self.positive.pooled(self.negative)

    @property
    def total(self) -> Cloud:
        """All states about their grand mean."""
        return self.positive + self.negative


@dataclass(frozen=True, eq=False)
class Covariance:
    """A covariance in its own axes, shrunk toward a sphere if so wished (Ledoit and Wolf 2004).

    ``axes`` are orthonormal; directions off all of them have the variance ``rest`` (zero when not shrunk). So n states
    of d > n dimensions need n axes and no d × d matrix.
    """

    variances: Float[np.ndarray, " k"]
    axes: Float[np.ndarray, "k d"]
    rest: float
    shrinkage: float  # 0: the covariance as it was measured, 1: a sphere

    @classmethod
    def of(cls, centred: Points, shrink: bool = True) -> Covariance:
        """Covariance, about zero, of points that were centred already."""
        _, lengths, axes = np.linalg.svd(centred, full_matrices=False)
        return cls._shrunk(lengths**2, axes, len(centred), ((centred**2).sum(1) ** 2).sum(), shrink)

    @classmethod
    def from_cloud(cls, cloud: Cloud, shrink: bool = True) -> Covariance:
        squares, axes = np.linalg.eigh(cloud.scatter)
        return cls._shrunk(squares.clip(0), axes.T, cloud.count, cloud.quartic, shrink)

    @classmethod
    def _shrunk(cls, squares, axes, count: int, quartic: float, shrink: bool) -> Covariance:
        """From the scatter's eigenvalues; the shrinkage is scikit-learn's `ledoit_wolf` (a test), from moments."""
        d, variances, share = axes.shape[1], squares / max(count, 1), 0.0
        sphere, measured = variances.sum() / d, (variances**2).sum()
        apart = measured - d * sphere**2  # d × squared distance of the covariance from a sphere
        if shrink and apart > 0:
            error = (quartic / count - measured) / count  # d × its squared sampling error
            share = float(np.clip(error / apart, 0, 1))
        return cls((1 - share) * variances + share * sphere, axes, share * sphere, share)

    @property
    def varies(self) -> bool:
        """False when all points were the same."""
        return bool(self.variances.max(initial=0.0) > 0)

    def power(self, exponent: float | int, vectors: Float[np.ndarray, "... d"]) -> Float[np.ndarray, "... d"]:
        """Σ^exponent v: -1 inverts, ±1/2 colours and whitens. Where there is no variance, any power of it is zero."""
        rest = self._raised(np.array(self.rest), exponent)
        return vectors @ self.axes.T * (self._raised(self.variances, exponent) - rest) @ self.axes + rest * vectors

    def _raised(self, variances: np.ndarray, exponent: float | int) -> np.ndarray:
        # States are float32: what is smaller than this is rounding, and inverted it would drown all else.
        there = variances > 1e-12 * self.variances.max(initial=0.0)
        return np.where(there, np.where(there, variances, 1.0) ** exponent, 0.0)
