"""Training, as pretraining and fine-tuning do it: a text in rows of tokens, and updates."""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.optim import AdamW, Optimizer
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from steerlib import SteerlibError
from steerlib.concepts.planted import stories
from steerlib.files.params import read_text
from steerlib.study import Study
from steerlib.study.training import Finetuning, Pretraining

Plan = Pretraining | Finetuning
Progress = Callable[[int, float], None]  # told of updates made, and the loss before the last of them
PLANTED = {"pretraining": ("stories", stories.corpus), "finetuning": ("instructions", stories.instructions)}


def documents(study: Study, stage: Literal["pretraining", "finetuning"] = "pretraining") -> list[str]:
    """A stage's corpus, a document an entry. Raises SteerlibError when a given file holds no text."""
    plan, (planted, write) = getattr(study, stage), PLANTED[stage]
    if plan.corpus == planted:
        return list(write(study.world, study.seed, plan.documents))
    lines = [line for line in read_text(plan.corpus.path).splitlines() if line.strip()]
    if not lines:
        raise SteerlibError(f"{plan.corpus.path}: {stage}.corpus holds no text")
    return lines


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


def weights(model: PreTrainedModel) -> int:
    """Those that multiply, as in 2·N FLOP a token read and 6·N a token learned (Kaplan et al. 2020): not the input
    embedding, which is only looked up, unless it is the output's as well."""
    embedding, output = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return sum(weight.numel() for weight in model.parameters()) - (embedding is not output) * embedding.numel()
