"""What the notebooks' own study finds, against what was planted in it: `params/first.yaml`, at five of its checkpoints.

The embedded default, which takes longer, is looked at in `test_toy.py`.
"""

import shutil
from pathlib import Path

import pytest
import xarray as xr
import yaml

from helpers.studies import PROJECT, steerlib
from steerlib.files import datasets
from steerlib.stages.criteria import LEVELS

pytestmark = pytest.mark.long
STEPS = [0, 160, 240, 300, 600]
EMOTIONS = ["happiness", "anger"]  # which are frequent enough to be learnt in so short a training


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("first")
    first = yaml.safe_load((PROJECT / "params" / "first.yaml").read_text())
    assert set(STEPS) < set(first["checkpoints"]["steps"])
    shutil.copytree(PROJECT / "params", home / "params")
    fewer = {"checkpoints": {"steps": STEPS}, "generation": first["generation"] | {"steps": STEPS[-1:]}}
    (home / "params" / "first.yaml").write_text(yaml.safe_dump(first | fewer))
    done = steerlib("run", home / "params" / "first.yaml", "--outputs", home / "outputs")
    assert done.returncode == 0, done.stdout + done.stderr
    return home / "outputs" / "first"


@pytest.fixture(scope="module")
def results(folder) -> xr.DataTree:
    with xr.open_datatree(folder / "results.zarr", engine="zarr", consolidated=False) as tree:
        return tree.load()


@pytest.fixture(scope="module")
def found(results) -> xr.Dataset:
    return results["emergence"].to_dataset()


def test_the_more_frequent_emotion_is_half_way_up_sooner(found):
    emotions = found.sel(measure="steerability", concept=EMOTIONS)
    assert (emotions.status == "rises").all(), emotions.status.to_pandas()
    assert (emotions.isel(step=-1).q_value < 0.05).all()
    happiness, anger = found.onset.sel(question="half_way", measure="steerability", concept=EMOTIONS).values
    assert happiness < anger


def test_the_null_concept_never_emerges(found):
    placebo = found.sel(concept="placebo")
    assert (placebo.status == "not reached").all(), placebo.status.to_pandas()
    assert float(placebo.q_value.isel(step=-1).sel(measure="steerability")) > 0.05


def test_the_inert_concept_becomes_separable_and_moves_no_emotion_beyond_its_null(found):
    assert found.status.sel(measure="separability", concept="place") in ("rises", "last only")
    moved = found.interference_q.sel(concept="place", readout_concept=EMOTIONS)
    assert (moved > 0.05).all(), moved.to_pandas()


def test_directions_of_an_emotion_end_far_above_those_that_know_nothing_of_it(results):
    """Every method, not only the one reported; and random directions of the same length do little."""
    last = results["interventions"].to_dataset().isel(step=-1).sel(concept=EMOTIONS)
    best = last.steerability.max("layer")
    for method in ("mean_difference", "pca"):
        assert (best.sel(probe=method) > 2 * abs(best.sel(probe="random"))).all()


def test_separability_is_at_chance_in_the_untrained_model_and_rises(found):
    separability = found.value.sel(measure="separability", concept=EMOTIONS)
    assert float(separability.isel(step=0).mean()) < 0.65
    assert float(separability.isel(step=-1).min()) > 0.9


def test_pushing_costs_something_and_little_where_it_is_weak(results):
    kl = results["interventions"].kl.sel(probe="mean_difference").isel(step=-1).mean(["concept", "layer"])
    assert (kl.where(kl.alpha >= 0, drop=True).diff("alpha") > 0).all() and float(kl.sel(alpha=0.25)) < 0.2


def test_what_is_planted_is_ready_in_the_end_and_nothing_never_is(folder):
    verdict = datasets.read(folder / "readiness" / "study.nc").verdict.sel(probe="mean_difference")
    assert (verdict.sel(concept="placebo") == "not ready").all() and (verdict.sel(step=0) == "not ready").all()
    assert verdict.sel(step=600, concept="happiness") in LEVELS[2:]


def test_every_serious_method_steers_better_than_isotropic_directions_do(results):
    """Mean over the emotions; null draw r is the same direction for each of them, so its mean is one of its own."""
    compared = results["instrument"].to_dataset().isel(step=-1).sel(concept=EMOTIONS)
    of_methods = compared.isel(candidate=(compared.kind == "method").values)
    isotropic = of_methods.steerability_null.isel(draw=(compared["null"] == "random").values).mean("concept")
    assert of_methods.sizes["candidate"] >= 9
    bound = isotropic.quantile(0.95, "draw")
    assert (of_methods.steerability.mean("concept") > bound).all(), of_methods.steerability.to_pandas()
