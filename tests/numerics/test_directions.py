"""Labellings, scores, and what a direction carries along: by hand, and by scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from steerlib.numerics import directions, separability
from steerlib.numerics.directions import fit, unit
from steerlib.numerics.labels import differences, gaps, positives, shuffled_labels, true_labels

HIDDEN = 12
TRUTH = unit(np.random.default_rng(99).standard_normal(HIDDEN))


def test_true_labels_pair_the_first_half_with_the_second():
    assert true_labels(3).tolist() == [[[0, 3], [1, 4], [2, 5]]]
    assert positives(true_labels(3), 6)[:, 0].tolist() == [True] * 3 + [False] * 3


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


@pytest.mark.parametrize("pairs", [16, 17])
def test_gaps_are_the_means_of_differences_though_a_pair_serves_twice(pairs):
    states, labels = np.random.default_rng(0).standard_normal((2 * pairs, HIDDEN)), shuffled_labels(pairs, 60, 0)
    np.testing.assert_allclose(gaps(states, labels), differences(states, labels).mean(1), atol=1e-14)


@pytest.mark.parametrize("method", ["mean_difference", "pca", "lda"])  # penalties make little of it in any case
@pytest.mark.parametrize("pairs", [30, 31])
def test_shuffled_labels_cancel_a_concept_that_a_plain_permutation_finds_again(method, pairs):
    """Where the concept is what varies most."""
    worlds, rng = (
        [np.random.default_rng(s).standard_normal((2 * pairs, HIDDEN)) for s in range(6)],
        np.random.default_rng(0),
    )
    for states in worlds:
        states[:pairs] += 12 * TRUTH
    permutations = np.stack([rng.permutation(2 * pairs).reshape(-1, 2) for _ in range(100)])
    dealt, permuted = (
        np.array([fit(method, states, labels).vector @ TRUTH for states in worlds])
        for labels in (shuffled_labels(pairs, 100, 0), permutations)
    )
    chance = np.sqrt(2 / np.pi / HIDDEN)  # mean |cosine| of two random directions
    assert abs(dealt).mean() < 1.3 * chance
    assert abs(permuted).mean() > 2 * chance or method == "lda"


@pytest.mark.parametrize("states", [12, 60])
@pytest.mark.parametrize("levels", [3, 1000], ids=["many ties", "hardly any"])
def test_auroc_is_scikit_learns_ties_included(levels, states):
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(levels, size=(4, 5, states)).astype(float), rng.random(states) < 0.3
    found = separability.auroc(scores, positive)
    expected = [roc_auc_score(positive, row) for row in scores.reshape(-1, states)]
    assert np.allclose(found, np.reshape(expected, (4, 5)))
    scores[0, 0, 0] = np.nan
    assert np.isnan(separability.auroc(scores, positive)).sum() == 1


def test_folds_are_judged_apart():
    """Three pairs in two templates, by hand: scores of positives, then of negatives."""
    fold, scores = np.array([0, 0, 7]), np.array([[3.0, 1.0, 5.0, 2.0, 0.0, 6.0], [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]])
    assert separability.auroc_by_fold(scores, fold).tolist() == [[0.75, 0.0], [1.0, 1.0]]
    cuts = np.array([2.0, 0.5])  # one a row; row 0: right are 3, 2 and 0 of template 0, and 5 of template 7
    assert separability.accuracy_by_fold(scores, cuts, fold).tolist() == [[0.75, 0.5], [1.0, 1.0]]
    several = scores[:, None], cuts[:, None]  # however many there are, of layers and draws
    assert separability.auroc_by_fold(several[0], fold).tolist() == [[[0.75, 0.0]], [[1.0, 1.0]]]
    assert separability.accuracy_by_fold(*several, fold).tolist() == [[[0.75, 0.5]], [[1.0, 1.0]]]


def test_words_alone_tell_what_their_counts_tell():
    """Be they of one letter; of the second template's texts they tell nothing."""
    found = separability.auroc_of_words(["a x", "a y", "o x", "o y"], ["a y", "x y", "o x", "y x"], np.array([0, 1]))
    assert found.tolist() == [1, 0.5]


def test_scores_are_dealt_within_their_template_in_another_order_for_every_draw():
    fold = np.repeat([0, 1], 20)
    scores = np.tile(np.concatenate([fold * 100 + np.arange(40), fold * 100 + np.arange(40) + 40]), (3, 1)).astype(
        float
    )
    dealt = separability.deal_within_folds(scores[:, None], fold, seed=0)[:, 0]
    both = np.concatenate([fold, fold])
    for f in (0, 1):
        assert (np.sort(dealt[:, both == f]) == np.sort(scores[:, both == f])).all()
    assert (dealt[0] != dealt[1]).any() and (dealt != scores).any()


def test_spread_is_the_standard_deviation_within_classes():
    """A gap between them does not count, nor does where they lie."""
    rng = np.random.default_rng(0)
    states = np.concatenate([rng.normal(1000, 1, (5000, 3)), rng.normal(0, 2, (5000, 3))])
    found = directions.spread(np.stack([np.eye(3), 2 * np.eye(3)]), states, 5000)
    assert found.shape == (2, 3) and np.allclose(found[0], np.sqrt((1 + 4) / 2), rtol=0.05)
    assert np.allclose(found[1], 2 * found[0])


def test_random_directions_are_isotropic_units_of_their_seed():
    draws = directions.random_directions(4000, 8, seed=[0, 1])
    assert np.allclose(np.linalg.norm(draws, axis=1), 1)
    assert np.abs(draws.T @ draws / 4000 - np.eye(8) / 8).max() < 0.02 and np.abs(draws.mean(0)).max() < 0.03
    assert (draws == directions.random_directions(4000, 8, seed=[0, 1])).all()
    assert (draws != directions.random_directions(4000, 8, seed=[0, 2])).all()


def test_states_in_single_precision_are_computed_with_in_double_and_equal_ones_are_not_turned():
    states = np.random.default_rng(0).standard_normal((6, HIDDEN)).astype(np.float32)
    single, double = (fit("pca", of, true_labels(3)) for of in (states, states.astype(float)))
    assert (single.vector == double.vector).all()
    assert fit("mean_difference", states * 0, true_labels(3)).sign == 1


def test_zero_has_no_direction():
    assert unit(np.array([[0.0, 0.0], [3.0, 4.0]])).tolist() == [[0, 0], [0.6, 0.8]]
