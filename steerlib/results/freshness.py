"""Whether a job's result still holds: what it was made from, against what there is now."""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache
from typing import TYPE_CHECKING

from steerlib import SteerlibError
from steerlib.checkpoints.history import Checkpoint
from steerlib.files.hashes import file_sha256
from steerlib.results.provenance import notebook_code, source_hash
from steerlib.stages.table import STAGES

if TYPE_CHECKING:
    from steerlib.results.workspace import Job, Workspace

DRIVEN = "STEERLIB_DRIVEN"  # set for notebooks that the driver runs: what they need is the driver's business


class Glance:
    """What holds at one moment. Each file is read once, however many jobs are made from it.

    To be made anew for every question: what it has seen it believes for as long as it lives.
    """

    def __init__(self, workspace: Workspace):
        self.workspace, self.study = workspace, workspace.study
        self.stamp, self.state = cache(workspace.read_stamp), cache(self._state)
        self._of_stage = cache(self._made_from)

    def _state(self, job: Job) -> str:
        """'done', 'stale' (made from other params, code, weights or inputs, or altered since) or 'missing'."""
        stamp, data = self.stamp(job), self.workspace.data(job)
        if stamp is None or not data.exists() or not self._trained(job, stamp):
            return "missing"
        whole = stamp.get("file_sha256") == file_sha256(data)
        key = self.key(job)
        return "done" if whole and key is not None and stamp.get("key") == key else "stale"

    def usable(self, job: Job) -> bool:
        """Done; or, where a notebook is run by hand, saved without a stamp, as the driver alone writes them."""
        by_hand = DRIVEN not in os.environ and self.stamp(job) is None
        return self.workspace.data(job).exists() if by_hand else self.state(job) == "done"

    def _trained(self, job: Job, stamp: dict) -> bool:
        """Whether the checkpoints that a job makes beside its dataset are there."""
        if job.stage == "pretraining":
            return all(checkpoint.path.is_dir() for checkpoint in self.workspace.checkpoints.values())
        # Those of other params may lie here: a kill between folder and stamp leaves the new one under the old.
        if job.stage == "finetuning":
            return weights_of(self.workspace.analysed[job.step]) == stamp.get("weights_sha256")
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
            inputs[str(need)] = stamp and stamp.get("data_sha256")
        weights = None if job.step is None else weights_of(self.workspace.checkpoint(job))
        if job.step is not None and weights is None:
            return None
        made_from = {**self._of_stage(job.stage), "weights": weights, "inputs": inputs}
        return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()

    def _made_from(self, name: str) -> dict:
        """What all jobs of a stage are made from."""
        stage, workspace = STAGES[name], self.workspace
        return {
            "notebook": notebook_code(stage.notebook),
            "source": source_hash(stage.source),
            "seed": self.study.seed,
            "params": {part: workspace.param(part) for part in stage.params},
            "files": workspace.files(name),
            "steps": None if stage.per_checkpoint else list(workspace.checkpoints),
            "concepts": workspace.concepts_sha256 if "concepts" in stage.texts else None,
            "neutral": workspace.neutral_sha256 if "neutral" in stage.texts else None,
        }


def weights_of(checkpoint: Checkpoint) -> str | None:
    """Hash of a checkpoint's weights; None where they are not there or unreadable: the job itself will say so."""
    try:
        return checkpoint.weights_sha256
    except SteerlibError:
        return None
