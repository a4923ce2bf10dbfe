"""What a job has written, its dataset and all beside it: hashes for its stamp, and whether all of it is still whole."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import Field

from steerlib.files import store
from steerlib.files.hashes import file_sha256, seen, settled
from steerlib.results import keys
from steerlib.results.workspace import Job, Workspace
from steerlib.stages.table import Stage

Left = dict[Path, str]  # what lies there, and what tells it from another
Told = Annotated[list[str], Field(min_length=2, max_length=2)]  # its hash, and what tells it unread from another
Made = Annotated[dict[str, Told], Field(min_length=1)]  # by its place in the folder of results


def checkpoints(workspace: Workspace, job: Job) -> dict[str, str | None]:
    """Identities of the checkpoints that a job makes, by step; None for one that is not there."""
    makes = {"pretraining": workspace.checkpoints, "finetuning": workspace.analysed}.get(job.stage, {})
    return {str(step): keys.identity_of(c) for step, c in makes.items() if job.step in (None, step)}


def left(folder: Path, stage: Stage, name: str) -> Left:
    """All that lies where a job of that name writes beside its dataset."""
    patterns = [pattern.format(name=name) for pattern in stage.leaves]
    return {path: _seen(path) for pattern in patterns for path in sorted(folder.glob(pattern))}


def of(folder: Path, dataset: Path, now: Left, before: Left, earlier: Made) -> Made:
    """What a job has written: its dataset, and what was not there before it began, or was another.

    What an ``earlier`` one had written and this one has not is removed: it would be taken for this one's.
    """
    named = {path.relative_to(folder).as_posix(): path for path, state in now.items() if before.get(path) != state}
    for place in {path.relative_to(folder).as_posix() for path in now} & earlier.keys() - named.keys():
        store.remove(folder / place)
    named[dataset.relative_to(folder).as_posix()] = dataset
    states = [_seen(path) if all(map(settled, _files(path))) else "" for path in named.values()]  # before they are read
    return {place: [_sha256(path), state] for (place, path), state in zip(named.items(), states, strict=True)}


def holds(folder: Path, made: Made) -> bool:
    """Whether all of it is there as it was written. Only what may have been altered since is read."""
    try:
        there = ((folder / place, *told) for place, told in made.items())
        return all(_seen(path) == state or _sha256(path) == sha256 for path, sha256, state in there)
    except (OSError, ValueError):  # of a name that no file has
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
