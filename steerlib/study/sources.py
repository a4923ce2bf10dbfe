"""What a study's params are read from beside its own file: a list of concepts that several share, and kept copies."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from steerlib import SteerlibError, nearest
from steerlib.concepts.planted.world import DEFAULT, World
from steerlib.concepts.reading import ENDINGS
from steerlib.concepts.reading.records import read_lines
from steerlib.concepts.repeats import once
from steerlib.files import params, store
from steerlib.study.checkpoints import Checkpoints
from steerlib.study.training import Pretraining

ENDING = ".kept.json"
NEUTRAL = Path(__file__).parents[2] / "params" / "concepts" / "neutral.txt"  # passages of English, written for this


class Kept(BaseModel):
    """A study as it was loaded, for a run and its notebooks: what they work on, whatever is edited meanwhile."""

    path: str  # where from, to be named in messages
    file: str  # to whose folder relative names belong
    study: dict[str, Any]

    def write(self, folder: Path) -> Path:
        """Named by what it holds: never is a copy another by the time that a job looks."""
        data = self.model_dump_json().encode()
        path = folder / "params" / (hashlib.sha256(data).hexdigest()[:8] + ENDING)
        store.write_bytes(path, data)
        return path


def read(path: Path) -> Kept | None:
    """None for a file that is no such copy. Raises SteerlibError for one that is not whole."""
    try:
        return store.parse_json(path.read_bytes(), Kept) if path.name.endswith(ENDING) else None
    except store.NO_JSON as error:
        raise SteerlibError(f"{path}: cannot be read ({store.reason(error)}); run again") from None


def world_of(pretraining: Pretraining | None, checkpoints: Checkpoints) -> World:
    """What is planted in the texts that a study's model has read; the default world where nobody says."""
    return (pretraining or checkpoints).world or DEFAULT


def refuse_unknown(entries: Iterable[Any], world: World) -> None:
    """Raises ValueError for an entry of concepts that is neither planted in the world nor the path of a file."""
    planted = world.planted
    for name in entries:
        if isinstance(name, str) and name not in planted and not name.lower().endswith(ENDINGS):
            raise ValueError(
                f"{name!r} is neither a planted concept ({', '.join(planted)}) nor the path of a concept file "
                f"({', '.join(ENDINGS)}){nearest(name, planted)}"
            )


def with_shared_concepts(data: dict, file: Path) -> dict:
    """The params with the list of concepts that they name instead of giving one. Raises SteerlibError."""
    if not isinstance(data.get("concepts"), str):
        return data
    folder = file.resolve().parent
    path = folder / Path(data["concepts"]).expanduser()
    entries = params.read(path).get("concepts")
    if not isinstance(entries, list):
        raise SteerlibError(f"{path}: {file} names it as its concepts, but it has no list of them (key concepts)")

    def moved(value):
        """Paths of files as from the study; planted concepts keep their names."""
        if isinstance(value, dict):
            return value | {key: moved(value[key]) for key in ("file", "test", "prompts") if key in value}
        is_path = isinstance(value, str) and value.lower().endswith((*ENDINGS, ".txt")) and "://" not in value
        return os.path.relpath(path.parent / Path(value).expanduser(), folder) if is_path else value

    return data | {"concepts": list(map(moved, entries))}


def neutral_file(study) -> Path | None:
    """Of the passages on which side effects are measured; None where the model has read the planted stories."""
    if study.sweep.neutral is not None:
        return study.sweep.neutral.path
    told = study.pretraining.corpus == "stories" if study.pretraining else study.checkpoints.world is not None
    return None if told else NEUTRAL


def passages(path: Path) -> list[str]:
    """Distinct neutral passages of a file, of six words or more. Raises SteerlibError for a file that is no text."""
    return [line for line in once(read_lines(path)) if len(line.split()) >= 6]
