"""A training watched by itself: `steerlib.Monitor`, a callback of transformers' Trainer.

It looks at the checkpoint that was just saved, in memory of its own: the model in training is never touched. What
goes wrong is told once, and the training goes on. (What watches a push after it was deployed is `pilot.watching`.)
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import xarray as xr
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainerControl, TrainerState
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import logging as bars

from steerlib import SteerlibError
from steerlib.checkpoints.history import Checkpoint, named_base, single
from steerlib.concepts import Concept
from steerlib.files import datasets, hub, params, store
from steerlib.files.layout import folder_name, is_adapter
from steerlib.model import load
from steerlib.model.architecture import place_of_blocks
from steerlib.model.encoder import Encoder, load_tokenizer
from steerlib.results.provenance import in_project
from steerlib.results.schema import describe
from steerlib.stages.live import Live, beside, curves, told
from steerlib.steering.asking import examine
from steerlib.study import Study, comparison

FOLDER = "monitor"  # of measurements, beside the checkpoints
TEXTS = 120  # read at a time, of all concepts together
ASIDE = ".before"  # what is put behind the name of a measurement of an earlier training
Given = str | Path | dict | Concept


class Monitor(TrainerCallback):
    """Separability and steerability of some concepts while a model trains, each with what its null reaches.

        trainer.add_callback(steerlib.Monitor(trainer, ["politeness.csv"]))

    ``concepts``: a study's params file (or one of the project's by its name), whose concepts, method, seed and loading
    are taken; or what a study lists, paths of concept files, names of planted concepts, mappings; or `Concept`s.
    They are looked at whenever the Trainer saves, or ``every`` so many steps. About so many ``texts`` are read each
    time, all concepts together (None: all there are, and all prompts, as a study does).
    ``base``: the folder of the model that adapters change, where they do not name one that is here. ``tokenizer``: one,
    or its folder, where the Trainer has none.

    Raises SteerlibError for what cannot be looked at, before the training begins: afterwards nothing it meets ends it.
    """

    def __init__(
        self,
        trainer: Trainer,
        concepts: Given | Sequence[Given],
        every: int | None = None,
        texts: int | None = TEXTS,
        base: str | Path | None = None,
        tokenizer: PreTrainedTokenizerBase | str | Path | None = None,
    ):
        if not isinstance(trainer, Trainer):
            raise SteerlibError(f"{type(trainer).__name__} is no transformers.Trainer; Monitor(trainer, concepts)")
        for name, number in (("every", every), ("texts", texts)):
            if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
                raise SteerlibError(f"{name}={number!r}: is a whole number, 1 or more, or None")
        if any(isinstance(one, Monitor) for one in trainer.callback_handler.callbacks):
            raise SteerlibError(
                "this Trainer has a Monitor already, whose measurements another would replace; give one all concepts, "
                "after trainer.remove_callback(steerlib.Monitor)"
            )
        if is_deepspeed_zero3_enabled() or (every and (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)):
            raise SteerlibError(
                "this Trainer keeps its weights in parts (DeepSpeed or FSDP): leave out every, so that what it saves "
                "whole is looked at; with ZeRO-3 run a study on that afterwards"
            )
        study, found = asked(concepts)
        self.trainer, self.every, self._base, self._factor = trainer, every, base and Path(base), None
        self._live = Live(study, found, texts)
        self._study, words = self._live.study, tokenizer_of(trainer, tokenizer)
        self._check(words)
        self._words = TemporaryDirectory(prefix="steerlib-")
        words.save_pretrained(self._words.name)
        made = {"params": self._study.model_dump_json(), "texts": texts or 0}
        content = [made, *(concept.model_dump(mode="json") for concept in self._live.concepts)]
        self._attrs = made | {"made_from": hashlib.sha256(json.dumps(content).encode()).hexdigest()}
        self._told: set[str] = set()  # what was said to fail

    def _check(self, words: PreTrainedTokenizerBase) -> None:
        """Raises SteerlibError where the model, or its tokenizer, is none for these concepts."""
        try:
            config = self._model.config
            place_of_blocks(config, self._study.loading.blocks)
        except (AttributeError, ValueError) as error:
            raise SteerlibError(f"the model of this Trainer cannot be looked at: {error}") from None
        text = config.get_text_config(decoder=True)
        if blocks := getattr(text, "num_hidden_layers", None):
            self._study.layers_of(blocks)
        encoder = Encoder(words, text.vocab_size, getattr(text, "max_position_embeddings", None))
        problems = [line for one in self._live.concepts for line in examine(encoder, one, one.readout.cases)[0]]
        if problems:
            more = f" ({len(problems) - 1} more of the kind)" if len(problems) > 1 else ""
            raise SteerlibError(f"concepts do not fit the tokenizer of this Trainer: {problems[0]}{more}")

    @property
    def _model(self) -> torch.nn.Module:
        return self.trainer.accelerator.unwrap_model(self.trainer.model, keep_torch_compile=False)

    @property
    def folder(self) -> Path:
        """Where measurements lie, a dataset a step."""
        return Path(self.trainer.args.output_dir) / FOLDER

    @staticmethod
    def read(output_dir: str | Path) -> xr.Dataset:
        """What was measured so far, as curves over steps with intervals, nulls and onsets.

        As notebook 4 has them (schema `/emergence`), without expression: `figures.onsets.emergence_curves` and
        `onset_summary` draw it. Raises SteerlibError where nothing was measured.
        """
        folder = Path(output_dir) / FOLDER
        if not (files := sorted(folder.glob("step=*.nc"))):
            raise SteerlibError(f"{folder}: no measurements; a Trainer with a steerlib.Monitor makes them")
        steps = [datasets.read(file) for file in files]
        alike = [step for step in steps if step.attrs["made_from"] == steps[-1].attrs["made_from"]]
        if len(alike) < len(steps):
            store.tell(
                f"{folder}: {len(steps) - len(alike)} of {len(steps)} steps are of other concepts or texts: left out"
            )
        study = Study.of(json.loads(steps[-1].attrs["params"]), folder, folder / "params")
        return curves(beside(alike), study)

    # --- what the Trainer tells it ---------------------------------------------------------------------------------

    def on_train_begin(self, args, state: TrainerState, control: TrainerControl, **_) -> None:
        """Measurements of later steps are of another training: they are put aside."""
        later = (file for file in self.folder.glob("step=*.nc") if file.stem > folder_name(state.global_step))
        self._try(state, lambda: [os.replace(file, f"{file}{ASIDE}") for file in sorted(later)])

    def on_save(self, args, state: TrainerState, control: TrainerControl, **_) -> None:
        if not self.every:
            saved = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            self._try(state, lambda: self._look(state, control, saved))

    def on_step_end(self, args, state: TrainerState, control: TrainerControl, **_) -> None:
        if self.every and state.global_step % self.every == 0:
            self._try(state, lambda: self._look_at_copy(state, control))

    def _try(self, state: TrainerState, do: Callable[[], object], done: str = "measured") -> None:
        """In one process only. Whatever goes wrong is told, once, and no more."""
        if not state.is_world_process_zero:
            return
        try:
            with untouched():
                do()
        except Exception as error:  # whichever: a training is worth more than a look at it
            ours = isinstance(error, SteerlibError)
            why = error.args[0] if ours else f"{type(error).__name__}: {store.reason(error)}"
            if done not in self._told:
                step = f"step {state.global_step} is not {done}, and the training goes on"
                store.tell(f"Monitor: {step} (told once): {why}")
            self._told.add(done)

    def _look_at_copy(self, state: TrainerState, control: TrainerControl) -> None:
        with store.making(self.folder) as place, TemporaryDirectory(prefix=".steerlib-", dir=place.parent) as folder:
            self._model.save_pretrained(folder)
            self._look(state, control, Path(folder))

    def _look(self, state: TrainerState, control: TrainerControl, folder: Path) -> None:
        started = time.process_time()
        model = load(self._checkpoint(folder), factor=self._factor)
        self._factor = model.factor
        measured = describe(self._live(model)).expand_dims(step=[state.global_step])
        measured.attrs = {**self._attrs, "cpu_seconds": time.process_time() - started}
        datasets.write(measured, self.folder / f"{folder_name(state.global_step)}.nc")
        self._try(state, lambda: self._log(measured, control), "logged")

    def _log(self, measured: xr.Dataset, control: TrainerControl) -> None:
        flags = dict(vars(control))
        try:
            self.trainer.log(told(measured, self._study))
        finally:  # logging lowers should_log, and the Trainer's own would then be left out
            vars(control).update(flags)

    def _checkpoint(self, folder: Path) -> Checkpoint:
        """What was saved there, as it is loaded: beside the model in training, where that is, if nobody says otherwise.

        Raises SteerlibError where nothing was, and for an adapter whose base is nowhere.
        """
        if not folder.is_dir():
            raise SteerlibError(f"{folder}: is not there, nothing was saved")
        loading, named = self._study.loading, self._study.checkpoints.base
        base = self._base or (named and named.path)
        if loading.device == "auto" and not loading.device_map:
            loading = loading.model_copy(update={"device": str(self.trainer.args.device)})
        if not base and is_adapter(os.listdir(folder)) and (named := named_base(folder)) and not Path(named).is_dir():
            with suppress(SteerlibError):  # what names no repository either
                base = hub.model(named, fetch=False)
        one = single(folder, base, "to the Monitor (base=…)", loading, Path(self._words.name))
        return replace(one, sha256="not asked for")  # to hash large weights takes longer than to look at them


def asked(concepts: Given | Sequence[Given]) -> tuple[Study, list[Concept]]:
    """The study by whose params is measured, and its concepts. Raises SteerlibError."""
    if isinstance(concepts, str | Path) and (file := _params(concepts)):
        study = Study.load(file)
        return study, study.load_concepts()
    given = list(concepts) if isinstance(concepts, list | tuple) else [concepts]
    if not given or not all(isinstance(one, Given) for one in given):
        raise SteerlibError(
            f"concepts={concepts!r}: give a study's params file, or a list of concept files, of names of planted "
            "concepts, or of Concepts"
        )
    here = Path.cwd() / "concepts of the Monitor"

    def study_of(entries: list) -> Study:
        return Study.of({"name": "monitor", "checkpoints": {"folder": "."}, "concepts": entries}, here, here)

    told = [str(one) if isinstance(one, Path) else one for one in given if not isinstance(one, Concept)]
    loaded = study_of(told).load_concepts() if told else []
    found = [one if isinstance(one, Concept) else loaded.pop(0) for one in given]
    names = [concept.name for concept in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SteerlibError(f"concepts: {twice[0]!r} stands there twice")
    # A concept that is in no file has its name alone there.
    return study_of(told + [f"{one.name}.yaml" for one in given if isinstance(one, Concept)]), found


def _params(given: str | Path) -> Path | None:
    """The params file that is named, if it is one, and no concept file."""
    file = in_project(given)
    plain = comparison.split(file)[0]
    if plain.suffix.lower() not in (".yaml", ".yml") or not plain.is_file():
        return None
    return file if "concepts" in params.read(plain) or "#" in file.name else None


def tokenizer_of(trainer: Trainer, given: PreTrainedTokenizerBase | str | Path | None) -> PreTrainedTokenizerBase:
    """The one that is given, or the Trainer's, be it a processor's. Raises SteerlibError where there is none."""
    if isinstance(given, str | Path):
        return load_tokenizer(Path(given))
    words = trainer.processing_class if given is None else given
    words = words if isinstance(words, PreTrainedTokenizerBase) else getattr(words, "tokenizer", None)
    if not isinstance(words, PreTrainedTokenizerBase):
        raise SteerlibError(
            "this Trainer has no tokenizer (processing_class); give it one, or the Monitor: tokenizer=FOLDER"
        )
    return words


@contextmanager
def untouched() -> Iterator[None]:
    """Afterwards all that is drawn at random is what it would have been, and bars are shown or not as before."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    at = [torch.accelerator.current_device_index()] if device and device.type != "mps" else []
    python, shown = random.getstate(), bars.is_progress_bar_enabled()
    array = np.random.get_state()  # noqa: NPY002, as it is what others may draw from
    bars.disable_progress_bar()
    try:
        with torch.random.fork_rng(at, device_type=device.type if at else None):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(array)  # noqa: NPY002
        if shown:
            bars.enable_progress_bar()
