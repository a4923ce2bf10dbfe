"""Some layers of a model: what is said of them is what is said of them among all, and what is chosen is one of them."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from helpers.linear import plan, three
from helpers.models import build
from steerlib import SteerlibError
from steerlib.stages import emergence, generation, instrument
from steerlib.stages.effects import pushed_layer
from steerlib.stages.interventions import sweep
from steerlib.stages.probing import extract
from steerlib.stages.similarity import compare
from steerlib.study.layers import Spread, chosen

SOME = [1, 3, 4]


@pytest.fixture(scope="module")
def world(folder):
    """Everything that is found in a model of six layers, at all of them and at some."""
    model, found = build("gpt_neox", num_hidden_layers=6), {}
    for layers in ("all", SOME):
        study = plan(folder, ["mean_difference", "pca"], instrument={"steps": [0], "draws": 20})
        study = study.model_copy(update={"layers": layers})
        probes = extract(model, study, three())
        swept = sweep(model, study, three(), probes)
        every = {"probes": probes, "interventions": swept, "instrument": instrument.compare(model, study, three())}
        every["similarity"] = compare(probes, probes, probes)
        every["generations"] = generation.generate(
            model, study.model_copy(update={"generation": generation_of()}), three(), probes, swept
        )
        found[str(layers)] = every
    return model, study, found["all"], found[str(SOME)]


def generation_of():
    from steerlib.study import Generation

    return Generation(alphas=[1.0], prompts=2, tokens=2)


@pytest.mark.parametrize("stage", ["probes", "interventions", "similarity"])
def test_some_layers_are_a_selection_of_all(world, stage):
    *_, every, some = (of[stage] if isinstance(of, dict) else of for of in world)
    where = {dim: SOME for dim in ("layer", "layer_b") if dim in some.dims}
    for name, found in some.data_vars.items():
        if not {"layer", "layer_b"} & {*found.dims}:
            continue
        expected = every[name].sel({dim: at for dim, at in where.items() if dim in found.dims})
        assert found.layer.values.tolist() == SOME
        np.testing.assert_allclose(found, expected.transpose(*found.dims), 1e-4, 1e-4, err_msg=name)


def test_what_is_chosen_is_one_of_them_also_by_nulls(world):
    _, study, every, some = world
    swept, null = some["interventions"], some["interventions"].steerability_shuffled_validation
    assert {*pushed_layer(swept).values.flat} <= {*SOME}
    among = pushed_layer(every["interventions"].sel(layer=SOME))
    xr.testing.assert_identical(pushed_layer(swept), among)
    assert not pushed_layer(every["interventions"]).equals(among), "others would be chosen among all"
    assert {*some["instrument"].chosen_layer.values.flat} <= {*map(float, SOME)}
    found = emergence.analyse(
        some["probes"].expand_dims(step=[0]), swept.expand_dims(step=[0]), study.model_copy(update={"layers": SOME})
    )
    assert {*found.chosen_layer.values} <= {*SOME}
    np.testing.assert_array_equal(found.layer_by_step.isel(step=0), found.chosen_layer)
    at = found.chosen_layer.sel(concept="joy").item()
    mine = swept["slope"].isel(refit=0).sel(concept="joy", layer=at)
    test = mine.where(swept.split.sel(readout_concept="joy") == "test").mean("prompt")
    assert found.value.sel(measure="steerability", concept="joy").item() == pytest.approx(float(test), abs=1e-5)
    assert null.layer.values.tolist() == SOME
    layers = some["generations"].generation_layer
    np.testing.assert_array_equal(layers, pushed_layer(swept).sel(probe="mean_difference"))


def test_which_layers_are_meant():
    assert chosen("all", 4) == [0, 1, 2, 3] == chosen(Spread(every=1), 4) == chosen(Spread(count=4), 4)
    assert chosen(Spread(every=3), 8) == [0, 3, 6] and chosen([2, 5], 8) == [2, 5]
    assert chosen(Spread(count=8), 30) == [0, 4, 8, 12, 17, 21, 25, 29]


def test_a_layer_that_there_is_not_is_told_with_those_there_are(world, folder):
    model, study, *_ = world
    for layers, what in (([2, 6], "layer 6 is"), (Spread(count=9), "9 layers are")):
        asked = study.model_copy(update={"layers": layers})
        with pytest.raises(SteerlibError, match=f"layers: {what} asked for, and the model has 6: 0 to 5"):
            extract(model, asked, three())
