"""Notebook 6's computation: every method, operator and cure at one checkpoint, compared at equal KL.

A strong push moves any readout; what tells ways of pushing apart is what they move for the same disturbance of neutral
text. So every candidate gets the strength at which KL there meets `sweep.kl_budget`, and steerability is the slope of
log-odds over alpha = −1, 0, 1 of that strength: nats gained for a push of the budget. Strengths are solved for on the
validation passages, layers chosen on the validation prompts; what is reported is of the test passages and prompts.
Null draws, isotropic and of every method on shuffled labels, get their layers and strengths in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float

from steerlib.concepts import Concept
from steerlib.model import Model
from steerlib.numerics import separability, statistics
from steerlib.numerics.methods import METHODS
from steerlib.stages.candidates import Candidate, Candidates
from steerlib.stages.interventions import Bench, off_target, own, selectivity
from steerlib.stages.pushes import side_effects
from steerlib.steering.arms import FIRST, Arm, dose_response, solve
from steerlib.steering.readouts import SideEffects
from steerlib.study import Study

ALPHAS = [-1.0, 0.0, 1.0]  # of the strength that meets the budget
CELL = ["candidate", "concept"]


def compare(model: Model, study: Study, concepts: Sequence[Concept]) -> xr.Dataset:
    """Schema `/instrument`: dims candidate, concept, readout_concept, draw."""
    effects = side_effects(model, study)
    benches = Bench.of(model, concepts, study)
    candidates = Candidates(model, study, concepts, benches)
    tried = list(candidates.all())
    kinds = {candidate.name: candidate.kind for candidate in tried}
    cells = _measured(tried, benches, effects, study)
    found = _summary(_arranged(tried, cells, list(kinds), candidates.names, benches), study)
    null = _null(candidates, benches, effects, study)
    found = found.assign(
        auroc=(CELL, _auroc(tried, candidates, list(kinds))),
        cosine_concepts=(["concept", "concept_b"], _cosines(candidates)),
    ).assign_coords(kind=("candidate", list(kinds.values())), concept_b=candidates.names)
    found = found.assign_coords(role=("concept", [concept.role for concept in concepts]))
    found = _with_p_values(found, null, study).assign_coords(reported=study.emergence.method)
    for name in ("steerability", "steerability_lower", "steerability_upper", "steerability_null", "selectivity"):
        found[name].attrs["units"] = "nat per push"
    found.interference.attrs["units"] = "nat per push"
    return found


def _measured(
    tried: Sequence[Candidate], benches: Sequence[Bench], effects: SideEffects, study: Study
) -> list[dict[str, np.ndarray]]:
    """Strength, log-odds and side effects of every candidate: those of one layer and operator side by side."""
    cells: list[dict[str, np.ndarray]] = [{} for _ in tried]
    for layer, rows, arm in _solved(tried, effects, study):
        values = {"strength": arm.strength.numpy()}
        for number, bench in enumerate(benches):
            values[f"log_odds {number}"] = _odds(bench, layer, arm, study)
        effect = dose_response(effects.prefix, effects.measure, layer, arm, ALPHAS, study.sweep.positions)
        effect = effect.masked_fill(arm.strength.isnan()[:, None], torch.nan)
        kl, nll = effect[torch.from_numpy(effects.split == "test")].mean(0).unbind(-1)
        values |= {"kl": kl[2].numpy(), "delta_nll": (nll[2] - nll[1]).numpy()}
        for k, row in enumerate(rows):
            cells[row] = {name: value[k] for name, value in values.items()}
    return cells


def _solved(tried: Sequence[Candidate], effects: SideEffects, study: Study) -> Iterator[tuple[int, list[int], Arm]]:
    """Candidates of one layer and operator as one arm, at the strengths that meet the budget: (layer, which, arm)."""
    groups: dict[tuple, list[int]] = {}
    for row, one in enumerate(tried):
        groups.setdefault((one.layer, one.arm.operator.name, tuple(one.arm.above)), []).append(row)
    for (layer, *_), rows in groups.items():
        arm = Arm.side_by_side([tried[row].arm for row in rows])
        strength = solve(effects, layer, arm, study.sweep.kl_budget, FIRST, study.sweep.positions)
        yield layer, rows, replace(arm, strength=torch.from_numpy(strength.astype(np.float32)))


def _odds(bench: Bench, layer: int, arm: Arm, study: Study) -> Float[np.ndarray, "k readout alpha prompt"]:
    """Log-odds of a bench's readouts on its test prompts."""
    found = dose_response(bench.prefix, bench.readouts.log_odds, layer, arm, ALPHAS, study.sweep.positions)
    # What no strength brings to the budget was not pushed, and has no effect at equal KL: not even none.
    found = found.masked_fill(arm.strength.isnan()[:, None], torch.nan)
    return found[torch.from_numpy(bench.split == "test")].permute(2, 3, 1, 0).numpy()


def _arranged(
    tried: Sequence[Candidate], cells, names: list[str], concepts: list[str], benches: Sequence[Bench]
) -> xr.Dataset:
    """Cells in their places; log-odds of prompts that a readout does not have are NaN."""
    shape = len(names), len(concepts)
    prompts = max(int((bench.split == "test").sum()) for bench in benches)
    odds = np.full((*shape, len(concepts), len(ALPHAS), prompts), np.nan, dtype=np.float32)
    found = {name: np.full(shape, np.nan, dtype=np.float32) for name in ("strength", "kl", "delta_nll", "chosen_layer")}
    for one, cell in zip(tried, cells, strict=True):
        at = names.index(one.name), one.concept
        found["chosen_layer"][at] = one.layer
        for name in ("strength", "kl", "delta_nll"):
            found[name][at] = cell[name]
        for number, bench in enumerate(benches):
            values = cell[f"log_odds {number}"]
            for readout, name in enumerate(bench.readouts.names):
                odds[at][concepts.index(name), :, : values.shape[-1]] = values[readout]
    return xr.Dataset(
        {
            "log_odds": ([*CELL, "readout_concept", "alpha", "prompt"], odds),
            **{name: (CELL, values) for name, values in found.items()},
        },
        {"candidate": names, "concept": concepts, "readout_concept": concepts, "alpha": ALPHAS},
    )


def _summary(found: xr.Dataset, study: Study) -> xr.Dataset:
    slopes = statistics.slope(found.log_odds, max(ALPHAS))
    interference, mine = slopes.mean("prompt"), own(slopes)
    bounds = [
        statistics.mean_interval(mine.sel(concept=c), "prompt", study.sweep.bootstrap, study.seed)
        for c in found.concept.values
    ]
    lower, upper = (xr.concat(side, found.concept) for side in zip(*bounds, strict=True))
    return found.drop_vars("log_odds").assign(
        steerability=own(interference),
        steerability_lower=lower.transpose(*CELL),
        steerability_upper=upper.transpose(*CELL),
        interference=interference,
        selectivity=selectivity(interference),
        off_target=off_target(interference),
    )


def _null(
    candidates: Candidates, benches: Sequence[Bench], effects: SideEffects, study: Study
) -> dict[str, np.ndarray]:
    """Slopes at equal KL of null draws on their concept's own readout: 'random' or a method -> (concept, draw)."""
    tried = list(candidates.nulls())
    slopes: dict[str, list[list[np.ndarray]]] = {}
    place = {name: (bench, r) for bench in benches for r, name in enumerate(bench.readouts.names)}
    for layer, rows, arm in _solved(tried, effects, study):
        ends = np.cumsum([0, *(len(tried[row].arm.strength) for row in rows)])
        for c, name in enumerate(candidates.names):
            # Each draw is read by its own concept alone.
            mine = [(row, np.arange(*ends[k : k + 2])) for k, row in enumerate(rows) if tried[row].concept == c]
            if not mine:
                continue
            bench, readout = place[name]
            odds = _odds(bench, layer, arm.pick(np.concatenate([which for _, which in mine])), study)[:, readout]
            mean = np.split(odds.mean(-1), np.cumsum([len(which) for _, which in mine])[:-1])
            for (row, _), values in zip(mine, mean, strict=True):
                by_concept = slopes.setdefault(tried[row].name, [[] for _ in candidates.names])
                by_concept[c].append((values[:, 2] - values[:, 0]) / (ALPHAS[2] - ALPHAS[0]))
    return {name: np.stack([np.concatenate(parts) for parts in rows]) for name, rows in slopes.items()}


def _with_p_values(found: xr.Dataset, null: dict[str, np.ndarray], study: Study) -> xr.Dataset:
    """Against isotropic draws, and against the method itself (for what is no method: the one reported) on shuffled
    labels; q-values over all candidates and concepts, of the larger of the two.

    A method that takes only its sign from the labels finds the same axis on shuffled ones: these are no null of it.
    """
    kinds = zip(found.candidate.values, found.kind.values, strict=True)
    of = [name if kind == "method" else study.emergence.method for name, kind in kinds]
    shuffled = np.stack([null[name] if METHODS[name].supervised else np.full_like(null[name], np.nan) for name in of])
    random = np.broadcast_to(null["random"], (len(shuffled), *null["random"].shape))
    value = found.steerability.transpose(*CELL).values
    p = {kind: statistics.exceedance(value, draws) for kind, draws in (("random", random), ("shuffled", shuffled))}
    return found.assign(
        p_random=(CELL, p["random"]),
        p_shuffled=(CELL, p["shuffled"]),
        q_value=(CELL, statistics.false_discovery(np.fmax(p["random"], p["shuffled"]))),
        steerability_null=([*CELL, "draw"], np.concatenate([random, shuffled], -1).astype(np.float32)),
    ).assign_coords(null=("draw", np.repeat(["random", "shuffled"], [random.shape[-1], shuffled.shape[-1]])))


def _auroc(tried: Sequence[Candidate], candidates: Candidates, names: list[str]) -> np.ndarray:
    """Held-out separability of every direction that is added, at its layer; NaN for other operators."""
    found = np.full((len(names), len(candidates.names)), np.nan, dtype=np.float32)
    for one in tried:
        if one.kind in ("method", "cure"):
            stimuli, states, _ = candidates.half(candidates.names[one.concept], "test")
            scores = states[one.layer] @ one.arm.operator.step[0].numpy()
            found[names.index(one.name), one.concept] = separability.auroc_by_fold(scores, stimuli.fold).mean()
    return found


def _cosines(candidates: Candidates) -> np.ndarray:
    """Of each concept's reported direction with those of the others at its layer: which pairs are close."""
    vectors, layers = candidates.reported
    return np.stack([vectors[layer] @ vectors[layer, c] for c, layer in enumerate(layers)])
