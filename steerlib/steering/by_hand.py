"""Steering a model while it is used: pushes that are on inside a ``with`` block and leave no trace after it.

    direction = probing.find(model, concept, layer=2)
    with steer(model, direction, alpha=1.0):
        print(write(model, ["She felt"]))

Several layers, several concepts and any operator at once are a list of directions and of `Push`.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral, Real
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from steerlib import SteerlibError, nearest
from steerlib.model import Model, state_of, with_state, written
from steerlib.model.encoder import as_texts
from steerlib.model.tokens import reached
from steerlib.steering.arms import Arm
from steerlib.steering.direction import Direction, Scale
from steerlib.steering.operators import ALONG, Operator

Positions = Literal["last", "all", "generated"]


@dataclass(frozen=True)
class Push:
    """One operator, of one variant, at one layer. Raises SteerlibError for an alpha that is no finite number."""

    layer: int
    operator: Operator
    alpha: float | Tensor = 1.0  # a tensor of one number, or of one for each row of a batch, is taken as it is
    positions: Positions = "generated"

    def __post_init__(self):
        if not _is_finite(self.alpha):
            raise SteerlibError(f"alpha={reprlib.repr(self.alpha)}: the strength of a push is a finite number")


def _is_finite(number: Any) -> bool:
    if isinstance(number, Tensor):  # wherever it is: nobody waits for a GPU to tell what it holds
        return number.numel() == 1 or (len(number) > 0 and number.shape[1:] == (1, 1))
    try:
        return isinstance(number, Real) and not isinstance(number, bool) and math.isfinite(number)
    except OverflowError:  # a whole number beyond all floats
        return False


def push_along(
    direction: Direction,
    alpha: float,
    operator: str = "add",
    scale: Scale = "residual_norm",
    positions: Positions = "generated",
) -> Push:
    """A push along a direction, at the layer that it was read from.

    ``scale`` says what alpha counts where that is a length; ablating takes a share (1: all of it), rotating radians.
    Raises SteerlibError for another operator or scale, or a length that the direction does not have.
    """
    if operator not in [*ALONG]:
        raise SteerlibError(
            f"operator {operator!r}: along a direction there are {', '.join(ALONG)}{nearest(operator, ALONG)}"
        )
    is_length = ALONG[operator].counts == "length"
    length = direction.length_of(scale, needed=is_length)
    push = Push(direction.layer, ALONG[operator](torch.from_numpy(direction.vector)), alpha, positions)
    return replace(push, alpha=alpha * (length if is_length else 1.0))


class steer:
    """Pushes on a model, from the start of a ``with`` block to its end, however it ends.

    They act on whatever is run meanwhile: `write`, ``model.hf(...)``, ``model.hf.generate(...)``, batched and padded on
    either side. No weight is touched and nothing is kept: afterwards the model gives the same logits bit for bit.

    Raises SteerlibError for what is no push, a layer or positions that there are not, a direction of another model or
    width, and when it is on already.
    """

    def __init__(
        self,
        model: Model,
        pushes: Push | Direction | Sequence[Push | Direction],
        alpha: float = 1.0,
        transfer: bool = False,
        **options,
    ):
        """``alpha`` and ``options`` (see `push_along`) are for directions; a `Push` says all of that itself.

        ``transfer`` lets a direction be used in another checkpoint than the one it was found in.
        """
        self.model, self.pushes = model, []
        self._handles: list = []
        self._text: Bool[Tensor, "p t"] | None = None
        self._goes_on = False
        several = isinstance(pushes, Sequence) and not isinstance(pushes, str)
        for push in pushes if several and len(pushes) else [pushes]:
            if not isinstance(push, Push | Direction):
                raise SteerlibError(
                    f"{reprlib.repr(push)} is no push; give a direction, as study.direction finds it, or a list of them"
                )
            if isinstance(push, Direction):
                push.check(model, transfer)
                push = push_along(push, alpha, **options)
            model.check_layer(push.layer)
            if push.positions not in get_args(Positions):
                raise SteerlibError(f"positions {push.positions!r}: there are {', '.join(get_args(Positions))}")
            self.pushes.append(push)

    def __repr__(self) -> str:
        return f"<pushes: {len(self.pushes)}, {'on' if self._handles else 'off: they act inside a `with` block'}>"

    def __enter__(self) -> steer:
        if self._handles:  # twice would push twice as far
            raise SteerlibError("these pushes are on already; take them off first")
        # Also of what holds the blocks: some models call that (OPT's decoder) without the base model around it.
        base = self.model.hf.base_model
        looked_at = {base, base.get_submodule(self.model.path.rpartition(".")[0])}
        self._handles = [module.register_forward_pre_hook(self._look, with_kwargs=True) for module in looked_at]
        for push in self.pushes:
            block = self.model.blocks[push.layer]
            self._handles.append(block.register_forward_hook(partial(self._push, push)))
        return self

    def __exit__(self, *_) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _look(self, base, args, kwargs) -> None:
        """Before a pass: which of its tokens are text, and whether it goes on from a prompt that is in the cache."""
        mask, cache = kwargs.get("attention_mask"), kwargs.get("past_key_values")
        if mask is not None and not (isinstance(mask, Tensor) and mask.dim() == 2):
            return  # made of the one that the base model was given: a dict of them, or by token and token
        self._text = None if mask is None else mask.bool()
        self._goes_on = cache is not None and cache.get_seq_length() > 0

    def _push(self, push: Push, block, inputs, output: Tensor | tuple) -> Tensor | tuple:
        state = state_of(output)
        p, t = state.shape[:2]
        if isinstance(push.alpha, Tensor) and push.alpha.numel() not in (1, p):
            raise SteerlibError(f"alphas of {push.alpha.numel()} rows, but {p} are in this batch")
        text = torch.ones(p, t, dtype=torch.bool) if self._text is None else self._text[:, -t:]
        # The prompt's last token: the last of text here, or before all that is here.
        last = -1 if self._goes_on else (text * torch.arange(t, device=text.device)).argmax(1, keepdim=True)
        moved = push.operator.to(state)(state, push.alpha)
        pushed = reached(text, last, push.positions)[..., None].to(state.device)
        return with_state(output, torch.where(pushed, moved, state))


class Steerable(Model):
    """A model with its pushes at hand."""

    def steer(
        self,
        pushes: Push | Direction | Sequence[Push | Direction],
        alpha: float = 1.0,
        operator: str = "add",
        scale: Scale = "residual_norm",
        positions: Positions = "generated",
        transfer: bool = False,
    ) -> steer:
        """A ``with`` block in which it is pushed along a direction, or several, and after which nothing is left of it.

        ``alpha`` is how far, and ``scale`` what that counts: a push of 1 residual norm is as long as the state itself.
        ``operator``: add, ablate or rotate. ``positions``: at which tokens, the prompt's last, all, or the last one and
        those written after it. ``transfer``: whether a direction may be another checkpoint's. A `Push` says all of that
        itself. Raises SteerlibError for what there is not.
        """
        return steer(self, pushes, alpha, transfer, operator=operator, scale=scale, positions=positions)

    def write(self, prompts: str | Sequence[str], tokens: int = 20) -> str | list[str]:
        """What it writes after a prompt, or a list of what it writes after each of several (`write`)."""
        return write(self, prompts, tokens)


def write(model: Model, prompts: str | Sequence[str], tokens: int = 20) -> str | list[str]:
    """What the model writes after a prompt, or each of several, greedily: the same whatever else is in the batch.

    As many prompts at a time as the study's `loading.batch`, but at most 128. Raises SteerlibError when memory is
    short, or the model's context, for what is no text, and where a push overflows: the likeliest of no numbers is no
    word.
    """
    if isinstance(prompts, str):
        return write(model, [prompts], tokens)[0]
    prompts = as_texts(prompts)
    if not isinstance(tokens, Integral) or isinstance(tokens, bool) or tokens < 1:
        raise SteerlibError(f"tokens={tokens!r}: what is written is a whole number of tokens, 1 or more")
    return model.tokenizer.batch_decode(written(model, prompts, int(tokens)), skip_special_tokens=True)


def write_each(
    model: Model, prompts: Sequence[str], tokens: int, layer: int, arm: Arm, positions: Positions
) -> list[list[str]]:
    """`write` under each push of an arm at a layer, all its strengths and prompts side by side: texts by push.

    What costs is to go through the weights for a token; for how many prompts at once hardly matters.
    """
    variant, count = np.repeat(np.arange(len(arm.strength)), len(prompts)), len(prompts)

    def pushed(rows: slice) -> steer:
        own = arm.pick(variant[rows])
        operators = {layer: own.operator, **own.above}
        return steer(model, [Push(at, one.across(), own.reach, positions) for at, one in operators.items()])

    ids = written(model, [*prompts] * len(arm.strength), tokens, inside=pushed)
    texts = model.tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [texts[k * count : (k + 1) * count] for k in range(len(arm.strength))]
