"""Who is positive: the true labelling of a set of states, and labellings that know nothing of it.

A labelling is an array of pairs, ``Int[draw, pair, 2]``: which state is the positive and which the negative of each
pair. The true labelling is one draw; null draws deal the same states out into pairs at random. Shapes: ``r`` draws,
``m`` pairs, ``n = 2m`` states, ``d`` hidden.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # for which nobody waits who only looks at a study
    from jaxtyping import Bool, Float, Int

    States = Float[np.ndarray, "n d"]
    Labelling = Int[np.ndarray, "r m 2"]


def true_labels(pairs: int) -> Labelling:
    """States come as all positives, then all negatives: pair i is (i, i + m)."""
    return np.stack([np.arange(pairs), np.arange(pairs) + pairs], axis=1)[None]


@lru_cache(maxsize=64)  # every layer of a concept has the same
def shuffled_labels(pairs: int, draws: int, seed: int | tuple[int, ...]) -> Labelling:
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

    labels = np.stack([deal() for _ in range(draws)])
    labels.flags.writeable = False
    return labels


def differences(states: States, labels: Labelling) -> Float[np.ndarray, "r m d"]:
    """Positive minus negative of every pair."""
    return states[labels[..., 0]] - states[labels[..., 1]]


def gaps(states: States, labels: Labelling) -> Float[np.ndarray, "r d"]:
    """Mean over pairs of positive minus negative, without the differences themselves, which are many."""
    weights, draw = np.zeros((len(labels), len(states))), np.arange(len(labels))[:, None]
    for side, sign in enumerate((1, -1)):
        np.add.at(weights, (draw, labels[..., side]), sign / labels.shape[1])
    return weights @ states


def positives(labels: Labelling, states: int) -> Bool[np.ndarray, "n r"]:
    """Which states are the positive of some pair."""
    positive = np.zeros((states, len(labels)), bool)
    positive[labels[..., 0].T, np.arange(len(labels))] = True
    return positive
