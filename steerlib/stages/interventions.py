"""Notebook 2's computation: pushing along every direction, method × concept × layer × alpha, on every readout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from steerlib.concepts import Concept, prompt_split
from steerlib.model import Model
from steerlib.model.prefix import Prefix
from steerlib.numerics import statistics
from steerlib.stages.probing import seed_of
from steerlib.stages.pushes import Pushes
from steerlib.steering.arms import Arm, dose_response
from steerlib.steering.operators import widened
from steerlib.steering.readouts import QUANTITIES, Readouts, SideEffects, measured
from steerlib.study import Study

UNDONE = 4  # prompts on which undoing is tried
GRID = ["method", "concept", "layer"]


@dataclass
class Bench:
    """Concepts whose readouts share their prompts, and these prompts run once up to where they are pushed."""

    readouts: Readouts
    prefix: Prefix
    few: Prefix  # the first of them again: enough to see that a push can be undone
    split: np.ndarray  # of the prompts: layer and alpha are chosen on 'validation', reported on 'test'

    @classmethod
    def of(cls, model: Model, concepts: Sequence[Concept], study: Study) -> list[Bench]:
        """As few benches as there are different sets of prompts."""
        by_prompts: dict[tuple[str, ...], list[Concept]] = {}
        for concept in concepts:
            by_prompts.setdefault(tuple(case.prompt for case in concept.readout.cases), []).append(concept)
        benches = []
        for prompts, group in by_prompts.items():
            readouts = Readouts.of(model, group)
            whole = study.sweep.positions == "all"
            prefix, few = (
                Prefix(model, prompts[:count], readouts.branches[:count], whole) for count in (len(prompts), UNDONE)
            )
            benches.append(cls(readouts, prefix, few, prompt_split(len(prompts), study.seed)))
        return benches

    def gradients(self, positions: str) -> Float[Tensor, "q l p t d"]:
        """Gradient of every readout with respect to every state that is pushed (0 at the other tokens)."""
        log_odds = [
            lambda final, k=k: self.readouts.log_odds(final[:, None])[..., k] for k in range(len(self.readouts.names))
        ]
        return self.prefix.gradients(log_odds) * self.prefix.pushed_tokens(positions)[..., None].cpu()


def sweep(model: Model, study: Study, concepts: Sequence[Concept], probes: xr.Dataset) -> xr.Dataset:
    """All that pushing does at one checkpoint: schema `/interventions`."""
    pushes = Pushes(model, study, concepts, probes)
    real = [pushes.real(layer) for layer in range(model.n_layers)]
    null = [pushes.null(layer) for layer in range(model.n_layers)]
    axes = {name: probes[name] for name in GRID}
    parts = []
    for bench in Bench.of(model, concepts, study):
        part = _swept(bench, real, axes, study)
        parts.append(part.merge(_local(bench, real, null, axes, study)))
    whole = xr.concat(parts, "readout_concept", join="outer").sel(readout_concept=probes.concept.values)
    whole = whole.assign_coords(null=probes.null)
    strengths = xr.Dataset({"strength": (["layer", "method", "concept"], _grid([arm.strength for arm in real], axes))})
    found = _summarise(whole, study).merge(_side_effects(pushes.effects, real, axes, study)).merge(strengths)
    found = found.merge(_chosen_alpha(found, study))
    order = [*GRID, "alpha", "readout_concept", "prompt", "draw"]
    coords = {name: probes[name] for name in ("role", "planted_frequency")}
    return units(found.assign_coords(coords).transpose(*order, missing_dims="ignore"), study)


def alpha_unit(study: Study) -> str:
    """What alpha counts."""
    operator, scale = study.sweep.operator, study.sweep.scale
    if scale == "iso_kl":
        return f"push of {study.sweep.kl_budget:g} nat"
    if operator == "add":
        return {"residual_norm": "residual norm", "projection_std": "projection SD", "raw": "raw length"}[scale]
    return "radian" if operator == "rotate" else "whole"


def units(dataset: xr.Dataset, study: Study) -> xr.Dataset:
    """Slopes are per unit of alpha, whatever that is in this study."""
    unit = alpha_unit(study)
    for name, variable in dataset.data_vars.items():
        if name.startswith(("steerability", "interference", "local_slope", "selectivity")):
            variable.attrs["units"] = f"nat per {unit}"
    dataset.alpha.attrs = {"long_name": "alpha", "units": unit}
    return dataset


def _grid(per_layer: Sequence[Tensor], axes: dict[str, xr.DataArray], at: int = 0) -> np.ndarray:
    """Values of every layer's K variants, with the axis K (at ``at``) parted into methods × concepts (× draws)."""
    shape = [axes["method"].size, axes["concept"].size]
    return torch.stack([values.unflatten(at, shape) for values in per_layer]).numpy()


def _swept(bench: Bench, real: Sequence[Arm], axes: dict[str, xr.DataArray], study: Study) -> xr.Dataset:
    """Log-odds, margins and undo error at every cell of the grid."""
    names, prefix, positions = bench.readouts.names, bench.prefix, study.sweep.positions
    alphas = study.sweep.alphas
    doses = [
        dose_response(prefix, bench.readouts.measure, layer, arm, alphas, positions) for layer, arm in enumerate(real)
    ]
    undone = [_undo_error(bench, layer, arm, max(alphas), positions) for layer, arm in enumerate(real)]
    dims = ["layer", "prompt", "alpha", "method", "concept", "readout_concept"]
    values = _grid(doses, axes, at=2)
    coords = {
        "prompt": np.arange(values.shape[1]),
        "alpha": list(alphas),
        "layer": axes["layer"].values,
        "method": axes["method"].values,
        "concept": axes["concept"].values,
        "readout_concept": names,
    }
    found = {name: (dims, values[..., k :: len(QUANTITIES)]) for k, name in enumerate(QUANTITIES)}
    found["split"] = (["readout_concept", "prompt"], np.tile(bench.split, (len(names), 1)))
    undo = np.repeat(_grid(undone, axes)[None], len(names), 0)
    whole = xr.Dataset({**found, "undo_error": (["readout_concept", *dims[:1], *dims[3:5]], undo)}, coords)
    slopes = statistics.slope(whole.log_odds, study.sweep.window).isel(prompt=bench.split == "test")
    lower, upper = statistics.mean_interval(
        slopes, "prompt", study.sweep.bootstrap, seed_of(study, "interference", *names)
    )
    return whole.assign(interference_lower=lower, interference_upper=upper)


def _undo_error(bench: Bench, layer: int, arm: Arm, alpha: float, positions: str) -> Float[Tensor, " k"]:
    """Largest change of a log-odds after the push and then its opposite; only ``add`` has one, others are taken off."""
    there, back = (1.0, -1.0) if arm.operator.name == "add" else (0.0, 0.0)

    def change(state: Tensor, rows: np.ndarray) -> Tensor:
        pushing = arm.pick(rows)
        return pushing.at(back * alpha)(pushing.at(there * alpha)(state))

    finals = bench.few.finish({layer: change}, len(arm.strength), positions)
    log_odds = bench.readouts.of_first(UNDONE).log_odds
    undone, unsteered = (measured(log_odds, one) for one in (finals, [bench.few.final[:, None]]))
    return (undone - unsteered).abs().amax((0, 2))


def _local(
    bench: Bench, real: Sequence[Arm], null: Sequence[Arm], axes: dict[str, xr.DataArray], study: Study
) -> xr.Dataset:
    """Exact slopes at alpha = 0, of the directions and of all null draws, from one backward pass a readout."""
    gradients = bench.gradients(study.sweep.positions)
    dims, methods = ["layer", "readout_concept", "method", "concept"], axes["method"].values
    at = {"layer": axes["layer"].values, "concept": axes["concept"].values}
    known = study.probes.names
    split = {name: torch.from_numpy(bench.split == name) for name in ("test", "validation")}
    of_real, of_null = {}, {}
    for name, chosen in split.items():
        states = [widened(state.cpu()[chosen]) for state in bench.prefix.states]
        slopes = [local_slopes(gradients[:, k, chosen], states[k], arm) for k, arm in enumerate(real)]
        of_real[name] = xr.DataArray(_grid(slopes, axes, at=1), {**at, "method": methods}, dims)
        slopes = [local_slopes(gradients[:, k, chosen], states[k], arm) for k, arm in enumerate(null)]
        # A draw without a strength was not pushed: it is no draw of the null, not one that did nothing.
        slopes = [found.masked_fill(arm.strength.isnan(), torch.nan) for found, arm in zip(slopes, null, strict=True)]
        shape = [len(known), axes["concept"].size, -1]
        drawn = torch.stack([values.unflatten(1, shape) for values in slopes]).numpy()
        of_null[name] = xr.DataArray(drawn, {**at, "method": known}, [*dims, "draw"]).reindex({"method": methods})
    return xr.Dataset(
        {
            "local_slope": of_real["test"],
            "interference_null": of_null["test"],
            "interference_null_validation": of_null["validation"],
        },
        {"readout_concept": bench.readouts.names},
    )


def local_slopes(
    gradients: Float[Tensor, "q p t d"], states: Float[Tensor, "p t d"], arm: Arm, chunk: int = 512
) -> Float[Tensor, "q k"]:
    """⟨gradient, tangent⟩ summed over tokens, mean over prompts: the limit of every readout's slope at alpha → 0."""
    found, mean = [], gradients.sum(2).mean(1)
    for start in range(0, len(arm.strength), chunk):
        rows = np.arange(start, min(start + chunk, len(arm.strength)))
        tangent = arm.pick(rows).tangent(states[:, None])
        if tangent.dim() == 3:  # the same at every state
            found.append(mean @ tangent[:, 0].T)
        else:
            found.append(torch.einsum("qptd,pktd->qk", gradients, tangent) / len(states))
    return torch.cat(found, 1)


def own(values: xr.DataArray) -> xr.DataArray:
    """Each concept on its own readout: the diagonal of concept × readout_concept."""
    same = xr.DataArray(values.concept.values, dims="concept")
    diagonal = values.sel(concept=same, readout_concept=same).drop_vars("readout_concept")
    return diagonal.assign_coords(concept=values.concept)


def selectivity(interference: xr.DataArray) -> xr.DataArray:
    """S[c, c] − mean over c′ ≠ c of |S[c, c′]|: how much more a push moves its own readout than the others."""
    return own(interference) - off_target(interference)


def off_target(interference: xr.DataArray) -> xr.DataArray:
    """mean over c′ ≠ c of |S[c, c′]|: how much a push moves readouts that are not its own."""
    others = abs(interference).where(interference.concept != interference.readout_concept)
    return others.mean("readout_concept")


def _summarise(whole: xr.Dataset, study: Study) -> xr.Dataset:
    """Slopes over the linear window; validation prompts are there to choose by, test prompts to report."""
    slopes = statistics.slope(whole.log_odds, study.sweep.window)
    test, validation = whole.split == "test", whole.split == "validation"
    interference = slopes.where(test).mean("prompt")
    mine, mine_at_test = own(slopes), own(slopes.where(test))
    steerability, null = own(interference), own(whole.interference_null)
    margin, normalised = own(whole.margin), own(whole.margin_normalised)
    found = {
        "log_odds": whole.log_odds,
        "margin": margin,
        "steerability": steerability,
        "steerability_lower": own(whole.interference_lower),
        "steerability_upper": own(whole.interference_upper),
        "steerability_validation": own(slopes.where(validation).mean("prompt")),
        "steerability_null": null,
        "steerability_null_validation": own(whole.interference_null_validation),
        "local_slope": own(whole.local_slope),
        "anti_steerable": (mine_at_test < 0).where(mine_at_test.notnull()).mean("prompt"),
        "monotonicity": statistics.monotonicity(own(whole.log_odds.where(test))).mean("prompt"),
        "interference": interference,
        "interference_lower": whole.interference_lower,
        "interference_upper": whole.interference_upper,
        "interference_null": whole.interference_null,
        "selectivity": selectivity(interference),
        "success_rate": _rate(margin, of_split(whole, "test", mine)),
        "undo_error": whole.undo_error.max("readout_concept"),
    }
    if bool(normalised.notnull().any()):
        found["margin_normalised"] = normalised
        found["success_rate_normalised"] = _rate(normalised, of_split(whole, "test", mine))
    for kind in ("random", "shuffled"):
        drawn = null.isel(draw=(null["null"] == kind).values).transpose(*GRID, "draw")
        found[f"p_{kind}"] = (GRID, statistics.exceedance(steerability.transpose(*GRID).values, drawn.values))
    return xr.Dataset(found, {"split": whole.split})


def of_split(whole: xr.Dataset, split: str, like: xr.DataArray) -> xr.DataArray:
    """Which prompts of each concept's own readout are of a split, (concept, prompt)."""
    return (whole.split == split).rename(readout_concept="concept").sel(concept=like.concept.values)


def _rate(margin: xr.DataArray, chosen: xr.DataArray) -> xr.DataArray:
    """Share of the chosen prompts at which the margin is positive: a target beats every foil, the answer is right."""
    return (margin > 0).where(chosen & margin.notnull()).mean("prompt")


def _side_effects(effects: SideEffects, real: Sequence[Arm], axes: dict[str, xr.DataArray], study: Study) -> xr.Dataset:
    """KL and NLL of the next token of neutral passages, at every cell of the grid."""
    cells = [
        dose_response(effects.prefix, effects.measure, layer, arm, study.sweep.alphas, study.sweep.positions)
        for layer, arm in enumerate(real)
    ]
    values, dims = _grid(cells, axes, at=2), ["layer", "passage", "alpha", "method", "concept", "effect"]
    by_passage = xr.DataArray(values, dims=dims)
    test, validation = (by_passage[:, effects.split == split].mean("passage") for split in ("test", "validation"))
    kl, nll = test.isel(effect=0), test.isel(effect=1)
    unsteered = nll.isel(alpha=study.sweep.alphas.index(0.0))
    return xr.Dataset({"kl": kl, "nll": nll, "delta_nll": nll - unsteered, "kl_validation": validation.isel(effect=0)})


def _chosen_alpha(found: xr.Dataset, study: Study) -> xr.Dataset:
    """The positive alpha of greatest gain on validation prompts whose KL on validation passages is within budget.

    NaN where no positive alpha is within it. What is gained there is reported of test prompts.
    """
    gains = {}
    for split in ("validation", "test"):
        mine = own(found.log_odds).where(of_split(found, split, found.steerability)).mean("prompt")
        gains[split] = (mine - mine.sel(alpha=0)).transpose(*GRID, "alpha")
    kl = found.kl_validation.transpose(*GRID, "alpha").values
    alphas = found.alpha.values
    allowed = (alphas > 0) & (kl <= study.sweep.kl_budget)
    chosen, index = statistics.best_within(gains["validation"].values, allowed, alphas)
    gained = np.take_along_axis(gains["test"].values, index.clip(0)[..., None], -1)[..., 0]
    return xr.Dataset({"chosen_alpha": (GRID, chosen), "chosen_gain": (GRID, np.where(index >= 0, gained, np.nan))})
