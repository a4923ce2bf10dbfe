"""Prompts run once up to where they may be pushed, then finished many times. Shapes are those of `steerlib.model`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property, partial

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import DynamicCache

from steerlib import SteerlibError
from steerlib.model.architecture import state_of, with_state
from steerlib.model.attention import APART, Beside, Shared, attending
from steerlib.model.model import ROOM, Model
from steerlib.model.tokens import Branches, Tokens, additive, reached

# What is done to the states of some variants, given which: at the lowest block pushed, to those that all share (c = 1).
Change = Callable[[Float[Tensor, "p c t d"], np.ndarray], Float[Tensor, "p c t d"]]


class Prefix:
    """Prompts run once up to where they may be pushed, to be finished many times from pushed states.

    What stands before goes into a key/value cache. The rest, the **tail**, is the last token, then the continuations
    that a readout scores, as branches of a tree (with ``whole``, the cache is empty and the tail begins with all of the
    prompt's tokens). Whatever is then done to the residual stream after block ``l``, only the tail and only the blocks
    above ``l`` have to be run again, and ``n`` variants run side by side as extra query positions over the one shared
    prefix: each token sees the prefix, and what comes before it in its own variant and branch. Models of transformers
    do so by an attention that keeps variants apart (`steerlib.model.attention`), any other by a 4-D mask.

    ``states[l]`` is the tail's residual stream after block l, ``(p, t, d)``; ``final`` that after the final norm, at
    the last token and the branches, ``(p, b, d)``. They stay where the model computes them.

    Raises SteerlibError for a text longer than the model's attention window, or when memory is short, which it may be
    when a part is first asked for.
    """

    def __init__(
        self,
        model: Model,
        texts: Sequence[str] | Tokens,
        branches: Sequence[Branches] | None = None,
        whole: bool = False,
    ):
        self.model, self.apart = model, model.built_in
        tokens = texts if isinstance(texts, Tokens) else model.tokens(texts)
        last = tokens.ids.shape[1] - 1
        cut = 0 if whole else last
        before, self.root = Tokens(tokens.ids[:, :cut], tokens.mask[:, :cut]), last - cut
        self.before = before.mask
        self._grow(tokens, cut, branches or [Branches()] * len(tokens.ids))
        self._check_window()
        # Without the config it keeps all keys, also those that have left an attention window: our mask counts on them.
        self.cache, self._inputs_of = DynamicCache(), {}
        with torch.no_grad(), model.short_of_memory("lower sweep.prompts, or use a smaller loading.dtype"):
            if cut:
                model.hf.base_model(**before.inputs, past_key_values=self.cache, use_cache=True)
            for layer in self.cache.layers:
                layer.__class__ = Beside if self.apart else Shared

    @cached_property
    def _clean(self) -> tuple[list[Tensor | tuple], Tensor]:
        """What blocks give of the tail as it is, and the final states: run when first asked for."""
        with torch.no_grad(), self.model.short_of_memory("lower sweep.prompts, or use a smaller loading.dtype"):
            return self._finish_clean()

    @cached_property
    def final(self) -> Float[Tensor, "p b d"]:
        return self._clean[1]

    @cached_property
    def states(self) -> list[Float[Tensor, "p t d"]]:
        return [state_of(output) for output in self._clean[0]]

    def _grow(self, tokens: Tokens, cut: int, branches: Sequence[Branches]) -> None:
        """Ids, positions and who sees whom of the tail: tokens of the prompt in a row, then the branches."""
        width = self.root + 1
        p, t = len(tokens.ids), width + max(len(tree.tokens) for tree in branches)
        # On the CPU, as it goes token by token; then all of it moves at once.
        ids, positions = torch.zeros(2, p, t, dtype=torch.long)
        text = torch.zeros(p, t, dtype=torch.bool)
        ids[:, :width], positions[:, :width] = tokens.ids[:, cut:], tokens.positions[:, cut:]
        text[:, :width] = tokens.mask[:, cut:]
        sees = torch.eye(t, dtype=torch.bool).repeat(p, 1, 1)  # also padding, as a row of nothing would be NaN
        sees[:, :width, :width] |= torch.ones(width, width).tril().bool() & text[:, None, :width]
        for row, tree in enumerate(branches):
            for k, (token, parent) in enumerate(zip(tree.tokens, tree.parents, strict=True)):
                node, above = width + k, self.root + parent
                ids[row, node], text[row, node] = token, True
                positions[row, node] = positions[row, above] + 1
                sees[row, node] |= sees[row, above]
        parts = (ids, positions, text, sees)
        self.ids, self.positions, self.text, self.sees = (part.to(self.model.device) for part in parts)

    def _check_window(self) -> None:
        """Our mask takes the place of the model's own, and lets every token see all that comes before it."""
        if (window := self.model.window) is None:
            return
        longest = int(self.positions.max()) + 1
        if not self.model.built_in:  # it may count its window in columns, of which variants have some of their own
            longest = self.before.shape[1] + max(self.ids.shape[1], self.model.variant_tokens(len(self.ids)))
        if longest > window:
            raise SteerlibError(
                f"a text of {longest} tokens is longer than the attention window of this model ({window}); "
                "shorten the readout's prompts and the neutral passages"
            )

    def pushed_tokens(self, positions: str) -> Bool[Tensor, "p t"]:
        """Which tokens of the tail a push at ``positions`` reaches: branches are what is written after a prompt.

        Raises ValueError when the tail does not hold them.
        """
        if positions == "all" and self.before.shape[1]:
            raise ValueError("positions 'all': the tail holds no such tokens; all needs Prefix(…, whole=True)")
        return reached(self.text, self.root, positions)

    def push(
        self, state: Float[Tensor, "p c t d"], change: Callable[[Tensor], Tensor], positions: str = "last"
    ) -> Float[Tensor, "p n t d"]:
        """States of the tail after some block, with ``change`` made at ``positions``. c is n, or 1."""
        reached = self.pushed_tokens(positions)[:, None, :, None].to(state.device)
        # The last token is always reached: where there is no other, nothing is to be chosen.
        return change(state) if len(self.ids[0]) == 1 else torch.where(reached, change(state), state)

    def finish(
        self, changes: Mapping[int, Change], n: int, positions: str = "last"
    ) -> Iterator[Float[Tensor, "p c b d"]]:
        """Make changes after blocks and run those above the lowest, for ``n`` variants of each prompt side by side.

        Yields the final states of some variants at a time: as many as memory bears.
        """
        start, t = 0, self.ids.shape[1]
        while start < n:
            size = max(1, self.model.variant_tokens(len(self.ids)) // t)
            rows = np.arange(start, min(start + size, n))
            with self.model.short_of_memory(f"lower sweep.prompts, or {ROOM}", len(rows) == 1):
                yield self._finish_pushed(changes, rows, positions)
                start += size
                continue
            self.model.chunk = min(self.model.chunk, len(rows) * t) // 2

    def gradients(
        self, measure: Callable[[Tensor], Tensor], positions: str = "last"
    ) -> tuple[Float[Tensor, "m l p t d"], Float[Tensor, "l p t d"]]:
        """Gradient of each number of a measure, ``(p n b d)`` to ``(p n m)``, by the tail's state at every layer.

        It is 0 at tokens that are not pushed. The states come with them.
        One short backward pass a number gives the exact local effect of *every* direction at every layer:
        the inner product of direction and gradient. On the CPU, gradients in float32 at least.
        """
        wide = torch.promote_types(self.model.dtype, torch.float32)
        with torch.enable_grad(), self.model.short_of_memory("lower sweep.prompts, or use a smaller loading.dtype"):
            outputs, final = self._finish_clean()
            states = [state_of(output) for output in outputs]
            values = measure(final[:, None]).sum((0, 1))
            gradients = [torch.autograd.grad(v, states, retain_graph=True, materialize_grads=True) for v in values]
        stacked = torch.stack([torch.stack([layer.to("cpu", wide) for layer in layers]) for layers in gradients])
        at = torch.stack([state.detach().cpu() for state in states])
        return stacked * self.pushed_tokens(positions)[..., None].cpu(), at

    def _inputs(self, n: int) -> dict:
        """For n variants; kept, as the next chunk and the next layer ask for the same."""
        if n in self._inputs_of:
            return self._inputs_of[n]
        (p, before), t = self.before.shape, self.ids.shape[1]
        told = 1 if self.apart else n  # variants that the mask tells from each other
        other = torch.eye(told, dtype=torch.bool, device=self.sees.device)
        own = (other[None, :, None, :, None] & self.sees[:, None, :, None, :]).reshape(p, told * t, told * t)
        allowed = torch.cat([self.before[:, None].expand(p, told * t, before), own], 2)
        inputs = {
            "input_ids": self.ids.repeat(1, n),
            "attention_mask": additive(allowed, self.model.dtype)[:, None],
            "position_ids": self.positions.repeat(1, n),
            "past_key_values": self.cache if before else None,
            "use_cache": before > 0,
        }
        self._inputs_of = {n: inputs}
        return inputs

    def _attending(self) -> AbstractContextManager:
        return attending(self.model.config, APART if self.apart else None)

    def _finish_clean(self) -> tuple[list[Tensor | tuple], Tensor]:
        with self._attending():
            outputs, final = self.model.run(self._inputs(1))
        return outputs, final[:, self.root :]

    def _finish_pushed(
        self, changes: Mapping[int, Change], rows: np.ndarray, positions: str, here: slice = slice(None)
    ) -> Tensor:
        """Each variant as if it were alone. One that overflows is felt by all beside it, as 0 · NaN is NaN in a masked
        sum: then one half is run, and the other, each in its place beside copies, so that no other's bits change."""
        tried = np.full_like(rows, rows[here][0])
        tried[here] = rows[here]
        final = self._finish_together(changes, tried, positions)[:, here]
        if (count := final.shape[1]) == 1 or self.apart or final.isfinite().all():
            return final
        start = self._pushed(changes, rows[here], positions, min(changes), self.states[min(changes)][:, None])
        if not start.isfinite().all((2, 3)).any():  # each of them is lost by itself
            return final
        first, last, _ = here.indices(len(rows))
        halves = slice(first, first + count // 2), slice(first + count // 2, last)
        return torch.cat([self._finish_pushed(changes, rows, positions, half) for half in halves], 1)

    def _pushed(self, changes: Mapping[int, Change], rows: np.ndarray, positions: str, layer: int, state: Tensor):
        return self.push(state, partial(changes[layer], rows=rows), positions)

    def _finish_together(self, changes: Mapping[int, Change], rows: np.ndarray, positions: str) -> Tensor:
        n, lowest = len(rows), min(changes)
        pushed = partial(self._pushed, changes, rows, positions)
        start, (clean, _) = pushed(lowest, self.states[lowest][:, None]).flatten(1, 2), self._clean
        with torch.no_grad(), self._attending(), self.model.traced.trace(**self._inputs(n)):
            for layer, block in enumerate(self.model.layers):
                if layer <= lowest:
                    block.skip(with_state(clean[layer], start))
                elif layer in changes:
                    moved = pushed(layer, state_of(block.output).unflatten(1, (n, -1))).flatten(1, 2)
                    block.output = with_state(block.output, moved)
            final = self.model.traced.output[0].save()
        return final.unflatten(1, (n, -1))[:, :, self.root :]
