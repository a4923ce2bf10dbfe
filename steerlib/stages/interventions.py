"""Notebook 2's computation: pushing along every direction, method × concept × layer × alpha, on every readout.

Slopes at alpha 0 come first: one backward pass a readout gives those of all directions at all layers, nulls included.
By these each direction gets its layer, and there, and at its neighbours (`sweep.neighbours`), it is pushed in earnest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from steerlib.concepts import Concept
from steerlib.model import Model, Prefix
from steerlib.numerics import statistics
from steerlib.stages import effects
from steerlib.stages.bench import Bench
from steerlib.stages.probing import NULLS, seed_of
from steerlib.stages.pushes import Pushes
from steerlib.steering.arms import Arm, Measure, dose_response
from steerlib.steering.operators import OPERATORS
from steerlib.steering.readouts import QUANTITIES, measured
from steerlib.study import Study

UNDONE = 4  # prompts on which undoing is tried
GRID = ["probe", "concept", "layer"]
# What a length is counted in.
SCALES = {"residual_norm": "residual norm", "projection_std": "projection SD", "raw": "raw length"}


def sweep(model: Model, study: Study, concepts: Sequence[Concept], probes: xr.Dataset) -> xr.Dataset:
    """All that pushing does at one checkpoint: schema `/interventions`.

    What was pushed nowhere near its layer is NaN there, but for its slopes at alpha 0 and the unsteered model.
    """
    pushes, benches = Pushes(model, study, concepts, probes), Bench.of(model, concepts, study)
    swept = effects.against_nulls(pushed(benches, pushes, exact(benches, pushes)), study)
    swept = swept.merge(effects.chosen_alpha(swept, swept.kl_validation <= study.sweep.kl_budget))
    swept = swept.assign_coords({name: probes[name] for name in ("role", "planted_frequency")})
    order = [*GRID, "alpha", "readout_concept", "prompt", "draw", "refit", "deal"]
    swept = slopes_per(alpha_unit(study), swept.transpose(*order, missing_dims="ignore"), nat(concepts))
    swept.alpha.attrs = {"long_name": "alpha", "units": alpha_unit(study)}
    return swept


def exact(benches: Sequence[Bench], pushes: Pushes) -> xr.Dataset:
    """All slopes at alpha 0: `local`, and `repeated`, by which the analysis chooses the layer of its method."""
    slopes, again = local(benches, pushes), repeated(benches, pushes)
    analysed = slopes["probe"] == pushes.study.emergence.method
    by_analysis = xr.where(analysed, again.local_slope_validation, slopes.local_slope_validation)
    return slopes.merge(again.drop_vars("local_slope_validation")).assign(local_slope_validation=by_analysis)


def local(benches: Sequence[Bench], pushes: Pushes) -> xr.Dataset:
    """Exact slopes of every readout at alpha 0, along all directions and all of their null draws, at every layer."""
    found: dict[str, list[Tensor]] = {}
    for layer, real in pushes.reals.items():
        null = pushes.null(layer)
        for name, arm, split in (
            ("local_slope", real, "test"),
            ("local_slope_validation", real, "validation"),
            ("interference_null", null, "test"),
            ("interference_null_validation", null, "validation"),
        ):
            slopes = torch.cat([bench.slopes(layer, arm, split).mean(1) for bench in benches])
            found.setdefault(name, []).append(slopes)
    cells = {
        name: _cells(of, ["readout_concept", "variant"], pushes.probes, draws="null" in name)
        for name, of in found.items()
    }
    read, names = [name for bench in benches for name in bench.readouts.names], [one.name for one in pushes.concepts]
    slopes = xr.Dataset(cells).assign_coords(readout_concept=read).sel(readout_concept=names)
    slopes["local_slope_validation"] = effects.own(slopes.local_slope_validation)
    return slopes.assign_coords(null=pushes.probes.null)


def pushed(benches: Sequence[Bench], pushes: Pushes, slopes: xr.Dataset) -> xr.Dataset:
    """What pushing does, each direction at the layers near that of its greatest slope; and these ``slopes``."""
    probes, study, names = pushes.probes, pushes.study, [concept.name for concept in pushes.concepts]
    layers, parts = effects.pushed_layer(slopes), []
    near = effects.near(layers, probes, study)
    for bench in benches:
        beside = effects.beside(layers, bench.readouts.names, probes, study)
        parts.append(_at_prompts(bench, _only(near | beside, pushes), pushes))
    whole = xr.concat(parts, "readout_concept", join="outer").sel(readout_concept=names)
    swept = effects.summarise(whole.merge(slopes), study).merge(_side_effects(_only(near, pushes), pushes))
    return swept.assign(strength=_cells([arm.strength for arm in pushes.reals.values()], ["variant"], probes))


def _only(where: xr.DataArray, pushes: Pushes) -> dict[int, Arm]:
    """The arm of every layer, in which what is not pushed there has no strength."""
    by_layer = torch.from_numpy(where.transpose("layer", "probe", "concept").values).flatten(1)
    arms = zip(pushes.reals.items(), by_layer, strict=True)
    return {layer: replace(arm, strength=arm.strength.where(here, torch.nan)) for (layer, arm), here in arms}


def alpha_unit(study: Study) -> str:
    """What alpha counts."""
    if study.sweep.scale == "iso_kl":
        return f"push of {study.sweep.kl_budget:g} nat KL"
    counts = OPERATORS[study.sweep.operator].counts
    return SCALES[study.sweep.scale] if counts == "length" else counts


def nat(concepts: Sequence[Concept]) -> str:
    """What log-odds are counted in: of readouts that are texts, nat per token."""
    texts = [bool(concept.readout.texts) for concept in concepts]
    return "nat per token" if all(texts) else "nat, of texts per token" if any(texts) else "nat"


def slopes_per(unit: str, dataset: xr.Dataset, counted: str) -> xr.Dataset:
    """Log-odds are in what they are ``counted`` in, slopes per unit of alpha, whatever that is.

    What is summed over readouts is of whole texts.
    """
    for name, variable in dataset.data_vars.items():
        if name in ("log_odds", "margin", "margin_random", "chosen_gain"):
            variable.attrs["units"] = counted
        elif name.startswith(("steerability", "interference", "local_slope", "slope")):
            variable.attrs["units"] = f"{counted}{',' * (',' in counted)} per {unit}"
        elif name.startswith(("selectivity", "off_target")):
            variable.attrs["units"] = f"nat per {unit}"
    return dataset


def _cells(per_layer: Sequence[Tensor], dims: Sequence[str], probes: xr.Dataset, draws: bool = False) -> xr.DataArray:
    """Every layer's values, with the axis "variant" parted into method and concept; for nulls also ``draws``."""
    # Nulls are those of the methods that have them, which come first.
    methods = probes.probe[: -len(NULLS)] if draws else probes.probe
    at, sizes = 1 + dims.index("variant"), (len(methods), probes.sizes["concept"], -1)
    values = torch.stack(list(per_layer)).unflatten(at, sizes).numpy()
    coords = {"layer": probes.layer.values, "probe": methods.values, "concept": probes.concept.values}
    cells = xr.DataArray(values, coords, ["layer", *dims[: at - 1], "probe", "concept", "draw", *dims[at:]])
    return cells.reindex(probe=probes.probe.values) if draws else cells.isel(draw=0)


def _at_prompts(bench: Bench, arms: Mapping[int, Arm], pushes: Pushes) -> xr.Dataset:
    """Log-odds, margins and undo error at every cell of the grid, of the readouts of some prompts."""
    names, test, study, probes = bench.readouts.names, bench.split == "test", pushes.study, pushes.probes
    measures = _doses(bench.prefix, bench.readouts.measure, arms, ["prompt", "readout_concept"], pushes)
    swept = xr.Dataset(
        {name: measures[..., k :: len(QUANTITIES)] for k, name in enumerate(QUANTITIES)},
        {
            "prompt": np.arange(len(test)),
            "readout_concept": names,
            "tokens": ("readout_concept", bench.readouts.tokens),
        },
    )
    swept["split"] = ["readout_concept", "prompt"], np.tile(bench.split, (len(names), 1))
    undone = _cells(_undo_errors(bench, arms, study), ["variant"], probes)
    swept["undo_error"] = undone.expand_dims(readout_concept=names)
    slopes = statistics.slope(swept.log_odds, study.sweep.window).isel(prompt=test)
    seed = seed_of(study, "interference", *names)
    resamples = statistics.means_over(slopes, "prompt", study.sweep.bootstrap, seed)
    lower, upper = statistics.bounds(resamples)
    return swept.assign(interference_lower=lower, interference_upper=upper, resamples=resamples)


def repeated(benches: Sequence[Bench], pushes: Pushes) -> xr.Dataset:
    """Exact slopes along all that the analysis' method finds: of every refit at every prompt, and of every deal.

    One layer of one concept at a time, as its directions are many. Concepts may have prompts and refits in different
    number: those that one lacks are NaN.
    """
    by_readout = Bench.by_readout(benches)
    parts = []
    for concept in pushes.concepts:
        bench, row = by_readout[concept.name]
        by_layer: list[tuple[Tensor, ...]] = []
        for layer in pushes.reals:
            refits, deals = pushes.refits(layer, concept), pushes.deals(layer, concept)
            shuffled = torch.cat([each.slopes(layer, deals, "test").mean(1) for each in benches])
            validation = bench.slopes(layer, deals, "validation", row)[0].mean(0)
            by_layer.append((bench.slopes(layer, refits, row=row)[0], shuffled, validation))
        slopes, shuffled, validation = (torch.stack(values) for values in zip(*by_layer, strict=True))
        of_all = slopes[:, torch.from_numpy(bench.split == "validation"), 0].float().double()
        cells = {
            "local_slope_validation": ("layer", of_all.mean(1)),
            "slope": (["layer", "prompt", "refit"], slopes),
            "interference_shuffled": (["layer", "readout_concept", "deal"], shuffled),
            "steerability_shuffled_validation": (["layer", "deal"], validation),
        }
        numbers = {"layer": [*pushes.reals], "prompt": np.arange(slopes.shape[1]), "refit": np.arange(slopes.shape[2])}
        parts.append(xr.Dataset(cells, {**numbers, "readout_concept": list(by_readout)}).astype(np.float32))
    names = pushes.probes.concept.values
    repeated = xr.concat(parts, "concept", join="outer").drop_vars("refit")
    return repeated.assign_coords(concept=names).sel(readout_concept=names)


def _doses(
    prefix: Prefix, measure: Measure, arms: Mapping[int, Arm], dims: Sequence[str], pushes: Pushes
) -> xr.DataArray:
    """Measures at every cell of the grid and every alpha, by ``dims``: the prompts' and the measures'.

    Of what has no strength nothing is run, and nothing is known but the unsteered model.
    """
    alphas, positions = np.array(pushes.study.sweep.alphas), pushes.study.sweep.positions
    unsteered, doses = measured(measure, [prefix.final[:, None]])[:, None], []
    for layer, arm in arms.items():
        there = np.flatnonzero(arm.strength.isfinite())
        found = unsteered.repeat(1, len(alphas), len(arm.strength), 1)
        found[:, alphas != 0] = torch.nan
        if len(there):
            found[:, :, there] = dose_response(prefix, measure, layer, arm.pick(there), alphas.tolist(), positions)
        doses.append(found)
    return _cells(doses, [dims[0], "alpha", "variant", dims[1]], pushes.probes).assign_coords(alpha=alphas)


def _undo_errors(bench: Bench, arms: Mapping[int, Arm], study: Study) -> list[Float[Tensor, " k"]]:
    """Of every layer, the largest change of a log-odds after a push and then its opposite, seen on a few prompts.

    Only ``add`` has an opposite; others are taken off. NaN of what is not pushed.
    """
    positions, readouts = study.sweep.positions, bench.readouts.pick(range(len(bench.prompts[:UNDONE])))
    few = Prefix(bench.prefix.model, bench.prompts[:UNDONE], readouts.branches, positions == "all")
    unsteered, errors = measured(readouts.log_odds, [few.final[:, None]]), []
    for layer, arm in arms.items():
        alpha = max(study.sweep.alphas) if arm.operator.name == "add" else 0.0
        there, found = np.flatnonzero(arm.strength.isfinite()), torch.full_like(arm.strength, torch.nan)
        tried = arm.pick(there)

        def change(state: Tensor, rows: np.ndarray, tried: Arm = tried, alpha: float = alpha) -> Tensor:
            pushing = tried.pick(rows)
            return pushing.at(-alpha)(pushing.at(alpha)(state))

        if len(there):
            undone = measured(readouts.log_odds, few.finish({layer: change}, len(there), positions))
            found[there] = (undone - unsteered).abs().amax((0, 2)).to(found)
        errors.append(found)
    return errors


def _side_effects(arms: Mapping[int, Arm], pushes: Pushes) -> xr.Dataset:
    """KL and NLL of the next token of neutral passages, at every cell of the grid, with intervals over passages."""
    on, plan = pushes.effects, pushes.study.sweep
    by_passage = _doses(on.prefix, on.measure, arms, ["passage", "effect"], pushes)
    of_test, of_validation = (by_passage[:, on.split == split] for split in ("test", "validation"))
    kl, nll = of_test.mean("passage").transpose("effect", ...)
    found = {"kl": kl, "nll": nll, "delta_nll": nll - nll.sel(alpha=0, drop=True)}
    found["kl_validation"] = of_validation.isel(effect=0).mean("passage")
    for end, of in (("", of_test), ("_validation", of_validation)):
        change = of - of.sel(alpha=0, drop=True)
        for name, values in (("kl", of.isel(effect=0)), ("delta_nll", change.isel(effect=1))):
            ends = statistics.mean_interval(values, "passage", plan.bootstrap, seed_of(pushes.study, "passages"))
            found |= dict(zip((f"{name}{end}_lower", f"{name}{end}_upper"), ends, strict=True))
    return xr.Dataset(found).drop_vars(["kl_validation_lower", "delta_nll_validation_lower"])
