"""Readiness: what was planted is called ready, what is nothing is not, and every criterion can hold a concept back."""

import re

import numpy as np
import pytest
import xarray as xr

from helpers.histories import CONCEPTS, LAYERS, collected
from helpers.studies import PROJECT
from steerlib.stages import emergence
from steerlib.stages.criteria import CRITERIA, LEVELS, sentences, table
from steerlib.stages.effects import own
from steerlib.stages.readiness import _mean, judge
from steerlib.study import Study
from steerlib.study.analysis import Readiness

METHOD, DRAWS = "mean_difference", 60
SEEN = np.array([64, 128, 160, 288, 320, 704, 850])  # of all checkpoints
PARAMS = {"name": "made-up", "concepts": ["happiness"], "checkpoints": {"folder": "history", "untrained": True}}
PARAMS |= {"probes": {"methods": ["pca", METHOD]}, "emergence": {"bootstrap": 200, "method": METHOD}, "readiness": {}}
STUDY = Study.model_validate(PARAMS)


def results() -> dict[str, xr.Dataset | Study]:
    """All that readiness is judged by, of concepts that can be steered from 128, from 320 and never."""
    probes, swept = (of.sel(step=SEEN) for of in collected())
    rng, slope = np.random.default_rng(1), swept.slope.isel(refit=0, drop=True)
    by_readout = slope.expand_dims(readout_concept=swept.readout_concept, axis=3)
    mine = by_readout.concept == by_readout.readout_concept
    noise = by_readout.copy(data=rng.normal(0, 0.1, by_readout.shape))
    by_readout = by_readout.where(mine, noise).expand_dims(probe=swept["probe"])
    by_readout = by_readout.where(by_readout["probe"] != "random", 0).transpose("step", "probe", ...)
    split = swept.split.isel(readout_concept=0, drop=True)
    of_own = own(by_readout)
    test, validation = (of_own.where(split == name) for name in ("test", "validation"))
    mean, error = test.mean("prompt"), test.std("prompt") / 20**0.5
    null = xr.DataArray(rng.normal(0, 0.2, (*mean.shape, DRAWS)), mean.coords, [*mean.dims, "draw"])
    wrong = (test < 0).sum("prompt") / test.notnull().sum("prompt")
    more = {
        "log_odds": by_readout * swept.alpha,
        "steerability": mean,
        "local_slope_validation": validation.mean("prompt"),
        "steerability_lower": mean - 2 * error,
        "steerability_upper": mean + 2 * error,
        "steerability_null": null,
        "steerability_null_validation": null,
        "anti_steerable": wrong.where(test.notnull().any("prompt")),
        "undo_error": xr.zeros_like(mean),
        "margin_random": -xr.ones_like(by_readout.sel(probe="random", drop=True) * swept.alpha),
    }
    cost = xr.zeros_like(mean) + 0.16 * abs(swept.alpha)  # twice the budget for the strongest
    ends = [f"kl{end}" for end in ("", "_lower", "_upper", "_validation_upper")]
    more |= dict.fromkeys(ends, cost) | {end.replace("kl", "delta_nll"): cost / 2 for end in ends}
    swept = swept.assign(more).set_coords("split").assign_coords(null=("draw", ["random", "shuffled"] * (DRAWS // 2)))
    found = emergence.analyse(probes, swept, STUDY)
    texts = {"step": SEEN, "probe": [METHOD, "random"], "concept": [*CONCEPTS], "alpha": [0.0], "prompt": range(16)}
    judged = xr.DataArray(np.zeros([len(of) for of in texts.values()]), texts)
    shown = judged.isel(alpha=0, drop=True).where(judged["probe"] != METHOD, 1.0)
    judge_of = xr.DataArray(["targets", "distinct_2"], dims="judge", name="judge")
    kept = xr.ones_like(judged)
    answered = {**{dim: texts[dim] for dim in ("step", "concept")}, "task": [*CONCEPTS], "evidence": range(20)}
    right = xr.DataArray(np.ones([len(of) for of in answered.values()]), answered)
    written = {
        "right": right.isel(concept=0, drop=True),
        "right_pushed": right.where(right.concept != right.task),
        "judged": xr.concat([judged, kept], judge_of),
        "judged_recommended": xr.concat([shown, kept.isel(alpha=0, drop=True)], judge_of),
        "generation_layer": found.layer_by_step,
        "alpha_recommended": xr.full_like(found.layer_by_step, 0.5, float),
    }
    return {
        "probes": probes,
        "interventions": swept,
        "emergence": found,
        "study": STUDY,
        "generations": xr.Dataset(written),
    }


@pytest.fixture(scope="module")
def whole():
    return results()


@pytest.fixture(scope="module")
def end(whole):
    """Its last two checkpoints."""
    return {name: of.isel(step=slice(-2, None)) if isinstance(of, xr.Dataset) else of for name, of in whole.items()}


def last(found: xr.Dataset, concept: str = "late", method: str = METHOD) -> xr.Dataset:
    return found.isel(step=-1).sel(concept=concept, probe=method)


def test_planted_concepts_are_ready_from_their_onset_on_and_what_is_nothing_never_is(whole):
    found = judge(**whole)
    verdicts = found.verdict.sel(probe=METHOD)
    for name, onset in CONCEPTS.items():
        second = [*SEEN[SEEN >= onset], np.inf, np.inf][1]  # it has to last for two checkpoints
        there = SEEN >= second
        assert (verdicts.sel(concept=name).values[there] == "deploy").all(), name
        assert np.isin(verdicts.sel(concept=name).values[~there], ["not ready", "explore"]).all(), name
        assert (verdicts.sel(concept=name).values[SEEN < onset] == "not ready").all(), name
    assert float(last(found).recommended_alpha) == 0.5 and int(last(found).layer_pushed) == LAYERS["late"]
    assert (found.held_back.where(found.verdict == "deploy", "") == "").all()
    assert (found.outcome.sel(criterion="text", probe="pca") == "unknown").all(), "nothing was written along it"
    assert last(found, method="pca").held_back == "text"
    assert (
        table(found.isel(step=-1).sel(probe=METHOD))
        .loc["never", "held back by"]
        .startswith("effect: a push along it is not seen to do more")
    )


def changed(of: dict, stage: str, **changes) -> dict:
    """Results with some of a stage's variables changed."""
    return of | {stage: of[stage].assign({name: change(of[stage][name]) for name, change in changes.items()})}


def judged_by(judge: str, value: float):
    return lambda judged: judged.where(judged.judge != judge, value)


SWEPT = "interventions"
HOLDS_BACK = {
    "effect": ("emergence", {"p_value": lambda p: p * 0 + 0.5}),
    "size": ("emergence", {"bar": lambda bar: bar + 10}),
    "one sign": (SWEPT, {"anti_steerable": lambda share: share.clip(min=0.6)}),
    "selective": (SWEPT, {"log_odds": lambda odds: odds + 3 * odds.alpha * (odds.concept != odds.readout_concept)}),
    "kl": (SWEPT, {f"kl{end}": lambda kl: kl + 1 for end in ("", "_lower", "_upper")}),
    "nll": (SWEPT, {f"delta_nll{end}": lambda nll: nll + 1 for end in ("", "_lower", "_upper")}),
    "lasting": ("emergence", {"bar": lambda bar: bar + 10 * (bar.step < SEEN[-1])}),
    "readout": ("probes", {"readout_auroc": lambda auroc: auroc * 0 + 0.5}),
    "gain": (SWEPT, {"margin": lambda margin: abs(margin).where(margin.alpha <= 0, -abs(margin))}),
    "text": ("generations", {"judged": judged_by("targets", 1), "judged_recommended": judged_by("targets", 0)}),
    "fluent": ("generations", {"judged_recommended": judged_by("distinct_2", 0)}),
    "task": ("generations", {"right_pushed": lambda right: right.where(right.evidence >= 8, 0)}),
    "undo": (SWEPT, {"undo_error": lambda error: error + 0.1}),
}


@pytest.fixture(scope="module")
def held(end):
    """Readiness of one concept of each criterion, all alike but for what that one is to hold back."""
    names, late = [*CRITERIA], ["late"] * len(CRITERIA)
    stages = "probes", "emergence", "generations"
    alike = {stage: end[stage].sel(concept=late).assign_coords(concept=names) for stage in stages}
    of_readouts = (end[SWEPT].sel(concept=late, readout_concept=[name] * len(late)) for name in ("late", "never"))
    swept, of_others = (of.assign_coords(concept=names, readout_concept=names) for of in of_readouts)
    mine = swept.concept == swept.readout_concept
    alike[SWEPT] = swept.assign(log_odds=swept.log_odds.where(mine, of_others.log_odds))
    for name, (stage, changes) in HOLDS_BACK.items():
        for variable, change in changes.items():
            values = alike[stage][variable]
            one = xr.where(values.concept == name, change(values), values).transpose(*values.dims)
            alike[stage] = alike[stage].assign({variable: one})
    return judge(**end | alike)


@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_can_hold_a_concept_back(held, name):
    cell = last(held, name)
    assert cell.held_back == name and cell.outcome.sel(criterion=name) == "fail"
    assert (cell.outcome.sel(criterion=[other for other in CRITERIA if other not in (name, "lasting")]) == "pass").all()
    assert LEVELS.index(cell.verdict.item()) == LEVELS.index(CRITERIA[name].level) - 1
    outcome, told = sentences(cell)[name]
    assert outcome == "fail" and "nan" not in told and "{" not in told


def test_what_cannot_be_judged_is_unknown_says_what_to_add_and_is_no_pass(end):
    without = last(judge(**end | {"generations": None}))
    assert without.verdict == "validate" and without.held_back == "text"
    assert "add generation" in sentences(without)["text"][1]
    only = end["generations"].sel(task=["late"])
    cell = last(judge(**end | {"generations": only}))
    assert cell.held_back == "task" and "no task was tried" in sentences(cell)["task"][1]
    alone = {name: of.isel(step=[-1]) for name, of in end.items() if isinstance(of, xr.Dataset)}
    cell = last(judge(**end | alone))
    assert cell.verdict == "explore" and cell.outcome.sel(criterion="lasting") == "unknown"
    assert "add checkpoints" in sentences(cell)["lasting"][1]
    one = {name: end[name].sel(concept=["late"]) for name in ("probes", "emergence", "generations")}
    one["interventions"] = end["interventions"].sel(concept=["late"], readout_concept=["late"])
    cell = last(judge(**end | one))
    assert (
        cell.outcome.sel(criterion="selective") == "unknown" and "no other concept" in sentences(cell)["selective"][1]
    )


def test_an_interval_without_end_is_told_by_its_sign():
    said = CRITERIA["selective"].sentence("fail", value=30.31, lower=12.49, upper=np.inf, threshold=0.5)
    assert "[12.49, ∞]" in said


@pytest.mark.parametrize("rising", [True, False])
def test_an_interval_with_the_threshold_in_it_tells_nothing(rising):
    criterion = CRITERIA["size" if rising else "selective"]
    ends = np.array([[2.0, 1.5, 2.5], [2.0, 0.5, 2.5], [0.5, 0.2, 0.8], [np.nan, 0.5, 2.5], [2.0, np.nan, np.nan]]).T
    told = criterion.outcome(*ends, np.ones(5))
    assert told.tolist() == [
        *(("pass", "unknown", "fail") if rising else ("fail", "unknown", "pass")),
        *["unknown"] * 2,
    ]


def test_what_is_recommended_is_chosen_on_validation_prompts_alone(end):
    test = end["interventions"].split == "test"
    found, noisy = judge(**end), judge(**changed(end, SWEPT, log_odds=lambda odds: odds.where(~test, -odds)))
    for name in ("recommended_alpha", "layer_pushed"):
        xr.testing.assert_identical(found[name], noisy[name])


def test_a_gain_has_to_be_more_than_that_of_every_random_push(end):
    """Also of one that is another concept's; what it does against the push, or unsteered, does not count."""
    lucky = lambda margin, sign: margin.where((margin.concept != "never") | (sign * margin.alpha <= 0), 1.0)  # noqa: E731
    for sign, outcome in ((1, "unknown"), (-1, "pass")):
        cell = last(judge(**changed(end, SWEPT, margin_random=lambda margin, sign=sign: lucky(margin, sign))))
        assert cell.outcome.sel(criterion="gain") == outcome
        assert cell.threshold.sel(criterion="gain") == (1 if sign > 0 else 0.1)


def test_only_what_the_model_surely_answers_can_be_lost(end):
    """Of 20 texts 15 have to be right, or it may be chance; and what is won elsewhere makes up for what is lost."""
    lose = lambda right: right.where(right.evidence >= 6, 0)  # noqa: E731
    for before, outcome in ((15, "fail"), (14, "unknown")):
        some = lambda right, before=before: right.where(right.evidence < before, 0)  # noqa: E731
        both = end["generations"].assign(right=some(end["generations"].right))
        cell = last(judge(**end | {"generations": both.assign(right_pushed=lose(some(both.right_pushed)))}))
        assert cell.outcome.sel(criterion="task") == outcome
    right = end["generations"].right
    won = end["generations"].assign(
        right=right.where(right.evidence >= 4, 0), right_pushed=right.where(right.evidence < 18, 0)
    )
    cell = last(judge(**end | {"generations": won}))
    assert cell.outcome.sel(criterion="task") == "pass" and cell.value.sel(criterion="task") < 0


def test_few_prompts_that_are_all_alike_have_an_interval():
    """None of eight is worse: of all, one in four may still be; of 24 none is, one in five is not."""
    for count, sure in ((8, False), (24, True)):
        same = xr.DataArray(np.zeros((1, count)), {"concept": ["late"]}, ["concept", "prompt"])
        mean, lower, upper = (end.item() for end in _mean(same, STUDY, "fluent"))
        assert mean == 0 and (lower > -0.2) is sure and (upper < 0.2) is sure
    assert all(np.isnan(end) for end in _mean(same.isel(prompt=slice(3)), STUDY, "fluent"))


def test_a_concept_without_words_is_judged_by_its_own_texts(end):
    written = end["generations"]
    by_texts = written.assign_coords(judge=["own_words", "distinct_2"])
    asked = by_texts.reindex(judge=["targets", "own_words", "distinct_2"])  # no targets, and so no opinion of them
    named, found = (judge(**end | {"generations": of}) for of in (written, asked))
    xr.testing.assert_identical(found.sel(criterion="text"), named.sel(criterion="text"))


def test_the_least_effect_is_of_a_push_as_long_as_the_state_but_for_operators_that_push_no_length(end):
    half = end["probes"].assign(residual_norm=end["probes"].residual_norm / 2)
    for operator, least in (("add", 2), ("set", 1), ("affine", 1)):
        study = STUDY.model_copy(update={"sweep": STUDY.sweep.model_copy(update={"operator": operator})})
        found = judge(**end | {"probes": half, "study": study})
        assert (found.threshold.sel(criterion="size", probe="pca") == least).all(), operator


def test_too_few_passages_are_no_measurement_of_side_effects(end):
    few = STUDY.model_copy(update={"sweep": STUDY.sweep.model_copy(update={"neutral_texts": 9})})
    cell = last(judge(**end | {"study": few}))
    assert np.isnan(cell.recommended_alpha) and cell.held_back == "kl"
    assert "raise sweep.neutral_texts" in sentences(cell)["kl"][1]


def test_the_page_tells_the_thresholds_that_are_the_defaults():
    rows = [line.split("|")[1:-1] for line in (PROJECT / "docs" / "readiness.md").read_text().splitlines()]
    told = {cells[0].strip(): cells for cells in rows if len(cells) == 4}
    assert [name for name in told if name in CRITERIA] == [*CRITERIA]
    for name, criterion in CRITERIA.items():
        assert told[name][1].strip() == criterion.level
        for key, value in re.findall(r"`readiness\.(\w+)` ([\d.]+)", told[name][3]):
            assert float(value) == getattr(Readiness(), key), key
    keys = re.findall(r"`readiness\.(\w+)` [\d.]", str(rows))
    assert sorted(keys) == sorted(Readiness.model_fields), "each key stands in the table"
