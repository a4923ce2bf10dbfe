"""Readouts set up to be pushed, again and again: their prompts run once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from steerlib.concepts import Concept, prompt_split
from steerlib.model import Model, Prefix
from steerlib.stages import written
from steerlib.stages.classifiers import of_readouts
from steerlib.steering.arms import Arm, local_slopes
from steerlib.steering.readouts import Readouts
from steerlib.study import Study


@dataclass
class Bench:
    """Concepts whose readouts share their prompts, and these prompts run once up to where they are pushed."""

    prompts: tuple[str, ...]
    readouts: Readouts
    prefix: Prefix
    split: np.ndarray  # of the prompts: layer and alpha are chosen on 'validation', reported on 'test'
    positions: str  # where they are pushed

    @classmethod
    def of(cls, model: Model, concepts: Sequence[Concept], study: Study) -> list[Bench]:
        """As few benches as there are different sets of prompts, and judged readouts apart."""
        benches, judges = [], of_readouts(study, concepts)
        for group, readouts in written.by_prompts(model, concepts, judges, study.seed):
            prompts = tuple(case.prompt for case in group[0].readout.cases)
            positions, split = study.sweep.positions, prompt_split(prompts, study.seed)
            prefix = Prefix(model, prompts, readouts.branches, positions == "all")
            benches.append(cls(prompts, readouts, prefix, split, positions))
        return benches

    @staticmethod
    def by_readout(benches: Sequence[Bench]) -> dict[str, tuple[Bench, int]]:
        """Where each concept's readout stands: on which bench, and in which row of it."""
        return {name: (bench, row) for bench in benches for row, name in enumerate(bench.readouts.names)}

    @cached_property
    def gradients(self) -> tuple[Float[Tensor, "q l p t d"], Float[Tensor, "l p t d"]]:
        """Of every readout's log-odds, and where: one backward pass a readout serves all directions."""
        return self.prefix.gradients(self.readouts.log_odds, self.positions)

    def slopes(self, layer: int, arm: Arm, split: str | None = None, row: int | None = None) -> Float[Tensor, "q p k"]:
        """Of every readout, or one, at every prompt, or those of one split."""
        rows = slice(None) if row is None else [row]
        chosen = slice(None) if split is None else torch.from_numpy(self.split == split)
        gradients, states = self.gradients
        return local_slopes(gradients[rows, layer][:, chosen], states[layer, chosen], arm)
