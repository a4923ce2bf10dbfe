"""A checkpoint in memory, and the one place that knows nnsight and architectures.

Everything is read and pushed at one kind of place, a **site**: the residual stream after block ``l``
(``layers[l].output``) at the last token of a prompt. Shapes are written with
``p`` prompts, ``t`` tokens, ``l`` layers, ``d`` hidden, ``n`` pushed variants of one prompt, ``v`` vocabulary rows,
``b`` the last token of a prompt and what a readout scores after it.

A model may lie on any device, or on several: what is read comes back to the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from operator import attrgetter
from typing import Any, Literal, TypeVar

import nnsight
import numpy as np
import torch
from accelerate.hooks import SequentialHook
from accelerate.utils import find_executable_batch_size
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from steerlib import SteerlibError
from steerlib.study.checkpoints import Loading

# Where each architecture keeps its blocks inside the base model (``hf.base_model``). Those named here are proven by
# tests/test_architectures.py; any other is declared by a study's `loading.blocks`, and proven when it is loaded.
BLOCKS = {
    "apertus": "layers",
    "gpt2": "h",
    "gpt_neox": "layers",
    "llama": "layers",  # also Amber and SmolLM
    "mistral": "layers",
    "olmo": "layers",
    "olmo2": "layers",
    "olmo3": "layers",
    "qwen2": "layers",
    "qwen3": "layers",
    "smollm3": "layers",
}
AS_IS = Loading()
CACHE = 8 << 20  # bytes
LARGEST = 256  # texts at a time, for as long as memory is not short
Found = TypeVar("Found")


@dataclass(frozen=True)
class Tokens:
    """Prompts as padded ids; what counts as text is said by ``mask`` alone, never by a pad id."""

    ids: Int[Tensor, "p t"]
    mask: Bool[Tensor, "p t"]

    @property
    def positions(self) -> Int[Tensor, "p t"]:
        """Positions count text only, so that padding on either side changes nothing."""
        return (self.mask.cumsum(1) - 1).clamp(min=0)

    @property
    def last(self) -> Int[Tensor, " p"]:
        """Column of each prompt's last token of text."""
        columns = torch.arange(self.mask.shape[1], device=self.mask.device)
        return (self.mask * columns).argmax(1)


@dataclass(frozen=True)
class Reading:
    """What the model holds at the last token of each prompt; on the CPU, wherever the model is."""

    states: Float[Tensor, "l p d"]  # residual stream after each block
    final: Float[Tensor, "p d"]  # after the final norm: unembedding rows times this are logits


class Traced(nnsight.NNsight):
    """nnsight moves inputs to the first weight's device, which is none where weights are offloaded. Ours are placed."""

    device = None


class Model:
    """A causal language model whose residual stream can be read and pushed.

    ``name`` and ``weights_sha256`` say which checkpoint it is, where it is one; directions found in it carry both.
    Raises ValueError for an architecture without a declared place for its blocks.
    """

    def __init__(
        self,
        hf: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        name: str = "",
        weights_sha256: str = "",
        loading: Loading = AS_IS,
    ):
        kind, own = hf.config.model_type, type(hf).__module__.startswith("transformers.")
        if not loading.blocks and kind not in BLOCKS:
            known = ", ".join(sorted(BLOCKS))
            raise ValueError(
                f"model_type {kind!r} is not known to steerlib.model.BLOCKS (known: {known}); "
                "say in loading.blocks where it keeps its blocks, as `decoder.layers`"
            )
        self.hf, self.tokenizer, self.name, self.weights_sha256 = hf.eval(), tokenizer, name, weights_sha256
        self.loading, self.built_in = loading, own and not loading.blocks
        self.path = loading.blocks or BLOCKS[kind]
        self.blocks = _blocks(hf, self.path)
        # The base model, not the LM head: logits are computed only for the vocabulary rows that a readout needs.
        self.traced = Traced(hf.base_model)
        self.layers, self.n_layers = attrgetter(self.path)(self.traced), len(self.blocks)
        self.config = hf.config.get_text_config(decoder=True)
        self.hidden = self.config.hidden_size
        self.device, self.dtype = execution_device(hf.get_input_embeddings()), hf.dtype
        self.factor = 1.0  # of logits, where an architecture has one (muP, Cohere, Granite)
        # Found: as many texts, and tokens of a prompt's variants, as memory bears. Attention among variants is masked,
        # but multiplied all the same: so wide it adds a fiftieth to a block's work (in a small model a twelfth).
        self.batch, self.chunk = LARGEST, max(64, self.hidden // 8)

    @cached_property
    def unembedding(self) -> Float[Tensor, "v d"]:
        """In float32 at least: logits are, whatever the model's dtype."""
        return self._head("weight")

    @cached_property
    def bias(self) -> Float[Tensor, " v"] | None:
        return self._head("bias")

    def _head(self, name: str) -> Tensor | None:
        head = self.hf.get_output_embeddings()
        with in_memory(head):
            found = getattr(head, name, None)
            return None if found is None else found.detach().to(torch.promote_types(found.dtype, torch.float32))

    @property
    def window(self) -> int | None:
        """How many tokens back some layer's attention sees; None where that is all of them."""
        if set(getattr(self.config, "layer_types", None) or ["unknown"]) == {"full_attention"}:
            return None
        sizes = (getattr(self.config, name, None) for name in ("sliding_window", "attention_chunk_size", "window_size"))
        return min((size for size in sizes if isinstance(size, int)), default=None)

    def logits(self, final: Float[Tensor, "... d"], rows: Int[Tensor, " v"] | None = None) -> Float[Tensor, "... v"]:
        """Logits of the given vocabulary rows (all when None), in float32 at least."""
        weight = self.unembedding if rows is None else self.unembedding[rows]
        found = final.to(weight) @ weight.T
        if self.bias is not None:
            found = found + (self.bias if rows is None else self.bias[rows])
        return found if self.factor == 1 else self.factor * found

    def tokens(self, texts: Sequence[str], padding_side: str = "left") -> Tokens:
        """Encode prompts into one padded batch."""
        return self.padded(self.tokenizer(list(texts), return_attention_mask=False)["input_ids"], padding_side)

    def padded(self, encoded: Sequence[Sequence[int]], padding_side: str = "left") -> Tokens:
        """Rows of token ids as one batch, where the model takes its inputs."""
        lengths = [len(tokens) for tokens in encoded]
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        mask = mask.flip(1) if padding_side == "left" else mask
        ids = torch.zeros(mask.shape, dtype=torch.long).masked_scatter(mask, torch.tensor(list(chain(*encoded))))
        return Tokens(ids.to(self.device), mask.to(self.device))

    def read(
        self,
        texts: Sequence[str],
        batch: int | Literal["auto"] | None = None,
        padding_side: str = "left",
        states: torch.dtype = torch.float32,
    ) -> Reading:
        """States of all layers, in the dtype asked for, and the final state at the last token of each text.

        Texts are batched by length, so that little is spent on padding; the order given is the order returned.
        ``batch`` is as the study's `loading.batch` has it when None. Raises SteerlibError when memory is short.
        """
        order = np.argsort([len(text) for text in texts], kind="stable")
        found = torch.empty(self.n_layers, len(texts), self.hidden, dtype=states)
        final = torch.empty(len(texts), self.hidden)

        def run(size: int) -> Reading:
            for start in reversed(range(0, len(order), size)):  # the longest texts first: they need most memory
                rows = order[start : start + size]
                tokens = self.tokens([texts[row] for row in rows], padding_side)
                found[:, rows], final[rows] = self.read_tokens(tokens, states)
            return Reading(found, final)

        return self.fitting(run, batch or self.loading.batch)

    def read_tokens(self, tokens: Tokens, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """States ``(l, p, d)`` and final state ``(p, d)`` at each last token, of one batch."""

        def last(state: Tensor) -> Tensor:  # layers may lie on different devices
            return state[torch.arange(len(state), device=state.device), tokens.last.to(state.device)]

        inputs = {"input_ids": tokens.ids, "attention_mask": tokens.mask.long(), "position_ids": tokens.positions}
        with torch.no_grad(), self.traced.trace(**inputs, use_cache=False):
            states = nnsight.save([])
            for layer in self.layers:
                states.append(last(state_of(layer.output)))
            final = last(self.traced.output[0]).save()
        return torch.stack([state.to("cpu", dtype) for state in states]), final.to("cpu", torch.float32)

    def fitting(self, run: Callable[[int], Found], batch: int | Literal["auto"]) -> Found:
        """``run`` with so many texts at a time; with ``auto``, halved until memory suffices, which is remembered."""
        if batch != "auto":
            with self.short_of_memory("lower loading.batch, or let it be auto"):
                return run(batch)
        try:
            return run(self.batch)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise

        def halve() -> int:
            if self.batch == 1:
                raise SteerlibError(f"out of memory on {self.device}, even with one text at a time; {ROOM}")
            self.batch //= 2
            return self.batch

        return find_executable_batch_size(run, halve(), halve)()

    def variant_tokens(self, prompts: int) -> int:
        """How many tokens of variants to run at a time after each of so many prompts."""
        if self.device.type != "cpu":
            return self.chunk
        # On a CPU the widest activation, four times the hidden size, has to stay in the cache.
        return min(self.chunk, max(1, CACHE // (prompts * 4 * self.hidden * self.dtype.itemsize)))

    def smaller_chunk(self, error: RuntimeError, variants: int, tokens: int) -> None:
        """From now on half as many at a time as these variants, of so many tokens each, that memory did not bear.

        Raises the error when it is not one of memory, and SteerlibError when there was but one variant.
        """
        if not should_reduce_batch_size(error):
            raise error
        if variants == 1:
            raise SteerlibError(f"out of memory on {self.device}; lower sweep.prompts, or {ROOM}") from error
        self.chunk = min(self.chunk, variants * tokens) // 2
        clear_device_cache(garbage_collection=True)

    @contextmanager
    def short_of_memory(self, remedy: str) -> Iterator[None]:
        """Says what to do when memory does not suffice for what is done inside. Raises SteerlibError."""
        try:
            yield
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            raise SteerlibError(f"out of memory on {self.device} ({str(error).splitlines()[0]}); {remedy}") from error


ROOM = "set loading.dtype: bfloat16 or loading.device_map: auto"


def state_of(output: Tensor | tuple) -> Float[Tensor, "p t d"]:
    """The hidden state in what a block gives back: older blocks, and those of remote code, give a tuple."""
    return output[0] if isinstance(output, tuple) else output


def with_state(output: Tensor | tuple, state: Float[Tensor, "p t d"]) -> Tensor | tuple:
    """What a block gave back, with another hidden state."""
    return (state, *output[1:]) if isinstance(output, tuple) else state


def execution_device(module: nn.Module) -> torch.device:
    """Where a module computes: where its weights are, or where accelerate brings them."""
    for hook in _hooks(module):
        if (device := getattr(hook, "execution_device", None)) is not None:
            return torch.device(device)
    return next(module.parameters()).device


@contextmanager
def in_memory(module: nn.Module) -> Iterator[None]:
    """Inside, the module's own weights can be looked at, even when accelerate keeps them elsewhere."""
    loaders = [hook for hook in _hooks(module) if getattr(hook, "offload", False)]
    for hook in loaders:
        hook.pre_forward(module)
    try:
        yield
    finally:
        for hook in loaders:
            hook.post_forward(module, None)


def _hooks(module: nn.Module) -> Sequence[Any]:
    hook = getattr(module, "_hf_hook", None)
    return hook.hooks if isinstance(hook, SequentialHook) else [] if hook is None else [hook]


def _blocks(hf: PreTrainedModel, path: str) -> nn.ModuleList:
    """Raises ValueError when the path does not lead to a list of blocks."""
    at = hf.base_model
    for name in path.split("."):
        children = dict(at.named_children())
        if name not in children:
            raise ValueError(f"loading.blocks {path!r}: {type(at).__name__} has no {name!r}, but {', '.join(children)}")
        at = children[name]
    if not isinstance(at, nn.ModuleList):
        raise ValueError(f"loading.blocks {path!r}: {type(at).__name__} is no list of blocks")
    return at
