"""Ways of pushing to be compared at one checkpoint: every method, every operator, every cure, and their nulls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int

from steerlib.concepts import Concept
from steerlib.model import Model
from steerlib.numerics import directions, erasure, orthogonal
from steerlib.numerics.labels import shuffled_labels, true_labels
from steerlib.numerics.methods import METHODS, Method, create
from steerlib.stages.interventions import Bench
from steerlib.stages.probing import read_stimuli, seed_of
from steerlib.steering.arms import Arm
from steerlib.steering.operators import OPERATORS, Add, Erase, LinearMap, build
from steerlib.study import Study

CURES = {
    "gram_schmidt": lambda v, states, labels: orthogonal.gram_schmidt(v),
    "whitened": lambda v, states, labels: orthogonal.whitened(v),
    "leace": orthogonal.leace_rest,
}
Vectors = Float[np.ndarray, "l c r d"]  # unit directions: layer, concept, the true one and null draws, hidden
Layers = Int[np.ndarray, "c r"]  # where each is pushed


@dataclass(frozen=True)
class Candidate:
    """A way of pushing one concept: an arm of one variant, or of many null draws, at one layer."""

    name: str  # of a method its own; else with the kind before it, as there is a leace of every kind
    kind: str  # 'method', 'operator', 'cure', 'null'
    concept: int
    layer: int
    arm: Arm


class Candidates:
    """All candidates of one checkpoint. Layers are chosen on validation prompts, each direction's by itself."""

    def __init__(self, model: Model, study: Study, concepts: Sequence[Concept], benches: Sequence[Bench]):
        self.model, self.study, self.names = model, study, [concept.name for concept in concepts]
        self.half, self.draws = read_stimuli(model, concepts, study.seed), study.instrument.draws
        prompts = list(dict.fromkeys(case.prompt for concept in concepts for case in concept.readout.cases))
        self.norm = model.read(prompts).states.norm(dim=-1).mean(1).numpy()
        self.gradient = self._gradient(benches)

    @cached_property
    def methods(self) -> list[Method]:
        """Those of the study, and all other serious ones that need no options."""
        mine = self.study.load_methods()
        there = {method.name for method in mine}
        free = [
            name
            for name, method in METHODS.items()
            if method.serious and not any(field.is_required() for field in method.model_fields.values())
        ]
        return [*mine, *(create(name) for name in free if name not in there)]

    @cached_property
    def found(self) -> dict[str, Vectors]:
        """Directions of every method."""
        return {method.name: self._fit(method) for method in self.methods}

    @cached_property
    def reported(self) -> tuple[Float[np.ndarray, "l c d"], Int[np.ndarray, " c"]]:
        """The directions that operators and cures are tried on, and their layers."""
        vectors = self.found[self.study.emergence.method]
        return vectors[:, :, 0], self.choose(vectors)[:, 0]

    def all(self) -> Iterator[Candidate]:
        for name, vectors in self.found.items():
            yield from self._along("method", name, vectors[:, :, 0], self.choose(vectors)[:, 0])
        yield from self._operators()
        yield from self._cures()

    def nulls(self) -> Iterator[Candidate]:
        """Isotropic draws, and every method on shuffled labels; draws of one layer stand in one arm."""
        for name, vectors in {"random": self._isotropic(), **{n: v[:, :, 1:] for n, v in self.found.items()}}.items():
            layers = self.choose(vectors)
            for c in range(len(self.names)):
                for layer in np.unique(layers[c]):
                    yield Candidate(
                        name, "null", c, int(layer), self._add(layer, vectors[layer, c, layers[c] == layer])
                    )

    def choose(self, vectors: Vectors) -> Layers:
        """Where the exact slope of the concept's own readout is greatest on validation prompts."""
        return np.einsum("lcrd,lcd->lcr", vectors, self.gradient).argmax(0)

    def sides(self, concept: int, layer: int) -> tuple[np.ndarray, np.ndarray]:
        """States of the fitting positives and negatives."""
        stimuli, states, _ = self.half(self.names[concept], "fit")
        return tuple(np.split(states[layer].astype(np.float64), [len(stimuli.positive)]))

    # --- how they are made -----------------------------------------------------------------------------------------

    def _gradient(self, benches: Sequence[Bench]) -> Float[np.ndarray, "l c d"]:
        """Of every concept's own readout, mean over validation prompts, for a push of one residual norm."""
        found = {}
        for bench in benches:
            chosen = torch.from_numpy(bench.split == "validation")
            mean = bench.gradients(self.study.sweep.positions)[:, :, chosen].sum(3).mean(2).numpy()
            found |= dict(zip(bench.readouts.names, mean, strict=True))
        return np.stack([found[name] for name in self.names], 1) * self.norm[:, None, None]

    def _fit(self, method: Method) -> Vectors:
        """The true labelling first, then shuffled ones."""

        def of_site(layer: int, c: int) -> np.ndarray:
            stimuli, states, _ = self.half(self.names[c], "fit")
            m, seed = len(stimuli.positive), seed_of(self.study, self.names[c], "instrument")
            labels = np.concatenate([true_labels(m), shuffled_labels(m, self.draws, seed)])
            return directions.fit(method, states[layer], labels, self.study.seed, layer).vector

        layers, concepts = range(self.model.n_layers), range(len(self.names))
        return np.array([[of_site(layer, c) for c in concepts] for layer in layers], dtype=np.float32)

    def _isotropic(self) -> Vectors:
        shape = self.draws, self.model.hidden
        seeds = (seed_of(self.study, "isotropic", layer) for layer in range(self.model.n_layers))
        drawn = np.stack([directions.random_directions(*shape, seed) for seed in seeds])[:, None]
        return np.broadcast_to(drawn, (len(drawn), len(self.names), *shape)).astype(np.float32)

    def _add(self, layer: int, vectors: Float[np.ndarray, "r d"]) -> Arm:
        return Arm(Add(torch.from_numpy(vectors * self.norm[layer])), torch.ones(len(vectors)))

    def _along(self, kind: str, name: str, vectors: np.ndarray, layers: np.ndarray) -> Iterator[Candidate]:
        for c, layer in enumerate(layers):
            yield Candidate(name, kind, c, int(layer), self._add(layer, vectors[layer, c : c + 1]))

    def _operators(self) -> Iterator[Candidate]:
        """The other operators along the reported directions; and adding at all layers at once."""
        vectors, layers = self.reported
        for kind in OPERATORS:
            for c, layer in enumerate(map(int, layers)):
                positive, negative = self.sides(c, layer)
                match kind:
                    case "add":  # stands among the methods
                        continue
                    case "leace":
                        z = np.repeat([1.0, 0.0], [len(positive), len(negative)])
                        eraser = erasure.leace(np.concatenate([positive, negative]), z)
                        # Sums over one column; over none, where the classes look the same and nothing is erased.
                        operator = Erase(*_tensors(eraser.left.sum(1), eraser.right.sum(0), eraser.mean))
                    case "linear_map":
                        operator = LinearMap(*_tensors(*erasure.gaussian_map(negative, positive)))
                    case _:
                        operator = build(kind, vectors[layer, None, c : c + 1, None], [(positive, negative)])
                yield Candidate(f"operator {kind}", "operator", c, layer, Arm(operator, torch.ones(1)))
        for c in range(len(self.names)):
            first, *above = (self._add(layer, vectors[layer, c : c + 1]) for layer in range(len(vectors)))
            at_once = {layer: arm.operator for layer, arm in enumerate(above, start=1)}
            yield Candidate("operator add, all layers", "operator", c, 0, Arm(first.operator, first.strength, at_once))

    def _cures(self) -> Iterator[Candidate]:
        """The reported directions made independent of the other concepts', at the same layers."""
        vectors, layers = self.reported
        halves = [self.half(name, "fit")[:2] for name in self.names]
        labels = np.zeros((sum(states.shape[1] for _, states in halves), len(self.names)))
        ends = np.cumsum([states.shape[1] for _, states in halves])
        for c, (end, (stimuli, states)) in enumerate(zip(ends, halves, strict=True)):
            m = len(stimuli.positive)
            labels[end - states.shape[1] : end, c] = np.repeat([1.0, -1.0], m)
        for cure in self.study.instrument.cures:
            cured = np.zeros_like(vectors)
            for layer in np.unique(layers):
                states = np.concatenate([states[layer] for _, states in halves]).astype(np.float64)
                cured[layer] = CURES[cure](vectors[layer].astype(np.float64), states, labels)
            yield from self._along("cure", f"cure {cure}", cured, layers)


def _tensors(*arrays: np.ndarray) -> tuple[torch.Tensor, ...]:
    """Each as an operator of one variant has it."""
    return tuple(torch.from_numpy(np.asarray(array, dtype=np.float32))[None] for array in arrays)
