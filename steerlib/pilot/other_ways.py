"""What else would have done what a freeze has chosen, and at what cost: computed once a freeze, and kept beside it."""

from __future__ import annotations

import numpy as np
import xarray as xr

from steerlib.files import datasets
from steerlib.pilot import freeze
from steerlib.pilot.freeze import Freeze
from steerlib.results.opening import OpenStudy
from steerlib.results.schema import describe
from steerlib.stages import other_ways

NAME = "other_ways.nc"


def of(then: OpenStudy, frozen: Freeze) -> xr.Dataset:
    """Schema `/other_ways` by concept, of the study as it was frozen.

    Raises SteerlibError where its checkpoint is not there (`OpenStudy.model`).
    """
    path = freeze.folder_of(then) / NAME
    if path.exists() and (kept := datasets.read(path)).attrs["freeze"] == frozen.hash:
        return kept
    model, probes, parts = then.model(frozen.step), then.workspace.read("probes", frozen.step), []
    probes = probes.sel(step=frozen.step).drop_vars(["step", "revision", "tokens_seen", "weights_sha256"])
    for concept in (concept for concept in then.workspace.concepts if concept.name in frozen.concepts):
        one = frozen.concepts[concept.name]
        part = other_ways.compare(model, then.params, concept, probes, frozen.method, one.layer, one.alpha)
        parts.append(part.assign_coords(prompt=np.arange(part.sizes["prompt"])))
    found = describe(xr.concat(parts, "concept", join="outer")).assign_coords(step=frozen.step)
    found = found.assign_attrs(freeze=frozen.hash, params=then.params.model_dump_json())
    datasets.write(found, path)
    return found
