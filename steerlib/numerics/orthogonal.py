"""Directions made independent of one another, so that pushing along one moves less of the others.

Three cures for interference, from the directions alone (`gram_schmidt`, `whitened`) or with the states as well
(`leace_rest`). All return unit vectors and never turn one round to its opposite. A vector that the others determine
has nothing of its own: it becomes zero, rather than rounding errors scaled up to length one. Shapes: ``c`` directions,
``d`` hidden, ``n`` states.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Real

from steerlib.numerics.directions import unit
from steerlib.numerics.erasure import leace

# What is left of a unit vector has to be longer than this. Directions are stored in float32, with errors of 1e-7.
LEAST = 1e-5

Vectors = Float[np.ndarray, "c d"]


def gram_schmidt(v: Vectors) -> Vectors:
    """Each vector minus its projection on the span of all the others.

    Unlike the textbook's procedure it has no order: every vector gives way to all others, so results are orthogonal to
    the *original* others and not to each other.
    """

    def without_projection(i, own, others):
        _, sizes, axes = np.linalg.svd(others, full_matrices=False)
        axes = axes[sizes > LEAST * sizes.max(initial=0.0)]  # where others hang together, at the same precision
        return own - own @ axes.T @ axes

    return _left(unit(v), without_projection)


def whitened(v: Vectors) -> Vectors:
    """Orthonormal vectors as close as can be to the unit vectors given: V (Vᵀ V)^(-1/2) (Löwdin 1950; ZCA).

    All give way alike. Vectors in the span of others are zero and the rest are orthogonal among themselves.
    """
    kept = gram_schmidt(v).any(1)
    result = np.zeros(v.shape)
    left, _, right = np.linalg.svd(unit(v[kept]), full_matrices=False)
    result[kept] = left @ right
    return result


def leace_rest(
    v: Vectors, states: Float[np.ndarray, "n d"], labels: Real[np.ndarray, "n c"], shrinkage: bool = True
) -> Vectors:
    """Each vector without what it changes in the linear readings of all other concepts (LEACE, Belrose et al. 2023).

    Pushing along it leaves every other concept's best linear predictor where it was. In the metric of the inverse
    covariance it is the projection, so it makes no obtuse angle with the vector it came from.

    ``labels`` is 1 for a concept's positives, -1 for its negatives and 0 for states that are not about it. Labels of
    which the others determine each (one concept or another for every state, coded 1 and 0) leave no vector anything.
    """

    def without_others(i, own, _):
        return leace(states, np.delete(labels, i, axis=1), shrinkage).free(own)

    return _left(unit(v), without_others)


def _left(v: Vectors, change) -> Vectors:
    """Every unit vector changed in the presence of the others; zero where next to nothing is left of it."""
    changed = np.array([change(i, own, np.delete(v, i, axis=0)) for i, own in enumerate(v)]).reshape(v.shape)
    return unit(np.where(np.linalg.norm(changed, axis=1, keepdims=True) > LEAST, changed, 0.0))
