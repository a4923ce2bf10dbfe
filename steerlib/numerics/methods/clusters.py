"""The difference of cluster centres, found without labels."""

import numpy as np

from steerlib.numerics.methods import Method, integer


class ClusterMean(Method, name="cluster_mean"):
    """Difference of the centres of two k-means clusters of the states; labels choose the sign and nothing else.

    It finds the concept only where that is what the stimuli differ in most.
    """

    formula = r"v = c_1 - c_2,\ (c_1, c_2) = \arg\min \sum_i \min_k \|h_i - c_k\|^2"
    source = "k-means on hidden states, one of RepE's baselines, Zou et al. 2023; Lloyd 1982"
    supervised = False

    def vectors(self, states, labels, seed, layer):
        from sklearn.cluster import KMeans  # a second's import, not every study's

        centres = KMeans(2, n_init=10, random_state=integer(seed)).fit(states - states.mean(0)).cluster_centers_
        return np.repeat(centres[:1] - centres[1:], len(labels), 0)
