"""Whether a checkpoint is ready, for the console and for machines."""

import json
from collections.abc import Sequence

import numpy as np
import xarray as xr
from rich.console import Console

from steerlib import SteerlibError, nearest
from steerlib.results import judged, keys
from steerlib.results.freshness import Freshness
from steerlib.results.opening import NotRun, OpenStudy
from steerlib.running import estimate
from steerlib.running.tables import table_of
from steerlib.stages.criteria import LEVELS, finite, plain, reaches, sentences, table
from steerlib.study import Study


def cells(study: OpenStudy, step: int | None, concepts: Sequence[str] | None, method: str | None) -> xr.Dataset:
    """Readiness of one checkpoint and method (`judged.cells`); where it has to be run first, also how long that takes.

    Raises SteerlibError.
    """
    try:
        return judged.cells(study, step, concepts, method)
    except NotRun as error:
        raise NotRun(f"{error}{estimate.about(study.workspace, Freshness(study.workspace).todo())}") from None


def show(found: xr.Dataset, at_least: str | None, machine: bool, console: Console) -> bool:
    """A table, or JSON; whether every concept reaches the verdict that is asked for."""
    if at_least and at_least not in LEVELS[1:]:
        raise SteerlibError(
            f"--at-least: {at_least!r} is none of {', '.join(LEVELS[1:])}{nearest(at_least, LEVELS[1:])}"
        )
    reached = [reaches(verdict, at_least or LEVELS[0]) for verdict in found.verdict.values]
    if machine:
        print(json.dumps(told(found), indent=1, allow_nan=False))
        return all(reached)
    title = f"Step {int(found.step)}, method {found['probe'].item()}: may it be pushed along this concept?"
    console.print(table_of(table(found), title))
    short = found.concept.values[~np.array(reached)]
    for name in short:
        of = sentences(found.sel(concept=name))
        missed = [f"{criterion}: {said}" for criterion, (outcome, said) in of.items() if outcome != "pass"]
        console.print(f"{name} is not ready to {at_least}: {'; '.join(missed)}.", soft_wrap=True)
    return all(reached)


def verdicts(params: Study, found: xr.Dataset) -> dict:
    """What the audit keeps of it."""
    of = dict(zip(found.concept.values.tolist(), found.verdict.values.tolist(), strict=True))
    told = {"step": int(found.step), "method": found["probe"].item(), "verdicts": of}
    return {"params": keys.of_params(params)} | told


def told(found: xr.Dataset) -> dict:
    """All that is known of each concept, of numbers and words alone; null where a number is not finite."""
    concepts = {}
    for name in found.concept.values:
        cell = found.sel(concept=name)
        concepts[str(name)] = {
            "verdict": cell.verdict.item(),
            "held_back": cell.held_back.item() or None,
            "layer": int(cell.layer_pushed),
            "recommended_alpha": finite(cell.recommended_alpha),
            "criteria": plain(cell),
        }
    return {"step": int(found.step), "method": found["probe"].item(), "concepts": concepts}
