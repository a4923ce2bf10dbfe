"""Transfer: directions found at one checkpoint, pushed along at another, as by hand; and what has no share."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from helpers.linear import linear, plan, three, write_files
from steerlib import SteerlibError
from steerlib.model import Prefix
from steerlib.stages import interventions, probing, transfer
from steerlib.stages.bench import Bench
from steerlib.steering import Arm, dose_response
from steerlib.steering.operators import Add

STEPS = [1, 2, 3]
METHOD = {"probe": "mean_difference"}


def other(seed: int):
    """The same model with other embeddings: a checkpoint of another step."""
    model = linear()
    with torch.no_grad():
        weight = model.hf.gpt_neox.embed_in.weight
        weight += 0.3 * seed * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
    return model


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    write_files(folder)
    study, models = plan(folder), {step: other(step) for step in STEPS}
    probes = {step: probing.extract(model, study, three()).assign_coords(step=step) for step, model in models.items()}
    swept = {
        step: interventions.sweep(model, study, three(), probes[step]).assign_coords(step=step)
        for step, model in models.items()
    }
    # Beside nulls that do less than anything, so that a share hangs on the sign alone.
    swept = {step: of.assign(interference_shuffled=of.interference_shuffled * 0 - 1e3) for step, of in swept.items()}
    swept = {step: of.fillna({"interference_shuffled": -1e3}) for step, of in swept.items()}
    each = xr.concat([of.drop_vars("step") for of in probes.values()], pd.Index(STEPS, name="origin"))
    found = [transfer.transfer(models[step], study, three(), each, swept[step], swept[3]) for step in STEPS]
    return study, models, probes, swept, xr.concat(found, pd.Index(STEPS, name="step"))


def test_three_pairs_are_as_by_hand(history):
    """The slope of log-odds between two small pushes along another checkpoint's direction, as long as the own."""
    study, models, probes, swept, found = history
    for origin, step, c in ((1, 3, 0), (3, 1, 1), (2, 1, 2)):
        name, model = three()[c].name, models[step]
        layer = int(found.layer_pushed.sel(step=step, concept=name))
        at = {"concept": name, "layer": layer}
        vector = torch.from_numpy(probes[origin].direction.sel(METHOD).sel(at).values)[None]
        strength = swept[step].strength.sel(METHOD).sel(at)
        bench = next(one for one in Bench.of(model, three(), study) if name in one.readouts.names)
        arm = Arm(Add(vector), torch.tensor([float(strength)]))
        doses = dose_response(Prefix(model, bench.prompts), bench.readouts.log_odds, layer, arm, [-0.01, 0.01])
        slopes = (doses[:, 1, 0] - doses[:, 0, 0])[:, bench.readouts.names.index(name)] / 0.02
        expected = slopes[torch.from_numpy(bench.split == "test")].mean()
        value = found.slope_transferred.sel(step=step, origin=origin, concept=name)
        np.testing.assert_allclose(value, expected, rtol=5e-3, atol=5e-3)


def test_a_checkpoints_own_direction_does_what_its_sweep_says_and_is_the_whole_of_it(history):
    *_, swept, found = history
    for step in STEPS:
        here = found.sel(step=step, origin=step)
        own = xr.DataArray(here.concept.values, dims="concept")
        exact = swept[step].local_slope.sel(METHOD).sel(concept=own, layer=here.layer_pushed.drop_vars("concept"))
        np.testing.assert_allclose(here.slope_transferred, exact, rtol=1e-4, atol=1e-5)
        shares = found.share.sel(step=step).dropna("concept", how="all")
        np.testing.assert_allclose(shares.sel(origin=step), 1)
        np.testing.assert_allclose(found.cosine_to_origin.sel(step=step, origin=step), 1, atol=1e-6)
    assert found.share.notnull().any()
    inside = (found.slope_transferred_lower <= found.slope_transferred) & (
        found.slope_transferred <= found.slope_transferred_upper
    )
    assert inside.mean() > 0.9


def test_of_nothing_there_is_no_share(history):
    study, models, probes, swept, _ = history
    each = xr.concat([of.drop_vars("step") for of in probes.values()], pd.Index(STEPS, name="origin"))
    above = swept[1].assign(interference_shuffled=swept[1].interference_shuffled + 2e3)
    found = transfer.transfer(models[1], study, three(), each, above, swept[3])
    assert found.share.isnull().all() and found.slope_transferred.notnull().all()
    assert (found.p_transferred == 1).all()


def test_an_operator_that_is_more_than_a_direction_is_refused(history):
    study, models, probes, swept, _ = history
    other = study.model_copy(update={"sweep": study.sweep.model_copy(update={"operator": "affine"})})
    with pytest.raises(SteerlibError, match="transfer: operator 'affine' needs more than a direction"):
        transfer.transfer(models[1], other, three(), probes[1], swept[1], swept[3])
