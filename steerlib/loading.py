"""Loading a checkpoint safely: whatever is wrong with its files is said, not computed with."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from steerlib.checkpoints import Checkpoint, weight_files
from steerlib.errors import SteerlibError
from steerlib.model import Model


def load(checkpoint: Checkpoint) -> Model:
    """The checkpoint as a model, in float32.

    Raises SteerlibError for a folder without config or weights, for truncated or missing weights, and for
    weights that are not finite: each would otherwise give numbers that look like results.
    """
    if not (checkpoint.path / "config.json").exists():
        raise SteerlibError(f"{checkpoint.path}: config.json is missing; is this a Hugging Face checkpoint folder?")
    weight_files(checkpoint.path)
    try:
        hf, report = AutoModelForCausalLM.from_pretrained(
            checkpoint.path, dtype=torch.float32, output_loading_info=True, local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.path, local_files_only=True)
    except Exception as error:  # transformers, safetensors and torch each raise their own kinds
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise SteerlibError(
            f"{checkpoint.path}: cannot be loaded ({type(error).__name__}: {reason}); "
            "if a file was cut short, copy or download the checkpoint again"
        ) from error
    if not tokenizer("a")["input_ids"]:  # without its files, transformers makes one that knows no words
        raise SteerlibError(
            f"{checkpoint.path}: holds no tokenizer; save it beside the weights (tokenizer.save_pretrained)"
        )
    if absent := sorted(report["missing_keys"]):
        raise SteerlibError(
            f"{checkpoint.path}: {len(absent)} weights are missing from the files, {absent[0]} among them"
        )
    for name, weight in hf.named_parameters():
        if not torch.isfinite(weight).all():
            raise SteerlibError(
                f"{checkpoint.path}: {name} holds NaN or infinite weights; training diverged before this step"
            )
    try:
        return Model(hf, tokenizer, checkpoint.revision, checkpoint.weights_sha256)
    except ValueError as error:
        raise SteerlibError(f"{checkpoint.path}: {error}") from None
