"""A model's training history on disk: step ↔ folder ↔ tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from steerlib import SteerlibError
from steerlib.checkpoints import suites
from steerlib.checkpoints.steps import choose, saved_steps
from steerlib.files.hashes import sha256_of, weights_hash
from steerlib.files.layout import folder_name, weight_files
from steerlib.study.checkpoints import Loading

if TYPE_CHECKING:
    from steerlib.study import Study

AS_IS = Loading()


@dataclass(frozen=True)
class Checkpoint:
    """One step of a training history."""

    step: int
    path: Path
    tokens_seen: int  # -1 when not known
    revision: str = ""  # its name in the repository, or of its folder
    loading: Loading = AS_IS
    tokenizer: Path | None = None  # where its tokenizer lies, if not beside the weights
    sha256: str | None = None  # of the weights, where it is known without reading them
    study: Path | None = None  # a study's results, where hashes of weights are noted (`steerlib.files.hashes`)

    @cached_property
    def weights_sha256(self) -> str:
        """Hash over the weight files, in the order of their names. Raises SteerlibError when there are none."""
        if self.sha256:
            return self.sha256
        return weights_hash(sha256_of(weight_files(self.path), self.study))


def equal_weights(checkpoints: Iterable[Checkpoint]) -> list[str]:
    """A sentence for every checkpoint whose weights are those of an earlier one. Unreadable ones are passed over."""
    seen: dict[str, Checkpoint] = {}
    found = []
    for checkpoint in checkpoints:
        try:
            twin = seen.setdefault(checkpoint.weights_sha256, checkpoint)
        except SteerlibError:
            continue
        if twin is not checkpoint:
            found.append(
                f"step {checkpoint.step} ({checkpoint.revision}) will be no point of its own: its weights are those of "
                f"step {twin.step} ({twin.revision}), byte for byte"
            )
    return found


def history(study: Study, outputs: Path) -> list[Checkpoint]:
    """The study's checkpoints in order of step. Those that pretraining has yet to make are listed as well.

    Raises SteerlibError when the folder, or a step asked for, does not exist.
    """
    return [replace(checkpoint, study=outputs) for checkpoint in _history(study, outputs)]


def _history(study: Study, outputs: Path) -> list[Checkpoint]:
    if study.pretraining:
        per_step = study.pretraining.batch * study.pretraining.model.context
        made = outputs / "checkpoints"
        names = {step: folder_name(step) for step in saved_steps(study)}
        return [Checkpoint(step, made / name, step * per_step, name, study.loading) for step, name in names.items()]
    return _of_repo(study, outputs) if study.checkpoints.repo else _of_folder(study)


def _of_repo(study: Study, outputs: Path) -> list[Checkpoint]:
    """As the listing tells them; fetched or not."""
    from steerlib.checkpoints import downloads, listing

    found, checkpoints = listing.load(study, outputs), []
    own = study.checkpoints.tokenizer.path if study.checkpoints.tokenizer else None
    beside = downloads.place_of_tokenizer(outputs, found.tokenizer) if found.tokenizer else None
    tokenizer = own if own and own.is_dir() else beside
    for entry in found.studied:
        kept = downloads.record(outputs, entry)
        path = Path(kept.path) if kept else downloads.place(outputs, entry.step)
        weights = entry.weights_sha256 or (kept.weights_sha256 if kept else None)
        checkpoints.append(
            Checkpoint(entry.step, path, entry.tokens_seen, entry.revision, study.loading, tokenizer, weights)
        )
    return checkpoints


def _of_folder(study: Study) -> list[Checkpoint]:
    plan, folder = study.checkpoints, study.checkpoints.folder.path
    if not folder.is_dir():
        raise SteerlibError(f"{study.path}: checkpoints.folder: {folder} does not exist{_made_by(study, folder)}")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    try:
        there = suites.parse(names, None, plan.pattern, None, plan.tokens_per_step)
    except SteerlibError as error:
        raise SteerlibError(f"{folder}: {error}{_made_by(study, folder)}") from None
    found = {revision.step: revision for revision in there}
    wanted = choose(plan.steps, list(found))
    if absent := [step for step in wanted if step not in found]:
        raise SteerlibError(
            f"{study.path}: checkpoints.steps: {folder} has no step {absent[0]}; "
            f"it has {', '.join(map(str, found))}{_made_by(study, folder)}"
        )
    if not wanted:
        raise SteerlibError(f"{study.path}: checkpoints.steps: none of {', '.join(map(str, found))} is among them")
    tokenizer = plan.tokenizer.path if plan.tokenizer else None
    if tokenizer and not tokenizer.is_dir():
        raise SteerlibError(f"{study.path}: checkpoints.tokenizer: {tokenizer} does not exist")
    return [
        Checkpoint(step, path, _tokens_seen(path, found[step].tokens_seen), path.name, study.loading, tokenizer)
        for step, path in ((step, folder / found[step].name) for step in wanted)
    ]


def _made_by(study: Study, folder: Path) -> str:
    """What to run first, when the folder lies in another study's results."""
    for place in (folder, *folder.parents):
        other = study.path.with_name(f"{place.name}.yaml")
        if place.parent.name == "outputs" and other != study.path and other.exists():
            return f"; run {other} first, which makes it"
    return ""


def _tokens_seen(path: Path, otherwise: int) -> int:
    """Trainer writes what it has seen into its state, when it was asked to count."""
    state = path / "trainer_state.json"
    return int((state.exists() and json.loads(state.read_text()).get("num_input_tokens_seen")) or otherwise)
