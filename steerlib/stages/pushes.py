"""From a study's directions to pushes: by which operator, and how strong, at one checkpoint."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float

from steerlib.concepts import Concept
from steerlib.model import Model
from steerlib.numerics.directions import Directions
from steerlib.stages.probing import Half, ReadStimuli, deals, fitted_on, random_directions
from steerlib.steering.arms import Arm, solve
from steerlib.steering.operators import ALONG, Operator, build
from steerlib.steering.side_effects import SideEffects
from steerlib.study import Study


def side_effects(model: Model, study: Study) -> SideEffects:
    """On the study's neutral passages, run from where it pushes."""
    return SideEffects(model, study.load_neutral(), study.seed, study.sweep.positions == "all")


class Pushes:
    """The arms of a study's directions and of their nulls, layer by layer. K variants are methods × concepts (× draws).

    Strength is what alpha multiplies (`sweep.scale`): for ``add`` a length, for other operators a share (or radians).
    """

    def __init__(self, model: Model, study: Study, concepts: Sequence[Concept], probes: xr.Dataset):
        self.model, self.study, self.concepts = model, study, concepts
        self.probes = probes.transpose("layer", "probe", "concept", ...)

    @cached_property
    def reals(self) -> dict[int, Arm]:
        """`real` of every layer that there are directions of: kept, as strengths may have to be solved for."""
        return {layer: self.real(layer) for layer in self.probes.layer.values.tolist()}

    def real(self, layer: int) -> Arm:
        """Every method and concept."""
        at = self.probes.sel(layer=layer)
        each = (at[name].values[:, :, None] for name in ("direction", "length", "spread"))
        return self._arm(layer, self.concepts, *each)

    def null(self, layer: int) -> Arm:
        """Every method and concept, with every null draw: isotropic directions, then the method on shuffled labels."""
        at = self.probes.sel(layer=layer).sel(probe=self.study.probes.names)
        shuffled = at.null_direction.values.astype(np.float32)
        random = random_directions(self.study, layer, shuffled.shape[-1]).astype(np.float32)
        vectors = np.concatenate([np.broadcast_to(random, (*shuffled.shape[:2], *random.shape)), shuffled], 2)
        return self._arm(layer, self.concepts, vectors, at.null_length.values, at.null_spread.values, len(random))

    def refits(self, layer: int, concept: Concept) -> Arm:
        """The analysis' method on all of one concept's fitting stimuli, then without each unit of them."""
        fitting = self._fitting(concept)
        return self._along(layer, concept, fitted_on(self.study, fitting, layer, fitting.stimuli.refits))

    def deals(self, layer: int, concept: Concept) -> Arm:
        """The analysis' method on shuffled labels of one concept's fitting stimuli."""
        return self._along(layer, concept, deals(self.study, concept.name, self._fitting(concept), layer))

    @cached_property
    def effects(self) -> SideEffects:
        """Run when first asked for, as generation needs none."""
        return side_effects(self.model, self.study)

    @cached_property
    def _read(self) -> ReadStimuli:
        """Read as for the probes, unless these kept it; when first asked for, as generation mostly needs none."""
        dtype = self.study.probes.states or "float32"
        return ReadStimuli(self.model, self.concepts, self.study.seed, dtype, ["fit"], self.probes)

    def _fitting(self, concept: Concept) -> Half:
        return self._read(concept.name, "fit")

    def _along(self, layer: int, concept: Concept, found: Directions) -> Arm:
        return self._arm(layer, [concept], *(each[None, None] for each in (found.vector, found.length, found.spread)))

    def _arm(
        self,
        layer: int,
        concepts: Sequence[Concept],
        vectors: Float[np.ndarray, "m c r d"],
        length: Float[np.ndarray, "m c r"],
        spread: Float[np.ndarray, "m c r"],
        shared: int = 0,
    ) -> Arm:
        """Along the directions of some concepts. One that is NaN is not there, and has no strength."""
        kind = self.study.sweep.operator
        fitted = () if kind in ALONG else concepts
        operator = build(kind, np.nan_to_num(vectors), [self._fitting(concept).sides(layer) for concept in fitted])
        strength = self._strength(layer, operator, length, spread, shared)
        strength = np.where(np.isnan(vectors).any(-1), np.nan, strength).astype(np.float32)
        return Arm(operator, torch.from_numpy(strength.reshape(-1)))

    def _strength(self, layer: int, operator: Operator, length, spread, shared: int) -> Float[np.ndarray, "m c r"]:
        """By the study's scale; the first ``shared`` draws are the same directions for every method."""
        plan = self.study.sweep
        unit = float(self.probes.residual_norm.sel(layer=layer)) if operator.counts == "length" else 1.0
        match plan.scale:
            case "residual_norm":
                return np.full(length.shape, unit)
            case "raw":
                return length
            case "projection_std":
                return spread
        solved, index = np.empty(length.shape), np.arange(length.size).reshape(length.shape)
        for methods, draws in ((slice(0, 1), slice(0, shared)), (slice(None), slice(shared, None))):
            cells = index[methods, :, draws]
            if cells.size:
                arm = Arm(operator.pick(cells.reshape(-1)), torch.ones(cells.size))
                strength = solve(self.effects, layer, arm, plan.kl_budget, plan.positions, unit)
                solved[:, :, draws] = strength.reshape(cells.shape)
        return solved
