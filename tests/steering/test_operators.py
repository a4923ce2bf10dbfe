"""Operators on states alone: each does what its formula says, and all keep what `Operator` promises."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from steerlib.numerics import erasure
from steerlib.steering.arms import Arm
from steerlib.steering.operators import (
    ALONG,
    OPERATORS,
    Add,
    Affine,
    Erase,
    LinearMap,
    Operator,
    Rotate,
    SetProjection,
    build,
)
from steerlib.study.analysis import LENGTHS, Sweep

HIDDEN, ALPHAS = 7, [-2.0, -0.7, 0.0, 0.4, 1.0, 3.0]
every_operator = pytest.mark.parametrize("kind", OPERATORS)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def units(k, seed=1):
    return torch.nn.functional.normalize(draw(k, HIDDEN, seed=seed), dim=-1)


def make(kind: str, k: int = 3, seed: int = 1) -> Operator:
    """k variants, all different; of a new operator that needs more than a direction, a line here says what."""
    unit, high, low = units(k, seed), draw(k, 1, seed=seed + 1), draw(k, 1, seed=seed + 2)
    left, mean = draw(k, HIDDEN, seed=seed + 3), draw(k, HIDDEN, seed=seed + 4)
    return {
        "add": lambda: Add(draw(k, HIDDEN, seed=seed)),
        "set": lambda: SetProjection(unit, high, low),
        "affine": lambda: Affine(unit, high, low, high.exp()),
        "leace": lambda: Erase(left, unit / (unit * left).sum(-1, keepdim=True), mean),
        "linear_map": lambda: LinearMap(draw(k, HIDDEN, HIDDEN, seed=seed), left),
    }.get(kind, lambda: ALONG[kind](unit))()


def variant(operator: Operator, k: int = 0) -> Operator:
    """A variant as an operator of its own."""
    return operator.each(lambda tensor: tensor[k])


def along(states, unit):
    return states @ unit


def angle(states, unit):
    return torch.acos((states @ unit / states.norm(dim=-1)).clamp(-1, 1))


# What each does


@pytest.mark.parametrize("alpha", ALPHAS)
def test_adding_shifts_every_state_by_alpha_steps(alpha):
    states, operator = draw(5, HIDDEN), variant(make("add"))
    assert torch.allclose(operator(states, alpha) - states, (alpha * operator.step).expand(5, -1))


@pytest.mark.parametrize("alpha", ALPHAS)
def test_ablating_takes_a_share_of_the_projection_and_leaves_the_rest(alpha):
    states, operator = draw(5, HIDDEN), variant(make("ablate"))
    moved, (unit,) = operator(states, alpha), units(3)[:1]
    assert torch.allclose(along(moved, unit), (1 - alpha) * along(states, unit))
    rest = torch.eye(HIDDEN, dtype=torch.float64) - torch.outer(unit, unit)
    assert torch.allclose(moved @ rest, states @ rest)
    assert alpha != 1 or along(moved, unit).abs().max() < 1e-14 < along(states, unit).abs().min()


def test_setting_puts_the_projection_on_the_level_of_either_class_and_leaves_the_rest():
    states, operator = draw(5, HIDDEN), variant(make("set"))
    rest = torch.eye(HIDDEN, dtype=torch.float64) - torch.outer(operator.unit, operator.unit)
    for alpha, level in ((1.0, operator.high), (-1.0, operator.low)):
        assert torch.allclose(along(operator(states, alpha), operator.unit), level.expand(5))
        half = (along(states, operator.unit) + level) / 2
        assert torch.allclose(along(operator(states, alpha / 2), operator.unit), half)
        assert torch.allclose(operator(states, alpha) @ rest, states @ rest)


def classes(seed=0, n=400):
    """Positives and negatives that differ in mean and in spread along one axis, and are correlated with the others."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((HIDDEN, HIDDEN))
    gap = rng.standard_normal(HIDDEN)
    return rng.standard_normal((n, HIDDEN)) @ mixing * 2 + 2 * gap, rng.standard_normal((n, HIDDEN)) @ mixing - gap


def test_the_affine_map_gives_one_class_the_mean_and_spread_of_the_other():
    positive, negative = classes()
    unit = units(1).numpy()
    operator = variant(build("affine", unit[None, :, None], [(positive, negative)]))
    for alpha, source, target in ((1.0, negative, positive), (-1.0, positive, negative)):
        moved = operator.to(torch.from_numpy(source))(torch.from_numpy(source), alpha).numpy() @ unit[0]
        assert moved.mean() == pytest.approx((target @ unit[0]).mean(), abs=1e-4)
        assert moved.std() == pytest.approx((target @ unit[0]).std(), rel=1e-4)
        halfway = operator.to(torch.from_numpy(source))(torch.from_numpy(source), alpha / 2).numpy() @ unit[0]
        assert halfway.mean() == pytest.approx(((source + target) / 2 @ unit[0]).mean(), abs=1e-4)
    assert abs((positive @ unit[0]).std() / (negative @ unit[0]).std() - 1) > 0.5  # there was a spread to carry over


def test_levels_are_those_of_each_concepts_own_states_and_each_method():
    """m methods × c concepts × r draws, laid out in this order; a class that does not vary is shifted alone."""
    sides = [classes(0, 30), classes(1, 20)]
    vectors = units(2 * 2 * 3).numpy().reshape(2, 2, 3, HIDDEN)
    operator = build("set", vectors, sides)
    assert torch.allclose(operator.unit.double(), torch.from_numpy(vectors.reshape(-1, HIDDEN)), atol=1e-6)
    for c, (positive, negative) in enumerate(sides):
        for levels, side in ((operator.high, positive), (operator.low, negative)):
            expected = (vectors[:, c] @ side.T).mean(-1)
            np.testing.assert_allclose(levels.reshape(2, 2, 3)[:, c], expected, rtol=1e-5, atol=1e-5)
    flat = np.ones((4, HIDDEN))
    assert build("affine", vectors[:1, :1], [(classes()[0], flat)]).gain.eq(1).all()
    assert len(build("linear_map", vectors, sides).offset) == 2  # not along the directions: one a concept
    with pytest.raises(KeyError):
        build("unknown", vectors, sides)


@pytest.mark.parametrize("alpha", [0.1, 0.7, 2.0, 4.0])
def test_turning_keeps_the_norm_and_lowers_the_angle_by_alpha_until_there_is_none(alpha):
    states, operator = draw(50, HIDDEN), variant(make("rotate"))
    before = angle(states, operator.unit)
    there, away = operator(states, alpha), operator(states, -alpha)
    for moved, expected in ((there, (before - alpha).clamp(min=0)), (away, (before + alpha).clamp(max=math.pi))):
        assert torch.allclose(moved.norm(dim=-1), states.norm(dim=-1))
        assert torch.allclose(angle(moved, operator.unit), expected, atol=1e-6)
        # Within the plane of state and direction: nothing new comes in.
        plane = torch.stack([states, operator.unit.expand(50, -1)], 1)
        outside = moved - torch.einsum("nkd,nk->nd", plane, torch.linalg.lstsq(plane.mT, moved[..., None])[0][..., 0])
        assert outside.abs().max() < 1e-10
    small = torch.minimum(before, math.pi - before) > alpha
    assert torch.allclose(operator(there, -alpha)[small], states[small])


def test_a_state_that_cannot_be_turned_stays():
    unit = units(1)[0]
    operator = Rotate(unit)
    for state, alpha in ((torch.zeros(HIDDEN).double(), 1.0), (3 * unit, 1.0), (-3 * unit, -1.0)):
        assert torch.allclose(operator(state, alpha), state, atol=1e-7) and operator.tangent(state).isfinite().all()


def test_after_leace_a_fresh_probe_knows_no_more_than_chance():
    """And not for want of training: of states left alone, or erased by half, it is nearly always right."""
    positive, negative = classes(n=200)
    states, z = np.concatenate([positive, negative]), np.repeat([1, 0], 200)
    eraser = erasure.leace(states, z)
    operator = Erase(*(torch.from_numpy(part) for part in (eraser.left[:, 0], eraser.right[0], eraser.mean)))

    def accuracy(alpha):
        moved = operator(torch.from_numpy(states), alpha).numpy()
        return LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(moved, z).score(moved, z)

    assert accuracy(0.0) > 0.9 < accuracy(0.5)
    assert accuracy(1.0) <= 0.5 + 1e-9
    erased = eraser.mean + eraser.free(states - eraser.mean)
    np.testing.assert_allclose(operator(torch.from_numpy(states)).numpy(), erased)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_a_linear_map_goes_a_share_of_the_way(alpha):
    states, operator = draw(5, HIDDEN), variant(make("linear_map"))
    there = torch.stack([operator.matrix @ state + operator.offset for state in states])
    assert torch.allclose(operator(states, alpha), (1 - alpha) * states + alpha * there)


def test_the_linear_map_carries_mean_and_covariance_over():
    positive, negative = classes(n=4000)
    operator = LinearMap(*map(torch.from_numpy, erasure.gaussian_map(negative, positive)))
    moved = operator(torch.from_numpy(negative)).numpy()
    np.testing.assert_allclose(moved.mean(0), positive.mean(0))
    covariance = np.cov(positive.T)
    assert np.abs(np.cov(moved.T) - covariance).max() < 0.02 * np.abs(covariance).max()
    halfway = operator(torch.from_numpy(negative), 0.5).numpy()
    np.testing.assert_allclose(halfway, (moved + negative) / 2)


# What all keep


@every_operator
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_alpha_zero_gives_the_state_back_bit_for_bit(kind, dtype):
    states = (50 * draw(3, 1, 4, HIDDEN)).to(dtype)
    operator = make(kind).to(states).across()
    assert torch.equal(operator(states, 0.0), states.expand(-1, 3, -1, -1))
    some = torch.tensor([0.0, 1.0, -0.0], dtype=dtype)[:, None, None]  # a tensor of alphas: one is not 0
    moved = operator(states, some)
    assert torch.equal(moved[:, [0, 2]], states.expand(-1, 2, -1, -1)) and not torch.equal(moved[:, [1]], states)


@every_operator
def test_the_tangent_is_the_derivative_at_zero_or_the_mean_of_both_sides(kind):
    states, eps = draw(6, HIDDEN), 1e-6
    for k in range(3):
        operator = variant(make(kind), k)
        numeric = (operator(states, eps) - operator(states, -eps)) / (2 * eps)
        assert torch.allclose(operator.tangent(states).expand_as(states), numeric, atol=1e-8)
        assert numeric.abs().max() > 1e-2


@every_operator
def test_variants_side_by_side_are_a_loop_over_variants(kind):
    states, operator, alphas = draw(4, 1, 5, HIDDEN), make(kind), [0.3, -1.0, 2.0]
    together = operator.across()(states, torch.tensor(alphas).double()[:, None, None])
    tangents = operator.across().tangent(states)
    for k, alpha in enumerate(alphas):
        assert torch.allclose(together[:, k], variant(operator, k)(states[:, 0], alpha))
        assert torch.allclose(
            tangents.expand_as(together)[:, k], variant(operator, k).tangent(states[:, 0]).expand(4, 5, -1)
        )
    assert (together[:, 0] - together[:, 1]).abs().max() > 1e-3


@every_operator
def test_picking_and_joining_are_inverse(kind):
    states, operator, other = draw(4, 1, 5, HIDDEN), make(kind), make(kind, 2, seed=40)
    joined = type(operator).side_by_side([operator, other])
    for part, rows in ((operator, [0, 1, 2]), (other, [3, 4])):
        picked = joined.pick(np.array(rows))
        assert torch.equal(picked.across()(states, 1.0), part.across()(states, 1.0))
    turned = joined.pick(np.array([4, 0]))
    assert torch.equal(turned.across()(states, 1.0), joined.across()(states, 1.0)[:, [4, 0]])


def test_params_know_of_which_operators_alpha_counts_a_length():
    for name in get_args(Sweep.model_fields["operator"].annotation):
        assert (OPERATORS[name].counts == "length") == (name in LENGTHS), name
    for operator in OPERATORS.values():  # the words that a figure's axis says
        assert operator.counts in ("length", "radian") or operator.counts.startswith("full "), operator.name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@every_operator
def test_a_tangent_of_half_precision_is_that_of_the_same_state_in_full(kind, dtype):
    """Strengths too: one as long as a residual norm has more digits than half precision, or is beyond it."""
    operator = make(kind).each(lambda tensor: tensor.float())
    arm = Arm(operator, torch.tensor([1234.567, 0.1, 70_000.0]))
    state = draw(2, 1, 1, HIDDEN).to(dtype)
    assert torch.equal(arm.tangent(state), arm.tangent(state.float()))
