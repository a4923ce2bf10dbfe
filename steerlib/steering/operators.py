"""Operators: what can be done to a hidden state. Each moves it by a displacement, and alpha says how far.

An operator holds ``k`` variants of itself (one a direction) and acts on states ``(…, d)``. Its tensors are ``(k, d)``,
or ``(d,)`` for one; `across` turns them so that states ``(p, 1, t, d)`` become ``(p, k, t, d)``. At alpha = 0 the
state comes back bit for bit, whatever the operator. States of half precision are moved in float32, and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlib.numerics import erasure

OPERATORS: dict[str, type[Operator]] = {}


@dataclass(frozen=True)
class Operator:
    """``h + displacement(h, alpha)``. A subclass names itself and joins `OPERATORS`."""

    name: ClassVar[str]
    formula: ClassVar[str]
    counts: ClassVar[str]  # what alpha counts: "length" (in the study's scale), "radian", or what is whole at 1

    def __init_subclass__(cls, name: str, formula: str, counts: str):
        cls.name, cls.formula, cls.counts = name, formula, counts
        OPERATORS[name] = cls

    def __call__(self, state: Float[Tensor, "*b d"], alpha: float | Tensor = 1.0) -> Float[Tensor, "*b d"]:
        """The state moved, out of place. A tensor of alphas broadcasts against ``state[..., :1]``."""
        wide = widened(state)
        moved = wide + self.displacement(wide, torch.as_tensor(alpha, dtype=wide.dtype).to(wide.device))
        return moved.to(state.dtype)

    def displacement(self, state: Tensor, alpha: Tensor) -> Tensor:
        raise NotImplementedError

    def tangent(self, state: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Derivative of the state by alpha at 0, the mean of both sides where they differ. Displacements grow straight
        with alpha on either side, unless an operator says otherwise. Of states in float32 at least."""
        alpha = torch.ones((), dtype=state.dtype, device=state.device)
        return (self.displacement(state, alpha) - self.displacement(state, -alpha)) / 2

    def across(self) -> Operator:
        """The k variants along an axis of their own, next to last but one: for states ``(p, 1, t, d)``."""
        return self.each(lambda tensor: tensor.unsqueeze(1))

    def to(self, like: Tensor) -> Operator:
        """On the device of a state, and in its precision (float32 at least)."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        return self.each(lambda tensor: tensor.to(like.device, dtype))

    def pick(self, rows: Int[np.ndarray, " r"]) -> Operator:
        """Some of the k variants."""
        return self.each(lambda tensor: tensor[torch.from_numpy(rows)])

    @classmethod
    def side_by_side(cls, operators: Sequence[Operator]) -> Operator:
        """The variants of several operators of one kind as one."""
        return cls(*(torch.cat([getattr(operator, field.name) for operator in operators]) for field in fields(cls)))

    def each(self, change: Callable[[Tensor], Tensor]) -> Operator:
        return type(self)(*(change(getattr(self, field.name)) for field in fields(self)))


def widened(state: Tensor) -> Tensor:
    """In float32 at least."""
    return state.to(torch.promote_types(state.dtype, torch.float32))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products over the last axis, which is kept."""
    return (a * b).sum(-1, keepdim=True)


@dataclass(frozen=True)
class Add(Operator, name="add", formula=r"h + \alpha s\,\hat v", counts="length"):
    """Push along the direction (ActAdd, Turner et al. 2023; CAA, Rimsky et al. 2024)."""

    step: Float[Tensor, "*k d"]

    def displacement(self, state, alpha):
        return alpha * self.step

    def tangent(self, state):
        return self.step  # the same for every state: whoever asks need not spell it out for each


@dataclass(frozen=True)
class Ablate(Operator, name="ablate", formula=r"h - \alpha\,\langle h, \hat v\rangle\,\hat v", counts="full ablation"):
    """Project the direction out; at alpha = 1 nothing of it is left (Arditi et al. 2024)."""

    unit: Float[Tensor, "*k d"]

    def displacement(self, state, alpha):
        return -alpha * dot(state, self.unit) * self.unit


@dataclass(frozen=True)
class SetProjection(
    Operator, name="set", formula=r"h + |\alpha|\,(c_\pm - \langle h, \hat v\rangle)\,\hat v", counts="full clamp"
):
    """Move the projection to the level of the positives (alpha > 0) or the negatives (alpha < 0); at ±1 it is there.

    Clamping, as with features of sparse autoencoders (Templeton et al. 2024).
    """

    unit: Float[Tensor, "*k d"]
    high: Float[Tensor, "*k 1"]  # mean projection of the positives
    low: Float[Tensor, "*k 1"]  # mean projection of the negatives

    def displacement(self, state, alpha):
        level = torch.where(alpha < 0, self.low, self.high)
        return alpha.abs() * (level - dot(state, self.unit)) * self.unit


@dataclass(frozen=True)
class Affine(
    Operator,
    name="affine",
    formula=r"h + |\alpha|\,(T_\pm(x) - x)\,\hat v,\quad x = \langle h, \hat v\rangle,\ "
    r"T_+(x) = \mu_+ + \tfrac{\sigma_+}{\sigma_-}(x - \mu_-)",
    counts="full transport",
):
    """Carry the projection's distribution from one class over to the other (Linear-AcT, Rodriguez et al. 2025).

    An affine map along the direction: alpha > 0 takes negatives to positives, alpha < 0 the other way round.
    """

    unit: Float[Tensor, "*k d"]
    high: Float[Tensor, "*k 1"]
    low: Float[Tensor, "*k 1"]
    gain: Float[Tensor, "*k 1"]  # spread of the positives over that of the negatives

    def displacement(self, state, alpha):
        x = dot(state, self.unit)
        up, down = self.high + self.gain * (x - self.low), self.low + (x - self.high) / self.gain
        return alpha.abs() * (torch.where(alpha < 0, down, up) - x) * self.unit


@dataclass(frozen=True)
class Rotate(
    Operator,
    name="rotate",
    formula=r"\lVert h\rVert\,(\cos\varphi\;\hat h + \sin\varphi\;\hat v_\perp),\ \varphi=\alpha",
    counts="radian",
):
    """Turn the state towards the direction by alpha radians, its norm kept (Vu & Nguyen 2025, angular steering).

    It stops where the state lies along the direction; alpha < 0 turns it away, at most to the opposite.
    """

    unit: Float[Tensor, "*k d"]

    def displacement(self, state, alpha):
        norm, across, angle = self._plane(state)
        turn = torch.minimum(torch.maximum(alpha, angle - torch.pi), angle)
        return (torch.cos(turn) - 1) * state + torch.sin(turn) * norm * across

    def tangent(self, state):
        norm, across, _ = self._plane(state)
        return norm * across

    def _plane(self, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Norm of the state, the unit vector across it towards the direction, and the angle between the two."""
        norm = state.norm(dim=-1, keepdim=True)
        along = dot(state, self.unit) / norm.clamp(min=torch.finfo(state.dtype).tiny)
        across = self.unit - along * state / norm.clamp(min=torch.finfo(state.dtype).tiny)
        width = across.norm(dim=-1, keepdim=True)
        return norm, across / width.clamp(min=torch.finfo(state.dtype).tiny), torch.atan2(width, along)


# All that these need to know is the direction.
ALONG = {"add": Add, "ablate": Ablate, "rotate": Rotate}


@dataclass(frozen=True)
class Erase(Operator, name="leace", formula=r"h - \alpha\,\langle w, h - \mu\rangle\,u", counts="full erasure"):
    """LEACE's eraser for one concept: at alpha = 1 no linear probe finds it (Belrose et al. 2023, Thm 4.2)."""

    left: Float[Tensor, "*k d"]  # u
    right: Float[Tensor, "*k d"]  # w, with ⟨w, u⟩ = 1
    mean: Float[Tensor, "*k d"]

    def displacement(self, state, alpha):
        return -alpha * dot(state - self.mean, self.right) * self.left


@dataclass(frozen=True)
class LinearMap(Operator, name="linear_map", formula=r"h + \alpha\,(A h + b - h)", counts="full map"):
    """Any affine map of the whole state, here fitted to carry the negatives' mean and covariance over to the
    positives' (MiMiC, Singh et al. 2024); at alpha = 1 the map itself."""

    matrix: Float[Tensor, "*k d d"]
    offset: Float[Tensor, "*k d"]

    def displacement(self, state, alpha):
        return alpha * (state @ self.matrix.mT + self.offset - state)

    def across(self):
        # The matrices multiply (t, d) from the right: their own last two axes already stand where they should.
        return LinearMap(self.matrix, self.offset.unsqueeze(1))


def build(
    kind: str, vectors: Float[np.ndarray, "m c r d"], states: Sequence[tuple[np.ndarray, np.ndarray]]
) -> Operator:
    """An operator along unit directions, m·c·r variants; ``states`` are the fitting positives and negatives (n d) of
    every concept, which say where ``set`` and ``affine`` go. What is not along a direction is fitted on these states
    alone, one variant a concept. Raises KeyError for an unknown kind."""
    if kind in ("leace", "linear_map"):
        return OPERATORS[kind].side_by_side([_fitted(kind, *sides) for sides in states])
    unit = torch.from_numpy(np.ascontiguousarray(vectors.reshape(-1, vectors.shape[-1]), dtype=np.float32))
    if kind in ALONG:
        return ALONG[kind](unit)
    high, low, gain = (torch.from_numpy(level.reshape(-1, 1)) for level in _levels(vectors, states))
    return {"set": lambda: SetProjection(unit, high, low), "affine": lambda: Affine(unit, high, low, gain)}[kind]()


def _levels(vectors: np.ndarray, states: Sequence[tuple[np.ndarray, np.ndarray]]) -> Float[np.ndarray, "3 m c r"]:
    """Mean projections of positives and of negatives, and the ratio of their spreads."""
    levels = np.full((3, *vectors.shape[:3]), np.nan, dtype=np.float32)
    for c, sides in enumerate(states):
        positive, negative = (vectors[:, c].astype(np.float64) @ side.astype(np.float64).T for side in sides)
        spread = negative.std(-1)
        # Where the negatives do not vary there is no ratio: shift alone.
        ratio = np.where(spread > 0, positive.std(-1) / np.where(spread > 0, spread, 1), 1).clip(1e-2, 1e2)
        levels[:, :, c] = positive.mean(-1), negative.mean(-1), ratio
    return levels


def _fitted(kind: str, positive: Float[np.ndarray, "n d"], negative: Float[np.ndarray, "n d"]) -> Operator:
    if kind == "leace":
        labels = np.repeat([1.0, 0.0], [len(positive), len(negative)])
        eraser = erasure.leace(np.concatenate([positive, negative]), labels)
        # Sums over one column; over none, where the classes look the same and nothing is erased.
        parts = eraser.left.sum(1), eraser.right.sum(0), eraser.mean
    else:
        parts = erasure.gaussian_map(negative, positive)
    return OPERATORS[kind](*(torch.from_numpy(part.astype(np.float32))[None] for part in parts))
