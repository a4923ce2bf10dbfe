"""The embedded default: a small model pretrained from scratch, its history kept as Hugging Face checkpoints."""

import errno
import hashlib
import io
import json
import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Int
from pydantic import BaseModel
from safetensors import SafetensorError
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from torch import Tensor
from torch.optim import AdamW, Optimizer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from steerlib import SteerlibError
from steerlib.checkpoints.history import Checkpoint
from steerlib.checkpoints.steps import saved_steps
from steerlib.concepts.planted import stories
from steerlib.files import store
from steerlib.files.layout import folder_name
from steerlib.files.params import read_text
from steerlib.model import devices
from steerlib.stages.source import libraries
from steerlib.stages.table import STAGES
from steerlib.study import Study
from steerlib.study.training import Finetuning, Pretraining

Plan = Pretraining | Finetuning
Progress = Callable[[int, float], None]  # told of updates made, and the loss before the last of them
END = "<|endoftext|>"
PLANTED = {"pretraining": ("stories", stories.corpus), "finetuning": ("instructions", stories.instructions)}
# What an architecture has beside the shape that all are told: dropout, of which such short trainings have no need.
OWN = {"gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}}
ENOUGH = 20_000_000  # characters, to find the merges of a tokenizer by


def documents(study: Study, stage: Literal["pretraining", "finetuning"] = "pretraining") -> list[str]:
    """A stage's corpus, a document an entry. Raises SteerlibError when a given file holds no text."""
    plan, (planted, write) = getattr(study, stage), PLANTED[stage]
    if plan.corpus == planted:
        return list(write(study.world, study.seed, plan.documents))
    lines = [line for line in read_text(plan.corpus.path).splitlines() if line.strip()]
    if not lines:
        raise SteerlibError(f"{plan.corpus.path}: {stage}.corpus holds no text")
    return lines


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


def windows(
    texts: list[str], tokenizer: PreTrainedTokenizerFast, context: int, field: str = "pretraining.corpus"
) -> Int[Tensor, "row context"]:
    """Documents end to end, cut into rows of ``context`` tokens. Raises SteerlibError when there is not one row.

    A tokenizer may have no token for the end of a document; then nothing stands between two of them.
    """
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    some = (texts[start : start + 4096] for start in range(0, len(texts), 4096))  # as lists, ids take much memory
    rows = (np.array([i for ids in tokenizer(part)["input_ids"] for i in ids + end], dtype=np.int32) for part in some)
    stream = np.concatenate([*rows, np.empty(0, dtype=np.int32)])
    if len(stream) < context:
        raise SteerlibError(f"{field} has {len(stream)} tokens, fewer than one context of {context}")
    return torch.from_numpy(stream[: len(stream) // context * context]).long().reshape(-1, context)


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


def learning_rate(plan: Plan, step: int) -> float:
    """Linear warm-up, then cosine to a tenth."""
    if step < plan.warmup:
        return plan.learning_rate * (step + 1) / plan.warmup
    progress = (step - plan.warmup) / max(1, plan.updates - plan.warmup)
    return plan.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))


def batch_rows(plan: Plan, step: int, rows: int, seed: int) -> np.ndarray:
    """Rows of one step: each epoch a new order, known from step and seed alone, so that resuming needs no state."""
    wanted = np.arange(step * plan.batch, (step + 1) * plan.batch)
    orders = {e: np.random.default_rng([seed, e]).permutation(rows) for e in np.unique(wanted // rows)}
    return np.array([orders[i // rows][i % rows] for i in wanted])


def optimizer_of(model: PreTrainedModel) -> Optimizer:
    return AdamW(model.parameters(), weight_decay=0.01, betas=(0.9, 0.95))


def update(
    model: PreTrainedModel, optimizer: Optimizer, data: Tensor, plan: Plan, step: int, seed: int, training: str
) -> float:
    """One step of next-token prediction on rows of token ids (row × context); returns their loss, in nat a token.

    Raises SteerlibError for a loss that is not finite; ``training`` says of which, as "toy.yaml: pretraining".
    """
    rows = data[batch_rows(plan, step, len(data), seed)].to(model.device)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(plan, step)
    half = getattr(plan, "precision", "float32") == "bfloat16"
    with torch.autocast(rows.device.type, torch.bfloat16, enabled=half):
        loss = model(input_ids=rows, labels=rows).loss
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    if not loss.isfinite():
        raise SteerlibError(
            f"{training} diverged (loss {loss.item()} at step {step + 1}); lower {training.split()[-1]}.learning_rate "
            f"({plan.learning_rate}) or lengthen the warmup ({plan.warmup})"
        )
    return loss.item()


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
    tokenizer = tokenizer_of(study, texts)
    data = windows(texts, tokenizer, plan.model.context)
    model = build(plan, len(tokenizer), study.seed).to(device)
    optimizer = optimizer_of(model)
    trained = torch.compile(model) if plan.compile else model  # the same weights
    training = _training(study, tokenizer, data, device)
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
    attrs = speed(plan, len(tokenizer), seconds, device) if seconds else {}
    return xr.Dataset({"loss": ("step", np.array(losses, dtype=np.float32), attrs)}, {"step": steps})


def forget(outputs: Path) -> None:
    """Let the next training begin anew."""
    for name in ("made.json", "resume.pt"):
        store.remove(outputs / "checkpoints" / name)


class History(BaseModel):
    """What trainings of one kind have saved here."""

    training: str
    checkpoints: dict[str, str]  # folder -> identity


def _training(study: Study, tokenizer: PreTrainedTokenizerFast, data: Tensor, device: torch.device) -> str:
    """Hash of all that the weights hang on: corpus, params, code, versions, device."""
    plan = study.pretraining.model_dump(
        mode="json", exclude={"corpus", "world", "documents", "steps", "compute", "device"}
    )
    code = STAGES["pretraining"].source(), libraries(), tokenizer.backend_tokenizer.to_str()
    made_from = [study.seed, plan, study.pretraining.updates, device.type, *code]
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


def speed(plan: Pretraining, vocabulary: int, seconds: list[float], device: torch.device) -> dict[str, float]:
    """Throughput of the median step, and model FLOP utilisation (Chowdhery et al. 2022).

    The compute of a step, by 6·N·D, over what the device would do in that time: the rate of a large matrix product in
    the same precision, measured here, rather than a number from a data sheet.
    """
    rate, spent = 1 / float(np.median(seconds)), plan.flops_per_step(vocabulary)
    peak = devices.matmul_rate(device, plan.precision)
    return {
        "tokens_per_second": plan.batch * plan.model.context * rate,
        "flop_per_second": spent * rate,
        "matmul_flop_per_second": peak,
        "mfu": spent * rate / peak,
    }


def save_checkpoint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """An ordinary Hugging Face folder, whole or not at all. Raises SteerlibError when it cannot be written."""

    def fill(temporary: Path) -> None:
        try:
            model.save_pretrained(temporary)
        except SafetensorError as error:  # a full disk, most likely: as an OSError it is told as one
            code = re.search(r"os error (\d+)", str(error))
            raise OSError(int(code[1]) if code else errno.EIO, str(error)) from error
        tokenizer.save_pretrained(temporary)

    store.replace_folder(folder, fill)
