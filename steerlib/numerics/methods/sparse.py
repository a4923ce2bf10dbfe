"""Probes of few dimensions: a direction that most of the residual stream has no part in.

Both depend on the basis in which states are written, and turned states do not give the turned direction.
"""

from typing import Annotated

import numpy as np
from pydantic import Field

from steerlib.numerics.labels import positives
from steerlib.numerics.methods import Method, integer
from steerlib.numerics.methods.logistic import solve, standard


class L1(Method, name="l1"):
    """Weights of an L1-regularised logistic regression on states of unit root-mean-square spread.

    The smaller ``c``, the fewer weights are left; when it is too small for any, there is no direction.
    """

    formula = r"v = \arg\min_w C \sum_i \log(1 + e^{-y_i w^\top h_i}) + \|w\|_1"
    source = "Tibshirani 1996; as a sparse probe of language models, Gurnee et al. 2023"
    rotates = False

    c: Annotated[float, Field(gt=0)] = 1.0  # inverse strength of the penalty

    def vectors(self, states, labels, seed, layer):
        from sklearn.linear_model import LogisticRegression  # a second's import, not every study's

        # Centred states of classes of one size need no intercept, which this solver would penalise.
        probe = LogisticRegression(
            C=self.c, l1_ratio=1, solver="liblinear", fit_intercept=False, max_iter=1000, random_state=integer(seed)
        )
        x, y = standard(states), np.repeat([1, 0], labels.shape[1])
        return np.concatenate([probe.fit(x[pairs.T.ravel()], y).coef_ for pairs in labels])


class KSparse(Method, name="k_sparse"):
    """A logistic regression on the k dimensions that separate the classes best, each taken alone.

    They are ranked by the distance of the class means in standard deviations within classes.
    """

    formula = r"v = \text{logistic on the } k \text{ largest } |\bar h^+_j - \bar h^-_j| / \sqrt{s^{+2}_j + s^{-2}_j}"
    source = "sparse probing, Gurnee et al. 2023"
    rotates = False

    k: Annotated[int, Field(ge=1)] = 8  # dimensions; all of them where there are fewer
    c: Annotated[float, Field(gt=0)] = 1.0  # inverse strength of the penalty

    def vectors(self, states, labels, seed, layer):
        x = standard(states)
        high, low = x[labels[..., 0]], x[labels[..., 1]]
        spread = np.sqrt(high.var(1) + low.var(1) + np.finfo(float).tiny)
        apart = np.abs(high.mean(1) - low.mean(1)) / spread
        allowed = np.zeros(apart.shape, bool)
        np.put_along_axis(allowed, np.argsort(-apart, axis=1, kind="stable")[:, : self.k], True, axis=1)
        return solve(x, positives(labels, len(states)), self.c, allowed.T)
