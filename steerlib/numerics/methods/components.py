"""Where states vary most: between two clusters of them, and along principal components.

A component has length one, so on the `raw` scale alpha counts units of activation.
"""

import numpy as np

from steerlib.numerics.labels import differences
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


class PCA(Method, name="pca"):
    """First principal component of the paired differences (the paper's choice).

    The order within each pair is shuffled before centring: with all differences pointing one way, centring would
    take away the very direction sought. Which end is positive is then read off the labels.
    """

    formula = (
        r"v = \arg\max_{\|u\|=1} \operatorname{Var}_i\, u^\top \varepsilon_i (h_i^+ - h_i^-),\ \varepsilon_i = \pm 1"
    )
    source = "RepE's LAT, Zou et al. 2023; Intervention Detector, She et al. 2025"

    def vectors(self, states, labels, seed, layer):
        difference = differences(states, labels)
        difference *= np.where(np.random.default_rng(seed).random(difference.shape[:2]) < 0.5, -1.0, 1.0)[..., None]
        difference -= difference.mean(1, keepdims=True)
        return _leading(difference)


class PCACentred(Method, name="pca_centred"):
    """First principal component of all states, centred on their grand mean.

    `pca` looks at what differs within pairs, this at what varies most over the stimuli: the concept, only where
    nothing else (topic, wording) varies more. Labels choose the sign and nothing else.
    """

    formula = r"v = \arg\max_{\|u\|=1} \operatorname{Var}_i\, u^\top (h_i - \bar h)"
    source = "Marks and Tegmark 2023, who find the axis of truth so"
    supervised = False

    def vectors(self, states, labels, seed, layer):
        return np.repeat(_leading((states - states.mean(0))[None]), len(labels), 0)


def _leading(rows):
    """First component (r, d) of centred rows (r, n, d)."""
    from scipy.linalg import eigh  # a third of a second's import, not every command's

    # Through the n × n Gram matrix, as states are usually fewer than dimensions; of its eigenvectors only the last.
    last = [rows.shape[1] - 1] * 2
    weights = np.stack([eigh(gram, subset_by_index=last)[1][:, 0] for gram in rows @ rows.transpose(0, 2, 1)])
    vectors = np.einsum("rnd,rn->rd", rows, weights)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length == 0, 1.0, length)
