"""Notebook 5's computation: studies side by side. How far do seeds agree, and what does one change do?

Labelled arrays in, labelled arrays out. What differs between the variants is not known here, but for two labels to tell
them by, `seed` and `finetuned`, and whether it is the seed alone: then they are a group (`steerlib.stages.groups`).
"""

from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement

import numpy as np
import pandas as pd
import xarray as xr

from steerlib import SteerlibError
from steerlib.numerics.onsets import QUESTIONS
from steerlib.numerics.replicates import mere_chance
from steerlib.numerics.statistics import FEW, interval
from steerlib.stages import emergence, groups
from steerlib.stages.groups import ENDS
from steerlib.stages.summary import onset_texts
from steerlib.study import Study

OF_CONCEPTS = ["role", "planted_frequency"]  # coordinates
OF_UNITS = ["resamples", "units", "left_out", "stimuli"]  # what a difference is resampled by
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

    The attribute ``alike`` is the same of variants that differ by their seed alone.

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
    told = {"seed": study.seed, "finetuned": study.finetuning is not None}
    alike = study.model_dump_json(exclude={"name", "seed"})
    of_dims = {"stimuli": ("concept", [stimuli[name] for name in names])}
    of_dims["tokens_seen"] = "step", probes.tokens_seen.values
    return result.assign(resamples=resamples).assign_coords(of_dims | told).assign_attrs(alike=alike)


def compare(
    variants: Mapping[str, xr.Dataset], study: Study, chance: Sequence[str] = (), same: bool = False
) -> xr.Dataset:
    """Schema `comparison.nc`: every variant's `/emergence` along `variant`, and what they say together.

    Where variants have other steps or concepts, the missing values are NaN. What all share is counted (`across`);
    `differences` are from the first variant. Those that are ``alike`` but for a seed, or the ``same`` but for one told
    nowhere, are a group: where one has several, groups have a population each (`groups.over_seeds`), and the others are
    held against the first (`groups.shifts`, `groups.agreement`). ``chance`` names two variants that differ by chance
    alone. The study's is the level of all intervals. Raises SteerlibError for fewer than two variants.
    """
    if len(variants) < 2:
        raise SteerlibError(f"a comparison needs two variants with results; found {len(variants)}")
    labels = pd.concat([one.concept.to_dataframe()[OF_CONCEPTS] for one in variants.values()])
    labels = labels[~labels.index.duplicated()]
    concepts = list(labels.index)
    aligned = [
        one.drop_vars(["resamples", "draw", "stimuli", "probe", "tokens_seen", *OF_CONCEPTS], errors="ignore")
        .drop_attrs(deep=False)
        .reindex(concept=concepts, concept_b=concepts, fill_value={"status": ""})
        for one in variants.values()
    ]
    names = xr.DataArray([*variants], dims="variant", name="variant")
    whole = xr.concat(aligned, names, join="outer", data_vars="all", coords=["seed", "finetuned"], compat="override")
    of_group = groups.named({name: "" if same else one.attrs["alike"] for name, one in variants.items()})
    whole = whole.assign_coords({name: ("concept", labels[name].tolist()) for name in OF_CONCEPTS})
    whole = whole.assign_coords(of_group=("variant", [*of_group.values()]), tokens_seen=tokens(variants))
    level = study.emergence.level
    whole = whole.assign(across(whole)).merge(differences(variants, whole, level), compat="override", join="exact")
    if len(set(of_group.values())) < len(variants):
        whole = whole.merge(groups.over_seeds(whole, level)).assign(agreement=groups.agreement(whole))
    if 1 < len(set(of_group.values())) < len(variants):
        whole = whole.merge(groups.shifts(whole, level))
    return whole.assign(beyond_chance(whole, chance, level))


def tokens(variants: Mapping[str, xr.Dataset]) -> xr.DataArray:
    """How many all variants have seen at a step; −1 where that is not the same, or not known."""
    seen = [one.tokens_seen.reset_coords(drop=True) for one in variants.values()]
    seen = xr.concat(seen, "variant", join="outer")
    most = seen.max("variant")
    return most.where(most == seen.min("variant"), -1).astype(int)


def across(whole: xr.Dataset) -> dict[str, xr.DataArray]:
    """How many variants have a concept, and in how many a measure of it was reached.

    An onset that lies before the first checkpoint is ``reached`` as well; one that cannot be told is not.
    """
    return {"present": (whole.status != "").sum("variant"), "reached": (whole.onset < np.inf).sum("variant")}


def replicates(comparison: xr.Dataset) -> bool:
    """Whether some of its variants are draws of the same thing, of which a mean over them is the mean."""
    return "onset_mean" in comparison


def others(comparison: xr.Dataset) -> list[str]:
    """Variants that are held against the first: the first of each other group, where there are others."""
    first = {of.variant.values[0] for of in groups.members(comparison).values()}
    names = comparison.variant.values[1:].tolist()
    return [name for name in names if name in first] or names


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
    beyond the last step. Where there are several groups, these alone: in how many seeds, where there is no mean.
    """
    told, many = comparison.sel(measure=measure, question=question), len(groups.members(comparison)) > 1
    texts = onset_texts_of(comparison, measure, question) if not (many and replicates(comparison)) else {}
    table = pd.DataFrame(texts, comparison.concept.values)  # empty where the variant does not have the concept
    if texts:
        table["reached"] = _shares(told)
    for name in comparison.group.values if replicates(comparison) else ():
        of = told.sel(group=name)
        within = of[[name for name in of if str(name).startswith(("onset_mean", "onset_new"))]]
        within = within.where(~(within > comparison.step.max()), np.inf)
        means = zip(*(within[f"onset_mean{end}"].values for end in ENDS), strict=True)
        untold = _shares(across(groups.members(told)[name])) if many else ["cannot be told"] * len(table)
        table[name if many else "mean"] = [_text(*row) or no for row, no in zip(means, untold, strict=True)]
        new = zip(*(within[f"onset_new{end}"].values for end in ENDS[1:]), strict=True)
        table[f"{name}, new seed" if many else "new seed"] = [_text(*row) for row in new]
    return table


def onset_texts_of(comparison: xr.Dataset, measure: str, question: str) -> dict[str, pd.Series]:
    """Of a measure in every variant."""
    names = comparison.variant.values
    return {name: onset_texts(comparison.sel(variant=name), question)[measure] for name in names}


def _shares(counts: Mapping[str, xr.DataArray]) -> list[str]:
    return [f"{n} of {m}" for n, m in zip(counts["reached"].values, counts["present"].values, strict=True)]


def shifts(comparison: xr.Dataset, measure: str = "steerability") -> pd.DataFrame:
    """How many times as late each group has its onsets as the first: a row a concept, and all of them together.

    With the interval over seeds; nothing where one of the seeds has no onset.
    """
    columns, of = {}, comparison.sel(measure=measure)
    for (name, question), whole in (
        ((name, question), of.sel(group=name, question=question))
        for question in comparison.question.values
        for name in comparison.group.values[1:]
    ):
        rows = [*zip(*(whole[f"later{end}"].values for end in ENDS), strict=True)]
        rows.append(tuple(float(whole[f"later_all{end}"]) for end in ENDS))
        columns[f"{name}, {question.replace('_', ' ')}"] = [_text(*row, form=".2f") for row in rows]
    return pd.DataFrame(columns, [*comparison.concept.values, "together"])


def agreement(comparison: xr.Dataset) -> pd.DataFrame:
    """How far two trainings agree on the order, τ: within each group, and between groups, mean and range of all pairs.

    Pairs share their trainings: the range is no interval.
    """
    variants, rows = {name: of.variant.values for name, of in groups.members(comparison).items()}, {}
    for first, second in combinations_with_replacement(variants, 2):
        of = comparison.agreement.sel(variant=variants[first], variant_b=variants[second])
        pairs = of.where(of.variant != of.variant_b).stack(pair=("variant", "variant_b"))
        ends = (getattr(pairs, kind)("pair").values for kind in ("mean", "min", "max"))
        rows[f"{first}, {second}" if first != second else f"within {first}"] = [
            _text(*row, form=".2f") for row in zip(*ends, strict=True)
        ]
    columns = [question.replace("_", " ") for question in comparison.question.values]
    return pd.DataFrame.from_dict(rows, "index", columns=columns)


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
    rows = {str(name): (comparison.sel(variant=name), "tau", *ENDS) for name in comparison.variant.values}
    for name in comparison.group.values if replicates(comparison) else ():
        of, told = comparison.sel(group=name), f" of {name}" * (comparison.sizes["group"] > 1)
        rows |= {f"mean{told}": (of, "tau_mean", *ENDS), f"range{told}": (of, "tau_", "lowest", "highest")}
        rows |= {f"new seed{told}": (of, "tau_new", *ENDS[1:])}

    def texts(of: xr.Dataset, name: str, *ends: str) -> list[str]:
        return [_text(*values, form=".2f") for values in zip(*(of[f"{name}{end}"].values for end in ends), strict=True)]

    columns = [question.replace("_", " ") for question in comparison.question.values]
    return pd.DataFrame([texts(*of) for of in rows.values()], pd.Index([*rows], name="variant"), columns)


def _text(*numbers: float, form: str = ".0f") -> str:
    """A value with its interval, or an interval alone; of what cannot be told nothing."""
    *value, lower, upper = ("…" if number == np.inf else f"{number:{form}}" for number in numbers)
    if np.isnan(numbers[0]):
        return ""
    return " ".join(value if np.isnan(numbers).any() else [*value, f"[{lower}, {upper}]"])
