"""What an exploration has chosen, frozen before anything else is looked at: how, how hard and how it will be judged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr
import yaml
from pydantic import Field

from steerlib import SteerlibError
from steerlib.files import params, store
from steerlib.files.hashes import file_sha256
from steerlib.pilot import choices, seen
from steerlib.pilot.choices import Choices, Frozen
from steerlib.pilot.seen import Marks
from steerlib.results import audit, cards, judged
from steerlib.results.freshness import Freshness
from steerlib.results.opening import OpenStudy
from steerlib.results.provenance import git_commit, now
from steerlib.results.workspace import Job, Workspace
from steerlib.stages.criteria import plain, reaches
from steerlib.steering import Direction
from steerlib.steering.operators import ALONG

NAME, ENOUGH = "freeze.yaml", "validate"  # the least verdict with which a concept is frozen


class Freeze(Choices):
    """All choices of a pilot."""

    concepts: dict[str, Frozen] = Field(min_length=1)
    neutral: Marks  # passages on which side effects were measured


def folder_of(study: OpenStudy) -> Path:
    return study.workspace.folder / "pilot"


def direction_file(folder: Path, concept: str) -> Path:
    return folder / f"{concept}.safetensors"


# --- freezing -------------------------------------------------------------------------------------------------------


def new(study: OpenStudy, concepts: Sequence[str] | None = None, step: int | None = None, overwrite=False) -> Freeze:
    """Freeze what a study has chosen, of these concepts or of all that are ready to be validated, at a checkpoint.

    Raises SteerlibError for a study that was not run or whose results are out of date, for a concept that is not ready,
    and where another freeze is there already.
    """
    plan, path, folder = study.params, study.params.path, folder_of(study)
    if (folder / NAME).exists() and not overwrite:
        raise SteerlibError(
            f"{folder / NAME}: is there already, and a validation hangs on it; move the folder away, or --overwrite it"
        )
    if plan.sweep.operator not in ALONG:
        raise SteerlibError(
            f"{path}: sweep.operator {plan.sweep.operator!r} takes more than a direction; {', '.join(ALONG)} can be "
            "frozen"
        )
    cells = judged.cells(study, step, concepts, None)
    if Freshness(study.workspace).state(Job("emergence")) != "done":
        raise SteerlibError(
            f"{study.workspace.folder}: holds results that are out of date; run it: steerlib run {path}"
        )
    ready = [str(name) for name in cells.concept.values if _is_ready(cells.sel(concept=name))]
    if short := [name for name in cells.concept.values if name not in ready and (concepts or not ready)]:
        cell = cells.sel(concept=short[0])
        raise SteerlibError(
            f"{path}: {short[0]} is {cell.verdict.item()} at step {int(cells.step)}, held back by "
            f"{cell.held_back.item()}; it takes the verdict {ENOUGH} to be frozen: steerlib ready {path}"
        )
    directions = {name: _direction(study, cells.sel(concept=name)) for name in ready}
    for name, direction in directions.items():
        direction.save(direction_file(folder, name))
    marked = seen.of_study(plan)
    frozen = Freeze(
        **choices.of(plan),
        made=now(),
        commit=git_commit(),
        step=int(cells.step),
        weights_sha256=directions[ready[0]].weights_sha256,
        concepts={
            name: _frozen(study, cells.sel(concept=name), file_sha256(direction_file(folder, name)), *marked[name])
            for name in ready
        },
        neutral=seen.marks(plan.load_neutral()),
    ).sealed()
    text = yaml.safe_dump(frozen.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
    store.write_bytes(folder / NAME, text.encode())
    audit.log(study.workspace.folder, "pilot frozen", step=frozen.step, freeze=frozen.hash, concepts=ready)
    return frozen


def _is_ready(cell: xr.Dataset) -> bool:
    return reaches(cell.verdict.item(), ENOUGH)


def _at(study: OpenStudy, cell: xr.Dataset, group: str) -> xr.Dataset:
    """What was collected of the push that is judged: its step, method, concept and layer."""
    found = study.results[group].sel(step=cell.step, probe=cell["probe"], concept=cell.concept)
    return found.sel(layer=int(cell.layer_pushed))


def _direction(study: OpenStudy, cell: xr.Dataset) -> Direction:
    """As it was explored, and not fitted again; its card tells what exploring found."""
    workspace, step, name = study.workspace, int(cell.step), str(cell.concept.item())
    concept = next(concept for concept in workspace.concepts if concept.name == name)
    found = _at(study, cell, "probes")[["direction", "length", "spread", "residual_norm"]].compute()
    return Direction(
        vector=found.direction.values.astype(np.float32),
        **{name: float(found[name]) for name in ("length", "spread", "residual_norm")},
        method=str(cell["probe"].item()),
        concept=name,
        layer=int(cell.layer_pushed),
        model=workspace.analysed[step].revision,
        weights_sha256=str(found.weights_sha256.item()),
        tokenizer_sha256=study.model(step).encoder.sha256,
        card=cards.of(workspace, concept, step, cards.pushed(workspace.study, study.results, cell)),
    )


def _frozen(study: OpenStudy, cell: xr.Dataset, sha256: str, texts: Marks, prompts: Marks) -> Frozen:
    return Frozen(
        layer=int(cell.layer_pushed),
        alpha=float(cell.recommended_alpha),
        strength=float(_at(study, cell, "interventions").strength),
        verdict=cell.verdict.item(),
        explored=plain(cell),
        direction_sha256=sha256,
        texts=texts,
        prompts=prompts,
    )


# --- a freeze that is there -----------------------------------------------------------------------------------------


def load(study: OpenStudy) -> tuple[Freeze, dict[str, Direction], OpenStudy]:
    """The freeze of a study with its directions, and the study as it was frozen, whatever its params are now.

    Raises SteerlibError where nothing is frozen, for a freeze or direction that was altered, and where checkpoint or
    texts are no longer those that were frozen.
    """
    plan, folder = study.params, folder_of(study)
    path, again = folder / NAME, f"freeze again: steerlib pilot new {plan.path}"
    if not path.exists():
        raise SteerlibError(f"{path}: nothing is frozen yet; steerlib pilot new {plan.path}")
    frozen = params.validate(params.read(path), path, Freeze, plan.home).check(path, again)
    directions = {
        name: direction(direction_file(folder, name), one.direction_sha256, again)
        for name, one in frozen.concepts.items()
    }
    then = OpenStudy(Workspace(frozen.as_study(plan.path, plan.home), study.workspace.folder.parent))
    if frozen.step not in then.steps or then.workspace.analysed[frozen.step].weights_sha256 != frozen.weights_sha256:
        raise SteerlibError(f"{path}: the checkpoint at step {frozen.step} is not the one that was frozen; {again}")
    now = seen.of_study(then.params)
    for name, one in frozen.concepts.items():
        if (one.texts, one.prompts) != now.get(name):
            raise SteerlibError(
                f"{plan.path}: {name}: its texts or prompts are not those that were frozen; put new ones into a file "
                f"of their own, or {again}"
            )
    return frozen, directions, then


def direction(file: Path, sha256: str, remedy: str) -> Direction:
    """A frozen direction. Raises SteerlibError where it is another."""
    if file.is_file() and file_sha256(file) != sha256:
        raise SteerlibError(f"{file}: is not the direction that was frozen; take it from a copy, or {remedy}")
    return Direction.load(file)
