"""What a pushed model writes: unsteered text beside it, at the validation layer, and stored whatever it holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.linear import linear, plan, three, write_files
from helpers.trees import write_tree
from steerlib.files import datasets
from steerlib.results.schema import describe
from steerlib.stages import effects, emergence, generation, interventions, probing
from steerlib.steering import Push, steer, write
from steerlib.steering.operators import Add
from steerlib.study import Generation


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    write_files(folder)
    model, methods = linear(), ["mean_difference", "lda"]
    generation_plan = Generation(alphas=[0.5, 2.0], prompts=2, tokens=5)
    budgets = {"kl_budget": 3.0, "nll_budget": 3.0}
    study = plan(folder, methods, **budgets).model_copy(update={"generation": generation_plan})
    probes = probing.extract(model, study, three())
    swept = interventions.sweep(model, study, three(), probes)
    return model, study, probes, swept, generation.generate(model, study, three(), probes, swept)


def test_unsteered_text_stands_at_alpha_zero_whatever_is_pushed(world):
    model, *_, written = world
    assert written.alpha.values.tolist() == [0.0, 0.5, 2.0]
    for c, prompts in enumerate(written.given.values):
        plain = write(model, [prompt for prompt in prompts if prompt], 5)
        for m in range(2):
            assert written.text.values[m, c, 0, : len(plain)].tolist() == plain


def pushed(model, probes, prompts, method, concept: int, layer: int, alpha: float) -> list[str]:
    """What is written along a direction."""
    step = probes.direction.sel(probe=method).isel(concept=concept, layer=layer).values
    with steer(model, Push(layer, Add(torch.from_numpy(step * float(probes.residual_norm[layer]))), alpha)):
        return write(model, [prompt for prompt in prompts if prompt], 5)


def test_pushed_text_is_that_of_the_direction_at_its_validation_layer(world):
    model, _, probes, _, written = world
    changed = 0
    for m, method in enumerate(written.probe.values):
        for c, layer in enumerate(written.generation_layer.values):
            expected = pushed(model, probes, written.given.values[c], method, c, int(layer), 2.0)
            assert written.text.values[m, c, 2, : len(expected)].tolist() == expected
            changed += expected != written.text.values[m, c, 0, : len(expected)].tolist()
    assert changed >= 2, "pushes of two residual norms change what is written"


def test_the_layer_is_that_of_the_analysis_and_the_recommended_push_is_written_as_well(world):
    """At most as strong as both budgets surely allow, of another strength for every concept."""
    model, study, probes, swept, written = world
    analysed = emergence.analyse(probes.expand_dims(step=[0]), swept.expand_dims(step=[0]), study)
    layers = written.generation_layer.values
    np.testing.assert_array_equal(layers, analysed.layer_by_step.isel(step=0))
    for c, alpha in enumerate(written.alpha_recommended.values):
        here = swept.sel(probe="mean_difference").isel(concept=c, layer=layers[c])
        cheap = (here.kl_validation_upper <= 3) & (here.delta_nll_validation_upper <= 3)
        assert alpha in here.alpha[(cheap & (here.alpha > 0)).values]
        for m, method in enumerate(written.probe.values):
            expected = pushed(model, probes, written.given.values[c], method, c, int(layers[c]), float(alpha))
            assert written.text_recommended.values[m, c, : len(expected)].tolist() == expected
    lossy = swept.assign(delta_nll_validation_upper=swept.delta_nll_validation_upper + 9)
    lossy = lossy.sel(probe="mean_difference").isel(layer=written.generation_layer)
    assert (effects.recommended_alpha(lossy, study) == 0.25).all(), "the weakest, as none surely keeps to that budget"
    no_budget = swept.assign(kl_validation_upper=swept.kl_validation_upper + 9)
    silent = generation.generate(model, study, three(), probes, no_budget)
    assert silent.alpha_recommended.isnull().all() and silent.judged_recommended.isnull().all()
    assert (silent.text_recommended == "").all() and silent.text.equals(written.text)


def test_text_that_no_file_can_hold_is_stored_all_the_same(world, tmp_path, monkeypatch):
    """An untrained model of bytes may write any of them."""
    model, study, probes, swept, _ = world
    odd = "a\0b\ud7ff\x1b"
    monkeypatch.setattr(
        generation,
        "write_each",
        lambda model, prompts, tokens, layer, arm, *_: [[odd] * len(prompts)] * len(arm.strength),
    )
    written = describe(generation.generate(model, study, three(), probes, swept))
    datasets.write(written, tmp_path / "text.nc")
    assert datasets.read(tmp_path / "text.nc").text.equals(written.text)
    assert "\0" not in "".join(written.text.values.ravel())
    write_tree({"generations": written}, tmp_path / "text.zarr", {})


def test_what_is_a_coordinate_stays_one_in_saved_results(world, tmp_path):
    """Whoever reads a file finds by name what a cell is of: its null, its prompt's split, its concept's role."""
    *_, probes, swept, written = world
    expected = (
        (probes, {"layer", "probe", "concept", "variant", "null", "role", "planted_frequency"}),
        (swept, {"layer", "probe", "concept", "alpha", "readout_concept", "prompt", "null", "split", "role"}),
        (written, {"probe", "concept", "alpha", "prompt", "judge"}),
    )
    for k, (result, coords) in enumerate(expected):
        assert coords <= set(result.coords)
        datasets.write(describe(result), tmp_path / f"{k}.nc")
        again = datasets.read(tmp_path / f"{k}.nc")
        assert set(again.coords) == set(result.coords)
        assert {name: again[name].dims for name in again} == {name: result[name].dims for name in result}
