"""A preset gives defaults, and no more than that; and where checkpoints come from is told."""

import pytest
import yaml

from helpers.studies import PROJECT
from steerlib import SteerlibError
from steerlib.checkpoints.history import history
from steerlib.concepts.planted import stories
from steerlib.study import Study
from steerlib.study.study import PRESETS

BASE = {"name": "one", "checkpoints": {"folder": "history"}, "concepts": ["happiness"]}


def load(tmp_path, **given) -> Study:
    path = tmp_path / "one.yaml"
    path.write_text(yaml.safe_dump(BASE | given))
    return Study.load(path)


def test_the_preset_id_is_the_papers_protocol(tmp_path):
    study = load(tmp_path, preset="id")
    assert study.probes.methods == ["pca"] and study.probes.pairs == 256 and study.emergence.method == "pca"
    assert (study.sweep.operator, study.sweep.scale, study.sweep.positions) == ("add", "raw", "last")
    assert study.finetuning is None, "with or without is for the study to say"


def test_what_the_yaml_says_wins_and_the_rest_of_its_section_stays(tmp_path):
    study = load(tmp_path, preset="id", probes={"pairs": 12}, sweep={"scale": "residual_norm", "prompts": 9})
    assert study.probes.pairs == 12 and study.probes.methods == ["pca"]
    assert study.sweep.scale == "residual_norm" and study.sweep.prompts == 9 and study.sweep.positions == "last"


def test_without_a_preset_nothing_changes_and_none_is_changed(tmp_path):
    before = repr(PRESETS)
    plain = load(tmp_path)
    load(tmp_path, preset="id", probes={"pairs": 12})
    assert repr(PRESETS) == before
    assert plain.model_dump() == load(tmp_path).model_dump() and plain.probes.pairs != 256


@pytest.mark.parametrize("name", ["di", 3, ["id"]])
def test_an_unknown_preset_is_refused_by_name(tmp_path, name):
    with pytest.raises(SteerlibError, match=r"one\.yaml: preset: .*should be 'id'"):
        load(tmp_path, preset=name)


def test_a_preset_s_own_values_are_valid_params(tmp_path):
    for name in PRESETS:
        assert load(tmp_path, preset=name).preset == name


@pytest.mark.parametrize("name", [path.stem for path in sorted((PROJECT / "params").glob("toy*.yaml"))])
def test_side_effects_are_measured_on_stories_where_the_model_has_read_them(name):
    path = PROJECT / "params" / f"{name}.yaml"
    variants = [f"{path}#{variant}" for variant in yaml.safe_load(path.read_text()).get("variants", ())]
    for study in map(Study.load, variants or [path]):
        assert study.load_neutral() == stories.neutral(study.world, study.seed, study.sweep.neutral_texts)


def test_side_effects_are_measured_on_english_where_nobody_says_that_the_model_has_read_stories(tmp_path):
    of_stories, of_others = (load(tmp_path, checkpoints={"folder": "history"} | more) for more in ({"world": {}}, {}))
    assert not {*of_stories.load_neutral()} & {*of_others.load_neutral()}


def test_missing_checkpoints_of_another_study_name_the_study_that_makes_them(tmp_path):
    folder = tmp_path / "params"
    folder.mkdir()
    study = load(folder, checkpoints={"folder": "../outputs/toy/checkpoints", "steps": [5]})
    with pytest.raises(SteerlibError) as told:
        history(study, tmp_path)
    assert "run" not in str(told.value), "there is no such study to be run"
    (folder / "toy.yaml").touch()
    for made in (None, "outputs/toy/checkpoints", "outputs/toy/checkpoints/step=00000001"):
        if made:
            (tmp_path / made).mkdir(parents=True)
        with pytest.raises(SteerlibError, match=r"; run .*/params/toy\.yaml first, which makes it"):
            history(study, tmp_path)
