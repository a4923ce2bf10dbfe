"""Directions: planted ones are found, absent ones are not, and every shortcut gives what the long way gives."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import special_ortho_group
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from steerlib import directions
from steerlib.directions import METHODS, fit, shuffled_labels, true_labels, unit

PAIRS, HIDDEN = 200, 12
TRUTH = unit(np.random.default_rng(99).standard_normal(HIDDEN))
every_method = pytest.mark.parametrize("method", METHODS)


def planted(seed, pairs=PAIRS, gap=4.0):
    """Noisy states, all positives and then all negatives, ``gap`` standard deviations apart along TRUTH.

    Partners share half of their variance, as a pair of stimuli does.
    """
    rng = np.random.default_rng(seed)
    own, shared = rng.standard_normal((2, pairs, HIDDEN)), rng.standard_normal((pairs, HIDDEN))
    noise = (own + shared) / np.sqrt(2)
    return np.concatenate([noise[0] + gap * TRUTH, noise[1]])


def test_methods_tested_here_are_all_there_are():
    assert set(METHODS) == {"mean_difference", "pca", "logistic"}


@every_method
@pytest.mark.parametrize("seed", range(5))
def test_a_planted_direction_is_found_and_points_from_negative_to_positive(method, seed):
    states, labels = planted(seed), true_labels(PAIRS)
    (found,) = fit(method, states, labels, seed)
    assert found @ TRUTH > 0.95
    (turned,) = fit(method, states, labels[..., ::-1], seed)
    assert turned @ found < -0.9999


@every_method
def test_turned_scaled_and_moved_states_give_the_turned_direction(method):
    states, labels = planted(0), np.concatenate([true_labels(PAIRS), shuffled_labels(PAIRS, 2, 0)])
    turn = special_ortho_group.rvs(HIDDEN, random_state=1)
    expected, found = fit(method, states, labels) @ turn, fit(method, 7 * states @ turn + 50, labels)
    assert ((expected * found).sum(-1) > 0.9999).all()


@every_method
def test_the_true_direction_does_not_depend_on_how_many_nulls_are_fitted_beside_it(method):
    states, labels = planted(0), np.concatenate([true_labels(PAIRS), shuffled_labels(PAIRS, 5, 0)])
    together = fit(method, states, labels, seed=3)
    assert together[0] @ fit(method, states, labels[:1], seed=3)[0] > 0.99999
    assert np.allclose(np.linalg.norm(together, axis=1), 1)


@pytest.mark.parametrize("method", ["mean_difference", "logistic"])
def test_draws_fitted_at_once_are_as_fitted_one_at_a_time(method):
    """(PCA draws its own flips for every labelling; it is compared with an SVD below.)"""
    states, labels = planted(0), shuffled_labels(PAIRS, 6, 0)
    alone = np.concatenate([fit(method, states, labels[[r]]) for r in range(6)])
    assert ((fit(method, states, labels) * alone).sum(-1) > 0.99999).all()


def test_pca_is_an_svd_of_flipped_and_centred_differences():
    states, labels = planted(0), np.concatenate([true_labels(PAIRS), shuffled_labels(PAIRS, 3, 0)])
    flips = np.random.default_rng(5).choice([-1.0, 1.0], size=labels.shape[:2])
    for pairs, flip, found in zip(labels, flips, fit("pca", states, labels, seed=5), strict=True):
        difference = (states[pairs[:, 0]] - states[pairs[:, 1]]) * flip[:, None]
        _, _, components = np.linalg.svd(difference - difference.mean(0))
        assert abs(components[0] @ found) > 0.999999


def test_logistic_solves_all_labellings_as_scikit_learn_solves_each():
    """In direction and in length, so that the strength of the penalty is the same, too."""
    states, labels = planted(0, gap=2), np.concatenate([true_labels(PAIRS), shuffled_labels(PAIRS, 20, 0)])
    centred = states - states.mean(0)
    scaled = centred / np.sqrt((centred**2).mean())
    for pairs, weights in zip(labels, directions.logistic(states, labels, 0), strict=True):
        positive = np.isin(np.arange(2 * PAIRS), pairs[:, 0])
        (expected,) = LogisticRegression(C=1, tol=1e-8).fit(scaled, positive).coef_
        assert unit(weights) @ unit(expected) > 0.9999
        assert np.linalg.norm(weights) == pytest.approx(np.linalg.norm(expected), rel=1e-2)


@pytest.mark.parametrize("pairs", [16, 17, 2])
def test_a_shuffled_labelling_deals_each_state_once_and_pairs_within_classes(pairs):
    """An odd class cannot be paired up: there one pair at most is an exception."""
    draws, odd = shuffled_labels(pairs, 60, seed=0), pairs % 2
    assert draws.shape == (60, pairs, 2)
    assert all(len(np.unique(draw)) >= 2 * (pairs - odd) for draw in draws)
    assert (draws[..., 0] != draws[..., 1]).all()
    assert (((draws < pairs).sum(-1) == 1).sum(-1) <= odd).all()
    # Draws differ, seeds differ, and either state of a pair is the positive one half of the time.
    assert len(np.unique(draws, axis=0)) == (60 if pairs > 2 else 4)
    assert (draws == shuffled_labels(pairs, 60, seed=0)).all() and (draws != shuffled_labels(pairs, 60, 1)).any()
    assert 0.4 < (draws[..., 0] < draws[..., 1]).mean() < 0.6


@pytest.mark.parametrize("method", ["mean_difference", "pca"])  # logistic's penalty makes little of it in any case
@pytest.mark.parametrize("pairs", [30, 31])
def test_shuffled_labels_cancel_a_concept_that_a_plain_permutation_finds_again(method, pairs):
    """Where the concept is what varies most."""
    worlds, rng = [planted(seed, pairs, gap=12) for seed in range(6)], np.random.default_rng(0)
    permutations = np.stack([rng.permutation(2 * pairs).reshape(-1, 2) for _ in range(100)])
    dealt, permuted = (
        np.array([fit(method, states, labels) @ TRUTH for states in worlds])
        for labels in (shuffled_labels(pairs, 100, 0), permutations)
    )
    chance = np.sqrt(2 / np.pi / HIDDEN)  # mean |cosine| of two random directions
    assert abs(dealt).mean() < 1.3 * chance < 2 * chance < abs(permuted).mean()


@every_method
def test_placebo_labels_separate_held_out_states_by_chance_only(method):
    """Mean AUROC over many worlds is 1/2 within four standard errors, and far from it when something is planted."""

    def held_out(seed, gap):
        found = fit(method, planted(seed, 20, gap), true_labels(20), seed)
        return directions.auroc(found @ planted(seed + 1000, 20, gap).T, np.arange(40) < 20)[0]

    null, real = (np.array([held_out(seed, gap) for seed in range(150)]) for gap in (0.0, 2.0))
    assert abs(null.mean() - 0.5) < 4 * null.std() / np.sqrt(150) < 0.05
    assert real.mean() > 0.8


@pytest.mark.parametrize("levels", [3, 1000], ids=["many ties", "hardly any"])
def test_auroc_is_scikit_learns_ties_included(levels):
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(levels, size=(4, 5, 60)).astype(float), rng.random(60) < 0.3
    found = directions.auroc(scores, positive)
    expected = [roc_auc_score(positive, row) for row in scores.reshape(-1, 60)]
    assert np.allclose(found, np.reshape(expected, (4, 5)))
    assert np.isnan(directions.auroc(scores, np.zeros(60, bool))).all()


def test_folds_are_judged_apart():
    """Three pairs in two templates, by hand: scores of positives, then of negatives."""
    fold, scores = np.array([0, 0, 7]), np.array([[3.0, 1.0, 5.0, 2.0, 0.0, 6.0], [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]])
    assert directions.auroc_by_fold(scores, fold).tolist() == [[0.75, 0.0], [1.0, 1.0]]
    cuts = np.array([1.5, 0.5])  # one a row; row 0: right are 3 and 0 of template 0, and 5 of template 7
    assert directions.accuracy_by_fold(scores, cuts, fold).tolist() == [[0.5, 0.5], [1.0, 1.0]]


@every_method
@pytest.mark.parametrize("constant", [False, True])
def test_classes_that_are_the_same_have_no_direction_and_no_nan(method, constant):
    half = np.ones((10, HIDDEN)) if constant else planted(0)[:10]
    states = np.concatenate([half, half])
    assert np.abs(fit(method, states, true_labels(10))).max() < 1e-6
    assert np.isfinite(fit(method, states, shuffled_labels(10, 5, 0))).all()


@every_method
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_states_that_are_not_finite_are_refused(method, bad):
    states = planted(0)
    states[3, 4] = bad
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        fit(method, states, true_labels(PAIRS))


def test_random_directions_are_isotropic_units_of_their_seed():
    draws = directions.random_directions(4000, 8, seed=[0, 1])
    assert np.allclose(np.linalg.norm(draws, axis=1), 1)
    assert np.abs(draws.T @ draws / 4000 - np.eye(8) / 8).max() < 0.02 and np.abs(draws.mean(0)).max() < 0.03
    assert (draws == directions.random_directions(4000, 8, seed=[0, 1])).all()
    assert (draws != directions.random_directions(4000, 8, seed=[0, 2])).all()
