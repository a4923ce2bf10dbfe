"""What one would otherwise write: each push a forward pass of its own, by the means of several libraries."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from unittest.mock import MagicMock

import torch
from jaxtyping import Float
from nnsight import NNsight
from torch import Tensor
from transformers import DynamicCache, GPTNeoXForCausalLM, PreTrainedTokenizerBase

from benchmarks.models import Size, words
from steerlib.model import Tokens, state_of, with_state

Forward = Callable[[int, Tensor], Float[Tensor, "p v"]]  # logits of the last token, where it was pushed after a layer
DATASETS = ("datasets", *(f"datasets.{part}" for part in ("arrow_dataset", "iterable_dataset", "load")))


def loops(size: Size, tokens: Tokens, device: str) -> dict[str, Forward]:
    """By name; those whose libraries `make bench` installs only where they are there."""
    bare = size.hf(device)
    found: dict[str, Forward] = {
        "nnsight": partial(by_nnsight, NNsight(bare), tokens),
        "hooks with a cache": partial(by_hooks, bare, tokens, cached(bare, tokens)),
    }
    if find_spec("steering_vectors"):
        found["steering-vectors"] = partial(by_steering_vectors, bare, tokens)
    if find_spec("transformer_lens"):
        found["TransformerLens"] = partial(
            by_transformer_lens, bridged(size.hf(device), words(size.vocabulary)), tokens
        )
    return found


def by_nnsight(traced: NNsight, tokens: Tokens, layer: int, push: Tensor) -> Float[Tensor, "p v"]:
    """As one would write it with care: logits of the last token alone."""
    with torch.no_grad(), traced.trace(**tokens.inputs, use_cache=False, logits_to_keep=1):
        block = traced.gpt_neox.layers[layer]
        block.output[:, -1] = block.output[:, -1] + push.to(block.output.device)
        logits = traced.output.logits[:, -1].save()
    return logits


def cached(hf: GPTNeoXForCausalLM, tokens: Tokens) -> DynamicCache:
    """All but the prompts' last tokens, run once."""
    inputs = {name: part[:, :-1] for name, part in tokens.inputs.items()}
    with torch.no_grad():
        return hf.base_model(**inputs, use_cache=True).past_key_values


def by_hooks(
    hf: GPTNeoXForCausalLM, tokens: Tokens, cache: DynamicCache, layer: int, push: Tensor
) -> Float[Tensor, "p v"]:
    """The last token alone, behind transformers' own cache, which is cut back; the cache itself is not counted."""
    hook = lambda block, inputs, output: with_state(output, state_of(output) + push.to(hf.device))  # noqa: E731
    handle, mask = hf.gpt_neox.layers[layer].register_forward_hook(hook), tokens.inputs["attention_mask"]
    last = {name: part[:, -1:] for name, part in tokens.inputs.items()} | {"attention_mask": mask}
    with torch.no_grad():
        logits = hf(**last, past_key_values=cache, use_cache=True).logits
    handle.remove()
    cache.crop(-1)
    return logits[:, -1]


def by_steering_vectors(hf: GPTNeoXForCausalLM, tokens: Tokens, layer: int, push: Tensor) -> Float[Tensor, "p v"]:
    """As its documentation has it: the model called inside the vector's context."""
    from steering_vectors import SteeringVector

    vector = SteeringVector({layer: push.to(hf.device)}, layer_type="decoder_block")
    with torch.no_grad(), vector.apply(hf, min_token_index=tokens.ids.shape[1] - 1):
        logits = hf(**tokens.inputs).logits
    return logits[:, -1]


def bridged(hf: GPTNeoXForCausalLM, tokenizer: PreTrainedTokenizerBase):
    """TransformerLens around a model, which it changes.

    It imports `datasets`, of which nothing here makes use, and which would bring pyarrow; after that pandas keeps text
    in another way, here and in every study that is run from this environment.
    """
    absent = [name for name in DATASETS if name not in sys.modules]
    sys.modules.update({name: MagicMock(__spec__=ModuleSpec(name, None)) for name in absent})
    try:
        from transformer_lens.model_bridge import TransformerBridge
    finally:
        for name in absent:
            del sys.modules[name]
    # The name of a model that it knows; its weights and its shape are those of ours.
    return TransformerBridge.boot_transformers(
        "EleutherAI/pythia-70m", hf_model=hf, tokenizer=tokenizer, device=hf.device
    )


def by_transformer_lens(bridge, tokens: Tokens, layer: int, push: Tensor) -> Float[Tensor, "p v"]:
    """As its documentation has it: a hook at a point of its own, logits of all tokens."""

    def add(state: Float[Tensor, "p t d"], hook: object) -> Float[Tensor, "p t d"]:
        state[:, -1] += push.to(state.device)
        return state

    with torch.no_grad():
        return bridge.run_with_hooks(tokens.ids, fwd_hooks=[(f"blocks.{layer}.hook_out", add)])[:, -1]
