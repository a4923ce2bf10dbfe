"""No text is fitted on and tested on: within a file, and between one that is fitted and one that is tested on."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import yaml

from helpers.concept_files import (
    FEELINGS,
    FRAME,
    LABELLED,
    POLITE,
    READOUT,
    RUDE,
    as_csv,
    concept,
    loaded,
    questions,
    refusal,
    repe,
    respelled,
    scenarios,
    study,
    templates,
)
from steerlib.concepts.reading import ConceptFile
from steerlib.concepts.reading.pairing import Pair, deal
from steerlib.concepts.repeats import normalised
from steerlib.study import Study


def keys(stimuli):
    return {normalised(text) for text in stimuli.texts}


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("draw", range(15))
def test_no_text_is_in_both_splits_whatever_the_texts_and_groups(tmp_path, draw, grouped):
    """Files full of repetitions, in other spelling and spacing, with both labels, in groups of any size."""
    rng = np.random.default_rng(draw)
    words = rng.choice(["one", "two", "three", "four", "five", "six"], (120, 3))
    texts = [respelled(" ".join(line), rng) for line in words]
    rows = [(t, rng.choice(["yes", "no"])) for t in texts]
    header = ("text", "label")
    if grouped:  # by the text, as a text in two groups is refused
        rows, header = [(t, label, f"g{len(normalised(t)) % 7}") for t, label in rows], ("text", "label", "group")
    loaded = concept(as_csv(tmp_path / "a.csv", rows, header))
    for seed in range(5):
        assert not keys(loaded.stimuli("fit", seed)) & keys(loaded.stimuli("test", seed))


@pytest.mark.parametrize("draw", range(15))
def test_pairs_that_share_texts_are_never_parted(draw):
    rng = np.random.default_rng(draw)
    ends = rng.integers(0, 40, (60, 2))
    templates = deal([Pair(f"good {a}", f"bad {b}") for a, b in ends], rng)
    texts = [{*t.positive, *t.negative} for t in templates]
    assert all(len(t.positive) > 1 for t in templates)
    assert not any(a & b for a, b in itertools.combinations(texts, 2))


def test_one_text_against_all_others_cannot_be_parted_and_that_is_told(tmp_path):
    path = as_csv(tmp_path / "a.csv", [(text, "the same") for text in POLITE], ("positive", "negative"))
    assert "9 pairs in 0 templates" in refusal(path, **READOUT)


def test_a_text_in_two_groups_is_refused_with_both_lines(tmp_path):
    rows = [(text, label, "ab"[k % 2]) for k, (text, label) in enumerate(LABELLED)]
    path = as_csv(
        tmp_path / "a.csv", [*rows, (POLITE[0].replace(" ", "\u00a0 "), "polite", "b")], ("text", "label", "group")
    )
    message = refusal(path)
    assert f"{path}: line 20: the same text as line 2, but in group 'b', not 'a'" in message


def test_repeated_and_contradictory_texts_are_left_out_and_counted(tmp_path):
    rows = [*LABELLED, (POLITE[0], "polite"), (POLITE[0].replace("?", "\uff1f"), "polite"), (POLITE[1], "rude")]
    path = as_csv(tmp_path / "a.csv", rows)
    draft = loaded(path)
    assert "texts with both labels: 2 (first: line 22, the same text as line 3)" in draft.losses
    assert "repeated texts: 2 (first: line 20, the same text as line 2)" in draft.losses
    assert "texts without a partner of the other label: 1" in draft.losses
    assert POLITE[1] not in {text for t in draft.templates for text in t.positive + t.negative}


def test_dealing_is_deterministic_and_follows_the_seed(tmp_path):
    path = as_csv(tmp_path / "a.csv", LABELLED)
    assert concept(path) == concept(path) != concept(path, seed=1)


# --- a file to test on -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("frame", [None, FRAME])
def test_nothing_of_the_test_file_is_fitted_on_and_nothing_else_is_tested_on(tmp_path, seed, frame):
    ours, other = scenarios(tmp_path / "ours.csv"), scenarios(tmp_path / "other.csv", person="He", each=4)
    made = concept(ours, positive="fear", test=str(other), seed=seed, frame=frame)
    alone = concept(ours, positive="fear", seed=seed, frame=frame)
    for draw in range(4):  # the seed of the study deals no templates any more
        fit, test = made.stimuli("fit", draw), made.stimuli("test", draw)
        assert all(text.startswith("She saw") for text in fit.texts)
        assert all(text.startswith("He saw") for text in test.texts)
        assert len(fit.positive) == 18 and len(test.positive) == 12  # all fears of both
        assert len(np.unique(fit.fold)) == len(np.unique(test.fold)) == 3
    assert [t.positive for t in made.templates[:3]] == [t.positive for t in alone.templates]
    assert made.readout == alone.readout


def test_a_study_tests_on_scenarios_of_another_source(tmp_path):
    """Ours fitted on, RepE's tested on, and the other way round: the same sides, the same words around them."""
    (tmp_path / "concepts").mkdir()
    scenarios(tmp_path / "concepts" / "emotions.csv")
    repe(tmp_path / "concepts" / "repe")
    ours, theirs = "concepts/emotions.csv", "concepts/repe/fear.json"
    entries = [{"file": ours, "positive": "fear", "test": theirs, "frame": FRAME}, {"file": theirs, "test": ours}]
    entries += [{"file": ours, "positive": "fear", "test": theirs, "name": "dread", "frame": "{concept}: {}"}]
    entries.append({"file": theirs, "test": ours, "name": "alarm"})
    [alarm] = Study.load(study(tmp_path, entries[3])).load_concepts()
    assert all("fear" in text for split in ("fit", "test") for text in alarm.stimuli(split, 0).positive)
    there, dread = Study.load(study(tmp_path, entries[0], entries[2])).load_concepts()
    [back] = Study.load(study(tmp_path, entries[1])).load_concepts()
    fit, test = there.stimuli("fit", 0), there.stimuli("test", 0)
    assert all("fear" in text and text.endswith(". She felt") for text in fit.positive)
    assert all("fear" in text and text.endswith(". You felt") for text in test.positive)
    assert len(test.positive) == 12 and not any("fear" in text for text in fit.negative + test.negative)
    assert all("Scenario: She saw fear" in text for text in back.stimuli("test", 0).positive)
    assert all("Scenario: You meet fear" in text for text in back.stimuli("fit", 0).positive)
    assert all(text.startswith("dread: ") for split in ("fit", "test") for text in dread.stimuli(split, 0).texts)


def test_any_format_is_tested_on(tmp_path):
    claims = [(t, int(label == "polite")) for t, label in LABELLED]
    fitted = as_csv(tmp_path / "fitted.csv", [("Oh, " + t, label) for t, label in LABELLED])
    others = [
        (as_csv(tmp_path / "c.csv", claims, ("statement", "label")), POLITE),
        (as_csv(tmp_path / "p.csv", zip(POLITE, RUDE, strict=True), ("positive", "negative")), POLITE),
        (templates(tmp_path / "own.yaml"), POLITE),
    ]
    readout = {"words": {"polite": ["kind"]}, "prompts": READOUT["prompts"]}
    for path, positive in others:
        made = concept(fitted, test=str(path), format="texts", **readout)
        assert sorted(made.stimuli("test", 0).positive) == sorted(positive)
        assert made.readout == concept(fitted, **readout).readout
    asked = concept(questions(tmp_path / "q.jsonl"), test=str(questions(tmp_path / "r.jsonl", "two")))
    assert len(asked.stimuli("test", 0).positive) == 20 and len(asked.readout.items) == 10
    assert not any("plus two" in item.prompt for item in asked.readout.items)


@pytest.mark.parametrize("case", ["texts", "pairs", "templates", "questions", "repe"])
def test_a_text_in_both_files_is_refused_with_both_places(tmp_path, case):
    first, second, options = tmp_path / "first.csv", tmp_path / "second.csv", {}
    new = [("Oh, " + text, label) for text, label in LABELLED]
    again = (POLITE[3].replace(" ", "\u00a0 ").replace("?", "\uff1f"), "polite")
    as_csv(first, LABELLED)
    places = ("line 20", "line 5")
    if case == "texts":
        as_csv(second, [*new, again])
    elif case == "pairs":
        rows = [(f"a {k}", f"b {k}") for k in range(18)]
        as_csv(second, [*rows, (again[0], "c")], ("positive", "negative"))
    elif case == "templates":
        second, places = templates(tmp_path / "own.yaml", "Oh, "), ("template 'part 1'", "line 20")
        as_csv(first, [*LABELLED, (loaded(second).templates[0].negative[0], "rude")])
    elif case == "questions":
        first, second, places = questions(tmp_path / "q.jsonl"), questions(tmp_path / "r.jsonl"), ("line 1", "line 1")
    else:
        first, second = scenarios(tmp_path / "emotions.csv"), repe(tmp_path / "repe") / "fear.json"
        again = json.loads((tmp_path / "repe" / "anger.json").read_text())[2]
        with first.open("a") as handle:
            handle.write(f'"{again}",happiness,home\n')
        places, options = ("anger entry 3", f"line {len(FEELINGS) * 18 + 2}"), {"positive": "fear", "frame": FRAME}
    message = refusal(first, test=str(second), **options)
    assert f"{second}: {places[0]}: the same text as {first}: {places[1]}: it would be tested on" in message


def test_the_limit_is_that_of_each_file(tmp_path):
    ours, other = scenarios(tmp_path / "ours.csv"), scenarios(tmp_path / "other.csv", person="He")
    made = concept(ours, positive="fear", test=str(other), limit=8)
    counts = [len(made.stimuli(split, 0).positive) for split in ("fit", "test")]
    assert all(5 < count <= 8 for count in counts)  # one that is left alone in its group goes, too


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("none.csv", {}, "no such file"),
        ("manners.csv", {}, "positive: no text has the label 'fear'; found 'polite', 'rude'"),
        ("repe/anger.json", {}, "these are scenarios of anger, but what is fitted is fear"),
        ("own.yaml", {"limit": 8}, "limit: this file has templates"),
        ("few.csv", {}, "1 pairs in 0 templates"),
    ],
)
def test_what_is_wrong_with_the_test_file_is_told_by_its_name(tmp_path, name, options, said):
    ours = scenarios(tmp_path / "ours.csv")
    repe(tmp_path / "repe")
    as_csv(tmp_path / "manners.csv", LABELLED)
    as_csv(tmp_path / "few.csv", [("a", "fear"), ("b", "anger")])
    templates(tmp_path / "own.yaml")
    assert f"{tmp_path / name}: {said}" in refusal(ours, positive="fear", test=str(tmp_path / name), **options)


def test_templates_may_name_their_split_all_or_none(tmp_path):
    path = templates(tmp_path / "own.yaml")
    data = yaml.safe_load(path.read_text())
    splits = ["test", *["fit"] * (len(data["templates"]) - 1)]
    for template, split in zip(data["templates"], splits, strict=True):
        template["split"] = split
    path.write_text(yaml.safe_dump(data))
    assert all(concept(path).halves(seed).tolist() == splits for seed in range(5))
    assert "test: this file says itself" in refusal(path, test=str(templates(tmp_path / "new.yaml", "Oh, ")))
    for wrong in ("fit", None):
        data["templates"][0]["split"] = wrong
        path.write_text(yaml.safe_dump(data))
        assert "some fit and some test, or none" in refusal(path)
    with pytest.raises(ValueError, match=r"'a.txt' is no concept file"):
        ConceptFile(file="a.csv", test="a.txt")
