"""Notebook 3b's computation: does a direction that was found at one checkpoint push another one?

Directions of all chosen checkpoints are pushed along at each of them, as strongly as its own and at one layer: that
which validation prompts choose at the last checkpoint. What is measured is the exact slope at alpha 0. The question is
ours; a cosine tells where a direction points, and not whether the model follows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float

from steerlib import SteerlibError
from steerlib.concepts import Concept
from steerlib.model import Model
from steerlib.numerics.statistics import about, against, counts_of_units, interval, redrawn, widened
from steerlib.stages import similarity
from steerlib.stages.bench import Bench
from steerlib.stages.effects import own, pushed_layer
from steerlib.stages.interventions import alpha_unit, nat, slopes_per
from steerlib.stages.probing import seed_of
from steerlib.steering.arms import Arm
from steerlib.steering.operators import ALONG
from steerlib.study import Study

LEVEL = 0.95  # of intervals and of the null's quantile, as in the sweep


def transfer(
    model: Model, study: Study, concepts: Sequence[Concept], probes: xr.Dataset, swept: xr.Dataset, last: xr.Dataset
) -> xr.Dataset:
    """Schema `/transfer`: what the directions of every ``origin`` do at this checkpoint, and how they point there.

    ``probes`` are of all chosen checkpoints, along ``origin``; ``swept`` is what was swept at this one, ``last`` at the
    last. ``share`` is of what this checkpoint's own direction does: NaN where that is not surely above 0, or no more
    than directions from shuffled labels do. Intervals are over test prompts and the texts that directions are fitted
    on, both resampled alike for all origins. Raises SteerlibError for an operator that needs more than a direction.
    """
    if (kind := study.sweep.operator) not in ALONG:
        told = f"operator {kind!r} needs more than a direction; take one of {', '.join(ALONG)}"
        raise SteerlibError(f"{study.path}: transfer: {told}")
    analysed = {"probe": study.emergence.method}
    layers = pushed_layer(last.sel(analysed, drop=True))
    here, at = probes.sel(origin=int(swept.step)), {"layer": layers}
    whole = probes.direction.sel(analysed, drop=True).expand_dims("redraw")
    again = similarity.redrawn(probes).isel(redraw=slice(1, None))  # kept in half precision, as the first is too
    vectors = xr.concat([whole, again], "redraw").sel(at).transpose("concept", "origin", "redraw", "hidden")
    strength, parts = swept.strength.sel(analysed, drop=True).sel(at), []
    rows = Bench.by_readout(Bench.of(model, concepts, study))
    for concept in concepts:
        of = {"concept": concept.name}
        mine, layer, (bench, row) = vectors.sel(of), int(layers.sel(of)), rows[concept.name]
        flat = torch.from_numpy(mine.values.reshape(-1, mine.sizes["hidden"]).astype(np.float32))
        arm = Arm(ALONG[kind](flat), torch.full((len(flat),), float(strength.sel(of))))
        slopes = bench.slopes(layer, arm, "test", row)[0]
        cells = slopes.double().numpy().reshape(len(slopes), *mine.shape[:2]).swapaxes(0, 1)
        parts.append(
            _told(cells, list(mine.origin.values).index(int(swept.step)), int(here.fitted_units.sel(of)), study)
        )
    found = xr.concat(parts, "concept").assign_coords(concept=vectors.concept.values, origin=vectors.origin.values)
    null = own(swept.interference_shuffled).sel(at).rename(deal="draw")
    found["p_transferred"] = against(found.slope_transferred, null)
    does = found.p_transferred.sel(origin=int(swept.step), drop=True) <= round(1 - LEVEL, 9)
    found = found.assign({name: of.where(does) for name, of in found.items() if name.startswith("share")})
    found["slope_null_upper"] = null.quantile(LEVEL, "draw", method="inverted_cdf", skipna=False).drop_vars("quantile")
    cosine = xr.dot(vectors, vectors.sel(origin=int(swept.step), drop=True), dim="hidden").rename(redraw="resample")
    wide = xr.apply_ufunc(np.vectorize(widened), here.fitted_units)
    ends = about(cosine.isel(resample=0), cosine.isel(resample=slice(1, None)), wide, LEVEL)
    for name, values in zip(("", "_lower", "_upper"), (cosine.isel(resample=0), *ends), strict=True):
        found[f"cosine_to_origin{name}"] = values.clip(-1, 1)
    found["layer_pushed"] = layers
    return slopes_per(alpha_unit(study), found.drop_vars("layer").astype(np.float32), nat(concepts))


def _told(slopes: Float[np.ndarray, "origin prompt redraw"], here: int, texts: int, study: Study) -> xr.Dataset:
    """Means over prompts, and what share they are of this checkpoint's own, with their intervals."""
    cells = {}
    units = counts_of_units(slopes.shape[1], study.sweep.bootstrap, seed_of(study, "transfer"))
    draws = redrawn(slopes, units, texts, seed_of(study, "transfer", "texts"), LEVEL)
    means = np.vstack([slopes[..., 0].mean(1), draws])  # origins along the second axis
    sure = interval(draws[:, here], LEVEL)[0] > 0
    for name, of in {"slope_transferred": means, "share": means / (means[:, here, None] if sure else np.nan)}.items():
        for end, values in zip(("", "_lower", "_upper"), (of[0], *interval(of[1:], LEVEL)), strict=True):
            cells[f"{name}{end}"] = "origin", values
    return xr.Dataset(cells)
