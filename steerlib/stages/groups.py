"""Variants that differ by a seed alone, as groups: what each says of all seeds there might be, and how groups differ.

Labelled arrays in, labelled arrays out, for `steerlib.stages.comparison`; the rules are `steerlib.numerics.replicates`.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile

import numpy as np
import xarray as xr

from steerlib.numerics.onsets import seen_at
from steerlib.numerics.replicates import Population, before, onset_population, population
from steerlib.stages.emergence import kendall

ENDS = ("", "_lower", "_upper")
NEVER = 1e18  # later than any step


def named(alike: Mapping[str, str]) -> dict[str, str]:
    """The group of every variant: those of which ``alike`` says the same, called by the words that their names begin
    with.
    """
    members: dict[str, list[str]] = {}
    for name, what in alike.items():
        members.setdefault(what, []).append(name)
    words = {what: zip(*(name.split("-") for name in of), strict=False) for what, of in members.items()}
    common = {what: takewhile(lambda at: len(set(at)) == 1, at) for what, at in words.items()}
    called = {what: "-".join(word for word, *_ in common[what]) or of[0] for what, of in members.items()}
    if len(set(called.values())) < len(called):
        called = {what: of[0] for what, of in members.items()}
    return {name: called[what] for name, what in alike.items()}


def members(whole: xr.Dataset) -> dict[str, xr.Dataset]:
    """The variants of each group, by its name."""
    names = dict.fromkeys(whole.of_group.values.tolist())
    return {name: whole.isel(variant=whole.of_group.values == name) for name in names}


# --- each by itself ---------------------------------------------------------------------------------------------------


def over_seeds(whole: xr.Dataset, level: float) -> xr.Dataset:
    """Of each group the mean of onsets, values and τ with its interval, where a new seed's lies, and its order.

    A group of one has none of these. An onset that one variant does not have is averaged nowhere: then there is no
    mean. ``before_mean`` and ``before_new`` are of steerability: P(row before column), for the mean over seeds and in a
    new one; beside them ``before_count``, in how many variants it is so, where not reached comes last.
    """
    of_groups = members(whole)
    return xr.concat([_over_seeds(own, level) for own in of_groups.values()], _dim(of_groups))


def _over_seeds(own: xr.Dataset, level: float) -> xr.Dataset:
    found = {name: values.clip(-1, 1) for name, values in _population("tau", own, population, level).items()}
    found |= {"tau_lowest": own.tau.min("variant"), "tau_highest": own.tau.max("variant")}
    steered = own.onset.sel(measure="steerability").transpose("question", "variant", "concept").values
    orders = zip(*([*before(row), (row[:, :, None] < row[:, None]).sum(0)] for row in steered), strict=True)
    kinds, pairs = ("before_mean", "before_new", "before_count"), ["question", "concept", "concept_b"]
    found |= {kind: (pairs, np.array(of)) for kind, of in zip(kinds, orders, strict=True)}
    of_values = _population("value", own, population, level)
    found |= {f"value_mean{end}": of_values[f"value_mean{end}"] for end in ENDS}
    return xr.Dataset(found | _population("onset", own, onset_population, level))


def _population(
    name: str, own: xr.Dataset, rule: Callable, level: float, over: str = "variant"
) -> dict[str, xr.DataArray]:
    """Of a variable and its ends, over replicates."""
    ends = [own[f"{name}{end}"] for end in ENDS]
    dims = {"input_core_dims": [[over]] * 3, "output_core_dims": [[]] * len(Population._fields)}
    parts = xr.apply_ufunc(rule, *ends, **dims, kwargs={"level": level})
    return {f"{name}_{part}": values for part, values in zip(Population._fields, parts, strict=True)}


def _dim(names: Sequence[str]) -> xr.DataArray:
    return xr.DataArray([*names], dims="group", name="group")


# --- each beside the first --------------------------------------------------------------------------------------------


def shifts(whole: xr.Dataset, level: float) -> xr.Dataset:
    """How many times as late (1 + step) each group has its onsets as the first one, over the seeds that both have.

    With the same seed they have read the same texts in the same order: a difference of log(1 + onset) within a seed is
    one replicate. ``later_all`` is of all concepts together, of which both have an onset with each of these seeds;
    within a seed its interval is as wide as theirs on average, as all hang on the same prompts. NaN for the first group
    itself, for fewer than two seeds in common, and where a seed has no onset.
    """
    with np.errstate(invalid="ignore", divide="ignore"):  # of what was there from the start there is no log
        logs = np.log1p(whole[[f"onset{end}" for end in ENDS]].reset_coords(drop=True).assign_coords(seed=whole.seed))
    of_groups = members(logs.assign_coords(of_group=whole.of_group))
    of_seeds = {name: own.swap_dims(variant="seed").drop_vars("of_group") for name, own in of_groups.items()}
    first, *others = of_seeds.values()
    parts = [_shift(own, first, level) for own in others]
    none = xr.full_like(parts[0], np.nan)
    return xr.concat([none, *parts], _dim(of_seeds))


def _shift(own: xr.Dataset, first: xr.Dataset, level: float) -> xr.Dataset:
    own, first = xr.align(own, first, join="inner")
    if own.sizes["seed"] < 2:
        own, first = (of.reindex(seed=range(2)) for of in (own, first))  # NaN
    apart = own.onset - first.onset
    down = np.hypot(own.onset - own.onset_lower, first.onset_upper - first.onset)
    up = np.hypot(own.onset_upper - own.onset, first.onset - first.onset_lower)
    each = xr.Dataset({"later": apart, "later_lower": apart - down, "later_upper": apart + up})
    dated = np.isfinite(apart).all("seed")
    together = each.where(dated).mean("concept").rename({name: name.replace("later", "later_all") for name in each})
    found = {}
    for name, of in (("later", each), ("later_all", together)):
        means = _population(name, of, population, level, "seed")
        found |= {f"{name}{end}": np.exp(means[f"{name}_mean{end}"]) for end in ENDS}
    return xr.Dataset(found)


def agreement(whole: xr.Dataset) -> xr.DataArray:
    """Kendall's τ_b of when any two variants can be steered, over concepts that some variant reaches.

    1: in the same order. Not reached comes last; NaN where an onset cannot be told.
    """
    steered = whole.onset.sel(measure="steerability", drop=True)
    reached = steered.isel(concept=np.isfinite(steered).any(["variant", "question"]).values)
    at = seen_at(whole.step.values, reached.transpose("question", "variant", "concept").values)
    seen = np.where(np.isnan(at), np.nan, np.clip(at, -NEVER, NEVER))
    taus = np.array([[kendall(-one, of_question) for one in of_question] for of_question in seen])
    places = {"question": whole.question.values, "variant": whole.variant.values, "variant_b": whole.variant.values}
    return xr.DataArray(taus, places)
