"""Onsets of any table: planted rises are found, flat ones are not, bad tables are told, and Pythia's page is true."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from steerlib import SteerlibError
from steerlib.numerics import onsets as rule
from steerlib.numerics.statistics import bootstrap_means
from steerlib.stages.trajectories import check, frame, items_of, onsets, read

ROOT = Path(__file__).parents[2]
PYTHIA = ROOT.parent / "shared/data/pythia_evals/pythia_v1_core_tasks.csv.xz"
PAGE = ROOT / "docs/pythia_evals.md"
STEPS = np.array([0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 3000, *range(13000, 144000, 10000)])


def shares(mean, cases, questions=1000, seed=0):
    """Shares of right answers, with the standard errors that evaluation harnesses give."""
    value = np.random.default_rng(seed).binomial(questions, mean, size=(cases, len(STEPS))) / questions
    return table(value, np.sqrt(value * (1 - value) / (questions - 1)))


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


@pytest.mark.parametrize("kind", ["shares", "normal"])
@pytest.mark.parametrize(("midpoint", "steepness"), [(50, 6), (800, 6), (800, 2)])
def test_the_interval_holds_the_onset_without_noise_at_its_level(midpoint, steepness, kind):
    mean = rise(midpoint, steepness=steepness)
    error = np.sqrt(mean * (1 - mean) / 999)
    truth = rule.onsets((mean - 1.96 * error)[None], (mean[0] + 1.645 * error[0]) + 0 * mean, STEPS, 2)[0]
    noisy = shares(mean, 40)
    if kind == "normal":
        noisy = table(10 + mean + np.random.default_rng(0).normal(0, error, (40, len(STEPS))), error)
    found = onsets(noisy, ["task"], draws=200)
    assert ((found.onset_lower <= truth) & (truth <= found.onset_upper)).mean() >= 0.9  # 0.95 but for chance
    assert (found.onset_lower <= found.onset_step).all() and (found.onset_step <= found.onset_upper).all()
    assert np.isfinite(found["items"]).all() == (kind == "shares")
    if steepness == 6:
        assert abs(found.midpoint / midpoint - 1).median() < 0.1


@pytest.mark.parametrize("options", [{}, {"pool": ["task"]}, {"chance": 0.5}, {"paired": 0.7}])
def test_what_is_flat_is_not_reached_though_it_is_looked_at_often(options, monkeypatch):
    monkeypatch.setattr(rule, "sigmoid_midpoint", lambda *_: np.nan)  # in noise it searches long
    flat = shares(np.full(len(STEPS), 0.5), 100)
    assert np.isfinite(onsets(flat, ["task"], draws=100, **options).onset_step).mean() <= 0.02
    assert (
        np.isfinite([plain(rows) for _, rows in flat.groupby("task")]).mean() > 0.02
    )  # its chance grows with every look


def test_a_low_start_is_no_rise_where_other_untrained_levels_are_known():
    """Step 0 unluckily low, and then a value that any of the others has had from the first."""
    value = np.full((9, len(STEPS)), 0.50)
    value[:, 0] = [0.46, 0.49, 0.50, 0.51, 0.49, 0.50, 0.51, 0.48, 0.52]
    value[0, 1:] = 0.53
    low = table(value, np.full(value.shape, 0.01))
    assert np.isfinite(onsets(low, ["task"]).onset_step).values.tolist() == [True] + [False] * 8
    assert np.isinf(onsets(low, ["task"], pool=["task"]).onset_step).all()
    # What clears all of them is still found; and none has its own start forgotten.
    low.loc[(low.task == 0) & (low.step >= 512), "value"] = 0.6
    assert onsets(low, ["task"], pool=["task"]).onset_step[0] == 512
    high = low.assign(value=low.value + 0.2 * (low.task == 8))
    assert np.isinf(onsets(high, ["task"], pool=["task"]).onset_step[8])


def test_what_is_lost_again_does_not_count_though_plainly_read_it_would():
    value = np.where((STEPS >= 8) & (STEPS < 1000), 0.635, 0.356)[None]
    assert plain(flipped := table(value, np.full((1, 1), 0.047))) == 8
    assert np.isinf(onsets(flipped, ["task"]).onset_step.item())
    value[0, STEPS >= 33000] = 0.635
    assert onsets(table(value, np.full((1, 1), 0.047)), ["task"]).onset_step.item() == 33000


def test_nothing_right_at_first_is_a_level_with_an_error():
    right = np.where(STEPS < 512, 0, np.where(STEPS < 1000, 1, 400))[None] / 5153
    zero = table(right, np.sqrt(right * (1 - right) / 5152))
    found = onsets(zero, ["task"])
    assert found["items"].item() == pytest.approx(5153, abs=1) and found.onset_step.item() == 1000
    assert 1 / 5153 < found.null_threshold[0, 0] < 4 / 5153  # Jeffreys' bound for 0 of 5,153 is 1.9
    assert (found.value_lower >= 0).all()


def test_one_rule_serves_studies_and_tables():
    """Units of a study and their mean and standard error: the same onset, unless an edge is within resampling error."""
    draw, same = np.random.default_rng(0), []
    for case in range(20):
        units = 3 * rise(800)[:, None] + draw.normal(0, 0.5, (len(STEPS), 60))
        mean, error = units.mean(1), units.std(1) / np.sqrt(60)
        null = {"untrained": np.tile(draw.normal(mean[0], error[0], 1000), (len(STEPS), 1))}
        study, _ = rule.trajectory(STEPS, mean, bootstrap_means(units, 1000, case), null, 0.95, 2)
        found = onsets(table(mean[None], error), ["task"]).isel(trajectory=0)
        assert np.allclose(found.value, study.value) and np.isnan(found["items"])
        assert np.allclose(found.value_lower, study.value_lower, atol=0.03)
        assert np.allclose(found.null_threshold, study.null_threshold, atol=0.03)
        assert found.midpoint == pytest.approx(study.midpoint.item(), rel=1e-4)
        same.append(found.onset_step.item() == study.onset_step.item())
    assert np.mean(same) >= 0.9


def test_neither_the_order_of_rows_nor_the_other_trajectories_matter():
    both = pd.concat([shares(rise(800), 3), shares(rise(20000), 3, seed=1).assign(run=1)], ignore_index=True)
    found = onsets(both, ["task"], draws=200)
    assert onsets(both.sample(frac=1, random_state=0), ["task"], draws=200).identical(found)
    alone = frame(onsets(both[(both.run == 1) & (both.task == 2)], ["task"], draws=200))
    pd.testing.assert_frame_equal(alone, frame(found).loc[[(2, 1)]])


@pytest.mark.parametrize("kind", ["errors", "any"])
def test_lower_is_better_is_higher_is_better_turned_over(kind):
    up = shares(rise(800), 4) if kind == "errors" else table(10 * rise(800)[None], np.full((1, 1), 0.2))
    up = up.assign(metric="zest")
    turned = up.assign(value=1 - up.value if kind == "errors" else -up.value)
    high, low = (
        onsets(up, ["task"], draws=300, lower_is_better=()),
        onsets(turned, ["task"], draws=300, lower_is_better={"zest"}),
    )
    for name in ("onset_step", "onset_lower", "onset_upper", "change_point"):
        assert np.array_equal(high[name], low[name], equal_nan=True)
    assert np.allclose(high.midpoint, low.midpoint, rtol=1e-3)
    offset = 1 if kind == "errors" else 0
    for name, other in (("value_lower", "value_upper"), ("null_lower", "null_upper"), ("null_threshold",) * 2):
        assert np.allclose(offset - high[name], low[other])


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
    assert np.isnan(onsets(late, ["task"])[["onset_step", "onset_lower", "onset_upper"]].to_array()).all()
    given = onsets(late, ["task"], chance=0.25)
    assert (given.onset_step == 3000).all() and (given.null_threshold == 0.25).sum() == 2 * 15


def test_the_number_of_questions_is_recognised_only_where_there_are_any():
    value = np.array([0.0, 0.2, 0.6])
    assert items_of(value, np.sqrt(value * (1 - value) / 99)) == 100
    assert np.isnan(items_of(value, np.array([0.0, 0.05, 0.02])))
    assert np.isnan(items_of(value + 1, np.full(3, 0.05))) and np.isnan(items_of(value * 0, value * 0))


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


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        pytest.param("stderr", "error", "line 1: no column 'stderr'; there are run, step, task", id="missing column"),
        pytest.param("0.2,0.01", "high,0.01", "line 3: column 'value': 'high' is not a finite number", id="words"),
        pytest.param("0.2,0.01", ",0.01", "line 3: column 'value': '' is not a finite number", id="no value"),
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
        pytest.param(
            "a,2,", "a,1,", "line 4: task x, run a: step 1: expected three steps or more, each once", id="twice"
        ),
        pytest.param(
            "a,2,x", "a,2,y", "line 2: task x, run a: step 0: expected three steps or more", id="too few steps"
        ),
        pytest.param("a,1,x,0.2,", "a,1,x,0.2,0,0,", "line 3, saw 7", id="too many fields"),
        pytest.param(GOOD, "", "No columns to parse", id="empty"),
        pytest.param(GOOD, "run,step,value,stderr\n", "has column names but no rows", id="no rows"),
    ],
)
def test_what_is_wrong_with_a_table_is_told_with_file_line_and_column(tmp_path, old, new, message):
    (path := tmp_path / "t.csv").write_text(GOOD.replace(old, new, 1))
    with pytest.raises(SteerlibError, match=re.escape(message)) as error:
        read(path)
    assert str(error.value).startswith(str(path))


def test_files_that_are_no_tables_are_told(tmp_path):
    (tmp_path / "t.csv.xz").write_text(GOOD)
    (tmp_path / "t.jsonl").write_text('{"run": 1\n')
    (tmp_path / "t.xlsx").touch()
    for name in ("t.csv.xz", "t.jsonl", "t.xlsx", "none.csv"):
        with pytest.raises(SteerlibError, match=f"^{re.escape(str(tmp_path / name))}: ."):
            read(tmp_path / name)


def test_columns_that_do_not_tell_trajectories_apart_are_refused():
    with pytest.raises(SteerlibError, match="by= names what tells trajectories apart"):
        check(shares(rise(800), 2), [])
    with pytest.raises(SteerlibError, match="pool: 'model' is none of task, run"):
        onsets(shares(rise(800), 2), ["task"], pool=["model"])


# --- Pythia -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pythia():
    """The page's own block, run: what it prints and what it finds."""
    if not PYTHIA.exists():
        pytest.skip("needs ../shared/data/pythia_evals (Pythia's evaluations), which is not here")
    code, printed, names = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.S)[1], [], {"print": None}
    names["print"] = printed.append
    exec(code.replace('"pythia_v1_core_tasks.csv.xz"', repr(str(PYTHIA))), names)
    return printed, names


def test_the_page_says_what_its_own_code_says(pythia):
    printed, _ = pythia
    assert len(printed) == 3 and all(table in PAGE.read_text() for table in printed)


def test_pythia_s_tasks_rise_when_a_plain_reading_says_so_or_the_page_says_why(pythia):
    _, names = pythia
    both = names["both"]
    for reading in ("onset_step", "plain"):
        onset = both[reading].unstack("task")
        assert onset.sciq.between(512, 1000).all() and (onset.lambada_openai == 1000).all()
        large = onset.winogrande[[not re.search("70m|160m|410m|1b", name) for name in onset.index]]
        assert len(large) == 8 and large.between(20000, 60000).all()
        assert np.isinf(onset.winogrande[["pythia-70m", "pythia-70m-deduped"]]).all()
    assert (both.onset_step == both.plain).sum() == 108 and "In 108 of 128 cells" in PAGE.read_text()


def test_five_shot_scores_have_no_untrained_level(pythia):
    five = read(PYTHIA).query("shots == 5 and task == 'sciq' and metric == 'acc' and model == 'pythia-1b-deduped'")
    assert np.isnan(onsets(five).onset_step.item()) and onsets(five, chance=0.25).onset_step.item() == 3000
