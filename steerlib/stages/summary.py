"""What an emergence analysis found, as text: for the console, the notebook and titles of figures."""

import json
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from steerlib.numerics import onsets
from steerlib.numerics.onsets import EMERGED, QUESTIONS
from steerlib.stages.verdicts import FITS
from steerlib.study.analysis import Emergence

SAID = 0.9  # share of prompts that lead to the concept unsteered, from which little is left to push for
# Of texts of onsets, beside their status.
WORDS = {
    "does not rise": "there, but at the end no more than at first",
    "[start": "some resamples have it from the start",
    "…]": "some resamples never reach it",
}


def onset_texts(emergence: xr.Dataset, question: str = QUESTIONS[0]) -> pd.DataFrame:
    """Onsets with their intervals, or why there is none, as text: a row a concept, a column a measure."""
    of = emergence.sel(question=question).transpose("concept", "measure", ...)
    answers = (of[name].values for name in ("status", "onset", "onset_lower", "onset_upper"))
    return pd.DataFrame(np.vectorize(onsets.text)(*answers), of.concept.values, of.measure.values)


def summary(emergence: xr.Dataset) -> pd.DataFrame:
    """What was found, a row a concept: when each measure can first be detected, and when steerability is half-way up.

    Beside these, its size and discovery rate at the last checkpoint, and the layer there.
    """
    table = onset_texts(emergence)
    last = emergence.sel(measure="steerability").isel(step=-1)
    table["half-way up"] = onset_texts(emergence, QUESTIONS[1])["steerability"]
    # No −0.0; of texts, which are per token, less than 1 may be much.
    table["nat"] = [f"{round(value, 2) + 0:.{1 if abs(value) >= 1 else 2}f}" for value in last.value.values]
    table["q"] = _numbers(last.q_value, ".3f")
    table["layer"] = emergence.chosen_layer.values.astype(str)
    table.loc[[*weak_readouts(emergence)], "steerability"] += " (readout: weak)"
    return table


def weak_readouts(emergence: xr.Dataset) -> dict[str, str]:
    """Why, of every concept whose readout is weak."""
    told = dict(zip(emergence.concept.values, map(str, emergence.readout.values), strict=True))
    return {name: of.removeprefix("weak: ") for name, of in told.items() if of != FITS}


def conclusions(emergence: xr.Dataset) -> list[str]:
    """What was found, for whom it holds, and what to be careful about, in sentences."""
    when = onset_texts(emergence, QUESTIONS[1])["steerability"]
    found = emergence.sel(measure="steerability", question=QUESTIONS[1])
    there = found.concept.values[found.status.isin(EMERGED).values]
    dated = found.onset.sel(concept=there).to_series().loc[np.isfinite].sort_values().index
    told = f"{len(there) or 'None'} of {len(when)} concept{'s' * (len(when) > 1)} became steerable"
    for place, name in zip(("first", "last"), dict.fromkeys([*dated[:1], *dated[-1:]]), strict=False):
        told += f", {place} {name} (half-way up at step {when[name]})"
    absent = when.drop(there)
    for words in absent.unique():
        told += f"; {words}: {', '.join(absent.index[absent == words])}"
    weak = "; ".join(f"{name}: {why}" for name, why in weak_readouts(emergence).items())
    lines = [
        f"Weak readouts at the last checkpoint: {weak}. Either the model has not learnt a concept, or is asked "
        "for it in another way than it has: `steerlib concepts check FILE --model CHECKPOINT` proposes one."
    ] * bool(weak)
    lines.append(f"{told}.")
    lines.append(
        f"This holds for these {emergence.sizes['step']} checkpoints of one training run, and, by "
        f"{100 * _rule(emergence).level:g} % intervals, for prompts and texts like these; what another seed does, only "
        "another run tells."
    )
    last = emergence.isel(step=-1)
    said, broken, random = ([] for _ in range(3))
    for name in emergence.concept.values:
        one = last.sel(concept=name)
        if one.unsteered > SAID and one.role != "null":
            said.append(f"{100 * float(one.unsteered):.0f} % of prompts of {name}")
        if name in there and np.isnan(one.gain):
            broken.append(name)
        elif name in there and one.gain_lower <= max(0.0, float(one.gain_null)):
            random.append(
                f"{name} ({100 * float(one.gain):+.0f} % of prompts, random {100 * float(one.gain_null):+.0f} %)"
            )
    for names, told in (
        (said, "Unsteered, {} lead to the concept already: there a push has little to add."),
        (broken, "At the last checkpoint every strength breaks neutral text beyond the KL budget: {}."),
        (
            random,
            "Log-odds move, but within the KL budget no more prompts lead to the concept than with a random push, as "
            "far as can be told: {}.",
        ),
    ):
        lines += [told.format(", ".join(names))] * bool(names)
    return lines


def legend(emergence: xr.Dataset) -> list[str]:
    """What the summary's columns are of, and what those of its words mean that do not speak for themselves."""
    draws = _rule(emergence).shuffled
    lines = [
        "separability, expression, steerability: the step from which each can be detected; half-way up: the step at "
        "which half of what steerability gains is there",
        "nat: steerability at the last checkpoint, the slope of the log-odds against alpha (of texts, per token); "
        "layer: where it is pushed there, as validation prompts chose",
        "q: the share of false finds to expect among all concepts whose q is no larger; it is made of p, how often the "
        f"{draws} directions that the method finds on shuffled labels do as much (1/{draws + 1} at the least, but for "
        "what their tail tells)",
    ]
    if weak_readouts(emergence):
        lines.append(
            "readout: weak: unsteered, at the last checkpoint, its prompts hardly lead to what is read there, or "
            "evidence hardly moves it; what is not reached may be steerable all the same"
        )
    there = set(emergence.status.values.flat)
    for status, meaning in onsets.STATUS.items():
        if status in there - {"rises", "from the start", "not reached"}:
            lines.append(f"{status if status in EMERGED else onsets.words(status, np.inf)}: {meaning}")
    for measure, concept in zip(*np.nonzero(emergence.left_out.transpose("measure", "concept").values), strict=True):
        of = emergence.isel(measure=measure, concept=concept)
        told = f"{of.concept.item()}, {of.measure.item()}: {int(of.left_out)} units left out"
        lines.append(f"{told}, as they lack a value at some checkpoint; {int(of.units)} are kept")
    told = " ".join(summary(emergence).to_numpy().ravel())
    return lines + [f"{word}: {meaning}" for word, meaning in WORDS.items() if word in told]


def findings(emergence: xr.Dataset) -> dict[str, Any]:
    """All that is told of a study, as JSON has it: its summary by concept and column, what that means, conclusions."""
    rows = summary(emergence).to_dict("index")
    return {"summary": rows, "legend": legend(emergence), "conclusions": conclusions(emergence)}


def _rule(emergence: xr.Dataset) -> Emergence:
    """What the study asks of an onset."""
    return Emergence(**json.loads(emergence.attrs["params"])["emergence"] if "params" in emergence.attrs else {})


def separability_first(emergence: xr.Dataset) -> pd.DataFrame:
    """How much later steerability than separability, in steps, and how the two go together, as text."""
    table = {}
    for question, name in zip(QUESTIONS, ("first detectable", "half-way up"), strict=True):
        of = emergence.sel(question=question)
        lags = zip(of.lag.values, of.lag_lower.values, of.lag_upper.values, strict=True)
        table[f"later by, {name}"] = [_spread(*lag, ".0f") for lag in lags]
    table["rank correlation"] = _numbers(emergence.rank_correlation, ".2f")
    table["of changes"] = _numbers(emergence.rank_correlation_detrended, ".2f")
    return pd.DataFrame(table, emergence.concept.values)


def tau(emergence: xr.Dataset, question: str) -> str:
    """Kendall's τ of planted frequency and earliness of steerability, with its interval; empty where there is none."""
    of = emergence.sel(question=question)
    told = _spread(float(of.tau), float(of.tau_lower), float(of.tau_upper), ".2f", none="")
    return told and f"τ = {told}"


def _spread(value: float, lower: float, upper: float, form: str, none: str = "–") -> str:
    """A number with its interval, if it has one."""
    if np.isnan(value):
        return none
    return f"{value:{form}}" + (f" [{lower:{form}}, {upper:{form}}]" if np.isfinite([lower, upper]).all() else "")


def _numbers(values: xr.DataArray, form: str) -> list[str]:
    return [_spread(value, np.nan, np.nan, form) for value in values.values]
