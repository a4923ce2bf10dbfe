"""Methods that know nothing of the concept, to go through all that the real ones go through."""

import numpy as np

from steerlib.numerics.labels import differences, shuffled_labels
from steerlib.numerics.methods import Method


class Random(Method, name="random"):
    """Isotropic vectors; states and labels are not looked at, for the sign neither."""

    formula = r"v \sim \mathcal N(0, I)"
    source = "the null of chance"
    serious = False

    def vectors(self, states, labels, seed, layer):
        return np.random.default_rng(seed).standard_normal((len(labels), states.shape[1]))


class Shuffled(Method, name="shuffled"):
    """Mean difference on labels dealt anew within each class (see `steerlib.numerics.labels.shuffled_labels`)."""

    formula = r"v = \bar h^{+\pi} - \bar h^{-\pi},\ \pi \text{ shuffles labels within classes}"
    source = "control tasks, Hewitt and Liang 2019; dealt within classes, ours"
    serious = False

    def vectors(self, states, labels, seed, layer):
        draws, pairs, _ = labels.shape
        dealt = shuffled_labels(pairs, draws, tuple(seed) if isinstance(seed, list) else seed)
        classes = np.concatenate([labels[..., 0], labels[..., 1]], 1)
        shuffled = np.take_along_axis(classes, dealt.reshape(draws, -1), 1).reshape(dealt.shape)
        return differences(states, shuffled).sum(1) / pairs  # zero for a single pair, which nothing can shuffle
