"""Logistic regression, many labellings of the same states at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from steerlib.numerics.labels import positives
from steerlib.numerics.methods import Method

if TYPE_CHECKING:  # for which nobody waits who only looks at a study
    from jaxtyping import Bool, Float

    from steerlib.numerics.labels import States


class Logistic(Method, name="logistic"):
    """Weights of an L2-regularised logistic regression on states of unit root-mean-square spread.

    The problems of all draws are independent and convex, so one L-BFGS run over their sum solves each of them;
    scikit-learn, one draw at a time, gives the same weights (a test) at many times the cost.
    """

    formula = r"v = \arg\min_{w,b} C \sum_i \log(1 + e^{-y_i (w^\top h_i + b)}) + \tfrac12 \|w\|_2^2"
    source = "linear probes, Alain and Bengio 2016; as a direction to push along, Li et al. 2023 (ITI)"

    c: Annotated[float, Field(gt=0)] = 1.0  # inverse strength of the penalty

    def vectors(self, states, labels, seed, layer):
        return solve(standard(states), positives(labels, len(states)), self.c)


def standard(states: States) -> States:
    """States centred, with a root-mean-square of one.

    One scale for all dimensions keeps the direction in the residual stream's own geometry, and makes the strength of
    the penalty comparable between checkpoints, whose norms grow in training.
    """
    x = states - states.mean(0)
    return x / max(np.sqrt((x**2).mean()), np.finfo(float).tiny)


def solve(
    x: States, positive: Bool[np.ndarray, "n r"], c: float, allowed: Bool[np.ndarray, "d r"] | None = None
) -> Float[np.ndarray, "r d"]:
    """Weights of every draw's probe; those that are not allowed stay zero.

    Solved in coordinates in which the curvature at the start is the same in every direction, x'x / 4 + 1 / c: states
    have few strong directions and many weak ones, and without this most steps go to telling them apart.
    """
    from scipy.optimize import minimize  # half a second's import, not every command's
    from scipy.special import expit

    n, draws, y = len(x), positive.shape[1], positive.astype(float)
    # Singular vectors, or where some weights must stay zero the dimensions as they are.
    basis = np.linalg.svd(x, full_matrices=False)[2].T if allowed is None else np.eye(x.shape[1])
    seen = x @ basis
    scale = ((seen**2).sum(0) / 4 + 1 / c)[:, None] ** -0.5
    seen *= scale.T
    level = (n / 4) ** -0.5  # of the intercept, likewise

    def loss(flat):
        weights = flat.reshape(-1, draws)
        z = seen @ weights[:-1] + level * weights[-1]
        error = expit(z) - y
        slope = seen.T @ error + scale**2 * weights[:-1] / c
        gradient = np.vstack([slope if allowed is None else slope * allowed, level * error.sum(0)])
        return (np.logaddexp(0, z) - y * z).sum() + 0.5 / c * ((scale * weights[:-1]) ** 2).sum(), gradient.ravel()

    start = np.zeros((len(scale) + 1) * draws)
    solved = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500, "gtol": 1e-3, "ftol": 1e-9})
    return (basis @ (scale * solved.x.reshape(-1, draws)[:-1])).T
