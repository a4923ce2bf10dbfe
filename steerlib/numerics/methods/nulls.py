"""Methods that know nothing of the concept, to go through all that the real ones go through."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from steerlib.numerics.labels import differences, shuffled_labels
from steerlib.numerics.methods import Method


class Random(Method, name="random"):
    """Isotropic vectors; states and labels are not looked at, for the sign neither."""

    formula: ClassVar[str] = r"v \sim \mathcal N(0, I)"
    source: ClassVar[str] = "the null of chance"
    serious: ClassVar[bool] = False

    def vectors(self, states, labels, seed, layer):
        return np.random.default_rng(seed).standard_normal((len(labels), states.shape[1])), {}


class Shuffled(Method, name="shuffled"):
    """Mean difference on labels dealt anew within each class (`steerlib.numerics.labels.shuffled_labels` says why so)."""

    formula: ClassVar[str] = r"v = \bar h^{+\pi} - \bar h^{-\pi},\ \pi \text{ shuffles labels within classes}"
    source: ClassVar[str] = "control tasks, Hewitt and Liang 2019; dealt within classes, ours"
    serious: ClassVar[bool] = False

    def vectors(self, states, labels, seed, layer):
        draws, pairs, _ = labels.shape
        dealt = shuffled_labels(pairs, draws, seed)
        classes = np.concatenate([labels[..., 0], labels[..., 1]], 1)
        shuffled = np.take_along_axis(classes, dealt.reshape(draws, -1), 1).reshape(dealt.shape)
        return differences(states, shuffled).sum(1) / pairs, {}  # zero for a single pair, which nothing can shuffle
