"""Operators with their strengths: what readouts do at every alpha, and how strong a push of a given KL is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlib.model import Change, Prefix
from steerlib.numerics.statistics import solve_budget
from steerlib.steering.operators import Operator, widened
from steerlib.steering.readouts import measured
from steerlib.steering.side_effects import SideEffects

# Final states in, one or more numbers a prompt and variant out.
Measure = Callable[[Float[Tensor, "p n b d"]], Float[Tensor, "p n m"]]
CHUNK = 512  # variants whose tangents are held at a time
FIRST = 0.1  # of the strength's unit: where the search for one of equal KL begins


@dataclass(frozen=True)
class Arm:
    """k variants of one operator side by side, each with the strength that alpha multiplies.

    ``above`` has operators of higher layers that push along with it, at the same alpha and strength.
    """

    operator: Operator
    strength: Float[Tensor, " k"]
    above: Mapping[int, Operator] = field(default_factory=dict)

    def at(self, alpha: float) -> Callable[[Float[Tensor, "p 1 t d"]], Float[Tensor, "p k t d"]]:
        """What the arm does to states."""
        return lambda state: self.operator.to(state).across()(state, alpha * self.reach)

    def changes(self, layer: int) -> dict[int, Change]:
        """What it does at its layer and above, at alpha 1, to the states of some of its variants."""
        arms = {at: Arm(operator, self.strength) for at, operator in {layer: self.operator, **self.above}.items()}
        return {at: lambda state, rows, arm=arm: arm.pick(rows).at(1.0)(state) for at, arm in arms.items()}

    def tangent(self, state: Float[Tensor, "p 1 t d"]) -> Float[Tensor, "#p k #t d"]:
        """Derivative of the states by alpha at 0; without prompts and tokens where it is the same for all of them."""
        state = widened(state)
        return self.operator.to(state).across().tangent(state) * self.reach.to(state)

    def pick(self, rows: Int[np.ndarray, " r"]) -> Arm:
        """Some of the variants."""
        above = {layer: operator.pick(rows) for layer, operator in self.above.items()}
        return Arm(self.operator.pick(rows), self.strength[rows], above)

    @classmethod
    def side_by_side(cls, arms: Sequence[Arm]) -> Arm:
        """The variants of several arms of one kind as one."""
        kind, layers = type(arms[0].operator), list(arms[0].above)
        above = {k: type(arms[0].above[k]).side_by_side([arm.above[k] for arm in arms]) for k in layers}
        operator = kind.side_by_side([arm.operator for arm in arms])
        return cls(operator, torch.cat([arm.strength for arm in arms]), above)

    @property
    def reach(self) -> Float[Tensor, "k 1 1"]:
        """Its strengths, against states. One that was not found (NaN) does nothing; what is measured of it is NaN."""
        return self.strength.nan_to_num(0.0)[:, None, None]


def dose_response(
    prefix: Prefix, measure: Measure, layer: int, arm: Arm, alphas: Sequence[float], positions: str = "last"
) -> Float[Tensor, "p alpha k m"]:
    """Measures after every variant of an arm at every alpha, by short passes over the blocks above.

    At alpha = 0 nothing is run: the unsteered model is what it is. At any other, NaN without a strength. On the CPU.
    Raises SteerlibError without memory.
    """
    k, pushing = len(arm.strength), torch.tensor([alpha for alpha in alphas if alpha], dtype=arm.strength.dtype)
    doses = arm.pick(np.tile(np.arange(k), len(pushing)))  # all variants at the first alpha, then at the next
    doses = replace(doses, strength=doses.strength * pushing.repeat_interleave(k))
    with prefix.model.short_of_memory("lower sweep.prompts, or use a smaller loading.dtype"):
        unsteered = measured(measure, [prefix.final[:, None]])
        finals = prefix.finish(doses.changes(layer), len(doses.strength), positions)
        pushed = iter(measured(measure, finals).split(k, 1) if len(doses.strength) else ())
    nowhere = arm.strength.isnan()[:, None]  # of these nothing is known but the unsteered model
    doses_by_alpha = [
        next(pushed).masked_fill(nowhere, torch.nan) if alpha else unsteered.expand(-1, k, -1) for alpha in alphas
    ]
    return torch.stack(doses_by_alpha, 1)


def local_slopes(
    gradients: Float[Tensor, "q p t d"], states: Float[Tensor, "p t d"], arm: Arm
) -> Float[Tensor, "q p k"]:
    """⟨gradient, tangent⟩ summed over tokens: the limit of every readout's slope at alpha → 0, at every prompt.

    NaN of a variant without a strength: it was not pushed, which is not to be pushed and do nothing.
    """
    slopes, summed = [], gradients.sum(2)
    for rows in np.split(np.arange(len(arm.strength)), range(CHUNK, len(arm.strength), CHUNK)):
        tangent = arm.pick(rows).tangent(states[:, None])
        if tangent.dim() == 3:  # the same at every state
            slopes.append(summed @ tangent[:, 0].T)
        else:
            slopes.append(torch.einsum("qptd,pktd->qpk", gradients, tangent))
    return torch.cat(slopes, -1).masked_fill(arm.strength.isnan(), torch.nan)


def solve(
    effects: SideEffects, layer: int, arm: Arm, budget: float, positions: str, unit: float = 1.0
) -> Float[np.ndarray, " k"]:
    """Strengths at which KL on the neutral validation passages meets the budget (nat); NaN where none does.

    Whatever strengths the arm has; ``unit`` is what strengths of this operator are counted in.
    """
    passages = effects.validation

    def kl(strength: np.ndarray, variants: np.ndarray) -> np.ndarray:
        tried = replace(arm.pick(variants), strength=torch.from_numpy(strength.astype(np.float32)))
        values = dose_response(passages.prefix, passages.measure, layer, tried, [1.0], positions)
        return values[:, 0, :, 0].mean(0).double().numpy()

    return solve_budget(kl, budget, len(arm.strength), unit * FIRST)
