"""Whether a checkpoint is ready, for the console and for machines."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from rich.console import Console

from steerlib import SteerlibError, nearest
from steerlib.files import store
from steerlib.results import opening
from steerlib.results.freshness import Freshness
from steerlib.results.workspace import Job
from steerlib.running.tables import table_of
from steerlib.stages import readiness
from steerlib.stages.criteria import LEVELS, sentences, table


def cells(
    params: Path, outputs: Path, step: int | None, concepts: Sequence[str] | None, method: str | None
) -> xr.Dataset:
    """Readiness of one checkpoint and method, by concept: as it was stored, or judged now from what was collected.

    Raises SteerlibError where the study was not run, and for a step, concept or method that it does not have.
    """
    study = opening.open_study(params, outputs)
    job, workspace = Job("readiness"), study.workspace
    if job in workspace.jobs() and Freshness(workspace).usable(job):
        found = store.read(workspace.data(job))
    else:
        found = _judged(study)
    asked = {
        "step": int(found.step[-1]) if step is None else step,
        "probe": method or study.params.emergence.method,
    }
    for dim, values in (*((dim, [value]) for dim, value in asked.items()), ("concept", concepts or [])):
        known = found[dim].values.tolist()
        if unknown := [value for value in values if value not in known]:
            name = {"probe": "method"}.get(dim, dim)
            there = ", ".join(map(str, known))
            raise SteerlibError(
                f"{study.params.path}: has no {name} {unknown[0]!r}; there are {there}{nearest(unknown[0], known)}"
            )
    found = found.sel(asked)
    return found.sel(concept=list(dict.fromkeys(concepts))) if concepts else found


def _judged(study: opening.OpenStudy) -> xr.Dataset:
    """By what was collected. Raises SteerlibError where that is of other params or of a steerlib that kept less."""
    of, folder, path = study.results, study.workspace.folder, study.params.path
    lacking = [name for name in readiness.READ if name not in of["interventions"]]
    if lacking or study.changed(of["emergence"]):
        why = f"have no {lacking[0]}, as an older steerlib made them" if lacking else "are of other params"
        raise SteerlibError(f"{folder}: readiness cannot be told by these results, which {why}; steerlib run {path}")
    if Freshness(study.workspace).state(Job("emergence")) != "done":
        store.tell(f"{folder}: judged by results that are out of date; steerlib run {path} makes them anew")
    return readiness.judge(of["probes"], of["interventions"], of["emergence"], study.params, of.get("generations"))


def show(found: xr.Dataset, at_least: str | None, machine: bool, console: Console) -> bool:
    """A table, or JSON; whether every concept reaches the verdict that is asked for."""
    if at_least and at_least not in LEVELS[1:]:
        raise SteerlibError(
            f"--at-least: {at_least!r} is none of {', '.join(LEVELS[1:])}{nearest(at_least, LEVELS[1:])}"
        )
    reached = [LEVELS.index(verdict) >= LEVELS.index(at_least or LEVELS[0]) for verdict in found.verdict.values]
    if machine:
        print(json.dumps(plain(found), indent=1, allow_nan=False))
        return all(reached)
    title = f"Step {int(found.step)}, method {found['probe'].item()}: may it be pushed along this concept?"
    console.print(table_of(table(found), title))
    short = found.concept.values[~np.array(reached)]
    for name in short:
        told = sentences(found.sel(concept=name))
        missed = [f"{criterion}: {said}" for criterion, (outcome, said) in told.items() if outcome != "pass"]
        console.print(f"{name} is not ready to {at_least}: {'; '.join(missed)}.", soft_wrap=True)
    return all(reached)


def plain(found: xr.Dataset) -> dict:
    """All that is known of each concept, of numbers and words alone; null where a number is not finite."""
    number = lambda value: float(value) if np.isfinite(value) else None  # noqa: E731
    told = {"step": int(found.step), "method": found["probe"].item(), "concepts": {}}
    for name in found.concept.values:
        cell = found.sel(concept=name)
        criteria = {}
        for criterion, (outcome, said) in sentences(cell).items():
            numbers = {each: number(cell[each].sel(criterion=criterion)) for each in ("value", "lower", "upper")}
            numbers["threshold"] = number(cell.threshold.sel(criterion=criterion))
            criteria[criterion] = {"outcome": outcome, "said": said, **numbers}
        told["concepts"][str(name)] = {
            "verdict": cell.verdict.item(),
            "held_back": cell.held_back.item() or None,
            "layer": int(cell.layer_pushed),
            "recommended_alpha": number(cell.recommended_alpha),
            "criteria": criteria,
        }
    return told
