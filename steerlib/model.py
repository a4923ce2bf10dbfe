"""A checkpoint in memory, and the one place that knows nnsight and architectures.

Everything is read and pushed at one kind of place, a **site**: the residual stream after block ``l``
(``layers[l].output``) at the last token of a prompt. Shapes are written with
``p`` prompts, ``t`` tokens, ``l`` layers, ``d`` hidden, ``n`` pushed variants of one prompt, ``v`` vocabulary rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import nnsight
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerFast

# Where each architecture keeps its blocks inside the base model (``hf.base_model``).
BLOCKS = {"gpt_neox": "layers", "llama": "layers", "gpt2": "h"}


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
        columns = torch.arange(self.mask.shape[1])
        return (self.mask * columns).argmax(1)


@dataclass(frozen=True)
class Reading:
    """What the model holds at the last token of each prompt."""

    states: Float[Tensor, "l p d"]  # residual stream after each block
    final: Float[Tensor, "p d"]  # after the final norm: unembedding rows times this are logits


class Model:
    """A causal language model whose residual stream can be read and pushed.

    Raises ValueError for an architecture without a declared place for its blocks.
    """

    def __init__(self, hf: PreTrainedModel, tokenizer: PreTrainedTokenizerFast):
        kind = hf.config.model_type
        if kind not in BLOCKS:
            known = ", ".join(sorted(BLOCKS))
            raise ValueError(f"model_type {kind!r} is not known to steerlib.model.BLOCKS (known: {known})")
        self.hf, self.tokenizer = hf.eval(), tokenizer
        # The base model, not the LM head: logits are computed only for the vocabulary rows that a readout needs.
        self.traced = nnsight.NNsight(hf.base_model)
        self.layers = getattr(self.traced, BLOCKS[kind])
        self.n_layers, self.hidden = hf.config.num_hidden_layers, hf.config.hidden_size

    @cached_property
    def unembedding(self) -> Float[Tensor, "v d"]:
        return self.hf.get_output_embeddings().weight.detach()

    def logits(self, final: Float[Tensor, "... d"], rows: Int[Tensor, " v"] | None = None) -> Float[Tensor, "... v"]:
        """Logits of the given vocabulary rows (all when None)."""
        return final @ (self.unembedding if rows is None else self.unembedding[rows]).T

    def tokens(self, texts: Sequence[str], padding_side: str = "left") -> Tokens:
        """Encode prompts into one padded batch."""
        encoded = [self.tokenizer(text)["input_ids"] for text in texts]
        width = max(map(len, encoded))
        ids = torch.zeros(len(encoded), width, dtype=torch.long)
        mask = torch.zeros(len(encoded), width, dtype=torch.bool)
        for row, tokens in enumerate(encoded):
            span = slice(width - len(tokens), width) if padding_side == "left" else slice(0, len(tokens))
            ids[row, span] = torch.tensor(tokens)
            mask[row, span] = True
        return Tokens(ids, mask)

    def read(self, texts: Sequence[str], batch: int = 256, padding_side: str = "left") -> Reading:
        """States of all layers and the final state at the last token of each text.

        Texts are batched by length, so that little is spent on padding; the order given is the order returned.
        """
        order = np.argsort([len(text) for text in texts], kind="stable")
        states = torch.empty(self.n_layers, len(texts), self.hidden)
        final = torch.empty(len(texts), self.hidden)
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            tokens = self.tokens([texts[row] for row in rows], padding_side)
            states[:, rows], final[rows] = self._read(tokens)
        return Reading(states, final)

    def _read(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        at = torch.arange(len(tokens.ids)), tokens.last
        inputs = {"input_ids": tokens.ids, "attention_mask": tokens.mask.long(), "position_ids": tokens.positions}
        with torch.no_grad(), self.traced.trace(**inputs, use_cache=False):
            states = nnsight.save([])
            for layer in self.layers:
                states.append(layer.output[at])
            final = self.traced.output.last_hidden_state[at].save()
        return torch.stack(states), final


class Prefix:
    """Prompts run once up to their last token, to be finished many times from a pushed state.

    The part before the last token goes into a key/value cache. Whatever is then done to the residual stream of
    the last token after block ``l``, only that one token and only the blocks above ``l`` have to be run again, and
    ``n`` variants run side by side as ``n`` extra query positions over the one shared prefix: all have the same
    position id, and a 4-D mask lets each see the prefix and itself only.
    """

    def __init__(self, model: Model, texts: Sequence[str]):
        self.model = model
        tokens = model.tokens(texts)  # left-padded: every last token stands in the last column
        self.before, self.last = tokens.mask[:, :-1], tokens.ids[:, -1:]
        self.position = tokens.positions[:, -1:]
        self.cache = DynamicCache(config=model.hf.config)
        if self.before.shape[1]:
            with torch.no_grad():
                model.hf.base_model(
                    input_ids=tokens.ids[:, :-1],
                    attention_mask=self.before.long(),
                    position_ids=tokens.positions[:, :-1],
                    past_key_values=self.cache,
                    use_cache=True,
                )
        with torch.no_grad():
            self.states, self.final = self._finish_clean()

    def gradients(self, readouts: Sequence[Float[Tensor, "v d"] | object]) -> Float[Tensor, "r l p d"]:
        """Gradient of each readout, a function of the final state, with respect to the state at every layer.

        One short backward pass a readout gives the exact local effect of *every* direction at every layer:
        the inner product of direction and gradient.
        """
        with torch.enable_grad():
            states, final = self._finish_clean()
            values = [readout(final).sum() for readout in readouts]
            found = [torch.autograd.grad(value, states, retain_graph=True) for value in values]
        return torch.stack([torch.stack(layers)[:, :, 0] for layers in found])

    def finish(
        self, layer: int, pushed: Float[Tensor, "p n d"], chunk: int = 64
    ) -> Iterator[tuple[slice, Float[Tensor, "p c d"]]]:
        """Run the blocks above ``layer`` from the pushed states; yields the final states of chunks of variants.

        Chunks bound the attention among variants, which the mask forbids but a dense kernel still multiplies.
        """
        for start in range(0, pushed.shape[1], chunk):
            part = slice(start, min(start + chunk, pushed.shape[1]))
            yield part, self._finish_pushed(layer, pushed[:, part])

    def _inputs(self, n: int) -> dict:
        p, t = self.before.shape
        allowed = torch.cat([self.before[:, None].expand(p, n, t), torch.eye(n, dtype=torch.bool).expand(p, n, n)], 2)
        dtype = self.model.unembedding.dtype
        mask = torch.zeros(allowed.shape, dtype=dtype).masked_fill_(~allowed, torch.finfo(dtype).min)
        return {
            "input_ids": self.last.expand(p, n),
            "attention_mask": mask[:, None],
            "position_ids": self.position.expand(p, n),
            "past_key_values": self.cache,
            "use_cache": True,
        }

    def _finish_clean(self) -> tuple[list[Tensor], Tensor]:
        try:
            with self.model.traced.trace(**self._inputs(1)):
                states = nnsight.save([])
                for block in self.model.layers:
                    states.append(block.output)
                final = self.model.traced.output.last_hidden_state.save()
        finally:
            self._crop()
        return list(states), final

    def _finish_pushed(self, layer: int, pushed: Tensor) -> Tensor:
        try:
            with torch.no_grad(), self.model.traced.trace(**self._inputs(pushed.shape[1])):
                for block in list(self.model.layers)[: layer + 1]:
                    block.skip(pushed)
                final = self.model.traced.output.last_hidden_state.save()
        finally:
            self._crop()
        return final

    def _crop(self) -> None:
        """Cut the cache back to the prefix (blocks that were skipped have added nothing to theirs)."""
        t = self.before.shape[1]
        for layer in self.cache.layers:
            if layer.is_initialized:
                layer.keys, layer.values = layer.keys[..., :t, :].detach(), layer.values[..., :t, :].detach()
