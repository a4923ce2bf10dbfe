"""A checkpoint in memory, and the one place that knows nnsight and architectures.

Everything is read and pushed at one kind of place, a **site**: the residual stream after block ``l``
(``layers[l].output``) at the last token of a prompt. Shapes are written with
``p`` prompts, ``t`` tokens, ``l`` layers, ``d`` hidden, ``n`` pushed variants of one prompt, ``v`` vocabulary rows,
``b`` the last token of a prompt and what a readout scores after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from types import MappingProxyType

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

    ``name`` and ``weights_sha256`` say which checkpoint it is, where it is one; directions found in it carry both.
    Raises ValueError for an architecture without a declared place for its blocks.
    """

    def __init__(
        self, hf: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, name: str = "", weights_sha256: str = ""
    ):
        kind = hf.config.model_type
        if kind not in BLOCKS:
            known = ", ".join(sorted(BLOCKS))
            raise ValueError(f"model_type {kind!r} is not known to steerlib.model.BLOCKS (known: {known})")
        self.hf, self.tokenizer, self.name, self.weights_sha256 = hf.eval(), tokenizer, name, weights_sha256
        # The base model, not the LM head: logits are computed only for the vocabulary rows that a readout needs.
        self.traced = nnsight.NNsight(hf.base_model)
        self.layers, self.blocks = getattr(self.traced, BLOCKS[kind]), getattr(hf.base_model, BLOCKS[kind])
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


@dataclass(frozen=True)
class Branches:
    """Continuations of one prompt as a tree: what they begin with in common is run once.

    Node 0 is the prompt's last token, node k the token ``tokens[k - 1]`` after node ``parents[k - 1]``. The last token
    of a continuation needs no node: nothing is read after it.
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    paths: tuple[tuple[tuple[int, int], ...], ...] = ()  # of each continuation: (node, token that follows it)

    @classmethod
    def of(cls, continuations: Sequence[Sequence[int]]) -> Branches:
        node, tokens, parents = {(): 0}, [], []
        for continuation in map(tuple, continuations):
            for k in range(1, len(continuation)):
                if continuation[:k] not in node:
                    tokens.append(continuation[k - 1])
                    parents.append(node[continuation[: k - 1]])
                    node[continuation[:k]] = len(tokens)
        paths = tuple(tuple((node[tuple(c[:k])], c[k]) for k in range(len(c))) for c in continuations)
        return cls(tuple(tokens), tuple(parents), paths)


class Prefix:
    """Prompts run once up to where they may be pushed, to be finished many times from pushed states.

    What stands before goes into a key/value cache. The rest, the **tail**, is the last token, then the continuations
    that a readout scores, as branches of a tree (with ``whole``, the cache is empty and the tail begins with all of the
    prompt's tokens). Whatever is then done to the residual stream after block ``l``, only the tail and only the blocks
    above ``l`` have to be run again, and ``n`` variants run side by side as extra query positions over the one shared
    prefix: a 4-D mask lets each token see the prefix, and what comes before it in its own variant and branch.

    ``states[l]`` is the tail's residual stream after block l, ``(p, t, d)``; ``final`` that after the final norm, at
    the last token and the branches, ``(p, b, d)``.
    """

    def __init__(
        self, model: Model, texts: Sequence[str], branches: Sequence[Branches] | None = None, whole: bool = False
    ):
        self.model = model
        tokens = model.tokens(texts)  # left-padded: every last token stands in the last column
        cut = 0 if whole else tokens.ids.shape[1] - 1
        self.before, self.root = tokens.mask[:, :cut], tokens.ids.shape[1] - 1 - cut
        self._grow(tokens, cut, branches or [Branches()] * len(texts))
        self.cache = DynamicCache(config=model.hf.config)
        if cut:
            with torch.no_grad():
                model.hf.base_model(
                    input_ids=tokens.ids[:, :cut],
                    attention_mask=self.before.long(),
                    position_ids=tokens.positions[:, :cut],
                    past_key_values=self.cache,
                    use_cache=True,
                )
        with torch.no_grad():
            self.states, self.final = self._finish_clean()

    def _grow(self, tokens: Tokens, cut: int, branches: Sequence[Branches]) -> None:
        """Ids, positions and who sees whom of the tail: tokens of the prompt in a row, then the branches."""
        width, grown = self.root + 1, max(len(tree.tokens) for tree in branches)
        p, t = len(tokens.ids), width + grown
        self.ids, self.positions = torch.zeros(2, p, t, dtype=torch.long)
        self.text = torch.zeros(p, t, dtype=torch.bool)
        self.ids[:, :width], self.positions[:, :width] = tokens.ids[:, cut:], tokens.positions[:, cut:]
        self.text[:, :width] = tokens.mask[:, cut:]
        self.sees = torch.eye(t, dtype=torch.bool).repeat(p, 1, 1)  # also padding, as a row of nothing would be NaN
        self.sees[:, :width, :width] |= torch.ones(width, width).tril().bool() & self.text[:, None, :width]
        for row, tree in enumerate(branches):
            for k, (token, parent) in enumerate(zip(tree.tokens, tree.parents, strict=True)):
                node, above = width + k, self.root + parent
                self.ids[row, node], self.text[row, node] = token, True
                self.positions[row, node] = self.positions[row, above] + 1
                self.sees[row, node] |= self.sees[row, above]

    def pushed_tokens(self, positions: str) -> Bool[Tensor, "p t"]:
        """Which tokens of the tail a push at ``positions`` reaches.

        ``last``: the prompt's last; ``generated``: that and all that is written after it, here the branches (CAA's
        positions after the prompt); ``all``: all text. Raises ValueError when the tail does not hold them.
        """
        column = torch.arange(self.ids.shape[1])
        match positions:
            case "last":
                return (column == self.root).expand_as(self.text)
            case "generated":
                return self.text & (column >= self.root)
            case "all" if not self.before.shape[1]:
                return self.text
        raise ValueError(f"positions {positions!r}: the tail holds no such tokens; all needs Prefix(…, whole=True)")

    def push(self, layer: int, change: Callable[[Tensor], Tensor], positions: str = "last") -> Float[Tensor, "p n t d"]:
        """States after block ``layer`` with ``change``, a function (p, 1, t, d) -> (p, n, t, d), made at positions."""
        state = self.states[layer][:, None]
        return torch.where(self.pushed_tokens(positions)[:, None, :, None], change(state), state)

    def finish(
        self,
        layer: int,
        pushed: Float[Tensor, "p n t d"],
        later: Mapping[int, Callable[[Tensor, np.ndarray], Tensor]] = MappingProxyType({}),
        positions: str = "last",
        chunk: int = 64,
    ) -> Iterator[Float[Tensor, "p c b d"]]:
        """Run the blocks above ``layer`` from the pushed states; yields the final states of chunks of variants.

        ``later`` changes the states after higher blocks as well, of one and the same push: functions of the states of a
        chunk and of which variants these are. Chunks bound the attention among variants, which the mask forbids but a
        dense kernel still multiplies.
        """
        size = max(1, chunk // self.ids.shape[1])
        for rows in np.split(np.arange(pushed.shape[1]), range(size, pushed.shape[1], size)):
            above = {at: partial(change, rows=rows) for at, change in later.items()}
            yield self._finish_pushed(layer, pushed[:, rows], above, positions)

    def gradients(self, readouts: Sequence[Callable[[Tensor], Tensor]]) -> Float[Tensor, "r l p t d"]:
        """Gradient of each readout, a function of the final states, with respect to the tail's state at every layer.

        One short backward pass a readout gives the exact local effect of *every* direction at every layer:
        the inner product of direction and gradient.
        """
        with torch.enable_grad():
            states, final = self._finish_clean()
            values = [readout(final).sum() for readout in readouts]
            found = [torch.autograd.grad(value, states, retain_graph=True, materialize_grads=True) for value in values]
        return torch.stack([torch.stack(layers) for layers in found])

    def _inputs(self, n: int) -> dict:
        (p, before), t = self.before.shape, self.ids.shape[1]
        own = torch.eye(n, dtype=torch.bool)[None, :, None, :, None] & self.sees[:, None, :, None, :]
        allowed = torch.cat([self.before[:, None].expand(p, n * t, before), own.reshape(p, n * t, n * t)], 2)
        dtype = self.model.unembedding.dtype
        mask = torch.zeros(allowed.shape, dtype=dtype).masked_fill_(~allowed, torch.finfo(dtype).min)
        return {
            "input_ids": self.ids.repeat(1, n),
            "attention_mask": mask[:, None],
            "position_ids": self.positions.repeat(1, n),
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
        return list(states), final[:, self.root :]

    def _finish_pushed(self, layer: int, pushed: Tensor, later: Mapping, positions: str) -> Tensor:
        n, t = pushed.shape[1:3]
        flat, reached = pushed.flatten(1, 2), self.pushed_tokens(positions)[:, None, :, None]

        def change(at: int, state: Tensor) -> Tensor:
            apart = state.unflatten(1, (n, t))
            return torch.where(reached, later[at](apart), apart).flatten(1, 2)

        try:
            with torch.no_grad(), self.model.traced.trace(**self._inputs(n)):
                for at, block in enumerate(self.model.layers):
                    if at <= layer:
                        block.skip(flat)
                    elif at in later:
                        block.output = change(at, block.output)
                final = self.model.traced.output.last_hidden_state.save()
        finally:
            self._crop()
        return final.unflatten(1, (n, t))[:, :, self.root :]

    def _crop(self) -> None:
        """Cut the cache back to the prefix (blocks that were skipped have added nothing to theirs)."""
        t = self.before.shape[1]
        for layer in self.cache.layers:
            if layer.is_initialized:
                layer.keys, layer.values = layer.keys[..., :t, :].detach(), layer.values[..., :t, :].detach()
