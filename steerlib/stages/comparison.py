"""Notebook 5's computation: studies side by side. How far do seeds agree, and what does one change do?

Pure: labelled arrays in, labelled arrays out. What differs between the variants is not known here, but for two labels
to tell them by, `seed` and `finetuned`.
"""

from __future__ import annotations

from collections.abc import Mapping
from zlib import crc32

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float
from scipy.stats import rankdata

from steerlib import SteerlibError
from steerlib.numerics.statistics import bootstrap_means, interval
from steerlib.stages import emergence
from steerlib.stages.emergence import MEASURES, Plan, frequency_order, own_slopes

LABELS = ("role", "planted_frequency")  # coordinates of a concept


def variant(
    found: xr.Dataset,
    probes: xr.Dataset,
    interventions: xr.Dataset,
    plan: Plan,
    stimuli: Mapping[str, str],
    seed: int,
    finetuned: bool,
) -> xr.Dataset:
    """One study as it is compared: its `/emergence`, and the `units` that each of its values is the mean of.

    ``units`` (measure, concept, step, unit) are held-out templates (separability), stimuli (expression) or test
    prompts (steerability), at the concept's chosen layer; NaN where there is none. ``stimuli`` maps a concept to a hash
    of its texts and of how they were split: where it is equal, the units of two variants are the same.
    """
    probes, interventions = probes.sel({"method": plan.method}), interventions.sel({"method": plan.method})
    layer = found.chosen_layer.reset_coords(drop=True)
    chosen = {str(concept): int(layer.sel(concept=concept)) for concept in layer.concept.values}
    slopes = [own_slopes(interventions, concept, at, plan.window) for concept, at in chosen.items()]
    aurocs = [probes.auroc.sel(concept=concept).isel(layer=at) for concept, at in chosen.items()]
    units = {
        "separability": _by_concept(aurocs, layer).rename(fold="unit"),
        "expression": probes.expression.rename(prompt="unit"),
        "steerability": _by_concept(slopes, layer).rename(prompt="unit"),
    }
    numbered = [
        units[measure]
        .transpose("concept", "step", "unit")
        .reset_coords(drop=True)
        .assign_coords(unit=np.arange(units[measure].sizes["unit"]))
        for measure in MEASURES
    ]
    together = xr.concat(numbered, xr.DataArray(list(MEASURES), dims="measure", name="measure"), join="outer")
    return found.assign(units=together).assign_coords(
        stimuli=("concept", [stimuli[str(name)] for name in found.concept.values]), seed=seed, finetuned=finetuned
    )


def _by_concept(values: list[xr.DataArray], layer: xr.DataArray) -> xr.DataArray:
    return xr.concat([one.reset_coords(drop=True) for one in values], layer.concept.reset_coords(drop=True))


def compare(variants: Mapping[str, xr.Dataset], plan: Plan) -> xr.Dataset:
    """Schema `comparison.nc`: every variant's `/emergence` along `variant`, and what they have in common.

    Where variants have other steps or concepts, the missing values are NaN. An onset that is not reached is infinite:
    it is counted in ``reached`` and ranks last, and a mean or latest onset with it is infinite too, so that it is never
    averaged away. The plan gives level, resamples and seed of the differences' intervals. Raises SteerlibError for
    fewer than two variants.
    """
    if len(variants) < 2:
        raise SteerlibError(f"a comparison needs two variants with results; found {len(variants)}")
    steps = sorted({int(step) for one in variants.values() for step in one.step.values})
    concepts = list(dict.fromkeys(str(name) for one in variants.values() for name in one.concept.values))
    labels = {
        name: {
            str(c): v for one in variants.values() for c, v in zip(one.concept.values, one[name].values, strict=True)
        }
        for name in LABELS
    }
    own = ("seed", "finetuned")
    aligned = [
        one.drop_vars(["units", "unit", "stimuli", "method", *LABELS, *own], errors="ignore")
        .drop_attrs(deep=False)
        .reindex(step=steps, concept=concepts)
        for one in variants.values()
    ]
    names = xr.DataArray([*variants], dims="variant", name="variant")
    whole = xr.concat(aligned, names, join="exact", data_vars="all", coords="minimal", compat="override")
    whole = whole.assign_coords({name: ("concept", [labels[name][c] for c in concepts]) for name in LABELS})
    whole = whole.assign_coords({name: ("variant", [one[name].item() for one in variants.values()]) for name in own})
    return whole.assign(across(whole)).merge(differences(variants, whole, plan), compat="override", join="exact")


def across(whole: xr.Dataset) -> dict[str, xr.DataArray]:
    """Statistics over variants. A value has a mean and a range at steps that all variants with its concept share."""
    onset, value = whole.onset_step.transpose("variant", "measure", "concept"), whole.value
    rank = onset.copy(data=rankdata(onset.values, axis=-1, nan_policy="omit"))
    having = value.notnull().any("step").sum("variant")
    shared = value.where(value.notnull().sum("variant") == having)
    return {
        "present": onset.notnull().sum("variant"),
        "reached": np.isfinite(onset).sum("variant"),
        "onset_mean": onset.mean("variant"),
        "onset_earliest": onset.min("variant"),
        "onset_latest": onset.max("variant"),
        "onset_rank": rank,
        "onset_rank_mean": rank.mean("variant"),
        "tau_mean": frequency_order(rank.mean("variant").sel(measure="steerability")),
        "value_mean": shared.mean("variant"),
        "value_lowest": shared.min("variant"),
        "value_highest": shared.max("variant"),
    }


def differences(variants: Mapping[str, xr.Dataset], whole: xr.Dataset, plan: Plan) -> xr.Dataset:
    """Every variant less the first, step by step, with a bootstrap interval; NaN for the first itself.

    Where the two share their prompts and templates (``paired``), one resample serves both, and what is hard or easy
    about a prompt cancels. Otherwise each has resamples of its own. Either way the interval speaks of these two models:
    what another seed would change is seen in the range over variants, not here.
    """
    first, *others = variants.values()
    shape = [whole.sizes[dim] for dim in ("variant", "measure", "concept", "step")]
    found = np.full((3, *shape), np.nan)
    paired = np.zeros((shape[0], shape[2]), bool)
    for v, (name, other) in enumerate(zip([*variants][1:], others, strict=True), start=1):
        for c, concept in enumerate(whole.concept.values):
            if concept not in first.concept or concept not in other.concept:
                continue
            a, b = other.sel(concept=concept), first.sel(concept=concept)
            paired[v, c] = a.stimuli.item() == b.stimuli.item()
            steps = np.intersect1d(a.step, b.step)
            at = np.isin(whole.step, steps)
            for m, measure in enumerate(whole.measure.values):
                pair = [
                    x.units.sel(measure=measure, step=steps).transpose("step", "unit").dropna("unit", how="all").values
                    for x in (a, b)
                ]
                seed = [plan.seed, crc32(f"{name} {concept} {measure}".encode())]
                found[:, v, m, c, at] = difference(*pair, bool(paired[v, c]), plan, seed)
    dims = ["variant", "measure", "concept", "step"]
    named = zip(("difference", "difference_lower", "difference_upper"), found, strict=True)
    return xr.Dataset(
        {name: (dims, values) for name, values in named} | {"paired": (["variant", "concept"], paired)},
        {dim: whole[dim] for dim in dims},
    )


def difference(
    values: Float[np.ndarray, "step unit"],
    first: Float[np.ndarray, "step unit_b"],
    paired: bool,
    plan: Plan,
    seed: list[int],
) -> Float[np.ndarray, "3 step"]:
    """Mean of values less mean of first, and the bounds of its bootstrap interval."""
    if paired:
        draws = bootstrap_means(values - first, plan.bootstrap, seed)
    else:
        draws = bootstrap_means(values, plan.bootstrap, [*seed, 0]) - bootstrap_means(first, plan.bootstrap, [*seed, 1])
    return np.stack([values.mean(1) - first.mean(1), *interval(draws, plan.level)])


def replicates(found: xr.Dataset) -> bool:
    """Whether each variant has a seed of its own. Only then is a mean over variants one of draws of the same thing."""
    return len(set(found.seed.values.tolist())) == found.sizes["variant"]


# --- as text ----------------------------------------------------------------------------------------------------


def summary(found: xr.Dataset, measure: str = "steerability") -> pd.DataFrame:
    """Onset of a measure in every variant, how many reached it, and of replicates mean and range: a row a concept."""
    onset = found.onset_step.sel(measure=measure)
    table = pd.DataFrame(index=found.concept.values)
    for name in found.variant.values:
        there = found.concept[onset.sel(variant=name).notnull().values]
        table[name] = emergence.summary(found.sel(variant=name, concept=there))[measure]
    table = table.fillna("")  # the variant does not have the concept
    rows = [found.sel(measure=measure, concept=concept) for concept in found.concept.values]
    table["reached"] = [f"{int(one.reached)} of {int(one.present)}" for one in rows]
    if replicates(found):
        table["mean (range)"] = [_spread(one) for one in rows]
    return table


def _spread(one: xr.Dataset) -> str:
    if not np.isfinite(one.onset_earliest):
        return "not reached"
    if not np.isfinite(one.onset_latest):
        return f"({float(one.onset_earliest):.0f}–not reached)"
    return f"{float(one.onset_mean):.0f} ({float(one.onset_earliest):.0f}–{float(one.onset_latest):.0f})"


def final_differences(found: xr.Dataset, name: str) -> pd.DataFrame:
    """A variant less the first at the last step that both have: a row a concept, a column a measure."""
    one = found.sel(variant=name)
    last = one.sel(step=one.step[one.difference.notnull().any(["concept", "measure"])][-1])
    texts = [
        [
            f"{float(d.difference):+.2f} [{float(d.difference_lower):+.2f}, {float(d.difference_upper):+.2f}]"
            if d.difference.notnull()
            else ""
            for d in (last.sel(concept=concept, measure=measure) for measure in found.measure.values)
        ]
        for concept in found.concept.values
    ]
    table = pd.DataFrame(texts, index=found.concept.values, columns=found.measure.values)
    table["resampled"] = np.where(last.paired, "the same units", "each its own")
    return table


def orders(found: xr.Dataset) -> pd.Series:
    """Kendall's τ of planted frequency and earliness of steerability: of every variant, and of the mean rank."""
    own = {str(name): float(found.tau.sel(variant=name)) for name in found.variant.values}
    return pd.Series({**own, "mean rank": float(found.tau_mean)}, name="tau")
