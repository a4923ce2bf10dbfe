"""The embedded default: a small model pretrained from scratch, its history kept as Hugging Face checkpoints."""

import hashlib
import io
import json
import time
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from pydantic import BaseModel
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from steerlib import SteerlibError
from steerlib.checkpoints import dequantised
from steerlib.checkpoints.history import Checkpoint
from steerlib.checkpoints.steps import saved_steps
from steerlib.files import store
from steerlib.files.layout import folder_name
from steerlib.model import load
from steerlib.model.saving import save_checkpoint
from steerlib.numerics import devices
from steerlib.stages.source import libraries
from steerlib.stages.table import STAGES
from steerlib.stages.training import Progress, documents, optimizer_of, update, weights, windows
from steerlib.study import Study
from steerlib.study.checkpoints import Loading
from steerlib.study.training import Pretraining

END = "<|endoftext|>"
# What an architecture has beside the shape that all are told: dropout, of which such short trainings have no need.
OWN = {"gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}}
ENOUGH = 20_000_000  # characters, to find the merges of a tokenizer by


def train_tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE, as Pythia's: no text is out of vocabulary. Of a long corpus, an even part is enough."""
    texts = texts[:: 1 + sum(map(len, texts)) // ENOUGH]
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocabulary, min_frequency=0, show_progress=False, special_tokens=[END])
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(bpe.to_str()), eos_token=END)


def tokenizer_of(study: Study, texts: list[str]) -> PreTrainedTokenizerFast:
    """Of the study's corpus. Raises SteerlibError where words of a world that it describes are not one token each."""
    plan = study.pretraining
    # Repeated, so that byte-pair merging makes one token of each.
    words = study.world.tokens(texts) * 100 if plan.corpus == "stories" else []
    tokenizer = train_tokenizer(texts + words, plan.vocabulary)
    if "world" in plan.model_fields_set:
        cut = [word for word in study.world.tokens() if len(tokenizer(word)["input_ids"]) > 1]
        if cut:
            room = len(train_tokenizer(texts + words, 1_000_000))
            raise SteerlibError(
                f"{study.path}: pretraining.vocabulary: {plan.vocabulary} tokens leave {len(cut)} words of "
                f"pretraining.world in pieces, {cut[0].strip()!r} among them; {room} are enough"
            )
    return tokenizer


def read_start(study: Study, folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The model that training goes on from, and its tokenizer, loaded as for an analysis. Raises SteerlibError."""
    place = dequantised.start(study, folder)
    model = load(Checkpoint(0, place, -1, loading=Loading(dtype="float32", device=study.pretraining.device)))
    return model.hf, model.tokenizer


def build(plan: Pretraining, vocabulary: int, seed: int) -> PreTrainedModel:
    """The untrained model, without dropout."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        plan.model.architecture,
        vocab_size=vocabulary,
        hidden_size=plan.model.hidden,
        intermediate_size=plan.model.wider,
        num_hidden_layers=plan.model.layers,
        num_attention_heads=plan.model.heads,
        max_position_embeddings=plan.model.context,
        bos_token_id=0,
        eos_token_id=0,
        **OWN.get(plan.model.architecture, {}),
    )
    return AutoModelForCausalLM.from_config(config)


def pretrain(study: Study, outputs: Path, progress: Progress = lambda step, loss: None) -> xr.Dataset:
    """Train, saving a checkpoint at every step asked for; returns the loss of every step.

    Resumes from the newest checkpoint after a kill, bit for bit as if there had been none: the state of the optimizer
    is kept beside the checkpoints, and everything else follows from step and seed. What an earlier training of the very
    same has saved is not made again, whichever steps it was asked for. How fast it went is among the attributes of the
    loss (see `speed`).
    """
    plan, saved, folder = study.pretraining, saved_steps(study), outputs / "checkpoints"
    torch.set_num_threads(plan.threads)
    device = devices.find(plan.device)
    texts = documents(study)
    if plan.start:
        model, tokenizer = read_start(study, outputs)
    else:
        tokenizer = tokenizer_of(study, texts)
        model = build(plan, len(tokenizer), study.seed).to(device)
    data = windows(texts, tokenizer, plan.model.context)
    optimizer = optimizer_of(model)
    trained = torch.compile(model) if plan.compile else model  # the same weights
    training = _training(study, outputs, tokenizer, data, device)
    made, resume = folder / "made.json", folder / "resume.pt"
    history = store.read_json(made, History)
    there = history.checkpoints if history and history.training == training else {}
    before = _resumed(resume, training, device)  # losses and states of an earlier training

    places = {step: folder / folder_name(step) for step in saved}
    losses, seconds, known = [], [], before["losses"] if before else []
    missing = [s for s, path in places.items() if s > len(known) or there.get(path.name) != _identity(s, path)]
    if before and missing and missing[0] >= len(known):
        model.load_state_dict(before["model"])
        optimizer.load_state_dict(before["optimizer"])
        losses = list(known)
    for step in range(len(losses), missing[-1] + 1) if missing else ():
        # `step` updates have been made when checkpoint `step` is saved.
        if step in missing:
            save_checkpoint(model, tokenizer, places[step])
            there[places[step].name] = _identity(step, places[step])
            store.write_json(made, History(training=training, checkpoints=there).model_dump())
        if step in missing and step >= len(known):
            states = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses}
            buffer = io.BytesIO()
            torch.save({"training": training, **states}, buffer)
            store.write_bytes(resume, hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue())
        if step == missing[-1]:
            break
        started = time.perf_counter()
        losses.append(update(trained, optimizer, data, plan, step, study.seed, f"{study.path}: pretraining"))
        seconds.append(time.perf_counter() - started)
        progress(step + 1, losses[-1])
    losses = (losses + known[len(losses) :])[: saved[-1]]
    steps = np.arange(1, len(losses) + 1)
    attrs = speed(plan, weights(model), seconds, device) if seconds else {}
    return xr.Dataset({"loss": ("step", np.array(losses, dtype=np.float32), attrs)}, {"step": steps})


def forget(outputs: Path) -> None:
    """Let the next training begin anew."""
    for name in ("made.json", "resume.pt"):
        store.remove(outputs / "checkpoints" / name)


class History(BaseModel):
    """What trainings of one kind have saved here."""

    training: str
    checkpoints: dict[str, str]  # folder -> identity


def _training(
    study: Study, outputs: Path, tokenizer: PreTrainedTokenizerFast, data: Tensor, device: torch.device
) -> str:
    """Hash of all that the weights hang on: corpus, params, code, versions, device."""
    plan = study.pretraining.model_dump(
        mode="json", exclude={"corpus", "world", "documents", "steps", "compute", "device", "start"}
    )
    code = STAGES["pretraining"].source(), libraries(), tokenizer.backend_tokenizer.to_str()
    made_from = [study.seed, plan, study.pretraining.updates, device.type, *code]
    if study.pretraining.start:
        made_from.append(Checkpoint(0, dequantised.start(study, outputs), -1).identity)
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode() + data.numpy().tobytes()).hexdigest()


def _resumed(path: Path, training: str, device: torch.device) -> dict | None:
    """States and losses of the same training, as far as it came; after their hash, as torch checks none."""
    try:
        data = path.read_bytes()
        state = torch.load(io.BytesIO(data[32:]), weights_only=True, map_location=device)
        same = hashlib.sha256(data[32:]).digest() == data[:32] and state["training"] == training
        return state if same else None
    except Exception:  # torch, pickle and zipfile each raise their own kinds: what cannot be read is not there
        return None


def _identity(step: int, path: Path) -> str:
    """Of a checkpoint that was saved; none has that of one that is gone."""
    try:
        return Checkpoint(step, path, -1).identity
    except (SteerlibError, OSError):
        return "gone"


def speed(plan: Pretraining, weights: int, seconds: list[float], device: torch.device) -> dict[str, float]:
    """Throughput of the median step, and model FLOP utilisation (Chowdhery et al. 2022).

    The compute of a step, by 6·N·D, over what the device would do in that time: the rate of a large matrix product in
    the same precision, measured here, rather than a number from a data sheet.
    """
    rate, spent = 1 / float(np.median(seconds)), 6.0 * weights * plan.batch * plan.model.context
    peak = devices.matmul_rate(device, plan.precision)
    return {
        "tokens_per_second": plan.batch * plan.model.context * rate,
        "flop_per_second": spent * rate,
        "matmul_flop_per_second": peak,
        "mfu": spent * rate / peak,
    }
