"""Notebook 4's computation: when each concept became separable, expressed and steerable, and how sure we are.

Pure: labelled arrays in, labelled arrays out. Any measure is a table of values by step and unit (prompt or held-out
template) with a threshold by step, so the same functions serve any trajectory.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

import numpy as np
import pandas as pd
import ruptures
import xarray as xr
from jaxtyping import Float
from scipy.optimize import curve_fit
from scipy.stats import kendalltau, mannwhitneyu, rankdata

from steerlib.statistics import bootstrap_means, interval, slope, spearman

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
    concepts = []
    for concept in probes.concept.values:
        at = {"concept": concept}
        one = judge(probes.sel(at), interventions.sel(at), concept, int(layer.sel(at)), plan)
        concepts.append(one.assign(chosen_layer=layer.sel(at)))
    whole = xr.concat(concepts, "concept", coords="different", compat="equals")
    order = whole.onset_step.copy(
        data=[_ranks(onsets) for onsets in whole.onset_step.transpose("measure", "concept").values]
    )
    return whole.assign(order=order, tau=frequency_order(whole.onset_step.sel(measure="steerability")))


def chosen_layer(validation: xr.DataArray) -> xr.DataArray:
    """The layer of greatest steerability on validation prompts at the final checkpoint."""
    return validation.isel(step=-1).fillna(-np.inf).argmax("layer")


def judge(probes: xr.Dataset, interventions: xr.Dataset, concept: str, layer: int, plan: Plan) -> xr.Dataset:
    """All measures of one concept at its layer."""
    steps = probes.step.values
    own = interventions.sel(readout_concept=concept)
    slopes = slope(own.log_odds.isel(layer=layer), plan.window).where(own.split == "test")
    values = {
        "separability": probes.auroc.isel(layer=layer).transpose("step", "fold").values,
        "expression": probes.expression.transpose("step", "prompt").values,
        "steerability": slopes.transpose("step", "prompt").values,
    }
    nulls = {
        "separability": by_kind(probes.auroc_null.isel(layer=layer)),
        "expression": {
            "other": bootstrap_means(probes.expression_null.transpose("step", "prompt").values, plan.bootstrap, 0).T
        },
        "steerability": by_kind(null_at_own_layer(interventions)),
    }
    found, draws = [], {}
    for measure in MEASURES:
        seed = [plan.seed, crc32(f"{concept} {measure}".encode())]
        boots = bootstrap_means(values[measure], plan.bootstrap, seed)
        observed = np.nanmean(values[measure], axis=1)
        lower, upper = interval(boots, plan.level)
        threshold = np.max([np.quantile(null, plan.level, axis=1) for null in nulls[measure].values()], axis=0)
        floor = np.min([np.quantile(null, 1 - plan.level, axis=1) for null in nulls[measure].values()], axis=0)
        # Every resample keeps the width of the interval: its own lower bound is as far below its mean.
        draws[measure] = onsets(boots - (observed - lower), threshold, steps, plan.sustained)
        onset_lower, onset_upper = interval(draws[measure], plan.level)
        found.append(
            xr.Dataset(
                {
                    "value": ("step", observed),
                    "value_lower": ("step", lower),
                    "value_upper": ("step", upper),
                    "null_threshold": ("step", threshold),
                    "null_lower": ("step", floor),
                    "onset_step": onsets(lower[None], threshold, steps, plan.sustained)[0],
                    "onset_lower": onset_lower,
                    "onset_upper": onset_upper,
                    "midpoint": sigmoid_midpoint(steps, observed),
                    "change_point": change_point(steps, observed),
                    "p_value": p_value(observed[-1], values[measure][-1], nulls[measure], measure, probes),
                },
                {"step": steps},
            )
        )
    with np.errstate(invalid="ignore"):  # infinite minus infinite: neither was reached, and there is no lag
        lag = draws["steerability"] - draws["separability"]
        point = found[2].onset_step - found[0].onset_step
    lag_lower, lag_upper = interval(lag, plan.level) if np.isfinite(lag).all() else (np.nan, np.nan)
    separability, steerability = found[0].value.values, found[2].value.values
    return (
        xr.concat(found, "measure")
        .assign(
            lag=point,
            lag_lower=lag_lower,
            lag_upper=lag_upper,
            rank_correlation=spearman(separability, steerability),
            rank_correlation_detrended=spearman(np.diff(separability), np.diff(steerability)),
        )
        .assign_coords(measure=list(MEASURES))
    )


def by_kind(null: xr.DataArray) -> dict[str, Float[np.ndarray, "step draw"]]:
    """Random and shuffled draws apart: a measure has to clear each of them."""
    values = null.transpose("step", "draw")
    kinds = null["null"].values
    return {kind: values.values[:, kinds == kind] for kind in dict.fromkeys(kinds)}


def null_at_own_layer(interventions: xr.Dataset) -> xr.DataArray:
    """Null slopes, each draw at the layer that it would itself have been given on validation prompts.

    The real direction's layer is the best of several; so must the null's be, or the choice alone would look like steering.
    """
    layer = chosen_layer(interventions.steerability_null_validation)
    return interventions.steerability_null.isel(layer=layer)


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
        (a, b, k, m), _ = curve_fit(sigmoid, x, values, start, maxfev=5000)
    except (RuntimeError, ValueError, TypeError):
        return float("nan")
    rises = (b - a) * k > 0 and x[0] <= m <= x[-1]
    return float(np.expm1(m)) if rises else float("nan")


def change_point(steps: np.ndarray, values: np.ndarray) -> float:
    """First step after the one change of mean that explains most (ruptures, exact search); NaN below four steps."""
    if len(values) < 4 or np.ptp(values) == 0:
        return float("nan")
    where = ruptures.Dynp(model="l2", min_size=1, jump=1).fit(values.reshape(-1, 1)).predict(n_bkps=1)[0]
    return float(steps[where])


def p_value(
    observed: float, units: np.ndarray, nulls: dict[str, np.ndarray], measure: str, probes: xr.Dataset
) -> float:
    """Of the final checkpoint. Against draws: (1 + draws at or above) / (1 + draws), the larger of the kinds of null.

    Expression has no draws; its prompts with evidence are compared with those without (Mann-Whitney, one-sided).
    """
    if measure == "expression":
        without = probes.expression_null.isel(step=-1).values
        units, without = units[~np.isnan(units)], without[~np.isnan(without)]
        return float(mannwhitneyu(units, without, alternative="greater").pvalue)
    return max(float((1 + (null[-1] >= observed).sum()) / (1 + null.shape[1])) for null in nulls.values())


def frequency_order(onset: xr.DataArray) -> float:
    """Kendall's τ between planted frequency and earliness of onset; concepts not reached come last. NaN without frequencies."""
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
        return f"{onset:.0f} [{lower:.0f}, {upper:.0f}]" if np.isfinite(upper) else f"{onset:.0f} [{lower:.0f}, …]"

    rows = {}
    for concept in emergence.concept.values:
        one = emergence.sel(concept=concept)
        rows[concept] = {measure: text(one.sel(measure=measure)) for measure in one.measure.values}
        rows[concept]["layer"] = int(one.chosen_layer)
        rows[concept]["p (steerability)"] = f"{float(one.p_value.sel(measure='steerability')):.3f}"
        rows[concept]["lag"] = f"{float(one.lag):+.0f}" if np.isfinite(one.lag) else ""
    return pd.DataFrame(rows).T


def _ranks(onset: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties shared; NaN where not reached."""
    return np.where(np.isfinite(onset), rankdata(onset), np.nan)
