"""From a study's directions to pushes: by which operator, and how strong, at one checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from steerlib.concepts import Concept
from steerlib.model import Model
from steerlib.model.prefix import Change, Prefix
from steerlib.numerics.statistics import solve_budget
from steerlib.stages.probing import Half, random_directions, read_stimuli
from steerlib.steering.operators import Ablate, Add, Affine, Operator, Rotate, SetProjection, widened
from steerlib.steering.readouts import SideEffects, measured
from steerlib.study import Study

# Final states in, one or more numbers a prompt and variant out.
Measure = Callable[[Float[Tensor, "p n b d"]], Float[Tensor, "p n m"]]
FIRST = 0.1  # of the operator's unit: where the search for a strength of equal KL begins


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
        return partial(self._moved, self.operator, alpha)

    def changes(self, layer: int) -> dict[int, Change]:
        """What it does at its layer and above, at alpha 1, to the states of some of its variants."""
        return {at: partial(self._moved, one, 1.0) for at, one in {layer: self.operator, **self.above}.items()}

    def doses(self, alphas: Sequence[float]) -> Arm:
        """All variants at the first alpha, then at the next: alphas × k of them."""
        k = len(self.strength)
        every = self.pick(np.tile(np.arange(k), len(alphas)))
        each = torch.tensor(alphas, dtype=self.strength.dtype).repeat_interleave(k)
        return replace(every, strength=every.strength * each)

    def tangent(self, state: Float[Tensor, "p 1 t d"]) -> Float[Tensor, "#p k #t d"]:
        """Derivative of the states by alpha at 0; without prompts and tokens where it is the same for all of them."""
        state = widened(state)
        return self.operator.to(state).across().tangent(state) * self._strength[:, None, None].to(state)

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
    def _strength(self) -> Tensor:
        """A strength that was not found (NaN) does nothing."""
        return self.strength.nan_to_num(0.0)

    def _moved(self, operator: Operator, alpha: float, state: Tensor, rows: np.ndarray | None = None) -> Tensor:
        chosen = operator if rows is None else operator.pick(rows)
        strength = self._strength if rows is None else self._strength[rows]
        return chosen.to(state).across()(state, (alpha * strength)[:, None, None])


def dose_response(
    prefix: Prefix, measure: Measure, layer: int, arm: Arm, alphas: Sequence[float], positions: str = "last"
) -> Float[Tensor, "p alpha k m"]:
    """Measures after every variant of an arm at every alpha, by short passes over the blocks above.

    At alpha = 0 nothing is run: the unsteered model is what it is. On the CPU. Raises SteerlibError without memory.
    """
    doses, k = arm.doses([alpha for alpha in alphas if alpha]), len(arm.strength)
    with prefix.model.short_of_memory("lower sweep.prompts, or use a smaller loading.dtype"):
        unsteered = measured(measure, [prefix.final[:, None]])
        finals = prefix.finish(doses.changes(layer), len(doses.strength), positions)
        pushed = iter(measured(measure, finals).split(k, 1) if len(doses.strength) else ())
    return torch.stack([next(pushed) if alpha else unsteered.expand(-1, k, -1) for alpha in alphas], 1)


def build(
    kind: str, vectors: Float[np.ndarray, "m c r d"], states: Sequence[tuple[np.ndarray, np.ndarray]]
) -> Operator:
    """An operator along unit directions, m·c·r variants; ``states`` are the fitting positives and negatives (n d) of
    every concept, which say where ``set`` and ``affine`` go. Raises KeyError for one that is not along a direction."""
    unit = torch.from_numpy(np.ascontiguousarray(vectors.reshape(-1, vectors.shape[-1]), dtype=np.float32))
    along = {"add": Add, "ablate": Ablate, "rotate": Rotate}
    if kind in along:
        return along[kind](unit)
    high, low, gain = (torch.from_numpy(level.reshape(-1, 1)) for level in _levels(vectors, states))
    return {"set": lambda: SetProjection(unit, high, low), "affine": lambda: Affine(unit, high, low, gain)}[kind]()


def _levels(vectors: np.ndarray, states: Sequence[tuple[np.ndarray, np.ndarray]]) -> Float[np.ndarray, "3 m c r"]:
    """Mean projections of positives and of negatives, and the ratio of their spreads."""
    found = np.empty((3, *vectors.shape[:3]), dtype=np.float32)
    for c, sides in enumerate(states):
        positive, negative = (vectors[:, c].astype(np.float64) @ side.astype(np.float64).T for side in sides)
        found[0, :, c], found[1, :, c] = positive.mean(-1), negative.mean(-1)
        # Where the negatives do not vary there is no ratio: shift alone.
        spread = negative.std(-1)
        ratio = positive.std(-1) / np.where(spread > 0, spread, 1)
        found[2, :, c] = np.where(spread > 0, ratio, 1).clip(1e-2, 1e2)
    return found


def solve(
    effects: SideEffects, layer: int, arm: Arm, budget: float, first: float, positions: str
) -> Float[np.ndarray, " k"]:
    """Strengths at which KL on the neutral validation passages meets the budget; NaN where none does."""
    asked = effects.validation

    def kl(strength: np.ndarray, which: np.ndarray) -> np.ndarray:
        tried = replace(arm.pick(which), strength=torch.from_numpy(strength.astype(np.float32)))
        found = dose_response(asked.prefix, asked.measure, layer, tried, [1.0], positions)
        return found[:, 0, :, 0].mean(0).double().numpy()

    return solve_budget(kl, budget, len(arm.strength), first)


class Pushes:
    """The arms of a study's directions and of their nulls, layer by layer. K variants are methods × concepts (× draws).

    Strength is what alpha multiplies (`sweep.scale`): for ``add`` a length, for other operators a share (or radians).
    """

    def __init__(
        self, model: Model, study: Study, concepts: Sequence[Concept], probes: xr.Dataset, effects: SideEffects
    ):
        self.model, self.study, self.concepts, self.effects = model, study, concepts, effects
        self.probes = probes.transpose("layer", "method", "concept", ...)
        self._half: Callable[[str, str], Half] | None = None

    def real(self, layer: int) -> Arm:
        """Every method and concept."""
        at = self.probes.isel(layer=layer)
        vectors = at.direction.values[:, :, None]
        length, spread = (at[name].values[:, :, None] for name in ("length", "spread"))
        return self._arm(layer, vectors, length, spread)

    def null(self, layer: int) -> Arm:
        """Every method and concept, with every null draw: isotropic directions, then the method on shuffled labels."""
        at = self.probes.isel(layer=layer).sel({"method": self.study.probes.names})
        shuffled = at.null_direction.transpose("method", "concept", "shuffle", "hidden").values.astype(np.float32)
        random = random_directions(self.study, layer, shuffled.shape[-1]).astype(np.float32)
        vectors = np.concatenate([np.broadcast_to(random, (*shuffled.shape[:2], *random.shape)), shuffled], 2)
        length, spread = (
            at[name].transpose("method", "concept", "draw").values for name in ("null_length", "null_spread")
        )
        arm = self._arm(layer, np.nan_to_num(vectors), length, spread, shared=len(random))
        # A method that takes only its sign from the labels has no draws on shuffled ones.
        absent = torch.from_numpy(np.isnan(vectors).any(-1).reshape(-1))
        return replace(arm, strength=arm.strength.masked_fill(absent, torch.nan))

    def states(self, layer: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Fitting positives and negatives of every concept; read when first asked for, as most studies need none."""
        if self._half is None:
            self._half = read_stimuli(self.model, self.concepts, self.study.seed)
        halves = [self._half(concept.name, "fit") for concept in self.concepts]
        return [tuple(np.split(states[layer], [len(stimuli.positive)])) for stimuli, states, _ in halves]

    def _arm(self, layer: int, vectors: Float[np.ndarray, "m c r d"], length, spread, shared: int = 0) -> Arm:
        kind = self.study.sweep.operator
        operator = build(kind, vectors, self.states(layer) if kind in ("set", "affine") else ())
        strength = self._strength(layer, operator, length, spread, shared)
        return Arm(operator, torch.from_numpy(np.ascontiguousarray(strength.reshape(-1), dtype=np.float32)))

    def _strength(self, layer: int, operator: Operator, length, spread, shared: int) -> Float[np.ndarray, "m c r"]:
        """By the study's scale; the first ``shared`` draws are the same directions for every method."""
        plan = self.study.sweep
        unit = float(self.probes.residual_norm.isel(layer=layer)) if plan.operator == "add" else 1.0
        match plan.scale:
            case "residual_norm":
                return np.full(length.shape, unit)
            case "raw":
                return length
            case "projection_std":
                return spread
        found, index = np.empty(length.shape), np.arange(length.size).reshape(length.shape)
        for methods, draws in ((slice(0, 1), slice(0, shared)), (slice(None), slice(shared, None))):
            cells = index[methods, :, draws]
            if cells.size:
                arm = Arm(operator.pick(cells.reshape(-1)), torch.ones(cells.size))
                solved = solve(self.effects, layer, arm, plan.kl_budget, unit * FIRST, plan.positions)
                found[:, :, draws] = solved.reshape(cells.shape)
        return found
