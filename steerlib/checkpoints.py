"""A model's training history on disk: step ↔ folder ↔ tokens, and loading one checkpoint safely."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from steerlib.errors import SteerlibError
from steerlib.origins import Loading
from steerlib.study import Study

STEP = re.compile(r"(?:^|[^0-9a-z])?(?:global_)?(?:step|checkpoint|ckpt)[-_=]?(\d+)$", re.IGNORECASE)
AS_IS = Loading()
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True)
class Checkpoint:
    """One step of a training history."""

    step: int
    path: Path
    tokens_seen: int  # -1 when not known
    revision: str = ""  # its name in the repository, or of its folder
    loading: Loading = AS_IS
    tokenizer: Path | None = None  # where its tokenizer lies, if not beside the weights

    @cached_property
    def weights_sha256(self) -> str:
        """Hash over the weight files, in the order of their names. Raises SteerlibError when there are none."""
        files = weight_files(self.path)
        digest = hashlib.sha256()
        for file in files:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    def load(self):
        """The checkpoint as a `steerlib.model.Model` (see `steerlib.loading.load`). Raises SteerlibError."""
        from steerlib import loading  # and with it torch and transformers

        return loading.load(self)


def weight_files(folder: Path) -> list[Path]:
    """Weight files of a checkpoint, safetensors before bin. Raises SteerlibError when there are none."""
    for pattern in WEIGHTS:
        if files := sorted(folder.glob(pattern)):
            return files
    raise SteerlibError(f"{folder}: holds no weights ({' or '.join(WEIGHTS)})")


def folder_name(step: int) -> str:
    return f"step={step:08d}"


def history(study: Study, outputs: Path) -> list[Checkpoint]:
    """The study's checkpoints in order of step. Those that pretraining has yet to make are listed as well.

    Raises SteerlibError when the folder, or a step asked for, does not exist.
    """
    if study.pretraining:
        per_step = study.pretraining.batch * study.pretraining.model.context
        made = outputs / "checkpoints"
        names = {step: folder_name(step) for step in study.saved}
        return [Checkpoint(step, made / name, step * per_step, name, study.loading) for step, name in names.items()]
    folder = study.resolve(study.checkpoints.folder)
    if not folder.is_dir():
        raise SteerlibError(f"{study._path}: checkpoints.folder: {folder} does not exist{_made_by(study, folder)}")
    found = {int(m[1]): path for path in sorted(folder.iterdir()) if path.is_dir() and (m := STEP.search(path.name))}
    if not found:
        raise SteerlibError(f"{folder}: no subfolders named like step-100 or checkpoint-100{_made_by(study, folder)}")
    wanted = study.checkpoints.choose(sorted(found))
    if absent := [step for step in wanted if step not in found]:
        raise SteerlibError(
            f"{study._path}: checkpoints.steps: {folder} has no step {absent[0]}; "
            f"it has {', '.join(map(str, sorted(found)))}{_made_by(study, folder)}"
        )
    return [
        Checkpoint(step, found[step], _tokens_seen(found[step]), found[step].name, study.loading) for step in wanted
    ]


def _made_by(study: Study, folder: Path) -> str:
    """What to run first, when the folder lies in another study's results."""
    for place in (folder, *folder.parents):
        other = study._path.with_name(f"{place.name}.yaml")
        if place.parent.name == "outputs" and other != study._path and other.exists():
            return f"; run {other} first, which makes it"
    return ""


def _tokens_seen(path: Path) -> int:
    """Trainer writes what it has seen into its state, when it was asked to count; otherwise it is not known."""
    state = path / "trainer_state.json"
    return int(json.loads(state.read_text()).get("num_input_tokens_seen") or -1) if state.exists() else -1
