"""`make ready-alarms`: how often nothing is called ready, and how often what was planted is, over seeds and two worlds.

Of every seed a model is trained in the toy's world, and of some in another (`benchmarks/other_world.yaml`); it is
looked at before its first update and after it, late, and at the end. Counted are, at the end: the emotions (planted),
three kinds of null concepts (`benchmarks.false_alarms`) and the study's own placebo; and every concept of the model of
one update, which has learned nothing, but has a checkpoint before it, so that all criteria can be judged. Beside them
stands `place` by its own words: it is in the stories and can be pushed, but nothing hangs on it. All go through the
functions that a study's notebooks call. Concepts of one model are not independent, though intervals take them for it:
the table says as well in how many models any cell of a kind is called ready.
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
from steerlib.figures.look import INK, PAGE, dressed, style
from steerlib.files import datasets
from steerlib.files.params import overlaid
from steerlib.model import load
from steerlib.results.workspace import Workspace
from steerlib.running.notebook import pretrain_first
from steerlib.running.tables import table_of
from steerlib.stages import emergence, generation, interventions, probing, readiness
from steerlib.stages.criteria import CRITERIA, LEVELS
from steerlib.study import Study

TOY = Path("params/toy.yaml")
WORLDS = {"toy": None, "other": Path(__file__).with_name("other_world.yaml")}  # what is another's
MODELS = [*(f"toy-{seed}" for seed in range(6)), "other-0", "other-1"]
STEPS = [0, 1, 640, 810]
UNTRAINED, LAST = STEPS[1], STEPS[-1]
READY = LEVELS[2:]
KINDS = {
    "untrained": "any concept, untrained model",
    "flipped": "emotions, labels dealt at random",
    "split": "neutral texts, split at random",
    "inert": "place, read by an emotion's words",
    "placebo": "the study's placebo",
    "place": "place, read by its own words",
    "planted": "planted emotions",
}
NULLS = "flipped", "split", "inert"
GROUPS = "probes", "interventions", "generations"


def params_of(model: str) -> dict:
    """A study of few checkpoints and one method, in the world and of the seed that the model's name tells.

    Raises typer.BadParameter for another name.
    """
    world, _, seed = model.rpartition("-")
    if world not in WORLDS or not seed.isdigit():
        raise typer.BadParameter(f"{model!r}: a model is named by its world and its seed, as in toy-3 or other-0")
    toy, change = (yaml.safe_load(path.read_text()) if path else {} for path in (TOY, WORLDS[world]))
    toy["pretraining"]["threads"] = 1
    few = {"checkpoints": {"steps": STEPS}, "generation": {"steps": [LAST]}, "probes": {"methods": ["mean_difference"]}}
    return overlaid(toy | few, change) | {"name": model, "seed": int(seed)}


def collected(study: Study, outputs: Path, nulls: int) -> dict[str, xr.Dataset]:
    """What readiness is judged by, of the study's concepts and of some that are none; texts at the end alone."""
    concepts, nothing = study.load_concepts(), null_concepts(study, study.seed)
    for kind in NULLS:
        concepts += [one for one in nothing if one.name.startswith(kind)][:nulls]
    parts: dict[str, list[xr.Dataset]] = {name: [] for name in GROUPS}
    for step, checkpoint in Workspace(study, outputs).checkpoints.items():
        model = load(checkpoint)
        probes = probing.extract(model, study, concepts)
        swept = interventions.sweep(model, study, concepts, probes)
        found = [probes, swept]
        if step == LAST:
            found.append(generation.generate(model, study, concepts, probes, swept))
        for name, of in zip(GROUPS, found, strict=False):
            kept = of.drop_vars(["null_direction", "direction_redrawn", "gram", "text"], errors="ignore")
            parts[name].append(kept.expand_dims(step=[step]))
    beside = {"data_vars": "minimal", "coords": "minimal", "compat": "override"}
    return {name: xr.concat(of, "step", **beside) for name, of in parts.items()}


def judged(of: dict[str, xr.Dataset], study: Study) -> xr.Dataset:
    """Readiness by what was collected: of the study's own concepts among one another, as in a study, and of null
    concepts beside these, one of each kind at a time, as several that share their words would move one another's."""
    probes, swept, written = (of[name] for name in GROUPS)
    emerged = emergence.analyse(probes, swept, study)
    own = [name for name in probes.concept.values if name.rpartition("-")[0].partition("-")[0] not in KINDS]
    by_kind = [[name for name in probes.concept.values if name.startswith(f"{kind}-")] for kind in NULLS]
    parts = []
    for nulls in ([], *zip(*by_kind, strict=False)):
        there = {"concept": [*own, *nulls]}
        at = swept.sel(there | {"readout_concept": there["concept"]})
        found = readiness.judge(probes.sel(there), at, emerged.sel(there), study, written.sel(there))
        parts.append(found.sel(concept=[*(nulls or own)]))
    return xr.concat(parts, "concept")


def kinds(found: xr.Dataset) -> pd.DataFrame:
    """A row a cell that counts: of which kind it is, its verdict, and every criterion that it does not pass."""
    cells = found[["verdict", "held_back"]].isel(probe=0).to_dataframe().reset_index()
    of = cells.concept.str.split("-").str[0].where(lambda name: name.isin([*KINDS]))
    of[of.isna() & cells.concept.isin(found.concept.values[found.role == "emotion"])] = "planted"
    of[cells.step != LAST] = None
    of[cells.step == UNTRAINED] = "untrained"
    outcome = found.outcome.isel(probe=0).sel(criterion=list(CRITERIA)).to_series().unstack("criterion")
    missed = outcome.apply(lambda row: ", ".join(name for name in CRITERIA if row[name] != "pass"), axis=1)
    cells["missed"] = missed.reindex(pd.MultiIndex.from_frame(cells[list(missed.index.names)])).values
    return cells.assign(kind=of).dropna(subset="kind")


def shares(cells: pd.DataFrame) -> pd.DataFrame:
    """How many cells of each kind there are, and how many are called ready, with an exact interval."""
    rows = {}
    for kind in KINDS:
        of = cells[cells.kind == kind]
        if of.empty:
            continue
        of = of.assign(ready=of.verdict.isin(READY))
        ready = int(of.ready.sum())
        ends = binomtest(ready, len(of)).proportion_ci()
        rows[kind] = {"cells": len(of), "ready": ready, "share": ready / len(of), "lower": ends.low, "upper": ends.high}
        rows[kind] |= {
            "models": of.model.nunique(),
            "models with any ready": int(of.groupby("model").ready.any().sum()),
        }
        rows[kind] |= {"deploy": int((of.verdict == "deploy").sum())}
    return pd.DataFrame(rows).T


def deciding(cells: pd.DataFrame) -> pd.DataFrame:
    """Of each criterion: in how many cells of each kind it is not passed, and in how many it alone is not."""
    rows = {}
    for kind, of in cells.groupby("kind"):
        missed = {name: of.missed.str.split(", ").apply(lambda names, name=name: name in names) for name in CRITERIA}
        rows[kind] = {name: f"{missed[name].sum()} ({(of.missed == name).sum()})" for name in CRITERIA}
    return pd.DataFrame(rows)


def drawn(table: pd.DataFrame) -> Figure:
    """Shares with their intervals, and what they should be."""
    figure, axis = plt.subplots(figsize=(PAGE, 1.6))
    axis.axvspan(0, 0.05, color="0.9", lw=0, zorder=0, label="asked of nothing: 5 % at most")
    axis.axvspan(0.9, 1, color="0.8", lw=0, zorder=0, label="asked of what is planted: 90 % at least")
    for y, kind in enumerate(table.index):
        axis.plot(table.loc[kind, ["lower", "upper"]].astype(float), [y, y], color=INK, lw=1, label="interval")
        axis.plot(float(table.share[kind]), y, "o", color=INK, label="called validate or deploy")
    names = [f"{KINDS[kind]} ({int(count)})" for kind, count in table.cells.items()]
    axis.set(yticks=range(len(table)), yticklabels=names, xlim=(0, 1), xlabel="share")
    axis.invert_yaxis()
    return dressed(figure, xr.Dataset(), method="mean_difference", said="in brackets: how many")


def main(
    models: Annotated[list[str] | None, typer.Argument(help="Worlds and seeds, such as toy-0 or other-1.")] = None,
    nulls: Annotated[int, typer.Option(min=1, max=3, help="Null concepts of each kind and model.")] = 3,
    outputs: Annotated[Path, typer.Option(help="Where models, numbers and the figure go.")] = Path("outputs/readiness"),
    again: Annotated[bool, typer.Option(help="Judge anew what was collected before; nothing is trained.")] = False,
) -> None:
    """Count how many cells of each kind are called ready."""
    style({"name": "readiness"})
    outputs.mkdir(parents=True, exist_ok=True)
    parts: list[pd.DataFrame] = []
    for name in track(models := models or MODELS, "models"):
        path = outputs / f"{name}.yaml"
        path.write_text(yaml.safe_dump(params_of(name)))
        study = Study.load(path)
        files = {group: outputs / "collected" / f"{name}-{group}.nc" for group in GROUPS}
        if not again:
            pretrain_first(str(path), str(outputs))
            for group, of in collected(study, outputs, nulls).items():
                datasets.write(of, files[group])
        of = {group: datasets.read(file) for group, file in files.items()}
        parts.append(kinds(judged(of, study)).assign(model=name))
    cells = pd.concat(parts, ignore_index=True)
    table, decided = shares(cells), deciding(cells)
    cells.to_csv(outputs / "cells.csv", index=False)
    drawn(table).savefig(outputs / "readiness_alarms.png", dpi=150)
    console = Console(width=150)
    console.print(table_of(table.map("{:.3g}".format), "Called ready to validate or deploy"))
    console.print(table_of(decided, "Not passed, and in brackets: nothing else was not"))
    told = {"shares": table.to_dict("index"), "not passed (alone)": decided.to_dict(), "models": models}
    (outputs / "readiness_alarms.json").write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    typer.run(main)
