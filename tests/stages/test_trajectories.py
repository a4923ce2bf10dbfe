"""Onsets of any table: planted rises are found, flat ones are not, bad tables are told, and Pythia's page is true."""

from __future__ import annotations

import json
import re
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest, norm

from steerlib import SteerlibError
from steerlib.numerics import onsets as rule
from steerlib.numerics.onsets import EMERGED
from steerlib.numerics.statistics import bootstrap_means, family
from steerlib.stages.scores import check, read
from steerlib.stages.trajectories import CERTAIN, LEAST, Trajectory, frame, items_of, onsets, summary

ROOT = Path(__file__).parents[2]
PYTHIA = ROOT.parent / "shared/data/pythia_evals/pythia_v1_core_tasks.csv.xz"
PAGE = ROOT / "docs/pythia_evals.md"
STEPS = np.array([0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 3000, *range(13000, 144000, 10000)])


def shares(mean, cases, questions=1000, seed=0, steps=STEPS):
    """Shares of right answers, with the standard errors that evaluation harnesses give."""
    value = np.random.default_rng(seed).binomial(questions, mean, size=(cases, len(steps))) / questions
    return table(value, np.sqrt(value * (1 - value) / (questions - 1)), steps)


def table(value, stderr, steps=STEPS):
    cases, n = value.shape
    labels = {"task": np.repeat(np.arange(cases), n), "run": 0, "step": np.tile(steps, cases)}
    return pd.DataFrame(labels | {"value": value.ravel(), "stderr": np.broadcast_to(stderr, value.shape).ravel()})


def plain(rows):
    """The plain reading: the first step whose value less two errors is above the first plus two of its own."""
    clear = rows.value - 2 * rows.stderr > rows.value.iloc[0] + 2 * rows.stderr.iloc[0]
    return rows.step[clear].min() if clear.any() else np.inf


def rise(midpoint, height=0.5, steepness=6.0, floor=0.25):
    return floor + height / (1 + np.exp(-steepness * (np.log1p(STEPS) - np.log1p(midpoint))))


# --- the rule -----------------------------------------------------------------------------------------------------


def steps_of(count):
    """Step 0, and the others evenly in log(1 + step)."""
    return np.append(0, np.unique(np.expm1(np.linspace(np.log(33), np.log(100_001), count - 1)).round())).astype(int)


@pytest.mark.parametrize("kind", ["shares", "normal"])
@pytest.mark.parametrize("count", [8, 15, 30])
def test_intervals_hold_the_onsets_of_known_curves(count, kind):
    """Where between two checkpoints a curve rises is another place in every repeat."""
    draw, steps, error = np.random.default_rng(count), steps_of(count), np.sqrt(0.25 * 0.75 / 1000)
    x = np.log1p(steps)
    fine, truths, means = np.linspace(x[0], x[-1], 10_001), [], []
    for _ in range(80):
        middle = np.log(3001) + (x[-1] - x[-2]) * draw.uniform(-0.5, 0.5)
        curve, mean = (0.25 + 0.5 / (1 + np.exp(-3 * (at - middle))) for at in (fine, x))
        bar = mean[0] + max(1.645 * 2**0.5 * error, LEAST if kind == "shares" else 0)
        truths.append([np.expm1(fine[(curve > level).argmax()]) for level in (bar, (mean[0] + mean[-1]) / 2)])
        means.append(mean)
    noisy = shares(np.array(means), 80, seed=1, steps=steps)
    if kind == "normal":
        noisy = table(10 + np.array(means) + draw.normal(0, error, (80, count)), np.array([[error]]), steps)
    found = onsets(noisy, ["task"], draws=200)
    assert (found.status == "rises").mean() > 0.95 and np.isfinite(found.units).all() == (kind == "shares")
    assert ((found.onset_lower <= found.onset) & (found.onset <= found.onset_upper)).all()
    held = (found.onset_lower <= np.array(truths)) & (np.array(truths) <= found.onset_upper)
    assert (held.mean("trajectory") >= 0.9).all()  # 0.95 but for chance


def flat(cases, kind, correlation=0.0, level=0.5):
    if kind == "shares":
        return shares(np.full(len(STEPS), level), cases)
    draw = np.random.default_rng(0)
    noise = (1 - correlation) ** 0.5 * draw.normal(size=(cases, len(STEPS)))
    return table(level + 0.1 * (noise + correlation**0.5 * draw.normal(size=(cases, 1))), np.full((1, 1), 0.1))


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, "shares"),
        ({"least": 0}, "normal"),
        ({"chance": 0.5}, "shares"),
        ({"paired": 0.7}, "normal"),
        ({"pool": ["task"]}, "shares"),
    ],
)
def test_what_is_flat_is_seldom_found_though_it_is_looked_at_often(options, kind):
    """p-values of another draw of the untrained level are uniform, or larger where it has to clear others as well."""
    level = flat(200, kind, options.get("paired", 0.0))
    found = onsets(level, ["task"], draws=50, **options)
    p = found.p_value.values
    if "pool" in options:
        assert all((p[:, 1:] <= alpha).mean() <= alpha for alpha in (0.05, 0.2, 0.5))
    else:
        assert np.median([kstest(step, "uniform").pvalue for step in p[:, 1:].T]) > 0.1
    if "chance" not in options:
        assert (p[:, 0] >= 0.5).all()  # step 0 is no evidence against itself
    assert not found.status.isin(EMERGED).any()
    above, alone = (found.value > found.bar).values, np.array([family(row[None])[0] for row in p]) <= 0.05
    assert np.mean([rule.stretches(*rows, 2).any() for rows in zip(above[:, None], alone, strict=True)]) <= 0.05
    if kind == "shares":
        known = [np.isfinite(plain(rows)) for _, rows in level.groupby("task")]
        assert np.mean(known) > 0.02  # its chance grows with every look


def test_an_effect_is_found_among_hundreds_of_others_that_are_none():
    """As no number of draws could tell: its p is far below one in thousands."""
    value = flat(300, "shares").value.to_numpy().reshape(300, -1).copy()
    value[7, -2:] += 0.25
    found = onsets(table(value, np.sqrt(value * (1 - value) / 999)), ["task"], draws=50)
    assert np.flatnonzero(found.status.isin(EMERGED)).tolist() == [7]


@pytest.mark.parametrize(
    ("least", "status"), [(None, "not reached"), (0.0, "rises"), (0.005, "rises"), (0.05, "not reached")]
)
def test_what_is_surely_there_may_not_matter(least, status):
    mean = 0.5 + 0.015 / (1 + np.exp(-6 * (np.log1p(STEPS) - np.log1p(800))))
    many = shares(mean, 3, questions=10**6)
    found = onsets(many, ["task"], draws=100, least=least)
    assert (found.status == status).all() and (found.q_value.isel(step=-1) < 0.001).all()
    other = onsets(many.assign(value=many.value + 7), ["task"], draws=100, least=least)
    assert (other.status == ("rises" if least is None else status)).all()  # no shares: anything matters by default


@pytest.mark.parametrize(
    ("above", "options", "status", "told"),
    [
        (STEPS >= 1000, {}, "rises", r"\d+ \[\d+–\d+\]"),
        (STEPS >= 0, {"chance": 0.5}, "from the start", "from the start"),
        ((STEPS >= 8) & (STEPS < 1000), {}, "fades", r"\d+ \[\d+–\d+\], fades"),
        ((STEPS >= 8) & ((STEPS < 64) | (STEPS >= 3000)), {}, "returns", r"\d+ \[\d+–\d+\], returns"),
        (STEPS == 143000, {}, "last only", "last only"),
        (STEPS < 0, {}, "not reached", "not reached"),
        (STEPS == 64, {}, "not reached", "not reached"),
    ],
)
def test_how_a_curve_goes_is_told(above, options, status, told):
    one = onsets(table(np.where(above, 0.8, 0.5)[None], np.full((1, 1), 0.02)), ["task"], **options)
    assert one.status.item() == status and re.fullmatch(told, summary(one)["first detectable"].item())
    if status == "fades":
        assert 512 <= one.faded <= 1000


def test_a_low_start_is_no_rise_where_other_untrained_levels_are_known():
    """Step 0 unluckily low, and then a value that any of the others has had from the first."""
    value = np.full((9, len(STEPS)), 0.50)
    value[:, 0] = [0.46, 0.49, 0.50, 0.51, 0.49, 0.50, 0.51, 0.48, 0.52]
    value[0, 1:] = 0.52
    low = table(value, np.full(value.shape, 0.01))
    assert (onsets(low, ["task"]).status == "rises").values.tolist() == [True] + [False] * 8
    assert (onsets(low, ["task"], pool=["task"]).status == "not reached").all()
    # What clears all of them is still found; and none has its own start forgotten.
    low.loc[(low.task == 0) & (low.step >= 512), "value"] = 0.6
    assert 256 < onsets(low, ["task"], pool=["task"]).onset[0, 0] < 512
    high = low.assign(value=low.value + 0.2 * (low.task == 8))
    assert onsets(high, ["task"], pool=["task"]).status[8] == "not reached"


def test_nothing_right_at_first_is_a_level_with_an_error():
    right = np.where(STEPS < 512, 0, np.where(STEPS < 1000, 1, 400))[None] / 5153
    found = onsets(table(right, np.sqrt(right * (1 - right) / 5152)), ["task"], least=0)
    assert found.units.item() == pytest.approx(5153, abs=1) and 512 < found.onset[0, 0] < 1000
    assert 1 / 5153 < found.bar[0, 0] < 4 / 5153  # Jeffreys' bound for 0 of 5,153 is 1.9, of which it is another draw
    assert (found.value_lower >= 0).all()


def test_one_rule_serves_studies_and_tables():
    """Units of a study, and their mean and standard error: the same but for what resampling leaves open."""
    draw = np.random.default_rng(0)
    for case in range(10):
        units = 3 * rise(800)[:, None] + draw.normal(0, 0.5, (len(STEPS), 60))
        mean, error = units.mean(1), units.std(1, ddof=1) / np.sqrt(60)
        resamples = bootstrap_means(units, 1000, case)
        both = np.hypot(error, error[0])[:, None]
        null = mean[0] + both * draw.normal(size=(len(STEPS), 1000))
        measured = rule.Measured(STEPS, mean, resamples - resamples[:, :1] + mean[0], null, 60, mean[0])
        study, _ = rule.judge(measured, family(measured.p_value[None])[0], 0.95, 2)
        found = onsets(table(mean[None], error), ["task"]).isel(trajectory=0)
        assert found.status == study.status and np.allclose(found.value, study.value) and np.isnan(found.units)
        assert np.allclose(found.bar, study.bar, atol=0.05)
        for name in ("onset", "onset_upper"):
            assert np.allclose(np.log(found[name]), np.log(study[name]), atol=0.3)


def test_neither_the_order_of_rows_nor_the_other_trajectories_matter():
    both = pd.concat([shares(rise(800), 3), shares(rise(20000), 3, seed=1).assign(run=1)], ignore_index=True)
    found = onsets(both, ["task"], draws=200)
    assert onsets(both.sample(frac=1, random_state=0), ["task"], draws=200).identical(found)
    alone = frame(onsets(both[(both.run == 1) & (both.task == 2)], ["task"], draws=200))
    pd.testing.assert_frame_equal(alone.drop(columns="q"), frame(found).loc[[(2, 1)]].drop(columns="q"))


def test_another_seed_moves_no_onset_and_its_interval_little():
    some = shares(rise(800), 5)
    one, other = (onsets(some, ["task"], seed=seed) for seed in range(2))
    assert np.array_equal(one.onset, other.onset) and not np.array_equal(one.draws, other.draws)
    assert np.allclose(np.log1p(one.onset_lower), np.log1p(other.onset_lower), atol=0.5)


@pytest.mark.parametrize("kind", ["errors", "any"])
def test_lower_is_better_is_higher_is_better_turned_over(kind):
    up = shares(rise(800), 4) if kind == "errors" else table(10 * rise(800)[None], np.full((1, 1), 0.2))
    up = up.assign(metric="zest")
    turned = up.assign(value=1 - up.value if kind == "errors" else -up.value)
    high, low = (
        onsets(up, ["task"], draws=300, lower_is_better=()),
        onsets(turned, ["task"], draws=300, lower_is_better={"zest"}),
    )
    for name in ("onset", "onset_lower", "onset_upper"):
        assert np.allclose(high[name], low[name])
    offset = 1 if kind == "errors" else 0
    for name, other in (("value",) * 2, ("value_lower", "value_upper"), ("null_upper", "null_lower"), ("bar",) * 2):
        assert np.allclose(offset - high[name], low[other])
    assert np.allclose(high.difference, -low.difference)


def test_the_order_is_that_of_what_rises_and_what_rises_between_the_same_checkpoints_is_tied():
    rises = {"late": 20000, "early": 20, "never": np.inf, "also early": 20, "middle": 800}
    rows = [shares(rise(middle), 1, seed=10 + k).assign(task=name) for k, (name, middle) in enumerate(rises.items())]
    several = pd.concat([pd.concat(rows).assign(run=run) for run in range(2)])
    found = onsets(several, ["task"], draws=200)
    told = summary(found, order="task")
    for run in range(2):
        one = told.xs(run, level="run")
        assert {*one.index[:2]} == {"early", "also early"} and [*one.index[2:]] == ["middle", "late", "never"]
        before, tied = (pd.to_numeric(one[name]) for name in ("before the next", "tied with it"))
        assert (before.iloc[1:4] > 0.95).all() and (tied.iloc[1:4] < 0.05).all()
        assert tied.iloc[0] > 0.2 and before.iloc[0] + tied.iloc[0] <= 1
        assert np.isnan(before.iloc[4]) and np.isnan(tied.iloc[4])  # there is no next
    pd.testing.assert_frame_equal(told[[*summary(found)]].sort_index(), summary(found).sort_index())
    with pytest.raises(SteerlibError, match="order: 'model' is none of task, run"):
        summary(found, order="model")
    late = onsets(several.query("step >= 3000"), ["task"], draws=50)
    assert (summary(late, order="run")["before the next"] == "").all()  # unknown


def test_what_came_first_is_what_was_first_detectable_and_errors_of_nothing_are_borne():
    """Of two, the slow one is seen first and is half-way up last; p-values are those of which q is made."""
    curves = {"sharp": rise(1500), "slow": rise(5000, steepness=1.0)}
    rows = [shares(curve, 1, seed=k).assign(task=name) for k, (name, curve) in enumerate(curves.items())]
    found = onsets(pd.concat(rows), ["task"], draws=200)
    assert [*summary(found, order="task").index.get_level_values("task")] == ["slow", "sharp"]
    half = dict(zip(found.task.values, found.onset.sel(question="half_way").values, strict=True))
    assert half["sharp"] < half["slow"]
    p, q = (found[name].transpose("trajectory", "step").values for name in ("p_value", "q_value"))
    np.testing.assert_allclose(family(p), q)
    sure = onsets(table(rise(1500)[None], np.zeros((1, 1))), ["task"], draws=50)
    assert sure.status.item() == "rises"
    unsure = onsets(table(rise(1500)[None], np.append(1.0, np.full(len(STEPS) - 1, 0.01))[None]), ["task"], draws=50)
    assert unsure.status.item() == "not reached", "what is not known of the untrained level has to be cleared, too"


def test_which_way_is_up_is_known_said_or_refused():
    both = pd.concat([shares(rise(800), 1).assign(metric=name) for name in ("acc,none", "ppl")])
    assert dict(
        zip(*[frame(onsets(both, ["metric"])).reset_index()[n] for n in ("metric", "better")], strict=True)
    ) == {
        "acc,none": "higher",
        "ppl": "lower",
    }
    odd = both.replace({"ppl": "zest"})
    with pytest.raises(SteerlibError, match="metric 'zest': is lower better"):
        onsets(odd, ["metric"])
    assert frame(onsets(odd, ["metric"], lower_is_better={"zest"})).better.tolist() == ["higher", "lower"]
    assert (onsets(shares(rise(800), 1), ["task"]).better == "higher").all()  # without a column metric


def test_without_an_untrained_level_there_is_no_onset_unless_chance_is_given():
    late = shares(rise(800), 2).query("step >= 3000")
    unknown = onsets(late, ["task"])
    assert (unknown.status == "unknown").all() and np.isnan(unknown.q_value).all()
    assert np.isnan(unknown[["onset", "onset_lower", "onset_upper", "bar", "difference"]].to_array()).all()
    assert (summary(unknown)[["first detectable", "half-way up"]] == "unknown").values.all()
    given = onsets(late, ["task"], chance=0.25)
    assert given.status.isin(["from the start", "falls"]).all()
    assert np.allclose(given.bar, 0.25 + 1.645 * np.sqrt(0.25 * 0.75 / 1000), atol=1e-3)
    with pytest.raises(SteerlibError, match="chance: 25 is none for shares"):
        onsets(late, ["task"], chance=25)
    for name in ("chance", "least"):
        with pytest.raises(SteerlibError, match=f"{name}: nan is no finite number"):
            onsets(late, ["task"], **{name: np.nan})


def test_the_number_of_questions_is_recognised_only_where_there_are_any():
    value = np.array([0.0, 0.2, 0.6])
    assert items_of(value, np.sqrt(value * (1 - value) / 99)) == 100
    assert np.isnan(items_of(value, np.array([0.0, 0.05, 0.02])))
    assert np.isnan(items_of(value + 1, np.full(3, 0.05))) and np.isnan(items_of(value * 0, value * 0))
    rounded = np.sqrt(value * (1 - value) / 99).round(3)
    assert items_of(value, rounded) == pytest.approx(100, abs=2) and np.isnan(items_of(value[:2], rounded[:2]))
    assert items_of(np.append(value, 1), np.append(rounded, 0)) == pytest.approx(100, abs=2)
    for odd, error, told in ((0.5, 0, 100), (1.2, 0, np.nan), (0, 0.1, np.nan), (-0.2, 0.1, np.nan)):
        found = items_of(np.append(value, odd), np.append(np.sqrt(value * (1 - value) / 99), error))
        np.testing.assert_equal(found, told)


# --- the pieces ---------------------------------------------------------------------------------------------------


def trajectory(value, stderr=0.5, items=np.nan):
    value = np.asarray(value, float)
    return Trajectory((), np.arange(len(value)), value, np.full(len(value), stderr), items, "higher")


def test_shares_go_by_their_angle_where_errors_are_the_same_and_come_back():
    value = np.array([0, 0.2, 0.5, 1])
    angle, error = trajectory(value, items=20.0).evened(value, None)
    np.testing.assert_allclose(trajectory(value, items=20.0).restored(angle), value, atol=1e-12)
    assert trajectory(value, items=20.0).restored(np.array([-1, 4])).tolist() == [0, 1] and (error == 82**-0.5).all()
    drawn = np.random.default_rng(0).binomial(20, value[1:3], size=(20_000, 2)) / 20
    for spread, there in zip(trajectory(value, items=20.0).evened(drawn, None)[0].std(0), error[1:3], strict=True):
        assert spread == pytest.approx(there, rel=0.05)


def test_resamples_vary_as_the_errors_say_and_together_as_far_as_they_are_paired():
    drawn = trajectory([1.0, 2, 4]).resampled(20_000, 0.7, np.random.default_rng(0))
    np.testing.assert_allclose(drawn.mean(0), [1, 2, 4], atol=0.02)
    np.testing.assert_allclose(drawn.std(0), 0.5, rtol=0.02)
    np.testing.assert_allclose(np.corrcoef(drawn.T)[np.triu_indices(3, 1)], 0.7, atol=0.02)


@pytest.mark.parametrize(
    ("levels", "paired", "apart"),
    [
        ([(0.0, 0.5)], 0.0, [0.5**0.5]),
        ([(0.0, 0.5)], 0.5, [0.5]),  # whose errors are half the same
        ([(0.0, CERTAIN)], 0.0, [0.5]),
        ([(0.0, 0.5), (1.0, 0.3)], 0.0, [0.5**0.5, 0.34**0.5]),
        ([(1.0, 0.5), (0.0, 0.3)], 0.0, [0.5**0.5, 0.34**0.5]),
    ],
)
def test_another_draw_of_a_level_is_off_by_the_errors_of_both(levels, paired, apart):
    """What has to be cleared is the own level's, or that of all together where it is higher."""
    one, levels = trajectory([levels[0][0], 1, 3]), np.array(levels)
    resamples = one.resampled(4000, paired, np.random.default_rng(0))
    measured, p, stands = one.against(levels, resamples, 0.25, paired, np.random.default_rng(1))
    tails = [norm.sf((one.value - level) / error) for level, error in zip(levels[:, 0], apart, strict=True)]
    np.testing.assert_allclose(p, np.maximum(tails[0], np.mean(tails, 0)))
    assert stands == max(levels[0, 0], levels[:, 0].mean()) and measured.least == stands + 0.25
    assert measured.units == 1_000_000 and measured.null.shape == (3, 1000)
    for share in (0.05, 0.5, 0.95):
        at = np.quantile(measured.null, share, axis=1)
        below = [norm.cdf((at - level) / error) for level, error in zip(levels[:, 0], apart, strict=True)]
        np.testing.assert_allclose(np.minimum(below[0], np.mean(below, 0)), share, atol=0.02)
    off = measured.resamples - resamples  # by how much the levels may be off
    if levels[0, 1] == CERTAIN:
        assert (off == 0).all()
    elif len(levels) == 1:
        np.testing.assert_allclose(off, stands - resamples[:, :1].repeat(3, 1))
    else:
        other = levels[1, 0] + 0.3 * np.random.default_rng(2).standard_normal(4000)
        expected = stands - np.maximum(resamples[:, 0], (resamples[:, 0] + other) / 2)
        np.testing.assert_allclose([off.mean(), off.std()], [expected.mean(), expected.std()], atol=0.02)


def test_what_is_not_said_is_the_rule_of_studies_and_what_was_asked_is_kept():
    rises = table(np.where(STEPS >= 123000, 0.8, 0.5)[None], np.full((1, 1), 0.02))  # at the last two or three
    found = onsets(rises, ["task"])
    assert found.attrs == {"by": ["task", "run"], "level": 0.95, "sustained": 2, "pool": [], "paired": 0}
    assert found.sizes["draw"] == 1000 and found.difference == pytest.approx(0.3)
    assert onsets(rises[rises.step != 123000], ["task"]).status == found.status == "rises"
    for paired in (1, -0.1):
        with pytest.raises(SteerlibError, match=r"paired: .* is no correlation from 0 to below 1"):
            onsets(rises, ["task"], paired=paired)
    for chance in (0, 1):
        assert onsets(shares(rise(800), 1), ["task"], chance=chance, draws=20).status in (*EMERGED, "not reached")
    with pytest.raises(SteerlibError, match=r"chance: 1\.5 is none"):
        onsets(shares(rise(800), 1), ["task"], chance=1.5)


def test_trajectories_of_other_steps_and_without_a_name_stand_side_by_side():
    named = table(rise(800)[None], np.full((1, 1), 0.02))
    both = pd.concat([named, named[named.step != 64].assign(task=np.nan)], ignore_index=True)
    found = onsets(both, ["task"], draws=20)
    assert found.sizes["trajectory"] == 2 and found.step.values.tolist() == STEPS.tolist()
    assert found.value.isnull().sum("step").values.tolist() == [0, 1] and (found.status == "rises").all()


# --- reading ------------------------------------------------------------------------------------------------------

GOOD = "run,step,task,value,stderr\na,0,x,0.1,0.01\na,1,x,0.2,0.01\na,2,x,0.3,0.01\n"


def test_kinds_of_files_hold_the_same_table(tmp_path):
    (tmp_path / "t.csv").write_text(GOOD)
    whole = read(tmp_path / "t.csv")
    assert whole.index.tolist() == [2, 3, 4] and whole.step.dtype == int and whole.task.tolist() == ["x"] * 3
    whole.to_csv(tmp_path / "t.csv.xz", index=False)
    whole.to_json(tmp_path / "t.jsonl.gz", orient="records", lines=True)
    for name in ("t.csv.xz", "t.jsonl.gz"):
        pd.testing.assert_frame_equal(read(tmp_path / name).reset_index(drop=True), whole.reset_index(drop=True))


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize(
    ("parted", "point"), [(",", "."), (";", "."), (";", ","), ("\t", "."), ("\t", ","), ("; ", ",")]
)
def test_tables_are_read_however_their_columns_are_parted_and_their_decimals_are_marked(tmp_path, parted, point, start):
    (tmp_path / "plain.csv").write_text(GOOD)
    (tmp_path / "t.csv").write_text(start + GOOD.replace(",", parted).replace(".", point), encoding="utf-8")
    pd.testing.assert_frame_equal(read(tmp_path / "t.csv"), read(tmp_path / "plain.csv"))


@pytest.mark.parametrize(
    ("parted", "old", "new", "message"),
    [
        (";", ";2;", ";2.000;", "line 4: column 'step': '2.000' has marks between thousands"),
        (";", ";2;", ";2,000;", "line 4: column 'step': '2,000' has marks between thousands"),
        (";", "0.2", "1.234,5", "line 3: column 'value': '1.234,5' has marks between thousands"),
        ("\t", "0.2", "1,234,567", "line 3: column 'value': '1,234,567' has marks between thousands"),
        (",", "0.2", "1'234.5", "line 3: column 'value': \"1'234.5\" has marks between thousands"),
        (",", "0.2", '"1,234.5"', "line 3: column 'value': '1,234.5' has marks between thousands"),
        (",", "0.2", '"0,2"', "line 3: column 'value': '0,2' has a comma, which parts columns here"),
        (";", "0.2", "0,2", "line 3: column 'value': '0,2' has a decimal comma, but line 2 a point"),
        (";", "0.", "1.00", "line 2: column 'value': '1.001' may have a decimal mark or one between thousands"),
        ("\t", "0.", "1,00", "line 2: column 'value': '1,001' may have a decimal mark or one between thousands"),
    ],
)
def test_numbers_that_can_be_read_in_two_ways_are_refused(tmp_path, parted, old, new, message):
    text = GOOD.replace(",", parted).replace("0.01", "0.1").replace(old, new)
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(SteerlibError, match=re.escape(message)):
        read(tmp_path / "t.csv")


def test_decimal_commas_among_commas_are_refused_as_what_they_are(tmp_path):
    """The commonest way to spoil a European table: more cells than columns have names."""
    row = "a,0,0,5,0,01"
    (tmp_path / "t.csv").write_text(f"run,step,value,stderr\n{row}\n" + f"{row}\n".replace(",0,", ",10,"))
    with pytest.raises(SteerlibError, match=r"line 2: 6 cells, but 4 columns .*part columns by tabs"):
        read(tmp_path / "t.csv")


def test_three_decimals_are_no_thousands_where_commas_part_columns(tmp_path):
    rows = "".join(f"a,{step},12.345,1.001\n" for step in (0, 1000, 20000))
    for name, parted in (("t.csv", ","), ("t.tsv", "\t")):
        (tmp_path / name).write_text(("run,step,value,stderr\n" + rows).replace(",", parted))
        assert (read(tmp_path / name).value == 12.345).all()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        pytest.param("stderr", "error", "line 1: no column 'stderr'; there are run, step, task", id="missing column"),
        pytest.param("0.2,0.01", "high,0.01", "line 3: column 'value': 'high' is not a finite number", id="words"),
        pytest.param("0.2,0.01", ",0.01", "line 3: column 'value': is empty; write a finite number", id="no value"),
        pytest.param("0.2,0.01", "inf,0.01", "line 3: column 'value': 'inf' is not", id="infinite"),
        pytest.param(
            "0.3,0.01", "0.3,-0.01", "line 4: column 'stderr': '-0.01' is not a finite number, 0 or more", id="negative"
        ),
        pytest.param("0.3,0.01", "0.3,nan", "line 4: column 'stderr': 'nan' is not a finite number", id="nan"),
        pytest.param("a,1,", "\na,x1,", "line 4: column 'step': 'x1' is not", id="below an empty line"),
        pytest.param(
            "a,1,", "a,1.5,", "line 3: column 'step': '1.5' is not a whole number, 0 or more", id="half a step"
        ),
        pytest.param("a,1,", "a,-1,", "line 3: column 'step': '-1' is not", id="negative step"),
        pytest.param("a,2,", f"a,{2**53},", f"line 4: column 'step': '{2**53}' is not a whole", id="too large a step"),
        pytest.param(
            "a,2,", "a,1,", "line 4: task x, run a: step 1: expected three steps or more, each once", id="twice"
        ),
        pytest.param(
            "a,2,x", "a,2,y", "line 2: task x, run a: step 0: expected three steps or more", id="too few steps"
        ),
        pytest.param(
            "a,1,x,0.2,",
            "a,1,x,0.2,0,0,",
            "line 3: 7 cells, but 5 columns",
            id="too many fields",
        ),
        pytest.param(GOOD, "", "holds no texts", id="empty"),
        pytest.param(GOOD, "run,step,value,stderr\n", "holds no texts", id="no rows"),
    ],
)
def test_what_is_wrong_with_a_table_is_told_with_file_line_and_column(tmp_path, old, new, message):
    (path := tmp_path / "t.csv").write_text(GOOD.replace(old, new, 1))
    with pytest.raises(SteerlibError, match=re.escape(message)) as error:
        read(path)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize(
    "content",
    [
        GOOD.replace(",", "\t").encode("utf-16"),
        "sep=|\r\n" + GOOD.replace(",", "|").replace("\n", "\r\n"),
        GOOD.replace("run,step", " Run,STEP").replace("\n", ",,\n") + ",,,,,,\n",
        ",".join(["", GOOD]).replace("\na", "\n7,a"),
        GOOD.replace("\n", "\r"),
    ],
    ids=["Unicode text", "sep=", "empty columns and rows", "pandas' index", "an old Macintosh"],
)
def test_tables_of_spreadsheets_are_read_as_they_were_saved(tmp_path, content):
    (tmp_path / "plain.csv").write_text(GOOD)
    (tmp_path / "t.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert read(tmp_path / "t.csv").values.tolist() == read(tmp_path / "plain.csv").values.tolist()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"step": 10**30}, "line 4: column 'step': '1000000000000000000000000000000' is not a whole number"),
        ({"step": True}, "line 4: step is True, expected a number or a word"),
        ({"run": ["a"]}, "line 4: run is ['a'], expected a number or a word"),
        ({"run": None}, "line 4: run is missing or empty"),
        ({"Step": 1}, "line 4: two names are the same but for capitals and spaces"),
    ],
)
def test_a_row_that_is_none_is_told(tmp_path, row, said):
    rows = [{"run": "a", "step": step, "value": 0.1, "stderr": 0.01} for step in range(4)]
    rows[3] |= row
    (tmp_path / "t.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in rows))
    with pytest.raises(SteerlibError, match=re.escape(f"{tmp_path / 't.jsonl'}: {said}")):
        read(tmp_path / "t.jsonl")


def test_files_that_are_no_tables_are_told(tmp_path):
    (tmp_path / "t.csv.xz").write_text(GOOD)
    (tmp_path / "t.jsonl").write_text('{"run": 1\n')
    (tmp_path / "t.xlsx").touch()
    for name in ("t.csv.xz", "t.jsonl", "t.xlsx", "none.csv"):
        with pytest.raises(SteerlibError, match=f"^{re.escape(str(tmp_path / name))}: ."):
            read(tmp_path / name)


def test_columns_that_do_not_tell_trajectories_apart_are_refused():
    named = shares(rise(800), 2)
    with pytest.raises(SteerlibError, match="by= names what tells trajectories apart"):
        check(named, [])
    with pytest.raises(SteerlibError, match=r"task nan, run 0.*: expected three steps or more"):
        check(named[(named.step < 2) & (named.task == 0)].assign(task=np.nan), ["task"])
    assert check(named.assign(acc="a"), None)[1] == ["task", "acc", "run"]
    with pytest.raises(SteerlibError, match="pool: 'model' is none of task, run"):
        onsets(shares(rise(800), 2), ["task"], pool=["model"])


# --- Pythia -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pythia():
    """The page's own block, run: what it prints and what it finds."""
    if not PYTHIA.exists():
        pytest.skip("needs ../shared/data/pythia_evals (Pythia's evaluations), which is not here")
    printed, names = [], {}
    names["print"] = printed.append
    exec(blocks()[0].replace('"pythia_v1_core_tasks.csv.xz"', repr(str(PYTHIA))), names)
    return printed, names


def blocks():
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)


def test_the_page_says_what_its_own_code_says(pythia):
    printed, _ = pythia
    assert len(printed) == 5 and all(table in PAGE.read_text() for table in printed)


def test_pythia_s_tasks_rise_when_the_page_says(pythia):
    _, names = pythia
    both, told = names["both"], PAGE.read_text()
    first, half = (both[name].unstack("task") for name in ("first_detectable", "half_way"))
    for of, task, ends in (
        (first, "sciq", (407, 593)),
        (half, "sciq", (966, 1603)),
        (first, "lambada_openai", (642, 910)),
        (half, "lambada_openai", (1884, 3837)),
    ):
        assert (round(of[task].min()), round(of[task].max())) == ends and f"between {ends[0]:,} and {ends[1]:,}" in told
    small = np.array([bool(re.search("70m|160m|410m|1b", name)) for name in first.index])
    assert np.isinf(first.winogrande[small]).all() and half.winogrande[~small].between(16942, 36742).all()
    assert np.isfinite(first.arc_challenge).sum() == 6 and np.isinf(first[["logiqa", "wsc"]]).all(axis=None)
    assert (both.status.isin(["rises", "not reached"])).all()
    assert (both.next == both.plain).sum() == 94 and "In 94 of 128 cells" in told


def test_the_page_s_figure_can_be_drawn(pythia, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with matplotlib.rc_context():
        exec(blocks()[1], pythia[1])
    assert (tmp_path / "pythia_evals.png").stat().st_size > 50_000


def test_five_shot_scores_have_no_untrained_level(pythia):
    five = read(PYTHIA).query("shots == 5 and task == 'sciq' and metric == 'acc' and model == 'pythia-1b-deduped'")
    assert onsets(five).status.item() == "unknown" and onsets(five, chance=0.25).status.item() == "from the start"
