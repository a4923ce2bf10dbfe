"""Slopes, intervals, nulls and budgets. Arrays in, arrays out."""

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int
from scipy.optimize import elementwise
from scipy.stats import false_discovery_control, norm, rankdata, spearmanr
from scipy.stats import t as student_t

FEW = 4  # distinct units below which a mean has no interval


def slope(values: xr.DataArray, window: float, dim: str = "alpha") -> xr.DataArray:
    """OLS slope of values against a coordinate, over |coordinate| ≤ window."""
    inside = values.where(abs(values[dim]) <= window, drop=True)
    x = inside[dim] - inside[dim].mean()
    return (inside * x).sum(dim, skipna=False) / (x**2).sum()


def monotonicity(values: xr.DataArray, dim: str = "alpha") -> xr.DataArray:
    """Spearman's rank correlation of values with a coordinate; NaN where they do not vary, or one is NaN."""

    def correlation(array: np.ndarray, coordinate: np.ndarray) -> np.ndarray:
        y, x = (rankdata(side, axis=-1) - (len(coordinate) + 1) / 2 for side in (array, coordinate))
        with np.errstate(invalid="ignore"):
            return (y * x).sum(-1) / np.sqrt((y**2).sum(-1) * (x**2).sum())

    return xr.apply_ufunc(correlation, values, values[dim], input_core_dims=[[dim], [dim]])


def counts_of_units(
    units: int | Bool[np.ndarray, " unit"], draws: int, seed: int | Sequence[int], level: float = 0.95
) -> Float[np.ndarray, "draw kept"]:
    """How often each unit is drawn, less once, in every resample: means over resamples are moved by these / units.

    Of a mask those that are True are kept, with the weights that they have among all: so that two means of nearly the
    same units are resampled together. Widened for few units, of which a plain bootstrap's intervals hold too little
    (3 hold 74 % where 95 % is said, 24 hold 92 %): by √(n / (n − 1)), as it divides by n, and by Student's t over the
    normal quantile. One unit has no spread at all; what it is the mean of has no interval that means anything.
    """
    kept = np.ones(max(units, 0), bool) if isinstance(units, int) else units
    if not kept.any():
        return np.zeros((draws, 0))
    drawn = np.random.default_rng(seed).multinomial(len(kept), np.full(len(kept), 1 / len(kept)), size=draws)[:, kept]
    total = drawn.mean(1, keepdims=True)
    shares = np.divide(drawn, total, out=np.ones(drawn.shape), where=total > 0)
    return widened(int(kept.sum()), level) * (shares - 1)


def widened(units: int, level: float = 0.95) -> float:
    """By how much a bootstrap of so few is too narrow; there is nothing to be widened of one."""
    end = (1 + level) / 2
    return np.sqrt(units / (units - 1)) * student_t.ppf(end, units - 1) / norm.ppf(end) if units > 1 else 1.0


def resampled(
    values: Float[np.ndarray, "*cells unit refit"],
    units: Float[np.ndarray, "draw unit"],
    refits: Float[np.ndarray, "draw left_out"],
) -> Float[np.ndarray, "draw *cells"]:
    """Means over resampled units of what also hangs on what was fitted, to resampled texts: both at once.

    Refit 0 is fitted to all texts, each other one with some left out; both kinds of draws are of `counts_of_units`.
    How a fit changes with the weight of its texts is read off what leaving them out does (the infinitesimal jackknife,
    Efron 1982): a resample is refitted without fitting. NaN without units.
    """
    if not units.shape[1]:
        return np.full((len(units), *values.shape[:-2]), np.nan)
    left_out = refits.shape[1]
    parts = np.concatenate([np.ones((len(refits), 1)), refits * (1 - left_out) / left_out], 1)
    weights = (1 + units) / units.shape[1]
    return np.einsum("ru,...ur->r...", weights, values[..., : left_out + 1] @ parts.T, optimize=True)


def redrawn(
    values: Float[np.ndarray, "step unit redraw"],
    units: Float[np.ndarray, "draw unit"],
    count: int,
    seed,
    level: float = 0.95,
) -> Float[np.ndarray, "draw step"]:
    """The same of what does not change smoothly with its texts, as an AUROC: of fits to resampled texts, one a draw.

    Fit 0 is to all texts; the others, to resamples of their ``count`` units, tell how far it wanders, and not whence: a
    resample is a little worse than all. For few units they are widened as `counts_of_units` does.
    """
    if not units.shape[1]:
        return np.full((len(units), len(values)), np.nan)
    means = np.einsum("ru,suk->rsk", (1 + units) / units.shape[1], values, optimize=True)
    wandered = means[..., 1:] - means[..., 1:].mean(-1, keepdims=True)
    pick = np.random.default_rng(seed).integers(wandered.shape[-1], size=len(units))
    return means[..., 0] + widened(count, level) * wandered[np.arange(len(units)), :, pick]


def bootstrap_means(
    values: Float[np.ndarray, "step unit"], draws: int, seed: int | Sequence[int]
) -> Float[np.ndarray, "draw step"]:
    """Means over resampled units (prompts or templates). Units that are NaN at every step do not exist.

    One resample serves all steps: the same prompts are asked of every checkpoint, so that differences between
    checkpoints are paired. A step with a NaN among the others is NaN, as are all steps without any units.
    """
    there = ~np.isnan(values).all(0)
    units = values[:, there] if there.any() else values
    count = units.shape[1]
    return (1 + counts_of_units(count, draws, seed)) / count @ units.T


def interval(draws: Float[np.ndarray, "draw ..."], level: float) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval over draws. Infinite draws (not reached) are ordered, not averaged."""
    tail = (1 - level) / 2
    return tuple(np.quantile(draws, [tail, 1 - tail], axis=0, method="inverted_cdf"))


def mean_interval(
    values: xr.DataArray, dim: str, draws: int, seed: int | Sequence[int], level: float = 0.95
) -> tuple[xr.DataArray, xr.DataArray]:
    """Bootstrap interval of the mean over a dimension, of all other cells at once and on the same resamples."""

    return bounds(means_over(values, dim, draws, seed), level)


def means_over(values: xr.DataArray, dim: str, draws: int, seed: int | Sequence[int]) -> xr.DataArray:
    """Means over resampled units of a dimension, along ``resample``: of all other cells on the same resamples."""

    def means(array: np.ndarray) -> np.ndarray:
        drawn = bootstrap_means(array.reshape(-1, array.shape[-1]), draws, seed)
        return drawn.T.reshape(*array.shape[:-1], draws)

    return xr.apply_ufunc(means, values, input_core_dims=[[dim]], output_core_dims=[["resample"]])


def bounds(draws: xr.DataArray, level: float = 0.95) -> tuple[xr.DataArray, xr.DataArray]:
    """Percentile interval over ``resample``."""

    def ends(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return interval(np.moveaxis(array, -1, 0), level)

    return xr.apply_ufunc(ends, draws, input_core_dims=[["resample"]], output_core_dims=[[], []])


def about(
    value: xr.DataArray, draws: xr.DataArray, wide: float | xr.DataArray = 1.0, level: float = 0.95
) -> tuple[xr.DataArray, xr.DataArray]:
    """Interval of what resamples move off its place (a mean of sizes, a cosine, an entropy): they tell how far it
    wanders, and not whence. ``wide``: by how much they are too narrow (`widened`)."""
    return bounds(value + wide * (draws - draws.mean("resample")), level)


def exceedance(value: Float[np.ndarray, "..."], null: Float[np.ndarray, "... draw"]) -> Float[np.ndarray, "..."]:
    """One-sided p-value by draws: (1 + draws at or above the value) / (1 + draws) (Phipson & Smyth 2010).

    NaN draws do not count, so that no p-value falls below 1 / (1 + draws there are); NaN without any.
    """
    above, count = (null >= value[..., None]).sum(-1), (~np.isnan(null)).sum(-1)
    return np.where((count > 0) & ~np.isnan(value), (1 + above) / (1 + count), np.nan)


def against(values: xr.DataArray, null: xr.DataArray) -> xr.DataArray:
    """`exceedance` of every value by the draws of its own along ``draw``."""
    return xr.apply_ufunc(exceedance, values, null, input_core_dims=[[], ["draw"]])


def beyond(value: Float[np.ndarray, " s"], null: Float[np.ndarray, "s draw"]) -> Float[np.ndarray, " s"]:
    """`exceedance`, but finer for values above all draws: there an exponential tail takes over from the top tenth.

    It is heavier than a normal's, so p is rather too large; without it an effect many times the null's width would have
    p = 1 / (1 + draws) and be lost among many checkpoints. Of fewer than 100 draws there is no tail.
    """
    p = exceedance(value, null)
    for k in np.flatnonzero(p == 1 / (1 + (~np.isnan(null)).sum(-1))):
        draws = np.sort(null[k][~np.isnan(null[k])])
        if len(draws) >= 100 and (excess := draws[-len(draws) // 10 :] - draws[-len(draws) // 10]).any():
            p[k] = min(p[k], 0.1 * np.exp(-(value[k] - draws[-len(draws) // 10]) / excess.mean()))
    return p


def false_discovery(p: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """q-values over all cells at once (Benjamini & Hochberg 1995); NaN cells are no tests."""
    q, tested = np.full(p.shape, np.nan), ~np.isnan(p)
    if tested.any():
        q[tested] = false_discovery_control(p[tested])
    return q


def family(p: Float[np.ndarray, "curve step"]) -> Float[np.ndarray, "curve step"]:
    """q-values of curves seen at several steps: the false discovery rate of curves in which there is an effect.

    Steps of a curve are one question asked again, so they count within it (Simes 1986), and curves among one another
    (Benjamini & Hochberg 1995; Benjamini & Bogomolov 2014 for the steps of those that are found): a curve's least q is
    that of its Simes p-value. So no curve is found because it is seen often. NaN cells are no tests.
    """
    within = np.array([false_discovery(row) for row in np.maximum(p, np.finfo(float).tiny)]).reshape(p.shape)
    simes = np.fmin.reduce(within, axis=1)
    return np.fmin(within * (false_discovery(simes) / simes)[:, None], 1.0) + 0 * p


def solve_budget(
    cost: Callable[[Float[np.ndarray, " a"], Int[np.ndarray, " a"]], Float[np.ndarray, " a"]],
    budget: float,
    count: int,
    first: float,
    tolerance: float = 0.01,
    reach: float = 300.0,
) -> Float[np.ndarray, " count"]:
    """Strengths at which costs, each rising from 0 with its strength, meet one budget to a relative tolerance.

    ``cost(strengths, which)`` evaluates some of the ``count`` at once. NaN for those that do not meet the budget within
    ``first`` / reach and ``first`` × reach. Chandrupatla's method, on logarithms: costs are nearly powers of them.
    """

    def excess(log_strength: np.ndarray, which: np.ndarray) -> np.ndarray:
        spent = cost(np.exp(log_strength), which.astype(int))
        return np.log(np.maximum(spent, 1e-30) / budget)

    # Both ends are tried first: what costs next to nothing even at the far one is given up at once.
    ends = (np.full(count, np.log(first / reach)), np.full(count, np.log(first * reach)))
    tolerances = {"fatol": tolerance, "xrtol": 1e-9}
    root = elementwise.find_root(excess, ends, args=(np.arange(count),), tolerances=tolerances, maxiter=50)
    return np.where(root.success & (abs(root.f_x) <= tolerance * 1.001), np.exp(root.x), np.nan)


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation; NaN when either does not vary, as a constant has no rank order."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(spearmanr(x, y).statistic)


def best(values: np.ndarray, axis: int) -> Int[np.ndarray, "..."]:
    """Where the greatest value is; what has none is never chosen while there is another."""
    return np.nan_to_num(values, nan=-np.inf).argmax(axis)


def best_layer(validation: xr.DataArray) -> xr.DataArray:
    """The layer of the greatest value (`best`), by its number in the model."""
    place = validation.reduce(best, "layer")
    return place.copy(data=validation.layer.values[place.values])
