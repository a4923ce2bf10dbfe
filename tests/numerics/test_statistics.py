"""Statistics against their definitions: loops, hand-checked cases and known functions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import xarray as xr
from scipy.stats import norm, spearmanr
from scipy.stats import t as student_t

from steerlib.numerics.statistics import (
    about,
    best_layer,
    beyond,
    bootstrap_means,
    bounds,
    counts_of_units,
    exceedance,
    false_discovery,
    family,
    interval,
    mean_interval,
    monotonicity,
    redrawn,
    resampled,
    slope,
    solve_budget,
    spearman,
    widened,
)

ALPHAS = [-0.5, -0.25, 0.0, 0.25, 0.5, 1.0, 2.0]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def by_alpha(values):
    return xr.DataArray(values, {"alpha": ALPHAS}, ["prompt", "alpha"])


# --- strengths of equal cost ---------------------------------------------------------------------------------------

# Costs, and the strength at which each is 0.1.
COSTS = {
    "square": (lambda a: 3 * a**2, np.sqrt(0.1 / 3)),
    "linear": (lambda a: a / 7, 0.7),
    "sixth power": (lambda a: 1e3 * a**6, 1e-4 ** (1 / 6)),
    "flat, then steep": (lambda a: np.expm1(np.minimum((a / 4) ** 8, 500)), 4 * np.log(1.1) ** (1 / 8)),
    "steep, then flat": (lambda a: np.log1p(1e4 * a) / 60, np.expm1(6) / 1e4),
    "saturating above": (lambda a: 0.3 * np.tanh(a), np.arctanh(1 / 3)),
    "saturating below": (lambda a: 0.05 * np.tanh(a), np.nan),
    "nothing at all": (lambda a: 0 * a, np.nan),
    "far beyond reach": (lambda a: 1e-12 * a**2, np.nan),
    "too steep to begin": (lambda a: 1e12 * a**2, np.nan),
    "not a number from there on": (lambda a: np.where(a < 3, 0.001, np.nan), np.nan),
    "a jump over the budget": (lambda a: np.where(a < 3, 0.001, 10.0), np.nan),
}


@pytest.mark.parametrize("first", [0.01, 0.1, 5.0])
@pytest.mark.parametrize("tolerance", [0.01, 1e-6])
def test_strengths_meet_the_budget_wherever_it_can_be_met(first, tolerance):
    """All at once, each its own function; and those that cannot be met are NaN, not some number near by."""
    costs, truth = zip(*COSTS.values(), strict=True)

    def cost(strengths, which):
        assert strengths.shape == which.shape and (strengths > 0).all()
        return np.array([costs[k](a) for k, a in zip(which, strengths, strict=True)])

    found = solve_budget(cost, 0.1, len(costs), first, tolerance)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(truth), list(COSTS))
    there = np.flatnonzero(~np.isnan(found))
    np.testing.assert_allclose(cost(found[there], there), 0.1, rtol=2 * tolerance)
    if tolerance < 1e-3:
        np.testing.assert_allclose(found, truth, rtol=1e-3)


def test_a_strength_does_not_hang_on_what_is_solved_beside_it():
    (square, _), (steep, _) = COSTS["square"], COSTS["flat, then steep"]
    alone = solve_budget(lambda a, _: square(a), 0.1, 1, 0.1)
    beside = solve_budget(lambda a, k: np.where(k == 1, square(a), steep(a)), 0.1, 3, 0.1)
    assert beside[1] == pytest.approx(alone[0]) and beside[0] == beside[2]
    assert solve_budget(lambda a, _: square(a), 0.1, 0, 0.1).shape == (0,)


def test_few_evaluations_are_enough():
    """A cost is a pass of the model. Near a power law, as KL is, a budget takes some ten of them."""
    calls = []
    found = solve_budget(lambda a, k: calls.append(1) or a**2 / (1 + a), 0.1, 50, 0.1)
    assert len(calls) <= 12
    np.testing.assert_allclose(found**2 / (1 + found), 0.1, rtol=0.011)


# --- p-values and discoveries --------------------------------------------------------------------------------------


def test_exceedance_by_hand():
    null = np.array([1.0, 2.0, 3.0, 4.0])
    found = exceedance(np.array([0.0, 2.0, 2.5, 4.0, 9.0, np.nan]), np.tile(null, (6, 1)))
    np.testing.assert_array_equal(found, [5 / 5, 4 / 5, 3 / 5, 2 / 5, 1 / 5, np.nan])
    # Draws that are not there do not count; without any there is no p-value.
    few = np.array([[1.0, np.nan, 3.0, np.nan], [np.nan] * 4, [1.0] + [np.nan] * 3])
    expected = np.array([2 / 3, np.nan, 1 / 2])
    np.testing.assert_array_equal(exceedance(np.full(3, 2.0), few), expected)
    np.testing.assert_array_equal(exceedance(np.full((3, 1), 2.0), few[:, None]), expected[:, None])


def test_beyond_all_draws_a_tail_takes_over_by_hand():
    """Of 100 draws from 0 to 99 the top tenth exceed 90 by 4.5 on average; just above all of them draws say more."""
    value, null = np.array([95.0, 99.5, 117.0, np.nan, 117.0]), np.tile(np.arange(100.0), (5, 1))
    null[4] = 90  # and no tail
    expected = [6 / 101, 1 / 101, 0.1 * np.exp(-27 / 4.5), np.nan, 1 / 101]
    np.testing.assert_allclose(beyond(value, null), expected)
    np.testing.assert_allclose(beyond(value, np.insert(null, [0, 50], np.nan, axis=1)), expected)
    np.testing.assert_allclose(beyond(value[2:3], null[2:3, 1:]), [1 / 100])


def test_under_the_null_p_values_are_uniform():
    """So that 5 % of what is like its null has p ≤ 0.05, and no more."""
    p = exceedance(noise(20_000), noise(20_000, 19, seed=1))
    np.testing.assert_allclose([(p <= k / 20).mean() for k in range(1, 21)], np.arange(1, 21) / 20, atol=0.015)


def test_false_discovery_is_benjamini_and_hochbergs_step_up():
    def by_hand(p):
        """q of a cell: the smallest p·n/rank among the cells at or above it."""
        return np.array([min(min(other * len(p) / (p <= other).sum(), 1) for other in p if other >= one) for one in p])

    for seed in range(5):
        p = np.random.default_rng(seed).random(12).round(1 + seed % 2) ** 2
        np.testing.assert_allclose(false_discovery(p), by_hand(p))
        holes = np.insert(p, [0, 5], np.nan).reshape(2, 7)
        q = false_discovery(holes)
        assert q.shape == (2, 7) and (np.isnan(q) == np.isnan(holes)).all()
        np.testing.assert_allclose(q[~np.isnan(q)], by_hand(p))
    assert np.isnan(false_discovery(np.full(3, np.nan))).all()


def test_a_curve_is_found_by_its_steps_together_and_no_easier_for_being_seen_often():
    """Its least q is that of Simes' p among the curves; of a single step a curve, it is Benjamini and Hochberg's."""
    p = np.random.default_rng(0).random((8, 5)) ** 3
    simes = [min(5 * value / (rank + 1) for rank, value in enumerate(sorted(row))) for row in p]
    np.testing.assert_allclose(family(p).min(1), false_discovery(np.array(simes)))
    assert (family(p) >= p).all()
    assert family(np.array([[0.3, 0.9], [0.9, 0.95]])).max() == 1
    assert (family(p)[np.arange(8), p.argmin(1)] == family(p).min(1)).all()
    np.testing.assert_allclose(family(p[:, :1])[:, 0], false_discovery(p[:, 0]))
    np.testing.assert_allclose(family(np.repeat(p[:, :1], 9, 1)), family(p[:, :1]).repeat(9, 1))
    holed = np.insert(np.insert(p, 2, np.nan, axis=1), 4, np.nan, axis=0)
    np.testing.assert_allclose(np.delete(np.delete(family(holed), 2, 1), 4, 0), family(p))
    assert np.isnan(family(holed)[4]).all() and np.isnan(family(np.full((2, 3), np.nan))).all()
    assert (family(np.zeros((2, 3))) < 1e-300).all()  # as a normal tail has it, far out
    found = [(family(noise_p).min(1) <= 0.05).any() for noise_p in np.random.default_rng(1).random((400, 6, 7))]
    assert np.mean(found) <= 0.075


# --- slopes and intervals ------------------------------------------------------------------------------------------


def test_slope_is_a_least_squares_line_within_the_window():
    values = by_alpha(noise(5, 7))
    for window, inside in ((0.5, slice(0, 5)), (0.3, slice(1, 4)), (2.0, slice(None))):
        expected = [np.polyfit(ALPHAS[inside], row[inside], 1)[0] for row in values.values]
        np.testing.assert_allclose(slope(values, window), expected)
        outside = values.where(abs(values.alpha) <= window, 1e6)
        np.testing.assert_allclose(slope(outside, window), expected)
    values[2, 1] = np.nan  # inside the window of 0.5
    assert np.isnan(slope(values, 0.5)).values.tolist() == [False, False, True, False, False]


def test_monotonicity_is_spearmans_correlation():
    values = noise(40, 7)
    values[1] = np.arange(7)
    values[2] = -(np.arange(7.0) ** 3)
    values[3] = [0, 0, 1, 1, 1, 2, 0]  # ties
    found = monotonicity(by_alpha(values)).values
    np.testing.assert_allclose(found, [spearmanr(row, ALPHAS).statistic for row in values])
    assert found[1] == pytest.approx(1) and found[2] == pytest.approx(-1)
    values[4], values[5, 3] = 2.0, np.nan
    assert np.isnan(monotonicity(by_alpha(values))[4:6]).all()
    xr.testing.assert_equal(monotonicity(by_alpha(values).expand_dims("layer"))[0], monotonicity(by_alpha(values)))


def test_an_interval_of_the_mean_is_a_loop_over_resamples():
    """Of all cells at once as of each alone, on the same resamples; it covers the mean as often as it says."""
    values = xr.DataArray(noise(3, 25, 4), dims=["layer", "prompt", "probe"])
    lower, upper = mean_interval(values, "prompt", 200, seed=3, level=0.9)
    assert lower.dims == ("layer", "probe")
    weights = (1 + counts_of_units(25, 200, 3)) / 25
    for layer, method in itertools.product(range(3), range(4)):
        means = sorted(float(w @ values.values[layer, :, method]) for w in weights)
        assert lower[layer, method].item() == pytest.approx(means[9]) and upper[layer, method].item() == pytest.approx(
            means[189]
        )
    lower, upper = mean_interval(xr.DataArray(noise(500, 30), dims=["case", "prompt"]), "prompt", 300, seed=0)
    assert 0.90 < ((lower <= 0) & (0 <= upper)).mean() < 0.97


def test_an_interval_about_a_value_is_as_wide_as_its_resamples_and_stands_where_the_value_does():
    """Sizes of means are larger in resamples than in all: that moves no interval."""
    draws = xr.DataArray(abs(noise(4, 2000)), dims=["cell", "resample"])
    value = xr.DataArray(np.zeros(4), dims=["cell"])
    (lower, upper), plain, wide = about(value, draws), bounds(draws), about(value, draws, 2.0)
    assert ((lower < 0) & (0 < upper)).all() and (plain[0] > 0).all()
    np.testing.assert_allclose(upper - lower, plain[1] - plain[0])
    np.testing.assert_allclose(wide[1] - wide[0], 2 * (upper - lower))


@pytest.mark.parametrize("units", [4, 6, 12, 24])
def test_few_units_have_intervals_that_cover_as_well(units):
    cases = noise(800, units, seed=units)
    lower, upper = mean_interval(xr.DataArray(cases, dims=["case", "unit"]), "unit", 500, seed=1)
    assert 0.92 <= ((lower <= 0) & (0 <= upper)).mean() <= 0.985
    assert (counts_of_units(1, 50, 0) == 0).all() and abs(counts_of_units(units, 50, 0).sum(1)).max() < 1e-9
    assert widened(units, 0.9) == np.sqrt(units / (units - 1)) * student_t.ppf(0.95, units - 1) / norm.ppf(0.95)


def test_units_that_are_left_out_leave_the_others_the_weights_that_they_have_among_all():
    mask = np.array([True, False, False, True, False, False])
    among = (1 + counts_of_units(6, 500, 0) / widened(6))[:, mask]
    drawn = among.sum(1) > 1e-9
    found = 1 + counts_of_units(mask, 500, 0) / widened(2)
    np.testing.assert_allclose(found[drawn], among[drawn] / among[drawn].mean(1, keepdims=True))
    assert 0.8 < drawn.mean() < 1 and np.allclose(found[~drawn], 1)  # where none is drawn, as they are
    assert counts_of_units(0, 5, 0).shape == counts_of_units(-1, 5, 0).shape == (5, 0)


def test_units_and_fits_are_resampled_together_without_fitting():
    """As refitting to every resample does it: of a mean of texts that multiplies, to the first order."""
    draw = np.random.default_rng(0)
    texts, prompts = draw.normal(2, 0.5, 15), draw.normal(3, 1, (4, 20))
    fits = np.array([texts.mean(), *((texts.sum() - texts) / 14)])
    values = prompts[..., None] * fits
    units, refits = counts_of_units(20, 2000, 1), counts_of_units(15, 2000, 2)
    found = resampled(values, units, refits)
    plain = ((1 + units) / 20 @ prompts.T) * ((1 + refits) / 15 @ texts)[:, None]
    np.testing.assert_allclose(found, plain)
    alone = resampled(values[..., :1], units, refits[:, :0])
    np.testing.assert_allclose(alone, (1 + units) / 20 @ values[..., 0].T)
    assert found.std(0).min() > alone.std(0).max() * 0.9 and (found.std(0) > alone.std(0)).all()
    np.testing.assert_allclose(resampled(np.pad(values, [(0, 0)] * 2 + [(0, 3)]), units, refits), found)
    for nothing in (resampled(values[:, :0], units[:, :0], refits), redrawn(values[:, :0], units[:, :0], 15, 0)):
        assert nothing.shape == found.shape and np.isnan(nothing).all()


def test_one_resample_of_prompts_serves_all_steps_and_ignores_prompts_that_do_not_exist():
    draw = np.random.default_rng(0)
    first = draw.normal(2, 3, 400)
    values = np.stack([first, first + 1, -2 * first])
    draws = bootstrap_means(values, 3000, seed=[0, 1])
    assert np.allclose(draws[:, 1], draws[:, 0] + 1) and np.allclose(draws[:, 2], -2 * draws[:, 0])
    assert draws[:, 0].std() == pytest.approx(first.std() / 20, rel=0.07)
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
    assert np.isnan([spearman(x, np.ones(4)), spearman(np.ones(4), x), spearman(x[:2], x[:2])]).all()
    assert spearman(np.array([0, 0.5, 1]), np.array([1, 0.5, 0])) == pytest.approx(-1)


def test_a_layer_is_chosen_at_each_checkpoint_among_those_that_have_a_value_and_by_its_number():
    values = [[9.0, 0, 0], [1, np.nan, 3], [np.nan] * 3]
    validation = xr.DataArray(values, {"step": [0, 5, 9], "layer": [4, 8, 12]}, ["step", "layer"])
    assert best_layer(validation).identical(xr.DataArray([4, 12, 4], {"step": [0, 5, 9]}, ["step"]))


def test_fits_to_resampled_texts_widen_an_interval_as_far_as_they_wander_and_move_no_value():
    draw = np.random.default_rng(0)
    units = counts_of_units(20, 4000, 1)
    still = draw.normal(0.8, 0.1, (3, 20, 1)) + np.zeros(51)
    wandering = still - 0.05 * (np.arange(51) > 0) + 0.2 * np.append(0, draw.standard_normal(50))
    found, plain = (redrawn(values, units, 20, 2) for values in (wandering, still))
    np.testing.assert_allclose(plain, (1 + units) / 20 @ still[..., 0].T)
    np.testing.assert_allclose(found.mean(0), still[..., 0].mean(1), atol=0.02)
    expected = np.hypot(plain.std(0), widened(20) * (wandering - still)[0, 0, 1:].std())
    np.testing.assert_allclose(found.std(0), expected, rtol=0.1)
    assert widened(1) == 1 and widened(4) > widened(20) > widened(1000) > 1
    moved = redrawn(np.array([[[1.0, 3, 0, 0]]]), np.zeros((99, 1)), 2, 0, 0.9) - 1  # each by as much as it wandered
    np.testing.assert_allclose(np.unique(moved), np.array([-1, 2]) * widened(2, 0.9))
