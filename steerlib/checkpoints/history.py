"""A model's training history on disk: step ↔ folder ↔ tokens."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from steerlib import SteerlibError
from steerlib.checkpoints import dequantised, fetching, foreign, listing
from steerlib.checkpoints.steps import saved_steps, select
from steerlib.files import hub, store
from steerlib.files.hashes import sha256_of, weights_hash
from steerlib.files.layout import (
    WEIGHTS,
    absent,
    folder_name,
    is_adapter,
    loaded_names,
    weight_names,
)
from steerlib.study import Study
from steerlib.study.checkpoints import Loading

UNFINISHED = re.compile(r"^\.|(^|[^0-9a-z])(tmp|partial|incomplete)([^0-9a-z]|$)", re.IGNORECASE)  # names of folders


@dataclass(frozen=True)
class Checkpoint:
    """One step of a training history."""

    step: int
    path: Path
    tokens_seen: int  # -1 when not known
    revision: str = ""  # its name in the repository, or of its folder
    loading: Loading = field(default_factory=Loading)
    tokenizer: Path | None = None  # where its tokenizer lies, if not beside the weights
    sha256: str | None = None  # of the weights, where it is known without reading them
    base: Path | None = None  # where the model lies that it changes, if it is an adapter
    study: Path | None = None  # a study's results, where hashes are noted (`steerlib.files.hashes`)
    known: dict[str, str] | None = None  # hashes of all its files, where they are recorded

    @cached_property
    def _hashes(self) -> dict[str, str]:
        """Of every file that loading reads, by its name."""
        if self.known is not None:
            return self.known
        code = self.loading.trust_remote_code
        words = _hashes_of(self.tokenizer, self.study, code, "tokenizer ", False) if self.tokenizer else {}
        base = _hashes_of(self.base, self.study, code, "base ") if self.base else {}
        return _hashes_of(self.path, self.study, code) | base | words

    @property
    def whole(self) -> Path:
        """The folder of its config and of all of its weights: of an adapter, its base's."""
        return self.base or self.path

    @cached_property
    def identity(self) -> str:
        """Hash over all that it is: two are the same only if every file that loading reads is.

        Raises SteerlibError when there are no weights.
        """
        self._weights()
        return hashlib.sha256(json.dumps(self._hashes, sort_keys=True).encode()).hexdigest()

    @cached_property
    def weights_sha256(self) -> str:
        """Hash over the weight files, in the order of their names, of an adapter and then of its base.

        Raises SteerlibError when there are none.
        """
        if self.sha256:
            return self.sha256
        return weights_hash(self._hashes[name] for name in self._weights())

    def _weights(self) -> list[str]:
        """Names of their hashes. Raises SteerlibError when there are none."""
        base = weight_names(name.removeprefix("base ") for name in self._hashes if name.startswith("base "))
        if not (own := weight_names(self._hashes)):
            raise SteerlibError(f"{self.path}: holds no weights ({' or '.join(WEIGHTS)})")
        return own + [f"base {name}" for name in base]


def history(study: Study, outputs: Path) -> list[Checkpoint]:
    """The study's checkpoints in order of step. Those that pretraining has yet to make are listed as well.

    Raises SteerlibError when the folder, or a step asked for, does not exist.
    """
    if study.pretraining:
        return _pretrained(study, outputs)
    plan = study.checkpoints
    if plan.gguf:
        return _of_gguf(study, outputs)
    found = _of_repo(study, outputs) if plan.repo else _of_folder(study, outputs)
    if plan.base and found[0].step == 0 and not any(one.base or one.revision == plan.base for one in found):
        own = f"{plan.repo or plan.folder.path} has a step 0 of its own, {found[0].revision}"
        raise SteerlibError(f"{study.path}: checkpoints.base: {own}; leave one out")
    return found


def _pretrained(study: Study, outputs: Path) -> list[Checkpoint]:
    tokens, made = study.pretraining.batch * study.pretraining.model.context, outputs / "checkpoints"
    names = {step: folder_name(step) for step in saved_steps(study)}
    return [Checkpoint(k, made / name, k * tokens, name, study.loading, study=outputs) for k, name in names.items()]


def _of_gguf(study: Study, outputs: Path) -> list[Checkpoint]:
    """As they are called once they are made."""
    places = dequantised.places(study, outputs)
    told, _ = select(study, [f"step-{step}" for step in places])
    tokenizer = _tokenizer(study)
    return [
        Checkpoint(
            one.step,
            places[one.step],
            -1 if one.step else 0,
            str(dequantised.noted(places[one.step]) or study.checkpoints.gguf),
            study.loading,
            tokenizer,
            study=outputs,
        )
        for one in told
    ]


def _of_repo(study: Study, outputs: Path) -> list[Checkpoint]:
    """As the listing tells them; fetched or not."""
    listed, base, code = listing.load(study, outputs), fetching.base(study, outputs), study.loading.trust_remote_code
    tokenizer = study.checkpoints.tokenizer and study.checkpoints.tokenizer.path
    words = _hashes_of(tokenizer, outputs, code, "tokenizer ", False) if tokenizer else {}
    if listed.tokenizer:
        tokenizer = fetching.place_of_tokenizer(outputs, listed.tokenizer)
        words = {f"tokenizer {file.name}": file.sha256 or file.oid for file in listed.tokenizer.files}
    of_base, checkpoints = _hashes_of(base, outputs, code, "base ") if base else {}, []
    if listed.base:
        name = str(study.checkpoints.base)
        checkpoints.append(Checkpoint(0, base, 0, name, study.loading, tokenizer, study=outputs))
    for entry in listed.studied:
        kept = fetching.record(outputs, entry)
        names = [file.name for file in entry.files] or (kept.files if kept else {})
        adapts = is_adapter(names)
        if adapts and not base:
            told = _to_merge(None, f"in {study.path}: checkpoints.base")
            raise SteerlibError(f"{listed.repo} {entry.revision}: {told}")
        checkpoint = Checkpoint(
            entry.step,
            Path(kept.path) if kept else fetching.place(outputs, entry.step),
            entry.tokens_seen,
            entry.revision,
            study.loading,
            _words(tokenizer, base, names),
            None if adapts else entry.weights_sha256 or (kept.weights_sha256 if kept else None),
            base if adapts else None,
            study=outputs,
            known=kept.files | (of_base if adapts else {}) | words if kept else {},
        )
        checkpoints.append(checkpoint)
    return checkpoints


def _of_folder(study: Study, outputs: Path) -> list[Checkpoint]:
    folder = study.checkpoints.folder.path
    where = f"{study.path}: checkpoints"
    try:
        if not folder.is_dir():
            raise SteerlibError(f"{where}.folder: {absent(folder)}")
        # A link whose target is gone is a step all the same, and its jobs tell; what is still being written is none.
        names = sorted(path.name for path in folder.iterdir() if path.is_dir() or not path.exists())
        names = [name for name in names if not UNFINISHED.search(name)]
        revisions, _ = select(study, names)
    except SteerlibError as error:
        if other := foreign.told(folder):
            raise SteerlibError(f"{where}.folder: {folder}: {other}") from None
        raise SteerlibError(f"{error}{_made_by(study, folder) or _is_one(folder)}") from None
    tokenizer, named, checkpoints = _tokenizer(study), fetching.base(study, outputs), []
    for told in revisions:
        path = named if told.base else folder / told.revision
        base, words = _merged_into(path, named, tokenizer, study.path.parent, f"in {where}.base")
        tokens = _tokens_seen(path) or told.tokens_seen
        one = Checkpoint(told.step, path, tokens, told.revision, study.loading, words, base=base, study=outputs)
        checkpoints.append(one)
    return checkpoints


def _tokenizer(study: Study) -> Path | None:
    """The folder of the one that the study names. Raises SteerlibError where it is none."""
    if (named := study.checkpoints.tokenizer) and not named.path.is_dir():
        raise SteerlibError(f"{study.path}: checkpoints.tokenizer: {absent(named.path)}")
    return named and named.path


def single(path: Path, base: Path | None, remedy: str, loading: Loading, tokenizer: Path | None = None) -> Checkpoint:
    """A checkpoint that is looked at alone, in the current folder. Raises SteerlibError where its base is nowhere."""
    base, words = _merged_into(path, base, tokenizer, Path(), remedy)
    return Checkpoint(0, path, -1, path.name, loading, words, base=base)


def _merged_into(
    path: Path, named: Path | None, tokenizer: Path | None, near: Path, remedy: str
) -> tuple[Path | None, Path | None]:
    """Where the base lies of what lies in a folder, if that is an adapter, and the tokenizer, if not beside it.

    Raises SteerlibError where the base is neither named nor here (``near`` the place that its own name starts from).
    """
    names, base = [file.name for file in path.glob("*")], None
    if is_adapter(names):
        told = named_base(path)
        base = named or (near / told if told and (near / told).is_dir() else None)
        if base is None:
            raise SteerlibError(f"{path}: {_to_merge(told, remedy)}")
    return base, _words(tokenizer, base or named, names)


def _to_merge(name: str | None, remedy: str) -> str:
    return (
        f"is an adapter (of peft), to be merged into its base{f', {name}' if name else ''}; name that, a folder or a "
        f"repository, {remedy}"
    )


def _words(tokenizer: Path | None, base: Path | None, names: Iterable[str]) -> Path | None:
    """Where a tokenizer lies, if not beside these files: where one is named, or else with the base."""
    return tokenizer or (base if {*names}.isdisjoint(hub.TOKENIZER) else None)


class Adapter(BaseModel):
    """What matters here of an `adapter_config.json`."""

    base_model_name_or_path: str | None = None


def named_base(path: Path) -> str | None:
    """The model that an adapter says it changes. Raises SteerlibError where that cannot be read."""
    file = path / "adapter_config.json"
    try:
        return store.parse_json(file.read_bytes(), Adapter).base_model_name_or_path
    except store.NO_JSON as error:
        raise SteerlibError(f"{file}: cannot be read ({store.reason(error)}), nor what it is an adapter of") from None


def _hashes_of(folder: Path, study: Path | None, code: bool, prefix: str = "", weights=True) -> dict[str, str]:
    """Of the files of a folder that loading reads; of a tokenizer's, not the weights."""
    names = [path.name for path in folder.glob("*") if path.is_file()]
    names = [name for name in loaded_names(names, code) if weights or name not in weight_names(names)]
    hashes = sha256_of([folder / name for name in names], study)
    return {prefix + name: sha256 for name, sha256 in zip(names, hashes, strict=True)}


def _made_by(study: Study, folder: Path) -> str:
    """What to run first, when the folder lies in another study's results."""
    for parent in (folder, *folder.parents):
        maker = study.path.with_name(f"{parent.name}.yaml")
        if parent.parent.name == "outputs" and maker != study.path and maker.exists():
            return f"; run {maker} first, which makes it"
    return ""


def _is_one(folder: Path) -> str:
    if not weight_names(path.name for path in folder.glob("*")):
        return ""
    return f"; it is one checkpoint itself: name the folder that holds those of all steps, as {folder.parent}"


class TrainerState(BaseModel):
    """What Trainer has seen, when it was asked to count."""

    num_input_tokens_seen: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


def _tokens_seen(path: Path) -> int:
    """0 where it is not known."""
    state = path / "trainer_state.json"
    try:
        return int(store.parse_json(state.read_bytes(), TrainerState).num_input_tokens_seen or 0)
    except FileNotFoundError:
        return 0
    except store.NO_JSON as error:
        store.tell(f"{state}: cannot be read ({store.reason(error)}), and so not how many tokens were seen")
        return 0
