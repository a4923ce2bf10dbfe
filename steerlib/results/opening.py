"""A study at hand, in a REPL or a notebook: its models, directions and results by name.

In a few lines:

    study = steerlib.open("params/toy.yaml")
    model, sadness = study.model(step=810), study.direction("sadness", step=810)
    with model.steer(sadness, alpha=1):
        print(model.write("Anna felt"))
"""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from functools import cache, cached_property
from html import escape
from pathlib import Path
from shutil import get_terminal_size
from threading import Lock
from typing import Any, NoReturn

import pandas as pd
import xarray as xr
from transformers.utils import logging

from steerlib import SteerlibError, nearest
from steerlib.files import datasets, store
from steerlib.files.hashes import file_sha256
from steerlib.model import load
from steerlib.results import audit, cards, tree
from steerlib.results.freshness import Freshness
from steerlib.results.provenance import PROJECT, in_project
from steerlib.results.workspace import Job, Workspace
from steerlib.stages import probing
from steerlib.stages.summary import conclusions, legend, summary
from steerlib.steering import Direction
from steerlib.steering.by_hand import Steerable
from steerlib.steering.direction import Scale
from steerlib.steering.exports import Tool
from steerlib.study import Study

ANALYSIS = Job("emergence")
KEYS = ("step", "layer", "concept")
FEW = 12
KEPT = 2  # models in memory


def open_study(params: str | Path, outputs: str | Path = "outputs") -> OpenStudy:
    """The study of a params file, or of one in ``params/`` by its name, with what there is of its results.

    Paths are taken from the current folder, or else from the project's. Raises SteerlibError.
    """
    if not isinstance(params, str | Path):
        raise SteerlibError(f"{params!r} names no study; give the path of its params file, or its name in params/")
    study = Study.load(in_project(params))
    here = Path(outputs)
    return OpenStudy(Workspace(study, here if (here / study.name).is_dir() else PROJECT / outputs))


class OpenStudy:
    """What can be done with a study by hand; whatever is asked for by a wrong name is answered with the right ones."""

    def __init__(self, workspace: Workspace):
        self.workspace, self.params = workspace, workspace.study
        self.models, self._one = dict[int, Steerable](), Lock()
        # Over the prompts of all concepts, as in the study's results: alpha is to count the same here and there.
        self._norms = cache(lambda step: probing.residual_norm(self.model(step), self.workspace.concepts))
        self._noted = cache(lambda **told: audit.note(workspace.folder, "direction found", **told))

    @property
    def steps(self) -> list[int]:
        return list(self.workspace.checkpoints)

    @property
    def here(self) -> list[int]:
        """Steps whose checkpoints are on this disk."""
        return [step for step, checkpoint in self.workspace.analysed.items() if checkpoint.whole.is_dir()]

    @property
    def concepts(self) -> list[str]:
        return [concept.name for concept in self.workspace.concepts]

    def model(self, step: int | None = None) -> Steerable:
        """The checkpoint at a step, the last by default, in memory. Raises SteerlibError where there is none.

        Two at a time are kept, so that asking again takes no time.
        """
        step = self._step(step)
        if step not in self.here:
            raise SteerlibError(
                f"{self.workspace.analysed[step].whole} is not there yet (there: {listed(self.here) or 'none'}); "
                f"`steerlib run {self.params.path}` makes or fetches it"
            )
        logging.disable_progress_bar()
        with self._one:  # of those who ask at once, one loads
            if step not in self.models:
                while len(self.models) >= KEPT:  # before the next is loaded: there are never more in memory
                    del self.models[next(iter(self.models))]
                self.models[step] = load(self.workspace.analysed[step], Steerable)
            self.models[step] = self.models.pop(step)  # the last asked for
            return self.models[step]

    def direction(
        self,
        concept: str,
        step: int | None = None,
        layer: int | None = None,
        method: str | None = None,
        card: bool = True,
    ) -> Direction:
        """A concept's direction at a step, the last by default, fitted on the fitting half of its templates.

        By the analysis's method, at the layer that it chose there, unless these are told. Its ``card`` has what the
        study found of it, which takes a moment to look up. Raises SteerlibError.
        """
        concept = _one_of(self.concepts, concept, f"{self.params.name} has no concept")
        step = self._step(step)
        model = self.model(step)
        if layer is None:
            layer = self.chosen_layer(concept, step, model.n_layers)
        layer = _one_of(range(model.n_layers), layer, "this model has no layer")
        found = self.workspace.concepts[self.concepts.index(concept)]
        method = self.params.emergence.method if method is None else method
        # By its name, one of the study's own has the options that the study tells.
        own = next((own for own in self.params.probes.load_methods() if own.name == method), None)
        try:
            direction = probing.find(model, found, layer, own or method, self.params.seed, self._norms(step)[layer])
        except ValueError as error:  # a method that there is not, or options that it does not have
            raise SteerlibError(str(error)) from None
        self._noted(step=step, **_about(direction))  # once
        if card:
            cell = cards.cell_of(self._ready, self.results, direction, step) if own and self._ready else None
            pushed = cards.pushed(self.params, self.results, cell) if cell else None
            direction = replace(direction, card=cards.of(self.workspace, found, step, pushed))
        return OfStudy.of(direction, self.workspace.folder)

    @cached_property
    def _ready(self) -> xr.Dataset | None:
        """Readiness, as it was found. None where it was not asked for, or does not hold any more."""
        job = Job("readiness")
        there = job in self.workspace.jobs() and Freshness(self.workspace).state(job) == "done"
        return datasets.read(self.workspace.data(job)) if there else None

    def load(self, path: str | Path) -> Direction:
        """A direction that was saved; that it was loaded stands in the audit. Raises SteerlibError."""
        direction, folder = Direction.load(path), self.workspace.folder
        audit.note(
            folder, "direction loaded", **_about(direction), file=Path(path).name, sha256=file_sha256(Path(path))
        )
        return OfStudy.of(direction, folder)

    def _step(self, step: int | None) -> int:
        return (
            self.steps[-1]
            if step is None
            else _one_of(self.steps, step, f"{self.params.name} has no checkpoint at step")
        )

    def chosen_layer(self, concept: str, step: int, layers: int) -> int:
        """The layer that the analysis chose for a concept at a step. Raises SteerlibError where none did."""
        path = self.workspace.data(ANALYSIS)
        chosen = datasets.read(path).layer_by_step if path.is_file() else None
        if chosen is None or step not in chosen.step or concept not in chosen.concept:
            raise SteerlibError(
                f"no analysis has chosen a layer for {concept} at step {step} yet: say layer=, 0 to {layers - 1}, or "
                f"run the study (steerlib run {self.params.path})"
            )
        return int(chosen.sel(step=step, concept=concept))

    @cached_property
    def results(self) -> Results:
        """All that was collected of its checkpoints; told if other params made it. SteerlibError before it was run."""
        groups = tree.read(self.workspace.folder / tree.NAME)
        if "emergence" not in groups:
            raise NotRun(f"{self.workspace.folder} holds no results yet; make them: steerlib run {self.params.path}")
        if other := self.changed(groups["emergence"]):
            store.tell(
                f"{self.workspace.folder}: these results are of other params ({', '.join(other)}) than "
                f"{self.params.path} has now; steerlib run {self.params.path} makes them anew"
            )
        return Results(groups)

    def changed(self, found: xr.Dataset) -> list[str]:
        """Keys of the params that say other than those a result was made by; readiness is judged afterwards."""
        made, now = json.loads(found.attrs["params"]), self.params.model_dump(mode="json")
        return [key for key in now if key != "readiness" and now[key] != made.get(key)]

    def __repr__(self) -> str:
        return f"<study {self.params.name}: steps {listed(self.steps)}; concepts {listed(self.concepts)}>"

    def _repr_html_(self) -> str:
        """What there is of it, as a table."""
        steps = (f"{step}{'' if c.path.is_dir() else ' (not here yet)'}" for step, c in self.workspace.analysed.items())
        told = {"params": self.params.path, "results": self.workspace.folder, "steps": ", ".join(steps)}
        told["concepts"] = ", ".join(self.concepts)
        return pd.Series(told, name=self.params.name).to_frame().to_html()


class OfStudy(Direction):
    """A direction out of a study: where it is saved stands in the study's audit."""

    folder: Path

    @classmethod
    def of(cls, direction: Direction, folder: Path) -> OfStudy:
        one = cls(**vars(direction))
        one.folder = folder
        return one

    def save(self, path: str | Path) -> None:
        super().save(path)
        self._note(path)

    def export(self, path: str | Path, to: Tool, scale: Scale = "residual_norm") -> None:
        super().export(path, to, scale)
        self._note(path)

    def _note(self, path: str | Path) -> None:
        told = {"file": os.path.abspath(path), "sha256": file_sha256(Path(path))}
        audit.note(self.folder, "direction saved", **_about(self), **told)


def _about(direction: Direction) -> dict[str, Any]:
    """What the audit tells of one."""
    return {key: getattr(direction, key) for key in ("concept", "method", "layer", "model", "weights_sha256")}


class NotRun(SteerlibError):
    """There are no results, or none that fit the params: running the study makes them."""


class Found(pd.DataFrame):
    """A table that shows all of its columns, however narrow the terminal."""

    def __repr__(self) -> str:
        return self.to_string(line_width=get_terminal_size().columns)


class Results(dict[str, xr.Dataset]):
    """Datasets by group, read from disk when they are used, with what was found as their summary."""

    def __missing__(self, name: object) -> NoReturn:
        _one_of([*self], name, "these results have no group")

    @property
    def summary(self) -> Found:
        """What was found, a row a concept (`steerlib.stages.summary`)."""
        return Found(summary(self["emergence"]))

    def __repr__(self) -> str:
        sizes = ", ".join(f"{size} {dim}s" for dim, size in self["emergence"].sizes.items() if dim in KEYS)
        return f"<results in {', '.join(self)}: {sizes}; .summary tells what was found>"

    def _repr_html_(self) -> str:
        found = self["emergence"]
        words = "".join(f"<li>{escape(line)}</li>" for line in [*conclusions(found), *legend(found)])
        groups = "".join(f"<li><b>{name}</b>: {', '.join(map(str, group.sizes))}</li>" for name, group in self.items())
        return f"{self.summary.to_html()}<ul>{words}</ul>Groups, and the dimensions of each:<ul>{groups}</ul>"


def _one_of(known: Sequence, name: object, what: str):
    """The one that a name is. Raises SteerlibError where none is, telling those that there are and the nearest."""
    if isinstance(name, Hashable) and not isinstance(name, bool) and name in known:
        return known[known.index(name)]
    raise SteerlibError(f"{what} {name!r}; there are {listed(known)}{nearest(name, known)}")


def listed(names: Iterable) -> str:
    """All of a few, of many the first and the last."""
    names = [str(name) for name in names]
    return ", ".join(names if len(names) <= FEW else [*names[: FEW - 2], "…", names[-1]])
