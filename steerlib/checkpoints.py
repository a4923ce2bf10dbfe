"""A model's training history on disk: step ↔ folder ↔ tokens, and loading one checkpoint safely."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from steerlib.errors import SteerlibError
from steerlib.study import Study

STEP = re.compile(r"(?:^|[^0-9a-z])?(?:global_)?(?:step|checkpoint|ckpt)[-_=]?(\d+)$", re.IGNORECASE)
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True)
class Checkpoint:
    """One step of a training history."""

    step: int
    path: Path
    tokens_seen: int  # -1 when not known

    @property
    def revision(self) -> str:
        return self.path.name

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
        """The checkpoint as a `steerlib.model.Model`, in float32.

        Raises SteerlibError for a folder without config or weights, for truncated or missing weights, and for
        weights that are not finite: each would otherwise give numbers that look like results.
        """
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from steerlib.model import Model

        if not (self.path / "config.json").exists():
            raise SteerlibError(f"{self.path}: config.json is missing; is this a Hugging Face checkpoint folder?")
        weight_files(self.path)
        try:
            hf, report = AutoModelForCausalLM.from_pretrained(
                self.path, dtype=torch.float32, output_loading_info=True, local_files_only=True
            )
            tokenizer = AutoTokenizer.from_pretrained(self.path, local_files_only=True)
        except Exception as error:  # transformers, safetensors and torch each raise their own kinds
            reason = (str(error).strip().splitlines() or ["no reason given"])[0]
            raise SteerlibError(
                f"{self.path}: cannot be loaded ({type(error).__name__}: {reason}); "
                "if a file was cut short, copy or download the checkpoint again"
            ) from error
        if not tokenizer("a")["input_ids"]:  # without its files, transformers makes one that knows no words
            raise SteerlibError(
                f"{self.path}: holds no tokenizer; save it beside the weights (tokenizer.save_pretrained)"
            )
        if absent := sorted(report["missing_keys"]):
            raise SteerlibError(
                f"{self.path}: {len(absent)} weights are missing from the files, {absent[0]} among them"
            )
        for name, weight in hf.named_parameters():
            if not torch.isfinite(weight).all():
                raise SteerlibError(
                    f"{self.path}: {name} holds NaN or infinite weights; training diverged before this step"
                )
        try:
            return Model(hf, tokenizer, self.revision, self.weights_sha256)
        except ValueError as error:
            raise SteerlibError(f"{self.path}: {error}") from None


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
        return [Checkpoint(step, made / folder_name(step), step * per_step) for step in study.checkpoints.steps]
    folder = study.resolve(study.checkpoints.folder)
    if not folder.is_dir():
        raise SteerlibError(f"{study._path}: checkpoints.folder: {folder} does not exist{_made_by(study, folder)}")
    found = {int(m[1]): path for path in sorted(folder.iterdir()) if path.is_dir() and (m := STEP.search(path.name))}
    if not found:
        raise SteerlibError(f"{folder}: no subfolders named like step-100 or checkpoint-100{_made_by(study, folder)}")
    wanted = sorted(found) if study.checkpoints.steps == "all" else study.checkpoints.steps
    if absent := [step for step in wanted if step not in found]:
        raise SteerlibError(
            f"{study._path}: checkpoints.steps: {folder} has no step {absent[0]}; "
            f"it has {', '.join(map(str, sorted(found)))}{_made_by(study, folder)}"
        )
    return [Checkpoint(step, found[step], _tokens_seen(found[step])) for step in wanted]


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
