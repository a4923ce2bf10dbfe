"""Slopes first: each direction is pushed near the layer that they choose, exactly as if it were pushed at all."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from helpers.linear import close, plan, three
from helpers.models import build
from steerlib.concepts import prompt_split
from steerlib.model import Prefix
from steerlib.stages import emergence
from steerlib.stages.effects import pushed_layer
from steerlib.stages.interventions import sweep
from steerlib.stages.probing import extract

METHODS, NULLS = ["mean_difference", "pca", "lda"], ["random", "shuffled"]
DEEP = {"num_hidden_layers": 7}
EVERYWHERE = ("local_slope", "slope", "strength", "p_", "interference_local", "interference_shuffled")
EVERYWHERE += ("interference_null", "steerability_null", "steerability_shuffled")
COSTS = ("kl", "nll", "delta_nll", "chosen")


@pytest.fixture(scope="module", params=["residual_norm", "iso_kl"])
def world(request, folder):
    """A model of seven layers, pushed at all of them and at few."""
    model, concepts = build("gpt_neox", **DEEP), three()
    studies = {n: plan(folder, METHODS, scale=request.param, kl_budget=0.02, neighbours=n) for n in ("all", 0, 1)}
    probes = extract(model, studies["all"], concepts)
    return studies, probes, {n: sweep(model, study, concepts, probes) for n, study in studies.items()}


@pytest.mark.parametrize("neighbours", [0, 1])
def test_what_is_pushed_is_that_of_a_push_at_every_layer_and_slopes_are_of_all(world, neighbours):
    _, _, swept = world
    some, every = swept[neighbours], swept["all"]
    pushed = some.log_odds.sel(alpha=0.5).notnull().any(["prompt", "readout_concept"])
    costed = some.kl.sel(alpha=0.5).notnull()  # random directions beside others are pushed on prompts alone
    assert 0 < costed.sum() <= pushed.sum() and pushed.mean() < (0.45, 0.75)[neighbours]
    for name in every.data_vars:
        found, expected = some[name], every[name]
        if name.startswith(EVERYWHERE):
            xr.testing.assert_identical(found, expected)
        else:
            # Random directions are pushed on the prompts of some readouts alone, and have no value over all of them.
            of = (costed if name.startswith(COSTS) else pushed) & (some["probe"] != "random")
            there = found.notnull() if name == "margin_random" else of | (found.notnull() & expected.notnull())
            np.testing.assert_allclose(found.where(there), expected.where(there).transpose(*found.dims), 1e-5, 1e-5)
    for name in ("steerability", "steerability_validation", "selectivity_lower", "undo_error", "chosen_gain"):
        assert some[name].where(~pushed).isnull().all(), name
    for name in ("log_odds", "margin", "kl", "delta_nll", "success_rate"):
        nowhere = some[name].where(~pushed)
        assert nowhere.where(nowhere.alpha != 0).isnull().all(), name
        close(nowhere.sel(alpha=0), every[name].where(~pushed).sel(alpha=0).transpose(*nowhere.sel(alpha=0).dims))


@pytest.mark.parametrize("neighbours", [0, 1])
def test_every_direction_is_pushed_near_the_layer_of_its_greatest_slope_on_validation_prompts(world, neighbours):
    """Nulls too, and beside what they are held against."""
    _, _, swept = world
    some, every = swept[neighbours], swept["all"]
    chosen = pushed_layer(some)
    xr.testing.assert_identical(chosen, pushed_layer(every))
    validation = some.split.rename(readout_concept="concept") == "validation"
    mean = some["slope"].isel(refit=0).where(validation).mean("prompt")
    np.testing.assert_array_equal(chosen.sel(probe="mean_difference"), mean.argmax("layer"))

    pushed = some.steerability.notnull()
    near = abs(some.layer - chosen) <= neighbours
    np.testing.assert_array_equal(
        pushed.sel(probe=METHODS), (near & every.steerability.notnull()).sel(probe=METHODS).transpose(*pushed.dims)
    )
    assert (pushed | ~near | every.steerability.isnull()).all()
    centre = (some.layer == chosen).sel(probe=METHODS)
    asked = {concept.name: [case.prompt for case in concept.readout.cases] for concept in three()}
    alike = {name: [other for other in asked if asked[other] == asked[name]] for name in asked}
    centres = [centre.sel(concept=alike[name]).any(["probe", "concept"]) for name in near.concept.values]
    random = near.sel(probe="random") | xr.concat(centres, near.concept)
    assert len({*map(tuple, alike.values())}) > 1, "some are not asked on the same prompts"
    shuffled = near.sel(probe="shuffled") | centre.sel(probe="mean_difference")
    for name, where in (("random", random), ("shuffled", shuffled)):
        there = where & every.steerability.sel(probe=name).notnull()
        np.testing.assert_array_equal(pushed.sel(probe=name), there.transpose("concept", "layer"))
    costed, near_all = some.kl.sel(alpha=0.5).notnull(), pushed & near
    np.testing.assert_array_equal(costed.sel(probe="random"), near_all.sel(probe="random"))
    for name in [*METHODS, "shuffled"]:
        np.testing.assert_array_equal(costed.sel(probe=name), pushed.sel(probe=name))
    assert not near.sel(probe=NULLS).all()


def test_the_analysis_is_the_same(world):
    studies, probes, swept = world
    probes = probes.expand_dims(step=[0])
    one, other = (
        emergence.analyse(probes, swept[n].expand_dims(step=[0]), studies["all"]).drop_attrs() for n in (0, "all")
    )
    xr.testing.assert_identical(one, other)
    assert one.gain.notnull().any() and one.gain_null.notnull().any()


def test_the_first_choice_is_of_validation_prompts_alone(world):
    """The analysis' own layer is that of the sweep: both by the same slopes."""
    studies, probes, swept = world
    found = emergence.analyse(probes.expand_dims(step=[0]), swept[1].expand_dims(step=[0]), studies[1])
    chosen = pushed_layer(swept[1]).sel(probe="mean_difference")
    np.testing.assert_array_equal(found.layer_by_step.isel(step=0), chosen)
    assert set(prompt_split([case.prompt for case in three()[0].readout.cases], 0)) == {"validation", "test"}


def test_what_is_not_near_is_not_run(folder, monkeypatch):
    """Of what is run, by far the most are pushes; the fewer of them, the fewer are run."""
    model, concepts, counts, finish = build("gpt_neox", **DEEP), three(), [], Prefix.finish
    monkeypatch.setattr(Prefix, "finish", lambda self, changes, n, *a: counts.append(n) or finish(self, changes, n, *a))
    run = {}
    for neighbours in ("all", 0):
        study = plan(folder, METHODS, neighbours=neighbours)
        sweep(model, study, concepts, extract(model, study, concepts))
        run[neighbours] = sum(counts)
        counts.clear()
    assert 0 < run[0] < 0.45 * run["all"]
