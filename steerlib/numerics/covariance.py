"""Covariances, raised to any power without a d × d matrix. Shapes: ``n`` points, ``d`` hidden, ``k`` axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # for which nobody waits who only looks at a study
    from jaxtyping import Float


@dataclass(frozen=True, eq=False)
class Covariance:
    """A covariance in its own axes, shrunk toward a sphere if so wished (Ledoit and Wolf 2004).

    ``axes`` are orthonormal; directions off all of them have the variance ``rest`` (zero when not shrunk). So n states
    of d > n dimensions need n axes and no d × d matrix.
    """

    variances: Float[np.ndarray, " k"]
    axes: Float[np.ndarray, "k d"]
    rest: float

    @classmethod
    def of(cls, centred: Float[np.ndarray, "n d"], shrink: bool = True) -> Covariance:
        """Covariance, about zero, of points that were centred already; the shrinkage is scikit-learn's (a test)."""
        _, lengths, axes = np.linalg.svd(centred, full_matrices=False)
        (n, d), share = centred.shape, 0.0  # 0: the covariance as it was measured, 1: a sphere
        variances = lengths**2 / max(n, 1)
        sphere, measured = variances.sum() / d, (variances**2).sum()
        apart = measured - d * sphere**2  # d × squared distance of the covariance from a sphere
        if shrink and apart > 0:
            error = (((centred**2).sum(1) ** 2).sum() / n - measured) / n  # d × its squared sampling error
            share = float(np.clip(error / apart, 0, 1))
        return cls((1 - share) * variances + share * sphere, axes, share * sphere)

    def power(self, exponent: float | int, vectors: Float[np.ndarray, "... d"]) -> Float[np.ndarray, "... d"]:
        """Σ^exponent v: -1 inverts, ±1/2 colours and whitens. Where there is no variance, any power of it is zero."""
        variances = np.append(self.variances, self.rest)
        # States are float32: what is smaller than this is rounding, and inverted it would drown all else.
        real = variances > 1e-12 * self.variances.max(initial=0.0)
        raised = np.where(real, np.where(real, variances, 1.0) ** exponent, 0.0)
        return vectors @ self.axes.T * (raised[:-1] - raised[-1]) @ self.axes + raised[-1] * vectors
