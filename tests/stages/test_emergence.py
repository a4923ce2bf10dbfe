"""Emergence: planted onsets are found in time and in order, absent ones are not, and choices are made on validation."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import xarray as xr

from helpers.histories import CONCEPTS, LAYERS, PLAN, STEPS, collected
from steerlib.numerics.statistics import bootstrap_means, interval, slope, spearman
from steerlib.stages import emergence
from steerlib.stages.emergence import Plan, analyse, change_point, onsets, sigmoid_midpoint, trajectory

# scipy warns about a covariance that nobody asked for (a test of its own, below)
pytestmark = pytest.mark.filterwarnings("ignore:Covariance of the parameters")


# --- slopes, resamples, intervals ---------------------------------------------------------------------------------


def test_slope_is_a_least_squares_line_within_the_window():
    draw, alphas = np.random.default_rng(0), np.array([-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 2.0])
    values = xr.DataArray(draw.standard_normal((4, 7, 3)), dims=["prompt", "alpha", "layer"], coords={"alpha": alphas})
    for window, inside in ((0.5, slice(1, 6)), (0.3, slice(2, 5)), (2.0, slice(None))):
        expected = np.polyfit(alphas[inside], values.values[:, inside].transpose(1, 0, 2).reshape(-1, 12), 1)[0]
        assert np.allclose(slope(values, window).transpose("prompt", "layer").values.ravel(), expected)
    values[:, 4, 1] = np.nan  # inside the window of 0.5, and of one layer only
    assert slope(values, 0.5).isnull().any("prompt").values.tolist() == [False, True, False]


def test_one_resample_of_prompts_serves_all_steps_and_ignores_prompts_that_do_not_exist():
    draw = np.random.default_rng(0)
    first = draw.normal(2, 3, 400)
    values = np.stack([first, first + 1, -2 * first])
    draws = bootstrap_means(values, 3000, seed=[0, 1])
    assert np.allclose(draws[:, 1], draws[:, 0] + 1) and np.allclose(draws[:, 2], -2 * draws[:, 0])
    assert draws[:, 0].std() == pytest.approx(first.std() / 20, rel=0.06)
    assert draws[:, 0].mean() == pytest.approx(first.mean(), abs=0.02)
    holed = np.insert(values, [0, 7, 400], np.nan, axis=1)
    assert (bootstrap_means(holed, 3000, seed=[0, 1]) == draws).all()
    assert (bootstrap_means(values, 3000, seed=[0, 2]) != draws).any()


def test_intervals_order_what_was_not_reached_after_everything_else():
    draws = np.array([np.inf] * 4 + [*range(1, 97)], dtype=float)
    draws = np.stack([draws, np.random.default_rng(0).permutation(draws)], 1)
    for level, (lower, upper) in {0.95: (3, np.inf), 0.9: (5, 95), 0.5: (25, 75)}.items():
        found = interval(draws, level)
        assert found[0].tolist() == [lower] * 2 and found[1].tolist() == [upper] * 2


def test_spearman_is_about_ranks_and_silent_where_there_are_none():
    x = np.array([1.0, 5, 2, 9])
    assert spearman(x, np.exp(x)) == pytest.approx(1) and spearman(x, -(x**3)) == pytest.approx(-1)
    assert np.isnan([spearman(x, np.ones(4)), spearman(x[:2], x[:2])]).all()


# --- onsets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("above", "sustained", "expected"),
    [
        ([0, 1, 1, 1, 1], 2, 1),
        ([1, 1, 1, 1, 1], 2, 0),
        ([1, 1, 0, 1, 1], 2, 40),  # what was lost again does not count
        ([0, 0, 0, 0, 1], 2, np.inf),  # too short a stay
        ([0, 0, 0, 0, 1], 1, 80),
        ([0, 0, 0, 1, 1], 3, np.inf),
        ([1, 1, 1, 1, 0], 1, np.inf),
        ([0, 0, 0, 0, 0], 1, np.inf),
    ],
)
def test_an_onset_is_the_first_step_of_a_stay_to_the_end(above, sustained, expected):
    steps, threshold = np.array([0, 1, 20, 40, 80]), np.array([0.0, 5, -5, 1, 2])
    lower = threshold + np.where(above, 0.1, 0.0)  # equal to the threshold is not above it
    assert onsets(np.stack([lower, threshold + 1]), threshold, steps, sustained).tolist() == [expected, 0]


def sigmoid(midpoint, height=2.0, steepness=6.0):
    return height / (1 + np.exp(-steepness * (np.log1p(STEPS) - np.log1p(midpoint))))


def simulate(mean, seed, prompts=32):
    """A trajectory of prompts that differ in how much they can be steered, and nulls with threshold near 0.4."""
    draw = np.random.default_rng(seed)
    values = mean[:, None] * draw.normal(1, 0.2, prompts) + draw.normal(0, 0.3, (len(STEPS), prompts))
    return values, {
        kind: draw.normal(0, 0.2, (len(STEPS), n)) for kind, n in (("random", 200), ("shuffled", 100), ("other", 5))
    }


def index(step):
    return np.searchsorted(STEPS, np.asarray(step, float))  # one past the last when not reached


@pytest.mark.parametrize("midpoint", [64, 170, 300, 450])
def test_a_planted_onset_is_found_near_its_time_and_inside_its_interval(midpoint):
    """Rather late than early, as the lower bound has to clear the null, but seldom by more than a checkpoint."""
    mean, cases = sigmoid(midpoint), []
    for seed in range(25):
        found, _ = trajectory(STEPS, *simulate(mean, seed), True, PLAN, seed)
        truth = onsets(mean[None], found.null_threshold.values, STEPS, 2)[0]
        late = index(found.onset_step) - index(truth)
        cases.append([late, found.onset_lower <= truth <= found.onset_upper, found.midpoint, found.change_point])
        assert (found.value_lower <= found.value).all() and (found.value <= found.value_upper).all()
    late, covered, midpoints, changes = np.array(cases, float).T
    assert abs(late).max() <= 2 and (abs(late) <= 1).mean() >= 0.8 and late.mean() >= 0
    assert covered.mean() >= 0.65  # of the onset without noise; that of the lower bound is a little later
    assert np.abs(midpoints / midpoint - 1).max() < 0.15 and abs(np.median(midpoints) / midpoint - 1) < 0.02
    assert np.abs(index(changes) - index(midpoint)).max() <= 1


def test_planted_onsets_come_out_in_their_order():
    found = [trajectory(STEPS, *simulate(sigmoid(m), m), True, PLAN, m)[0] for m in (64, 170, 300, 450)]
    for name in ("onset_step", "midpoint", "change_point"):
        assert (np.diff([float(one[name]) for one in found]) > 0).all()


@pytest.mark.parametrize(
    ("lasting", "growth", "pooled"),
    [
        pytest.param(0, np.ones(6), False, id="anew at every step"),
        pytest.param(1, np.ones(6), False, id="once for good"),
        pytest.param(1, np.ones(6), True, id="once for good, pooled"),
        pytest.param(1, np.array([0, 0, 0, 0, 1, 1]), True, id="growing in training, pooled"),
    ],
)
def test_what_is_like_its_null_seldom_emerges(lasting, growth, pooled):
    """A direction with as much effect as null directions have, drawn anew at every step or once for all of them."""
    draw, steps, emerged = np.random.default_rng(0), STEPS[::3], 0

    def effects(n):
        shared, own = draw.normal(0, 0.2, n), draw.normal(0, 0.2, (len(steps), n))
        return growth[:, None] * (shared if lasting else own)

    for case in range(200):
        nulls = {kind: effects(n) + draw.normal(0, 0.01, (len(steps), n)) for kind, n in (("a", 200), ("b", 40))}
        values = effects(1) + draw.normal(0, 0.06, (len(steps), 36))
        emerged += np.isfinite(trajectory(steps, values, nulls, pooled, PLAN, case)[0].onset_step.item())
    assert emerged <= 0.05 * 200
    assert np.isfinite(trajectory(steps, values + 1.5, nulls, pooled, PLAN, 0)[0].onset_step.item())


def test_every_kind_of_null_has_to_be_cleared():
    values, nulls = simulate(sigmoid(170), 0)
    for pooled in (False, True):
        without, one, nine = (
            trajectory(STEPS, values, nulls | {"third": np.full((len(STEPS), 5), level)}, pooled, PLAN, 0)[0]
            for level in (0.0, 1.0, 9.0)
        )
        assert without.onset_step < one.onset_step and (one.null_threshold >= 1).all()
        assert np.isinf([nine.onset_step, nine.onset_lower, nine.onset_upper]).all()


def test_a_pooled_null_counts_the_draws_of_all_checkpoints():
    """What is certain from the first, but less than null directions do later, has to beat these to have emerged."""
    mean = 0.2 + sigmoid(500)
    values, nulls = simulate(mean, 0)
    nulls = {kind: null * np.where(STEPS < 224, 0.01, 1)[:, None] for kind, null in nulls.items()}
    early = {kind: null[:6] for kind, null in nulls.items()}
    assert trajectory(STEPS[:6], values[:6], early, True, PLAN, 0)[0].onset_step == 0
    found, _ = trajectory(STEPS, values, nulls, True, PLAN, 0)
    assert found.onset_step >= 320 and found.null_threshold.min() > 0.25 > found.null_upper.min()


@pytest.mark.parametrize("level", [0.0, 0.5])
def test_flat_data_have_neither_onset_nor_midpoint(level):
    values, nulls = np.full((len(STEPS), 8), level), {"random": np.full((len(STEPS), 20), level)}
    found, draws = trajectory(STEPS, values, nulls, True, PLAN, 0)
    assert np.isnan([found.midpoint, found.change_point]).all()
    assert np.isinf([found.onset_step, found.onset_lower, found.onset_upper, *draws]).all()


def test_midpoint_and_change_point_of_clean_curves():
    assert sigmoid_midpoint(STEPS, 0.3 + sigmoid(200)) == pytest.approx(200, rel=1e-3)
    assert np.isnan(sigmoid_midpoint(STEPS, -sigmoid(200)))  # falls
    assert np.isnan(sigmoid_midpoint(STEPS, sigmoid(1e5)))  # is yet to rise
    assert change_point(STEPS, np.where(STEPS >= 256, 1.0, 0.0)) == 256
    assert np.isnan(change_point(STEPS[:3], np.array([0.0, 0, 1])))


def test_a_midpoint_is_fitted_in_silence():
    with warnings.catch_warnings(action="error"):
        sigmoid_midpoint(STEPS, np.zeros(len(STEPS)))


def test_p_values_count_null_draws_of_the_worse_kind():
    nulls = {"random": np.arange(-80, 19.0).reshape(1, -1), "shuffled": np.arange(-18, 1.0).reshape(1, -1)}
    nulls["other concepts"] = np.full((1, 2), 1000.0)  # too few to count
    assert emergence.p_value(np.array([50.0, np.nan, 52.0]), nulls) == pytest.approx(1 / 20)
    assert emergence.p_value(np.array([10.0]), nulls) == pytest.approx(10 / 100)
    yes, no = np.array([1.0] * 9 + [0, np.nan]), np.array([1.0] + [0] * 9)
    assert emergence.p_value(yes, no) < 0.001 and emergence.p_value(no, yes) > 0.99


# --- a study as a whole -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study():
    probes, interventions = collected()
    return probes, interventions, analyse(probes, interventions, PLAN)


def test_what_words_or_an_untrained_model_separate_is_no_emergence(study):
    probes, interventions, found = study
    assert found.baseline_words.sel(measure="separability").values.tolist() == pytest.approx([0.55] * 3)
    assert (found.null_threshold.sel(measure="separability") >= 0.55).all()
    told = probes.assign(auroc_words=probes.auroc_words + 0.44)
    by_words = analyse(told, interventions, PLAN)
    assert not np.isfinite(by_words.onset_step.sel(measure="separability")).any()
    head_start = probes.assign(auroc=probes.auroc.where(probes.step > 0, 0.99))
    untrained = analyse(head_start, interventions, PLAN)
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
    sooner = [STEPS[index(step) - 1] for step in (128, 320)]
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
    text = emergence.summary(found)
    assert text.loc["never", "steerability"] == "not reached" and text.loc["early", "steerability"].startswith("128 [")


def test_discoveries_are_corrected_for_every_concept_layer_and_checkpoint(study):
    _, interventions, found = study
    p = interventions.p_random.isel(method=1).transpose("concept", "layer", "step").values
    assert found.q_random.shape == p.shape and (found.q_random.values >= p).all()
    rank = (p == p.min()).sum()
    assert found.q_random.values.min() == pytest.approx(p.min() * p.size / rank)


def test_same_data_and_seed_give_the_same_numbers_and_another_seed_other_resamples(study):
    probes, interventions, found = study
    xr.testing.assert_identical(analyse(probes, interventions, PLAN), found)
    other = analyse(probes, interventions, Plan(**vars(PLAN) | {"seed": 1}))
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
    again = analyse(probes, changed, PLAN)
    assert again.chosen_layer.equals(found.chosen_layer) and not again.value.equals(found.value)
    turned = interventions.steerability_validation.roll(layer=1)
    moved = analyse(probes, interventions.assign(steerability_validation=turned), PLAN)
    assert moved.chosen_layer.equals((found.chosen_layer + 1) % 3)
    # And validation prompts have no part in what is reported.
    quiet = interventions.log_odds.where(interventions.split == "test", 1e6)
    assert analyse(probes, interventions.assign(log_odds=quiet), PLAN).value.equals(found.value)


def test_null_draws_that_do_more_at_another_layer_count_with_what_they_do_there(study):
    probes, interventions, _ = study
    stronger = {
        name: interventions[name] + 5 * (interventions.layer == 0)
        for name in ("steerability_null", "steerability_null_validation")
    }
    found = analyse(probes, interventions.assign(stronger), PLAN)
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
        chosen = emergence.null_at_own_layer(data)
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
    assert emergence.frequency_order(onset) == pytest.approx(1)
    assert emergence.frequency_order(onset.copy(data=[30.0, 10, 5, 20, 1])) < 0
    assert np.isnan(emergence.frequency_order(onset[[0, 4]]))
