"""Notebook 6's computation: every method, operator and cure at one checkpoint, compared at equal KL.

A strong push moves any readout; what tells ways of pushing apart is what they move for the same disturbance of neutral
text. So every candidate gets the strength at which KL there meets `sweep.kl_budget`, and steerability is the slope of
log-odds over alpha = −1, 0, 1 of that strength: nats gained for a push of the budget. Strengths are solved for on the
validation passages, layers chosen on the validation prompts; what is reported is of the test passages and prompts.
Null draws, isotropic and of every method on shuffled labels, get their layers and strengths in the same way.
"""

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
from steerlib.stages.bench import Bench
from steerlib.stages.effects import own, selective, with_p_values
from steerlib.stages.interventions import nat, slopes_per
from steerlib.stages.probing import Half, ReadStimuli, residual_norm, seed_of
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
    """A way of pushing one concept: an arm of one variant at one layer."""

    name: str  # of a method its own; else with the kind before it, as there is a leace of every kind
    kind: str  # 'method', 'operator', 'cure', 'null'
    concept: int
    layer: int
    arm: Arm


class Candidates:
    """All candidates of one checkpoint. Layers are chosen on validation prompts, each direction's by itself."""

    def __init__(self, model: Model, study: Study, concepts: Sequence[Concept]):
        self.model, self.study, self.names = model, study, [concept.name for concept in concepts]
        self.layers = study.layers_of(model.n_layers)  # of all that stands by layer, those that are looked at
        self.effects, self.benches = side_effects(model, study), Bench.of(model, concepts, study)
        self.half, self.norm = ReadStimuli(model, concepts, study.seed), residual_norm(model, concepts)

    @cached_property
    def directions(self) -> dict[str, Vectors]:
        """Of the study's methods, and of all other serious ones that need no options."""
        methods = {method.name: method for method in self.study.probes.load_methods()}
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
        """Every name's for the first concept, the second and so on."""
        for name, vectors in self.directions.items():
            yield from self._along("method", name, vectors[:, :, :1])
        yield from self._operators()
        yield from self._cures()

    def nulls(self) -> Iterator[Candidate]:
        """Isotropic draws, then those of every method on shuffled labels: `instrument.draws` of every concept."""
        shuffled = {name: vectors[:, :, 1:] for name, vectors in self.directions.items()}
        for name, vectors in {"random": self._isotropic(), **shuffled}.items():
            yield from self._along("null", name, vectors)

    def choose(self, vectors: Vectors) -> Layers:
        """Where the exact slope of the concept's own readout is greatest on validation prompts."""
        slopes = np.einsum("lcrd,lcd->lcr", vectors[self.layers], self._gradient[self.layers])
        return np.array(self.layers)[slopes.argmax(0)]

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
            mean = bench.gradients[0][:, :, chosen].sum(3).mean(2).numpy()
            by_name |= dict(zip(bench.readouts.names, mean, strict=True))
        return np.stack([by_name[name] for name in self.names], 1) * self.norm[:, None, None]

    def _fit(self, method: Method) -> Vectors:
        """The true labelling first, then shuffled ones."""
        plan = self.study.instrument
        vectors = np.zeros((self.model.n_layers, len(self.names), 1 + plan.draws, self.model.hidden), dtype=np.float32)
        for c, (stimuli, states, _) in enumerate(self._fitting):
            pairs, seed = len(stimuli.positive), seed_of(self.study, self.names[c], "instrument")
            labels = np.concatenate([true_labels(pairs), shuffled_labels(pairs, plan.draws, seed)])
            for layer in self.layers:
                vectors[layer, c] = directions.fit(method, states[layer], labels, self.study.seed, layer).vector
        return vectors

    def _isotropic(self) -> Vectors:
        shape = self.study.instrument.draws, self.model.hidden
        seeds = [seed_of(self.study, "isotropic", layer) for layer in range(self.model.n_layers)]
        drawn = np.stack([directions.random_directions(*shape, seed) for seed in seeds])
        return np.repeat(drawn[:, None], len(self.names), axis=1).astype(np.float32)

    def _add(self, layer: int, vectors: Float[np.ndarray, "r d"]) -> Arm:
        return Arm(Add(torch.from_numpy(vectors * self.norm[layer])), torch.ones(len(vectors)))

    def _along(self, kind: str, name: str, vectors: Vectors, layers: Layers | None = None) -> Iterator[Candidate]:
        layers = self.choose(vectors) if layers is None else layers
        for c, r in np.ndindex(layers.shape):
            layer = int(layers[c, r])
            yield Candidate(name, kind, c, layer, self._add(layer, vectors[layer, c, r : r + 1]))

    def _operators(self) -> Iterator[Candidate]:
        """The other operators along the reported directions; and adding at all layers at once."""
        vectors, layers = self.reported
        for kind in [kind for kind in OPERATORS if kind != "add"]:  # which stands among the methods
            for c, layer in enumerate(map(int, layers)):
                operator = build(kind, vectors[layer, None, c : c + 1, None], [self._fitting[c].sides(layer)])
                yield Candidate(f"operator {kind}", "operator", c, layer, Arm(operator, torch.ones(1)))
        for c in range(len(self.names)):
            first, *above = (self._add(layer, vectors[layer, c : c + 1]) for layer in self.layers)
            at_once = {layer: arm.operator for layer, arm in zip(self.layers[1:], above, strict=True)}
            at = self.layers[0]
            yield Candidate("operator add, all layers", "operator", c, at, replace(first, above=at_once))

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
            yield from self._along("cure", f"cure {cure}", cured[:, :, None], layers[:, None])


# --- what they do -------------------------------------------------------------------------------------------------


def compare(model: Model, study: Study, concepts: Sequence[Concept]) -> xr.Dataset:
    """Schema `/instrument`: dims candidate, concept, readout_concept, draw."""
    candidates = Candidates(model, study, concepts)
    compared = _with_p_values(_measured(candidates), _null_slopes(candidates), study)
    vectors, layers = candidates.reported
    cosines = np.stack([vectors[layer] @ vectors[layer, c] for c, layer in enumerate(layers)])
    roles = [concept.role for concept in concepts]
    compared = compared.assign(cosine_concepts=(["concept", "concept_b"], cosines)).assign_coords(
        concept_b=candidates.names, role=("concept", roles), reported=study.emergence.method
    )
    return slopes_per("push", compared, nat(concepts))


def _measured(candidates: Candidates) -> xr.Dataset:
    """Strength, side effects and slopes of every candidate: those of one layer and operator run side by side."""
    tried, names, effects, study = list(candidates.all()), candidates.names, candidates.effects, candidates.study
    groups = []
    for layer, rows, arm in _solved(candidates, tried):
        doses = dose_response(effects.prefix, effects.measure, layer, arm, ALPHAS, study.sweep.positions)
        doses = doses.masked_fill(arm.strength.isnan()[:, None], torch.nan)
        tested = doses[torch.from_numpy(effects.split == "test")]
        kl, nll = tested.mean(0).unbind(-1)
        cells = {"strength": arm.strength, "kl": kl[2], "delta_nll": nll[2] - nll[1]}
        changes = xr.DataArray((tested[:, 2, :, 1] - tested[:, 1, :, 1]).numpy(), dims=["passage", "cell"])
        ends = statistics.mean_interval(changes, "passage", study.sweep.bootstrap, study.seed)
        cells |= {f"delta_nll_{end}": values.values for end, values in zip(("lower", "upper"), ends, strict=True)}
        group = xr.Dataset({name: ("cell", values) for name, values in cells.items()}, {"cell": rows})
        # Readouts that have fewer prompts than others are NaN there.
        odds = [_log_odds(bench, layer, arm, study.sweep.positions) for bench in candidates.benches]
        groups.append(group.assign(log_odds=xr.concat(odds, "readout_concept", join="outer")))
    measured = xr.concat(groups, "cell").sortby("cell").sel(readout_concept=names).drop_vars(["cell", "prompt"])
    measured["chosen_layer"] = "cell", np.array([candidate.layer for candidate in tried], dtype=np.float32)
    measured["auroc"] = "cell", np.array([candidates.auroc(candidate) for candidate in tried], dtype=np.float32)
    measured = measured.coarsen(cell=len(names)).construct(cell=CELL)
    first = tried[:: len(names)]
    kinds = "candidate", [candidate.kind for candidate in first]
    measured = measured.assign_coords(candidate=[candidate.name for candidate in first], concept=names, kind=kinds)
    slopes = statistics.slope(measured.log_odds, max(ALPHAS))
    interference = slopes.mean("prompt")
    # One readout at a time, as they may have prompts in different number.
    by_readout = (slopes.sel(readout_concept=[name]) for name in names)
    drawn = (statistics.means_over(of, "prompt", study.sweep.bootstrap, study.seed) for of in by_readout)
    resamples = xr.concat(drawn, "readout_concept")
    lower, upper = statistics.bounds(own(resamples.drop_vars("tokens")))
    selected = selective(interference, resamples)
    interference = interference.drop_vars("tokens")
    measured = measured.drop_vars("log_odds").assign(
        steerability=own(interference),
        steerability_lower=lower,
        steerability_upper=upper,
        interference=interference,
        **selected,
    )
    return measured.drop_vars("tokens")


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
    return xr.DataArray(values, coords, ["cell", *coords]).assign_coords(
        tokens=("readout_concept", bench.readouts.tokens)
    )


def _null_slopes(candidates: Candidates) -> xr.DataArray:
    """At equal KL, of null draws on their concept's own readout. A candidate is 'random', or a method's name."""
    tried = list(candidates.nulls())
    slopes, concept = np.empty(len(tried), dtype=np.float32), np.array([candidate.concept for candidate in tried])
    for layer, rows, arm in _solved(candidates, tried):
        for c in np.unique(concept[rows]):  # each draw is read by its own concept alone
            name, draws = candidates.names[c], np.flatnonzero(concept[rows] == c)
            bench = next(bench for bench in candidates.benches if name in bench.readouts.names)
            log_odds = _log_odds(bench, layer, arm.pick(draws), candidates.study.sweep.positions)
            mean = log_odds.sel(readout_concept=name).mean("prompt", skipna=False)
            slopes[np.array(rows)[draws]] = (mean[:, 2] - mean[:, 0]) / (ALPHAS[2] - ALPHAS[0])
    names = list(dict.fromkeys(candidate.name for candidate in tried))
    slopes = slopes.reshape(len(names), len(candidates.names), -1)
    return xr.DataArray(slopes, {"candidate": names}, [*CELL, "draw"])


def _with_p_values(compared: xr.Dataset, null: xr.DataArray, study: Study) -> xr.Dataset:
    """Against isotropic draws, and against the method itself (for what is no method: the one reported) on shuffled
    labels; q-values over all candidates and concepts, of the larger of the two.

    A method that takes only its sign from the labels finds the same axis on shuffled ones: these are no null of it.
    """
    methods = xr.where(compared.kind == "method", compared.candidate, study.emergence.method).values
    supervised = np.array([METHODS[name].supervised for name in methods])
    shuffled = np.where(supervised[:, None, None], null.sel(candidate=methods), np.float32(np.nan))
    random = np.broadcast_to(null.sel(candidate="random"), shuffled.shape)
    compared["steerability_null"] = [*CELL, "draw"], np.concatenate([random, shuffled], -1)
    kinds = np.repeat(["random", "shuffled"], study.instrument.draws)
    compared = with_p_values(compared.assign_coords(null=("draw", kinds)), compared.steerability)
    larger = np.fmax(compared.p_random, compared.p_shuffled)
    return compared.assign(q_value=larger.copy(data=statistics.false_discovery(larger.values)))
