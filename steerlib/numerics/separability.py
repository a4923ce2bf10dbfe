"""How well a direction separates states that it was not fitted on: AUROC and accuracy, a held-out template at a time.

Scores are projections of all positives, then of all negatives. Shapes: ``m`` pairs, ``n = 2m`` states, ``f`` folds.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

Scores = Float[np.ndarray, "... n"]
Folds = Int[np.ndarray, " m"]  # which held-out template each pair is of


def auroc(scores: Scores, positive: np.ndarray) -> Float[np.ndarray, "..."]:
    """Area under the ROC curve by ranks (Mann-Whitney), ties counted half; both classes have states."""
    p, n = positive.sum(), (~positive).sum()
    if p * n <= 64:  # of so few each pair is looked at, in a tenth of the time that ranks take
        return (np.sign(scores[..., positive, None] - scores[..., None, ~positive]).mean((-1, -2)) + 1) / 2
    return (rankdata(scores, axis=-1)[..., positive].sum(-1) - p * (p + 1) / 2) / (p * n)


def auroc_by_fold(scores: Scores, fold: Folds) -> Float[np.ndarray, "... f"]:
    """AUROC within each held-out template; scores of all positives, then all negatives."""
    templates = [np.flatnonzero(states) for states in _templates(fold)]
    if len({*map(len, templates)}) == 1:
        templates = [np.stack(templates)]  # at once
    parts = (auroc(scores[..., at], np.arange(at.shape[-1]) < at.shape[-1] // 2) for at in templates)
    return np.concatenate([part.reshape(*scores.shape[:-1], -1) for part in parts], -1)


def deal_within_folds(scores: Scores, fold: Folds, seed) -> Scores:
    """Scores dealt out anew to the positives and negatives of each template, in another order for every draw."""
    rng, dealt = np.random.default_rng(seed), scores.copy()
    for states in _templates(fold):
        dealt[..., states] = rng.permuted(scores[..., states], axis=-1)
    return dealt


def auroc_of_words(fit: Sequence[str], test: Sequence[str], fold: Folds) -> Float[np.ndarray, " f"]:
    """What the words alone tell, in whatever order: AUROC by held-out template of a logistic regression on word counts.

    ``fit`` and ``test`` are all positives, then all negatives. No model is involved: a direction that separates no
    better has not shown that the model knows more than which words there are.
    """
    return auroc_by_fold(bag_of_words(fit).decision_function(list(test)), fold)


def bag_of_words(texts: Sequence[str]) -> Pipeline:
    """A logistic regression on word counts; of ``texts`` the first half are positive."""
    counts = CountVectorizer(token_pattern=r"(?u)\b\w+\b")
    classifier = make_pipeline(counts, LogisticRegression(max_iter=1000))
    return classifier.fit(list(texts), np.arange(len(texts)) < len(texts) // 2)


def accuracy_by_fold(scores: Scores, cut: Float[np.ndarray, "..."], fold: Folds) -> Float[np.ndarray, "... f"]:
    """Share of held-out states on the right side of a cut that was placed on the fitting states."""
    right = (scores > cut[..., None]) == (np.arange(2 * len(fold)) < len(fold))
    return np.stack([right[..., states].mean(-1) for states in _templates(fold)], -1)


def _templates(fold: Folds) -> list[Bool[np.ndarray, " n"]]:
    """Which states are of each held-out template."""
    return [np.tile(fold == template, 2) for template in np.unique(fold)]
