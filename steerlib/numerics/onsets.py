"""The onset rule: from which checkpoint on a measure stays above its null, and how sure that is.

A measure is a trajectory over training steps with resamples of it, whatever it measures: so one rule serves a study's
measures and anybody's table of values.
"""

import warnings

import numpy as np
import xarray as xr
from jaxtyping import Float
from scipy.optimize import OptimizeWarning, curve_fit

from steerlib.numerics.statistics import interval


def trajectory(
    steps: np.ndarray,
    observed: Float[np.ndarray, " step"],
    resamples: Float[np.ndarray, "draw step"],
    nulls: dict[str, Float[np.ndarray, "step null_draw"]],
    level: float,
    sustained: int,
    pooled: bool = False,
    floor: float = -np.inf,
) -> tuple[xr.Dataset, Float[np.ndarray, " draw"]]:
    """A measure with its interval, threshold and onset; and the onset of every resample.

    The measure has to clear the quantile of every kind of null draws at its own checkpoint and, when ``pooled``, over
    all checkpoints: early in training null directions do nearly nothing, and an effect as small as that would be
    certain and yet mean little; so it has to beat what null directions do at any stage. And it has to clear the
    ``floor``, what is reached without anything having been learned.

    The onset is that of the lower bound, and so a little later than where the measure itself crosses.
    """
    lower, upper = interval(resamples, level)
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # of a step without draws
        # "higher": with few draws the quantile is one of them, not a point between.
        high = np.fmax.reduce([np.nanquantile(null, level, axis=1, method="higher") for null in nulls.values()])
        low = np.fmin.reduce([np.nanquantile(null, 1 - level, axis=1, method="lower") for null in nulls.values()])
        overall = [np.nanquantile(null, level, method="higher") for null in nulls.values()] if pooled else [-np.inf]
    threshold = np.fmax(np.fmax(high, floor), max(overall))
    # Every resample keeps the width of the interval: its own lower bound is as far below its mean.
    onset_draws = onsets(resamples - (observed - lower), threshold, steps, sustained)
    onset_lower, onset_upper = interval(onset_draws, level)
    measure = {
        "value": ("step", observed),
        "value_lower": ("step", lower),
        "value_upper": ("step", upper),
        "null_lower": ("step", low),
        "null_upper": ("step", high),
        "null_threshold": ("step", threshold),
        "onset_step": onsets(lower[None], threshold, steps, sustained)[0],
        "onset_lower": onset_lower,
        "onset_upper": onset_upper,
        "midpoint": sigmoid_midpoint(steps, observed),
        "change_point": change_point(steps, observed),
    }
    return xr.Dataset(measure, {"step": steps}), onset_draws


def onsets(
    lower: Float[np.ndarray, "draw step"], threshold: Float[np.ndarray, " step"], steps: np.ndarray, sustained: int
) -> Float[np.ndarray, " draw"]:
    """First step from which the lower bound stays above the threshold to the end; infinite when it does not.

    At the end it must have stayed for at least ``sustained`` checkpoints.
    """
    above = lower > threshold
    run = np.cumprod(above[:, ::-1], axis=1).sum(1)
    first = np.minimum(len(steps) - run, len(steps) - 1)
    return np.where(run >= sustained, steps[first].astype(float), np.inf)


def text(onset: float, lower: float, upper: float) -> str:
    """An onset with its interval, as in ``3000 [1000–…]``: some resamples never reach it. Of NaN, nothing."""
    if not np.isfinite(onset):
        return "" if np.isnan(onset) else "not reached"
    first, last = (f"{end:.0f}" if np.isfinite(end) else "…" for end in (lower, upper))
    return f"{onset:.0f} [{first}–{last}]"


def sigmoid_midpoint(steps: np.ndarray, values: Float[np.ndarray, " step"]) -> float:
    """Step at which a sigmoid in log(1 + step), fitted by least squares, is half-way up; NaN when nothing rises."""
    x, low, high = np.log1p(steps), values.min(), values.max()

    def sigmoid(x, a, b, k, m):
        return a + (b - a) / (1 + np.exp(-np.clip(k * (x - m), -50, 50)))

    start = [low, high, 2.0, x[np.argmin(abs(values - (low + high) / 2))]]
    try:
        with warnings.catch_warnings(action="ignore", category=OptimizeWarning):  # of a covariance, not asked for
            (a, b, k, m), _ = curve_fit(sigmoid, x, values, start, maxfev=5000)
    except (RuntimeError, ValueError, TypeError):
        return float("nan")
    rises = (b - a) * k > 0 and x[0] <= m <= x[-1]
    return float(np.expm1(m)) if rises else float("nan")


def change_point(steps: np.ndarray, values: Float[np.ndarray, " step"]) -> float:
    """First step after the one change of mean that leaves the least sum of squares; NaN below four steps."""
    if len(values) < 4 or not np.ptp(values) > 0:
        return float("nan")

    def squares(first: int) -> float:
        return sum(part.var() * len(part) for part in (values[:first], values[first:]))

    return float(steps[min(range(1, len(values)), key=squares)])
