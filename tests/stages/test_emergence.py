"""Emergence: what was planted in a study is found, what was not is not, and choices are made on validation."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from helpers.histories import CONCEPTS, LAYERS, STEPS, STUDY, collected, study_of
from steerlib.stages.emergence import analyse, frequency_order, null_at_own_layer, p_value, summary


@pytest.fixture(scope="module")
def study():
    probes, interventions = collected()
    return probes, interventions, analyse(probes, interventions, STUDY)


def test_what_words_or_an_untrained_model_separate_is_no_emergence(study):
    probes, interventions, found = study
    assert found.baseline_words.sel(measure="separability").values.tolist() == pytest.approx([0.55] * 3)
    assert (found.null_threshold.sel(measure="separability") >= 0.55).all()
    wordy = probes.assign(auroc_words=probes.auroc_words + 0.44)
    by_words = analyse(wordy, interventions, STUDY)
    assert not np.isfinite(by_words.onset_step.sel(measure="separability")).any()
    head_start = probes.assign(auroc=probes.auroc.where(probes.step > 0, 0.99))
    untrained = analyse(head_start, interventions, STUDY)
    assert not np.isfinite(untrained.onset_step.sel(measure="separability")).any()
    assert untrained.baseline_untrained.sel(measure="separability").values == pytest.approx(0.99)
    same = ["steerability", "expression"]
    for other in (by_words, untrained):
        assert (other.onset_step.sel(measure=same) == found.onset_step.sel(measure=same)).all()


def test_a_study_finds_what_was_planted_and_says_what_was_not_reached(study):
    _, _, found = study
    assert found.chosen_layer.values.tolist()[:2] == [LAYERS["early"], LAYERS["late"]]
    for measure in ("steerability", "expression"):
        assert found.onset_step.sel(measure=measure).values.tolist() == list(CONCEPTS.values())
    sooner = [STEPS[np.searchsorted(STEPS, step) - 1] for step in (128, 320)]
    assert found.onset_step.sel(measure="separability").values.tolist() == [*sooner, np.inf]
    np.testing.assert_array_equal(found.order.transpose("measure", "concept"), [[1, 2, np.nan]] * 3)
    assert found.lag.values.tolist()[:2] == [128 - sooner[0], 320 - sooner[1]] and np.isnan(found.lag[2])
    assert float(found.tau) == pytest.approx(1)
    early, never = (found.sel(concept=name) for name in ("early", "never"))
    assert (early.onset_lower <= early.onset_step).all() and (early.onset_step <= early.onset_upper).all()
    assert (early.p_value < 0.05).all() and (never.p_value > 0.05).all()
    # Values are test prompts' slopes within the window at the chosen layer, of the method that was fixed beforehand.
    assert float(early.value.sel(measure="steerability")[-1]) == pytest.approx(2, abs=0.1)
    assert found.rank_correlation.sel(concept="late") > 0.5
    text = summary(found)
    assert text.loc["never", "steerability"] == "not reached" and text.loc["early", "steerability"].startswith("128 [")


def test_discoveries_are_corrected_for_every_concept_layer_and_checkpoint(study):
    _, interventions, found = study
    p = interventions.p_random.isel(method=1).transpose("concept", "layer", "step").values
    assert found.q_random.shape == p.shape and (found.q_random.values >= p).all()
    rank = (p == p.min()).sum()
    assert found.q_random.values.min() == pytest.approx(p.min() * p.size / rank)


def test_same_data_and_seed_give_the_same_numbers_and_another_seed_other_resamples(study):
    probes, interventions, found = study
    xr.testing.assert_identical(analyse(probes, interventions, STUDY), found)
    other = analyse(probes, interventions, study_of(seed=1))
    assert other.value.equals(found.value) and not other.value_lower.equals(found.value_lower)


def test_layers_are_chosen_on_validation_prompts_only(study):
    """However wild the test prompts are; and the layer moves when the validation prompts say so."""
    probes, interventions, found = study
    wild = np.random.default_rng(1).normal(0, 50, interventions.log_odds.shape)
    test = interventions.log_odds.copy(data=wild).where(interventions.split == "test", interventions.log_odds)
    noise = interventions.interference.copy(
        data=np.random.default_rng(2).normal(0, 50, interventions.interference.shape)
    )
    changed = interventions.assign(log_odds=test, interference=noise)
    again = analyse(probes, changed, STUDY)
    assert again.chosen_layer.equals(found.chosen_layer) and not again.value.equals(found.value)
    turned = interventions.steerability_validation.roll(layer=1)
    moved = analyse(probes, interventions.assign(steerability_validation=turned), STUDY)
    assert moved.chosen_layer.equals((found.chosen_layer + 1) % 3)
    # And validation prompts have no part in what is reported.
    quiet = interventions.log_odds.where(interventions.split == "test", 1e6)
    assert analyse(probes, interventions.assign(log_odds=quiet), STUDY).value.equals(found.value)


def test_null_draws_that_do_more_at_another_layer_count_with_what_they_do_there(study):
    probes, interventions, _ = study
    stronger = {
        name: interventions[name] + 5 * (interventions.layer == 0)
        for name in ("steerability_null", "steerability_null_validation")
    }
    found = analyse(probes, interventions.assign(stronger), STUDY)
    assert found.chosen_layer.values.tolist()[:2] == [1, 2]
    assert np.isinf(found.onset_step.sel(measure="steerability")).all()


def test_null_draws_choose_their_own_layers_as_the_real_direction_does():
    """Where layers differ in what a draw does, the null's threshold is then above that of any fixed layer."""
    draw, fixed, own = np.random.default_rng(0), [], []
    for _ in range(30):
        effect = draw.standard_normal((4, 100))
        test, validation = (effect + draw.normal(0, 0.5, (2, 4, 100)) for _ in range(2))
        dims = ["step", "layer", "draw"]
        data = xr.Dataset({"steerability_null": (dims, test), "steerability_null_validation": (dims, validation)})
        chosen = null_at_own_layer(data)
        best = validation[-1].argmax(0)
        assert (chosen.transpose("step", "draw").values == test[:, best, range(100)]).all()
        fixed.append(np.quantile(test[-1], 0.95, axis=1))
        own.append(float(chosen.isel(step=-1).quantile(0.95)))
    assert np.mean(own) > np.mean(fixed, axis=0).max() + 0.2


def test_the_order_of_planted_frequencies_is_judged_with_the_unreached_last():
    onset = xr.DataArray(
        [10.0, 30, np.inf, 20, 5],
        dims="concept",
        coords={"planted_frequency": ("concept", [0.4, 0.2, 0.03, 0.3, np.nan])},
    )
    assert frequency_order(onset) == pytest.approx(1)
    assert frequency_order(onset.copy(data=[30.0, 10, 5, 20, 1])) < 0
    assert np.isnan(frequency_order(onset[[0, 4]]))


def test_p_values_count_null_draws_of_the_worse_kind():
    nulls = {"random": np.arange(-80, 19.0).reshape(1, -1), "shuffled": np.arange(-18, 1.0).reshape(1, -1)}
    assert p_value(np.array([50.0, np.nan, 52.0]), nulls) == pytest.approx(1 / 20)
    assert p_value(np.array([10.0]), nulls) == pytest.approx(10 / 100)
    yes, no = np.array([1.0] * 9 + [0, np.nan]), np.array([1.0] + [0] * 9)
    assert p_value(yes, no) < 0.001 and p_value(no, yes) > 0.99
