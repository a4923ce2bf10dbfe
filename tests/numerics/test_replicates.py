"""Replicates: what a few of them say holds of all there might be and of one more, as often as is claimed."""

import numpy as np
import pytest
from scipy.stats import t as student_t

from steerlib.numerics.replicates import before, mere_chance, onset_population, population

STEP, SEED_SD, OWN_SD = 150.0, 0.1, 0.05  # a true onset; of log(1 + onset) between seeds, and of each one's own


def seeds(count, repeats, draw, sd=SEED_SD, own=OWN_SD):
    """Onsets of so many seeds with their own intervals (repeat, seed); their mean in log(1 + step) is that of STEP."""
    x = np.log1p(STEP) + draw.normal(0, sd, (repeats, count)) + draw.normal(0, own, (repeats, count))
    return tuple(np.expm1(x + far * own) for far in (0, -1.96, 1.96))


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("sd", [0.03, SEED_SD])
def test_intervals_hold_the_mean_of_all_seeds_and_a_new_one(count, sd):
    draw = np.random.default_rng(count)
    found = onset_population(*seeds(count, 2000, draw, sd), 0.95)
    new = seeds(1, 2000, draw, sd)[0][:, 0]
    assert ((found.mean_lower <= STEP) & (found.mean_upper >= STEP)).mean() >= 0.93
    assert ((found.new_lower <= new) & (found.new_upper >= new)).mean() >= 0.93
    naive = np.array([of - np.log1p(STEP) for of in np.log1p(seeds(count, 2000, draw, sd)[0])])
    plain = abs(naive.mean(1)) <= 1.96 * naive.std(1, ddof=1) / np.sqrt(count)
    assert plain.mean() < 0.93, "a normal quantile would not do"


def test_they_are_students_t_and_seeds_that_agree_are_no_surer_than_each_of_them():
    apart = population(np.array([1.0, 2, 3]), np.array([0.9, 1.9, 2.9]), np.array([1.1, 2.1, 3.1]), 0.9)
    far = student_t.ppf(0.95, 2)
    ends = [2 - far / 3**0.5, 2 + far / 3**0.5, 2 - far * (4 / 3) ** 0.5, 2 + far * (4 / 3) ** 0.5]
    assert list(apart) == pytest.approx([2, *ends])
    two = population(np.array([1.0, 3]), np.array([0.9, 2.9]), np.array([1.1, 3.1]), 0.9)
    assert two.mean_upper == pytest.approx(2 + student_t.ppf(0.95, 1))  # sd √2, over √2
    alike = population(np.full(3, 2.0), np.full(3, 1.0), np.full(3, 3.0), 0.9)
    assert float(alike.mean_upper) == pytest.approx(2 + far / 1.6449 / 3**0.5, abs=1e-3)
    one_sided = population(np.full(3, 2.0), np.full(3, 1.0), np.array([3.0, np.inf, 3.0]), 0.9)
    assert list(one_sided) == pytest.approx(list(alike))


@pytest.mark.parametrize("absent", [np.inf, -np.inf, np.nan])
def test_what_one_has_no_value_of_is_averaged_nowhere_and_one_alone_has_no_population(absent):
    onset = np.array([[100.0, 200, 400], [100, absent, 400]])
    found = onset_population(onset, onset, onset, 0.95)
    assert np.isnan([of[1] for of in found]).all() and float(found.mean[0]) == pytest.approx(200, abs=1)
    assert np.isnan(onset_population(onset[:, :1], onset[:, :1], onset[:, :1], 0.95)).all()


def test_no_onset_lies_before_training_and_an_interval_without_ends_has_none():
    onset = np.array([[1.0, 20, 900]])
    found = onset_population(onset, np.full((1, 3), -np.inf), np.full((1, 3), np.inf), 0.95)
    assert found.mean_lower == found.new_lower == 0 and found.mean_upper == np.inf
    assert onset_population(onset, onset, onset, 0.95).new_lower == 0
    assert (np.array(onset_population(onset * 0, onset * 0, onset * 0, 0.95)) == 0).all()


@pytest.mark.parametrize("count", [2, 3, 4])
def test_probabilities_of_an_order_come_true_as_often_as_they_say(count):
    """Of all pairs of which it says 0.9 that one is first, it is in nine of ten."""
    draw, said, true = np.random.default_rng(count), {"mean": [], "new": []}, {"mean": [], "new": []}
    first, second = np.triu_indices(6, 1)
    for _ in range(1000):
        middle = np.log1p(STEP) + draw.normal(0, 0.3, 6)
        early = draw.normal(0, 0.2, (count + 1, 1))  # a seed may be early in all
        onset = np.expm1(middle + early + draw.normal(0, SEED_SD, (count + 1, 6)))
        for kind, told, truth in zip(said, before(onset[:-1]), (middle, onset[-1]), strict=True):
            said[kind].extend(told[first, second])
            true[kind].extend(truth[first] < truth[second])
    for kind in said:
        told, came = np.array(said[kind]), np.array(true[kind])
        for low, high in ((0, 0.05), (0.05, 0.3), (0.3, 0.7), (0.7, 0.95), (0.95, 1)):
            among = (told >= low) & (told <= high)
            assert came[among].mean() == pytest.approx(told[among].mean(), abs=0.04), (kind, low)


def test_an_order_is_of_what_has_an_onset_in_all_seeds():
    onset = np.array([[100.0, 200, np.inf, 300], [110, 190, 400, 290], [90, 210, 400, 310]])
    mean, new = before(onset)
    assert mean[0, 1] > new[0, 1] > 0.9 and mean[0, 1] + mean[1, 0] == pytest.approx(1)
    assert np.isnan(mean[2]).all() and np.isnan(mean[:, 2]).all() and np.isnan(np.diag(mean)).all()
    assert np.isnan(before(onset[:1])[0]).all(), "one seed has no spread"
    assert np.isnan(before(onset[:, :1])[0]).all()
    shifted = before(np.array([[100.0, 200, 300]]) * np.array([[1], [1], [1]]))[0]
    assert shifted[0, 1] == 1, "no spread at all"
    assert np.isnan(before(np.full((3, 2), 100.0))[0]).all() and np.isnan(before(np.full((3, 2), np.inf))[0]).all()


@pytest.mark.parametrize(("concepts", "steps"), [(9, 15), (4, 15), (3, 12)])
def test_a_difference_of_mere_chance_is_seldom_beyond_it(concepts, steps):
    """Of three trainings, each of which moves what it will, neighbouring steps alike and later ones further."""
    draw, beyond = np.random.default_rng(steps), []
    for _ in range(400):
        moved = draw.normal(0, 1, (3, concepts, steps + 1))
        without, once, again = (moved[..., 1:] + moved[..., :-1]) * np.linspace(0.1, 1, steps)
        beyond.append((abs(once - without) > mere_chance(again - once, 0.95)).mean())
    assert np.mean(beyond) <= 0.06
    assert np.mean(beyond) > 0.01, "and it is no wall"


def test_too_few_differences_tell_nothing_of_chance_and_missing_ones_do_not_count():
    draw = np.random.default_rng(0)
    assert np.isinf(mere_chance(draw.normal(size=(3, 6)), 0.95)).all()
    many = draw.normal(size=(40, 6))
    many[:, 0] = np.nan
    assert np.isfinite(mere_chance(many, 0.95)).all()
    assert (mere_chance(np.full((3, 2), np.nan), 0.95) == np.inf).all()
    late = np.concatenate([np.full((40, 3), 0.1), np.full((40, 3), 10)], 1)
    assert mere_chance(late, 0.95).tolist() == [0.1] * 3 + [10] * 3, "of its own time"


def test_of_neighbouring_steps_as_few_are_asked_as_are_enough_and_on_both_sides():
    apart = np.arange(1.0, 4) * np.ones((20, 1))
    assert mere_chance(apart, 0.95).tolist() == [2, 3, 3], "forty sizes, of 20 a step"
    assert mere_chance(-apart[:4], 0.5).tolist() == [1, 2, 3], "four are enough, whichever way they go"
