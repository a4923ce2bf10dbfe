"""What replicates of a study say together: of the mean of all there might be, of one more, of order, of mere chance.

Shapes: ``v`` replicates, such as seeds, ``c`` concepts, ``s`` steps. Few replicates know their spread badly, two hardly
at all: hence Student's t throughout. Nothing that one of them has no value of is averaged over the others.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import norm
from scipy.stats import t as student_t

ENOUGH = 2  # draws beyond a quantile, for it to be known from its neighbourhood alone


class Population(NamedTuple):
    """The mean of replicates, where that of all there might be lies, and where one more of them lies."""

    mean: Float[np.ndarray, "..."]
    mean_lower: Float[np.ndarray, "..."]
    mean_upper: Float[np.ndarray, "..."]
    new_lower: Float[np.ndarray, "..."]
    new_upper: Float[np.ndarray, "..."]


def population(
    value: Float[np.ndarray, "... v"],
    lower: Float[np.ndarray, "... v"],
    upper: Float[np.ndarray, "... v"],
    level: float,
) -> Population:
    """Of values, each with an interval of its own; NaN where one of them is no number, or where there is but one.

    Mean ± t·sd/√v, and ± t·sd·√(1 + 1/v) for one more. Replicates that happen to agree are no surer than each of them
    is: the variance is never less than what their own intervals say on average (where one end is infinite, the other).
    """
    count = value.shape[-1]
    value = np.where(np.isfinite(value).all(-1, keepdims=True) & (count > 1), value, np.nan)
    ends = np.stack([value - lower, upper - value])
    half = np.where(np.isfinite(ends).all(0), ends.mean(0), ends.min(0))
    within = (half / norm.ppf((1 + level) / 2)) ** 2
    between = value.var(-1, ddof=min(1, count - 1))
    far = student_t.ppf((1 + level) / 2, count - 1) * np.sqrt(np.maximum(between, within.mean(-1)))
    mean, of_mean, of_new = value.mean(-1), far / np.sqrt(count), far * np.sqrt(1 + 1 / count)
    return Population(mean, mean - of_mean, mean + of_mean, mean - of_new, mean + of_new)


def onset_population(
    onset: Float[np.ndarray, "... v"],
    lower: Float[np.ndarray, "... v"],
    upper: Float[np.ndarray, "... v"],
    level: float,
) -> Population:
    """The same of onsets: in log(1 + step), and back in steps."""
    logs = (np.where(np.isneginf(step), step, np.log1p(np.maximum(step, 0))) for step in (onset, lower, upper))
    return Population(*np.maximum(np.expm1(population(*logs, level)), 0))


def before(onset: Float[np.ndarray, "v c"]) -> tuple[Float[np.ndarray, "c c"], Float[np.ndarray, "c c"]]:
    """P(row before column), of the mean onset over all replicates there might be, and in one more of them.

    From differences of log(1 + onset) within a replicate, in which what comes early or late for all concepts cancels.
    Their variance is pooled over all pairs, (v − 1)(c − 1) degrees of freedom. Of concepts that all replicates have an
    onset of; NaN for the others.
    """
    dated = np.isfinite(onset).all(0)
    x, (count, concepts) = np.log1p(onset[:, dated]), (len(onset), int(dated.sum()))
    of_mean, of_new = np.full((2, *2 * dated.shape), np.nan)
    if freedom := (count - 1) * max(concepts - 1, 0):
        mean = x.mean(0)
        left = x - mean - x.mean(1, keepdims=True) + mean.mean()
        sd = np.sqrt(2 * (left**2).sum() / freedom)
        apart = mean[None] - mean[:, None]
        np.fill_diagonal(apart, np.nan)
        pairs = np.ix_(dated, dated)
        with np.errstate(divide="ignore", invalid="ignore"):  # where all agree to the last digit
            of_mean[pairs], of_new[pairs] = (
                student_t.cdf(apart / (sd * np.sqrt(share)), freedom) for share in (1 / count, 1 + 1 / count)
            )
    return of_mean, of_new


def mere_chance(apart: Float[np.ndarray, "c s"], level: float) -> Float[np.ndarray, " s"]:
    """How large a difference has to be to exceed those ``apart`` that chance alone makes, at every step.

    Sizes are pooled over concepts and as few neighbouring steps as are enough, or all. The one at rank ⌈(n + 1)·level⌉
    of n is exceeded by a further one of their kind in at most 1 − level of cases, however they are distributed (Vovk et
    al. 2005). Infinite where there are too few of them to tell.
    """
    steps = apart.shape[1]
    bounds = np.full(steps, np.inf)
    for step in range(steps):
        for reach in range(steps):
            near = abs(apart[:, max(step - reach, 0) : step + reach + 1])
            sizes = np.sort(near[~np.isnan(near)])
            if len(sizes) * (1 - level) >= ENOUGH:
                break
        if (rank := int(np.ceil((len(sizes) + 1) * level))) <= len(sizes):
            bounds[step] = sizes[rank - 1]
    return bounds
