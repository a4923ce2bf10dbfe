"""Notebook 5's computation: studies side by side. How far do seeds agree, and what does one change do?

Labelled arrays in, labelled arrays out; of replicates, the rules are `steerlib.numerics.replicates`. What differs
between the variants is not known here, but for two labels to tell them by, `seed` and `finetuned`.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from steerlib import SteerlibError
from steerlib.numerics.onsets import QUESTIONS
from steerlib.numerics.replicates import Population, before, mere_chance, onset_population, population
from steerlib.numerics.statistics import FEW, interval
from steerlib.stages import emergence
from steerlib.stages.summary import onset_texts
from steerlib.study import Study

OF_CONCEPTS = ["role", "planted_frequency"]  # coordinates
OF_UNITS = ["resamples", "units", "left_out", "stimuli"]  # what a difference is resampled by
ENDS = ("", "_lower", "_upper")
# What decides in which unit an effect is counted, and what counts as one: of values that differ in any, a difference or
# a mean is of nothing.
UNITS = {
    "sweep": ("operator", "scale", "kl_budget", "positions"),
    "emergence": ("method", "level", "sustained", "least"),
}


def check_units(studies: Mapping[str, Study]) -> None:
    """Raises SteerlibError naming two variants and the field where they measure different things."""
    (first, reference), *others = studies.items()
    for name, study in others:
        for part, field in ((part, field) for part, fields in UNITS.items() for field in fields):
            theirs, own = (getattr(getattr(of, part), field) for of in (reference, study))
            if theirs != own:
                raise SteerlibError(
                    f"variants {first} and {name}: {part}.{field} is {theirs} there and {own} here, so that their "
                    "effects are not of one unit; let them agree in it, or run them as studies of their own"
                )


def variant(
    result: xr.Dataset, probes: xr.Dataset, interventions: xr.Dataset, study: Study, stimuli: Mapping[str, str]
) -> xr.Dataset:
    """One study as it is compared: its `/emergence`, and ``resamples`` of its values (concept, measure, draw, step).

    ``stimuli`` maps a concept to a hash of its texts and of how they were split: where it is equal, prompts and
    templates of two variants are the same, and so is what each resample has drawn of them.
    """
    probes, interventions = (dataset.sel(probe=study.emergence.method) for dataset in (probes, interventions))
    names = [str(name) for name in result.concept.values]
    by_concept = []
    for name in names:
        own = emergence.measures(probes.sel(concept=name), emergence.of_concept(interventions, name), study)
        by_concept.append([own[measure][0].resamples for measure in result.measure.values])
    dims = ["concept", "measure", "draw", "step"]
    resamples = xr.DataArray(np.array(by_concept), {"draw": np.arange(study.emergence.bootstrap)}, dims)
    return result.assign(resamples=resamples).assign_coords(
        stimuli=("concept", [stimuli[name] for name in names]), seed=study.seed, finetuned=study.finetuning is not None
    )


def compare(
    variants: Mapping[str, xr.Dataset], study: Study, chance: Sequence[str] = (), same: bool = False
) -> xr.Dataset:
    """Schema `comparison.nc`: every variant's `/emergence` along `variant`, and what they say together.

    Where variants have other steps or concepts, the missing values are NaN. What all share are counts and ranges
    (`across`), and of replicates their population (`over_replicates`); `differences` are from the first variant.
    Variants are replicates where each has a seed of its own, or where they are the ``same`` but for one told nowhere.
    ``chance`` names two variants that differ by chance alone. The study's is the level of all intervals. Raises
    SteerlibError for fewer than two variants.
    """
    if len(variants) < 2:
        raise SteerlibError(f"a comparison needs two variants with results; found {len(variants)}")
    labels = pd.concat([one.concept.to_dataframe()[OF_CONCEPTS] for one in variants.values()])
    labels = labels[~labels.index.duplicated()]
    concepts = list(labels.index)
    aligned = [
        one.drop_vars(["resamples", "draw", "stimuli", "probe", *OF_CONCEPTS], errors="ignore")
        .drop_attrs(deep=False)
        .reindex(concept=concepts, concept_b=concepts, fill_value={"status": ""})
        for one in variants.values()
    ]
    names = xr.DataArray([*variants], dims="variant", name="variant")
    whole = xr.concat(aligned, names, join="outer", data_vars="all", coords=["seed", "finetuned"], compat="override")
    whole = whole.assign_coords({name: ("concept", labels[name].tolist()) for name in OF_CONCEPTS})
    level = study.emergence.level
    whole = whole.assign(across(whole)).merge(differences(variants, whole, level), compat="override", join="exact")
    if same or len(np.unique(whole.seed)) == len(variants):
        whole = whole.assign(over_replicates(whole, level))
    return whole.assign(beyond_chance(whole, chance, level))


def across(whole: xr.Dataset) -> dict[str, xr.DataArray]:
    """How many variants have a concept, in how many a measure of it was reached, and how far its values range.

    An onset that lies before the first checkpoint is ``reached`` as well; one that cannot be told is not. Values have a
    mean and a range at steps that all variants with the concept share.
    """
    value = whole.value
    having = value.notnull().any("step").sum("variant")
    shared = value.where(value.notnull().sum("variant") == having)
    return {
        "present": (whole.status != "").sum("variant"),
        "reached": (whole.onset < np.inf).sum("variant"),
        "value_mean": shared.mean("variant"),
        "value_lowest": shared.min("variant"),
        "value_highest": shared.max("variant"),
    }


def replicates(comparison: xr.Dataset) -> bool:
    """Whether its variants are draws of the same thing, of which a mean over them is the mean."""
    return "onset_mean" in comparison


def over_replicates(whole: xr.Dataset, level: float) -> dict[str, xr.DataArray]:
    """The mean of onsets and of τ with its interval, and the interval for a new seed; and the order of concepts.

    An onset that one variant does not have is averaged nowhere: then there is no mean. ``before_mean`` and
    ``before_new`` are of steerability: P(row before column), for the mean over seeds and in a new one; beside them
    ``before_count``, in how many variants it is so, where not reached comes last.
    """

    def of_all(name: str, rule: Callable) -> dict[str, xr.DataArray]:
        ends = [whole[f"{name}{end}"] for end in ENDS]
        dims = {"input_core_dims": [["variant"]] * 3, "output_core_dims": [[]] * len(Population._fields)}
        parts = xr.apply_ufunc(rule, *ends, **dims, kwargs={"level": level})
        return {f"{name}_{part}": values for part, values in zip(Population._fields, parts, strict=True)}

    of_tau = {name: values.clip(-1, 1) for name, values in of_all("tau", population).items()}  # no τ lies beyond
    of_tau |= {"tau_lowest": whole.tau.min("variant"), "tau_highest": whole.tau.max("variant")}
    steered = whole.onset.sel(measure="steerability").transpose("question", "variant", "concept").values
    orders = zip(*([*before(row), (row[:, :, None] < row[:, None]).sum(0)] for row in steered), strict=True)
    pairs = ["question", "concept", "concept_b"]
    kinds = ("before_mean", "before_new", "before_count")
    of_pairs = {kind: (pairs, np.array(of)) for kind, of in zip(kinds, orders, strict=True)}
    return of_all("onset", onset_population) | of_tau | of_pairs


def differences(variants: Mapping[str, xr.Dataset], whole: xr.Dataset, level: float) -> xr.Dataset:
    """Every variant less the first, step by step, with an interval over resamples; NaN for the first itself.

    Where the two share their prompts and templates (``paired``), one resample serves both, and what is hard or easy
    about a prompt cancels. Otherwise each has resamples of its own. Either way the interval speaks of these two models:
    what another training would change it does not know (see `beyond_chance`).
    """
    first, parts = next(iter(variants.values())), []
    for one in variants.values():
        own, reference = xr.align(*(of.reset_coords("stimuli")[OF_UNITS] for of in (one, first)), join="inner")
        same_units = (own.units == reference.units) & (own.left_out == 0) & (reference.left_out == 0)
        paired = (own.stimuli == reference.stimuli) & same_units.all("measure")
        drawn = own.resamples.where(paired, own.resamples.roll(draw=1))  # those of the draw before: other units
        apart = (drawn - reference.resamples).where(np.minimum(own.units, reference.units) >= FEW)
        lower, upper = interval(apart.transpose("draw", ...).values, level)
        like = apart.transpose("draw", ...).isel(draw=0, drop=True)
        part = xr.Dataset({"difference_lower": like.copy(data=lower), "difference_upper": like.copy(data=upper)})
        part = part.assign(paired=paired).drop_vars(["seed", "finetuned"], errors="ignore")
        parts.append(part.reindex(concept=whole.concept, step=whole.step, fill_value={"paired": False}))
    differing = xr.concat(parts, whole.variant)
    differing = differing.assign(difference=whole.value - whole.value.isel(variant=0, drop=True))
    other = whole.variant != whole.variant[0]
    return differing.drop_vars("paired").where(other).assign(paired=differing.paired & other)


def beyond_chance(whole: xr.Dataset, chance: Sequence[str], level: float) -> dict[str, xr.DataArray]:
    """Which differences are ``found``: their interval excludes zero, and they exceed what mere chance makes.

    ``difference_null`` (measure, step) is that, from the two variants that ``chance`` names, which differ by a seed of
    training alone; NaN without them: then nothing is called found.
    """
    size = xr.full_like(whole.value.isel(variant=0, concept=0, drop=True), np.nan)
    if len(set(chance) & set(whole.variant.values)) == 2:
        again, once = (whole.value.sel(variant=name, drop=True) for name in chance)
        apart = (again - once).transpose("measure", "concept", "step")
        size = size.transpose("measure", "step").copy(data=[mere_chance(of, level) for of in apart.values])
    excludes = (whole.difference_lower > 0) | (whole.difference_upper < 0)
    return {"difference_null": size, "found": excludes & (abs(whole.difference) > size)}


# --- as text ----------------------------------------------------------------------------------------------------------


def summary(comparison: xr.Dataset, measure: str = "steerability", question: str = QUESTIONS[0]) -> pd.DataFrame:
    """Onset of a measure in every variant, in how many it has one, and of replicates their mean: a row a concept.

    The mean has the interval of that of all seeds there might be; beside it, where a new seed's onset lies; "…" is
    beyond the last step.
    """
    told = comparison.sel(measure=measure, question=question)
    names = comparison.variant.values
    texts = {name: onset_texts(comparison.sel(variant=name), question)[measure] for name in names}
    table = pd.DataFrame(texts)  # empty where the variant does not have the concept
    table["reached"] = [f"{n} of {m}" for n, m in zip(told.reached.values, told.present.values, strict=True)]
    if replicates(comparison):
        within = told[[name for name in told if str(name).startswith(("onset_mean", "onset_new"))]]
        within = within.where(~(within > comparison.step.max()), np.inf)
        means = [within[f"onset_mean{end}"].values for end in ENDS]
        table["mean"] = [_text(*row) or "cannot be told" for row in zip(*means, strict=True)]
        new = [within[f"onset_new{end}"].values for end in ENDS[1:]]
        table["new seed"] = [_text(*row) for row in zip(*new, strict=True)]
    return table


def final_differences(comparison: xr.Dataset, name: str) -> pd.DataFrame:
    """A variant less the first at the last step that both have, and whether it is found: a row a concept."""
    of = comparison.sel(variant=name)
    table = pd.DataFrame(index=comparison.concept.values)
    if not (both := of.step[of.difference.notnull().any(["concept", "measure"])]).size:
        return table.assign(difference="none, as they share no step")
    last = of.sel(step=both[-1])
    for measure in comparison.measure.values:
        one = last.sel(measure=measure)
        bounds = [one[f"difference{end}"].values for end in ENDS]
        told = zip(*bounds, one.found.values, strict=True)
        table[measure] = [_text(*row, form="+.2f") + ", found" * bool(there) for *row, there in told]
    table["resampled"] = np.where(last.paired, "the same units", "each its own")
    return table


def claim(comparison: xr.Dataset) -> str:
    """What the intervals of differences speak of, by whether there is a null of training again."""
    if comparison.difference_null.isnull().all():
        return "intervals of these two models; what a second training would change is not known, and nothing is found"
    return "intervals of these two models; found is what also exceeds a second training"


def taus(comparison: xr.Dataset) -> pd.DataFrame:
    """Kendall's τ of planted frequency and earliness of steerability: a row a variant, a column an answer to "when?".

    Of replicates also their mean with its interval, the range, and where a new seed's lies.
    """
    rows = {str(name): ("tau", *ENDS) for name in comparison.variant.values}
    if replicates(comparison):
        rows |= {"mean": ("tau_mean", *ENDS), "range": ("tau_", "lowest", "highest")}
        rows |= {"new seed": ("tau_new", *ENDS[1:])}

    def texts(row: str, name: str, *ends: str) -> list[str]:
        of = comparison.sel(variant=row) if row in comparison.variant else comparison
        return [_text(*values, form=".2f") for values in zip(*(of[f"{name}{end}"].values for end in ends), strict=True)]

    columns = [question.replace("_", " ") for question in comparison.question.values]
    return pd.DataFrame([texts(row, *of) for row, of in rows.items()], pd.Index([*rows], name="variant"), columns)


def _text(*numbers: float, form: str = ".0f") -> str:
    """A value with its interval, or an interval alone; nothing where it cannot be told."""
    *value, lower, upper = ("…" if number == np.inf else f"{number:{form}}" for number in numbers)
    if np.isnan(numbers[0]):
        return ""
    return f"{value[0]} [{lower}, {upper}]" if value else f"[{lower}, {upper}]"
