"""Notebook 6's computation: every method, operator and cure at one checkpoint, compared at equal KL.

A strong push moves any readout; what tells ways of pushing apart is what they move for the same disturbance of neutral
text. So every candidate gets the strength at which KL there meets `sweep.kl_budget`, and steerability is the slope of
log-odds over alpha = −1, 0, 1 of that strength: nats gained for a push of the budget. Strengths are solved for on the
validation passages, layers chosen on the validation prompts; what is reported is of the test passages and prompts.
Null draws, isotropic and of every method on shuffled labels, get their layers and strengths in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from scipy.linalg import block_diag

from steerlib.concepts import Concept
from steerlib.model import Model
from steerlib.numerics import directions, erasure, separability, statistics
from steerlib.numerics.labels import shuffled_labels, true_labels
from steerlib.numerics.methods import METHODS, Method, create
from steerlib.stages.interventions import Bench, off_target, own, selectivity, slopes_per
from steerlib.stages.probing import Half, read_stimuli, residual_norm, seed_of
from steerlib.stages.pushes import side_effects
from steerlib.steering.arms import Arm, dose_response, solve
from steerlib.steering.operators import OPERATORS, Add, build
from steerlib.study import Study

ALPHAS = [-1.0, 0.0, 1.0]  # of the strength that meets the budget
CELL = ["candidate", "concept"]
CURES = {
    "gram_schmidt": lambda v, states, labels: erasure.gram_schmidt(v),
    "whitened": lambda v, states, labels: erasure.whitened(v),
    "leace": erasure.leace_rest,
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

    def __init__(self, model: Model, study: Study, concepts: Sequence[Concept]):
        self.model, self.study, self.names = model, study, [concept.name for concept in concepts]
        self.effects, self.benches = side_effects(model, study), Bench.of(model, concepts, study)
        self.half, self.norm = read_stimuli(model, concepts, study.seed), residual_norm(model, concepts)

    @cached_property
    def directions(self) -> dict[str, Vectors]:
        """Of the study's methods, and of all other serious ones that need no options."""
        methods = {method.name: method for method in self.study.load_methods()}
        for name, kind in METHODS.items():
            needs_options = any(field.is_required() for field in kind.model_fields.values())
            if kind.serious and name not in methods and not needs_options:
                methods[name] = create(name)
        return {name: self._fit(method) for name, method in methods.items()}

    @cached_property
    def reported(self) -> tuple[Float[np.ndarray, "l c d"], Int[np.ndarray, " c"]]:
        """The directions that operators and cures are tried on, and their layers."""
        vectors = self.directions[self.study.emergence.method]
        return vectors[:, :, 0], self.choose(vectors)[:, 0]

    def all(self) -> Iterator[Candidate]:
        for name, vectors in self.directions.items():
            yield from self._along("method", name, vectors[:, :, 0], self.choose(vectors)[:, 0])
        yield from self._operators()
        yield from self._cures()

    def nulls(self) -> Iterator[Candidate]:
        """Isotropic draws, and every method on shuffled labels; draws of one layer stand in one arm."""
        shuffled = {name: vectors[:, :, 1:] for name, vectors in self.directions.items()}
        for name, vectors in {"random": self._isotropic(), **shuffled}.items():
            layers = self.choose(vectors)
            for c in range(len(self.names)):
                for layer in map(int, np.unique(layers[c])):
                    arm = self._add(layer, vectors[layer, c, layers[c] == layer])
                    yield Candidate(name, "null", c, layer, arm)

    def choose(self, vectors: Vectors) -> Layers:
        """Where the exact slope of the concept's own readout is greatest on validation prompts."""
        return np.einsum("lcrd,lcd->lcr", vectors, self._gradient).argmax(0)

    def auroc(self, candidate: Candidate) -> float:
        """Held-out separability of a direction that is added, at its layer; NaN for other operators."""
        if candidate.kind not in ("method", "cure"):
            return np.nan
        stimuli, states, _ = self.half(self.names[candidate.concept], "test")
        scores = states[candidate.layer] @ candidate.arm.operator.step[0].numpy()
        return float(separability.auroc_by_fold(scores, stimuli.fold).mean())

    @cached_property
    def _fitting(self) -> list[Half]:
        """The half of every concept's stimuli that directions are fitted on."""
        return [self.half(name, "fit") for name in self.names]

    @cached_property
    def _gradient(self) -> Float[np.ndarray, "l c d"]:
        """Of every concept's own readout, mean over validation prompts, for a push of one residual norm."""
        by_name = {}
        for bench in self.benches:
            chosen = torch.from_numpy(bench.split == "validation")
            mean = bench.gradients(self.study.sweep.positions)[:, :, chosen].sum(3).mean(2).numpy()
            by_name |= dict(zip(bench.readouts.names, mean, strict=True))
        return np.stack([by_name[name] for name in self.names], 1) * self.norm[:, None, None]

    def _fit(self, method: Method) -> Vectors:
        """The true labelling first, then shuffled ones."""
        plan, layers = self.study.instrument, range(self.model.n_layers)
        vectors = np.empty((len(layers), len(self.names), 1 + plan.draws, self.model.hidden), dtype=np.float32)
        for c, (stimuli, states, _) in enumerate(self._fitting):
            pairs, seed = len(stimuli.positive), seed_of(self.study, self.names[c], "instrument")
            labels = np.concatenate([true_labels(pairs), shuffled_labels(pairs, plan.draws, seed)])
            for layer in layers:
                vectors[layer, c] = directions.fit(method, states[layer], labels, self.study.seed, layer).vector
        return vectors

    def _isotropic(self) -> Vectors:
        shape = self.study.instrument.draws, self.model.hidden
        seeds = [seed_of(self.study, "isotropic", layer) for layer in range(self.model.n_layers)]
        drawn = np.stack([directions.random_directions(*shape, seed) for seed in seeds])
        return np.repeat(drawn[:, None], len(self.names), axis=1).astype(np.float32)

    def _add(self, layer: int, vectors: Float[np.ndarray, "r d"]) -> Arm:
        return Arm(Add(torch.from_numpy(vectors * self.norm[layer])), torch.ones(len(vectors)))

    def _along(self, kind: str, name: str, vectors: np.ndarray, layers: np.ndarray) -> Iterator[Candidate]:
        for c, layer in enumerate(map(int, layers)):
            yield Candidate(name, kind, c, layer, self._add(layer, vectors[layer, c : c + 1]))

    def _operators(self) -> Iterator[Candidate]:
        """The other operators along the reported directions; and adding at all layers at once."""
        vectors, layers = self.reported
        for kind in [kind for kind in OPERATORS if kind != "add"]:  # which stands among the methods
            for c, layer in enumerate(map(int, layers)):
                operator = build(kind, vectors[layer, None, c : c + 1, None], [self._fitting[c].sides(layer)])
                yield Candidate(f"operator {kind}", "operator", c, layer, Arm(operator, torch.ones(1)))
        for c in range(len(self.names)):
            first, *above = (self._add(layer, vectors[layer, c : c + 1]) for layer in range(len(vectors)))
            at_once = {layer: arm.operator for layer, arm in enumerate(above, start=1)}
            yield Candidate("operator add, all layers", "operator", c, 0, replace(first, above=at_once))

    def _cures(self) -> Iterator[Candidate]:
        """The reported directions made independent of the other concepts', at the same layers."""
        vectors, layers = self.reported
        labels = (np.repeat([[1.0], [-1.0]], len(half.stimuli.positive), axis=0) for half in self._fitting)
        labels = block_diag(*labels)
        for cure in self.study.instrument.cures:
            cured = np.zeros_like(vectors)
            for layer in np.unique(layers):
                states = np.concatenate([half.states[layer] for half in self._fitting]).astype(np.float64)
                cured[layer] = CURES[cure](vectors[layer].astype(np.float64), states, labels)
            yield from self._along("cure", f"cure {cure}", cured, layers)


# --- what they do -------------------------------------------------------------------------------------------------


def compare(model: Model, study: Study, concepts: Sequence[Concept]) -> xr.Dataset:
    """Schema `/instrument`: dims candidate, concept, readout_concept, draw."""
    candidates = Candidates(model, study, concepts)
    compared = _with_p_values(_summary(_measured(candidates), study), _null_slopes(candidates), study)
    vectors, layers = candidates.reported
    cosines = np.stack([vectors[layer] @ vectors[layer, c] for c, layer in enumerate(layers)])
    roles = [concept.role for concept in concepts]
    compared = compared.assign(cosine_concepts=(["concept", "concept_b"], cosines)).assign_coords(
        concept_b=candidates.names, role=("concept", roles), reported=study.emergence.method
    )
    return slopes_per("push", compared)


def _measured(candidates: Candidates) -> xr.Dataset:
    """Strength, side effects and log-odds of every candidate: those of one layer and operator run side by side."""
    tried, effects, positions = list(candidates.all()), candidates.effects, candidates.study.sweep.positions
    groups = []
    for layer, rows, arm in _solved(candidates, tried):
        doses = dose_response(effects.prefix, effects.measure, layer, arm, ALPHAS, positions)
        doses = doses.masked_fill(arm.strength.isnan()[:, None], torch.nan)
        kl, nll = doses[torch.from_numpy(effects.split == "test")].mean(0).unbind(-1)
        cells = {
            "candidate": [tried[row].name for row in rows],
            "concept": [candidates.names[tried[row].concept] for row in rows],
            "kind": [tried[row].kind for row in rows],
            "strength": arm.strength,
            "kl": kl[2],
            "delta_nll": nll[2] - nll[1],
            "chosen_layer": np.full(len(rows), layer, dtype=np.float32),
            "auroc": np.array([candidates.auroc(tried[row]) for row in rows], dtype=np.float32),
        }
        group = xr.Dataset({name: ("cell", values) for name, values in cells.items()})
        # Readouts that have fewer prompts than others are NaN there.
        odds = [_log_odds(bench, layer, arm, positions) for bench in candidates.benches]
        groups.append(group.assign(log_odds=xr.concat(odds, "readout_concept", join="outer")))
    measured = xr.concat(groups, "cell").set_index(cell=CELL).unstack("cell")
    names = list(dict.fromkeys(candidate.name for candidate in tried))
    measured = measured.sel(candidate=names, concept=candidates.names, readout_concept=candidates.names)
    measured = measured.transpose(*CELL, "readout_concept", ...).drop_vars("prompt")
    return measured.assign_coords(kind=measured.kind.isel(concept=0, drop=True))


def _solved(candidates: Candidates, tried: Sequence[Candidate]) -> Iterator[tuple[int, list[int], Arm]]:
    """Candidates of one layer and operator as one arm, at the strengths that meet the budget: (layer, which, arm)."""
    groups: dict[tuple, list[int]] = {}
    for row, candidate in enumerate(tried):
        operator, above = candidate.arm.operator.name, tuple(candidate.arm.above)
        groups.setdefault((candidate.layer, operator, above), []).append(row)
    sweep = candidates.study.sweep
    for (layer, *_), rows in groups.items():
        arm = Arm.side_by_side([tried[row].arm for row in rows])
        strength = solve(candidates.effects, layer, arm, sweep.kl_budget, sweep.positions)
        yield layer, rows, replace(arm, strength=torch.from_numpy(strength.astype(np.float32)))


def _log_odds(bench: Bench, layer: int, arm: Arm, positions: str) -> xr.DataArray:
    """Of a bench's readouts on its test prompts: dims cell (a variant of the arm), readout_concept, alpha, prompt."""
    log_odds = dose_response(bench.prefix, bench.readouts.log_odds, layer, arm, ALPHAS, positions)
    # What no strength brings to the budget was not pushed, and has no effect at equal KL: not even none.
    log_odds = log_odds.masked_fill(arm.strength.isnan()[:, None], torch.nan)
    values = log_odds[torch.from_numpy(bench.split == "test")].permute(2, 3, 1, 0).numpy()
    coords = {"readout_concept": bench.readouts.names, "alpha": ALPHAS, "prompt": np.arange(values.shape[-1])}
    return xr.DataArray(values, coords, ["cell", *coords])


def _summary(measured: xr.Dataset, study: Study) -> xr.Dataset:
    slopes = statistics.slope(measured.log_odds, max(ALPHAS))
    interference, own_slopes = slopes.mean("prompt"), own(slopes)
    bounds = [
        statistics.mean_interval(own_slopes.sel(concept=c), "prompt", study.sweep.bootstrap, study.seed)
        for c in measured.concept.values
    ]
    lower, upper = (xr.concat(side, measured.concept) for side in zip(*bounds, strict=True))
    return measured.drop_vars("log_odds").assign(
        steerability=own(interference),
        steerability_lower=lower.transpose(*CELL),
        steerability_upper=upper.transpose(*CELL),
        interference=interference,
        selectivity=selectivity(interference),
        off_target=off_target(interference),
    )


def _null_slopes(candidates: Candidates) -> dict[str, Float[np.ndarray, "c draw"]]:
    """At equal KL, of null draws on their concept's own readout: those of 'random', and of every method."""
    tried, concepts = list(candidates.nulls()), candidates.names
    slopes = {candidate.name: [[] for _ in concepts] for candidate in tried}
    place = {name: (bench, k) for bench in candidates.benches for k, name in enumerate(bench.readouts.names)}
    for layer, rows, arm in _solved(candidates, tried):
        draws = [tried[row] for row in rows for _ in tried[row].arm.strength]
        for c, name in enumerate(concepts):
            # Each draw is read by its own concept alone.
            if not len(chosen := np.flatnonzero([draw.concept == c for draw in draws])):
                continue
            bench, readout = place[name]
            log_odds = _log_odds(bench, layer, arm.pick(chosen), candidates.study.sweep.positions)
            mean = log_odds.values[:, readout].mean(-1)
            for k, slope in zip(chosen, (mean[:, 2] - mean[:, 0]) / (ALPHAS[2] - ALPHAS[0]), strict=True):
                slopes[draws[k].name][c].append(slope)
    return {name: np.array(by_concept) for name, by_concept in slopes.items()}


def _with_p_values(compared: xr.Dataset, null: dict[str, np.ndarray], study: Study) -> xr.Dataset:
    """Against isotropic draws, and against the method itself (for what is no method: the one reported) on shuffled
    labels; q-values over all candidates and concepts, of the larger of the two.

    A method that takes only its sign from the labels finds the same axis on shuffled ones: these are no null of it.
    """
    kinds = zip(compared.candidate.values, compared.kind.values, strict=True)
    methods = [name if kind == "method" else study.emergence.method for name, kind in kinds]
    shuffled = np.stack([null[m] if METHODS[m].supervised else np.full_like(null[m], np.nan) for m in methods])
    random = np.broadcast_to(null["random"], (len(shuffled), *null["random"].shape))
    slopes = compared.steerability.transpose(*CELL).values
    p_random, p_shuffled = (statistics.exceedance(slopes, draws) for draws in (random, shuffled))
    return compared.assign(
        p_random=(CELL, p_random),
        p_shuffled=(CELL, p_shuffled),
        q_value=(CELL, statistics.false_discovery(np.fmax(p_random, p_shuffled))),
        steerability_null=([*CELL, "draw"], np.concatenate([random, shuffled], -1).astype(np.float32)),
    ).assign_coords(null=("draw", np.repeat(["random", "shuffled"], [random.shape[-1], shuffled.shape[-1]])))
