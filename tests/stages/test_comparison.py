"""Studies side by side: variants are addressed and refused clearly, and what is common to them is found and counted."""

from __future__ import annotations

import json
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import xarray as xr
import yaml
from scipy.stats import kendalltau

from helpers.histories import STUDY, collected, study_of
from steerlib import SteerlibError
from steerlib.figures import comparison as figures_comparison
from steerlib.files import store
from steerlib.results.schema import describe
from steerlib.stages import comparison
from steerlib.stages.emergence import analyse
from steerlib.study import Study
from steerlib.study.comparison import Comparison, is_comparison

PROJECT = Path(__file__).parents[2]
FIRST = study_of(bootstrap=400)
STEPS = np.array([0, 10, 20, 40, 80])
CONCEPTS = ["often", "seldom", "rare", "null"]
FREQUENCY = [0.4, 0.2, 0.1, np.nan]
MEASURES = ["separability", "expression", "steerability"]


def planted(onsets, seed=0, stimuli="same", lift=0.0, steps=STEPS, concepts=CONCEPTS, finetuned=False):
    """One variant: every measure has the onsets given; its units are prompts, easy or hard, and ``lift`` for all."""
    draw = np.random.default_rng([7, seed])
    prompts = np.random.default_rng(crc32(stimuli.encode())).normal(0, 3, 30)  # how easy each prompt is, in any variant
    shape = (len(MEASURES), len(concepts), len(steps))
    level = np.broadcast_to(np.asarray(steps) / 40 + lift, shape)
    units = level[..., None] + prompts + draw.normal(0, 0.1, (*shape, 30))
    onset = np.broadcast_to(np.asarray(onsets, float), shape[:2])
    per_step = {
        name: (["measure", "concept", "step"], level)
        for name in ("value", "value_lower", "value_upper", "null_lower", "null_upper", "null_threshold")
    }
    per_measure = {
        name: (["measure", "concept"], onset) for name in ("onset_step", "onset_lower", "onset_upper", "p_value")
    }
    per_concept = {"lag": ("concept", np.zeros(len(concepts))), "chosen_layer": ("concept", [1] * len(concepts))}
    coords = {
        "measure": MEASURES,
        "concept": concepts,
        "step": steps,
        "role": ("concept", ["emotion"] * len(concepts)),
        "planted_frequency": (
            "concept",
            [dict(zip(CONCEPTS, FREQUENCY, strict=True)).get(c, np.nan) for c in concepts],
        ),
        "unit": range(30),
        "stimuli": ("concept", [stimuli + name for name in concepts]),
        "seed": seed,
        "finetuned": finetuned,
    }
    units = {"units": (["measure", "concept", "step", "unit"], units), "tau": 1.0}
    return xr.Dataset(per_step | per_measure | per_concept | units, coords)


# --- what variants have in common ---------------------------------------------------------------------------------


@pytest.fixture
def seeds():
    """Three seeds: `rare` is not reached in one of them, `null` in none."""
    onsets = [[10, 20, 40, np.inf], [20, 10, np.inf, np.inf], [10, 40, 80, np.inf]]
    return {f"seed-{k}": planted(row, seed=k, stimuli=str(k)) for k, row in enumerate(onsets)}


def test_mean_range_and_count_of_onsets_are_those_planted(seeds):
    found = comparison.compare(seeds, FIRST).sel(measure="steerability")
    assert found.reached.values.tolist() == [3, 3, 2, 0] and found.present.values.tolist() == [3] * 4
    assert found.onset_mean.values[:2] == pytest.approx([40 / 3, 70 / 3])
    assert found.onset_earliest.values.tolist() == [10, 10, 40, np.inf]
    assert found.onset_latest.values.tolist()[:2] == [20, 40]
    assert found.variant.values.tolist() == ["seed-0", "seed-1", "seed-2"] and found.seed.values.tolist() == [0, 1, 2]
    assert found.concept.values.tolist() == CONCEPTS and found.planted_frequency.values[:3].tolist() == FREQUENCY[:3]


def test_an_onset_that_one_variant_did_not_reach_is_not_averaged_away(seeds):
    rare = comparison.compare(seeds, FIRST).sel(measure="steerability", concept="rare")
    assert np.isinf(rare.onset_mean) and np.isinf(rare.onset_latest) and rare.reached == 2
    text = comparison.summary(comparison.compare(seeds, FIRST))
    assert text.loc["rare", "reached"] == "2 of 3" and text.loc["rare", "mean (range)"] == "(40–not reached)"
    assert text.loc["null", "mean (range)"] == "not reached" and text.loc["null", "reached"] == "0 of 3"
    assert text.loc["rare", "seed-1"] == "not reached" and text.loc["often", "seed-1"].startswith("20 [")
    assert text.loc["often", "mean (range)"] == "13 (10–20)"


def test_ranks_put_the_unreached_last_and_tau_is_that_of_the_mean_rank(seeds):
    found = comparison.compare(seeds, FIRST)
    ranks = found.onset_rank.sel(measure="steerability")
    assert ranks.transpose("variant", "concept").values.tolist() == [[1, 2, 3, 4], [2, 1, 3.5, 3.5], [1, 2, 3, 4]]
    mean = found.onset_rank_mean.sel(measure="steerability").values
    assert mean == pytest.approx([4 / 3, 5 / 3, 9.5 / 3, 11.5 / 3])
    assert float(found.tau_mean) == pytest.approx(kendalltau(FREQUENCY[:3], -mean[:3]).statistic) == 1
    turned = {name: planted([80, 40, 10, np.inf], seed=k) for k, name in enumerate("ab")}
    assert float(comparison.compare(turned, FIRST).tau_mean) == -1
    assert comparison.orders(found).to_dict() == {"seed-0": 1, "seed-1": 1, "seed-2": 1, "mean rank": 1}


def test_other_steps_and_concepts_are_missing_values_and_the_range_spans_what_is_shared():
    sparse = planted([10, 20, np.inf], seed=1, lift=1, steps=[0, 20, 80, 160], concepts=["seldom", "often", "more"])
    found = comparison.compare({"first": planted([10, 20, 40, np.inf]), "sparse": sparse}, FIRST)
    assert found.step.values.tolist() == [0, 10, 20, 40, 80, 160]
    assert found.concept.values.tolist() == [*CONCEPTS, "more"]
    one = found.sel(measure="steerability")
    assert one.onset_step.sel(variant="sparse").values[[0, 1, 4]].tolist() == [20, 10, np.inf]  # by name, not by place
    assert one.present.values.tolist() == [2, 2, 1, 1, 1] and one.reached.values.tolist() == [2, 2, 1, 0, 0]
    shared = one.value_mean.sel(concept="often").dropna("step").step.values.tolist()
    assert shared == one.difference.sel(variant="sparse", concept="often").dropna("step").step.values.tolist()
    assert shared == [0, 20, 80]
    assert (one.value_highest - one.value_lowest).sel(concept="often", step=20) == pytest.approx(1)
    assert one.value_mean.sel(concept="rare").notnull().sum() == len(STEPS), "its only variant is all there is"
    assert one.difference.sel(concept=["rare", "more"]).isnull().all()
    text = comparison.summary(found)
    assert text.loc["rare", "sparse"] == "" and text.loc["more", "first"] == ""


def test_fewer_than_two_variants_are_no_comparison(seeds):
    with pytest.raises(SteerlibError, match="two variants with results; found 1"):
        comparison.compare({"seed-0": seeds["seed-0"]}, FIRST)


# --- the first variant and the others -------------------------------------------------------------------------------


def test_a_planted_difference_is_found_and_pairing_prompts_sharpens_it():
    first, lifted = planted([10] * 4), planted([10] * 4, seed=1, lift=0.5)
    paired = comparison.compare({"without": first, "with": lifted}, FIRST)
    alone = comparison.compare({"without": first, "with": planted([10] * 4, seed=1, stimuli="own", lift=0.5)}, FIRST)
    assert paired.paired.sel(variant="with").all() and not alone.paired.any()
    assert paired.difference.sel(variant="without").isnull().all()
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


def test_where_there_is_no_difference_intervals_hold_zero_as_often_as_they_say():
    held = []
    for seed in range(40):
        pair = {"a": planted([10] * 4, seed=2 * seed), "b": planted([10] * 4, seed=2 * seed + 1)}
        one = comparison.compare(pair, FIRST).sel(variant="b")
        held.append(((one.difference_lower <= 0) & (one.difference_upper >= 0)).mean())
    assert 0.9 < np.mean(held) < 0.98


def test_variants_of_one_seed_are_no_replicates_and_have_no_mean():
    pair = comparison.compare({"without": planted([10] * 4), "with": planted([20] * 4, finetuned=True)}, FIRST)
    assert not comparison.replicates(pair) and "mean (range)" not in comparison.summary(pair)
    assert pair.finetuned.values.tolist() == [False, True]


def test_units_are_what_the_emergence_analysis_took_the_mean_of():
    probes, interventions = collected()
    found = analyse(probes, interventions, STUDY)
    hashes = dict.fromkeys(found.concept.values, "")
    one = comparison.variant(found, probes, interventions, STUDY, hashes)
    for measure in MEASURES:
        mean, value = one.units.sel(measure=measure).mean("unit"), one.value.sel(measure=measure)
        np.testing.assert_allclose(mean.transpose(*value.dims), value, atol=1e-12)


def test_the_comparison_is_written_with_names_and_units_and_read_back_equal(seeds, tmp_path):
    found = describe(comparison.compare(seeds, FIRST))
    store.write(found, tmp_path / "comparison.nc")
    back = store.read(tmp_path / "comparison.nc")
    assert store.digest(back) == store.digest(found)
    assert all(v.attrs["long_name"] and v.attrs["units"] for v in back.data_vars.values())
    assert back.onset_step.dims[0] == "variant" and {"seed", "finetuned"} <= set(back.coords)


def test_figures_show_every_variant_and_leave_the_data_alone(seeds, tmp_path):
    import matplotlib.pyplot as plt

    found = comparison.compare(seeds, FIRST)
    before = found.copy(deep=True)
    onsets, lines = figures_comparison.onsets(found), figures_comparison.trajectories(found)
    assert {"seed-0", "seed-1", "seed-2", "mean", "not reached"} == {t.get_text() for t in onsets.legends[0].texts}
    hollow = [m for m in onsets.axes[2].lines if m.get_markerfacecolor() == "none"]
    assert len(hollow) == 4, "rare in one seed, null in three"
    assert len(lines.axes) == len(CONCEPTS) and len(lines.axes[0].lines) == 4  # three seeds and the null's threshold
    delta = figures_comparison.difference(found, "seed-2")
    assert "seed-2 − seed-0" in delta.axes[0].get_ylabel()
    xr.testing.assert_identical(found, before)
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
        ({}, None, ["both.yaml: is a comparison, not a study", "both.yaml#VARIANT"]),
        ({"variants": {"plain": {}, "b": {"probes": {"pears": 3}}}}, "b", ["both.yaml#b: probes.pears: unknown key"]),
        ({"variants": {"plain": {}, "b": {"seed": "one"}}}, "b", ["both.yaml#b: seed: 'one' is not allowed"]),
        ({"variants": {"plain": {}, "b": {"probes": None, "concepts": None}}}, "b", ["#b: concepts: required"]),
        ({"variants": {"plain": {}, "b": {"variants": {}}}}, "b", ["both.yaml: variants: b: variants: belongs to"]),
        ({"variants": {"plain": {}, "b": {"name": "x"}}}, "b", ["both.yaml: variants: b: name: belongs to"]),
        ({"variants": {"plain": {}, "b": {}}}, "b", ["variants: plain and b are the same"]),
        ({"variants": {"plain": {}}}, "plain", ["both.yaml: variants", "at least 2"]),
        ({"variants": {"plain": {}, "B b": {"seed": 1}}}, "plain", ["both.yaml: variants.B b", "pattern"]),
        ({"study": "studies/none.yaml"}, "b", ["both.yaml: study: there is no file", "none.yaml"]),
        ({"study": "both.yaml"}, "b", ["both.yaml: study: both.yaml is itself a comparison"]),
        ({"name": "base"}, "b", ["both.yaml: name: 'base' is that of studies/base.yaml"]),
        ({"base": BASE | {"seed": "one"}}, "b", ["studies/base.yaml: seed: 'one'"]),
        ({"steps": 3}, "b", ["both.yaml: steps: unknown key; allowed here: name, study, variants"]),
    ],
)
def test_a_mistake_is_told_in_one_line_with_file_variant_and_field(family, changes, variant, message):
    path = family(**changes)
    with pytest.raises(SteerlibError) as caught:
        Study.load(path if variant is None else f"{path}#{variant}")
    assert all(part in str(caught.value) for part in message), caught.value
    assert "\n" not in str(caught.value)


def test_a_study_has_no_variants(family):
    path = family().parent / "studies" / "base.yaml"
    with pytest.raises(SteerlibError, match=r"base\.yaml#b: base\.yaml is a study and has no variants; leave out #b"):
        Study.load(f"{path}#b")


def test_the_comparisons_that_come_with_the_project_are_valid():
    for name in ("smoke-seeds", "toy-seeds", "toy-finetuned"):
        path = PROJECT / "params" / f"{name}.yaml"
        studies = [Study.load(f"{path}#{name}") for name in Comparison.load(path).variants]
        assert len({study.name for study in studies}) == len(studies)
    without, with_it = (Study.load(PROJECT / "params" / f"toy-finetuned.yaml#{v}") for v in ("without", "with"))
    assert without.name == "toy" and without.finetuning is None and with_it.finetuning is not None
    assert with_it.checkpoints.folder.path == PROJECT / "outputs" / "toy" / "checkpoints"


def test_the_notebook_is_short_stripped_and_complete():
    cells = json.loads((PROJECT / "notebooks" / "5_comparison.ipynb").read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in code) == 1
    assert not any("def " in line for cell in code for line in cell["source"])
    assert any("$" in line for cell in cells if cell["cell_type"] == "markdown" for line in cell["source"])
