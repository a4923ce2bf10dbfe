"""Directions that take the covariance of the states into account: the gap of the class means, whitened."""

import numpy as np

from steerlib.numerics.covariance import Covariance
from steerlib.numerics.labels import gaps
from steerlib.numerics.methods import Method


class LDA(Method, name="lda"):
    """Fisher's linear discriminant: the projection with the largest gap in standard deviations within classes.

    The within-class covariance is shrunk (Ledoit and Wolf 2004), as states are fewer than dimensions. Where nothing
    varies within the classes, it is the mean difference.
    """

    formula = r"v = \Sigma_{\mathrm{within}}^{-1} (\bar h^+ - \bar h^-)"
    source = "Fisher 1936; Ledoit and Wolf 2004; as an intervention, mass-mean probing, Marks and Tegmark 2023"

    shrinkage: bool = True

    def vectors(self, states, labels, seed, layer):
        apart = gaps(states, labels)
        classes = states[labels]  # r m 2 d
        residuals = (classes - classes.mean(1, keepdims=True)).reshape(len(labels), -1, states.shape[1])
        within = (Covariance.of(rows, self.shrinkage) for rows in residuals)
        return np.stack([_whitened(gap, covariance) for gap, covariance in zip(apart, within, strict=True)])


class LEACE(Method, name="leace"):
    """The functional that LEACE erases: what the best linear predictor of the label reads.

    LEACE (`steerlib.numerics.erasure`) sets this projection to its mean and so leaves no linear predictor anything to
    go by. Without shrinkage it is parallel to LDA's direction: the covariance of all states is that within classes plus
    a term along the gap, and by Sherman and Morrison such a term changes the length of the solution only. With
    shrinkage, the two differ in what they are drawn to.
    """

    formula = r"v = \Sigma_{hh}^{-1} \Sigma_{hz}"
    source = "LEACE, Belrose et al. 2023; Ledoit and Wolf 2004"

    shrinkage: bool = True

    def vectors(self, states, labels, seed, layer):
        covariance = Covariance.of(states - states.mean(0), self.shrinkage)
        # z is 1 or 0, one half each: its covariance with the states is a quarter of the gap.
        return _whitened(gaps(states, labels) / 4, covariance)


def _whitened(gap, covariance: Covariance):
    return covariance.power(-1, gap) if covariance.variances.any() else gap
