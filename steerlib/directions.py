"""From hidden states to directions, and how well a direction separates what it was not fitted on.

A labelling is an array of pairs, ``Int[draw, pair, 2]``: which state is the positive and which the negative of each
pair. The true labelling is one draw; null draws deal the same states out into pairs at random. Every method takes
all draws at once, so the null goes through exactly the pipeline of the real direction. Shapes: ``r`` draws,
``m`` pairs, ``n = 2m`` states, ``d`` hidden, ``f`` folds.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import rankdata

States = Float[np.ndarray, "n d"]
Labelling = Int[np.ndarray, "r m 2"]
Directions = Float[np.ndarray, "r d"]


def true_labels(pairs: int) -> Labelling:
    """States come as all positives, then all negatives: pair i is (i, i + m)."""
    return np.stack([np.arange(pairs), np.arange(pairs) + pairs], axis=1)[None]


def shuffled_labels(pairs: int, draws: int, seed) -> Labelling:
    """Null labellings of the same states: partners are dealt at random *within* each true class.

    Unrestricted shuffling would be no null here. By chance some more positives than negatives land on one side, and
    where the concept is what varies most, the difference scaled to unit length points along the concept again, with
    a random sign (measured on the toy: 95th percentile of the steerability at 0.95 of the true direction's). Dealt
    within classes, the concept cancels exactly and all other variation of the stimuli stays. For a concept whose
    labels are arbitrary, the true labelling is one such draw.
    """
    rng = np.random.default_rng(seed)

    def deal() -> np.ndarray:
        even = pairs - pairs % 2
        dealt = np.concatenate([rng.permutation(pairs)[:even], pairs + rng.permutation(pairs)[:even]]).reshape(-1, 2)
        # One state of an odd class has no partner. Across classes it would bring the concept back: a pair serves twice.
        return np.concatenate([dealt, dealt[: pairs - len(dealt)]])

    return np.stack([deal() for _ in range(draws)])


def random_directions(draws: int, hidden: int, seed) -> Directions:
    """Isotropic unit vectors."""
    return unit(np.random.default_rng(seed).standard_normal((draws, hidden)))


def fit(method: str, states: States, labels: Labelling, seed: int = 0) -> Directions:
    """Unit directions, one a draw, pointing from negative to positive.

    Raises KeyError for an unknown method, FloatingPointError for states that are not finite.
    """
    states = np.asarray(states, dtype=np.float64)
    if not np.isfinite(states).all():
        raise FloatingPointError("hidden states hold NaN or infinite values")
    found = METHODS[method](states, labels, seed)
    gap = np.einsum("rmd,rd->r", _differences(states, labels), found)
    return unit(found * np.where(gap < 0, -1.0, 1.0)[:, None])


def mean_difference(states: States, labels: Labelling, seed: int) -> Directions:
    """Mean of positives minus mean of negatives (CAA, Rimsky et al. 2024; DiffMean)."""
    return _differences(states, labels).mean(1)


def pca(states: States, labels: Labelling, seed: int) -> Directions:
    """First principal component of the paired differences (RepE's LAT, Zou et al. 2023; the paper's choice).

    The order within each pair is shuffled before centring: with all differences pointing one way, centring would
    take away the very direction sought. Which end is positive is then read off the labels (see `fit`).
    """
    difference = _differences(states, labels)
    flips = np.random.default_rng(seed).choice([-1.0, 1.0], size=difference.shape[:2])
    difference = difference * flips[..., None]
    difference -= difference.mean(1, keepdims=True)
    # Through the m × m Gram matrix: m pairs are fewer than d dimensions.
    _, vectors = np.linalg.eigh(difference @ difference.transpose(0, 2, 1))
    return np.einsum("rmd,rm->rd", difference, vectors[..., -1])


def logistic(states: States, labels: Labelling, seed: int) -> Directions:
    """Weights of an L2-regularised logistic regression, C = 1, on states of unit root-mean-square spread.

    The problems of all draws are independent and convex, so one L-BFGS run over their sum solves each of them;
    scikit-learn, one draw at a time, gives the same weights (a test) at many times the cost.
    """
    x = states - states.mean(0)
    # One scale for all dimensions keeps the direction in the residual stream's own geometry, and makes the
    # strength of the penalty comparable between checkpoints, whose norms grow in training.
    x = x / max(np.sqrt((x**2).mean()), np.finfo(float).tiny)
    draws, d = len(labels), x.shape[1]
    y = np.zeros((len(x), draws))
    y[labels[..., 0].T, np.arange(draws)] = 1.0

    def loss(flat):
        weights = flat.reshape(d + 1, draws)
        z = x @ weights[:-1] + weights[-1]
        error = expit(z) - y
        gradient = np.vstack([x.T @ error + weights[:-1], error.sum(0)])
        return (np.logaddexp(0, z) - y * z).sum() + 0.5 * (weights[:-1] ** 2).sum(), gradient.ravel()

    start = np.zeros((d + 1) * draws)
    solved = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500, "gtol": 1e-2, "ftol": 1e-7})
    return solved.x.reshape(d + 1, draws)[:-1].T


METHODS: dict[str, Callable[[States, Labelling, int], Directions]] = {
    "mean_difference": mean_difference,
    "pca": pca,
    "logistic": logistic,
}


def auroc(scores: Float[np.ndarray, "... n"], positive: np.ndarray) -> Float[np.ndarray, "..."]:
    """Area under the ROC curve by ranks (Mann-Whitney), ties counted half. NaN when a class is absent."""
    p, n = positive.sum(), (~positive).sum()
    if not p or not n:
        return np.full(scores.shape[:-1], np.nan)
    return (rankdata(scores, axis=-1)[..., positive].sum(-1) - p * (p + 1) / 2) / (p * n)


def auroc_by_fold(scores: Float[np.ndarray, "... n"], fold: Int[np.ndarray, " m"]) -> Float[np.ndarray, "... f"]:
    """AUROC within each held-out template; scores of all positives, then all negatives."""
    positive = np.arange(2 * len(fold)) < len(fold)
    both = np.concatenate([fold, fold])
    return np.stack([auroc(scores[..., both == f], positive[both == f]) for f in np.unique(fold)], -1)


def deal_within_folds(
    scores: Float[np.ndarray, "... n"], fold: Int[np.ndarray, " m"], seed
) -> Float[np.ndarray, "... n"]:
    """Scores dealt out anew to the positives and negatives of each template, in another order for every draw."""
    rng, both, dealt = np.random.default_rng(seed), np.concatenate([fold, fold]), scores.copy()
    for f in np.unique(fold):
        dealt[..., both == f] = rng.permuted(scores[..., both == f], axis=-1)
    return dealt


def accuracy_by_fold(
    scores: Float[np.ndarray, "... n"], cut: Float[np.ndarray, "..."], fold
) -> Float[np.ndarray, "... f"]:
    """Share of held-out states on the right side of a cut that was placed on the fitting states."""
    m = len(fold)
    above = scores > cut[..., None]
    right = np.concatenate([above[..., :m], ~above[..., m:]], -1)
    both = np.concatenate([fold, fold])
    return np.stack([right[..., both == f].mean(-1) for f in np.unique(fold)], -1)


def unit(vectors: Float[np.ndarray, "... d"]) -> Float[np.ndarray, "... d"]:
    """Vectors at norm one; a zero vector (identical classes) has no direction and stays zero."""
    norm = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(norm == 0, 1.0, norm)


def _differences(states: States, labels: Labelling) -> Float[np.ndarray, "r m d"]:
    return states[labels[..., 0]] - states[labels[..., 1]]
