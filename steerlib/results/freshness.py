"""Whether a job's result still holds: what it was made from, against what there is now."""

import hashlib
import json
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache, reduce
from operator import getitem

from pydantic import BaseModel

from steerlib import SteerlibError
from steerlib.checkpoints.history import Checkpoint
from steerlib.files import store
from steerlib.files.hashes import file_sha256, is_still
from steerlib.results.provenance import notebook_code, source_hash
from steerlib.results.workspace import Job, Workspace
from steerlib.stages.table import STAGES
from steerlib.study import Study

DRIVEN = "STEERLIB_DRIVEN"  # set for notebooks that the driver runs: what they need is the driver's business


class Stamp(BaseModel):
    """What is written when a job is done: what its result was made from, is, and cost."""

    key: str | None  # None where an input was gone when it was finished
    data_sha256: str
    file_sha256: str
    weights_sha256: str | None  # of the checkpoint that it made, if any
    peak_rss_bytes: int
    cpu_seconds: float
    finished: str
    wall_seconds: float


class Freshness:
    """What holds at one moment. Each file is read once, however many jobs are made from it.

    To be made anew for every question: what it has seen it believes for as long as it lives.
    """

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self.stamp, self.state = cache(self._stamp), cache(self._state)
        self._of_stage = cache(self._made_from)

    def _stamp(self, job: Job) -> Stamp | None:
        """What was written when the job was done; None when it was not."""
        return store.read_json(self.workspace.stamp(job), Stamp)

    def _state(self, job: Job) -> str:
        """'done', 'stale' (made from other params, code, weights or inputs, or altered since) or 'missing'."""
        stamp, data = self.stamp(job), self.workspace.data(job)
        if stamp is None or not data.is_file() or not self._trained(job, stamp):
            return "missing"
        whole = is_still(data, stamp.file_sha256)
        key = self.key(job)
        return "done" if whole and key is not None and stamp.key == key else "stale"

    def usable(self, job: Job) -> bool:
        """Done; or, where a notebook is run by hand, saved without a stamp, as the driver alone writes them."""
        by_hand = DRIVEN not in os.environ and self.stamp(job) is None
        return self.workspace.data(job).exists() if by_hand else self.state(job) == "done"

    def todo(self, jobs: Iterable[Job] | None = None) -> list[Job]:
        """Of all jobs, or of some in order, those not done and those that depend on them."""
        waiting: dict[Job, None] = {}
        for job in self.workspace.jobs() if jobs is None else jobs:
            if self.state(job) != "done" or any(need in waiting for need in self.workspace.needs(job)):
                waiting[job] = None
        return list(waiting)

    def _trained(self, job: Job, stamp: Stamp) -> bool:
        """Whether the checkpoints that a job makes beside its dataset are there."""
        if job.stage == "pretraining":
            return all(checkpoint.path.is_dir() for checkpoint in self.workspace.checkpoints.values())
        # Those of other params may lie here: a kill between folder and stamp leaves the new one under the old.
        if job.stage == "finetuning":
            return weights_of(self.workspace.analysed[job.step]) == stamp.weights_sha256
        return True

    def key(self, job: Job) -> str | None:
        """Hash of everything the result is made from; None while an input is not there.

        Raises SteerlibError when a file that the params name is not there.
        """
        inputs = {}
        for need, required in self.workspace.needs(job).items():
            # An optional input that does not hold any more is not read: see `usable`.
            stamp = self.stamp(need) if required or self.state(need) == "done" else None
            if required and stamp is None:
                return None
            inputs[str(need)] = stamp and stamp.data_sha256
        weights = None if job.step is None else weights_of(self.workspace.checkpoint(job))
        if job.step is not None and weights is None:
            return None
        made_from = {**self._of_stage(job.stage), "weights": weights, "inputs": inputs}
        return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()

    def _made_from(self, name: str) -> dict:
        """What all jobs of a stage are made from."""
        stage, study = STAGES[name], self.workspace.study
        texts = {
            "concepts": lambda: (concept.model_dump_json() for concept in self.workspace.concepts),
            "neutral": study.load_neutral,
        }
        # Not `instrument.steps`: looking at one more checkpoint changes nothing at another.
        params = study.model_dump(mode="json", exclude={"instrument": {"steps"}})
        return {
            "notebook": notebook_code(stage.notebook),
            "source": source_hash(stage.source),
            "seed": study.seed,
            "params": {part: reduce(getitem, part.split("."), params) for part in stage.params},
            "files": hashes_of_files(study, name),
            "steps": None if stage.per_checkpoint else list(self.workspace.checkpoints),
            "texts": {kind: hashlib.sha256("\n".join(texts[kind]()).encode()).hexdigest() for kind in stage.texts},
        }


def write_stamp(workspace: Workspace, job: Job, wall_seconds: float) -> None:
    """Last of all: from now on the job is done. Raises SteerlibError when its notebook saved nothing."""
    data = workspace.data(job)
    attrs = store.attrs(data)
    stamp = Stamp(
        key=Freshness(workspace).key(job),
        data_sha256=attrs["data_sha256"],
        file_sha256=file_sha256(data),
        weights_sha256=weights_of(workspace.analysed[job.step]) if job.stage == "finetuning" else None,
        peak_rss_bytes=int(attrs["peak_rss_bytes"]),
        cpu_seconds=float(attrs["cpu_seconds"]),
        wall_seconds=wall_seconds,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    store.write_json(workspace.stamp(job), stamp.model_dump())


def hashes_of_files(study: Study, stage: str) -> dict[str, str]:
    """Hash of every file that the params name for a stage. Raises SteerlibError for one that cannot be read."""
    hashes = {}
    for name, path in study.named_files(stage).items():
        try:
            hashes[name] = file_sha256(path)
        except OSError as error:
            raise SteerlibError(f"{study.path}: {name}: {path}: {error.strerror}") from None
    return hashes


def weights_of(checkpoint: Checkpoint) -> str | None:
    """Hash of a checkpoint's weights; None where they are not there or unreadable: the job itself will say so."""
    try:
        return checkpoint.weights_sha256
    except SteerlibError:
        return None
