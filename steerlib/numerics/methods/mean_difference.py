"""The difference of the class means."""

from steerlib.numerics.labels import gaps
from steerlib.numerics.methods import Method


class MeanDifference(Method, name="mean_difference"):
    """Mean of positives minus mean of negatives. Its length is the distance of the means."""

    formula = r"v = \bar h^+ - \bar h^-"
    source = "CAA, Rimsky et al. 2024; DiffMean, Marks and Tegmark 2023"
    of_pairs = True

    def vectors(self, states, labels, seed, layer):
        return gaps(states, labels)
