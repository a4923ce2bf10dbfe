"""Jobs: one stage at one checkpoint, what it needs, and where its result lies.

What reads and writes results is imported where that is done: to see what there is, nobody waits for it.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from steerlib import SteerlibError
from steerlib.checkpoints import listing
from steerlib.checkpoints.history import Checkpoint, history
from steerlib.files import locks, store
from steerlib.files.layout import folder_name
from steerlib.results.provenance import peak_rss, provenance
from steerlib.stages.table import STAGES
from steerlib.study import Study

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Job:
    """One stage, at one checkpoint (step) or over the whole study (step None)."""

    stage: str
    step: int | None = None

    def __str__(self) -> str:
        return self.stage if self.step is None else f"{self.stage} step {self.step}"

    @property
    def name(self) -> str:
        return "study" if self.step is None else folder_name(self.step)


LAST = Job("emergence")  # of all checkpoints together: what was found


class Workspace:
    """A study and its folder of results, `outputs/<study>`."""

    def __init__(self, study: Study, outputs: str | Path = "outputs"):
        self.study, self.folder = study, Path(os.path.realpath(outputs)) / study.name

    @cached_property
    def checkpoints(self) -> dict[int, Checkpoint]:
        """The history as it was found or pretrained. Raises SteerlibError when it lacks a step that is asked for."""
        by_step = {checkpoint.step: checkpoint for checkpoint in history(self.study, self.folder)}
        for part, steps in self._some_steps.items():
            if absent := [step for step in steps if step not in by_step]:
                remarks = self.remarks() if self.study.checkpoints.repo else []
                why = next((f" ({remark})" for remark in remarks if remark.startswith(f"step {absent[0]} ")), "")
                raise SteerlibError(
                    f"{self.study.path}: {part}.steps: step {absent[0]} is not among the study's checkpoints{why}; "
                    f"they are {', '.join(map(str, by_step))}"
                )
        return by_step

    @property
    def _some_steps(self) -> dict[str, list[int]]:
        """Of which checkpoints alone a part of the study is, where it says so."""
        parts = {name: getattr(self.study, name) for name in ("generation", "transfer", "instrument")}
        return {name: part.steps for name, part in parts.items() if part and part.steps}

    def steps(self) -> list[int]:
        """Of the checkpoints that the study looks at. Of many runs that start at once, one asks the hub."""
        if self.study.checkpoints.repo:
            with locks.turn(self.folder, "listing"):
                listing.load(self.study, self.folder, whole=True)
        return list(self.checkpoints)

    @cached_property
    def analysed(self) -> dict[int, Checkpoint]:
        """The checkpoints that are probed and pushed: the history's, or as the study has fine-tuned them."""
        if self.study.finetuning is None:
            return self.checkpoints
        made = self.folder / "finetuned"
        return {
            step: replace(c, path=made / folder_name(step), sha256=None, tokenizer=None, base=None, known=None)
            for step, c in self.checkpoints.items()
        }

    def checkpoint(self, job: Job) -> Checkpoint:
        """The checkpoint that a job looks at."""
        return (self.checkpoints if job.stage == "finetuning" else self.analysed)[job.step]

    @cached_property
    def concepts(self):
        return self.study.load_concepts()

    # --- what there is to do -----------------------------------------------------------------------------

    @cached_property
    def _jobs(self) -> dict[Job, None]:
        return {
            Job(name, step): None
            for name, stage in STAGES.items()
            if all(getattr(self.study, part.split(".")[0]) is not None for part in stage.params)
            for step in (
                self._some_steps.get(next(iter(stage.params), None), self.checkpoints)
                if stage.per_checkpoint
                else [None]
            )
        }

    def jobs(self) -> list[Job]:
        """All jobs of the study, each after those it needs."""
        return list(self._jobs)

    def needs(self, job: Job, read: bool = False) -> dict[Job, bool]:
        """The jobs that this one waits for, or reads from, each with whether it cannot be done without."""
        required: dict[Job, bool] = {}
        steps = list(self.checkpoints)
        at = steps.index(job.step) if job.step in self.checkpoints else 0
        for need in (need for need in STAGES[job.stage].needs if need.reads or not read):
            same = job.step if STAGES[need.stage].per_checkpoint else None
            places = {"same": [same], "previous": steps[max(0, at - 1) : at], "last": steps[-1:], "every": steps}
            for needed in (Job(need.stage, step) for step in places[need.at]):
                if needed in self._jobs:
                    required[needed] = required.get(needed, False) or not need.optional
        return required

    # --- where results lie -----------------------------------------------------------------------------------

    def data(self, job: Job) -> Path:
        return self.folder / job.stage / f"{job.name}.nc"

    def stamp(self, job: Job) -> Path:
        return self.folder / job.stage / f"{job.name}.stamp.json"

    def notebook(self, job: Job) -> Path:
        return self.folder / "notebooks" / f"{STAGES[job.stage].notebook}.{job.name}.ipynb"

    @property
    def findings(self) -> Path:
        """What was found, in words: what the console shows of it."""
        return self.folder / "findings.json"

    # --- reading and writing results -----------------------------------------------------------------------

    def read(self, stage: str, step: int | None = None) -> xr.Dataset:
        from steerlib.files import datasets

        return datasets.read(self.data(Job(stage, step)))

    def save(self, job: Job, dataset: xr.Dataset) -> None:
        """Write a job's result, keyed by step. It is unproven until the driver stamps it."""
        from steerlib.files import datasets
        from steerlib.results.schema import describe

        store.remove(self.stamp(job))
        dataset = describe(dataset)
        if job.step is not None:
            original = self.checkpoints[job.step]
            coords = {"revision": original.revision, "tokens_seen": original.tokens_seen}
            coords["weights_sha256"] = self.analysed[job.step].weights_sha256
            if job.stage == "finetuning":
                coords["original_weights_sha256"] = original.weights_sha256
            dataset = dataset.expand_dims(step=[job.step])
            dataset = dataset.assign_coords({name: ("step", [value]) for name, value in coords.items()})
        dataset.attrs = {
            **provenance(self.study),
            "data_sha256": datasets.digest(dataset),
            "cpu_seconds": time.process_time(),
            "peak_rss_bytes": peak_rss(),
        }
        datasets.write(dataset, self.data(job))

    def remarks(self) -> list[str]:
        """What a reader should know of the checkpoints before any result: equal ones, and those known to be bad."""
        if self.study.checkpoints.repo:
            return listing.load(self.study, self.folder).remarks()
        checkpoints = list(self.checkpoints.values()) if self.study.checkpoints.folder else []
        return listing.equal_weights(checkpoints, "will be no point of its own")
