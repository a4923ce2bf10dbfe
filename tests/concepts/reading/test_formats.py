"""A concept from anybody's file: what is read is what was written, in whatever format."""

from __future__ import annotations

import itertools
import json
from typing import get_args

import pytest
import yaml

from helpers.concept_files import (
    FEELINGS,
    LABELLED,
    POLITE,
    READOUT,
    RUDE,
    as_csv,
    as_jsonl,
    concept,
    examined,
    loaded,
    refusal,
    scenarios,
)
from steerlib.concepts.reading.drafts import DESCRIBED, ConceptFile
from steerlib.concepts.reading.formats import FORMATS


def test_every_format_can_be_named():
    named, _ = get_args(ConceptFile.model_fields["format"].annotation)  # or none
    assert get_args(named) == tuple(FORMATS)


def test_a_concept_is_the_same_from_csv_json_lines_and_json(tmp_path):
    (tmp_path / "manners.json").write_text(json.dumps([{"text": t, "label": label} for t, label in LABELLED]))
    files = [as_csv(tmp_path / "manners.csv", LABELLED), as_jsonl(tmp_path / "manners.jsonl", LABELLED)]
    first, *others = [concept(path) for path in (*files, tmp_path / "manners.json")]
    assert all(other == first for other in others)
    assert first.name == "manners"
    assert (first.readout.prompts, first.readout.targets, first.readout.foils) == (DESCRIBED, [" polite"], [" rude"])
    assert {t for template in first.templates for t in template.positive} == set(POLITE)


def test_a_loaded_concept_written_as_yaml_with_templates_is_the_same_again(tmp_path):
    loaded = concept(as_csv(tmp_path / "manners.csv", LABELLED))
    written = tmp_path / "whole.yaml"
    written.write_text(yaml.safe_dump(loaded.model_dump(), sort_keys=False))
    assert concept(written) == loaded


def test_pairs_stay_pairs_and_are_the_same_from_csv_and_json_lines(tmp_path):
    pairs = list(zip(POLITE, RUDE, strict=True))
    path = as_csv(tmp_path / "manners.csv", pairs, ("positive", "negative"))
    lines = as_jsonl(tmp_path / "manners.jsonl", pairs, ("positive", "negative"))
    loaded = concept(path, **READOUT)
    assert loaded == concept(lines, **READOUT)
    found = [p for t in loaded.templates for p in zip(t.positive, t.negative, strict=True)]
    assert sorted(found) == sorted(pairs)


@pytest.mark.parametrize(
    "labels", [("1", "0"), (1, 0), (True, False), (1.0, 0.0), ("True", "false"), (" polite", "Rude ")]
)
def test_labels_of_any_spelling_tell_the_sides(tmp_path, labels):
    rows = [(text, labels[label == "rude"]) for text, label in LABELLED]
    for path in (as_csv(tmp_path / "a.csv", rows), as_jsonl(tmp_path / "a.jsonl", rows)):
        assert {t for template in concept(path, ["other"]).templates for t in template.positive} == set(POLITE)


def test_groups_become_templates(tmp_path):
    rows = [
        (text, label, next(thing for thing in ("salt", "pen", "door") if thing in text)) for text, label in LABELLED
    ]
    loaded = concept(as_csv(tmp_path / "a.csv", rows, ("text", "label", "topic")))
    assert {t.name for t in loaded.templates} == {"salt", "pen", "door"}
    assert all(t.name in text for t in loaded.templates for text in t.positive + t.negative)


def test_small_groups_are_pooled_and_told(tmp_path):
    rows = [(text, label, f"g{k % 9}") for k, (text, label) in enumerate(LABELLED) if k % 9 < 6]
    rows += [(f"{text} {k}", label, "large") for k, (text, label) in enumerate(LABELLED)]
    draft = loaded(as_csv(tmp_path / "a.csv", rows, ("text", "label", "group")))
    assert [len(t.positive) for t in draft.templates] == [9, 6]
    assert any("pooled: 6" in line for line in draft.defaults)


def test_more_than_two_labels_need_one_that_is_positive(tmp_path):
    path = as_csv(tmp_path / "a.csv", [*LABELLED, ("well", "neutral"), ("so", "neutral")])
    assert "positive: found 3 labels ('polite', 'rude', 'neutral')" in refusal(path)
    loaded = concept(path, positive="rude")
    assert (loaded.readout.targets, loaded.readout.foils) == ([" rude"], [" polite", " neutral"])
    assert concept(path, name="rude").readout == loaded.readout  # the concept's own name is a label


def test_without_words_there_are_no_foils_to_be_honest_about(tmp_path):
    path = as_csv(tmp_path / "a.csv", [(t, int(label == "polite")) for t, label in LABELLED])
    assert "foils: nothing here says what stands against the targets" in refusal(path)
    assert any(line.startswith("foils: none here") for line in examined(path).warnings)


@pytest.mark.parametrize("seed", range(5))
def test_negatives_are_drawn_evenly_from_all_other_labels(tmp_path, seed):
    path = scenarios(tmp_path / "emotions.csv", each=5)
    drawn = concept(path, positive="fear", seed=seed)
    assert drawn == concept(path, positive="fear", seed=seed) != concept(path, positive="fear", seed=seed + 1)
    of = [[text.split()[2] for text in template.negative] for template in drawn.templates]
    for labels in (*of, [*itertools.chain(*of)]):  # in every group, and over all
        counts = [labels.count(label) for label in FEELINGS if label != "fear"]
        assert sum(counts) == len(labels) and max(counts) - min(counts) <= 1
    partners = [concept(path, positive="fear", seed=s).templates[0].negative[0] for s in range(30)]
    assert len({text.split()[2] for text in partners}) == 3  # no label has a place of its own
    assert len(set(partners)) > 5


def test_words_of_the_labels_are_targets_and_foils(tmp_path):
    path = scenarios(tmp_path / "a.csv")
    words = {label: [f"very {label}", label] for label in FEELINGS}
    readout = concept(path, positive="anger", words=words).readout
    assert readout.targets == [" very anger", " anger"]
    assert readout.foils == [f" {word}" for label in FEELINGS if label != "anger" for word in words[label]]


def test_official_and_plain_choices_are_the_same(tmp_path):
    questions = [(f"What is {k} plus one?", [str(k + 1), str(k), "none"]) for k in range(20)]
    plain = [{"question": q, "choices": c, "answer": 0} for q, c in questions]
    named = [[{"text": t, "label": label} for t, label in zip(c, "ABC", strict=True)] for _, c in questions]
    stem = [
        {"question": {"stem": q, "choices": c}, "answerKey": "A"} for (q, _), c in zip(questions, named, strict=True)
    ]
    hub = [{"question_stem": q, "choices": {"text": c, "label": list("ABC")}, "answerKey": "A"} for q, c in questions]
    found = []
    for rows in (plain, stem, hub):
        path = tmp_path / "sums.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in rows))
        found.append(concept(path))
    assert found[0] == found[1] == found[2]
    assert len(found[0].readout.items) == 10
    assert "answer 'D' is not among the choices; there are 0, 1, 2" in refusal(
        as_jsonl(tmp_path / "wrong.jsonl", [("How?", ["a", "b", "c"], "D")] * 9, ("question", "choices", "answer"))
    )
