"""The rule of onsets: planted curves are found in time, dips and gaps are borne, and what is like its null is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import beta

from steerlib.numerics.onsets import (
    EMERGED,
    QUESTIONS,
    STATUS,
    Measured,
    anywhere,
    crossings,
    judge,
    lasting,
    seen_at,
    stretches,
    text,
)
from steerlib.numerics.statistics import counts_of_units, family

STEPS = np.array([0, 32, 96, 160, 192, 224, 256, 320, 416, 512, 640, 810])
LEVEL, SUSTAINED, DRAWS = 0.95, 2, 300
N, Y = False, True


def measured(curve, seed=0, units=24, noise=0.05, null=0.3, steps=STEPS, least=0.5, **more):
    """A curve by units that differ in height, with null draws."""
    draw, curve = np.random.default_rng(seed), np.asarray(curve, float)
    values = curve[:, None] * draw.normal(1, 0.2, units) + draw.normal(0, noise, (len(steps), units))
    resamples = (1 + counts_of_units(units, DRAWS, seed)) / units @ values.T
    nulls = draw.normal(0, null, (len(steps), 500))
    return Measured(steps, values.mean(1), resamples, nulls, units, least, **more)


def judged(one, sustained=SUSTAINED):
    found = judge(one, family(one.p_value[None])[0], LEVEL, sustained)[0]
    assert found.status.item() in STATUS
    return found


def sure(value, steps=STEPS, null=0.0, **more):
    """Measured without any noise, all of it found."""
    value = np.array(value, float)
    one = Measured(steps, value, value * np.ones((5, 1)), np.full((len(steps), 20), null), 9, **more)
    return lambda sustained=SUSTAINED, q=0.05: judge(one, q + np.zeros(len(steps)), LEVEL, sustained)[0]


def rising(middle, steepness=6.0, height=3.0, steps=STEPS):
    return height / (1 + np.exp(-steepness * (np.log1p(steps) - np.log1p(middle))))


def gap_of(at):
    """The two checkpoints around a step."""
    after = np.searchsorted(STEPS, at)
    return STEPS[after - 1], STEPS[after]


# --- shapes, each told as what it is ----------------------------------------------------------------------------------

UP, DOWN, ODD = rising(200), 3 - rising(300), np.zeros(len(STEPS))
SHAPES = {
    "rises": (UP, "rises"),
    "rises by little": (0.3 * UP, "rises"),
    "rises at once": (np.where(STEPS > 0, 3.0, 0), "rises"),
    "rises but for a dip": (np.where(STEPS == 416, 0, UP), "rises"),
    "rises, with a dip at the last": (np.where(STEPS == 810, 0, UP), "rises"),
    "is there from the start": (ODD + 3, "from the start"),
    "is there from the start and grows": (2 + UP, "from the start"),
    "falls, but stays": (1.5 + DOWN, "falls"),
    "falls, but stays, at the last": (np.where(STEPS == 810, 1.5, 3), "falls"),
    "falls away": (DOWN, "fades"),
    "comes and goes": (np.where((STEPS > 100) & (STEPS < 500), 3.0, 0), "fades"),
    "comes again": (np.where((STEPS > 50) & (STEPS < 200) | (STEPS > 300), 3.0, 0), "returns"),
    "comes at the last": (np.where(STEPS == 810, 3.0, 0), "last only"),
    "never comes": (ODD, "not reached"),
    "is a blip": (np.where(STEPS == 224, 3.0, 0), "not reached"),
    "is less than matters": (0.8 * np.sign(STEPS) * 0.3, "not reached"),
    "is negative": (-UP, "not reached"),
}


@pytest.mark.parametrize(("curve", "status"), SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_every_shape_is_told_as_what_it_is(curve, status, seed):
    found = judged(measured(curve, seed))
    assert found.status == status
    first, half = found.onset.values
    assert np.isfinite(first) == (status in ("rises", "fades", "returns") and curve[0] < 1)
    if status in ("from the start", "falls"):
        assert first == -np.inf
    if status not in EMERGED:
        assert (found.onset == np.inf).all()
    assert np.isnan(half) == (status in EMERGED and curve[-1] < curve[0] + 0.5 and curve.max() < curve[0] + 0.5)


def test_a_dip_erases_no_history_and_moves_no_onset():
    whole, dipped = measured(UP), measured(UP)
    dipped.value[9], dipped.resamples[:, 9] = 0, 0
    assert judged(dipped).onset[0] == pytest.approx(float(judged(whole).onset[0]), rel=1e-6)


def test_peak_and_fading_are_dated():
    found = judged(measured(SHAPES["comes and goes"][0]))
    assert 416 <= found.faded <= 512 and 160 <= found.peak <= 416 and 96 <= found.onset[0] <= 160
    assert np.isnan(judged(measured(UP)).faded)
    steps, x = STEPS[:5], np.log1p(STEPS[:5])
    found = sure([-1, 3, 3, -1, -1], steps, null=0.5)()
    assert found.status == "fades" and found.faded == pytest.approx(np.expm1(x[2] + (x[3] - x[2]) * 2.5 / 4))
    assert sure([3, 3, 0], np.array([0, 10, 100]))(sustained=1).status == "fades"


def test_without_any_noise_what_is_equal_is_neither_above_nor_a_rise_nor_a_fall():
    """Though an effect is found wherever q is just small enough."""
    level = sure(np.full(len(STEPS), 3))()
    assert level.status == "from the start" and np.isnan(level.onset[1])
    assert sure(np.full(len(STEPS), 3))(q=0.051).status == "not reached"
    assert sure(np.where(STEPS > 100, 1.0, 0), least=1.0)().status == "not reached"


@pytest.mark.parametrize(("wide", "top"), [(0.1, 2), (4.0, 5)], ids=["surely higher", "not surely higher"])
def test_half_way_is_to_the_last_value_or_to_a_peak_that_is_surely_higher(wide, top):
    steps, value = STEPS[:6], np.array([-1, -1, 4, 1.2, 1.2, 1.2])
    resamples = value + np.where(np.arange(6) == 2, wide, 0.1) * np.linspace(-1, 1, 101)[:, None]
    null = np.zeros((6, 20))
    found, draws = judge(Measured(steps, value, resamples, null, 9, 0.5), np.full(6, 0.01), LEVEL, SUSTAINED)
    rest = slice(top + 1)
    for of, onset in ((value[None], found.onset.values[1:]), (resamples, draws[1])):
        gap = of - (of[:, :1] + of[:, [top]]) / 2
        np.testing.assert_array_equal(onset, crossings(steps[rest], gap[:, rest], None, SUSTAINED))
    assert 32 < found.onset[1] < 96 and draws.shape == (2, 101)


@pytest.mark.parametrize(("rise", "chance", "dated"), [(0.4, 0, False), (0.6, 0, True), (0.4, 0.2, True)])
def test_half_way_is_of_a_rise_that_matters(rise, chance, dated):
    """Which is as large as the least effect above chance; a smaller one may be sure and is none."""
    value = np.where(STEPS > 150, 3.0 + rise, 3.0)
    one = Measured(STEPS, value, value * np.ones((50, 1)), np.zeros((len(STEPS), 20)), 9, 0.5, chance=chance)
    found, _ = judge(one, np.full(len(STEPS), 0.01), LEVEL, SUSTAINED)
    assert found.status == "from the start" and np.isfinite(found.onset[1]) == dated


@pytest.mark.parametrize("middle", [64, 170, 300, 450])
def test_both_answers_are_where_the_curve_has_them(middle):
    """First detectable where it crosses the least effect, half-way where half of the way is done."""
    x = np.linspace(0, np.log1p(810), 10_000)
    curve = rising(middle, steps=np.expm1(x))
    ends = (curve[[0, -1]].sum() / 2, 0.5)
    truth = [np.expm1(x[(curve > level).argmax()]) for level in ends[::-1]]
    covered = []
    for seed in range(20):
        found = judged(measured(rising(middle), seed))
        covered.append((found.onset_lower.values <= truth) & (truth <= found.onset_upper.values))
        places = [np.interp(steps, STEPS, np.arange(len(STEPS))) for steps in (found.onset.values, truth)]
        assert abs(places[0] - places[1]).max() < 1
        assert (found.onset_lower <= found.onset).all() and (found.onset <= found.onset_upper).all()
        assert (found.value_lower <= found.value).all() and (found.value <= found.value_upper).all()
    assert np.mean(covered, 0).min() >= 0.85


def test_an_onset_is_known_only_up_to_the_gap_around_it():
    """Whatever the resamples say; steps far apart make it wide."""
    found = judged(measured(np.where(STEPS > 150, 3.0, 0), noise=1e-9))
    assert (found.onset_lower == 96).all() and (found.onset_upper == 160).all()
    assert judged(measured(SHAPES["rises at once"][0])).onset_lower[0] == 0
    few = np.array([0, 160, 512, 810])
    found = judged(measured([0, 0, 3, 3], steps=few))
    assert (found.onset_lower <= 160).all() and (found.onset_upper >= 512).all() and 160 < found.onset[0] < 512


def test_what_comes_later_moves_no_onset():
    """Cut a history anywhere past the onset: it stays where it was."""
    whole = measured(UP)
    full = judged(whole)
    for cut in range(8, len(STEPS)):
        steps, values, null = whole.steps[:cut], whole.value[:cut], whole.null[:cut]
        part = judged(replace(whole, steps=steps, value=values, resamples=whole.resamples[:, :cut], null=null))
        assert part.onset[0] == pytest.approx(float(full.onset[0]))
        assert part.onset_lower[0] == pytest.approx(float(full.onset_lower[0]), rel=0.02)


def test_nulls_drawn_anew_move_an_onset_by_less_than_a_checkpoint():
    one, draw = measured(rising(200, 3), null=1.0), np.random.default_rng(5)
    onsets = [float(judged(replace(one, null=draw.normal(0, 1.0, one.null.shape))).onset[0]) for _ in range(40)]
    place = np.interp(onsets, STEPS, np.arange(len(STEPS)))
    assert np.quantile(abs(place - np.median(place)), 0.95) < 0.7


# --- what is handed in ------------------------------------------------------------------------------------------------


def test_one_checkpoint_gets_a_verdict_and_no_onset():
    here, not_here = (judged(measured([height], steps=np.array([100]))) for height in (3.0, 0.0))
    assert here.status == "present" and np.isnan(here.onset).all() and here.peak == 100
    assert not_here.status == "absent" and text("present", *[np.nan] * 3) == "present"
    high, low = sure([3.0], STEPS[:1]), sure([0.0], STEPS[:1])
    assert (high().status, high(q=0.2).status, high(q=np.nan).status) == ("present", "absent", "unknown")
    assert low().status == low(q=np.nan).status == "absent"


def test_of_two_checkpoints_an_onset_lies_on_the_straight_line_between_them():
    """And with the first, above what has to be cleared by luck, none begins."""
    two = sure([-1.0, 1.0], STEPS[:2])(sustained=1)
    assert two.onset.values == pytest.approx(np.expm1(np.log1p(32) / 2))
    lucky = sure([3.0, 3.0], STEPS[:2])
    assert lucky(sustained=1).status == "from the start"
    late = lucky(sustained=1, q=np.array([0.2, 0.01]))
    assert late.status == "rises" and late.onset[0] >= 0


@pytest.mark.parametrize("units", [1, 2, 3])
def test_too_few_units_have_a_value_and_no_interval(units):
    found = judged(measured(UP, units=units))
    assert found.status == "too few" and np.isfinite(found.value).all()
    assert found.question.values.tolist() == list(QUESTIONS)
    assert np.isnan([*found.value_lower, *found.value_upper, *found.onset, *found.onset_lower]).all()
    assert judged(measured(UP, units=4)).status == "rises"


def test_without_nulls_nothing_is_known():
    one = measured(UP)
    found = judged(replace(one, null=one.null * np.nan))
    assert found.status == "unknown" and np.isnan([*found.onset, *found.p_value, *found.bar]).all()


@pytest.mark.parametrize("name", ["value", "resamples"])
def test_a_checkpoint_whose_value_cannot_be_told_is_as_if_it_were_not_there(name):
    whole, gone = measured(UP), STEPS != 224
    kept = {of: getattr(whole, of)[gone] for of in ("steps", "value", "null")}
    without = replace(whole, **kept, resamples=whole.resamples[:, gone])
    holed = replace(whole, **{name: np.where(gone, getattr(whole, name), np.nan)})
    (one, its_draws), (other, draws) = (judge(of, np.full(len(of.steps), 0.01), LEVEL, 2) for of in (holed, without))
    np.testing.assert_array_equal(one.onset, other.onset)
    np.testing.assert_array_equal(its_draws, draws)


@pytest.mark.parametrize("missing", [0, 3, 6, 11])
def test_a_checkpoint_without_value_or_null_is_a_gap_and_nothing_worse(missing):
    whole = measured(UP)
    for name in ("value", "null"):
        holed = replace(whole, **{name: getattr(whole, name).copy()})
        getattr(holed, name)[missing] = np.nan
        found = judged(holed)
        assert found.status == "rises"
        assert abs(np.searchsorted(STEPS, found.onset[0]) - np.searchsorted(STEPS, judged(whole).onset[0])) <= 1


def test_draws_that_are_not_there_do_not_count():
    one = measured(UP)
    null = one.null.copy()
    null[:, ::2] = np.nan
    fewer, same = judged(replace(one, null=null)), judged(replace(one, null=one.null[:, 1::2]))
    np.testing.assert_array_equal(fewer.p_value, same.p_value)
    np.testing.assert_array_equal(fewer.bar, same.bar)
    assert (fewer.p_value < 1 / 251).any()


def test_what_has_to_be_cleared_is_by_hand_and_varies_as_the_quantile_of_so_many_draws_does():
    value, draws, ranks = np.zeros(5), np.full((5, 100), np.nan), np.arange(1.0, 101)
    draws[1], draws[3, :10] = ranks[::-1], ranks[:10]
    one = Measured(STEPS[:5], value, np.zeros((4000, 5)), draws, 9)
    bar, bars = one.bar(LEVEL, 0)
    assert bar.tolist() == [95, 95, 10, 10, 10]  # where there are none, of the nearest that has any, of two the later
    assert (bars[:, 0] == bars[:, 1]).all() and bars[:, 3].max() == 10
    place = 100 * beta.rvs(95, 6, size=4000, random_state=0)
    assert bars[:, 1].mean() == pytest.approx(place.mean() + 0.5, abs=0.2)
    assert bars[:, 1].std() == pytest.approx(place.std(), rel=0.05)
    found = judge(replace(one, null=np.tile(ranks, (5, 1))), value, LEVEL, SUSTAINED)[0]
    assert np.allclose(found.null_lower, 5.95) and np.allclose(found.null_upper, 95.05)
    assert found.q_value.equals(found.value)


def test_floors_are_held_against_every_resample():
    """That of an untrained model against its own."""
    value, resamples = np.array([2.0, 5, 5]), np.array([[1.0, 4, 9], [2, 5, 9], [3, 2, 9]])
    null = np.zeros((3, 100))
    one = Measured(np.array([0, 1, 2]), value, resamples, null, 9)
    for more, p, bar, bars in (
        ({}, [1 / 101] * 3, 0, [0] * 3),
        ({"floor": 2.0}, [3 / 4, 2 / 4, 1 / 4], 2, [2] * 3),
        ({"untrained": True}, [1, 2 / 4, 1 / 4], 2, [1, 2, 3]),
        ({"untrained": True, "floor": 2.5}, [1, 2 / 4, 1 / 4], 2.5, [2.5, 2.5, 3]),
        ({"least": 4.0}, [1 / 101] * 3, 4, [4] * 3),
    ):
        found = replace(one, **more)
        np.testing.assert_allclose(found.p_value, p)
        assert (found.bar(LEVEL, 0)[0] == bar).all()
        np.testing.assert_array_equal(found.bar(LEVEL, 0)[1], np.repeat(np.array(bars, float)[:, None], 3, 1))


@pytest.mark.parametrize("steps", [[0, 2, 1], [0, 1, 1], []])
def test_steps_that_do_not_increase_are_refused(steps):
    values = np.zeros(len(steps))
    with pytest.raises(ValueError, match="steps must increase"):
        Measured(np.array(steps), values, values[None], values[:, None], 9)


def test_a_floor_that_is_not_cleared_is_told_as_such():
    """Found against its null, yet no more than is there without learning; and not reached where there is nothing."""
    assert judged(measured(UP, floor=5.0)).status == "words alone"
    assert judged(measured(UP, floor=1.0)).status == "rises"
    assert judged(measured(UP, floor=1.0)).onset[0] > judged(measured(UP)).onset[0]
    assert judged(measured(ODD, floor=5.0)).status == "not reached"
    flat = measured(ODD + 0.8, null=0.1, least=0.6, untrained=True)
    flat.value[1] += 0.1
    for floor, status in ((0, "words alone"), (-0.01, "as untrained")):  # whichever is higher
        assert judged(replace(flat, floor=flat.value[0] + floor)).status == status


def test_what_is_sure_but_tiny_is_not_reached():
    """A least effect stands beside the null: 0.05 nat without any noise is no steering."""
    tiny = measured(UP / 60, noise=1e-4, null=1e-3)
    found = judged(tiny)
    assert found.status == "not reached" and found.p_value.min() < 0.01
    assert judged(replace(tiny, least=0.01)).status == "rises"


@pytest.mark.parametrize("floor", [{"untrained": True}, {"floor": 0.8}], ids=["an untrained model", "words"])
@pytest.mark.parametrize("checkpoints", [8, 15, 30])
def test_a_curve_that_stays_at_its_floor_does_not_emerge(floor, checkpoints):
    """Though it is far above its null, and one of two that are equal is the higher half of the time."""
    steps, told = np.unique(np.geomspace(1, 1000, checkpoints).round().astype(int)) - 1, []
    for seed in range(30):
        flat = measured(np.full(len(steps), 0.8), seed, units=8, noise=0.03, null=0.08, steps=steps, least=0.6, **floor)
        told.append(judged(flat).status.item())
    assert np.mean([status in EMERGED for status in told]) <= 0.15
    assert told.count("words alone" if "floor" in floor else "as untrained") >= 24
    high = measured(0.8 + 0.15 * (steps > 30), 0, units=8, noise=0.03, null=0.08, steps=steps, least=0.6, **floor)
    found = judged(high)
    assert found.status == "rises" and found.onset_lower[0] >= 0


def test_an_onset_is_from_the_start_only_where_an_effect_is_found_at_the_start():
    """Above what has to be cleared by luck, the first checkpoint is no part of the rise that follows."""
    one = measured(UP)
    q = family(one.p_value[None])[0]
    lucky = replace(one, value=one.value + (STEPS == 0) * 1.0, resamples=one.resamples + (STEPS == 0) * 1.0)
    lucky.value[1:4] = lucky.resamples[:, 1:4] = 1.0
    found, draws = judge(lucky, np.where(STEPS < 100, 0.2, q), LEVEL, SUSTAINED)
    assert found.status == "rises" and 0 <= found.onset[0] <= 32 and (draws[0] >= 0).all()
    assert judge(lucky, np.full(len(STEPS), 0.01), LEVEL, SUSTAINED)[0].status == "from the start"


def test_a_large_effect_at_the_last_checkpoints_of_many_is_found_among_many():
    """Though p by draws alone stops at 1 / 501, which 30 checkpoints and 40 concepts make nothing of."""
    steps = np.unique(np.geomspace(1, 1000, 30).round().astype(int))
    late = [measured(6.0 * (steps > steps[-5]), seed, steps=steps) for seed in range(5)]
    never = [measured(0.0 * steps, 10 + seed, steps=steps) for seed in range(35)]
    q = family(np.array([one.p_value for one in late + never]))
    told = [judge(one, row, LEVEL, SUSTAINED)[0].status.item() for one, row in zip(late + never, q, strict=True)]
    assert told == ["rises"] * 5 + ["not reached"] * 35


def test_onsets_are_seen_at_checkpoints_and_lie_anywhere_before():
    steps, onset = np.array([0, 10, 100]), np.array([-np.inf, 3.0, 10.0, 10.1, 99.0, np.inf, np.nan])
    np.testing.assert_array_equal(seen_at(steps, onset), [-np.inf, 10, 10, 100, 100, np.inf, np.nan])
    draws = anywhere(steps, np.repeat(onset[:, None], 500, 1), np.random.default_rng(0))
    assert (draws[1:3] <= 10).all() and (draws[3:5] >= 10).all() and (draws[3:5] <= 100).all()
    assert draws[1].min() < 0.2 and draws[1].max() > 9.5
    np.testing.assert_array_equal(draws[[0, 5, 6], 0], onset[[0, 5, 6]])
    assert 0 <= anywhere(steps, np.array([0.0]), np.random.default_rng(0)) <= 10


# --- false alarms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lasting_null", [False, True], ids=["anew at every step", "once for good"])
@pytest.mark.parametrize("beside", [0, 30], ids=["alone", "beside concepts that emerge"])
def test_what_is_like_its_null_seldom_emerges(lasting_null, beside):
    draw, cases, growth = np.random.default_rng(0), 100, np.linspace(0.2, 3, len(STEPS))

    def effects(n):
        shared, own = draw.normal(0, 1, n), draw.normal(0, 1, (len(STEPS), n))
        return growth[:, None] * (shared if lasting_null else own)

    ones = []
    for _ in range(cases):
        value = effects(1)[:, 0]
        resamples = value + draw.normal(0, 0.1, (100, 1)) * growth
        ones.append(Measured(STEPS, value, resamples, effects(500), 24, 0.1))
    q = family(np.array([one.p_value for one in ones] + [np.full(len(STEPS), 1 / 501)] * beside))
    emerged = [judge(one, row, LEVEL, SUSTAINED)[0].status in EMERGED for one, row in zip(ones, q, strict=False)]
    assert np.mean(emerged) <= 0.07


# --- the pieces -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("above", "expected"),
    [
        ([N, Y, Y, Y], [N, Y, Y, Y]),
        ([Y, Y, N, Y], [Y, Y, Y, Y]),
        ([N, Y, N, Y], [N, N, N, N]),
        ([N, N, N, Y], [N, N, N, N]),
        ([Y, Y, N, N], [Y, Y, N, N]),
        ([Y, Y, Y, N], [Y, Y, Y, Y]),
        ([Y, N, N, Y], [N, N, N, N]),
    ],
)
def test_a_change_counts_where_it_lasts(above, expected):
    assert lasting(np.array([above, above]), 2).tolist() == [expected] * 2
    assert lasting(np.array([above]), 1)[0].tolist() == above


@pytest.mark.parametrize(
    ("above", "found", "expected"),
    [
        ([Y, Y, Y, Y, N, N], [Y, N, N, N, N, N], [Y, Y, Y, Y, N, N]),
        ([Y, Y, Y, Y, N, N], [N, N, N, Y, N, N], [Y, Y, Y, Y, N, N]),
        ([N, N, Y, Y, Y, Y], [N, N, N, N, N, Y], [N, N, Y, Y, Y, Y]),
        ([Y, Y, N, N, Y, Y], [Y, N, N, N, N, N], [Y, Y, N, N, N, N]),
        ([Y, Y, N, N, Y, Y], [N, N, N, N, Y, N], [N, N, N, N, Y, Y]),
        ([N, N, N, N, N, Y], None, [N, N, N, N, N, Y]),
    ],
)
def test_a_stretch_counts_as_a_whole_where_an_effect_is_found_in_it(above, found, expected):
    assert stretches(np.array([above]), found and np.array(found), 2)[0].tolist() == expected


def test_crossings_lie_where_a_straight_line_has_them():
    steps, x = np.array([0, 10, 100, 1000]), np.log1p([0, 10, 100, 1000])
    for at in (3.0, 40.0, 900.0):
        found = crossings(steps, (x - np.log1p(at))[None], None, 2)
        assert found[0] == pytest.approx(at)
    assert crossings(steps, np.ones((1, 4)), None, 2)[0] == -np.inf
    assert crossings(steps, -np.ones((1, 4)), None, 2)[0] == np.inf


def test_an_onset_reads_as_a_person_would_say_it():
    assert text("rises", 304.2, 288, 320) == "304 [288–320]"
    assert text("fades", 304.2, 288, np.inf) == "304 [288–…], fades"
    assert text("from the start", -np.inf, -np.inf, -np.inf) == "from the start"
    assert text("not reached", np.inf, np.inf, np.inf) == "not reached"
    assert text("rises", 12, -np.inf, 40) == "12 [start–40]" and text("rises", 5, 0, 9) == "5 [0–9]"
    assert text("rises", 0.06, 0, np.inf) == "0.06 [0–…]" and text("rises", 4.2, 0.3, 12) == "4 [0–12]"
    assert text("falls", -np.inf, -np.inf, -np.inf) == "from the start, falls"
    unsure = {"rises": "not sure", "from the start": "does not rise", "returns": "does not rise"}
    assert {status: text(status, *[np.nan] * 3) for status in unsure} == unsure
    assert {*QUESTIONS} == {"first_detectable", "half_way"}


def test_what_is_above_the_bar_where_nothing_can_be_held_against_it_is_unknown_and_not_absent():
    """Draws that end where the effect begins, or too few of them for any discovery."""
    one = measured(0.3 * UP)
    null = one.null.copy()
    null[4:] = np.nan
    assert judged(replace(one, null=null)).status == "unknown"
    single = measured([3.0], steps=np.array([100]), floor=5.0)
    assert judged(single).status == "words alone" and judged(replace(single, floor=-np.inf)).status == "present"
