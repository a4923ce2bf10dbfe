"""Whose results a folder holds: those of one params file, told by where it lies, and of one model."""

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from steerlib import SteerlibError
from steerlib.files import store
from steerlib.results.workspace import Workspace
from steerlib.study import comparison

NAME = "study.json"  # of the file in a folder of results
# Absolute, and from the folder of results: a project that is moved or copied stays its own.
Place = Annotated[list[str], Field(min_length=2, max_length=2)]


class Claim(BaseModel):
    """What `study.json` has to tell."""

    params: Place
    model: dict[str, Any]  # what tells the model of one study from another's


def claim(workspace: Workspace) -> None:
    """Take a folder of results for a study. Raises SteerlibError when it holds those of another, or of another model.

    Other analysis params are no hindrance: what they touch is made again. Another model is: its checkpoints would be
    overwritten, or mixed with these.
    """
    study, folder = workspace.study, workspace.folder
    given, base = study.checkpoints.folder, study.checkpoints.base
    model = {"seed": study.seed, "checkpoints.repo": study.checkpoints.repo}
    model["checkpoints.folder"] = _place(given.path, folder) if given else None
    if gguf := study.checkpoints.gguf:
        model["checkpoints.gguf"] = _place(gguf.path, folder)
    model["checkpoints.base"] = _place(base.path, folder) if base and base.path.is_dir() else base
    made = study.pretraining.model_dump(mode="json") if study.pretraining else {}
    take(folder, study.path, model | {f"pretraining.{name}": value for name, value in made.items()})


def take(folder: Path, params: Path, model: dict[str, Any]) -> None:
    """Take a folder for what a params file asks for. Raises SteerlibError."""
    mine = Claim(params=_place(params, folder), model=model)
    theirs = store.read_json(folder / NAME, Claim) or mine
    remedy = f"give that of {params} another `name:`, or another folder by --outputs"
    for key in sorted({*mine.model, *theirs.model}):
        ours, other = mine.model.get(key), theirs.model.get(key)
        if ours != other and not (isinstance(ours, list) and isinstance(other, list) and _same(ours, other)):
            raise SteerlibError(
                f"{folder}: made by other params ({key} is {_told(other)} there, {_told(ours)} in {params}); {remedy}"
            )
    if not _same(mine.params, theirs.params) and comparison.split(theirs.params[0])[0].exists():
        raise SteerlibError(f"{folder}: holds the results of {theirs.params[0]}; {remedy}")
    store.write_json(folder / NAME, mine.model_dump())


def _place(path: Path, folder: Path) -> Place:
    return [str(path.resolve()), os.path.relpath(path.resolve(), folder.resolve())]


def _same(one: Place, other: Place) -> bool:
    return any(a == b for a, b in zip(one, other, strict=False))


def _told(value: Any) -> str:
    return repr(value[0] if value and isinstance(value, list) else value)
