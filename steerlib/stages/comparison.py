"""Notebook 5's computation: studies side by side. How far do seeds agree, and what does one change do?

Labelled arrays in, labelled arrays out. What differs between the variants is not known here, but for two labels to tell
them by, `seed` and `finetuned`.
"""

from collections.abc import Mapping
from itertools import product
from zlib import crc32

import numpy as np
import pandas as pd
import xarray as xr
from scipy.stats import rankdata

from steerlib import SteerlibError
from steerlib.numerics.statistics import bootstrap_means, interval
from steerlib.stages.emergence import frequency_order, onset_texts, units
from steerlib.study import Study

OF_CONCEPTS = ["role", "planted_frequency"]  # coordinates


def variant(
    result: xr.Dataset, probes: xr.Dataset, interventions: xr.Dataset, study: Study, stimuli: Mapping[str, str]
) -> xr.Dataset:
    """One study as it is compared: its `/emergence`, and the `units` that each of its values is the mean of.

    ``units`` (concept, measure, step, unit) are those of `emergence.units` at the concept's chosen layer, NaN where
    there is none. ``stimuli`` maps a concept to a hash of its texts and of how they were split: where it is equal, the
    units of two variants are the same.
    """
    probes, interventions = (dataset.sel({"method": study.emergence.method}) for dataset in (probes, interventions))
    names, by_concept = [str(name) for name in result.concept.values], []
    for name in names:
        own = interventions.sel(concept=name, readout_concept=name)
        layer = int(result.chosen_layer.sel(concept=name))
        arrays = units(probes.sel(concept=name), own, layer, study.sweep.window).values()
        numbered = [xr.DataArray(values, {"unit": np.arange(values.shape[1])}, ["step", "unit"]) for values in arrays]
        by_concept.append(xr.concat(numbered, result.measure, join="outer"))
    return result.assign(units=xr.concat(by_concept, result.concept)).assign_coords(
        stimuli=("concept", [stimuli[name] for name in names]), seed=study.seed, finetuned=study.finetuning is not None
    )


def compare(variants: Mapping[str, xr.Dataset], study: Study) -> xr.Dataset:
    """Schema `comparison.nc`: every variant's `/emergence` along `variant`, and what they have in common.

    Where variants have other steps or concepts, the missing values are NaN. An onset that is not reached is infinite:
    it is counted in ``reached`` and ranks last, and a mean or latest onset with it is infinite too, so that it is never
    averaged away. The study gives level, resamples and seed of the differences' intervals. Raises SteerlibError for
    fewer than two variants.
    """
    if len(variants) < 2:
        raise SteerlibError(f"a comparison needs two variants with results; found {len(variants)}")
    studies = list(variants.values())
    labels = pd.concat([study.concept.to_dataframe()[OF_CONCEPTS] for study in studies])
    labels = labels[~labels.index.duplicated()]
    aligned = [
        study.drop_vars(["units", "unit", "stimuli", "method", *OF_CONCEPTS], errors="ignore")
        .drop_attrs(deep=False)
        .reindex(concept=list(labels.index))
        for study in studies
    ]
    names = xr.DataArray([*variants], dims="variant", name="variant")
    whole = xr.concat(aligned, names, join="outer", data_vars="all", coords=["seed", "finetuned"], compat="override")
    whole = whole.assign_coords({name: ("concept", labels[name].tolist()) for name in OF_CONCEPTS})
    return whole.assign(across(whole)).merge(differences(variants, whole, study), compat="override", join="exact")


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


def differences(variants: Mapping[str, xr.Dataset], whole: xr.Dataset, study: Study) -> xr.Dataset:
    """Every variant less the first, step by step, with a bootstrap interval; NaN for the first itself.

    Where the two share their prompts and templates (``paired``), one resample serves both, and what is hard or easy
    about a prompt cancels. Otherwise each has resamples of its own. Either way the interval speaks of these two models:
    what another seed would change is seen in the range over variants, not here.
    """
    plan = study.emergence
    (_, first), *rest = variants.items()
    coords = {dim: whole[dim] for dim in ("variant", "measure", "concept", "step")}
    kinds = ["difference", "difference_lower", "difference_upper"]
    differing = xr.DataArray(np.nan, {"kind": kinds, **coords}, ["kind", *coords])
    paired = xr.DataArray(False, {dim: coords[dim] for dim in ("variant", "concept")}, ["variant", "concept"])
    for name, other in rest:
        pair = xr.align(other.units, first.units, join="inner", exclude=["unit"])
        steps = pair[0].step.values
        for concept, measure in product(pair[0].concept.values, whole.measure.values):
            own, reference = (
                units.sel(concept=concept, measure=measure).transpose("step", "unit").dropna("unit", how="all")
                for units in pair
            )
            paired.loc[name, concept] = same = own.stimuli.item() == reference.stimuli.item()
            seed, n = [study.seed, crc32(f"{name} {concept} {measure}".encode())], plan.bootstrap
            if same:
                draws = bootstrap_means(own.values - reference.values, n, seed)
            else:
                draws = bootstrap_means(own.values, n, [*seed, 0]) - bootstrap_means(reference.values, n, [*seed, 1])
            difference = own.values.mean(1) - reference.values.mean(1)
            differing.loc[:, name, measure, concept, steps] = np.stack([difference, *interval(draws, plan.level)])
    return differing.to_dataset("kind").assign(paired=paired)


def replicates(comparison: xr.Dataset) -> bool:
    """Whether each variant has a seed of its own. Only then is a mean over variants one of draws of the same thing."""
    return len(np.unique(comparison.seed)) == comparison.sizes["variant"]


# --- as text ----------------------------------------------------------------------------------------------------


def summary(comparison: xr.Dataset, measure: str = "steerability") -> pd.DataFrame:
    """Onset of a measure in every variant, how many reached it, and of replicates mean and range: a row a concept."""
    measured = comparison.sel(measure=measure)
    texts = {name: onset_texts(comparison.sel(variant=name))[measure] for name in comparison.variant.values}
    table = pd.DataFrame(texts)  # empty where the variant does not have the concept
    rows = [measured.sel(concept=concept) for concept in comparison.concept.values]
    table["reached"] = [f"{int(row.reached)} of {int(row.present)}" for row in rows]
    if replicates(comparison):
        table["mean (range)"] = [
            _mean_and_range(*(float(row[f"onset_{name}"]) for name in ("mean", "earliest", "latest"))) for row in rows
        ]
    return table


def _mean_and_range(mean: float, earliest: float, latest: float) -> str:
    if not np.isfinite(earliest):
        return "not reached"
    return f"{mean:.0f} ({earliest:.0f}–{latest:.0f})" if np.isfinite(latest) else f"({earliest:.0f}–not reached)"


def final_differences(comparison: xr.Dataset, name: str) -> pd.DataFrame:
    """A variant less the first at the last step that both have: a row a concept, a column a measure."""
    variant = comparison.sel(variant=name)
    last = variant.sel(step=variant.step[variant.difference.notnull().any(["concept", "measure"])][-1])
    table = pd.DataFrame(index=comparison.concept.values)
    for measure in comparison.measure.values:
        bounds = (last[f"difference{end}"].sel(measure=measure).values for end in ("", "_lower", "_upper"))
        table[measure] = [
            "" if np.isnan(difference) else f"{difference:+.2f} [{lower:+.2f}, {upper:+.2f}]"
            for difference, lower, upper in zip(*bounds, strict=True)
        ]
    table["resampled"] = np.where(last.paired, "the same units", "each its own")
    return table


def orders(comparison: xr.Dataset) -> pd.Series:
    """Kendall's τ of planted frequency and earliness of steerability: of every variant, and of the mean rank."""
    own = {str(name): float(comparison.tau.sel(variant=name)) for name in comparison.variant.values}
    return pd.Series({**own, "mean rank": float(comparison.tau_mean)}, name="tau")
