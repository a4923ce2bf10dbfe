"""Jobs: one stage at one checkpoint, what it needs, where its result lies, and whether that is still true."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, reduce
from operator import getitem
from pathlib import Path
from typing import TYPE_CHECKING

import xarray as xr

from steerlib import SteerlibError
from steerlib.checkpoints import listing
from steerlib.checkpoints.history import Checkpoint, equal_weights, history
from steerlib.files import store
from steerlib.files.hashes import file_sha256
from steerlib.files.layout import folder_name
from steerlib.results.freshness import Glance, weights_of
from steerlib.results.provenance import peak_rss, provenance
from steerlib.results.schema import describe
from steerlib.stages.table import STAGES, Need
from steerlib.study import Study

if TYPE_CHECKING:
    from steerlib.results.tree import Tree

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

    def _steps(self, need: Need, step: int | None) -> Iterable[int | None]:
        match need.at:
            case "same":
                return [step if STAGES[need.stage].per_checkpoint else None]
            case "previous":
                return self._previous[step]
            case "last":
                return [next(reversed(self.checkpoints))]
        return self.checkpoints

    @cached_property
    def _previous(self) -> dict[int, list[int]]:
        steps = list(self.checkpoints)
        return {step: steps[max(0, at - 1) : at] for at, step in enumerate(steps)}

    def todo(self, jobs: Iterable[Job] | None = None) -> list[Job]:
        """Of all jobs, or of some in order, those not done and those that depend on them."""
        glance, waiting = Glance(self), {}
        for job in self.jobs() if jobs is None else jobs:
            if glance.state(job) != "done" or any(need in waiting for need in self.needs(job)):
                waiting[job] = None
        return list(waiting)

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
        return Glance(self).state(job)

    def usable(self, job: Job) -> bool:
        """Done; or, where a notebook is run by hand, saved without a stamp, as the driver alone writes them."""
        return Glance(self).usable(job)

    def key(self, job: Job) -> str | None:
        """Hash of everything the result is made from; None while an input is not there (see `Glance.key`)."""
        return Glance(self).key(job)

    def param(self, name: str):
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
        told = store.attrs(self.data(job))
        stamp = {
            "key": self.key(job),
            "data_sha256": told["data_sha256"],
            "file_sha256": file_sha256(self.data(job)),
            "weights_sha256": weights_of(self.analysed[job.step]) if job.stage == "finetuning" else None,
            "peak_rss_bytes": int(told["peak_rss_bytes"]),
            "cpu_seconds": float(told["cpu_seconds"]),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            **seconds,
        }
        store.write_json(self.stamp(job), stamp)

    @cached_property
    def concepts_sha256(self) -> str:
        return hashlib.sha256("".join(concept.model_dump_json() for concept in self.concepts).encode()).hexdigest()

    @cached_property
    def neutral_sha256(self) -> str:
        return hashlib.sha256("\n".join(self.study.load_neutral()).encode()).hexdigest()

    # --- reading and writing results -----------------------------------------------------------------------

    def read(self, stage: str, step: int | None = None) -> xr.Dataset:
        return store.read(self.data(Job(stage, step)))

    def save(self, job: Job, dataset: xr.Dataset) -> None:
        """Write a job's result, keyed by step. It is unproven until the driver stamps it."""
        self.stamp(job).unlink(missing_ok=True)
        dataset = describe(dataset)
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
            "peak_rss_bytes": peak_rss(),
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

    def collect(self) -> Tree:
        """The per-checkpoint stages, each side by side along `step`, of all checkpoints that were probed and pushed.

        They are copied one at a time into what `write_results` makes `results.zarr` of, and read from there. Other
        stages are left out where they are missing. Two checkpoints of the history with equal weights are one point: the
        later is left out, with a warning. Raises SteerlibError when there is no checkpoint at all.
        """
        from steerlib.results.tree import Tree  # and with it Zarr

        glance, found, seen = Glance(self), {}, {}
        stages = {step: [] for step in self.checkpoints}
        for job in self._jobs:
            if job.step is not None and glance.usable(job):
                stages[job.step].append(job)
        for step, usable in stages.items():
            if not {"probes", "interventions"} <= {job.stage for job in usable}:
                print(f"warning: step {step} is left out; it was not analysed in full")
            elif (twin := seen.setdefault(self.checkpoints[step].weights_sha256, step)) != step:
                print(f"warning: step {step} is left out; its weights are those of step {twin}")
            else:
                for job in usable:
                    found.setdefault(job.stage, []).append(job)
        if not found:
            raise SteerlibError(f"{self.folder}: no checkpoint has been analysed in full; run the study first")
        tree = Tree(self._results)
        for stage, jobs in found.items():
            tree.add(stage, map(self._point, jobs), len(jobs))
        return tree

    def _point(self, job: Job) -> xr.Dataset:
        """What is collected of a job. Revision and tokens are told of its checkpoint: as the params tell them now."""
        checkpoint = self.checkpoints[job.step]
        told = {"revision": checkpoint.revision, "tokens_seen": checkpoint.tokens_seen}
        dataset = store.read(self.data(job), without=WORKING)
        return dataset.assign_coords({name: ("step", [value]) for name, value in told.items()})

    def write_results(self, tree: Tree, found: xr.Dataset) -> None:
        """What was collected, with the emergence analysis beside it, becomes `results.zarr`."""
        tree.add("emergence", [describe(found)])
        tree.finish(provenance(self.study))

    def results(self) -> dict[str, xr.Dataset]:
        """`results.zarr`, read from disk when it is used; nothing where it is not that of the emergence analysis."""
        from steerlib.results import tree

        groups = tree.read(self._results)
        made = self.read("emergence").attrs["data_sha256"]
        return groups if "emergence" in groups and store.digest(groups["emergence"]) == made else {}

    @property
    def _results(self) -> Path:
        return self.folder / "results.zarr"
