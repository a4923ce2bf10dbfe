"""What is asked of a push before it is called ready, and the words for what came out.

A verdict hangs on criteria, each with its value, interval, threshold and outcome. *pass*: the whole interval lies on
the right side of the threshold; *fail*: on the wrong one; *unknown*: neither, or there is nothing to judge by. A
verdict is the highest of `LEVELS` all of whose criteria, and those of the levels below, pass: unknown is no pass.
The criteria, their thresholds and the judgement are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

LEVELS = ("not ready", "explore", "validate", "deploy")
PASS, FAIL, UNKNOWN = "pass", "fail", "unknown"
ENDS = ("value", "lower", "upper")


NO_ALPHA = "no alpha that was tried surely keeps to the budgets of sweep (kl_budget, nll_budget): try smaller ones, "
NO_ALPHA += "or raise sweep.neutral_texts"
UNWRITTEN = "too little was written at the recommended alpha: add generation"
MORE_TEXTS = "a larger generation.prompts would tell"


def reaches(verdict: str, level: str) -> bool:
    """Whether a verdict is as high as a level."""
    return LEVELS.index(verdict) >= LEVELS.index(level)


@dataclass(frozen=True)
class Criterion:
    """One thing that is asked of a push, and the words for what came out."""

    level: str  # of `LEVELS`: the lowest that needs it
    passed: str  # one sentence, with {value}, {lower}, {upper} and {threshold}
    failed: str
    lacking: str  # what to add where there is nothing to judge by
    unsure: str = "more prompts would tell"  # what to add where the interval has the threshold in it
    rising: bool = True  # has to lie above its threshold; else below
    form: str = ".2f"

    def outcome(self, value: np.ndarray, lower: np.ndarray, upper: np.ndarray, threshold: np.ndarray) -> np.ndarray:
        worst, best, sign = (lower, upper, 1) if self.rising else (upper, lower, -1)
        known = ~np.isnan(value + lower + upper + threshold)
        passes, fails = sign * worst >= sign * threshold, sign * best < sign * threshold
        return np.select([known & passes, known & fails], [PASS, FAIL], UNKNOWN)

    def sentence(self, outcome: str, **numbers: float) -> str:
        written = {name: f"{number:{self.form}}" for name, number in numbers.items()}
        told = {name: text.replace("%", " %").replace("inf", "∞") for name, text in written.items()}
        if outcome != UNKNOWN:
            return (self.passed if outcome == PASS else self.failed).format(**told)
        between = "cannot be told: {threshold} lies within [{lower}, {upper}]; " + self.unsure
        return self.lacking if np.isnan([*numbers.values()]).any() else between.format(**told)


CRITERIA = {
    "effect": Criterion(
        "explore",
        "a push along it does more than chance (q {value})",
        "a push along it is not seen to do more than directions from shuffled labels (q {value}, above {threshold})",
        "there is no null to hold it against, or too few of its draws: more texts, or a larger probes.shuffled",
        rising=False,
        form=".3f",
    ),
    "size": Criterion(
        "validate",
        "the log-odds move by {value} nat [{lower}, {upper}] per unit of alpha, at least {threshold}",
        "the log-odds move by {value} nat [{lower}, {upper}] per unit of alpha, less than {threshold}",
        "too few prompts for an interval: add prompts",
    ),
    "one sign": Criterion(
        "validate",
        "{value} of the prompts move the wrong way, {upper} at most",
        "{value} of the prompts move the wrong way (at least {lower}; {threshold} are allowed)",
        "there are no test prompts: add prompts",
        rising=False,
        form=".0%",
    ),
    "selective": Criterion(
        "validate",
        "other concepts move {value} times as much as its own [{lower}, {upper}]",
        "other concepts move {value} times as much as its own [{lower}, {upper}]; {threshold} is allowed",
        "there is no other concept to see moved, or there are too few prompts: add to the study",
        rising=False,
    ),
    "kl": Criterion(
        "validate",
        "neutral text changes by {value} nat (KL) at the recommended alpha, {upper} at most",
        "neutral text changes by {value} nat (KL) at the recommended alpha; {threshold} is allowed",
        NO_ALPHA,
        unsure="more neutral passages (sweep.neutral_texts) would tell",
        rising=False,
        form=".3f",
    ),
    "nll": Criterion(
        "validate",
        "the loss on neutral text changes by {value} nat a token at the recommended alpha, {upper} at most",
        "the loss on neutral text changes by {value} nat a token at the recommended alpha; {threshold} is allowed",
        NO_ALPHA,
        unsure="more neutral passages (sweep.neutral_texts) would tell",
        rising=False,
        form="+.3f",
    ),
    "lasting": Criterion(
        "validate",
        "effect and size have passed at {value} of the last checkpoints, without a gap",
        "effect and size have passed at {value} of the last checkpoints, without a gap; {threshold} are asked for",
        "there are fewer checkpoints before this one than are asked for: add checkpoints",
        form=".0f",
    ),
    "readout": Criterion(
        "validate",
        "the model answers to the readout",
        "the readout is weak at this checkpoint: `steerlib concepts check FILE --model CHECKPOINT` says why",
        "the readout was not tried",
        form=".0f",
    ),
    "gain": Criterion(
        "deploy",
        "a target comes first on {value} more of the prompts [{lower}, {upper}]",
        "a target comes first on {value} more of the prompts [{lower}, {upper}]; {threshold} is asked for",
        "no alpha is recommended, or there are too few prompts: add prompts",
        form=".0%",
    ),
    "text": Criterion(
        "deploy",
        "what it writes shows the concept {value} more often [{lower}, {upper}]",
        "what it writes shows the concept {value} more often [{lower}, {upper}]; {threshold} is asked for",
        UNWRITTEN,
        unsure=MORE_TEXTS,
        form=".0%",
    ),
    "fluent": Criterion(
        "deploy",
        "what it writes is as well written as without the push ({value}, at worst {lower})",
        "what it writes is worse written than without the push (by {value}; {threshold} is allowed)",
        UNWRITTEN,
        unsure=MORE_TEXTS,
        form=".0%",
    ),
    "task": Criterion(
        "deploy",
        "it answers rightly about other concepts {value} less often, {upper} at most",
        "it answers rightly about other concepts {value} less often [{lower}, {upper}]; {threshold} is allowed",
        "no task was tried: add generation, and a concept that the unsteered model answers rightly about",
        unsure=MORE_TEXTS,
        rising=False,
        form=".0%",
    ),
    "undo": Criterion(
        "deploy",
        "taking the push off leaves no trace ({value} nat)",
        "taking the push off leaves {value} nat behind; {threshold} is allowed",
        "undoing was not tried",
        rising=False,
        form=".1e",
    ),
}


def sentences(cell: xr.Dataset, criteria: Mapping[str, Criterion] = CRITERIA) -> dict[str, tuple[str, str]]:
    """Of one checkpoint, concept and method: the outcome of every criterion, and what is to be said of it."""
    told = {}
    for name, criterion in criteria.items():
        of = cell.sel(criterion=name)
        numbers = {each: float(of[each]) for each in (*ENDS, "threshold")}
        told[name] = (outcome := str(of.outcome.item())), criterion.sentence(outcome, **numbers)
    return told


def finite(number: float | xr.DataArray) -> float | None:
    """None where it is not."""
    return float(number) if np.isfinite(number) else None


def plain(cell: xr.Dataset, criteria: Mapping[str, Criterion] = CRITERIA) -> dict[str, dict]:
    """The same with its numbers, for a file."""
    told = {}
    for name, (outcome, said) in sentences(cell, criteria).items():
        numbers = cell.sel(criterion=name)[[*ENDS, "threshold"]]
        told[name] = {"outcome": outcome, "said": said} | {each: finite(of) for each, of in numbers.items()}
    return told


def table(readiness: xr.Dataset) -> pd.DataFrame:
    """Of one checkpoint and method, a row a concept: the verdict, the recommended push, and what keeps it from more."""
    rows = {}
    for name in readiness.concept.values:
        cell = readiness.sel(concept=name)
        held, alpha = str(cell.held_back.item()), float(cell.recommended_alpha)
        rows[name] = {
            "verdict": str(cell.verdict.item()),
            "alpha": "–" if np.isnan(alpha) else f"{alpha:g}",
            "layer": str(int(cell.layer_pushed)),
            "held back by": f"{held}: {sentences(cell)[held][1]}" if held else "",
        }
    return pd.DataFrame(rows).T
