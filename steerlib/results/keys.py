"""What a job's result is made from, a hash for each term that it hangs on: of two keys one can tell what differs."""

import hashlib
import json
from functools import reduce
from operator import getitem
from typing import Any

from pydantic import BaseModel

from steerlib import SteerlibError
from steerlib.checkpoints.history import Checkpoint
from steerlib.checkpoints.suites import starts_untrained
from steerlib.files.hashes import sha256_of
from steerlib.results.workspace import Workspace
from steerlib.stages.source import libraries, notebook_code
from steerlib.stages.table import STAGES, Stage

Key = dict[str, str]  # what it is called to a person -> its hash


def hashed(value: Any) -> str:
    """Hash of what JSON can tell."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def of_params(params: BaseModel) -> str:
    """Hash of all that a params file says, and of the defaults where it says nothing."""
    return hashed(params.model_dump(mode="json"))


def code_of(stage: Stage) -> Key:
    """The code of a stage, as it is on disk now."""
    return {"its notebook": hashed(notebook_code(stage.notebook)), "the code of steerlib": stage.source()}


def of_stage(workspace: Workspace, name: str) -> Key:
    """What all jobs of a stage are made from. Raises SteerlibError for a file that the params name and is not there."""
    stage, study = STAGES[name], workspace.study
    # Not their steps: looking at one more checkpoint changes nothing at another.
    params = study.model_dump(mode="json", exclude={"instrument": {"steps"}, "generation": {"steps"}})
    terms: dict[str, Any] = {part: reduce(getitem, part.split("."), params) for part in stage.params}
    terms |= {"seed": study.seed} | hashes_of_files(workspace, name)
    if "concepts" in stage.texts:
        terms["concepts"] = [concept.model_dump(mode="json") for concept in workspace.concepts]
        if any(concept.readout.judged for concept in workspace.concepts):
            terms["who judges"] = params["generation"] and [params["generation"][k] for k in ("classifier", "labels")]
            terms |= hashes_of_files(workspace, "generations")
    if "neutral" in stage.texts:
        terms["neutral texts"] = study.load_neutral()
    if stage.planted and f"{name}.corpus" not in study.named_files(name):
        terms["the planted world"] = study.world.model_dump(mode="json")
    if stage.loads or name == "pretraining":
        terms |= libraries(*["peft"] * any(checkpoint.base for checkpoint in workspace.checkpoints.values()))
    if name == "pretraining":
        terms["the last step"] = max(workspace.checkpoints)  # which steps are saved changes none of them
    elif not stage.per_checkpoint:
        terms["checkpoints"] = [(c.step, c.revision, c.tokens_seen) for c in workspace.checkpoints.values()]
        terms["checkpoints.untrained"] = starts_untrained(study)
    return code_of(stage) | {term: hashed(value) for term, value in terms.items()}


def hashes_of_files(workspace: Workspace, stage: str) -> dict[str, str]:
    """Hash of every file that the params name for a stage. Raises SteerlibError for one that cannot be read."""
    named = workspace.study.named_files(stage)
    try:
        hashes = sha256_of([*named.values()], workspace.folder)
    except OSError as error:
        name = next(name for name, path in named.items() if str(path) == str(error.filename))
        raise SteerlibError(f"{workspace.study.path}: {name}: {error.filename}: {error.strerror}") from None
    return {f"{name} ({path.name})": sha256 for (name, path), sha256 in zip(named.items(), hashes, strict=True)}


def identity_of(checkpoint: Checkpoint) -> str | None:
    """As the checkpoint tells it; None where it is not there or unreadable: the job itself will say so."""
    try:
        return checkpoint.identity
    except (SteerlibError, OSError):
        return None


def changed(before: Key, now: Key) -> list[str]:
    """What has changed from one key to the other, by name."""
    return [term for term in {**before, **now} if before.get(term) != now.get(term)]
