"""Concepts taken out: of states by an affine map, or of one another's directions.

All are fitted in closed form from means and covariances, or from directions alone. Shapes: ``n`` states, ``d`` hidden,
``k`` labels of which ``e`` are linearly independent, ``c`` directions.

`gram_schmidt`, `whitened` and `leace_rest` are cures for interference: pushing along what they return moves less of the
other concepts. They return unit vectors and never turn one round to its opposite. A vector that the others determine
has nothing of its own: it becomes zero, rather than rounding errors scaled up to length one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Real

from steerlib.numerics.covariance import Covariance
from steerlib.numerics.directions import unit

if TYPE_CHECKING:
    from steerlib.numerics.labels import States

# What is left of a unit vector has to be longer than this. Directions are stored in float32, with errors of 1e-7.
LEAST = 1e-5

Vectors = Float[np.ndarray, "c d"]


@dataclass(frozen=True, eq=False)
class Eraser:
    """h - left · right · (h - mean), with right · left = 1: what ``right`` reads is set to its mean along ``left``."""

    left: Float[np.ndarray, "d e"]
    right: Float[np.ndarray, "e d"]
    mean: Float[np.ndarray, " d"]

    def free(self, vectors: Float[np.ndarray, "... d"]) -> Float[np.ndarray, "... d"]:
        """Directions, or differences of states, without what they change in the erased readings."""
        return vectors - vectors @ self.right.T @ self.left.T


def leace(states: States, z: Real[np.ndarray, "n *k"], shrinkage: bool = True) -> Eraser:
    """The eraser of labels z (LEACE, Belrose et al. 2023, theorem 4.3), one column a label.

    On the states that it was fitted on, no linear predictor of z does better than a constant afterwards, with or
    without shrinkage; and among all affine maps of which that is true, this one changes the states least, in the
    metric of their covariance and in every other at once. Shrinkage (Ledoit and Wolf 2004) takes a covariance that is
    less noisy where states are fewer than dimensions, and so changes states not seen less, with as much erased.
    Labels that do not vary, or that others determine, add nothing. Raises ValueError for states or labels that are not
    finite.
    """
    states, z = (np.asarray_chkfinite(values, dtype=np.float64) for values in (states, z))
    mean, z = states.mean(0), z.reshape(len(z), -1)
    z = z[:, np.ptp(z, axis=0) > 0]
    # Labels on one scale, so that what counts as dependent does not hang on their units.
    centred, z = states - mean, (z - z.mean(0)) / z.std(0)
    covariance = Covariance.of(centred, shrinkage)
    whitened = covariance.power(-0.5, z.T @ centred / len(z))
    _, sizes, axes = np.linalg.svd(whitened, full_matrices=False)
    axes = axes[sizes > 1e-8]
    return Eraser(covariance.power(0.5, axes).T, covariance.power(-0.5, axes), mean)


def gaussian_map(negative: States, positive: States) -> tuple[Float[np.ndarray, "d d"], Float[np.ndarray, " d"]]:
    """(A, b): A h + b carries the negatives' mean and covariance over to the positives' (MiMiC, Singh et al. 2024).

    It is the optimal transport between two Gaussians, A = S⁻½ (S½ T S½)½ S⁻½ from covariance S to T: of all maps that
    match both moments, the one that moves the states least. Both covariances are shrunk (Ledoit and Wolf 2004).
    Raises ValueError for states that are not finite.
    """
    negative, positive = (np.asarray_chkfinite(side, dtype=np.float64) for side in (negative, positive))
    start, end = negative.mean(0), positive.mean(0)
    source, target = Covariance.of(negative - start), Covariance.of(positive - end)
    root = source.power(0.5, target.power(1, source.power(0.5, np.eye(len(start)))))
    variances, axes = np.linalg.eigh((root + root.T) / 2)
    matrix = source.power(-0.5, source.power(-0.5, (axes * np.sqrt(variances.clip(0))) @ axes.T).T)
    return matrix, end - matrix @ start


def gram_schmidt(v: Vectors) -> Vectors:
    """Each vector minus its projection on the span of all the others.

    Unlike the textbook's procedure it has no order: every vector gives way to all others, so results are orthogonal to
    the *original* others and not to each other.
    """
    v, left = unit(v), np.zeros(v.shape)
    for i, own in enumerate(v):
        _, sizes, axes = np.linalg.svd(np.delete(v, i, axis=0), full_matrices=False)
        axes = axes[sizes > LEAST * sizes.max(initial=0.0)]  # where others hang together, at the same precision
        left[i] = own - own @ axes.T @ axes
    return _of_length_one(left)


def whitened(v: Vectors) -> Vectors:
    """Orthonormal vectors as close as can be to the unit vectors given: V (Vᵀ V)^(-1/2) (Löwdin 1950; ZCA).

    All give way alike. Vectors in the span of others are zero and the rest are orthogonal among themselves.
    """
    kept = gram_schmidt(v).any(1)
    result = np.zeros(v.shape)
    left, _, right = np.linalg.svd(unit(v[kept]), full_matrices=False)
    result[kept] = left @ right
    return result


def leace_rest(v: Vectors, states: States, labels: Real[np.ndarray, "n c"], shrinkage: bool = True) -> Vectors:
    """Each vector without what it changes in the linear readings of all other concepts (LEACE, Belrose et al. 2023).

    Pushing along it leaves every other concept's best linear predictor where it was. In the metric of the inverse
    covariance it is the projection, so it makes no obtuse angle with the vector it came from.

    ``labels`` is 1 for a concept's positives, -1 for its negatives and 0 for states that are not about it. Labels of
    which the others determine each (one concept or another for every state, coded 1 and 0) leave no vector anything.
    """
    left = np.zeros(v.shape)
    for i, own in enumerate(unit(v)):
        left[i] = leace(states, np.delete(labels, i, axis=1), shrinkage).free(own)
    return _of_length_one(left)


def _of_length_one(left: Vectors) -> Vectors:
    """What is left of unit vectors, at length one again; zero where it is next to nothing."""
    return unit(np.where(np.linalg.norm(left, axis=1, keepdims=True) > LEAST, left, 0.0))
