"""Erasure and orthogonalisation: what must be gone is gone, what need not change does not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ortho_group
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression

from steerlib.numerics.directions import unit
from steerlib.numerics.erasure import gaussian_map, gram_schmidt, leace, leace_rest, whitened

N, HIDDEN = 120, 10


def world(seed=0, n=N, d=HIDDEN):
    """States with a strong covariance in which two labels are planted."""
    rng = np.random.default_rng(seed)
    z = rng.integers(2, size=(n, 2)).astype(float)
    mixing = rng.standard_normal((d, d)) * np.geomspace(0.1, 3, d)
    return (rng.standard_normal((n, d)) + 3 * z @ rng.standard_normal((2, d))) @ mixing + 40, z


def cross_covariance(states, z):
    return (states - states.mean(0)).T @ (z - z.mean(0)) / len(z)


def erase(eraser, states):
    """States whose difference from the mean is free of what the eraser reads."""
    return eraser.mean + eraser.free(states - eraser.mean)


shapes = pytest.mark.parametrize("n, d", [(N, HIDDEN), (20, 40)], ids=["more states than dimensions", "fewer"])
shrunk = pytest.mark.parametrize("shrinkage", [True, False])


# Erasing


@shapes
@shrunk
def test_nothing_linear_is_left_of_an_erased_label(n, d, shrinkage):
    states, z = world(0, n, d)
    for labels in (z, z[:, 0]):
        erased = erase(leace(states, labels, shrinkage), states)
        assert (
            np.abs(cross_covariance(erased, labels)).max()
            < 1e-9
            < 1e-2
            < np.abs(cross_covariance(states, labels)).max()
        )
    assert np.allclose(erased[z[:, 0] == 1].mean(0), erased[z[:, 0] == 0].mean(0))
    assert np.allclose(erased.mean(0), states.mean(0))


@shrunk
def test_a_fresh_logistic_probe_falls_to_the_majority(shrinkage):
    """And not for want of training: before, and for a label that was left, it is nearly always right."""
    states, z = world()

    def accuracy(states, z):
        return LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(states, z).score(states, z)

    erased = erase(leace(states, z[:, 0], shrinkage), states)
    majority = max(z[:, 0].mean(), 1 - z[:, 0].mean())
    assert accuracy(states, z[:, 0]) > 0.95 and accuracy(erased, z[:, 1]) > 0.9
    assert accuracy(erased, z[:, 0]) <= majority + 1e-9


@shapes
@shrunk
def test_erasing_twice_is_erasing_once_and_moves_states_along_left_only(n, d, shrinkage):
    states, z = world(0, n, d)
    eraser = leace(states, z, shrinkage)
    once = erase(eraser, states)
    assert np.allclose(erase(eraser, once), once)
    assert np.allclose(eraser.right @ eraser.left, np.eye(2))
    across = np.linalg.svd(eraser.left.T)[2][2:]  # all that is orthogonal to left
    assert np.allclose((once - states) @ across.T, 0, atol=1e-8) and not np.allclose(once, states)
    other = np.random.default_rng(1).standard_normal((3, d))
    assert np.allclose(eraser.free(other[0] - other[1]), erase(eraser, other[0]) - erase(eraser, other[1]))
    assert np.allclose(eraser.free(other) @ eraser.right.T, 0)


def test_no_eraser_that_leaves_nothing_changes_states_less():
    """In the metric of the covariance and in the plain one. The rival projects the span of the gaps out."""
    states, z = world()
    eraser, gaps = leace(states, z, shrinkage=False), np.linalg.qr(cross_covariance(states, z))[0]
    centred = states - states.mean(0)
    change, rival = erase(eraser, states) - states, -centred @ gaps @ gaps.T
    assert np.abs(cross_covariance(states + rival, z)).max() < 1e-9
    inverse = np.linalg.inv(centred.T @ centred / N)
    for metric in (np.eye(HIDDEN), inverse):
        lost, more = (np.einsum("nd,de,ne->", moved, metric, moved) for moved in (change, rival))
        assert lost < 0.99 * more
        # Nor does a small step from it, among erasers, do better: it is a minimum.
        for seed in range(20):
            step = np.random.default_rng(seed).standard_normal((HIDDEN, HIDDEN)) * 1e-3
            blind = np.eye(HIDDEN) - gaps @ gaps.T  # reads nothing of the gaps, so the result erases as well
            nearby = change + centred @ (step @ blind).T
            assert np.einsum("nd,de,ne->", nearby, metric, nearby) > lost


def test_left_is_the_gap_and_right_is_what_the_best_linear_predictor_reads():
    states, z = world()
    eraser = leace(states, z[:, 0], shrinkage=False)
    (predictor,) = np.linalg.lstsq(states - states.mean(0), z[:, :1] - z[:, :1].mean(), rcond=None)[0].T
    gap = states[z[:, 0] == 1].mean(0) - states[z[:, 0] == 0].mean(0)
    assert abs(unit(eraser.left[:, 0]) @ unit(gap)) > 1 - 1e-9
    assert abs(unit(eraser.right[0]) @ unit(predictor)) > 1 - 1e-9


def test_shrinkage_spares_states_on_which_it_was_not_fitted_and_erases_as_much():
    def of_unseen(shrinkage, seed):
        states, z = world(seed, 430, 40)
        erased = erase(leace(states[:30], z[:30, 0], shrinkage), states[30:])
        label = z[30:, 0] - z[30:, 0].mean()
        centred = erased - erased.mean(0)
        explained = np.linalg.pinv(centred, rcond=1e-9) @ label @ centred.T @ label / (label @ label)
        return ((erased - states[30:]) ** 2).sum(), explained

    shrunk, plain = (np.array([of_unseen(on, seed) for seed in range(15)]) for on in (True, False))
    assert shrunk[:, 0].sum() < 0.95 * plain[:, 0].sum()
    assert np.allclose(shrunk[:, 1], plain[:, 1], atol=0.01)
    states, z = world()
    assert (leace(states, z).right == leace(states, z, True).right).all(), "what is not said otherwise"


def test_what_is_stored_in_single_precision_is_computed_in_double():
    states, z = world()
    single, other = states.astype(np.float32), world(1)[0].astype(np.float32)
    assert (leace(single, z).right == leace(single.astype(float), z).right).all()
    assert (gaussian_map(single, other)[0] == gaussian_map(single.astype(float), other.astype(float))[0]).all()


def test_labels_that_do_not_vary_or_hang_together_add_nothing():
    states, z = world()
    both = erase(leace(states, z), states)
    more = np.column_stack([z, z @ [2.0, -1000.0], np.full(N, 0.1), 1e6 * z[:, 0]])
    assert np.allclose(erase(leace(states, more), states), both) and leace(states, more).left.shape == (HIDDEN, 2)
    for constant in (0.1, 1.0):
        assert leace(states, np.full(N, constant)).left.shape == (HIDDEN, 0)
    assert leace(np.full((5, 3), 0.1), np.arange(5)).left.shape == (3, 0)


def test_what_cannot_be_erased_is_refused():
    for states, labels in [(np.full((3, 2), np.nan), np.ones(3)), (np.ones((3, 2)), np.full(3, np.inf))]:
        with pytest.raises(ValueError, match="infs or NaNs"):
            leace(states, labels)
    with pytest.raises(ValueError):
        leace(np.ones((3, 2)), np.ones(4))


# Carrying one class over to the other


@shapes
def test_the_map_gives_negatives_the_mean_and_covariance_of_positives(n, d):
    negative, positive = world(0, n, d)[0], world(1, n, d)[0] + 5
    matrix, offset = gaussian_map(negative, positive)
    assert np.allclose(negative.mean(0) @ matrix.T + offset, positive.mean(0))
    source, target = ledoit_wolf(negative)[0], ledoit_wolf(positive)[0]
    assert np.allclose(matrix @ source @ matrix.T, target, rtol=1e-6, atol=1e-8 * np.abs(target).max())


def test_the_map_is_the_shortest():
    """Optimal maps are gradients of convex functions: symmetric, without negative eigenvalues. Any other map that
    matches the moments, as this one after a rotation of the whitened states, moves them further."""
    negative, positive = world(0, 2000)[0], world(1, 2000)[0]
    matrix, offset = gaussian_map(negative, positive)
    assert np.allclose(matrix, matrix.T) and np.linalg.eigvalsh(matrix).min() > 0
    source = ledoit_wolf(negative)[0]
    values, axes = np.linalg.eigh(source)
    root, inverse = axes * np.sqrt(values) @ axes.T, axes / np.sqrt(values) @ axes.T
    moved = ((negative @ matrix.T + offset - negative) ** 2).sum()
    for seed in range(5):
        other = matrix @ root @ ortho_group.rvs(HIDDEN, random_state=seed) @ inverse
        there = (negative - negative.mean(0)) @ other.T + positive.mean(0)
        assert ((there - negative) ** 2).sum() > moved


def test_the_map_between_the_same_states_changes_nothing_and_shifted_ones_are_shifted():
    states = world()[0]
    matrix, offset = gaussian_map(states, states + np.arange(HIDDEN))
    assert np.allclose(matrix, np.eye(HIDDEN)) and np.allclose(offset, np.arange(HIDDEN), atol=1e-6)
    with pytest.raises(ValueError, match="infs or NaNs"):
        gaussian_map(states, states * np.inf)


# Making directions independent


def close_pairs(seed=0, c=5, d=30):
    """Directions with a large common part."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((c, d)) + 1.5 * rng.standard_normal(d)


@pytest.mark.parametrize("cure", [gram_schmidt, whitened])
def test_cured_directions_are_units_that_point_as_before_whatever_their_order_and_length(cure):
    v, order = close_pairs(), np.array([3, 0, 4, 1, 2])
    found = cure(v)
    assert np.allclose(np.linalg.norm(found, axis=1), 1) and ((found * unit(v)).sum(1) > 0.3).all()
    assert np.allclose(cure(v[order]), found[order])
    assert np.allclose(cure(v * np.geomspace(1e-3, 1e3, 5)[:, None]), found)


def test_gram_schmidt_leaves_nothing_along_any_other():
    v = close_pairs()
    found = gram_schmidt(v)
    cosines = found @ unit(v).T
    assert np.abs(cosines - np.diag(np.diag(cosines))).max() < 1e-9 < 0.3 < (unit(v) @ unit(v).T).min()
    # Of all that is orthogonal to the others, the closest to the original.
    for i in range(5):
        others = np.delete(v, i, 0)
        assert np.allclose(found[i], unit(v[i] - others.T @ np.linalg.lstsq(others.T, v[i], rcond=None)[0]))


def test_whitened_directions_are_orthonormal_and_no_orthonormal_ones_are_closer():
    v = close_pairs()
    found = whitened(v)
    assert np.allclose(found @ found.T, np.eye(5))
    for seed in range(20):
        rival = ortho_group.rvs(5, random_state=seed) @ found
        assert (rival * unit(v)).sum() < (found * unit(v)).sum()
    assert np.abs(np.linalg.qr(v.T)[0].T @ unit(v).T).trace() < (found * unit(v)).sum()


@pytest.mark.parametrize("cure", [gram_schmidt, whitened])
@pytest.mark.parametrize("noise", [0, 1e-8])
def test_a_direction_that_others_determine_becomes_zero_not_noise(cure, noise):
    v = unit(close_pairs())
    v[4] = unit(v[0] + 2 * v[1]) + noise * np.random.default_rng(5).standard_normal(
        30
    )  # then 0 and 1 are determined, too
    found = cure(v)
    assert not found[[0, 1, 4]].any() and np.allclose(np.linalg.norm(found[[2, 3]], axis=1), 1)
    assert not found[2] @ v[0] > 1e-6 or cure is whitened


@pytest.mark.parametrize("cure", [gram_schmidt, whitened])
def test_a_zero_direction_stays_zero_and_an_only_one_stays_itself(cure):
    v = close_pairs()
    found = cure(np.insert(v, 2, 0, axis=0))
    assert not found[2].any() and np.allclose(np.delete(found, 2, 0), cure(v))
    assert np.allclose(cure(v[:1]), unit(v[:1])) and cure(v[:0]).shape == (0, 30)
    for only in (np.eye(4)[:3], np.array([[0.6, 0.8], [0, 0]])):
        assert np.allclose(cure(only), only)


def emotions(seed=0, n=60, d=12):
    """Three concepts, each with positives and negatives of its own; the first two are close."""
    rng = np.random.default_rng(seed)
    along = rng.standard_normal((3, d))
    along[1] = along[0] + 0.5 * along[1]
    labels = np.zeros((3 * 2 * n, 3))
    for i in range(3):
        labels[i * 2 * n :][: 2 * n, i] = np.repeat([1, -1], n)
    states = rng.standard_normal((len(labels), d)) @ rng.standard_normal((d, d)) * 0.7 + labels @ along + 8
    gaps = [states[labels[:, i] == 1].mean(0) - states[labels[:, i] == -1].mean(0) for i in range(3)]
    return np.stack(gaps), states, labels


@shrunk
def test_leace_on_the_rest_moves_no_other_concepts_linear_reading(shrinkage):
    v, states, labels = emotions()
    found = leace_rest(v, states, labels, shrinkage)
    assert np.allclose(np.linalg.norm(found, axis=1), 1)
    for i in range(3):
        readings = leace(states, np.delete(labels, i, 1), shrinkage).right
        assert np.abs(readings @ found[i]).max() < 1e-9 < 1e-2 < np.abs(readings @ v[i]).max()
        own = leace(states, labels[:, i], shrinkage).right[0]
        assert (own @ found[i]) * (own @ v[i]) > 0  # its own reading moves, and the same way
    centred = states - states.mean(0)
    inverse = np.linalg.inv(centred.T @ centred / len(centred))
    assert shrinkage or (np.einsum("cd,de,ce->c", found, inverse, v) > 0).all()  # no obtuse angle


def test_labels_that_determine_each_other_leave_no_direction():
    """Documented: one concept or another for every state."""
    v, states, labels = emotions()
    kind = np.abs(labels)
    gaps = np.stack([states[k == 1].mean(0) - states[k == 0].mean(0) for k in kind.T])
    assert not leace_rest(gaps, states, kind).any()
    alone = leace_rest(v[:1], states, labels[:, :1])
    assert np.allclose(alone, unit(v[:1]))
    assert (leace_rest(v, states, labels) == leace_rest(v, states, labels, True)).all()
