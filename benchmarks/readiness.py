"""`make ready-alarms`: how often nothing is called ready, and how often what was planted is, over seeds of the toy.

Of every seed a model is trained, and looked at untrained, in the middle and at the end of training. Planted: the
emotions, at the end. Nothing: the three kinds of null concepts of `benchmarks.false_alarms`, the study's own placebo,
and every concept of the untrained model. All go through the functions that a study's notebooks call.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import pandas as pd
import typer
import xarray as xr
import yaml
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from scipy.stats import binomtest

from benchmarks.false_alarms import null_concepts
from steerlib.figures.look import COLUMN, INK, dressed, style
from steerlib.model import load
from steerlib.results.workspace import Workspace
from steerlib.running.notebook import pretrain_first
from steerlib.running.tables import table_of
from steerlib.stages import emergence, interventions, probing, readiness
from steerlib.stages.criteria import LEVELS
from steerlib.study import Study

STEPS = [0, 416, 640, 810]
READY = LEVELS[2:]
KINDS = {
    "untrained": "any concept, untrained model",
    "flipped": "emotions, labels dealt at random",
    "split": "neutral texts, split at random",
    "inert": "place, read by an emotion's words",
    "placebo": "the study's placebo",
    "planted": "planted emotions, at the end",
}


def study_of(seed: int, outputs: Path) -> Study:
    """The toy of another seed, of few checkpoints and one method, pretrained."""
    change = {"seed": seed, "checkpoints": {"steps": STEPS}, "probes": {"methods": ["mean_difference"]}}
    path = outputs / "readiness.yaml"
    toy = Path("params/toy.yaml").resolve()
    path.write_text(yaml.safe_dump({"name": "readiness", "study": str(toy), "variants": {f"seed-{seed}": change}}))
    pretrain_first(f"{path}#seed-{seed}", str(outputs))
    return Study.load(f"{path}#seed-{seed}")


def judged(study: Study, outputs: Path, nulls: int) -> xr.Dataset:
    """Readiness of the study's concepts and of some that are none."""
    concepts, nothing = study.load_concepts(), null_concepts(study, study.seed)
    for kind in ("flipped", "split", "inert"):
        concepts += [one for one in nothing if one.name.startswith(kind)][:nulls]
    parts = []
    for step, checkpoint in Workspace(study, outputs).checkpoints.items():
        model = load(checkpoint)
        probes = probing.extract(model, study, concepts)
        parts.append(
            [of.expand_dims(step=[step]) for of in (probes, interventions.sweep(model, study, concepts, probes))]
        )
    probes, swept = (
        xr.concat(side, "step", data_vars="minimal", coords="minimal", compat="override")
        for side in zip(*parts, strict=True)
    )
    return readiness.judge(probes, swept, emergence.analyse(probes, swept, study), study)


def kinds(found: xr.Dataset) -> pd.DataFrame:
    """A row a cell that counts: of which kind it is, and its verdict."""
    cells = found[["verdict", "held_back"]].isel(probe=0).to_dataframe().reset_index()
    of = cells.concept.str.split("-").str[0].where(lambda name: name.isin([*KINDS]))
    of[cells.concept.isin(found.concept[found.role == "emotion"]) & (cells.step == STEPS[-1])] = "planted"
    of[cells.step == 0] = "untrained"
    return cells.assign(kind=of).dropna(subset="kind")


def shares(cells: pd.DataFrame) -> pd.DataFrame:
    """How many cells of each kind there are, and how many are called ready, with an exact interval."""
    rows = {}
    for kind in KINDS:
        of = cells[cells.kind == kind]
        ready = int(of.verdict.isin(READY).sum())
        if of.empty:
            continue
        ends = binomtest(ready, len(of)).proportion_ci()
        rows[kind] = {"cells": len(of), "ready": ready, "share": ready / len(of), "lower": ends.low, "upper": ends.high}
    return pd.DataFrame(rows).T


def drawn(table: pd.DataFrame) -> Figure:
    """Shares with their intervals, and what they should be."""
    figure, axis = plt.subplots(figsize=(COLUMN, 1.6))
    axis.axvspan(0, 0.05, color="0.9", lw=0, zorder=0, label="asked of nothing: 5 % at most")
    axis.axvspan(0.9, 1, color="0.8", lw=0, zorder=0, label="asked of what is planted: 90 % at least")
    for y, kind in enumerate(table.index):
        axis.plot(table.loc[kind, ["lower", "upper"]].astype(float), [y, y], color=INK, lw=1, label="interval")
        axis.plot(float(table.share[kind]), y, "o", color=INK, label="share called validate or deploy")
    names = [f"{KINDS[kind]} ({int(count)})" for kind, count in table.cells.items()]
    axis.set(yticks=range(len(table)), yticklabels=names, xlim=(0, 1), xlabel="called ready to validate or deploy")
    axis.invert_yaxis()
    return dressed(figure, xr.Dataset(), method="mean_difference", said="in brackets: checkpoints × concepts")


def main(
    seeds: Annotated[int, typer.Option(min=1, help="How many models are trained.")] = 5,
    first: Annotated[int, typer.Option(help="The first seed.")] = 0,
    nulls: Annotated[
        int, typer.Option(min=1, help="Null concepts of each kind and seed, of those that there are.")
    ] = 4,
    outputs: Annotated[Path, typer.Option(help="Where models, numbers and the figure go.")] = Path("outputs/readiness"),
) -> None:
    """Count how many cells of each kind are called ready."""
    style({"name": "readiness"})
    outputs.mkdir(parents=True, exist_ok=True)
    cells = [
        kinds(judged(study_of(seed, outputs), outputs, nulls)).assign(seed=seed)
        for seed in track(range(first, first + seeds), "seeds")
    ]
    cells = pd.concat(cells, ignore_index=True)
    table = shares(cells)
    cells.to_csv(outputs / "cells.csv", index=False)
    drawn(table).savefig(outputs / "readiness_alarms.png", dpi=200)
    Console().print(table_of(table.map("{:.3g}".format), "Called ready to validate or deploy"))
    (outputs / "readiness.json").write_text(json.dumps(table.to_dict("index"), indent=1))


if __name__ == "__main__":
    typer.run(main)
