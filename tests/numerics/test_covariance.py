"""Covariances: shrunk as scikit-learn does it, and raised to powers as matrices are."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf

from steerlib.numerics.covariance import Covariance


def states(seed, n=50, d=6):
    rng = np.random.default_rng(seed)
    return rng.gamma(0.5, size=(n, d)) @ rng.standard_normal((d, d)) + 100  # skewed: odd moments count


@pytest.mark.parametrize("n, d", [(50, 6), (8, 30), (3, 5)])
def test_the_shrunk_covariance_is_scikit_learns(n, d):
    centred = states(0, n, d) - states(0, n, d).mean(0)
    expected, _ = ledoit_wolf(centred, assume_centered=True)
    covariance = Covariance.of(centred)
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


@pytest.mark.parametrize("shrink", [False, True])
@pytest.mark.parametrize("factor", [1e-3, 1e-7])
def test_a_covariance_is_in_the_units_of_its_points_however_small(factor, shrink):
    centred = states(0, 8, 5) - states(0, 8, 5).mean(0)
    one, other = (Covariance.of(points, shrink).power(-1, np.eye(5)) for points in (centred, factor * centred))
    assert np.allclose(other * factor**2, one)
    assert Covariance.of(np.eye(3)[:1], shrink=False).variances.tolist() == [1]


def test_what_is_as_good_as_a_sphere_is_one_and_no_more():
    points = np.random.default_rng(0).standard_normal((8, 6))
    assert ledoit_wolf(points, assume_centered=True)[1] == 1
    assert np.allclose(Covariance.of(points).power(1, np.eye(6)), (points**2).mean() * np.eye(6))


@pytest.mark.parametrize("points", [np.zeros((5, 3)), np.zeros((0, 3))])
def test_points_that_are_all_the_same_have_no_covariance_and_no_nan(points):
    covariance = Covariance.of(points)
    assert not covariance.variances.any() and not covariance.power(-0.5, np.eye(3)).any()
