"""Tiny models with random weights, one of every architecture, in memory and as checkpoint folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

WORDS = "a b c d e f g h happy glad joyful sad gloomy angry mad ran home Anna felt".split()
SHAPES = {
    "gpt_neox": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48},
    "llama": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    | {"num_key_value_heads": 2},  # keys and values are shared by pairs of heads
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4},
}


def build(architecture: str, dtype: str = "float32"):
    """A `steerlib.model.Model` of whole words, its weights so large that every block leaves its mark."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    from steerlib.model import Model

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<unk>", *WORDS])}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()  # " happy", as readouts spell it, is one token
    special = {"bos_token_id": 0, "eos_token_id": 0, "max_position_embeddings": 64}
    config = AutoConfig.for_model(architecture, vocab_size=len(WORDS) + 1, **special, **SHAPES[architecture])
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        hf = AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype))
        for weight in hf.parameters():
            weight += 0.2 * torch.randn_like(weight)
    return Model(hf, PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>"))


@pytest.fixture(scope="session", params=SHAPES)
def model(request):
    """A tiny model of every architecture, in float32."""
    return build(request.param)


@pytest.fixture(scope="session", params=SHAPES)
def exact_model(request):
    """The same in float64, for derivatives."""
    return build(request.param, "float64")


@pytest.fixture
def checkpoint(tmp_path) -> Callable[..., Path]:
    """Makes ``history/step-N``, an ordinary Hugging Face checkpoint folder of a tiny model."""

    def save(step: int = 1, architecture: str = "gpt_neox") -> Path:
        folder = tmp_path / "history" / f"step-{step}"
        tiny = build(architecture)
        tiny.hf.save_pretrained(folder)
        tiny.tokenizer.save_pretrained(folder)
        return folder

    return save
