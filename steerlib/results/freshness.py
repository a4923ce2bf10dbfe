"""Whether a job's result still holds: what it was made from, against what there is now; and whether it is whole."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from pydantic import BaseModel

from steerlib import SteerlibError
from steerlib.files import store
from steerlib.results import keys, made, provenance
from steerlib.results.keys import Key
from steerlib.results.made import Left, Made
from steerlib.results.workspace import Job, Workspace
from steerlib.stages.source import versions
from steerlib.stages.table import STAGES

DRIVEN = "STEERLIB_DRIVEN"  # set for notebooks that the driver runs: what they need is the driver's business


class Stamp(BaseModel):
    """What is written when a job is done: what its result was made from, is, and cost."""

    key: Key
    made: Made
    checkpoints: dict[str, str | None]  # that it made: step -> identity
    data_sha256: str
    versions: dict[str, str]
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
        self.stamp, self.state, self.whole = cache(self._stamp), cache(self._state), cache(self._whole)
        self._of_stage = cache(lambda stage: keys.of_stage(workspace, stage))

    def _stamp(self, job: Job) -> Stamp | None:
        """What was written when the job was done; None when it was not."""
        return store.read_json(self.workspace.stamp(job), Stamp)

    def _whole(self, job: Job) -> bool:
        """Whether all that it wrote lies there as it was written."""
        return made.holds(self.workspace.folder, self.stamp(job).made)

    def _state(self, job: Job) -> str:
        """'done', 'stale' (made from other params, code, weights or inputs, or altered since) or 'missing'."""
        stamp = self.stamp(job)
        if stamp is None or not self.workspace.data(job).is_file():
            return "missing"
        # Those of other params may lie here: a kill between folder and stamp leaves the new one under the old.
        there = made.checkpoints(self.workspace, job)
        if any(identity is None or stamp.checkpoints.get(step) != identity for step, identity in there.items()):
            return "missing"
        key = self.key(job)
        return "done" if key and key == stamp.key and self.whole(job) else "stale"

    def by_hand(self, job: Job) -> bool:
        """Saved without a stamp, as runs alone write them: in a notebook by hand, or by a run that was interrupted."""
        return self.stamp(job) is None and self.workspace.data(job).exists()

    def usable(self, job: Job) -> bool:
        """Done; or, where a notebook is run by hand, saved by hand."""
        return (DRIVEN not in os.environ and self.by_hand(job)) or self.state(job) == "done"

    def todo(self, jobs: Iterable[Job] | None = None) -> list[Job]:
        """Of all jobs, or of some in order, those not done and those that depend on them."""
        waiting: dict[Job, None] = {}
        for job in self.workspace.jobs() if jobs is None else jobs:
            if self.state(job) != "done" or any(need in waiting for need in self.workspace.needs(job)):
                waiting[job] = None
        return list(waiting)

    def remarks(self) -> list[str]:
        """Libraries of which results were made with another version that counts as the same: a patch, or a build."""
        stamps = [self.stamp(job) for job in self.workspace.jobs() if self.state(job) == "done"]
        found = []
        for library, now in versions().items():
            if others := sorted({stamp.versions.get(library, "?") for stamp in stamps} - {now}):
                found.append(f"{library} is {now} now; there are results made with {', '.join(others)}")
        return found

    def key(self, job: Job) -> Key | None:
        """Everything the result is made from; None while an input is not there, or lies in the place of what was made.

        Raises SteerlibError when a file that the params name is not there.
        """
        key = dict(self._of_stage(job.stage))
        for need, required in self.workspace.needs(job, read=True).items():
            stamp = self.stamp(need)
            if required and stamp is None:
                return None
            # What was altered is not read, nor an optional input that does not hold any more (see `usable`).
            whole = self.whole(need) if required else self.state(need) == "done"
            key[f"the result of {need}"] = stamp.data_sha256 if whole else "none"
        if STAGES[job.stage].loads:
            identity = keys.identity_of(self.workspace.checkpoint(job))
            tuned = self.workspace.study.finetuning and job.stage != "finetuning"
            made_by = self.stamp(Job("finetuning", job.step) if tuned else Job("pretraining"))
            if identity is None or (made_by and made_by.checkpoints.get(str(job.step)) != identity):
                return None
            key["the checkpoint"] = identity
        return key


@dataclass(frozen=True)
class Begun:
    """What held when a job began. Its result is made from this, whatever is edited meanwhile."""

    key: Key | None
    left: Left  # what earlier ones left where it writes
    made: Made  # by the last one, as far as is known

    @classmethod
    def of(cls, workspace: Workspace, job: Job) -> "Begun":
        now, left = Freshness(workspace), made.left(workspace.folder, STAGES[job.stage], job.name)
        stamp = now.stamp(job)
        return cls(now.key(job), left, stamp.made if stamp else {})


def check_unchanged(begun: Key | None, now: Key | None) -> None:
    """Raises SteerlibError naming what a result is made from, when that is not what it was when its job began."""
    if now is None or now != begun:
        terms = ", ".join(keys.changed(begun or {}, now or {})) or "what it is made from"
        raise SteerlibError(f"{terms} changed while it ran, so its result counts as out of date; run again")


def write_stamp(workspace: Workspace, job: Job, begun: Begun, wall_seconds: float) -> None:
    """Last of all: from now on the job is done.

    Raises SteerlibError when its notebook saved nothing, and when what it is made from has changed while it ran.
    """
    from steerlib.files import datasets  # HDF5, for which nobody waits who only looks

    attrs = datasets.attrs(workspace.data(job))
    workspace = Workspace(workspace.study, workspace.folder.parent)  # which has seen nothing yet
    now = Freshness(workspace).key(job)
    check_unchanged(begun.key, now)
    left = made.left(workspace.folder, STAGES[job.stage], job.name)
    stamp = Stamp(
        key=now,
        made=made.of(workspace.folder, workspace.data(job), left, begun.left, begun.made),
        checkpoints=made.checkpoints(workspace, job),
        data_sha256=attrs["data_sha256"],
        versions=versions(),
        peak_rss_bytes=int(attrs["peak_rss_bytes"]),
        cpu_seconds=float(attrs["cpu_seconds"]),
        finished=provenance.now(),
        wall_seconds=wall_seconds,
    )
    store.write_json(workspace.stamp(job), stamp.model_dump())
