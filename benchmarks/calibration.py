"""`make calibrate`: does the interval of an onset hold the onset, and how often is one told where there is none?

Curves that are known, seen at few and at many checkpoints through the noise of prompts and of null draws, go through
the very rule that a study uses (`steerlib.numerics.onsets`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from jaxtyping import Float
from rich.console import Console
from rich.progress import track
from rich.table import Table

from steerlib.numerics import onsets
from steerlib.numerics.statistics import bootstrap_means

FIRST, LAST, MIDDLE = np.log1p([32, 1000, 180])  # of the checkpoints after step 0; of the curves, in log(1 + step)
HEIGHT = 6.0  # nat per residual norm, about what the toy's emotions reach
# As on the toy: prompts differ in how much they can be steered, and no two draws of a null are alike.
PROMPTS, GAIN, NOISE = 24, 0.6, 0.3
NULLS = {"random": (200, 0.5), "shuffled": (20, 1.0)}  # draws, and their standard deviation
RESAMPLES, LEVEL, SUSTAINED = 500, 0.95, 2

Curve = Callable[[np.ndarray], np.ndarray]  # of log(1 + step)


def rising(middle: float, steepness: float, height: float = HEIGHT) -> Curve:
    return lambda x: height / (1 + np.exp(-steepness * (x - middle)))


CURVES: dict[str, Curve] = {
    "sigmoid": rising(MIDDLE, 3),
    "slow": rising(MIDDLE, 1.5),
    "step": lambda x: np.where(x > MIDDLE, HEIGHT, 0.0),
    "late": rising(LAST - 0.6, 5),
    "weak": rising(MIDDLE, 3, HEIGHT / 2),
    "never": lambda x: np.zeros_like(x),
}


@dataclass(frozen=True)
class Cell:
    """What became of one curve at so many checkpoints; an onset's distances are counted in checkpoints."""

    curve: str
    checkpoints: int
    told: float  # share of repeats in which there is an onset
    covered: float | None  # share of intervals that hold the true onset; None where there is none
    late: float | None  # median of the onset told less the true one
    wide: float | None  # median width of the interval


def steps_of(checkpoints: int) -> np.ndarray:
    """Step 0, and the others evenly in log(1 + step)."""
    return np.concatenate([[0], np.unique(np.expm1(np.linspace(FIRST, LAST, checkpoints - 1)).round())]).astype(int)


def seen(curve: Curve, steps: np.ndarray, draw: np.random.Generator) -> Float[np.ndarray, "step prompt"]:
    """The curve by every prompt."""
    gains = draw.normal(1, GAIN, PROMPTS)
    return curve(np.log1p(steps))[:, None] * gains + draw.normal(0, NOISE, (len(steps), PROMPTS))


def true_onset(curve: Curve, steps: np.ndarray) -> float:
    """Where the curve itself crosses the quantile of a null of which there is no end; infinite where it does not."""
    bar = 1.6449 * max(deviation for _, deviation in NULLS.values())
    x = np.linspace(*np.log1p(steps[[0, -1]]), 10_000)
    above = curve(x) > bar
    return float(np.expm1(x[above.argmax()])) if above.any() else np.inf


def cell(name: str, checkpoints: int, repeats: int, seed: int = 0) -> Cell:
    """One curve at so many checkpoints, again and again."""
    curve, steps = CURVES[name], steps_of(checkpoints)
    true, at = true_onset(curve, steps), lambda step: float(np.searchsorted(steps, step))
    told, covered, late, wide = [], [], [], []
    for repeat in range(repeats):
        draw = np.random.default_rng([seed, repeat, checkpoints])
        units = seen(curve, steps, draw)
        nulls = {kind: draw.normal(0, sd, (len(steps), n)) for kind, (n, sd) in NULLS.items()}
        resamples = bootstrap_means(units, RESAMPLES, [seed, repeat])
        found, _ = onsets.trajectory(steps, units.mean(1), resamples, nulls, LEVEL, SUSTAINED, pooled=True)
        onset, lower, upper = (float(found[f"onset_{end}"]) for end in ("step", "lower", "upper"))
        told.append(np.isfinite(onset))
        # An onset at a checkpoint is known to lie after the one before it.
        before = steps[int(at(lower)) - 1] if 0 < at(lower) < len(steps) else lower
        covered.append(before < true <= upper)
        if told[-1]:
            late.append(at(onset) - at(true))
            wide.append(at(upper) - at(lower) + 1)
    whole = np.isfinite(true) and late
    return Cell(
        name,
        checkpoints,
        float(np.mean(told)),
        float(np.mean(covered)) if np.isfinite(true) else None,
        float(np.median(late)) if whole else None,
        float(np.median(wide)) if whole else None,
    )


def table(cells: list[Cell]) -> Table:
    shown = Table("curve", "checkpoints", "onset told", "interval holds it", "late by", "wide")
    for row in cells:
        shares = [f"{share:.0%}" if share is not None else "–" for share in (row.told, row.covered)]
        lengths = [f"{length:.1f}" if length is not None else "–" for length in (row.late, row.wide)]
        shown.add_row(row.curve, str(row.checkpoints), *shares, *lengths)
    return shown


def main(
    repeats: Annotated[int, typer.Option(min=10, help="Of every curve at every number of checkpoints.")] = 300,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
    output: Annotated[Path, typer.Option(help="Where the JSON goes.")] = Path("outputs/calibration.json"),
) -> None:
    """Put known curves through the onset rule, print a table, write a JSON."""
    grid = [(name, checkpoints) for name in CURVES for checkpoints in (8, 15, 30)]
    cells = [cell(*case, repeats, seed) for case in track(grid, "calibrating")]
    Console().print(table(cells))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps([*map(asdict, cells)], indent=1))


if __name__ == "__main__":
    typer.run(main)
