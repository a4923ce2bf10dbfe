"""Where the checkpoints lie that are made of a GGUF file, and what is noted of them; `model/gguf.py` makes them."""

from pathlib import Path

from pydantic import BaseModel

from steerlib import SteerlibError
from steerlib.files import store
from steerlib.files.hashes import sha256_of
from steerlib.files.layout import absent, folder_name
from steerlib.files.params import Located
from steerlib.study import Study

WHOLE = ("F64", "F32", "F16", "BF16")  # types that are no codes
NAME = "dequantised.json"  # in a checkpoint's folder, as a part of what it is


class Dequantised(BaseModel):
    """What a checkpoint was made of."""

    file: str
    sha256: store.Sha256  # of the file
    types: dict[str, int]  # of tensors, as llama.cpp calls them, and how many there are
    untrained: int | None  # the seed of its weights, which are then none of the file's

    def __str__(self) -> str:
        codes = [kind for kind in self.types if kind not in WHOLE] or list(self.types)
        how = f"dequantised from {', '.join(codes)}" if self.untrained is None else "untrained"
        return f"{self.file}, {how}"


def places(study: Study, folder: Path) -> dict[int, Path]:
    """By step: 1 is the file's model, and 0, where the study asks for it, the same architecture untrained.

    Of a file that training goes on from there is that alone, as what is trained on is step 0.
    """
    steps = [0, 1] if study.checkpoints.untrained and not study.pretraining else [1]
    return {step: folder / "dequantised" / folder_name(step) for step in steps}


def file_of(study: Study) -> Located | None:
    """The GGUF file of a study. Raises SteerlibError where there is no such file."""
    start, given = study.pretraining and study.pretraining.start, study.checkpoints.gguf
    named = start if start and start.lower().endswith(".gguf") else given
    if named and not named.path.is_file():
        what = "checkpoints.gguf" if given else "pretraining.start"
        raise SteerlibError(f"{study.path}: {what}: {absent(named.path, file=True)}")
    return named


def missing(study: Study, folder: Path) -> dict[Path, tuple[str, int | None]]:
    """What is yet to be made of the study's GGUF file: where, of which hash, with which seed. Raises SteerlibError."""
    if (file := file_of(study)) is None:
        return {}
    sha256 = sha256_of([file.path], folder)[0]
    asked = {place: (sha256, None if step else study.seed) for step, place in places(study, folder).items()}
    kept = {place: noted(place) for place in asked}
    return {place: of for place, of in asked.items() if not (one := kept[place]) or (one.sha256, one.untrained) != of}


def start(study: Study, folder: Path) -> Path:
    """The folder of the checkpoint that training goes on from. Raises SteerlibError where there is none."""
    if file_of(study):
        return places(study, folder)[1]
    if not (place := study.pretraining.start.path).is_dir():
        raise SteerlibError(f"{study.path}: pretraining.start: {absent(place)}")
    return place


def noted(place: Path) -> Dequantised | None:
    return store.read_json(place / NAME, Dequantised)
