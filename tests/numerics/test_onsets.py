"""The onset rule: planted onsets are found in time and in order, and what is like its null seldom emerges."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from helpers.histories import STEPS, STUDY
from steerlib.numerics import onsets as rule
from steerlib.numerics.onsets import change_point, onsets, sigmoid_midpoint
from steerlib.numerics.statistics import bootstrap_means


def trajectory(steps, values, nulls, pooled, seed):
    """Of the mean of units (step, unit), which are resampled."""
    resamples = bootstrap_means(values, STUDY.emergence.bootstrap, seed)
    return rule.trajectory(
        steps, values.mean(1), resamples, nulls, STUDY.emergence.level, STUDY.emergence.sustained, pooled
    )


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
        found, _ = trajectory(STEPS, *simulate(mean, seed), True, seed)
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
    found = [trajectory(STEPS, *simulate(sigmoid(m), m), True, m)[0] for m in (64, 170, 300, 450)]
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
        emerged += np.isfinite(trajectory(steps, values, nulls, pooled, case)[0].onset_step.item())
    assert emerged <= 0.05 * 200
    assert np.isfinite(trajectory(steps, values + 1.5, nulls, pooled, 0)[0].onset_step.item())


def test_every_kind_of_null_has_to_be_cleared():
    values, nulls = simulate(sigmoid(170), 0)
    for pooled in (False, True):
        without, one, nine = (
            trajectory(STEPS, values, nulls | {"third": np.full((len(STEPS), 5), level)}, pooled, 0)[0]
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
    assert trajectory(STEPS[:6], values[:6], early, True, 0)[0].onset_step == 0
    found, _ = trajectory(STEPS, values, nulls, True, 0)
    assert found.onset_step >= 320 and found.null_threshold.min() > 0.25 > found.null_upper.min()


@pytest.mark.parametrize("level", [0.0, 0.5])
def test_flat_data_have_neither_onset_nor_midpoint(level):
    values, nulls = np.full((len(STEPS), 8), level), {"random": np.full((len(STEPS), 20), level)}
    found, draws = trajectory(STEPS, values, nulls, True, 0)
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
