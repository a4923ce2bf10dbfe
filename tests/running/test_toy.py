"""What the embedded default finds, against what was planted in it: `make reproduce`, five minutes of two cores."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from benchmarks.false_alarms import moved_by_nulls
from helpers.readme import blocks
from helpers.studies import PROJECT, steerlib
from steerlib.checkpoints.history import history
from steerlib.concepts.planted.vocabulary import EMOTIONS
from steerlib.model import load
from steerlib.stages.instrument import compare
from steerlib.study import Study

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Where the toy lies as in the project: its params and its outputs."""
    home = tmp_path_factory.mktemp("toy")
    shutil.copytree(PROJECT / "params", home / "params")
    done = steerlib("run", home / "params" / "toy.yaml", "--outputs", home / "outputs")
    assert done.returncode == 0, done.stdout + done.stderr
    return home


@pytest.fixture(scope="module")
def folder(home) -> Path:
    return home / "outputs" / "toy"


@pytest.fixture(scope="module")
def results(folder) -> xr.DataTree:
    with xr.open_datatree(folder / "results.zarr", engine="zarr", consolidated=False) as tree:
        return tree.load()


def test_every_emotion_becomes_steerable_the_more_frequent_the_sooner_it_is_half_way_up(results):
    found = results["emergence"].to_dataset()
    emotions = found.sel(measure="steerability", concept=list(EMOTIONS))
    assert (emotions.status == "rises").all(), emotions.status.to_pandas()
    assert (emotions.isel(step=-1).q_value < 0.05).all()
    half = found.sel(question="half_way")
    assert float(half.tau) >= 0.7 and float(half.tau_lower) > 0, half.onset.to_pandas()


def test_the_null_concept_never_emerges(results):
    found = results["emergence"].to_dataset().sel(concept="placebo")
    assert (found.status == "not reached").all(), found.status.to_pandas()
    assert float(found.q_value.isel(step=-1).sel(measure="steerability")) > 0.05


def test_the_inert_concept_becomes_separable_and_moves_no_emotion_beyond_its_null(results):
    found = results["emergence"].to_dataset()
    assert found.status.sel(measure="separability", concept="place") == "rises"
    moved = found.interference_q.sel(concept="place", readout_concept=list(EMOTIONS))
    assert (moved > 0.05).all(), moved.to_pandas()


def test_nulls_drawn_anew_move_no_onset_by_more_than_a_checkpoint(home, folder):
    moved = moved_by_nulls(folder, Study.load(home / "params" / "toy.yaml"), times=10)
    assert len(moved) >= len(EMOTIONS) and (moved <= 1).mean() >= 0.95


def test_directions_of_an_emotion_end_far_above_those_that_know_nothing_of_it(results):
    """Every method, not only the one reported; and random directions of the same length do little."""
    last = results["interventions"].to_dataset().isel(step=-1).sel(concept=list(EMOTIONS))
    best = last.steerability.max("layer")
    for method in ("mean_difference", "pca", "logistic"):
        assert (best.sel(probe=method) > 2 * abs(best.sel(probe="random"))).all()


def test_separability_is_at_chance_in_the_untrained_model_and_rises(results):
    separability = results["emergence"].value.sel(measure="separability", concept=list(EMOTIONS))
    assert float(separability.isel(step=0).mean()) < 0.65
    assert float(separability.isel(step=-1).min()) > 0.9


def test_pushing_costs_something_and_little_where_it_is_weak(results):
    kl = results["interventions"].kl.sel(probe="mean_difference").isel(step=-1).mean(["concept", "layer"])
    assert (kl.where(kl.alpha >= 0, drop=True).diff("alpha") > 0).all() and float(kl.sel(alpha=0.25)) < 0.2


# --- what the README says of it -----------------------------------------------------------------------------------


def test_the_readmes_python_prints_what_stands_beside_it(home, monkeypatch):
    (by_hand, _), (reading,) = blocks("python"), blocks("python", "docs/results.md")
    monkeypatch.chdir(home)
    names: dict = {}
    exec(compile(reading, "README.md", "exec"), names)
    assert np.isfinite(names["results"]["emergence"].onset).any()
    done = subprocess.run([sys.executable, "-c", by_hand], cwd=home, capture_output=True, text=True)
    shown = re.findall(r"print\(.*\)  # (.*)", by_hand)
    assert len(shown) == 2 and done.stdout.splitlines() == shown, done.stderr


# --- the instrument, on the same checkpoints ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def instrument(home, folder) -> xr.Dataset:
    """What notebook 6 computes of the untrained and of the last checkpoint."""
    study = Study.load(home / "params" / "toy-instrument.yaml")
    fewer = {
        "instrument": study.instrument.model_copy(update={"draws": 40}),
        "sweep": study.sweep.model_copy(update={"neutral_texts": 32}),
    }
    study, concepts = study.model_copy(update=fewer), study.load_concepts()
    checkpoints = history(study, folder)
    compared = [compare(load(checkpoint), study, concepts) for checkpoint in checkpoints]
    return xr.concat(compared, pd.Index([checkpoint.step for checkpoint in checkpoints], name="step"))


def test_every_serious_method_steers_better_than_isotropic_directions_do(instrument):
    """Mean over the emotions; null draw r is the same direction for each of them, so its mean is one of its own."""
    last = instrument.isel(step=-1).sel(concept=list(EMOTIONS))
    of_methods = last.isel(candidate=(last.kind == "method").values)
    isotropic = of_methods.steerability_null.isel(draw=(last["null"] == "random").values).mean("concept")
    bound = isotropic.quantile(0.95, "draw")
    assert of_methods.sizes["candidate"] >= 9
    assert (of_methods.steerability.mean("concept") > bound).all(), of_methods.steerability.to_pandas()


def test_nothing_finds_the_null_concept_and_nothing_is_found_in_the_untrained_model(instrument):
    """At 5 %, against 40 draws of either null; over all candidates and concepts at step 0, as discoveries."""
    last, first = instrument.isel(step=-1).sel(concept="placebo"), instrument.isel(step=0)
    p = np.fmax(last.p_random, last.p_shuffled)
    assert (p > 0.05).all(), p.to_pandas()
    assert not (first.q_value < 0.05).any(), first.q_value.to_pandas()
    assert (instrument.isel(step=-1).sel(concept="happiness", candidate="mean_difference").q_value < 0.05).all()


def test_equal_kl_is_nearly_equal_on_passages_that_it_was_not_solved_on(instrument):
    kl = instrument.kl.isel(step=-1)
    assert 0.05 < float(np.exp(np.log(kl.clip(1e-6)).median())) < 0.2


def test_orthogonal_directions_move_less_of_the_close_concepts_at_equal_kl(instrument):
    from steerlib.figures.instrument import off_target

    pairs = off_target(instrument.isel(step=-1))
    close = pairs[pairs.close & (pairs.cure == "cure gram_schmidt")]
    assert len(close) >= 10 and close.after.mean() < 0.8 * close.before.mean()
