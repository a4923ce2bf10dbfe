"""Jobs: one stage at one checkpoint, what it needs, where its result lies, and whether that is still true."""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, reduce
from operator import getitem
from pathlib import Path

import xarray as xr

from steerlib import listing, store
from steerlib.checkpoints import Checkpoint, equal_weights, folder_name, history
from steerlib.errors import SteerlibError
from steerlib.provenance import file_sha256, notebook_code, provenance, source_hash
from steerlib.stages import STAGES, Need
from steerlib.study import Study

DRIVEN = "STEERLIB_DRIVEN"  # set for notebooks that the driver runs: what they need is the driver's business
# Read by the next stage only; not collected.
WORKING = ("null_direction", "gram", "state", "text")


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


class Workspace:
    """A study and its folder of results, `outputs/<study>`."""

    def __init__(self, study: Study, outputs: str | Path = "outputs"):
        self.study, self.folder = study, Path(outputs).resolve() / study.name

    @cached_property
    def checkpoints(self) -> dict[int, Checkpoint]:
        """The history as it was found or pretrained. Raises SteerlibError when it lacks a step that is asked for."""
        found = {checkpoint.step: checkpoint for checkpoint in history(self.study, self.folder)}
        asked = self.study.instrument.steps if self.study.instrument else []
        if absent := [step for step in asked if step not in found]:
            told = listing.load(self.study, self.folder).remarks() if self.study.checkpoints.repo else []
            why = next((f" ({remark})" for remark in told if remark.startswith(f"step {absent[0]} ")), "")
            raise SteerlibError(
                f"{self.study._path}: instrument.steps: step {absent[0]} is not among the study's checkpoints{why}; "
                f"they are {', '.join(map(str, found))}"
            )
        return found

    @cached_property
    def analysed(self) -> dict[int, Checkpoint]:
        """The checkpoints that are probed and pushed: the history's, or as the study has fine-tuned them."""
        if self.study.finetuning is None:
            return self.checkpoints
        made = self.folder / "finetuned"
        return {
            step: replace(c, path=made / folder_name(step), sha256=None, tokenizer=None)
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
        steps: dict[str, list] = {"instrument": self.study.instrument.steps} if self.study.instrument else {}
        return {
            Job(name, step): None
            for name, stage in STAGES.items()
            if stage.asked_by is None or getattr(self.study, stage.asked_by) is not None
            for step in (steps.get(name, self.checkpoints) if stage.per_checkpoint else [None])
        }

    def jobs(self) -> list[Job]:
        """All jobs of the study, each after those it needs."""
        return list(self._jobs)

    def needs(self, job: Job) -> dict[Job, bool]:
        """The jobs whose results this one reads, each with whether it cannot be done without."""
        found: dict[Job, bool] = {}
        for need in STAGES[job.stage].needs:
            for other in (Job(need.stage, step) for step in self._steps(need, job.step)):
                if other in self._jobs:
                    found[other] = found.get(other, False) or not need.optional
        return found

    def _steps(self, need: Need, step: int | None) -> list[int | None]:
        steps = list(self.checkpoints)
        match need.at:
            case "same":
                return [step if STAGES[need.stage].per_checkpoint else None]
            case "previous":
                at = steps.index(step)
                return steps[max(0, at - 1) : at]
            case "last":
                return steps[-1:]
        return steps

    def todo(self) -> list[Job]:
        """Jobs not done, and all that depend on them."""
        waiting: list[Job] = []
        for job in self.jobs():
            if self.state(job) != "done" or any(need in waiting for need in self.needs(job)):
                waiting.append(job)
        return waiting

    # --- where results lie, and whether they still hold ----------------------------------------------------

    def data(self, job: Job) -> Path:
        return self.folder / job.stage / f"{job.name}.nc"

    def stamp(self, job: Job) -> Path:
        return self.folder / job.stage / f"{job.name}.stamp.json"

    def notebook(self, job: Job) -> Path:
        return self.folder / "notebooks" / f"{STAGES[job.stage].notebook}.{job.name}.ipynb"

    def read_stamp(self, job: Job) -> dict | None:
        return store.read_json(self.stamp(job))

    def state(self, job: Job) -> str:
        """'done', 'stale' (made from other params, code, weights or inputs, or altered since) or 'missing'."""
        stamp = self.read_stamp(job)
        if stamp is None or not self.data(job).exists():
            return "missing"
        if not self._trained(job, stamp):
            return "missing"
        whole = stamp.get("file_sha256") == file_sha256(self.data(job))
        key = self.key(job)
        return "done" if whole and key is not None and stamp.get("key") == key else "stale"

    def _trained(self, job: Job, stamp: dict) -> bool:
        """Whether the checkpoints that a job makes beside its dataset are there."""
        if job.stage == "pretraining":
            return all(checkpoint.path.is_dir() for checkpoint in self.checkpoints.values())
        # Those of other params may lie here: a kill between folder and stamp leaves the new one under the old.
        return job.stage != "finetuning" or weights_of(self.analysed[job.step]) == stamp.get("weights_sha256")

    def key(self, job: Job) -> str | None:
        """Hash of everything the result is made from; None while an input is not there.

        Raises SteerlibError when a file that the params name is not there.
        """
        inputs = {}
        for need, required in self.needs(job).items():
            # An optional input that does not hold any more is not read: see `usable`.
            stamp = self.read_stamp(need) if required or self.state(need) == "done" else None
            if required and stamp is None:
                return None
            inputs[str(need)] = stamp and stamp.get("data_sha256")
        weights = None if job.step is None else weights_of(self.checkpoint(job))
        if job.step is not None and weights is None:
            return None
        stage, study = STAGES[job.stage], self.study
        made_from = {
            "notebook": notebook_code(stage.notebook),
            "source": source_hash(stage.source),
            "seed": study.seed,
            "params": {name: self._param(name) for name in stage.params},
            "files": self.files(job.stage),
            "steps": None if stage.per_checkpoint else list(self.checkpoints),
            "concepts": self._concepts_sha256 if "concepts" in stage.texts else None,
            "neutral": self._neutral_sha256 if "neutral" in stage.texts else None,
            "weights": weights,
            "inputs": inputs,
        }
        return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()

    def _param(self, name: str):
        """A part of the params. Not `instrument.steps`: looking at one more checkpoint changes nothing at another."""
        part = reduce(getitem, name.split("."), self._params)
        return {k: v for k, v in part.items() if k != "steps"} if name == "instrument" else part

    @cached_property
    def _params(self) -> dict:
        return self.study.model_dump(mode="json")

    def files(self, stage: str) -> dict[str, str]:
        """Hash of every file that the params name for a stage. Raises SteerlibError for one that cannot be read."""
        found = {}
        for name, path in self.study.named_files(stage).items():
            try:
                found[name] = file_sha256(path)
            except OSError as error:
                raise SteerlibError(f"{self.study._path}: {name}: {path}: {error.strerror}") from None
        return found

    def write_stamp(self, job: Job, seconds: dict) -> None:
        """Last of all: from now on the job is done. Raises SteerlibError when its notebook saved nothing."""
        dataset = store.read(self.data(job))
        stamp = {
            "key": self.key(job),
            "data_sha256": dataset.attrs["data_sha256"],
            "file_sha256": file_sha256(self.data(job)),
            "weights_sha256": weights_of(self.analysed[job.step]) if job.stage == "finetuning" else None,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            **seconds,
        }
        store.write_json(self.stamp(job), stamp)

    @cached_property
    def _concepts_sha256(self) -> str:
        return hashlib.sha256("".join(concept.model_dump_json() for concept in self.concepts).encode()).hexdigest()

    @cached_property
    def _neutral_sha256(self) -> str:
        return hashlib.sha256("\n".join(self.study.load_neutral()).encode()).hexdigest()

    # --- reading and writing results -----------------------------------------------------------------------

    def read(self, stage: str, step: int | None = None) -> xr.Dataset:
        return store.read(self.data(Job(stage, step)))

    def save(self, job: Job, dataset: xr.Dataset) -> None:
        """Write a job's result, keyed by step. It is unproven until the driver stamps it."""
        self.stamp(job).unlink(missing_ok=True)
        dataset = store.describe(dataset)
        if job.step is not None:
            checkpoint = self.checkpoints[job.step]
            dataset = dataset.expand_dims(step=[job.step]).assign_coords(
                revision=("step", [checkpoint.revision]),
                tokens_seen=("step", [checkpoint.tokens_seen]),
                weights_sha256=("step", [self.analysed[job.step].weights_sha256]),
            )
            if job.stage == "finetuning":
                dataset = dataset.assign_coords(original_weights_sha256=("step", [checkpoint.weights_sha256]))
        dataset.attrs = {
            **provenance(self.study),
            "data_sha256": store.digest(dataset),
            "cpu_seconds": time.process_time(),
        }
        store.write(dataset, self.data(job))

    def remarks(self) -> list[str]:
        """What a reader should know of the checkpoints before any result: equal ones, and those known to be bad."""
        if self.study.checkpoints.repo:
            return listing.load(self.study, self.folder).remarks()
        return equal_weights(self.checkpoints.values()) if self.study.checkpoints.folder else []

    def speed(self) -> dict[str, float]:
        """How fast the study's own model was pretrained; empty where it was not."""
        try:
            return {k: v for k, v in self.read("pretraining").loss.attrs.items() if isinstance(v, float)}
        except SteerlibError:
            return {}

    def collect(self) -> dict[str, xr.Dataset]:
        """The per-checkpoint stages, each side by side along `step`, of all checkpoints that were probed and pushed.

        Other stages are left out where they are missing. Two checkpoints of the history with equal weights are one
        point: the later is left out, with a warning. Raises SteerlibError when there is no checkpoint at all.
        """
        found: dict[str, list[xr.Dataset]] = {}
        seen: dict[str, int] = {}
        for step, checkpoint in self.checkpoints.items():
            usable = [job for job in self._jobs if job.step == step and self.usable(job)]
            if not {"probes", "interventions"} <= {job.stage for job in usable}:
                print(f"warning: step {step} is left out; it was not analysed in full")
            elif (twin := seen.setdefault(checkpoint.weights_sha256, step)) != step:
                print(f"warning: step {step} is left out; its weights are those of step {twin}")
            else:
                # Told of the checkpoint, not computed from it: as the params tell it now.
                told = {"revision": checkpoint.revision, "tokens_seen": checkpoint.tokens_seen}
                for job in usable:
                    dataset = store.read(self.data(job)).drop_vars(WORKING, errors="ignore")
                    dataset = dataset.assign_coords({name: ("step", [value]) for name, value in told.items()})
                    found.setdefault(job.stage, []).append(dataset)
        if not found:
            raise SteerlibError(f"{self.folder}: no checkpoint has been analysed in full; run the study first")
        return {stage: store.combine(datasets) for stage, datasets in found.items()}

    def write_results(self, groups: dict[str, xr.Dataset]) -> None:
        """`results.zarr`, all of a study in one DataTree."""
        store.write_tree(
            {name: store.describe(group) for name, group in groups.items()},
            self.folder / "results.zarr",
            provenance(self.study),
        )

    def usable(self, job: Job) -> bool:
        """Done; or, where a notebook is run by hand, saved without a stamp, as the driver alone writes them."""
        by_hand = DRIVEN not in os.environ and self.read_stamp(job) is None
        return self.data(job).exists() if by_hand else self.state(job) == "done"


def weights_of(checkpoint: Checkpoint) -> str | None:
    """Hash of a checkpoint's weights; None where they are not there or unreadable: the job itself will say so."""
    try:
        return checkpoint.weights_sha256
    except SteerlibError:
        return None
