"""Studies side by side: variants are addressed and refused clearly, and what is common to them is found and counted."""

from __future__ import annotations

import json
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import xarray as xr
import yaml

from helpers.histories import STUDY, collected, study_of
from steerlib import SteerlibError
from steerlib.figures import comparison as figures_comparison
from steerlib.files import datasets
from steerlib.numerics.onsets import QUESTIONS
from steerlib.numerics.statistics import interval
from steerlib.results.schema import describe
from steerlib.running.comparison import ComparisonRun
from steerlib.stages import comparison, groups
from steerlib.stages.emergence import analyse, kendall, order
from steerlib.study import Study
from steerlib.study.comparison import Comparison, is_comparison

PROJECT = Path(__file__).parents[2]
FIRST = study_of(bootstrap=400)
STEPS = np.array([0, 10, 20, 40, 80])
CONCEPTS = ["often", "seldom", "rare", "null"]
FREQUENCY = [0.4, 0.2, 0.1, np.nan]
MEASURES = ["separability", "expression", "steerability"]
DRAWS, UNITS = 400, 30


def planted(
    onsets, seed=0, stimuli="same", lift=0.0, steps=STEPS, concepts=CONCEPTS, training=0.0, left_out=0, alike=""
):
    """One variant: every measure has the onsets given, and half its way a little later; ``lift`` is of all values.

    Its units are prompts, easy or hard, alike where the stimuli are. ``training`` is how much chance does to a concept.
    """
    draw = np.random.default_rng([7, seed])
    easy = np.random.default_rng(crc32(stimuli.encode()))
    shape = (len(MEASURES), len(concepts), len(steps))
    values = np.broadcast_to(np.asarray(steps) / 40 + lift, shape) + draw.normal(0, training, shape)
    units = values[..., None] + easy.normal(0, 3, UNITS) + draw.normal(0, 0.1, (*shape, UNITS))
    counts = easy.multinomial(UNITS, np.full(UNITS, 1 / UNITS), size=DRAWS) / UNITS  # as of a study: by its seed
    onset = np.broadcast_to(np.asarray(onsets, float), shape[:2])[..., None] * [1, 1.2]
    spread = np.exp(0.1)
    frequency = [dict(zip(CONCEPTS, FREQUENCY, strict=True)).get(name, np.nan) for name in concepts]
    of_steps = dict.fromkeys(("value_lower", "value_upper", "null_lower", "null_upper", "bar"), values)
    of_onsets = {"onset": onset, "onset_lower": onset / spread, "onset_upper": onset * spread}
    per_measure = {"status": np.where(np.isinf(onset[..., 0]), "not reached", "rises"), "units": UNITS}
    of_measures = {
        name: (["measure", "concept"], np.broadcast_to(of, shape[:2]))
        for name, of in (per_measure | {"left_out": left_out}).items()
    }
    coords = {"measure": MEASURES, "concept": concepts, "step": steps, "question": list(QUESTIONS)}
    labels = {"role": ["emotion"] * len(concepts), "planted_frequency": frequency}
    labels["stimuli"] = [stimuli + name for name in concepts]
    whole = xr.Dataset(
        {
            "value": (["measure", "concept", "step"], units.mean(-1)),
            **{name: (["measure", "concept", "step"], of) for name, of in of_steps.items()},
            **{name: (["measure", "concept", "question"], of) for name, of in of_onsets.items()},
            **of_measures,
            "resamples": (["draw", "measure", "concept", "step"], np.einsum("ru,mcsu->rmcs", counts, units)),
        },
        coords
        | {"seed": seed, "finetuned": False, "tokens_seen": ("step", 8 * np.asarray(steps))}
        | {name: ("concept", of) for name, of in labels.items()},
    )
    drawn = whole.onset.sel(measure="steerability", drop=True).expand_dims(draw=100)
    whole = whole.merge(order(STEPS, drawn, drawn.isel(draw=0), np.array(frequency), 0.95))
    return whole.assign_attrs(alike=alike)


# --- what variants have in common ---------------------------------------------------------------------------------


@pytest.fixture
def seeds():
    """Three seeds: `rare` is not reached in one of them, `null` in none."""
    onsets = [[10, 20, 40, np.inf], [20, 10, np.inf, np.inf], [10, 40, 80, np.inf]]
    return {f"seed-{k}": planted(row, seed=k, stimuli=str(k)) for k, row in enumerate(onsets)}


def test_onsets_have_a_mean_of_logs_with_intervals_and_a_count(seeds):
    whole = comparison.compare(seeds, FIRST)
    assert whole.variant.values.tolist() == ["seed-0", "seed-1", "seed-2"] and whole.seed.values.tolist() == [0, 1, 2]
    assert whole.concept.values.tolist() == CONCEPTS and whole.planted_frequency.values[:3].tolist() == FREQUENCY[:3]
    assert whole.group.values.tolist() == ["seed"] and set(whole.of_group.values) == {"seed"} and "later" not in whole
    found = whole.sel(measure="steerability", question="first_detectable", group="seed")
    assert found.reached.values.tolist() == [3, 3, 2, 0] and (whole.present == 3).all()
    means = [np.expm1(np.log1p(of).mean()) for of in ([10, 20, 10], [20, 10, 40])]
    assert found.onset_mean.values[:2] == pytest.approx(means)
    both = whole.onset_mean.sel(measure="steerability", concept="often", group="seed")
    assert float(both.sel(question="half_way")) == pytest.approx(np.expm1(np.log1p([12, 24, 12]).mean()))
    names = ("new_lower", "mean_lower", "mean", "mean_upper", "new_upper")
    ends = np.array([found[f"onset_{name}"].values[:2] for name in names])
    assert (np.diff(ends, axis=0) > 0).all(), "a new seed is less sure than the mean"


def test_an_onset_that_one_variant_does_not_have_is_counted_and_averaged_nowhere(seeds):
    whole = comparison.compare(seeds, FIRST)
    rare = whole.sel(measure="steerability", concept="rare", question="first_detectable", group="seed")
    assert all(np.isnan(rare[f"onset_{name}"]) for name in ("mean", "mean_lower", "new_upper")) and rare.reached == 2
    text = comparison.summary(whole)
    assert text["reached"].tolist() == ["3 of 3", "3 of 3", "2 of 3", "0 of 3"]
    assert text["mean"].tolist()[2:] == ["cannot be told"] * 2 and text["new seed"].tolist()[2:] == ["", ""]
    assert text.loc["rare", "seed-1"] == "not reached" and text.loc["often", "seed-1"] == "20 [18–22]"
    assert text.loc["often", "mean"].startswith("13 [") and text.loc["often", "new seed"].startswith("[")
    assert comparison.summary(whole, question="half_way").loc["often", "seed-1"].startswith("24 [")
    far = whole.assign(onset_new_upper=whole.onset_new_upper + 2 * STEPS[-1])
    assert comparison.summary(far).loc["often", "new seed"].endswith(", …]")


@pytest.mark.parametrize("absent", [-np.inf, np.nan])
def test_what_was_there_from_the_start_or_cannot_be_told_has_no_mean_either(seeds, absent):
    last = seeds["seed-2"]
    onset = last.onset.where(last.concept != "often", absent)
    whole = comparison.compare(seeds | {"seed-2": last.assign(onset=onset)}, FIRST).sel(measure="steerability")
    assert np.isnan(whole.onset_mean.sel(concept="often")).all()
    assert (whole.reached.sel(concept="often") == (2 if np.isnan(absent) else 3)).all()
    assert np.isfinite(whole.onset_mean.sel(concept="seldom")).all()


def test_the_order_over_seeds_is_told_of_pairs_with_onsets_and_counted_for_others(seeds):
    whole = comparison.compare(seeds, FIRST).sel(question="first_detectable", group="seed")
    told = ["often", "seldom"]
    mean, new, count = (whole[f"before_{name}"] for name in ("mean", "new", "count"))
    assert 0.5 < new.loc["often", "seldom"] < mean.loc["often", "seldom"] < 0.95
    assert float(mean.loc["often", "seldom"] + mean.loc["seldom", "often"]) == pytest.approx(1)
    assert mean.sel(concept=told, concept_b=told).notnull().sum() == mean.notnull().sum() == 2
    assert count.loc["often", ["seldom", "rare", "null"]].values.tolist() == [2, 3, 3]
    assert count.loc["rare", "null"] == 2 and count.loc["null", "rare"] == 0, "where neither is reached, none is first"


def test_tau_is_that_of_every_variant_with_mean_range_and_that_of_a_new_seed(seeds):
    whole = comparison.compare(seeds, FIRST)
    expected = kendall(np.array(FREQUENCY[:3]), np.array([[10, 20, 40], [20, 10, np.inf], [10, 40, 80]]))
    assert whole.tau.sel(question="half_way").values == pytest.approx(expected)
    one = whole.sel(question="half_way", group="seed")
    assert float(one.tau_mean) == pytest.approx(expected.mean())
    assert float(one.tau_lowest) == min(expected) and float(one.tau_highest) == one.tau_new_upper == 1
    assert -1 <= one.tau_new_lower < one.tau_mean_lower < one.tau_mean
    text = comparison.taus(whole)
    assert text.index.tolist() == ["seed-0", "seed-1", "seed-2", "mean", "range", "new seed"]
    assert text.loc["seed-0", "half way"] == "1.00 [1.00, 1.00]" and text.loc["range", "half way"] == "[0.33, 1.00]"
    untold = whole.assign(tau_lower=whole.tau_lower * np.nan, tau_new_lower=whole.tau_new_lower * np.nan)
    assert comparison.taus(untold).loc[["seed-0", "new seed"], "half way"].tolist() == ["1.00", ""]


def test_other_steps_and_concepts_are_missing_values_and_a_difference_is_of_what_is_shared(tmp_path):
    how = {"steps": [0, 20, 80, 160], "concepts": ["seldom", "often", "more"], "alike": "sparse"}
    sparse = planted([10, 20, np.inf], seed=1, lift=1, **how)
    found = comparison.compare({"first": planted([10, 20, 40, np.inf]), "sparse": sparse}, FIRST)
    datasets.write(describe(found), tmp_path / "comparison.nc")
    assert found.step.values.tolist() == [0, 10, 20, 40, 80, 160]
    assert found.concept.values.tolist() == [*CONCEPTS, "more"]
    one = found.sel(measure="steerability", question="first_detectable")
    assert one.onset.sel(variant="sparse").values[[0, 1, 4]].tolist() == [20, 10, np.inf]  # by name, not by place
    assert one.present.values.tolist() == [2, 2, 1, 1, 1] and one.reached.values.tolist() == [2, 2, 1, 0, 0]
    assert one.before.sel(variant="sparse", concept="seldom", concept_b="often") == 1
    shared = [0, 20, 80]
    assert shared == one.difference.sel(variant="sparse", concept="often").dropna("step").step.values.tolist()
    assert shared == one.difference_upper.sel(variant="sparse", concept="often").dropna("step").step.values.tolist()
    assert one.difference.sel(concept=["rare", "more"]).isnull().all() and not one.paired.sel(concept="more").any()
    text = comparison.summary(found)
    assert text.loc["rare", "sparse"] == "" and text.loc["more", "first"] == ""


def test_variants_of_another_depth_are_compared_and_those_that_share_no_step_are_told(seeds):
    def deep(one: xr.Dataset, layers: int) -> xr.Dataset:
        return one.assign(q_shuffled=one.value.isel(measure=0, drop=True).expand_dims(layer=range(layers)))

    plain = deep(seeds["seed-0"], 3)
    other = deep(seeds["seed-1"], 2)
    found = comparison.compare({"plain": plain, "deep": other}, FIRST)
    assert found.difference.sel(variant="deep").notnull().any() and found.sizes["layer"] == 3
    apart = other.assign_coords(step=other.step + 1)
    told = comparison.final_differences(comparison.compare({"plain": plain, "apart": apart}, FIRST), "apart")
    assert told.index.tolist() == CONCEPTS and (told.difference == "none, as they share no step").all()


def test_fewer_than_two_variants_are_no_comparison(seeds):
    with pytest.raises(SteerlibError, match="two variants with results; found 1"):
        comparison.compare({"seed-0": seeds["seed-0"]}, FIRST)


# --- groups of seeds -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grouped():
    """Two architectures with three seeds each: the second has every onset half as late again, `rare` in two seeds."""
    jitter, found = np.exp(np.random.default_rng(0).normal(0, 0.01, (2, 3, 4))), {}
    for (name, late), off in zip({"neox": 1.0, "llama-big": 1.5}.items(), jitter, strict=True):
        for seed in range(3):
            onsets = np.expm1(np.log1p([12, 25, 50, np.inf]) + np.log(late)) * off[seed]
            onsets[2] = np.inf if (name, seed) == ("llama-big", 2) else onsets[2]
            found[f"{name}-{seed}"] = planted(onsets, seed, str(seed), alike=name)
    return found


def test_variants_that_differ_by_a_seed_alone_are_a_group_with_a_mean_of_its_own(grouped):
    whole = comparison.compare(grouped, FIRST)
    assert whole.group.values.tolist() == ["neox", "llama-big"]
    assert whole.of_group.values.tolist() == ["neox"] * 3 + ["llama-big"] * 3
    for name in whole.group.values:
        alone = comparison.compare({v: one for v, one in grouped.items() if v.startswith(name)}, FIRST)
        for kind in ("onset_mean", "onset_new_upper", "tau_mean", "before_mean", "value_mean_upper"):
            xr.testing.assert_equal(alone[kind].squeeze("group", drop=True), whole[kind].sel(group=name, drop=True))
    text = comparison.summary(whole)
    assert text.columns.tolist() == ["neox", "neox, new seed", "llama-big", "llama-big, new seed"]
    assert text["llama-big"].tolist()[2:] == ["2 of 3", "0 of 3"] and text.loc["often", "neox"].startswith("12 [")
    assert "mean of llama-big" in comparison.taus(whole).index
    assert comparison.others(whole) == ["llama-big-0"]
    assert len(comparison.others(comparison.compare(dict([*grouped.items()][:3]), FIRST))) == 2


@pytest.mark.parametrize(
    ("alike", "called"),
    [
        ({"seed-0": "", "seed-1": ""}, ["seed", "seed"]),
        ({"hidden-64-0": "a", "hidden-64-1": "a", "hidden-128": "b"}, ["hidden-64", "hidden-64", "hidden-128"]),
        ({"llama-10": "", "llama-11": ""}, ["llama", "llama"]),
        ({"one": "", "other": ""}, ["one", "one"]),
        ({"x-1": "a", "x-2": "a", "x-3": "b", "x-4": "b"}, ["x-1", "x-1", "x-3", "x-3"]),
    ],
)
def test_a_group_is_called_by_what_the_names_of_its_variants_begin_with(alike, called):
    assert [*groups.named(alike).values()] == called


def test_how_much_later_a_group_is_has_an_interval_over_seeds(grouped):
    whole = comparison.compare(grouped, FIRST)
    found = whole.sel(measure="steerability", question="first_detectable", group="llama-big")
    assert found.later.values[:2] == pytest.approx(1.5, rel=0.1) and found.later.isnull().values[2:].all()
    assert (found.later_lower.values[:2] < 1.5).all() and (found.later_upper.values[:2] > 1.5).all()
    assert float(found.later_all) == pytest.approx(found.later.values[:2].prod() ** 0.5)
    assert whole.later.sel(group="neox").isnull().all() and whole.later_all.sel(group="neox").isnull().all()
    text = comparison.shifts(whole)
    assert text.index.tolist() == [*CONCEPTS, "together"] and text.loc["rare"].tolist() == ["", ""]
    assert text.loc["together", "llama-big, half way"].startswith("1.5")
    fewer = {name: one for name, one in grouped.items() if name not in ("neox-1", "llama-big-2")}
    one = comparison.compare(fewer, FIRST)
    assert one.later.isnull().all(), "one seed that both have tells nothing"
    both = comparison.compare(fewer | {"neox-1": grouped["neox-1"]}, FIRST)
    assert both.later.sel(group="llama-big", concept="rare").notnull().all(), "with both seeds that both have"


def test_intervals_over_seeds_hold_how_much_later_a_group_is_as_often_as_they_say():
    draw, held, concepts = np.random.default_rng(1), [], [f"c{k}" for k in range(40)]
    coords = {
        "measure": ["steerability"],
        "question": ["half_way"],
        "concept": concepts,
        "seed": ("variant", [0, 1, 2] * 2),
    }
    for late in (1.0, 2.0):
        logs = draw.normal(3, 0.5, (1, 1, 40, 1)) + draw.normal(0, 0.2, (1, 1, 40, 6))
        logs += np.tile(draw.normal(0, 1, (1, 1, 40, 3)), 2)  # what a seed does to both
        logs[..., 3:] += np.log(late)
        ends = {"onset": logs, "onset_lower": logs - 0.01, "onset_upper": logs + 0.01}
        dims = ["measure", "question", "concept", "variant"]
        whole = xr.Dataset({name: (dims, np.expm1(of)) for name, of in ends.items()}, coords)
        whole = whole.assign_coords(variant=[*"abcdef"], of_group=("variant", [*"xxxyyy"]))
        found = groups.shifts(whole, 0.95).sel(group="y")
        held.append(((found.later_lower <= late) & (found.later_upper >= late)).mean())
        assert np.log(found.later_upper / found.later_lower).median() < 2, "it cancels"
    assert 0.88 < np.mean(held) <= 1


def test_how_far_two_trainings_agree_on_the_order_is_told_within_groups_and_between(grouped):
    whole = comparison.compare(grouped, FIRST)
    of = whole.agreement.sel(question="first_detectable")
    assert (of == 1).all() and of.shape == (6, 6)
    turned = grouped | {"turned": planted([80, 40, 10, np.inf], alike="turned")}
    text = comparison.agreement(comparison.compare(turned, FIRST))
    assert text.loc["neox, turned", "first detectable"] == "-1.00 [-1.00, -1.00]"
    assert text.loc["within neox", "first detectable"] == "1.00 [1.00, 1.00]" and text.loc[
        "within turned"
    ].tolist() == ["", ""]
    assert text.loc["neox, llama-big", "half way"].startswith("1.00 [")


def test_figures_of_groups_show_each_ones_seeds_and_mean(grouped):
    import matplotlib.pyplot as plt

    found = comparison.compare(grouped, FIRST)
    onsets = figures_comparison.onsets(found)
    assert {"neox", "llama-big", "mean over seeds"} <= {text.get_text() for text in onsets.legends[0].texts}
    assert [text.get_text() for text in onsets.axes[2].texts] == ["2 of 3", "0 of 3", "0 of 3"]
    shift = figures_comparison.later(found)
    marks = [line for line in shift.axes[0].lines if line.get_marker() == "s"]
    assert len(marks) == 3 and marks[0].get_ydata()[0] == 0, "two concepts, and all together"
    lines = figures_comparison.trajectories(found).axes[0].lines
    assert len([line for line in lines if line.get_linestyle() != "None"]) == 2, "a group each"
    assert len(figures_comparison.order(found).axes) == 2 * len(QUESTIONS) + 1
    plt.close("all")


# --- the first variant and the others -------------------------------------------------------------------------------


def test_a_planted_difference_is_sharpened_by_pairing_prompts():
    first, lifted = planted([10] * 4), planted([10] * 4, seed=1, lift=0.5)
    paired = comparison.compare({"without": first, "with": lifted}, FIRST)
    alone = comparison.compare({"without": first, "with": planted([10] * 4, seed=1, stimuli="own", lift=0.5)}, FIRST)
    assert paired.paired.sel(variant="with").all() and not alone.paired.any()
    assert not paired.paired.sel(variant="without").any()
    nothing = paired[["difference", "difference_lower", "difference_upper"]].sel(variant="without")
    assert all(values.isnull().all() for values in nothing.values())
    with_it = paired.sel(variant="with")
    assert np.allclose(with_it.difference, 0.5, atol=0.2) and (with_it.difference_lower > 0).all()
    width = {
        name: float((one.difference_upper - one.difference_lower).mean())
        for name, one in (("paired", paired), ("alone", alone))
    }
    assert width["paired"] < width["alone"] / 5
    text = comparison.final_differences(paired, "with")
    assert text.loc["often", "steerability"].startswith("+0.") and set(text.resampled) == {"the same units"}
    assert set(comparison.final_differences(alone, "with").resampled) == {"each its own"}


def test_units_are_only_paired_where_they_are_the_same_ones():
    """Where a variant left some out, a resample does not draw the same of both; its draws are then shifted apart."""
    fewer = planted([10] * 4, seed=1, left_out=2)
    found = comparison.compare({"without": planted([10] * 4), "with": fewer}, FIRST).sel(variant="with")
    same = comparison.compare({"without": planted([10] * 4), "with": planted([10] * 4, seed=1)}, FIRST)
    assert not found.paired.any() and found.difference.equals(same.difference.sel(variant="with"))
    assert (found.difference_upper - found.difference_lower).mean() > 0.5


def test_intervals_hold_a_difference_of_two_models_as_often_as_they_say():
    held = []
    for seed in range(20):
        pair = {"a": planted([10] * 4, seed=2 * seed), "b": planted([10] * 4, seed=2 * seed + 1)}
        one = comparison.compare(pair, FIRST).sel(variant="b")
        held.append(((one.difference_lower <= 0) & (one.difference_upper >= 0)).mean())
    assert 0.88 < np.mean(held) < 0.98


def by_chance(seed, effect=0.0):
    """Without, with, and with again: each training moves every value, as it does."""
    names = ("without", "with", "again")
    lifts = {"without": 0.0, "with": effect, "again": effect}
    concepts = [f"concept-{k}" for k in range(8)]
    return {
        name: planted([10] * 8, 3 * seed + k, "same", lifts[name], concepts=concepts, training=0.3, alike=name)
        for k, name in enumerate(names)
    }


def test_what_a_second_training_does_as_well_is_not_found():
    plain, told, missed = [], [], []
    for seed in range(8):
        found = comparison.compare(by_chance(seed), FIRST, ["with", "again"]).sel(variant="with")
        plain.append(((found.difference_lower > 0) | (found.difference_upper < 0)).mean())
        told.append(found.found.mean())
        lifted = comparison.compare(by_chance(seed, effect=2), FIRST, ["with", "again"]).sel(variant="with")
        missed.append(1 - lifted.found.mean())
    assert np.mean(plain) > 0.6, "as intervals of two models have it"
    assert np.mean(told) <= 0.08 and np.mean(missed) < 0.05


def test_without_a_second_training_nothing_is_called_found():
    lifted = comparison.compare(by_chance(0, effect=2), FIRST)
    assert not lifted.found.any() and lifted.difference_null.isnull().all()
    assert "of these two models; what a second training" in comparison.claim(lifted)
    assert not comparison.final_differences(lifted, "with").map(lambda text: "found" in text).any(axis=None)
    of_variants = by_chance(0, effect=2)
    del of_variants["again"]  # it could not be run
    assert not comparison.compare(of_variants, FIRST, ["with", "again"]).found.any()
    known = comparison.compare(by_chance(0, effect=2), FIRST, ["with", "again"])
    assert known.difference_null.dims == ("measure", "step") and not known.found.sel(variant="without").any()
    assert comparison.final_differences(known, "with").loc["concept-0", "steerability"].endswith("], found")
    assert "second training" in comparison.claim(known)


def test_variants_that_differ_in_more_than_a_seed_are_no_replicates_and_have_no_mean():
    pair = {"without": planted([10] * 4), "with": planted([20] * 4, alike="tuned").assign_coords(finetuned=True)}
    pair = comparison.compare(pair, FIRST)
    assert pair.finetuned.values.tolist() == [False, True]
    assert not comparison.replicates(pair) and "onset_mean" not in pair and "before_new" not in pair
    known = {"one": planted([10] * 4, alike="a"), "other": planted([20] * 4, alike="b")}
    known = comparison.compare(known, FIRST, same=True)
    assert comparison.replicates(known) and "mean" in comparison.summary(known)
    assert "mean" not in comparison.summary(pair) and comparison.taus(pair).index.tolist() == ["without", "with"]


def test_resamples_are_those_that_the_emergence_analysis_has_its_intervals_of():
    probes, interventions = collected()
    found = analyse(probes, interventions, STUDY)
    one = comparison.variant(found, probes, interventions, STUDY, dict.fromkeys(found.concept.values, ""))
    lower, upper = interval(one.resamples.transpose("draw", *found.value.dims).values, 0.95)
    np.testing.assert_array_equal(lower, found.value_lower)
    np.testing.assert_array_equal(upper, found.value_upper)
    seeded, tuned = (STUDY.model_copy(update=of) for of in ({"seed": 7, "name": "b"}, {"threads": 2}))
    told = [
        comparison.variant(found, probes, interventions, of, dict.fromkeys(found.concept.values, ""))
        for of in (seeded, tuned)
    ]
    assert [one.attrs["alike"] == other.attrs["alike"] for other in told] == [True, False], "a seed alone makes a group"
    again = comparison.variant(found, probes, interventions, STUDY, dict.fromkeys(found.concept.values, ""))
    same = comparison.compare({"a": one, "b": again}, STUDY).sel(variant="b")
    assert same.paired.all() and (same.difference_upper == 0).all(), "the same draws of the same units"


def test_the_comparison_is_written_with_names_and_units_and_read_back_equal(seeds, tmp_path):
    found = describe(comparison.compare(seeds, FIRST))
    datasets.write(found, tmp_path / "comparison.nc")
    back = datasets.read(tmp_path / "comparison.nc")
    assert datasets.digest(back) == datasets.digest(found)
    assert all(v.attrs["long_name"] and v.attrs["units"] for v in back.data_vars.values())
    assert back.onset.dims[0] == "variant" and {"seed", "finetuned"} <= set(back.coords)


def test_figures_show_every_variant_and_leave_the_data_alone(seeds):
    import matplotlib.pyplot as plt

    found = comparison.compare(seeds, FIRST)
    before = found.copy(deep=True)
    onsets, lines = figures_comparison.onsets(found), figures_comparison.trajectories(found)
    assert {"seed-0", "seed-1", "seed-2", "mean over seeds", "not reached"} <= {
        t.get_text() for t in onsets.legends[0].texts
    }
    assert len(onsets.axes) == len(QUESTIONS) * len(MEASURES)
    hollow = [m for m in onsets.axes[2].lines if m.get_markerfacecolor() == "none"]
    assert len(hollow) == 4, "rare in one seed, null in three"
    assert [text.get_text() for text in onsets.axes[2].texts] == ["2 of 3", "0 of 3"]
    assert len(lines.axes) == len(CONCEPTS) and len(lines.axes[0].lines) == 6  # three seeds, and where each is above
    delta = figures_comparison.difference(found, "seed-2")
    assert "seed-2 less seed-0" in delta.texts[-1].get_text()
    cells = [text.get_text() for text in figures_comparison.order(found).axes[0].texts]
    assert len(cells) == 12 and "3/3" in cells and sum("." in cell for cell in cells) == 2
    xr.testing.assert_identical(found, before)
    plt.close("all")


def test_only_what_is_found_has_a_filled_mark_and_chance_a_band():
    import matplotlib.pyplot as plt

    for effect in (0, 2):
        found = comparison.compare(by_chance(1, effect=effect), FIRST, ["with", "again"])
        axis = figures_comparison.difference(found, "with").axes[0]
        filled = [line for line in axis.lines if line.get_marker() == "o" and line.get_markerfacecolor() != "w"]
        told = found.found.sel(variant="with", measure="steerability", concept="concept-0")
        assert sum(len(line.get_xdata()) for line in filled) == int(told.sum())
        assert len(axis.collections) == 2, "the interval and the band"
    plt.close("all")


# --- params files -------------------------------------------------------------------------------------------------

BASE = {
    "name": "base",
    "pretraining": {"steps": 100, "model": {"hidden": 64, "heads": 2}},
    "checkpoints": {"steps": [0, 50, 100]},
    "concepts": ["happiness", "placebo"],
    "probes": {"pairs": 20},
}


@pytest.fixture
def family(tmp_path):
    """Writes a study and its comparison, in folders of their own; returns the comparison's path."""

    def write(variants=None, base=BASE, **changes) -> Path:
        (tmp_path / "studies").mkdir(exist_ok=True)
        (tmp_path / "studies" / "base.yaml").write_text(yaml.safe_dump(base))
        data = {"name": "both", "study": "studies/base.yaml", "variants": variants or {"plain": {}, "b": {"seed": 1}}}
        path = tmp_path / "both.yaml"
        path.write_text(yaml.safe_dump(data | changes, sort_keys=False))
        return path

    return write


def test_changes_are_laid_over_the_study_key_by_key(family):
    path = family(
        {
            "plain": {},
            "b": {
                "pretraining": None,
                "checkpoints": {"folder": "../runs"},
                "probes": {"random": 30},
                "finetuning": {},
                "concepts": ["sadness"],
            },
        }
    )
    assert is_comparison(path) and not is_comparison(f"{path}#b")
    plain, changed = Study.load(f"{path}#plain"), Study.load(f"{path}#b")
    itself = Study.load(path.parent / "studies" / "base.yaml")
    assert plain.model_dump() == itself.model_dump(), "{} is the study itself, with its own folder of results"
    assert changed.name == "both.b" and changed.pretraining is None and changed.finetuning is not None
    assert changed.probes.pairs == 20 and changed.probes.random == 30 and changed.concepts == ["sadness"]
    assert changed.checkpoints.steps == [0, 50, 100]
    assert changed.checkpoints.folder.path == path.parent / "runs", "relative to the study's folder"
    assert list(Comparison.load(path).variants) == ["plain", "b"]


def test_a_file_with_a_hash_in_its_name_or_folder_is_an_ordinary_one(tmp_path):
    folder = tmp_path / "c#1"
    folder.mkdir()
    for name in ("base.yaml", "base#2.yaml"):
        (folder / name).write_text(yaml.safe_dump(BASE))
        assert Study.load(folder / name).name == "base"


@pytest.mark.parametrize(
    ("changes", "variant", "message"),
    [
        ({}, "c", ["both.yaml#c: no such variant", "plain, b"]),
        ({}, None, ["both.yaml: is a comparison, not a study", "variants: /", "both.yaml#plain, ", "both.yaml#b"]),
        ({}, "", ["both.yaml#: no such variant"]),
        ({"variants": {"plain": {}, "b": {"probes": {"pears": 3}}}}, "b", ["both.yaml#b: probes.pears: unknown key"]),
        ({"variants": {"plain": {}, "b": {"seed": "one"}}}, "b", ["both.yaml#b: seed: 'one' is not allowed"]),
        ({"variants": {"plain": {}, "b": {"probes": None, "concepts": None}}}, "b", ["#b: concepts: required"]),
        (
            {"variants": {"plain": {}, "b": {"pretraining": {"world": {"emotions": {"fear": None}}}}}},
            "b",
            ["both.yaml#b: pretraining.world.emotions.fear: null removes a key of base.yaml, which has none"],
        ),
        ({"variants": {"plain": {}, "b": {"variants": {}}}}, "b", ["both.yaml: variants: b: variants: belongs to"]),
        ({"variants": {"plain": {}, "b": {"name": "x"}}}, "b", ["both.yaml: variants: b: name: belongs to"]),
        ({"variants": {"plain": {}, "b": {}}}, "b", ["variants: plain and b are the same"]),
        ({"variants": {"plain": {}}}, "plain", ["both.yaml: variants", "at least 2"]),
        ({"variants": {"plain": {}, "B b": {"seed": 1}}}, "plain", ["both.yaml: variants.B b", "pattern"]),
        ({"study": "studies/none.yaml"}, "b", ["both.yaml: study: there is no file", "none.yaml"]),
        ({"study": "both.yaml"}, "b", ["both.yaml: study: both.yaml is itself a comparison"]),
        ({"name": "base"}, "b", ["both.yaml: name: 'base' is that of studies/base.yaml"]),
        ({"base": BASE | {"seed": "one"}}, "b", ["studies/base.yaml: seed: 'one'"]),
        ({"steps": 3}, "b", ["both.yaml: steps: unknown key; allowed here: name, study, variants, replicates, chance"]),
        ({"chance": ["plain", "c"]}, "b", ["both.yaml: chance: there is no variant 'c'; there are plain, b"]),
        ({"chance": ["b", "b"]}, "b", ["both.yaml: chance: b and b have to be two that differ by a seed alone"]),
        (
            {"variants": {"plain": {}, "b": {"finetuning": {"seed": 1}}}, "chance": ["plain", "b"]},
            "b",
            ["both.yaml: chance: plain and b have to be two that differ by a seed alone"],
        ),
    ],
)
def test_a_mistake_is_told_in_one_line_with_file_variant_and_field(family, changes, variant, message):
    path = family(**changes)
    with pytest.raises(SteerlibError) as caught:
        Study.load(path if variant is None else f"{path}#{variant}")
    assert all(part in str(caught.value) for part in message), caught.value
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "field", "value", "told"),
    [
        ("sweep", "operator", "rotate", "is add there and rotate here"),
        ("sweep", "scale", "raw", "is residual_norm there and raw here"),
        ("sweep", "kl_budget", 0.2, "is 0.1 there and 0.2 here"),
        ("sweep", "positions", "all", "is generated there and all here"),
        ("emergence", "method", "pca", "is mean_difference there and pca here"),
        ("emergence", "level", 0.9, "is 0.95 there and 0.9 here"),
        ("emergence", "sustained", 1, "is 2 there and 1 here"),
        ("emergence", "least", {"steerability": 2}, "steerability=1.0 there and .*steerability=2.0 here"),
    ],
)
def test_effects_of_different_units_are_not_compared(family, tmp_path, part, field, value, told):
    path = family({"plain": {}, "again": {"seed": 1}, "turned": {part: {field: value}}})
    with pytest.raises(SteerlibError, match=rf"both.yaml: variants plain and turned: {part}.{field} .*{told}"):
        ComparisonRun(path, tmp_path)
    sizes = {"sweep": {"prompts": 12, "bootstrap": 200}, "emergence": {"bootstrap": 200, "shuffled": 200}}
    assert ComparisonRun(family({"plain": {}, "coarse": sizes}), tmp_path).variants


def test_a_study_has_no_variants(family):
    path = family().parent / "studies" / "base.yaml"
    with pytest.raises(SteerlibError, match=r"base\.yaml#b: base\.yaml is a study and has no variants; leave out #b"):
        Study.load(f"{path}#b")


def test_the_comparisons_that_come_with_the_project_are_valid():
    for name in ("first-seeds", "toy-seeds", "toy-finetuned", "toy-id-finetuned"):
        path = PROJECT / "params" / f"{name}.yaml"
        studies = [Study.load(f"{path}#{name}") for name in Comparison.load(path).variants]
        assert len({study.name for study in studies}) == len(studies)
    without, with_it = (Study.load(PROJECT / "params" / f"toy-finetuned.yaml#{v}") for v in ("without", "with"))
    assert without.name == "toy" and without.finetuning is None and with_it.finetuning is not None
    assert with_it.checkpoints.folder.path == PROJECT / "outputs" / "toy" / "checkpoints"
    again = Study.load(PROJECT / "params" / "toy-finetuned.yaml#again")
    assert again.finetuning.seed == 1 and again.checkpoints == with_it.checkpoints and again.pretraining is None
    assert Comparison.load(PROJECT / "params" / "toy-finetuned.yaml").chance == ("with", "again")


READY = {
    "toy-architectures": {"neox": 0.8, "llama": 0.8, "gpt2": 0.8},
    "toy-sizes": {"hidden-128": 0.8, "hidden-64": 0.2, "hidden-256": 3.2},
}


@pytest.mark.parametrize(("name", "millions"), READY.items())
def test_architectures_and_sizes_differ_in_nothing_else_and_have_three_seeds_each(name, millions):
    path, seeds, rest = PROJECT / "params" / f"{name}.yaml", {}, set()
    for variant in Comparison.load(path).variants:
        study, group = Study.load(f"{path}#{variant}"), variant.rpartition("-")[0]
        of = study.model_dump(mode="json") | {"name": "", "seed": 0}
        assert of["pretraining"].pop("model") and round(study.pretraining.model.weights / 1e6, 1) == millions[group]
        seeds.setdefault(group, []).append(study.seed)
        rest.add(json.dumps(of))
    assert seeds == {group: [0, 1, 2] for group in millions} and len(rest) == 1


def test_the_notebook_is_short_stripped_and_complete():
    cells = json.loads((PROJECT / "notebooks" / "5_comparison.ipynb").read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in code) == 1
    assert not any("def " in line for cell in code for line in cell["source"])
    assert any("$" in line for cell in cells if cell["cell_type"] == "markdown" for line in cell["source"])
