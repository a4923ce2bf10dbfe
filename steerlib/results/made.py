"""What a job has written, its dataset and all beside it: hashes for its stamp, and whether all of it is still whole."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from steerlib.files.hashes import file_sha256, seen, settled
from steerlib.results import keys
from steerlib.results.workspace import Job, Workspace
from steerlib.stages.table import Stage

Left = dict[Path, str]  # what lies there, and what tells it from another
Made = dict[str, list[str]]  # by its place in the folder of results: its hash, and what tells it unread from another


def checkpoints(workspace: Workspace, job: Job) -> dict[str, str | None]:
    """Identities of the checkpoints that a job makes, by step; None for one that is not there."""
    makes = {"pretraining": workspace.checkpoints, "finetuning": workspace.analysed}.get(job.stage, {})
    return {str(step): keys.identity_of(c) for step, c in makes.items() if job.step in (None, step)}


def left(folder: Path, stage: Stage, name: str) -> Left:
    """All that lies where a job of that name writes beside its dataset."""
    patterns = [pattern.format(name=name) for pattern in stage.leaves]
    return {path: _seen(path) for pattern in patterns for path in sorted(folder.glob(pattern))}


def of(folder: Path, dataset: Path, now: Left, before: Left) -> Made:
    """What a job has written: its dataset, and what was not there before it began, or was another."""
    places = [dataset, *(path for path, state in now.items() if before.get(path) != state)]
    states = [_seen(path) if all(map(settled, _files(path))) else "" for path in places]  # before they are read
    named = zip(places, states, strict=True)
    return {path.relative_to(folder).as_posix(): [_sha256(path), state] for path, state in named}


def holds(folder: Path, made: Made) -> bool:
    """Whether all of it is there as it was written. Only what may have been altered since is read."""
    try:
        there = ((folder / place, *told) for place, told in made.items())
        return all(_seen(path) == state or _sha256(path) == sha256 for path, sha256, state in there)
    except OSError:
        return False


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _seen(path: Path) -> str:
    return _joined(path, seen) if path.is_dir() else seen(path)


def _sha256(path: Path) -> str:
    return _joined(path, file_sha256) if path.is_dir() else file_sha256(path)


def _joined(folder: Path, told: Callable[[Path], str]) -> str:
    """Of a folder: one hash over all of its files."""
    about = "\n".join(f"{file.relative_to(folder).as_posix()} {told(file)}" for file in _files(folder))
    return hashlib.sha256(about.encode()).hexdigest()
