"""Notebook 4's computation: when each concept became separable, expressed and steerable, and how sure we are.

Labelled arrays in, labelled arrays out; the rule is `steerlib.numerics.onsets`. Arrays may be such as are read from
disk when used (`steerlib.results.tree`): then one concept at a time is in memory, by one method and, but for nulls, at
one layer.
"""

from __future__ import annotations

from zlib import crc32

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float
from scipy.stats import kendalltau, mannwhitneyu, rankdata

from steerlib.numerics import statistics
from steerlib.numerics.onsets import text, trajectory
from steerlib.numerics.statistics import bootstrap_means, chosen_layer, interval, slope, spearman
from steerlib.study import Study

MEASURES = ("separability", "expression", "steerability")


def analyse(probes: xr.Dataset, interventions: xr.Dataset, study: Study) -> xr.Dataset:
    """Schema `/emergence`, from the collected probes and interventions of a study."""
    probes, interventions = (dataset.sel({"method": study.emergence.method}) for dataset in (probes, interventions))
    layer = chosen_layer(interventions.steerability_validation)
    concepts = []
    for name in probes.concept.values:
        own = interventions.sel(concept=name, readout_concept=name)
        concepts.append(judge(probes.sel(concept=name), own, int(layer.sel(concept=name)), study))
    whole = xr.concat(concepts, probes.concept).assign(chosen_layer=layer)
    onset = whole.onset_step.transpose("measure", "concept")
    order = onset.copy(data=[np.where(np.isfinite(row), rankdata(row), np.nan) for row in onset.values])
    # One family of tests: every concept, layer and checkpoint.
    tests = {kind: interventions[f"p_{kind}"].transpose("concept", "layer", "step") for kind in ("random", "shuffled")}
    discoveries = {f"q_{kind}": p.copy(data=statistics.false_discovery(p.values)) for kind, p in tests.items()}
    return whole.assign(order=order, tau=frequency_order(whole.onset_step.sel(measure="steerability")), **discoveries)


def judge(probes: xr.Dataset, own: xr.Dataset, layer: int, study: Study) -> xr.Dataset:
    """All measures of one concept at its layer, and how separability and steerability go together.

    ``own``: the interventions along the concept, on its own readout.
    """
    steps, plan = probes.step.values, study.emergence
    values = units(probes, own, layer, study.sweep.window)
    without = probes.expression_null.transpose("step", "prompt").values
    nulls = {
        "separability": by_kind(probes.auroc_null.isel(layer=layer)),
        # The base rate of a word as first choice changes in training: here each checkpoint has a null of its own.
        "expression": {"no evidence": bootstrap_means(without, plan.bootstrap, study.seed).T},
        "steerability": by_kind(null_at_own_layer(own)),
    }
    # What separates without the model having learned anything: its stimuli's words, and the model as it was made.
    words = float(probes.auroc_words.mean("fold").isel(step=0))
    untrained = float(np.nanmean(values["separability"][0])) if steps[0] == 0 else np.nan
    measures, onset_draws = {}, {}
    for name in MEASURES:
        seed = [study.seed, crc32(f"{probes.concept.item()} {name}".encode())]
        measures[name], onset_draws[name] = trajectory(
            steps,
            np.nanmean(values[name], axis=1),
            bootstrap_means(values[name], plan.bootstrap, seed),
            nulls[name],
            plan.level,
            plan.sustained,
            pooled=name != "expression",
            floor=np.fmax(words, untrained) if name == "separability" else -np.inf,
        )
    first, _, last = measures.values()
    with np.errstate(invalid="ignore"):  # infinite minus infinite: neither was reached, and there is no lag
        lags = onset_draws["steerability"] - onset_draws["separability"]
        lag = last.onset_step - first.onset_step
    lag_lower, lag_upper = interval(lags, plan.level) if np.isfinite(lags).all() else (np.nan, np.nan)
    whole = xr.concat(measures.values(), xr.DataArray(list(MEASURES), dims="measure", name="measure"))
    return whole.assign(
        p_value=("measure", [p_value(values[m][-1], without[-1] if m == "expression" else nulls[m]) for m in MEASURES]),
        baseline_words=("measure", [words, np.nan, np.nan]),
        baseline_untrained=("measure", [untrained, np.nan, np.nan]),
        lag=lag,
        lag_lower=lag_lower,
        lag_upper=lag_upper,
        rank_correlation=spearman(first.value.values, last.value.values),
        rank_correlation_detrended=spearman(np.diff(first.value.values), np.diff(last.value.values)),
    )


def units(probes: xr.Dataset, own: xr.Dataset, layer: int, window: float) -> dict[str, Float[np.ndarray, "step unit"]]:
    """What each measure of a concept is the mean of; NaN for what does not exist, or is not of the test.

    Held-out templates (separability), stimuli (expression) or prompts (steerability: the slope of the concept's own
    readout when it is pushed at the layer).
    """
    arrays = {
        "separability": probes.auroc.isel(layer=layer),
        "expression": probes.expression,
        "steerability": slope(own.log_odds.isel(layer=layer), window).where(own.split == "test"),
    }
    return {measure: array.transpose("step", ...).values for measure, array in arrays.items()}


def by_kind(null: xr.DataArray) -> dict[str, Float[np.ndarray, "step draw"]]:
    """Random and shuffled draws apart: a measure has to clear each of them that there is."""
    kinds = null.transpose("step", "draw").groupby("null")
    return {kind: draws.values for kind, draws in kinds if draws.notnull().any()}


def null_at_own_layer(own: xr.Dataset) -> xr.DataArray:
    """Null slopes, each draw at the layer that it would itself have been given on validation prompts.

    The real direction's layer is the best of several; so must the null's be, or choosing would look like steering.
    """
    # In memory first: draw by draw, at a layer of its own each, is no way to read a file.
    return own.steerability_null.compute().isel(layer=chosen_layer(own.steerability_null_validation))


def p_value(units: Float[np.ndarray, " unit"], null: dict[str, np.ndarray] | np.ndarray) -> float:
    """Of the final checkpoint, one-sided.

    Against draws (step, draw): (1 + draws at or above the mean) / (1 + draws), the larger for random and shuffled.
    Against units without evidence: Mann-Whitney.
    """
    units = units[~np.isnan(units)]
    if isinstance(null, np.ndarray):
        return float(mannwhitneyu(units, null[~np.isnan(null)], alternative="greater").pvalue)
    return max(float(statistics.exceedance(units.mean(), draws[-1])) for draws in null.values())


def frequency_order(onset: xr.DataArray) -> float:
    """Kendall's τ of planted frequency and earliness of onset; not reached comes last. NaN without frequencies."""
    planted = onset.sel(concept=np.isfinite(onset.planted_frequency.values))
    if planted.size < 2:
        return float("nan")
    return float(kendalltau(planted.planted_frequency.values, -rankdata(planted.values)).statistic)


def onset_texts(emergence: xr.Dataset) -> pd.DataFrame:
    """Onsets with their intervals as text: a row a concept, a column a measure."""
    ends = (emergence[f"onset_{end}"].transpose("concept", "measure").values for end in ("step", "lower", "upper"))
    return pd.DataFrame(np.vectorize(text)(*ends), emergence.concept.values, emergence.measure.values)


def summary(emergence: xr.Dataset) -> pd.DataFrame:
    """Onsets of a study, a row a concept, with the layer, the p-value of steerability and the lag."""
    table = onset_texts(emergence)
    table["layer"] = emergence.chosen_layer.values.astype(str)
    table["p"] = [f"{p:.3f}" for p in emergence.p_value.sel(measure="steerability").values]
    table["lag"] = [f"{lag:+.0f}" if np.isfinite(lag) else "" for lag in emergence.lag.values]
    return table
