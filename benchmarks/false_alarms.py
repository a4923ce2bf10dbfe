"""`make false-alarms`: concepts that are none, planted effects, and nulls drawn anew, on the toy's own checkpoints.

Null concepts are real texts, read and pushed like any concept's. Their directions are fitted, their nulls shuffled and
their onsets judged by the functions that a study's notebooks call. Three kinds:

* *flipped*: the pairs of an emotion, with the sides of each dealt at random, on the emotion's readout;
* *split*: neutral statements split at random, as the planted world's placebo, anew for every seed;
* *inert*: where stories happen, which can be read off the states and moves no emotion, on an emotion's readout.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
import xarray as xr
from rich.console import Console
from rich.progress import track
from rich.table import Table

from steerlib.concepts import Concept
from steerlib.concepts.planted import stories
from steerlib.model import load
from steerlib.numerics import onsets, statistics
from steerlib.results.workspace import Workspace
from steerlib.stages import emergence, interventions, probing
from steerlib.stages.bench import Bench
from steerlib.stages.pushes import Pushes
from steerlib.study import Study

TOY = Path("params/toy.yaml")
EACH = 3  # concepts that are split, and inert, of every seed; and one of every emotion is flipped
STEPS = 10  # checkpoints looked at


def flipped(concept: Concept, seed: int) -> Concept:
    """The concept with the sides of every pair dealt at random: its texts, but nothing that they have in common."""
    draw, templates = np.random.default_rng([seed, len(concept.name)]), []
    for template in concept.templates:
        turned = draw.random(len(template.positive)) < 0.5
        pairs = zip(template.positive, template.negative, turned, strict=True)
        sides = [(negative, positive) if turn else (positive, negative) for positive, negative, turn in pairs]
        positive, negative = map(list, zip(*sides, strict=True))
        templates.append(template.model_copy(update={"positive": positive, "negative": negative}))
    return concept.model_copy(update={"name": f"{concept.name}-{seed}", "templates": templates})


def null_concepts(study: Study, seed: int) -> list[Concept]:
    """A few of every kind, by name; a name begins with its kind."""
    real = {concept.name: concept for concept in study.load_concepts() if concept.role == "emotion"}
    found = [
        flipped(concept, seed).model_copy(update={"name": f"flipped-{name}-{seed}"}) for name, concept in real.items()
    ]
    for k in range(EACH * seed, EACH * seed + EACH):
        given = study.probes.pairs, study.sweep.prompts, 1000 + k
        readout = real[list(real)[k % len(real)]].readout
        split, inert = (stories.concept(study.world, name, *given) for name in ("placebo", "place"))
        found.append(split.model_copy(update={"name": f"split-{k}"}))
        found.append(inert.model_copy(update={"name": f"inert-{k}", "readout": readout}))
    return found


def looked_at(study: Study, concepts: list[Concept], model) -> tuple[xr.Dataset, xr.Dataset]:
    """What the emergence analysis reads of some concepts at one checkpoint."""
    probes = probing.extract(model, study, concepts)
    benches = Bench.of(model, concepts, study)
    slopes = interventions.repeated(benches, Pushes(model, study, concepts, probes))
    splits = {name: bench.split for bench in benches for name in bench.readouts.names}
    rows = [xr.DataArray(splits[name], dims="prompt") for name in probes.concept.values]
    slopes["split"] = xr.concat(rows, "readout_concept")
    slopes["strength"] = probes.residual_norm.expand_dims(concept=probes.concept)  # as the toy's alpha counts
    wanted = ["auroc_redrawn", "auroc_shuffled", "auroc_words", "expression", "expression_null", "residual_norm"]
    own = xr.concat(
        [emergence.of_concept(slopes, name).drop_vars("readout_concept") for name in probes.concept.values],
        probes.concept,
        coords="minimal",
    )
    return probes[wanted], own


def with_effect(probes: xr.Dataset, own: xr.Dataset, study: Study, seed: int) -> tuple[xr.Dataset, xr.Dataset]:
    """Twice the least effect added to every measure from the middle checkpoint on."""
    least, late = study.emergence.least, probes.step >= probes.step[probes.sizes["step"] // 2]
    chance = np.random.default_rng(seed).random(probes.expression.shape)
    lucky = probes.expression.copy(data=chance) < 2 * least.expression
    planted = {
        "auroc_redrawn": (probes.auroc_redrawn + 2 * least.separability * late).clip(max=1),
        "expression": probes.expression.where(~(lucky & late) | probes.expression.isnull(), 1.0),
        "expression_null": probes.expression_null.where(~(lucky & late) | probes.expression_null.isnull(), 0.0),
    }
    return probes.assign(planted), own.assign(slope=own.slope + 2 * least.steerability * late)


def clearing_twice(probes: xr.Dataset, own: xr.Dataset, study: Study) -> xr.Dataset:
    """Twice what has to be cleared added to steerability, from the middle checkpoint on: the null's bar, or the least.

    Directions from shuffled labels may do more than the least effect; what they do no rule can tell from a concept's.
    """
    plan, half = study.emergence, probes.sizes["step"] // 2
    bars = np.zeros((own.sizes["concept"], own.sizes["step"]))
    for k, name in enumerate(own.concept.values):
        one = emergence.measures(probes.sel(concept=name), own.sel(concept=name), study)["steerability"][0]
        bars[k, half:] = one.bar(plan.level, study.seed)[0][half:]
    return own.assign(slope=own.slope + 2 * xr.DataArray(bars, {"concept": own.concept}, ["concept", "step"]))


def statuses(probes: xr.Dataset, own: xr.Dataset, study: Study) -> dict[str, dict[str, Counter]]:
    """How many concepts are told to be what, by measure and kind, as a study tells it."""
    seen = [emergence.measures(probes.sel(concept=c), own.sel(concept=c), study) for c in probes.concept.values]
    plan, told = study.emergence, {}
    for measure in emergence.MEASURES:
        ones = [one[measure][0] for one in seen]
        q = statistics.family(np.array([one.p_value for one in ones]))
        found = (onsets.judge(*one, plan.level, plan.sustained, study.seed)[0] for one in zip(ones, q, strict=True))
        told[measure] = defaultdict(Counter)
        for name, one in zip(probes.concept.values, found, strict=True):
            told[measure][name.split("-")[0]][one.status.item()] += 1
    return told


def moved_by_nulls(folder: Path, study: Study, times: int) -> np.ndarray:
    """How many checkpoints every onset of the toy moves when its nulls are drawn anew, resampled from those it has."""
    groups = {
        name: xr.open_zarr(folder / "results.zarr", group=name, consolidated=False)
        for name in ("probes", "interventions")
    }
    probes, swept = (dataset.sel(probe=study.emergence.method) for dataset in groups.values())
    moved = []
    for name in probes.concept.values:
        measured, _ = emergence.measures(probes.sel(concept=name), emergence.of_concept(swept, name), study)[
            "steerability"
        ]
        places = []
        for seed in range(times):
            draw = np.random.default_rng([seed, 1])
            null = measured.null[:, draw.integers(0, measured.null.shape[1], measured.null.shape[1])]
            again = replace(measured, null=null)
            q = statistics.family(again.p_value[None])[0]
            onset = onsets.judge(again, q, study.emergence.level, study.emergence.sustained)[0].onset.values[0]
            places.append(np.interp(np.log1p(onset), np.log1p(measured.steps), np.arange(len(measured.steps))))
        if np.isfinite(places).all() and max(places) < len(measured.steps) - 1:  # those that have an onset
            moved.append(abs(np.array(places) - np.median(places)))
    return np.array(moved)


def main(
    seeds: Annotated[int, typer.Option(min=1, help="Each brings twelve null concepts.")] = 18,
    outputs: Annotated[Path, typer.Option(help="Where the toy is, done (make reproduce).")] = Path("outputs"),
    output: Annotated[Path, typer.Option(help="Where the JSON goes.")] = Path("outputs/false_alarms.json"),
) -> None:
    """Count how many null concepts emerge on the toy's checkpoints, and how many of those with a planted effect do."""
    study = Study.load(TOY)
    checkpoints = list(Workspace(study, outputs).checkpoints.values())
    one_method = {"methods": [study.emergence.method], "random": 20}
    cheap = study.model_copy(update={"probes": study.probes.model_copy(update=one_method)})
    parts = []
    for k in track(np.linspace(0, len(checkpoints) - 1, STEPS).round().astype(int), "checkpoints"):
        model = load(checkpoints[k])
        seen = [looked_at(cheap, null_concepts(study, seed), model) for seed in range(seeds)]
        at = {"step": [checkpoints[k].step]}
        parts.append([xr.concat(side, "concept", coords="minimal").expand_dims(at) for side in zip(*seen, strict=True)])
    probes, own = (xr.concat(side, "step") for side in zip(*parts, strict=True))
    own = own.assign(split=own.split.isel(step=0))  # the same at all of them
    moved = moved_by_nulls(outputs / study.name, study, 40)
    twice = {"steerability": statuses(probes, clearing_twice(probes, own, study), study)["steerability"]}
    told = {
        "null": statuses(probes, own, study),
        "twice the least": statuses(*with_effect(probes, own, study, 0), study),
        "twice the bar": twice,
    }
    shown = Table("effect", "measure", "kind", "emerge", "of", *onsets.STATUS)
    for effect, measure in product(told, emergence.MEASURES):
        for kind, counts in told[effect].get(measure, {}).items():
            emerged = sum(counts[status] for status in onsets.EMERGED)
            each = (str(counts[status] or "") for status in onsets.STATUS)
            shown.add_row(effect, measure, kind, str(emerged), str(counts.total()), *each)
    console = Console(width=180)
    console.print(shown)
    console.print(f"nulls drawn anew: {np.mean(moved <= 1):.1%} of the toy's onsets move by at most a checkpoint")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(told | {"moved by at most one": float(np.mean(moved <= 1))}, indent=1))


if __name__ == "__main__":
    typer.run(main)
