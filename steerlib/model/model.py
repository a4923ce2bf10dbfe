"""A checkpoint in memory, to be read.

Everything is read and pushed at one kind of place, a **site**: the residual stream after block ``l``
(``layers[l].output``) at the last token of a prompt. Shapes are written with
``p`` prompts, ``t`` tokens, ``l`` layers, ``d`` hidden, ``n`` pushed variants of one prompt, ``v`` vocabulary rows,
``b`` the last token of a prompt and what a readout scores after it.

A model may lie on any device, or on several: what is read comes back to the CPU.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from operator import attrgetter
from typing import TypeVar

import nnsight
import torch
from accelerate.utils import align_module_device
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from steerlib import SteerlibError
from steerlib.files import store
from steerlib.model.architecture import attention_window, by_products, find_blocks, state_of
from steerlib.model.encoder import Encoder, as_texts
from steerlib.model.tokens import WIDE, Forest, Tokens
from steerlib.numerics.products import product
from steerlib.study.checkpoints import Loading

AS_IS = Loading()
ROWS = 1024  # tokens at a time on a CPU: of fewer a product is slower, of more what lies between products
LARGEST = 256  # texts at a time, for as long as memory is not short
ROOM = "set loading.dtype: bfloat16 or loading.device_map: auto"
Result = TypeVar("Result")


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
    Whatever its own files say of sampling, penalties, ends or caching, it writes the likeliest token after token, with
    its cache, to the tokenizer's end of text.
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
        self.path, self.blocks = find_blocks(hf, loading.blocks)
        self.hf, self.tokenizer, self.name, self.weights_sha256 = hf.eval(), tokenizer, name, weights_sha256
        self.loading, self.built_in = loading, type(hf).__module__.startswith("transformers.") and not loading.blocks
        by_products(hf)
        # The base model, not the LM head: logits are computed only for the vocabulary rows that a readout needs.
        self.traced = Traced(hf.base_model)
        self.layers, self.n_layers = attrgetter(self.path)(self.traced), len(self.blocks)
        self.config = hf.config.get_text_config(decoder=True)
        self.hidden, self.window = self.config.hidden_size, attention_window(self.config)
        # Where it takes its inputs: where accelerate brings its weights, or where they are.
        embedding = hf.get_input_embeddings()
        with align_module_device(embedding):
            self.device = next(embedding.parameters()).device
            rows = min(len(part.weight) for part in (embedding, hf.get_output_embeddings()) if part is not None)
        self.encoder = Encoder(tokenizer, rows, getattr(self.config, "max_position_embeddings", None))
        end = tokenizer.eos_token_id
        hf.generation_config = GenerationConfig(
            do_sample=False, use_cache=True, eos_token_id=end, pad_token_id=0 if end is None else end
        )
        self.config.use_cache = hf.config.use_cache = True
        self.dtype = hf.dtype
        self.factor = 1.0  # of logits, where an architecture has one (muP, Cohere, Granite)
        # As many texts, and tokens of a prompt's variants, as memory bears. Where a mask keeps variants apart, they are
        # multiplied all the same: so wide it adds a fiftieth to a block's work (in a small model a twelfth).
        alone = self.built_in and self.device.type == "cpu"
        self.batch, self.chunk = LARGEST, ROWS if alone else max(64, self.hidden // 8)

    def __repr__(self) -> str:
        return f"<model {self.name}: {self.n_layers} layers of {self.hidden} hidden, {self.dtype}, on {self.device}>"

    def check_layer(self, layer: int) -> None:
        """Raises SteerlibError for a layer that it does not have."""
        if type(layer) is bool or not isinstance(layer, Integral) or layer not in range(self.n_layers):
            raise SteerlibError(f"layer {layer!r}: this model's layers are 0 to {self.n_layers - 1}")

    def sees(self, tokens: int) -> bool:
        """Whether the attention of all its layers reaches so far."""
        return self.window is None or self.window >= tokens

    @cached_property
    def unembedding(self) -> Float[Tensor, "v d"]:
        """In float32 at least: logits are, whatever the model's dtype."""
        return self._head("weight")

    @cached_property
    def bias(self) -> Float[Tensor, " v"] | None:
        return self._head("bias")

    def _head(self, name: str) -> Tensor | None:
        head = self.hf.get_output_embeddings()
        with align_module_device(head):  # even when accelerate keeps it elsewhere
            weight = getattr(head, name, None)
            return None if weight is None else weight.detach().to(torch.promote_types(weight.dtype, torch.float32))

    def logits(self, final: Float[Tensor, "... d"], rows: Int[Tensor, " v"] | None = None) -> Float[Tensor, "... v"]:
        """Logits of the given vocabulary rows (all when None), in float32 at least."""
        weight = self.unembedding if rows is None else self.unembedding[rows]
        bias = self.bias if self.bias is None or rows is None else self.bias[rows]
        # As rows of one product: of a slice of variants torch multiplies each prompt by itself, ten times as slowly.
        logits = product(final.to(weight).reshape(-1, final.shape[-1]), weight, bias)
        logits = logits.reshape(*final.shape[:-1], len(weight))
        return logits if self.factor == 1 else self.factor * logits

    def tokens(self, texts: str | Sequence[str], more: int = 0) -> Tokens:
        """Encode prompts into one batch, padded on the left, where the model takes its inputs (`Encoder`)."""
        return Tokens.of(self.encoder(as_texts(texts), more), self.device)

    def read(self, texts: str | Sequence[str], states: torch.dtype = torch.float32, together: bool = False) -> Reading:
        """States of all layers, in the dtype asked for, and the final state at the last token of each text.

        The order given is the order returned. A single text is a list of one. Read ``together``, what texts begin with
        in common is run once: on a model that is not being pushed, as then they do not end where rows end.
        Raises SteerlibError when memory is short.
        """
        return self.read_ids(self.encoder(as_texts(texts)), states, together)

    def read_ids(
        self, texts: Sequence[Sequence[int]], states: torch.dtype = torch.float32, together: bool = False
    ) -> Reading:
        """The same of encoded texts. Batches are of texts as long as one another, or that begin alike."""
        # Rows that texts share come with a mask of ours, which tells nothing of an attention window.
        together = together and self.sees(max([WIDE, *map(len, texts)]))
        order = sorted(range(len(texts)), key=lambda row: texts[row] if together else len(texts[row]))
        wide = self.unembedding.shape[-1]  # of final states, which some models project
        states_of = torch.empty(self.n_layers, len(texts), self.hidden, dtype=states)
        reading = Reading(states_of, torch.empty(len(texts), wide))

        def run(size: int) -> Reading:
            parts = [order[start : start + size] for start in range(0, len(order), size)]
            for rows in sorted(parts, key=lambda part: -max(len(texts[row]) for row in part)):  # these need most memory
                ids = [texts[row] for row in rows]
                batch = Forest.of(ids, self.device, self.dtype) if together else Tokens.of(ids, self.device)
                reading.states[:, rows], reading.final[rows] = self.read_tokens(batch, states)
            return reading

        return self.fitting(run)

    def read_tokens(self, tokens: Tokens | Forest, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """States ``(l, p, d)`` and final state ``(p, d)`` at each text's last token, of one batch."""
        inputs, ends = tokens.inputs | {"use_cache": False}, tokens.ends
        with torch.no_grad():  # a copy, so that the other tokens' states are not kept
            states, final = self.run(inputs, lambda output: state_of(output)[ends].clone())
        return torch.stack([state.to("cpu", dtype) for state in states]), final[ends].to("cpu", torch.float32)

    def run(self, inputs: dict, keep: Callable = lambda output: output) -> tuple[list, Float[Tensor, "p t d"]]:
        """What every block gives back, or what ``keep`` makes of it, and all final states."""
        with self.traced.trace(**inputs):
            outputs = nnsight.save([])
            for block in self.layers:
                outputs.append(keep(block.output))
            final = self.traced.output[0].save()
        return list(outputs), final

    # --- as much at a time as memory bears -------------------------------------------------------------------------

    def fitting(self, run: Callable[[int], Result]) -> Result:
        """``run`` with `loading.batch` texts at a time; ``auto`` is halved until memory suffices, and remembered."""
        if self.loading.batch != "auto":
            with self.short_of_memory("lower loading.batch, or let it be auto"):
                return run(self.loading.batch)
        while True:
            with self.short_of_memory(f"this was one text at a time; {ROOM}", self.batch == 1):
                return run(self.batch)
            self.batch //= 2

    def variant_tokens(self, prompts: int) -> int:
        """How many tokens of variants to run at a time after each of so many prompts."""
        return self.chunk if self.device.type != "cpu" else min(self.chunk, max(1, ROWS // prompts))

    @contextmanager
    def short_of_memory(self, remedy: str, is_last_try: bool = True) -> Iterator[None]:
        """When memory does not suffice for what is done inside, makes room for a next try, or says what to do.

        Raises SteerlibError after the last try.
        """
        try:
            yield
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            if is_last_try:
                raise SteerlibError(f"out of memory on {self.device} ({store.reason(error)}); {remedy}") from error
            clear_device_cache(garbage_collection=True)
