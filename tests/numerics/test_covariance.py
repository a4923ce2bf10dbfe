"""Moments: chunks in any order give what the batch gives, and shrinkage is scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf

from steerlib.numerics.covariance import Cloud, Covariance, Moments
from steerlib.numerics.labels import flips


def states(seed, n=50, d=6):
    rng = np.random.default_rng(seed)
    return rng.gamma(0.5, size=(n, d)) @ rng.standard_normal((d, d)) + 100  # skewed: odd moments count


def same(a: Cloud, b: Cloud):
    return a.count == b.count and all(
        np.allclose(getattr(a, name), getattr(b, name), rtol=1e-9, atol=1e-8)
        for name in ("mean", "scatter", "cubic", "quartic")
    )


def test_moments_are_what_their_names_say():
    points = states(0)
    cloud, y = Cloud.of(points), points - points.mean(0)
    assert np.allclose(cloud.scatter / 50, np.cov(points.T, bias=True))
    assert np.allclose(cloud.cubic, sum((v @ v) * v for v in y)) and np.isclose(
        cloud.quartic, sum((v @ v) ** 2 for v in y)
    )


@pytest.mark.parametrize("cuts", [[1], [49], [10, 20], [0, 0, 7], list(range(1, 50))])
def test_moments_of_parts_add_up_to_those_of_the_whole(cuts):
    points = states(0)
    parts = [Cloud.of(part) for part in np.split(points, cuts)]
    assert same(sum(parts[1:], parts[0]), Cloud.of(points))
    assert same(sum(parts[-2::-1], parts[-1]), Cloud.of(points))


def test_pairs_have_moments_within_classes_over_all_and_of_their_differences():
    positive, negative = states(0), states(1)
    moments = Moments.of(positive, negative, seed=3)
    assert moments.count == 50 and np.allclose(moments.gap, positive.mean(0) - negative.mean(0))
    assert same(moments.total, Cloud.of(np.concatenate([positive, negative])))
    centred = Cloud.of(np.concatenate([positive - positive.mean(0), negative - negative.mean(0)]))
    assert np.allclose(moments.within.scatter, centred.scatter) and np.isclose(moments.within.quartic, centred.quartic)
    assert same(moments.differences, Cloud.of(flips((50, 1), 3) * (positive - negative)))


def test_chunks_see_the_flips_that_the_batch_sees():
    whole = flips((1000,), [4, 2])
    assert np.array_equal(np.concatenate([flips((333,), [4, 2]), flips((667,), [4, 2], start=333)]), whole)
    assert set(whole) == {-1.0, 1.0} and abs(whole.mean()) < 0.1


def test_what_is_no_pair_or_not_finite_is_refused_and_changes_nothing():
    moments = Moments.of(states(0), states(1))
    with pytest.raises(ValueError, match="come in pairs"):
        moments.update(states(0), states(1, n=49))
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        moments.update(states(0) * np.inf, states(1))
    assert moments.count == 50


@pytest.mark.parametrize("n, d", [(50, 6), (8, 30), (3, 5)])
def test_the_shrunk_covariance_is_scikit_learns(n, d):
    centred = states(0, n, d) - states(0, n, d).mean(0)
    expected, shrinkage = ledoit_wolf(centred, assume_centered=True)
    for covariance in (Covariance.of(centred), Covariance.from_cloud(Cloud.of(centred))):
        assert covariance.shrinkage == pytest.approx(shrinkage, rel=1e-9)
        assert np.allclose(covariance.power(1, np.eye(d)), expected, rtol=1e-9)
        assert np.allclose(covariance.power(-1, np.eye(d)) @ expected, np.eye(d), atol=1e-7)


@pytest.mark.parametrize("shrink", [False, True])
@pytest.mark.parametrize("n", [50, 4])
def test_powers_of_a_covariance_are_those_of_its_matrix(n, shrink):
    """Not shrunk and of low rank, it is inverted where it has support."""
    centred = states(0, n) - states(0, n).mean(0)
    covariance = Covariance.of(centred, shrink)
    matrix, root, inverse = (covariance.power(p, np.eye(6)) for p in (1, 0.5, -1))
    assert np.allclose(root @ root, matrix) and np.allclose(inverse, np.linalg.pinv(matrix, rcond=1e-10))
    assert shrink or np.allclose(matrix, centred.T @ centred / n)
    vectors = states(3, 2)
    assert np.allclose(covariance.power(-0.5, covariance.power(0.5, vectors)), vectors @ inverse @ matrix)


@pytest.mark.parametrize("points", [np.zeros((5, 3)), np.zeros((0, 3))])
def test_points_that_are_all_the_same_have_no_covariance_and_no_nan(points):
    for covariance in (Covariance.of(points), Covariance.from_cloud(Cloud.of(points))):
        assert not covariance.varies and not covariance.power(-0.5, np.eye(3)).any()
