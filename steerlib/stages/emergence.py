"""Notebook 4's computation: when each concept became separable, expressed and steerable, and how sure we are.

Pure: labelled arrays in, labelled arrays out. Any measure is a table of values by step and unit (prompt or held-out
template) with a threshold by step, so the same functions serve any trajectory. Arrays may be such as are read from disk
when used (`steerlib.results.tree`): then one concept at a time is in memory, by one method and, but for nulls, at one layer.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import pandas as pd
import ruptures
import xarray as xr
from jaxtyping import Float
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.stats import kendalltau, mannwhitneyu, rankdata

from steerlib.numerics.statistics import bootstrap_means, false_discovery, interval, quantile_of_draws, slope, spearman

MEASURES = ("separability", "expression", "steerability")


@dataclass(frozen=True)
class Plan:
    """How emergence is judged (see `steerlib.study.Emergence`)."""

    method: str
    window: float
    level: float
    sustained: int
    bootstrap: int
    seed: int

    @classmethod
    def of(cls, study) -> Plan:
        """The plan that a study's params spell out."""
        return cls(window=study.sweep.window, seed=study.seed, **study.emergence.model_dump())


def analyse(probes: xr.Dataset, interventions: xr.Dataset, plan: Plan) -> xr.Dataset:
    """Schema `/emergence`, from the collected probes and interventions of a study."""
    probes, interventions = probes.sel({"method": plan.method}), interventions.sel({"method": plan.method})
    layer = chosen_layer(interventions.steerability_validation)
    concepts = [
        judge(probes.sel(concept=concept), interventions, str(concept), int(layer.sel(concept=concept)), plan)
        for concept in probes.concept.values
    ]
    whole = xr.concat(concepts, probes.concept).assign(chosen_layer=layer)
    onset = whole.onset_step.transpose("measure", "concept")
    order = onset.copy(data=[np.where(np.isfinite(row), rankdata(row), np.nan) for row in onset.values])
    # One family of tests: every concept, layer and checkpoint.
    tests = {kind: interventions[f"p_{kind}"].transpose("concept", "layer", "step") for kind in ("random", "shuffled")}
    discoveries = {f"q_{kind}": p.copy(data=false_discovery(p.values)) for kind, p in tests.items()}
    return whole.assign(order=order, tau=frequency_order(whole.onset_step.sel(measure="steerability")), **discoveries)


def chosen_layer(validation: xr.DataArray) -> xr.DataArray:
    """The layer of greatest steerability on validation prompts at the final checkpoint."""
    return validation.isel(step=-1, drop=True).fillna(-np.inf).argmax("layer")


def judge(probes: xr.Dataset, interventions: xr.Dataset, concept: str, layer: int, plan: Plan) -> xr.Dataset:
    """All measures of one concept at its layer, and how separability and steerability go together."""
    steps, own = probes.step.values, interventions.sel(concept=concept, readout_concept=concept)
    slopes = own_slopes(interventions, concept, layer, plan.window)
    values = {"separability": probes.auroc.isel(layer=layer), "expression": probes.expression, "steerability": slopes}
    values = {measure: one.transpose("step", ...).values for measure, one in values.items()}
    without = probes.expression_null.transpose("step", "prompt").values
    nulls = {
        "separability": by_kind(probes.auroc_null.isel(layer=layer)),
        # The base rate of a word as first choice changes in training: here each checkpoint has a null of its own.
        "expression": {"no evidence": bootstrap_means(without, plan.bootstrap, plan.seed).T},
        "steerability": by_kind(null_at_own_layer(own)),
    }
    # What separates without the model having learned anything: its stimuli's words, and the model as it was made.
    words = float(probes.auroc_words.mean("fold").isel(step=0))
    untrained = float(np.nanmean(values["separability"][0])) if steps[0] == 0 else np.nan
    found, onset_draws = {}, {}
    for measure in MEASURES:
        seed = [plan.seed, crc32(f"{concept} {measure}".encode())]
        floor = np.fmax(words, untrained) if measure == "separability" else -np.inf
        found[measure], onset_draws[measure] = trajectory(
            steps, values[measure], nulls[measure], measure != "expression", plan, seed, floor
        )
    first, _, last = found.values()
    with np.errstate(invalid="ignore"):  # infinite minus infinite: neither was reached, and there is no lag
        lags = onset_draws["steerability"] - onset_draws["separability"]
        lag = last.onset_step - first.onset_step
    lag_lower, lag_upper = interval(lags, plan.level) if np.isfinite(lags).all() else (np.nan, np.nan)
    whole = xr.concat(found.values(), xr.DataArray(list(MEASURES), dims="measure", name="measure"))
    return whole.assign(
        p_value=("measure", [p_value(values[m][-1], without[-1] if m == "expression" else nulls[m]) for m in MEASURES]),
        baseline_words=("measure", [words if m == "separability" else np.nan for m in MEASURES]),
        baseline_untrained=("measure", [untrained if m == "separability" else np.nan for m in MEASURES]),
        lag=lag,
        lag_lower=lag_lower,
        lag_upper=lag_upper,
        rank_correlation=spearman(first.value.values, last.value.values),
        rank_correlation_detrended=spearman(np.diff(first.value.values), np.diff(last.value.values)),
    )


def own_slopes(interventions: xr.Dataset, concept: str, layer: int, window: float) -> xr.DataArray:
    """What pushing a concept at a layer does to its own readout, (step, prompt); NaN for prompts not of the test."""
    own = interventions.sel(concept=concept, readout_concept=concept)
    return slope(own.log_odds.isel(layer=layer), window).where(own.split == "test")


def trajectory(
    steps: np.ndarray,
    values: Float[np.ndarray, "step unit"],
    nulls: dict[str, Float[np.ndarray, "step draw"]],
    pooled: bool,
    plan: Plan,
    seed,
    floor: float = -np.inf,
) -> tuple[xr.Dataset, Float[np.ndarray, " draw"]]:
    """One measure of one concept, from what each of its units does; units are resampled (see `from_draws`)."""
    boots = bootstrap_means(values, plan.bootstrap, seed)
    return from_draws(steps, np.nanmean(values, axis=1), boots, nulls, pooled, plan.level, plan.sustained, floor)


def from_draws(
    steps: np.ndarray,
    observed: Float[np.ndarray, " step"],
    boots: Float[np.ndarray, "draw step"],
    nulls: dict[str, Float[np.ndarray, "step draw"]],
    pooled: bool,
    level: float,
    sustained: int,
    floor: float = -np.inf,
) -> tuple[xr.Dataset, Float[np.ndarray, " draw"]]:
    """One measure of one concept: value, interval, threshold, onset; and the onset of every bootstrap resample.

    The measure has to clear the quantile of every kind of null draws at its own checkpoint and, when pooled, over all
    checkpoints: early in training null directions do nearly nothing, and an effect as small as that would be certain
    and yet mean little; so it has to beat what null directions do at any stage. And it has to clear the ``floor``,
    what is reached without anything having been learned.

    The onset is that of the lower bound, and so a little later than where the measure itself crosses.
    """
    lower, upper = interval(boots, level)
    # "higher": with few draws the quantile is one of them, not a point between.
    high = np.fmax.reduce([quantile_of_draws(null, level, "higher") for null in nulls.values()])
    low = np.fmin.reduce([quantile_of_draws(null, 1 - level, "lower") for null in nulls.values()])
    threshold = high
    if pooled:
        overall = [quantile_of_draws(null.reshape(1, -1), level, "higher")[0] for null in nulls.values()]
        threshold = np.fmax(high, max(overall))
    threshold = np.fmax(threshold, floor)
    # Every resample keeps the width of the interval: its own lower bound is as far below its mean.
    onset_draws = onsets(boots - (observed - lower), threshold, steps, sustained)
    onset_lower, onset_upper = interval(onset_draws, level)
    found = {
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
    return xr.Dataset(found, {"step": steps}), onset_draws


def by_kind(null: xr.DataArray) -> dict[str, Float[np.ndarray, "step draw"]]:
    """Random and shuffled draws apart: a measure has to clear each of them that there is."""
    values = null.transpose("step", "draw")
    kinds = null["null"].values
    draws = {kind: values.values[:, kinds == kind] for kind in dict.fromkeys(kinds)}
    return {kind: drawn for kind, drawn in draws.items() if not np.isnan(drawn).all()}


def null_at_own_layer(own: xr.Dataset) -> xr.DataArray:
    """Null slopes, each draw at the layer that it would itself have been given on validation prompts.

    The real direction's layer is the best of several; so must the null's be, or choosing would look like steering.
    """
    # In memory first: draw by draw, at a layer of its own each, is no way to read a file.
    return own.steerability_null.compute().isel(layer=chosen_layer(own.steerability_null_validation))


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


def sigmoid_midpoint(steps: np.ndarray, values: np.ndarray) -> float:
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


def change_point(steps: np.ndarray, values: np.ndarray) -> float:
    """First step after the one change of mean that explains most (ruptures, exact search); NaN below four steps."""
    if len(values) < 4 or not np.ptp(values) > 0:
        return float("nan")
    where = ruptures.Dynp(model="l2", min_size=1, jump=1).fit(values.reshape(-1, 1)).predict(n_bkps=1)[0]
    return float(steps[where])


def p_value(units: Float[np.ndarray, " unit"], null: dict[str, np.ndarray] | np.ndarray) -> float:
    """Of the final checkpoint, one-sided.

    Against draws (step, draw): (1 + draws at or above the mean) / (1 + draws), the larger for random and shuffled.
    Against units without evidence: Mann-Whitney.
    """
    units = units[~np.isnan(units)]
    if isinstance(null, np.ndarray):
        return float(mannwhitneyu(units, null[~np.isnan(null)], alternative="greater").pvalue)
    drawn = [draws[-1] for kind, draws in null.items() if kind in ("random", "shuffled")]
    return max(float((1 + (draws >= units.mean()).sum()) / (1 + len(draws))) for draws in drawn)


def frequency_order(onset: xr.DataArray) -> float:
    """Kendall's τ of planted frequency and earliness of onset; not reached comes last. NaN without frequencies."""
    planted = onset.sel(concept=np.isfinite(onset.planted_frequency.values))
    if planted.size < 2:
        return float("nan")
    return float(kendalltau(planted.planted_frequency.values, -rankdata(planted.values)).statistic)


def summary(emergence: xr.Dataset) -> pd.DataFrame:
    """Onsets with their intervals as text: a row a concept, a column a measure."""

    def text(one: xr.Dataset) -> str:
        onset, lower, upper = (float(one[name]) for name in ("onset_step", "onset_lower", "onset_upper"))
        if not np.isfinite(onset):
            return "not reached"
        return f"{onset:.0f} [{lower:.0f}–{upper:.0f}]" if np.isfinite(upper) else f"{onset:.0f} [{lower:.0f}–…]"

    rows = {}
    for concept in emergence.concept.values:
        one = emergence.sel(concept=concept)
        rows[concept] = {measure: text(one.sel(measure=measure)) for measure in one.measure.values}
        rows[concept]["layer"] = int(one.chosen_layer)
        rows[concept]["p"] = f"{float(one.p_value.sel(measure='steerability')):.3f}"
        rows[concept]["lag"] = f"{float(one.lag):+.0f}" if np.isfinite(one.lag) else ""
    return pd.DataFrame(rows).T
