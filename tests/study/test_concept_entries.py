"""Concepts as a study names them: by path, or with what is to be told of their file."""

from __future__ import annotations

import pytest

from helpers.concept_files import (
    FEELINGS,
    LABELLED,
    READOUT,
    RUDE,
    as_csv,
    as_jsonl,
    concept,
    refusal,
    scenarios,
    study,
    templates,
)
from steerlib import SteerlibError
from steerlib.study import Study


def test_a_study_names_files_by_path_or_with_what_is_to_be_told(tmp_path):
    (tmp_path / "mine").mkdir()
    as_csv(tmp_path / "mine" / "manners.csv", LABELLED)
    as_jsonl(tmp_path / "tone.jsonl", [(t, int(label == "polite")) for t, label in LABELLED])
    entries = ["happiness", "placebo", "mine/manners.csv", {"file": "tone.jsonl"}]
    entries.append({"file": "mine/manners.csv", "name": "rudeness", "positive": "rude", "limit": 4, **READOUT})
    happiness, _, manners, tone, rudeness = Study.load(study(tmp_path, *entries)).load_concepts()
    assert (happiness.role, manners.name) == ("emotion", "manners")
    # Labels 0 and 1 have no words: the other concepts' names stand against this one's, but not that of a null concept.
    assert (tone.readout.targets, tone.readout.foils) == ([" tone"], [" happiness", " manners", " rudeness"])
    assert {t for template in rudeness.templates for t in template.positive} < set(RUDE)
    assert sum(len(template.positive) for template in rudeness.templates) == 4
    assert rudeness.readout.model_dump(exclude={"items", "texts", "judged"}) == READOUT


def test_the_seed_of_the_study_deals_its_stimuli(tmp_path):
    path = as_csv(tmp_path / "a.csv", LABELLED)
    [dealt] = Study.load(study(tmp_path, "a.csv")).model_copy(update={"seed": 3}).load_concepts()
    assert dealt == concept(path, seed=3)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"name": "x"}, ["concepts.0.file: required"]),
        (
            {"file": "a.csv", "lable": 1},
            ["concepts.0.lable: unknown key", "positive, frame, pairs, length, words, prompts"],
        ),
        ({"file": "a.txt"}, ["concepts.0.file", "a.txt", ".csv, .jsonl, .json"]),
        ({"file": "a.csv", "format": "xml"}, ["concepts.0.format", "'xml'", "'pairs', 'truthfulqa', 'choices'"]),
        ({"file": "a.csv", "limit": 1}, ["concepts.0.limit", "greater than or equal to 4"]),
        (3, ["concepts.0: 3", "valid string"]),
    ],
)
def test_a_wrong_entry_is_named(tmp_path, entry, said):
    with pytest.raises(SteerlibError) as caught:
        Study.load(study(tmp_path, entry))
    assert all(part in str(caught.value) for part in (str(tmp_path / "study.yaml"), *said))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"positive": "kind"}, "positive: no text has the label 'kind'; found 'polite', 'rude'"),
        ({"format": "choices"}, "found the columns 'label', 'text'; needed are question, choices and answer"),
        ({"name": "Big Name"}, "name: 'Big Name' is not allowed: string should match pattern"),
        ({"targets": [" rude"]}, "' rude' is both a target and a foil"),
        ({"prompts": ["It was"]}, "has 1 prompts; an interval needs at least 3"),
    ],
)
def test_what_is_told_must_fit_the_file(tmp_path, options, said):
    path = as_csv(tmp_path / "a.csv", LABELLED)
    assert f"{path}: " in refusal(path, **options) and said in refusal(path, **options)


def test_a_concept_is_named_by_its_label_when_the_file_has_several(tmp_path):
    scenarios(tmp_path / "emotions.csv")
    entries = [{"file": "emotions.csv", "positive": emotion} for emotion in FEELINGS]
    found = Study.load(study(tmp_path, *entries, {**entries[0], "name": "joy"})).load_concepts()
    assert [one.name for one in found] == [*FEELINGS, "joy"]
    assert found[0].readout == found[4].readout
    assert found[0].readout.targets == [" happy", " glad", " joyful"]
    assert found[0].readout.foils[:3] == [" sad", " gloomy", " lonely"] and len(found[0].readout.foils) == 9
    assert concept(as_csv(tmp_path / "manners.csv", LABELLED), positive="rude").name == "manners"


def test_prompts_may_stand_in_a_text_file_a_line_each(tmp_path):
    as_csv(tmp_path / "manners.csv", LABELLED)
    (tmp_path / "prompts.txt").write_text("It was\n\n  They were \nHe is\n")
    templates(tmp_path / "own.yaml", name="whole")
    entries = [{"file": "manners.csv", "prompts": given} for given in ("prompts.txt", READOUT["prompts"])]
    entries[0]["name"] = "tact"
    entries.append({"file": "own.yaml", "prompts": "prompts.txt"})
    found = Study.load(study(tmp_path, *entries)).load_concepts()
    assert [one.readout.prompts for one in found] == [READOUT["prompts"]] * 3
    (tmp_path / "empty.txt").write_text("\n")
    for name, said in (("none.txt", "no such file"), ("empty.txt", "holds no prompts")):
        with pytest.raises(SteerlibError, match=said) as caught:
            Study.load(study(tmp_path, {"file": "manners.csv", "prompts": name})).load_concepts()
        assert str(tmp_path / name) in str(caught.value)
    for wrong, said in (("It was", "neither a list of prompts nor the path"), (3, "valid list")):
        with pytest.raises(SteerlibError, match=said) as caught:
            Study.load(study(tmp_path, {"file": "manners.csv", "prompts": wrong}))
        assert "concepts.0.prompts: " in str(caught.value) and len(str(caught.value).splitlines()) == 1
