"""Emergence: what was planted in a study is found, what was not is not, and choices are made on validation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import yaml
from scipy.stats import kendalltau

from helpers.histories import CONCEPTS, LAYERS, STEPS, STUDY, collected, study_of
from steerlib.numerics.statistics import exceedance, false_discovery, spearman
from steerlib.results import schema
from steerlib.stages.emergence import MEASURES, analyse, at_layers_of_others, kendall, lags, order, whole_units
from steerlib.stages.summary import conclusions, legend, summary

STEERED = {"measure": "steerability"}


@pytest.fixture(scope="module")
def study():
    probes, interventions = collected()
    return probes, interventions, analyse(probes, interventions, STUDY)


def changed(dataset, name, change):
    """The dataset with one variable's values changed in place, in a copy."""
    copy = dataset[name].copy(deep=True)
    change(copy)
    return dataset.assign({name: copy})


def test_a_study_finds_what_was_planted_and_says_what_was_not_reached(study):
    _, _, found = study
    assert found.chosen_layer.values.tolist()[:2] == [LAYERS["early"], LAYERS["late"]]
    assert found.status.transpose("concept", "measure").values.tolist() == [["rises"] * 3] * 2 + [["not reached"] * 3]
    for measure in ("steerability", "expression"):
        for name, at in list(CONCEPTS.items())[:2]:
            before = STEPS[np.searchsorted(STEPS, at) - 1]
            one = found.sel(measure=measure, concept=name)
            assert (before < one.onset).all() and (one.onset < at).all()
            assert (one.onset_lower <= before).all() and (one.onset_upper >= at).all()
    assert (found.onset.sel(concept="never") == np.inf).all()
    lag = found[["lag", "lag_lower", "lag_upper"]].isel(concept=slice(2))
    assert (lag.lag > 0).all() and (lag.lag_lower <= lag.lag).all() and (lag.lag <= lag.lag_upper).all()
    assert np.isnan(found.lag.sel(concept="never")).all()
    assert found.tau.values.tolist() == [1, 1] and (found.tau_lower == 1).all()
    assert (found.before.sel(concept="early", concept_b=["late", "never"]) == 1).all()
    # Of the method that was fixed beforehand, at the chosen layer.
    assert float(found.value.sel(STEERED | {"concept": "early"})[-1]) == pytest.approx(3, abs=0.1)
    assert found.rank_correlation.sel(concept="late") > 0.5
    text = summary(found)
    assert text.loc["never", "steerability"] == "not reached" and text.loc["early", "steerability"].endswith("[64–128]")
    assert not text.map(lambda cell: "nan" in cell or "inf" in cell).any(axis=None)


def test_all_that_is_promised_is_there_by_name_and_lies_between_its_bounds(study):
    probes, interventions, found = study
    assert {*found.data_vars} == {*yaml.safe_load(Path(schema.__file__).with_suffix(".yaml").read_text())["emergence"]}
    named = {"measure", "concept", "concept_b", "readout_concept", "question", "step", "layer"}
    assert {*found.coords} == named | {"role", "planted_frequency", "unit"} and {*found.dims} == named
    for name in ("value", "onset", "tau"):
        within = (found[f"{name}_lower"] <= found[name]) & (found[name] <= found[f"{name}_upper"])
        assert (within | found[f"{name}_lower"].isnull()).all(), name
    perfect = analyse(probes.assign(auroc_redrawn=probes.auroc_redrawn.clip(0, 0.9) / 0.9), interventions, STUDY)
    assert perfect.value_upper.sel(measure="separability").max() == 1
    least = {measure: set(found.least.sel(measure=measure).values.flat) for measure in MEASURES}
    assert least == {"separability": {0.65}, "expression": {0.2}, "steerability": {1.0}}
    assert (found.lag_lower.isnull() == found.lag.isnull()).all() and (
        found.lag_upper.isnull() == found.lag.isnull()
    ).all()
    rises = [found.value.sel(measure=measure, concept="late").diff("step").values for measure in MEASURES[::2]]
    assert found.rank_correlation_detrended.sel(concept="late") == spearman(*rises)


def test_a_lag_has_an_interval_only_where_every_resample_has_one():
    dims, steps = ["measure", "concept", "question", "draw"], np.array([0, 10, 20, 30])
    onset = xr.DataArray(np.full((3, 2, 2), 15.0), {"measure": list(MEASURES)}, dims[:3])
    draws = xr.DataArray(np.full((3, 2, 2, 50), 15.0), {"measure": list(MEASURES)}, dims)
    draws[2, 1, :, 7] = np.nan
    onset[2, 0, 1] = np.nan
    found = lags(steps, draws, onset, 0.95, 0)
    whole = np.array([[True, False], [False, False]])
    np.testing.assert_array_equal(found.lag_lower.notnull(), whole)
    np.testing.assert_array_equal(found.lag_upper.notnull(), whole)
    np.testing.assert_array_equal(found.lag.notnull(), [[True, False], [True, True]])


def test_nulls_are_of_each_measures_own_kind(study):
    """Signs of expression turned at random; shuffled labels of every template at the layer that the others choose."""
    probes, _, found = study
    more = (probes.expression - probes.expression_null).sel(concept="late", step=850).values
    expected = 1.645 * np.sqrt((more**2).mean() / len(more))
    said = found.sel(measure="expression", concept="late", step=850)
    assert said.value == pytest.approx(more.mean())
    assert said.null_upper == pytest.approx(expected, rel=0.25) and said.null_lower == pytest.approx(
        -expected, rel=0.25
    )
    dealt = probes.auroc_shuffled.sel(concept="late").transpose("step", "layer", "fold", "deal").values
    expected = np.quantile(at_layers_of_others(dealt, draws=True).mean(1), 0.95, axis=1)
    np.testing.assert_allclose(found.null_upper.sel(measure="separability", concept="late"), expected)


def test_a_weak_readout_stands_beside_what_was_not_reached_and_is_said_first(study):
    """By the last checkpoint, as before it has learnt a concept no model follows evidence."""
    probes, interventions, found = study
    assert (found.readout == "fits").all()
    assert f" {STUDY.emergence.shuffled} directions " in " ".join(legend(found))
    assert not any("readout" in line for line in legend(found) + conclusions(found))
    lower = probes.readout_auroc_lower.where((probes.concept != "never") | (probes.step != STEPS[-1]), 0.4)
    weak = analyse(probes.assign(readout_auroc_lower=lower.where(probes.step != 0, 0.3)), interventions, STUDY)
    assert summary(weak).loc["never", "steerability"] == "not reached (readout: weak)"
    assert not summary(weak).loc["early"].str.contains("weak").any() and weak.onset.equals(found.onset)
    assert conclusions(weak)[0].startswith("Weak readouts at the last checkpoint: never: evidence hardly moves")
    assert any(line.startswith("readout: weak: ") for line in legend(weak))


def test_the_least_effect_on_texts_is_that_on_the_whole_of_them(study):
    """Their log-odds are per token."""
    probes, interventions, found = study
    tokens = xr.where(probes.concept == "late", 20.0, 1.0)
    again = analyse(probes.assign(readout_tokens=probes.readout_tokens * tokens), interventions, STUDY)
    ratio = (found.least / again.least).sel(measure="steerability")
    np.testing.assert_allclose(ratio.transpose("concept", "step"), np.repeat([[1], [20], [1]], len(STEPS), 1))


def test_refits_move_intervals_and_no_values_and_one_that_lacks_values_is_as_if_it_were_not_there(study):
    probes, interventions, found = study
    moved = probes.assign(auroc_redrawn=probes.auroc_redrawn - 0.1 * (np.arange(probes.sizes["redraw"]) > 0))
    refits = np.arange(interventions.sizes["refit"])
    pushed = interventions.assign(slope=interventions.slope * xr.DataArray(1 + refits, dims="refit"))
    again = analyse(moved, pushed, STUDY)
    assert again.value.equals(found.value) and (again.value_upper > found.value_upper).sel(STEERED).any()
    without = analyse(probes, interventions.isel(refit=refits != 3), STUDY)
    for steps in (STEPS, [320]):
        lacking = (xr.DataArray(refits, dims="refit") == 3) & interventions.step.isin(steps)
        holed = analyse(probes, interventions.assign(slope=interventions.slope.where(~lacking)), STUDY)
        xr.testing.assert_identical(holed, without)


def test_conclusions_name_what_emerged_what_did_not_and_where_a_push_is_of_no_use(study):
    _, _, found = study
    told, holds, *careful = conclusions(found.assign(unsteered=0 * found.unsteered, gain_null=0 * found.gain_null - 1))
    assert told.startswith("2 of 3 concepts became steerable, first early (half-way up at step ")
    assert ", last late (" in told and told.endswith("; not reached: never.") and "one training run" in holds
    assert careful == []
    said = conclusions(changed(found, "unsteered", lambda of: of.loc[{"concept": "early"}].__setitem__(..., 0.95)))
    assert "Unsteered, 95 % of prompts of early, 100 % of prompts of never lead to the concept already: " in " ".join(
        said
    )
    broken = conclusions(found.assign(gain=found.gain.where(found.concept != "late")))
    assert "every strength breaks neutral text beyond the KL budget: late." in " ".join(broken)
    weak = conclusions(found.assign(gain_lower=found.gain_lower - 2))
    assert "as far as can be told: early (" in weak[-1] and ", late (" in weak[-1] and "never" not in weak[-1]
    null = found.assign_coords(role=("concept", ["null"] * 3), unsteered=0 * found.unsteered + 1)
    assert not any("Unsteered" in line for line in conclusions(null))
    alone = conclusions(found.sel(concept=["never"]))
    assert alone[0] == "None of 1 concept became steerable; not reached: never."


def test_onsets_do_not_hang_on_what_alpha_counts(study):
    """Of what a push as long as the state does, one of a unit of activation does a fraction: so is the least effect."""
    probes, interventions, found = study
    slopes = ("slope", "interference_local", "interference_shuffled", "steerability_shuffled_validation")
    raw = {name: interventions[name] / 32 for name in (*slopes, "strength")}  # exactly a fraction
    other = analyse(probes, interventions.assign(raw), STUDY)
    for name in ("status", "onset", "onset_lower", "onset_upper", "q_value", "layer_by_step"):
        xr.testing.assert_equal(other[name], found[name])
    assert (other.least.sel(STEERED) == STUDY.emergence.least.steerability / 32).all()


@pytest.mark.parametrize("cut", [9, 12, 15])
def test_no_onset_moves_when_checkpoints_are_added(study, cut):
    """Neither do layers: nothing that is said of a checkpoint hangs on a later one."""
    probes, interventions, found = study
    part = analyse(probes.isel(step=slice(cut)), interventions.isel(step=slice(cut)), STUDY)
    first = {"question": "first_detectable", "concept": "early"}
    xr.testing.assert_allclose(part.onset.sel(first), found.onset.sel(first))
    for name in ("value", "value_lower", "bar", "layer_by_step", "p_value"):
        xr.testing.assert_allclose(part[name], found[name].isel(step=slice(cut)), rtol=1e-9)


def test_what_words_separate_is_told_as_such_and_what_an_untrained_model_does_too(study):
    probes, interventions, found = study
    assert found.baseline_words.sel(measure="separability").values.tolist() == pytest.approx([0.55] * 3)
    wordy = probes.assign(auroc_words=probes.auroc_words + 0.44)
    start = probes.auroc_redrawn.isel(fold=0, redraw=0, layer=0, drop=True).where(probes.step > 0, 0.99)
    head_start = probes.assign(auroc_redrawn=probes.auroc_redrawn.where(probes.step > 0, start.isel(step=0).item(0)))
    for other, floor, status in (
        (wordy, "baseline_words", "words alone"),
        (head_start, "baseline_untrained", "as untrained"),
    ):
        by_floor = analyse(other, interventions, STUDY)
        separable = by_floor.sel(measure="separability")
        assert separable.status.values.tolist()[:2] == [status] * 2 and (separable[floor] >= 0.98).all()
        assert (separable.onset == np.inf).all()
        same = ["steerability", "expression"]
        assert by_floor.onset.sel(measure=same).equals(found.onset.sel(measure=same))
    # A step 0 that is no untrained model, as of a base that is fine-tuned, is no baseline.
    tuned = STUDY.model_copy(update={"checkpoints": STUDY.checkpoints.model_copy(update={"untrained": False})})
    trained = analyse(head_start, interventions, tuned)
    assert np.isnan(trained.baseline_untrained).all()
    later = analyse(probes.isel(step=slice(1, None)), interventions.isel(step=slice(1, None)), STUDY)
    assert np.isnan(later.baseline_untrained).all()
    assert "as untrained" not in trained.status.sel(measure="separability").values.tolist()


def test_p_counts_the_deals_that_are_there_and_q_is_of_the_whole_family(study):
    _, interventions, found = study
    steered = found.sel(STEERED)
    assert steered.p_value.min() < 1 / 121  # beyond all draws by the tail that they have
    assert (steered.q_value >= steered.p_value).all()
    never = steered.sel(concept="never")
    assert (never.q_value > 0.05).all()
    fewer = changed(interventions, "interference_shuffled", lambda v: v[{"deal": slice(60)}].values.fill(np.nan))
    assert analyse(study[0], fewer, STUDY).p_value.sel(STEERED).min() == pytest.approx(1 / 61)


def test_same_data_and_seed_give_the_same_numbers_and_another_seed_other_resamples(study):
    probes, interventions, found = study
    xr.testing.assert_identical(analyse(probes, interventions, STUDY), found)
    other = analyse(probes, interventions, study_of(seed=1))
    assert other.value.equals(found.value) and not other.value_lower.equals(found.value_lower)


def test_layers_are_chosen_on_validation_prompts_only(study):
    """However wild the test prompts are; and the layer moves when the validation prompts say so."""
    probes, interventions, found = study
    validation = (interventions.split == "validation").isel(readout_concept=0, drop=True)
    noise = np.random.default_rng(1).normal(0, 50, interventions.slope.shape)
    wild = interventions.assign(slope=interventions.slope.where(validation, noise))
    again = analyse(probes, wild, STUDY)
    assert again.layer_by_step.equals(found.layer_by_step) and not again.value.equals(found.value)
    turned = interventions.assign(slope=interventions.slope.where(~validation, interventions.slope.roll(layer=1)))
    assert analyse(probes, turned, STUDY).chosen_layer.equals((found.chosen_layer + 1) % 3)
    # And validation prompts have no part in what is reported.
    shifted = interventions.assign(slope=interventions.slope + validation * 1e3)
    xr.testing.assert_allclose(analyse(probes, shifted, STUDY).value, found.value)


def test_null_draws_choose_their_own_layers_as_the_real_direction_does(study):
    """Draws that do more at another layer count with what they do there."""
    probes, interventions, _ = study
    names = ("interference_shuffled", "steerability_shuffled_validation")
    stronger = interventions.assign({name: interventions[name] + 5 * (interventions.layer == 0) for name in names})
    found = analyse(probes, stronger, STUDY)
    assert found.chosen_layer.values.tolist()[:2] == [1, 2]
    assert (found.onset.sel(STEERED) == np.inf).all() and (found.bar.sel(STEERED) > 4).all()
    own = []
    for seed in range(20):
        draw = np.random.default_rng(seed)
        dealt = draw.standard_normal((1, 4, 6, 200))
        own.append(np.quantile(at_layers_of_others(dealt, draws=True).mean(1), 0.95))
        fixed = np.quantile(dealt[:, 0].mean(1), 0.95)
    assert abs(np.mean(own) - fixed) < 0.2  # templates that say nothing of one another choose nothing
    shared = np.random.default_rng(0).standard_normal((1, 4, 1, 500)).repeat(6, 2)
    assert np.quantile(at_layers_of_others(shared, draws=True).mean(1), 0.95) > np.quantile(shared[:, 0, 0], 0.95) + 0.4


def test_a_unit_that_lacks_a_value_is_left_out_everywhere_and_counted(study):
    probes, interventions, found = study
    test = np.flatnonzero((interventions.split.isel(readout_concept=0) == "test").values)
    at = {"concept": 0, "prompt": test[3], "step": [2, 9]}
    holed = changed(interventions, "slope", lambda v: v[at].values.fill(np.nan) or v.__setitem__(at, np.nan))
    once = analyse(probes, holed, STUDY)
    everywhere = analyse(
        probes, changed(interventions, "slope", lambda v: v.__setitem__(at | {"step": slice(None)}, np.nan)), STUDY
    )
    assert once.value.equals(everywhere.value) and once.onset.equals(everywhere.onset)
    assert once.left_out.sel(STEERED).values.tolist() == [1, 0, 0] and (everywhere.left_out == 0).all()
    assert once.units.sel(STEERED).values.tolist() == [19, 20, 20]
    assert [line for line in legend(once) if "left out" in line] == [
        "early, steerability: 1 units left out, as they lack a value at some checkpoint; 19 are kept"
    ]
    assert float(abs(once.onset - found.onset).where(np.isfinite(found.onset)).max()) < 20


@pytest.mark.parametrize(
    ("measure", "name", "at"),
    [("separability", "auroc_redrawn", {"fold": 2}), ("expression", "expression", {"prompt": 2})],
)
def test_so_are_templates_and_texts(study, measure, name, at):
    probes, interventions, found = study
    holed = changed(probes, name, lambda v: v.__setitem__({"concept": 0, "step": 3} | at, np.nan))
    again = analyse(holed, interventions, STUDY).sel(measure=measure)
    assert again.left_out.values.tolist() == [1, 0, 0]
    assert (again.units == found.units.sel(measure=measure) - again.left_out).all()


def test_each_template_goes_by_the_others_unless_it_is_the_only_one():
    values = np.array([[[0.9, 0.1], [0.2, 0.8]]])[..., None]  # step, layer, template, refit
    assert at_layers_of_others(values)[..., 0].tolist() == [[0.2, 0.1]]
    assert at_layers_of_others(values[:, :, 1:])[..., 0].tolist() == [[0.8]]
    values[:, 1] = np.nan  # a layer that is not there
    assert at_layers_of_others(-values)[..., 0].tolist() == [[-0.9, -0.1]]


def test_a_checkpoint_that_is_missing_or_without_values_is_a_gap(study):
    probes, interventions, _ = study
    gone = [step for step in STEPS if step != 320]
    without = analyse(probes.sel(step=gone), interventions.sel(step=gone), STUDY)
    empty = changed(interventions, "slope", lambda v: v.__setitem__({"step": list(STEPS).index(320)}, np.nan))
    for other in (without, analyse(probes, empty, STUDY)):
        late = other.sel(STEERED | {"concept": "late"})
        assert late.status == "rises" and (late.onset_lower <= 288).all() and (late.onset_upper >= 352).all()


@pytest.mark.parametrize("step", [0, 850])
def test_one_checkpoint_is_judged_but_not_dated(study, step):
    probes, interventions, _ = study
    found = analyse(probes.sel(step=[step]), interventions.sel(step=[step]), STUDY)
    status = found.status.sel(STEERED).values.tolist()
    assert status == (["present", "present", "absent"] if step else ["absent"] * 3)
    assert np.isnan(found.onset.sel(STEERED).where(found.status.sel(STEERED) == "present")).all()
    assert np.isnan(found.lag).all()


def test_few_prompts_and_missing_nulls_are_told(study):
    probes, interventions, _ = study
    few = changed(interventions, "slope", lambda v: v.__setitem__({"prompt": slice(3, None)}, np.nan))
    assert set(analyse(probes, few, STUDY).status.sel(STEERED).values) == {"too few"}
    names = ("interference_shuffled", "steerability_shuffled_validation")
    without = analyse(probes, interventions.assign({name: interventions[name] * np.nan for name in names}), STUDY)
    assert set(without.status.sel(STEERED).values) == {"unknown"} and np.isnan(without.onset.sel(STEERED)).all()


ODD = {
    "has no test prompt": ("slope", lambda v, split: v.where(split != "test")),
    "has no validation prompt": ("slope", lambda v, split: v.where(split != "validation")),
    "has no slopes": ("slope", lambda v, split: v * np.nan),
    "has no test slopes at a step": ("slope", lambda v, split: v.where((split != "test") | (v.step != 320))),
    "has one prompt at a step": ("slope", lambda v, split: v.where((v.prompt == 4) | (v.step != 320))),
    "has a single fit": ("slope", lambda v, split: v.where(v.refit == 0)),
    "lacks a refit": ("slope", lambda v, split: v.where(v.refit != 3)),
    "lacks a refit at a step": ("slope", lambda v, split: v.where((v.refit != 3) | (v.step != 320))),
}


@pytest.mark.parametrize(("name", "change"), ODD.values(), ids=ODD)
def test_one_odd_concept_is_told_of_and_the_others_are_as_they_were(study, name, change):
    probes, interventions, found = study
    numbered = interventions[name].assign_coords(refit=range(interventions.sizes["refit"]))
    odd = change(numbered, interventions.split.isel(readout_concept=0, drop=True)).drop_vars("refit")
    changed = interventions.assign({name: interventions[name].where(interventions.concept != "late", odd)})
    again = analyse(probes, changed, STUDY).sel(STEERED)
    assert again.status.sel(concept="late") in ("rises", "too few", "unknown")
    one = {"concept": "early"}
    xr.testing.assert_allclose(again.onset.sel(one), found.sel(STEERED).onset.sel(one))
    xr.testing.assert_allclose(again.value_lower.sel(one), found.sel(STEERED).value_lower.sel(one))


@pytest.mark.parametrize("name", ["auroc_redrawn", "auroc_words", "auroc_shuffled", "expression", "expression_null"])
@pytest.mark.parametrize("steps", [[0], list(STEPS)], ids=["first", "all"])
def test_probes_that_lack_values_are_borne(study, name, steps):
    probes, interventions, found = study
    lacking = (probes.concept == "late") & probes.step.isin(steps)
    again = analyse(probes.assign({name: probes[name].where(~lacking)}), interventions, STUDY)
    xr.testing.assert_allclose(again.onset.sel(STEERED), found.onset.sel(STEERED))
    measure = "separability" if name.startswith("auroc") else "expression"
    told = again.status.sel(measure=measure).to_pandas()
    assert told["early"] == "rises" and told["late"] in (
        ["rises"] if len(steps) == 1 else ["unknown", "too few", "rises"]
    )


def test_a_lag_lies_anywhere_in_the_gaps_around_its_onsets(study):
    """Of two jumps between the same checkpoints nobody knows which was first, whatever their heights."""
    probes, interventions, _ = study
    gone = ~np.isin(STEPS, [16, 64, 160, 192, 224])
    few = analyse(probes.isel(step=gone), interventions.isel(step=gone), STUDY).sel(concept="early")
    assert (few.lag_lower < 0).all() and (few.lag_upper > 0).all()


def test_units_are_whole_where_any_has_a_value():
    values = np.ones((3, 2, 5))
    values[:, :, 4] = np.nan  # does not exist
    values[1, 0, 2] = np.nan
    values[2, 1] = np.nan  # a layer of a checkpoint that is not there
    exist, kept = whole_units(values)
    assert exist.tolist() == [True] * 4 + [False] and kept.tolist() == [True, True, False, True, False]


def test_the_order_is_that_of_joint_resamples_with_ties_told(study):
    """Counted by the checkpoints at which onsets are seen: of two in one gap neither is first, wherever they lie."""
    draws = np.stack([[10.0, 21, 31, 41], [15, 15, 35, 35], [np.inf] * 4, [np.inf] * 4, [np.nan] * 4])
    named = xr.DataArray(np.stack([draws, draws]), {"concept": list("abcde")}, dims=["question", "concept", "draw"])
    onset = xr.DataArray(np.stack([draws[:, 0]] * 2), dims=["question", "concept"])
    frequency = np.array([0.4, 0.2, 0.1, np.nan, np.nan])
    found = order(np.array([0, 12, 20, 30, 40, 50]), named, onset, frequency, 0.95).isel(question=0)
    before, tied = (found[name].to_pandas() for name in ("before", "tied"))
    assert before.loc["a", "b"] == 0.25 and before.loc["b", "a"] == 0.5 and tied.loc["a", "b"] == 0.25
    assert before.loc["a", "c"] == 1 and before.loc["c", "d"] == 0 and tied.loc["c", "d"] == 1
    assert before.loc["e"].isna().all() and before["e"].isna().all() and np.isnan(np.diag(before)).all()
    assert found.tau == 1 and found.tau_lower == pytest.approx(1 / 3)
    wide = order(np.array([0, 20, 50]), named, onset, frequency, 0.95).isel(question=0)
    assert wide.tied.sel(concept="a", concept_b="b") == 0.75 and wide.before.sel(concept="a", concept_b="b") == 0


def test_kendalls_tau_knows_ties_and_what_cannot_be_told():
    frequency = np.array([0.4, 0.2, 0.03, 0.3])
    assert kendall(frequency, np.array([[10, 30, np.inf, 20], [30.0, 10, 5, 20]])).tolist() == [1, -1]

    tied = np.array([5.0, 5, 20, np.inf])
    assert kendall(frequency, tied[None])[0] == pytest.approx(
        kendalltau(frequency, -np.array([5, 5, 20, 99])).statistic
    )
    assert np.isnan(kendall(frequency, np.array([[1, 2, 3, np.nan], [7.0, 7, 7, 7]]))).all()
    assert np.isnan(kendall(frequency[:1], np.ones((1, 1)))).all()


def test_what_else_a_push_moves_is_held_against_its_own_null(study):
    _, interventions, found = study
    q = found.interference_q.to_pandas()
    assert (np.diag(q)[:2] < 0.1).all() and (q.loc["never"] > 0.05).all()
    last = interventions.isel(step=-1).isel(layer=found.chosen_layer).transpose("concept", "readout_concept", ...)
    p = exceedance(abs(last.interference_local.values), abs(last.interference_shuffled.values))
    np.testing.assert_array_equal(q, false_discovery(p))
    assert {*MEASURES} == {*found.measure.values}


def test_what_a_push_gains_is_of_test_prompts_at_the_alpha_that_was_chosen(study):
    """On a prompt that is won unsteered a push too early does harm, and in time it wins what was lost."""
    probes, interventions, found = study
    there = found.step >= xr.DataArray(list(CONCEPTS.values()), {"concept": list(CONCEPTS)})
    for name in ("gain", "gain_lower", "gain_upper"):
        assert np.allclose(found[name], xr.where(there, 1, -1).transpose("concept", "step")), name
    assert (found.gain_null == 0).all()
    own = interventions.chosen_alpha.where(interventions.probe != "random")  # which is none of its business
    assert analyse(probes, interventions.assign(chosen_alpha=own), STUDY).gain_null.equals(found.gain_null)
    none = interventions.assign(chosen_alpha=interventions.chosen_alpha * np.nan)
    assert analyse(probes, none, STUDY).gain.isnull().all()  # nothing was pushed, which is no gain of 0
    half = interventions.margin.where((interventions.prompt % 2 == 0) | (interventions.alpha == 0), -1.0)
    some = analyse(probes, interventions.assign(margin=half), STUDY).sel(concept="early").isel(step=-1)
    assert some.gain_lower < some.gain < some.gain_upper and some.gain == pytest.approx(0.5)
    # Neither validation prompts count nor those that there are not; and equal is not first.
    own = interventions.margin.where(interventions.split.isel(readout_concept=0, drop=True) == "test", -1.0)
    fewer = analyse(probes, interventions.assign(margin=own.where(interventions.prompt < 25)), STUDY)
    xr.testing.assert_allclose(fewer.gain, found.gain)
    level = interventions.margin.where(interventions.alpha == 0, 0.0)
    assert (analyse(probes, interventions.assign(margin=level), STUDY).gain <= 0).all()


def test_discoveries_are_of_every_concept_layer_and_checkpoint(study):
    _, interventions, found = study
    p = interventions.p_shuffled.sel(probe="mean_difference").transpose("concept", "layer", "step").values
    assert found.q_shuffled.transpose("concept", "layer", "step").shape == p.shape
    rank = (p == p.min()).sum()
    assert found.q_shuffled.values.min() == pytest.approx(p.min() * p.size / rank)
