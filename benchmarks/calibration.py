"""`make calibrate`: do the intervals of onsets hold them, and is an effect found where there is one, and only there?

Curves that are known, seen at few and at many checkpoints through the noise of prompts, of the texts that directions
are fitted on, and of null draws, go through the very rule that a study uses (`steerlib.numerics.onsets`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import typer
import xarray as xr
from jaxtyping import Float
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table

from steerlib.figures.look import INK, PAGE, dressed, looks, style
from steerlib.numerics import onsets
from steerlib.numerics.replicates import onset_population
from steerlib.numerics.statistics import counts_of_units, family, resampled
from steerlib.study.analysis import Emergence

FIRST, LAST, MIDDLE = np.log1p([32, 1000, 180])  # of the checkpoints after step 0; of the curves, in log(1 + step)
CHECKPOINTS = (8, 15, 30)
HEIGHT = 6.0  # nat per residual norm, about what the toy's emotions reach
# As on the toy: prompts differ in how much they can be steered, texts in how well a direction is fitted to them, and no
# two draws of a null are alike.
PROMPTS, TEXTS, GAIN, FIT, NOISE = 24, 12, 0.6, 0.3, 0.3
NULL = 0.5  # standard deviation of the null draws
PLAN = Emergence(bootstrap=500)
LEAST = PLAN.least.steerability

SEED_SD = 0.1  # of log onsets between seeds
OVER_SEEDS = [("sigmoid", 2), ("sigmoid", 3), ("sigmoid", 5), ("slow", 3), ("step", 3)]

Curve = Callable[[np.ndarray], np.ndarray]  # of log(1 + step)


def shifted(curve: Curve, by: float, x: np.ndarray) -> np.ndarray:
    return curve(x - by)


def rising(middle: float, steepness: float, height: float = HEIGHT) -> Curve:
    return lambda x: height / (1 + np.exp(-steepness * (x - middle)))


def fading(middle: float, steepness: float) -> Curve:
    return lambda x: rising(middle, steepness)(x) - rising(LAST - 0.5, 8, HEIGHT - 0.5)(x)


CURVES: dict[str, Curve] = {
    "sigmoid": rising(MIDDLE, 3),
    "slow": rising(MIDDLE, 1.5),
    "step": lambda x: np.where(x > MIDDLE, HEIGHT, 0.0),
    "late": rising(LAST - 0.6, 5),
    "weak": rising(MIDDLE, 3, HEIGHT / 2),
    "fades": fading(MIDDLE - 0.5, 4),
    "dip": lambda x: rising(MIDDLE, 3)(x) * np.where(abs(x - LAST + 0.45) < 0.08, 0.1, 1),
    "twice the least": lambda x: np.where(x > MIDDLE, 2 * LEAST, 0.0),
    "half the least": lambda x: np.where(x > MIDDLE, LEAST / 2, 0.0),
    "never": lambda x: np.zeros_like(x),
}


@dataclass(frozen=True)
class Cell:
    """One question about one curve at so many checkpoints; distances are counted in checkpoints."""

    curve: str
    checkpoints: int
    question: str
    told: float  # share of repeats in which there is an onset
    covered: float | None  # share of intervals that hold the true onset; None where there is none
    bias: float | None  # mean of the onset told less the true one
    wide: float | None  # mean width of the interval; 1 is the gap between two checkpoints, in which nothing is seen


def steps_of(checkpoints: int) -> np.ndarray:
    """Step 0, and the others evenly in log(1 + step)."""
    return np.concatenate([[0], np.unique(np.expm1(np.linspace(FIRST, LAST, checkpoints - 1)).round())]).astype(int)


def seen(curve: Curve, steps: np.ndarray, draw: np.random.Generator) -> Float[np.ndarray, "step prompt refit"]:
    """The curve by every prompt, along a direction fitted on all texts, and with each of them left out."""

    def left_out(texts: Float[np.ndarray, "... text"]) -> Float[np.ndarray, "... refit"]:
        whole = texts.sum(-1, keepdims=True)
        return np.concatenate([whole / TEXTS, (whole - texts) / (TEXTS - 1)], -1)

    # A text makes a direction better or worse, and turns it somewhere, at all checkpoints alike.
    fits, turns = left_out(1 + draw.normal(0, FIT, TEXTS)), left_out(draw.normal(0, FIT, TEXTS))
    gains, noise = draw.normal(1, GAIN, PROMPTS), draw.normal(0, NOISE, (len(steps), PROMPTS))
    return (curve(np.log1p(steps))[:, None] * gains)[..., None] * fits + noise[..., None] + turns


def measured(curve: Curve, steps: np.ndarray, draw: np.random.Generator, null: float = NULL) -> onsets.Measured:
    """What a study has of the curve."""
    values, seed = seen(curve, steps, draw), int(draw.integers(2**31))
    units = (counts_of_units(count, PLAN.bootstrap, [seed, count]) for count in (PROMPTS, TEXTS))
    nulls = draw.normal(0, null, (len(steps), PLAN.shuffled))
    return onsets.Measured(steps, values[..., 0].mean(1), resampled(values, *units), nulls, PROMPTS, LEAST)


def true_onsets(curve: Curve, steps: np.ndarray, null: float = NULL) -> dict[str, float]:
    """Where the curve itself crosses what a null without end would set, and half its way; infinite where it does not.

    Of a curve that fades the way is that to its peak among the checkpoints.
    """
    bar, x, at = max(1.6449 * null, LEAST), np.linspace(*np.log1p(steps[[0, -1]]), 10_000), curve(np.log1p(steps))
    half = (at[0] + at.max()) / 2

    def crossing(level: float) -> float:
        above = curve(x) > level
        return float(np.expm1(x[above.argmax()])) if above.any() and at.max() > bar else np.inf

    return dict(zip(onsets.QUESTIONS, (crossing(bar), crossing(half)), strict=True))


def cells(name: str, checkpoints: int, repeats: int, seed: int = 0, null: float = NULL) -> list[Cell]:
    """One curve at so many checkpoints, again and again: a cell a question."""
    steps, rows, truths = steps_of(checkpoints), [], []
    apart = np.diff(np.log1p(steps))[-1]
    for repeat in range(repeats):
        draw = np.random.default_rng([seed, repeat, checkpoints])
        # Where between two checkpoints a curve rises is anybody's guess, and another in every repeat.
        curve = partial(shifted, CURVES[name], apart * draw.uniform(-0.5, 0.5))
        curve_seen = measured(curve, steps, draw, null)
        q = family(curve_seen.p_value[None])[0]
        rows.append(onsets.judge(curve_seen, q, PLAN.level, PLAN.sustained, [seed, repeat])[0])
        truths.append(true_onsets(curve, steps, null))

    def place(step: np.ndarray) -> np.ndarray:  # which checkpoint, and how far to the next
        return np.interp(np.log1p(step.clip(0)), np.log1p(steps), np.arange(len(steps)))

    found = []
    for k, question in enumerate(onsets.QUESTIONS):
        true = np.array([truth[question] for truth in truths])
        onset, lower, upper = (
            np.array([float(row[f"onset{end}"][k]) for row in rows]) for end in ("", "_lower", "_upper")
        )
        told = onset < np.inf  # or told to be there from the start
        known, both = told & np.isfinite(true), np.isfinite(onset) & np.isfinite(true)
        some = both.any()
        found.append(
            Cell(
                name,
                checkpoints,
                question,
                float(told.mean()),
                float(((lower <= true) & (true <= upper))[known].mean()) if some else None,
                float((place(onset[both]) - place(true[both])).mean()) if some else None,
                float((place(upper[both]) - place(lower[both])).mean()) if some else None,
            )
        )
    return found


def table(found: list[Cell]) -> Table:
    shown = Table("curve", "checkpoints", "question", "told", "interval holds it", "bias", "wide")
    for row in found:
        shares = [f"{share:.0%}" if share is not None else "–" for share in (row.told, row.covered)]
        lengths = [f"{length:+.2f}" if length is not None else "–" for length in (row.bias, row.wide)]
        shown.add_row(row.curve, str(row.checkpoints), row.question.replace("_", " "), *shares, *lengths)
    return shown


def figure(found: list[Cell]) -> Figure:
    """Coverage and width of the intervals against the number of checkpoints, a line a curve; dotted: level, and gap."""
    frame = pd.DataFrame([asdict(row) for row in found]).dropna(subset="covered")
    gaps = {checkpoints: float(np.diff(np.log1p(steps_of(checkpoints)))[-1]) for checkpoints in CHECKPOINTS}
    frame["width"] = frame.wide * frame.checkpoints.map(gaps)
    names = {"covered": "share of intervals\nthat hold the onset", "width": "width of the interval\nin log(1 + step)"}
    style({"name": "known curves"})
    drawn, axes = plt.subplots(2, 2, figsize=(PAGE, 3.6), sharex=True, sharey="row")
    look = looks(frame.curve.unique())
    beside = dict(zip(look, np.linspace(-0.6, 0.6, len(look)), strict=True))  # many lie on one another
    for column, question in zip(axes.T, onsets.QUESTIONS, strict=True):
        column[0].set_title(question.replace("_", " "))
        for axis, name in zip(column, names, strict=True):
            for curve, rows in frame[frame.question == question].groupby("curve", sort=False):
                axis.plot(rows.checkpoints + beside[curve], rows[name], **look[curve], lw=0.8, label=curve)
            axis.set_xticks(CHECKPOINTS)
        column[0].axhline(PLAN.level, color=INK, lw=0.8, ls=":", label="level")
        column[1].plot(*zip(*gaps.items(), strict=True), color=INK, lw=0.8, ls="--", label="a gap between checkpoints")
        column[1].set_xlabel("checkpoints")
    for axis, label in zip(axes[:, 0], names.values(), strict=True):
        axis.set_ylabel(label)
    axes[0, 0].set_ylim(min(0.9, frame.covered.min() - 0.01), 1.01)
    return dressed(drawn, xr.Dataset(), method=None)


@dataclass(frozen=True)
class Seeds:
    """One question about one curve that rises in every seed at another time."""

    curve: str
    checkpoints: int
    seeds: int
    question: str
    told: float  # share of repeats in which all seeds have an onset, so that there is a mean
    mean_covered: float  # share of its intervals that hold the mean of all seeds there might be
    new_covered: float  # share of intervals for a new seed that hold the onset found in one


def seeds(name: str, checkpoints: int, count: int, repeats: int, seed: int = 0) -> list[Seeds]:
    """Studies of so many seeds and of a new one, whose log onsets have a standard deviation of `SEED_SD` around one."""
    steps, truths, onset = steps_of(checkpoints), [], np.empty((3, repeats, len(onsets.QUESTIONS), count + 1))
    apart = np.diff(np.log1p(steps))[-1]
    for repeat in range(repeats):
        draw = np.random.default_rng([seed, repeat, checkpoints, count])
        middle = apart * draw.uniform(-0.5, 0.5)
        truths.append([*true_onsets(partial(shifted, CURVES[name], middle), steps).values()])
        for k in range(count + 1):
            of_seed = measured(partial(shifted, CURVES[name], middle + draw.normal(0, SEED_SD)), steps, draw)
            q = family(of_seed.p_value[None])[0]
            row, _ = onsets.judge(of_seed, q, PLAN.level, PLAN.sustained, [seed, repeat, k])
            onset[:, repeat, :, k] = row.onset, row.onset_lower, row.onset_upper
    found, new, true = onset_population(*onset[..., :-1], PLAN.level), onset[0, ..., -1], np.array(truths)
    told = np.isfinite(found.mean)
    of_mean = (found.mean_lower <= true) & (true <= found.mean_upper)
    of_new = (found.new_lower <= new) & (new <= found.new_upper)
    return [
        Seeds(
            name,
            checkpoints,
            count,
            question,
            *(float(of.mean()) for of in (there, of_mean[there, k], of_new[there, k])),
        )
        for k, (question, there) in enumerate(zip(onsets.QUESTIONS, told.T, strict=True))
    ]


def table_of_seeds(found: list[Seeds]) -> Table:
    shown = Table("curve", "checkpoints", "seeds", "question", "told", "holds the mean", "holds a new seed's")
    for row in found:
        shares = [f"{share:.0%}" for share in (row.told, row.mean_covered, row.new_covered)]
        shown.add_row(row.curve, str(row.checkpoints), str(row.seeds), row.question.replace("_", " "), *shares)
    return shown


def main(
    repeats: Annotated[int, typer.Option(min=10, help="Of every curve at every number of checkpoints.")] = 300,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
    output: Annotated[Path, typer.Option(help="Where the JSON goes, and the figure beside it.")] = Path(
        "outputs/calibration.json"
    ),
) -> None:
    """Put known curves through the rule of onsets, print a table, write a JSON and draw a figure."""
    grid = [(name, checkpoints) for name in CURVES for checkpoints in CHECKPOINTS]
    found = [row for case in track(grid, "calibrating") for row in cells(*case, repeats, seed)]
    Console(width=max(Console().width, 100)).print(table(found))
    over = [(name, checkpoints, count) for name, count in OVER_SEEDS if name in CURVES for checkpoints in CHECKPOINTS]
    of_seeds = [row for case in track(over, "seeds") for row in seeds(*case, repeats, seed)]
    Console(width=max(Console().width, 100)).print(table_of_seeds(of_seeds))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.with_stem(f"{output.stem}_seeds").write_text(json.dumps([*map(asdict, of_seeds)], indent=1))
    output.write_text(json.dumps([*map(asdict, found)], indent=1))
    figure(found).savefig(output.with_suffix(".png"), dpi=200)


if __name__ == "__main__":
    typer.run(main)
