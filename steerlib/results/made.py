"""What a job has written, its dataset and all beside it: hashes for its stamp, and whether all of it is still whole."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import Field

from steerlib.files import store
from steerlib.files.hashes import file_sha256, seen, settled
from steerlib.results import keys
from steerlib.results.workspace import Job, Workspace
from steerlib.stages.table import Stage

# What lies in the folder of results, by its place there: what tells it, unread, from another; and its hash before that.
Left = dict[str, str]
Made = Annotated[dict[str, Annotated[list[str], Field(min_length=2, max_length=2)]], Field(min_length=1)]


def checkpoints(workspace: Workspace, job: Job) -> dict[str, str | None]:
    """Identities of the checkpoints that a job makes, by step; None for one that is not there."""
    makes = {"pretraining": workspace.checkpoints, "finetuning": workspace.analysed}.get(job.stage, {})
    return {str(step): keys.identity_of(c) for step, c in makes.items() if job.step in (None, step)}


def left(folder: Path, stage: Stage, name: str) -> Left:
    """All that lies where a job of that name writes beside its dataset."""
    found = [path for pattern in stage.leaves for path in sorted(folder.glob(pattern.format(name=name)))]
    return {path.relative_to(folder).as_posix(): _told(path, seen) for path in found}


def of(folder: Path, dataset: Path, now: Left, before: Left, earlier: Made) -> Made:
    """What a job has written: its dataset, and what was not there before it began, or was another.

    What an ``earlier`` one had written and this one has not is removed: it would be taken for this one's.
    """
    new = [place for place, state in now.items() if before.get(place) != state]
    for place in now.keys() & earlier.keys() - {*new}:
        store.remove(folder / place)
    paths = {place: folder / place for place in (dataset.relative_to(folder).as_posix(), *new)}
    # Before they are read, as they may change meanwhile; of what would not be seen to change, nothing.
    states = [_told(path, seen) if all(map(settled, _files(path))) else "" for path in paths.values()]
    return {place: [_told(paths[place], file_sha256), state] for place, state in zip(paths, states, strict=True)}


def holds(folder: Path, made: Made) -> bool:
    """Whether all of it is there as it was written. Only what may have been altered since is read."""
    try:
        there = ((folder / place, *told) for place, told in made.items())
        return all(_told(path, seen) == state or _told(path, file_sha256) == sha256 for path, sha256, state in there)
    except (OSError, ValueError):  # of a name that no file has
        return False


def _files(path: Path) -> list[Path]:
    return (
        sorted(Path(folder, name) for folder, _, names in os.walk(path) for name in names) if path.is_dir() else [path]
    )


def _told(path: Path, tell: Callable[[Path], str]) -> str:
    """Of a file what is told of it; of a folder, one hash over that of all of its files."""
    if not path.is_dir():
        return tell(path)
    about = "\n".join(f"{file.relative_to(path).as_posix()} {tell(file)}" for file in _files(path))
    return hashlib.sha256(about.encode()).hexdigest()
