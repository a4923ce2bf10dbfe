"""Affine maps of hidden states that take a concept away, or carry one class over to the other.

Both are fitted in closed form from means and covariances. Shapes: ``n`` states, ``d`` hidden, ``k`` labels of which
``e`` are linearly independent, ``m`` states of a class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Real

from steerlib.numerics.covariance import Covariance


@dataclass(frozen=True, eq=False)
class Eraser:
    """h - left · right · (h - mean), with right · left = 1: what ``right`` reads is set to its mean along ``left``."""

    left: Float[np.ndarray, "d e"]
    right: Float[np.ndarray, "e d"]
    mean: Float[np.ndarray, " d"]

    def __call__(self, states: Float[np.ndarray, "... d"]) -> Float[np.ndarray, "... d"]:
        """States with the concept erased."""
        return states - (states - self.mean) @ self.right.T @ self.left.T

    def free(self, vectors: Float[np.ndarray, "... d"]) -> Float[np.ndarray, "... d"]:
        """Directions, or differences of states, without what they change in the erased readings."""
        return vectors - vectors @ self.right.T @ self.left.T


def leace(states: Float[np.ndarray, "n d"], z: Real[np.ndarray, "n *k"], shrinkage: bool = True) -> Eraser:
    """The eraser of labels z (LEACE, Belrose et al. 2023, theorem 4.3), one column a label.

    On the states that it was fitted on, no linear predictor of z does better than a constant afterwards, with or
    without shrinkage; and among all affine maps of which that is true, this one changes the states least, in the
    metric of their covariance and in every other at once. Shrinkage (Ledoit and Wolf 2004) takes a covariance that is
    less noisy where states are fewer than dimensions, and so changes states not seen less, with as much erased.
    Labels that do not vary, or that others determine, add nothing. Raises FloatingPointError for states or labels that
    are not finite, ValueError for another number of labels than of states.
    """
    states, z = np.asarray(states, dtype=np.float64), np.asarray(z, dtype=np.float64)
    if len(z) != len(states):
        raise ValueError(f"a label a state is wanted; found {len(z)} labels and {len(states)} states")
    if not (np.isfinite(states).all() and np.isfinite(z).all()):
        raise FloatingPointError("hidden states or labels hold NaN or infinite values")
    mean, z = states.mean(0), z.reshape(len(z), -1)
    z = z[:, np.ptp(z, axis=0) > 0]
    # Labels on one scale, so that what counts as dependent does not hang on their units.
    centred, z = states - mean, (z - z.mean(0)) / z.std(0)
    covariance = Covariance.of(centred, shrinkage)
    whitened = covariance.power(-0.5, z.T @ centred / len(z))
    _, sizes, axes = np.linalg.svd(whitened, full_matrices=False)
    axes = axes[sizes > 1e-8]
    return Eraser(covariance.power(0.5, axes).T, covariance.power(-0.5, axes), mean)


def gaussian_map(
    negative: Float[np.ndarray, "m d"], positive: Float[np.ndarray, "m d"]
) -> tuple[Float[np.ndarray, "d d"], Float[np.ndarray, " d"]]:
    """(A, b): A h + b carries the negatives' mean and covariance over to the positives' (MiMiC, Singh et al. 2024).

    It is the optimal transport between two Gaussians, A = S⁻½ (S½ T S½)½ S⁻½ from covariance S to T: of all maps that
    match both moments, the one that moves the states least. Both covariances are shrunk (Ledoit and Wolf 2004).
    Raises FloatingPointError for states that are not finite.
    """
    negative, positive = np.asarray(negative, dtype=np.float64), np.asarray(positive, dtype=np.float64)
    if not (np.isfinite(negative).all() and np.isfinite(positive).all()):
        raise FloatingPointError("hidden states hold NaN or infinite values")
    start, end = negative.mean(0), positive.mean(0)
    source, target = Covariance.of(negative - start), Covariance.of(positive - end)
    root = source.power(0.5, target.power(1, source.power(0.5, np.eye(len(start)))))
    variances, axes = np.linalg.eigh((root + root.T) / 2)
    matrix = source.power(-0.5, source.power(-0.5, (axes * np.sqrt(variances.clip(0))) @ axes.T).T)
    return matrix, end - matrix @ start
