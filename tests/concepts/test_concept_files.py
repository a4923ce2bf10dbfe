"""A concept from anybody's file: what is read is what was written, and no text is fitted on and tested on."""

from __future__ import annotations

import csv
import io
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console

from steerlib import SteerlibError
from steerlib.concepts import check as concept_check
from steerlib.concepts.reading.drafts import DESCRIBED, JUDGED
from steerlib.concepts.reading.frames import put
from steerlib.concepts.reading.load import ConceptFile, load
from steerlib.concepts.reading.pairing import Pair, deal, key
from steerlib.concepts.reading.records import LONGEST
from steerlib.study import Study

PUBLIC = Path(__file__).parents[3] / "shared" / "data"
public = pytest.mark.skipif(not PUBLIC.is_dir(), reason=f"the public data sets are not at {PUBLIC}")
EMOTIONS = ("happiness", "sadness", "anger", "fear", "surprise", "disgust")

POLITE = [
    f"Would you {verb} the {thing}, please?" for verb in ("pass", "hold", "bring") for thing in "salt pen door".split()
]
RUDE = [f"{verb} me that {thing}!" for verb in ("Give", "Throw", "Hand") for thing in "salt pen door".split()]
LABELLED = [(text, "polite") for text in POLITE] + [(text, "rude") for text in RUDE]
READOUT = {"prompts": ["It was", "They were", "He is"], "targets": [" kind"], "foils": [" blunt", " harsh"]}


def as_csv(path, rows, header=("text", "label")):
    with path.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([header, *rows])
    return path


def as_jsonl(path, rows, header=("text", "label")):
    path.write_text("".join(json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in rows))
    return path


def loaded(path, seed=0, **told):
    return load(ConceptFile(file=str(path), **told), Path, seed)


def concept(path, others=(), seed=0, **told):
    return loaded(path, seed, **told).concept(others)


def refusal(path, **told):
    with pytest.raises(SteerlibError) as caught:
        concept(path, **told)
    return str(caught.value)


def keys(stimuli):
    return {key(text) for text in stimuli.texts}


STATED = {"near-duplicates between fit and test", "imbalance", "length"}  # what public data may be warned of


def examined(path, **told):
    return concept_check.examine(loaded(path, **told))


# --- the same concept, however it is written --------------------------------------------------------------------------


def test_a_concept_is_the_same_from_csv_json_lines_json_and_yaml(tmp_path):
    texts = {"polite": POLITE, "rude": RUDE}
    (tmp_path / "manners.json").write_text(json.dumps([{"text": t, "label": label} for t, label in LABELLED]))
    (tmp_path / "manners.yaml").write_text(yaml.safe_dump({"texts": texts}, sort_keys=False))
    files = [as_csv(tmp_path / "manners.csv", LABELLED), as_jsonl(tmp_path / "manners.jsonl", LABELLED)]
    first, *others = [concept(path) for path in (*files, tmp_path / "manners.json", tmp_path / "manners.yaml")]
    assert all(other == first for other in others)
    assert first.name == "manners"
    assert (first.readout.prompts, first.readout.targets, first.readout.foils) == (DESCRIBED, [" polite"], [" rude"])
    assert {t for template in first.templates for t in template.positive} == set(POLITE)


def test_a_loaded_concept_written_as_yaml_with_templates_is_the_same_again(tmp_path):
    loaded = concept(as_csv(tmp_path / "manners.csv", LABELLED))
    written = tmp_path / "whole.yaml"
    written.write_text(yaml.safe_dump(loaded.model_dump(), sort_keys=False))
    assert concept(written) == loaded


def test_pairs_stay_pairs_and_are_the_same_from_csv_and_yaml(tmp_path):
    pairs = list(zip(POLITE, RUDE, strict=True))
    path = as_csv(tmp_path / "manners.csv", pairs, ("positive", "negative"))
    short = tmp_path / "manners.yaml"
    short.write_text(yaml.safe_dump({"pairs": [list(pair) for pair in pairs], **READOUT}))
    loaded = concept(path, **READOUT)
    assert loaded == concept(short)
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


# --- no leaks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("draw", range(15))
def test_no_text_is_in_both_splits_whatever_the_texts_and_groups(tmp_path, draw, grouped):
    """Files full of repetitions, in other case and spacing, with both labels, in groups of any size."""
    rng = np.random.default_rng(draw)
    words = rng.choice(["one", "two", "three", "four", "five", "six"], (120, 3))
    texts = [" ".join(line) if rng.random() < 0.5 else "  ".join(line).upper() for line in words]
    rows = [(t, rng.choice(["yes", "no"])) for t in texts]
    header = ("text", "label")
    if grouped:  # by the text, as a text in two groups is refused
        rows, header = [(t, label, f"g{len(key(t)) % 7}") for t, label in rows], ("text", "label", "group")
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
    path = as_csv(tmp_path / "a.csv", [*rows, (POLITE[0].upper() + " ", "polite", "b")], ("text", "label", "group"))
    message = refusal(path)
    assert f"{path}: line 20: the same text as line 2, but in group 'b', not 'a'" in message


def test_repeated_and_contradictory_texts_are_left_out_and_counted(tmp_path):
    rows = [*LABELLED, (POLITE[0], "polite"), (POLITE[0].upper(), "polite"), (POLITE[1], "rude")]
    path = as_csv(tmp_path / "a.csv", rows)
    draft = loaded(path)
    assert "texts with both labels: 2 (first: line 22, the same text as line 3)" in draft.losses
    assert "repeated texts: 2 (first: line 20, the same text as line 2)" in draft.losses
    assert "texts without a partner of the other label: 1" in draft.losses
    assert POLITE[1] not in {text for t in draft.templates for text in t.positive + t.negative}


def test_dealing_is_deterministic_and_follows_the_seed(tmp_path):
    path = as_csv(tmp_path / "a.csv", LABELLED)
    assert concept(path) == concept(path) != concept(path, seed=1)


# --- a study's entries -----------------------------------------------------------------------------------------------


def study(tmp_path, *concepts):
    path = tmp_path / "study.yaml"
    data = {"name": "small", "checkpoints": {"folder": "history"}, "concepts": list(concepts)}
    path.write_text(yaml.safe_dump(data))
    return path


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
    assert rudeness.readout.model_dump(exclude={"items"}) == READOUT


def test_the_seed_of_the_study_deals_its_stimuli(tmp_path):
    path = as_csv(tmp_path / "a.csv", LABELLED)
    [dealt] = Study.load(study(tmp_path, "a.csv")).model_copy(update={"seed": 3}).load_concepts()
    assert dealt == concept(path, seed=3)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"name": "x"}, ["concepts.0.file: required"]),
        ({"file": "a.csv", "lable": 1}, ["concepts.0.lable: unknown key", "positive, frame, words, prompts, targets"]),
        ({"file": "a.txt"}, ["concepts.0.file", "a.txt", ".csv, .jsonl, .json"]),
        ({"file": "a.csv", "format": "xml"}, ["concepts.0.format", "'xml'", "pairs, truthfulqa, choices"]),
        ({"file": "a.csv", "limit": 1}, ["concepts.0.limit", "greater than or equal to 4"]),
        (3, ["concepts.0: 3", "valid string"]),
    ],
)
def test_a_wrong_entry_is_named(tmp_path, entry, said):
    with pytest.raises(SteerlibError) as caught:
        Study.load(study(tmp_path, entry))
    assert all(part in str(caught.value) for part in (str(tmp_path / "study.yaml"), *said))


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"positive": "kind"}, "positive: no text has the label 'kind'; found 'polite', 'rude'"),
        ({"format": "choices"}, "found the columns 'label', 'text'; needed are question, choices and answer"),
        ({"name": "Big Name"}, "name: String should match pattern"),
        ({"targets": [" rude"]}, "' rude' is both a target and a foil"),
        ({"prompts": ["It was"]}, "has 1 prompts; an interval needs at least 3"),
    ],
)
def test_what_is_told_must_fit_the_file(tmp_path, told, said):
    path = as_csv(tmp_path / "a.csv", LABELLED)
    assert f"{path}: " in refusal(path, **told) and said in refusal(path, **told)


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


# --- several labels in one file --------------------------------------------------------------------------------------

FEELINGS = EMOTIONS[:4]
PLACES = ("home", "work", "school")


def scenarios(path, each=6, person="She", labels=FEELINGS):
    """``each`` texts of every emotion in every group."""
    rows = [(f"{person} saw {e} thing {k} at {g}.", e, g) for e in labels for g in PLACES for k in range(each)]
    return as_csv(path, rows, ("text", "label", "group"))


def repe(folder, each=12, labels=FEELINGS):
    """Files of emotions as RepE has them."""
    folder.mkdir(exist_ok=True)
    for emotion in labels:
        texts = [f"You meet {emotion} number {k} while {POLITE[k % 9]} crosses the garden." for k in range(each)]
        (folder / f"{emotion}.json").write_text(json.dumps(texts))
    return folder


def test_a_concept_is_named_by_its_label_when_the_file_has_several(tmp_path):
    scenarios(tmp_path / "emotions.csv")
    entries = [{"file": "emotions.csv", "positive": emotion} for emotion in FEELINGS]
    found = Study.load(study(tmp_path, *entries, {**entries[0], "name": "joy"})).load_concepts()
    assert [one.name for one in found] == [*FEELINGS, "joy"]
    assert found[0].readout == found[4].readout
    assert found[0].readout.targets == [" happy", " glad", " joyful"]
    assert found[0].readout.foils[:3] == [" sad", " gloomy", " lonely"] and len(found[0].readout.foils) == 9
    assert concept(as_csv(tmp_path / "manners.csv", LABELLED), positive="rude").name == "manners"


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


# --- frames ----------------------------------------------------------------------------------------------------------

FRAME = "{} {they} felt"


def shapes(folder):
    """Files of every format that takes a frame, with what must be told of them."""
    scenarios(folder / "emotions.csv")
    as_csv(folder / "pairs.csv", zip(POLITE, RUDE, strict=True), ("positive", "negative"))
    as_csv(folder / "claims.csv", [(t, int(label == "polite")) for t, label in LABELLED], ("statement", "label"))
    (folder / "short.yaml").write_text(yaml.safe_dump({"texts": {"polite": POLITE, "rude": RUDE}}))
    repe(folder / "repe")
    told = {"emotions.csv": {"positive": "anger"}, "pairs.csv": {"foils": [" x"]}}
    files = ("emotions.csv", "pairs.csv", "claims.csv", "short.yaml", "repe/anger.json")
    return [(folder / file, told.get(file, {})) for file in files]


@pytest.mark.parametrize("seed", range(3))
def test_a_frame_changes_nothing_but_the_words_around_each_text(tmp_path, seed):
    """Splits, templates and pairs are the same; so one frame is compared with another on the same stimuli."""
    for path, told in shapes(tmp_path):
        bare = loaded(path, seed, frame="{}", **told).concept()
        framed = loaded(path, seed, frame="Of {concept}: {} {they} felt", **told).concept()
        about = framed.name.replace("_", " ")
        for split in ("fit", "test"):
            one, other = bare.stimuli(split, seed), framed.stimuli(split, seed)
            assert other.texts == [f"Of {about}: {text} {who(text)} felt" for text in one.texts]
            assert (one.fold == other.fold).all()
        assert bare.readout == framed.readout


def test_words_of_the_labels_are_targets_and_foils(tmp_path):
    path = scenarios(tmp_path / "a.csv")
    words = {label: [f"very {label}", label] for label in FEELINGS}
    readout = concept(path, positive="anger", words=words).readout
    assert readout.targets == [" very anger", " anger"]
    assert readout.foils == [f" {word}" for label in FEELINGS if label != "anger" for word in words[label]]


def who(text):
    return "She" if {"she", "her"} & set(text.lower().split()) else "You"


def test_the_wording_of_repe_is_what_a_frame_replaces(tmp_path):
    path = repe(tmp_path / "repe") / "anger.json"
    told = "Consider the anger of the following scenario:\nScenario: {}\nAnswer:"
    assert concept(path) == concept(path, frame=told) == concept(path, frame=told.replace("anger", "{concept}"))
    assert concept(path, frame="{}").templates[0].positive[0].startswith("You meet anger")
    mixed = tmp_path / "repe" / "fear_anger.json"
    mixed.write_text((tmp_path / "repe" / "fear.json").read_text().replace("fear", "both"))
    assert concept(mixed).templates[0].positive[0].startswith("Consider the fear and anger of")
    assert concept(mixed) == concept(mixed, frame=told.replace("anger", "{concept}"))


@pytest.mark.parametrize(
    ("text", "pronoun"),
    [
        ("She left her keys.", "She"),
        ("The bus took HER away.", "She"),
        ("His aunt met her there.", "He"),
        ("There he was.", "He"),
        ("It was given to him.", "He"),
        ("You're cut off in traffic.", "You"),
        ("Someone takes credit for your work, and she smiles.", "You"),
        ("A shell lay there, heavy and hissing.", "You"),
        ("The theatre burned.", "You"),
        ("", "You"),
    ],
)
def test_the_pronoun_is_that_of_the_first_person_in_the_text(text, pronoun):
    assert put(FRAME, text, "x") == f"{text} {pronoun} felt"


def test_braces_in_a_text_are_only_text(tmp_path):
    rows = [(f"{text} {{}} {{they}} {{", label) for text, label in LABELLED]
    framed = concept(as_csv(tmp_path / "a.csv", rows), frame="<{{{}}}>")
    assert sorted(framed.templates[0].positive)[0].endswith("please? {} {they} {}>")


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        ("She felt", "'She felt' holds {} 0 times"),
        ("{} and {} again", "holds {} 2 times"),
        ("{text} She felt", "unknown field {text}; known are {}, {they} and {concept}"),
        ("{} {they!r}", "unknown field {they}"),
        ("{:>9} felt", "unknown field {}"),
        ("{0} felt", "unknown field {0}"),
        ("{} {", "is no frame"),
        (" ", "is empty"),
        (["{}"], "valid string"),
    ],
)
def test_a_wrong_frame_is_told_with_its_place(tmp_path, frame, said):
    with pytest.raises(SteerlibError) as caught:
        Study.load(study(tmp_path, {"file": "a.csv", "frame": frame}))
    assert "concepts.0.frame: " in str(caught.value) and said in str(caught.value)


def questions(path, word="one"):
    rows = [(f"What is {k} plus {word}?", [str(k + 1), str(k), "none"], 0) for k in range(20)]
    return as_jsonl(path, rows, ("question", "choices", "answer"))


def templates(path, word="", **more):
    """Our own YAML, with all its templates."""
    data = concept(as_csv(path.with_suffix(".csv"), [(word + text, label) for text, label in LABELLED])).model_dump()
    path.write_text(yaml.safe_dump(data | more))
    return path


def test_what_has_its_own_words_takes_no_frame(tmp_path):
    truthful = [(f"Is it {k}?", "Yes, always", "No") for k in range(12)]
    header = ("Question", "Best Answer", "Best Incorrect Answer")
    own = [questions(tmp_path / "q.jsonl"), as_csv(tmp_path / "t.csv", truthful, header)]
    own.append(templates(tmp_path / "own.yaml"))
    text = scenarios(tmp_path / "emotions.csv")
    for path in own:
        concept(path)
        assert f"{path}: frame: " in refusal(path, frame=FRAME)
        told = {"positive": "fear", "test": str(path)}
        concept(text, **told)
        assert f"{path}: frame: " in refusal(text, frame=FRAME, **told)


def test_texts_are_compared_without_their_frame(tmp_path):
    """Else all would be alike in the words of the frame, or equal ones differ by it."""
    rows = [(text, label, "ab"[k % 2]) for k, (text, label) in enumerate(LABELLED)]
    path = as_csv(tmp_path / "a.csv", [*rows, (POLITE[0].upper() + " ", "polite", "b")], ("text", "label", "group"))
    assert "line 20: the same text as line 2, but in group" in refusal(path, frame=FRAME)
    near = [(f"{t} It was a quiet day and nothing moved in the house {k}", c) for k, (t, c) in enumerate(LABELLED)]
    path = as_csv(tmp_path / "b.csv", near)
    plain, framed = examined(path), examined(path, frame="A long frame, the words of which no text has, around {} she")
    assert plain.warnings == framed.warnings and plain.problems == framed.problems
    assert any(line.startswith("near-duplicates between fit and test") for line in framed.warnings)
    ends = ("crossed the wide grey old square", "climbed that steep green round hill")
    rows = [(f"{('She', 'He')[k % 2]}-{k} {ends[k // 2 % 2]}", k // 4 % 2) for k in range(24)]
    short = as_csv(tmp_path / "c.csv", rows)  # one word more that two of them share, and they would be alike
    assert not [line for line in examined(short, frame=FRAME).warnings if line.startswith("near")]


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
        (
            written(
                tmp_path / "short.yaml", yaml.safe_dump({"texts": {"rude": RUDE, "polite": POLITE}}, sort_keys=False)
            ),
            POLITE,
        ),
    ]
    for path, positive in others:
        made = concept(fitted, test=str(path), format="texts")
        assert sorted(made.stimuli("test", 0).positive) == sorted(positive)
        assert made.readout == concept(fitted).readout
    asked = concept(questions(tmp_path / "q.jsonl"), test=str(questions(tmp_path / "r.jsonl", "two")))
    assert len(asked.stimuli("test", 0).positive) == 20 and len(asked.readout.items) == 10
    assert not any("plus two" in item.prompt for item in asked.readout.items)


@pytest.mark.parametrize("case", ["texts", "pairs", "templates", "questions", "repe"])
def test_a_text_in_both_files_is_refused_with_both_places(tmp_path, case):
    first, second, told = tmp_path / "first.csv", tmp_path / "second.csv", {}
    new = [("Oh, " + text, label) for text, label in LABELLED]
    again = (POLITE[3].upper().replace(" ", "  "), "polite")
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
        places, told = ("anger entry 3", f"line {len(FEELINGS) * 18 + 2}"), {"positive": "fear", "frame": FRAME}
    message = refusal(first, test=str(second), **told)
    assert f"{second}: {places[0]}: the same text as {first}: {places[1]}: it would be tested on" in message


def test_the_limit_is_that_of_each_file(tmp_path):
    ours, other = scenarios(tmp_path / "ours.csv"), scenarios(tmp_path / "other.csv", person="He")
    made = concept(ours, positive="fear", test=str(other), limit=8)
    counts = [len(made.stimuli(split, 0).positive) for split in ("fit", "test")]
    assert all(5 < count <= 8 for count in counts)  # one that is left alone in its group goes, too


@pytest.mark.parametrize(
    ("name", "told", "said"),
    [
        ("none.csv", {}, "no such file"),
        ("manners.csv", {}, "positive: no text has the label 'fear'; found 'polite', 'rude'"),
        ("repe/anger.json", {}, "these are scenarios of anger, but what is fitted is fear"),
        ("framed.yaml", {"frame": FRAME}, "frame: '{} He felt', but what is fitted stands in '{} {they} felt'"),
        ("own.yaml", {"limit": 8}, "limit: this file has templates"),
        ("few.csv", {}, "1 pairs in 0 templates"),
    ],
)
def test_what_is_wrong_with_the_test_file_is_told_by_its_name(tmp_path, name, told, said):
    ours = scenarios(tmp_path / "ours.csv")
    repe(tmp_path / "repe")
    as_csv(tmp_path / "manners.csv", LABELLED)
    as_csv(tmp_path / "few.csv", [("a", "fear"), ("b", "anger")])
    templates(tmp_path / "own.yaml")
    written(tmp_path / "framed.yaml", yaml.safe_dump({"texts": {"fear": POLITE, "not": RUDE}, "frame": "{} He felt"}))
    assert f"{tmp_path / name}: {said}" in refusal(ours, positive="fear", test=str(tmp_path / name), **told)


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


# --- prompts of a text file ------------------------------------------------------------------------------------------


def test_prompts_may_stand_in_a_text_file_a_line_each(tmp_path):
    as_csv(tmp_path / "manners.csv", LABELLED)
    (tmp_path / "prompts.txt").write_text("It was\n\n  They were \nHe is\n")
    (tmp_path / "short.yaml").write_text(
        yaml.safe_dump({"texts": {"polite": POLITE, "rude": RUDE}, "prompts": "prompts.txt"})
    )
    entries = [{"file": "manners.csv", "prompts": given} for given in ("prompts.txt", READOUT["prompts"])]
    entries[0]["name"] = "tact"
    found = Study.load(study(tmp_path, *entries, "short.yaml")).load_concepts()
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


# --- public data -----------------------------------------------------------------------------------------------------


@public
@pytest.mark.parametrize("name", [*EMOTIONS, "happiness_sadness", "happiness_fear"])
def test_repe_emotions_load_and_only_their_length_is_to_look_at(name):
    path = PUBLIC / "repe_emotions" / f"{name}.json"
    report = examined(path)
    assert not report.problems
    assert {line.split(":")[0] for line in report.warnings} <= {"length"}
    scenarios = {text.strip() for text in json.loads(path.read_text())}
    asked = [
        text.split("Scenario: ")[1].removesuffix("\nAnswer:") for t in report.concept.templates for text in t.positive
    ]
    assert set(asked) == scenarios and len(asked) == len(scenarios)
    blended = name.split("_")
    assert all(f"Consider the {' and '.join(blended)} of" in t.negative[0] for t in report.concept.templates)
    assert len(report.concept.readout.targets) == 3 * len(blended)
    assert len(report.concept.readout.foils) == 3 * (6 - len(blended))


@public
def test_sentence_beginnings_of_repe_have_no_labels_and_that_is_told():
    assert "texts without labels" in refusal(PUBLIC / "repe_emotions" / "all_truncated_outputs.json")


@public
@pytest.mark.parametrize("path", sorted((PUBLIC / "azaria_true_false").glob("*.csv")), ids=lambda path: path.stem)
def test_true_false_statements_load_with_stated_warnings(path):
    report = examined(path)
    assert not report.problems
    assert {line.split(":")[0] for line in report.warnings} <= STATED
    with path.open(encoding="utf-8-sig") as handle:
        label = {row["statement"].strip(): row["label"] for row in csv.DictReader(handle)}
    for template in report.concept.templates:
        assert all(label[t] == "1" for t in template.positive) and all(label[t] == "0" for t in template.negative)
    readout = report.concept.readout
    assert (readout.prompts, readout.targets, readout.foils) == (JUDGED, [" true"], [" false"])


@public
def test_truthfulqa_is_the_same_from_its_table_and_its_task_file():
    table, task = PUBLIC / "truthfulqa" / "TruthfulQA.csv", PUBLIC / "truthfulqa" / "mc_task.json"
    assert concept(table, name="truthful") == concept(task, name="truthful")


@public
@pytest.mark.parametrize(
    "name",
    [
        "truthfulqa/mc_task.json",
        *(f"commonsense/{f}.jsonl" for f in ("openbookqa_test", "openbookqa_train", "arc-easy_test")),
    ],
)
def test_questions_of_the_readout_are_no_stimuli(name):
    report = examined(PUBLIC / name)
    assert not report.problems
    assert {line.split(":")[0] for line in report.warnings} <= {"near-duplicates between fit and test"}
    loaded = report.concept
    claims = {key(text) for t in loaded.templates for text in t.positive + t.negative}
    wordings = [("Question: {}", "Answer: {}."), ("Fact: {}", "{}.")]
    heads = (
        "Consider the correctness of the answer to the following question:",
        "Consider the correctness of the following fact:",
    )
    for item in loaded.readout.items:
        question = item.prompt.removeprefix("Question: ").removesuffix("\nAnswer:")
        for answer in item.targets + item.foils:
            own = [
                " ".join((head, *wording)).format(question, answer)
                for head, wording in zip(heads, wordings, strict=True)
            ]
            assert not {key(text.replace("..", ".")) for text in own} & claims
    assert len(loaded.readout.items) == 36 and len(claims) > 500
    assert all(o.startswith(" ") and not o.startswith("  ") for i in loaded.readout.items for o in i.targets + i.foils)


@public
def test_right_answers_are_the_published_ones():
    path = PUBLIC / "commonsense" / "openbookqa_test.jsonl"
    published = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        published.setdefault(row["question"].strip(), row["choices"][row["answer"]].strip())
    for item in concept(path, questions=100).readout.items:
        question = item.prompt.removeprefix("Question: ").removesuffix("\nAnswer:")
        assert item.targets == [f" {published[question]}"] and len(item.foils) == 3


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


# --- the check -------------------------------------------------------------------------------------------------------


def test_near_duplicates_are_found_across_parts_only_and_quickly():
    rng = np.random.default_rng(0)
    texts = [["so", "it", "is", *rng.choice(3000, 12).astype(str)] for _ in range(10_000)]
    part = np.array(["fit", "test"] * 5000)
    texts[7] = [*texts[2][:-1], "other"]  # across: one word of fifteen differs
    texts[9] = [*texts[3][:-1], "other"]  # both in one part
    start = time.perf_counter()
    first, second = concept_check.near_duplicates(texts, part)
    assert [(int(a), int(b)) for a, b in zip(first, second, strict=True)] == [(2, 7)]
    assert time.perf_counter() - start < 20


def test_a_leak_between_templates_or_into_the_readout_is_a_problem(tmp_path):
    loaded = concept(as_csv(tmp_path / "a.csv", LABELLED)).model_dump()
    path = tmp_path / "whole.yaml"
    path.write_text(yaml.safe_dump(loaded))
    assert not examined(path).problems
    leaked = loaded["templates"][0]["positive"][0].upper()
    loaded["templates"][1]["positive"][0] = leaked
    loaded["readout"]["prompts"][0] = loaded["templates"][2]["negative"][0]
    path.write_text(yaml.safe_dump(loaded))
    problems = examined(path).problems
    assert [line.split(":")[0] for line in problems] == ["leak", "leak"]
    assert "part 1, part 2" in problems[0] and "readout prompts are stimuli" in problems[1]


def test_length_that_gives_the_label_away_is_a_warning(tmp_path):
    rows = [(f"{text} thank you so very much indeed" if label == "polite" else text, label) for text, label in LABELLED]
    assert any(line.startswith("length: more words") for line in examined(as_csv(tmp_path / "a.csv", rows)).warnings)


def test_a_tokenizer_shows_pieces_and_what_it_cannot_tell_apart(tmp_path, checkpoint):
    path = as_csv(tmp_path / "a.csv", LABELLED)
    tokenizer = concept_check.load_tokenizer(checkpoint())
    told = {"targets": [" happy home", " glad"], "foils": [" happy Anna", " sad"]}
    report = concept_check.examine(loaded(path, **told), (), tokenizer)
    assert report.notes[0].startswith("tokens: 2 of 4") and "' happy home' = 'happy' + 'home'" in report.notes
    assert any(line.startswith("first token shared by target and foil: 1 pairs") for line in report.warnings)
    assert not report.problems
    told = {"targets": [" happy", " ecstatic"], "foils": [" happy\n", " sad"]}
    problems = concept_check.examine(loaded(path, **told), (), tokenizer).problems
    assert "none for ' ecstatic'" in problems[0] and "are the same tokens" in problems[1]


def shown(report):
    console = Console(file=io.StringIO(), width=200)
    concept_check.show(report, console)
    return console.file.getvalue()


def test_the_check_shows_the_frame_and_the_file_that_is_tested_on(tmp_path):
    """Alone and in a study; the overlap that is left is of words, as equal texts are refused."""
    scenarios(tmp_path / "ours.csv")
    other = scenarios(tmp_path / "other.csv", person="He", each=4)
    entry = {"file": "ours.csv", "positive": "fear", "frame": "{} {they} felt", "test": "other.csv"}
    [of_study] = concept_check.check(study(tmp_path, entry), {})
    told = {name: value for name, value in entry.items() if name != "file"} | {"test": str(other)}
    [alone] = concept_check.check(tmp_path / "ours.csv", told)
    for report in (of_study, alone):
        text = shown(report)
        first = report.concept.templates[0].positive[0]
        assert first.endswith(". She felt") and f"as in {first!r}" in text
        for part in (
            f"tested on:   {other}",
            "happiness 12, sadness 12, anger 12, fear 12",
            "frame:  ",
            "test file: pairs:",
        ):
            assert part in text
        assert "no text of it is fitted on; nor is any nearly the same" in text
        counted = [line.split() for line in text.splitlines() if line.split()[:1] in (["fit"], ["test"])]
        assert [line[:3] for line in counted[:2]] == [["fit", "3", "18"], ["test", "3", "12"]]
        assert not report.problems
    near = [
        (f"She saw {e} thing 1 at {g} very early in the day.", e, g) for e in FEELINGS for g in PLACES for _ in "ab"
    ]
    rows = [(f"{text} {k % 2}", *more) for k, (text, *more) in enumerate(near)]
    paths = [
        as_csv(tmp_path / f"{k}.csv", [(f"{t}{k}", *m) for t, *m in rows], ("text", "label", "group")) for k in "xy"
    ]
    [report] = concept_check.check(paths[0], {"positive": "fear", "test": str(paths[1])})
    assert "no text of it is fitted on; near-duplicates between fit and test: " in shown(report)


def test_a_pronoun_that_gives_the_label_away_is_a_warning(tmp_path):
    rows = [(f"{'He' if k < 9 else 'She'} said: {text[0]}", label) for k, (text, label) in enumerate(LABELLED)]
    path = as_csv(tmp_path / "a.csv", [(f"{t} {k}", label) for k, (t, label) in enumerate(rows)])
    told = [line for line in examined(path, frame="{} {they} felt").warnings if line.startswith("frame: in ")]
    assert told and all("may find the pronoun" in line for line in told)
    assert len(told) == 2  # in each split
    assert not [line for line in examined(path, frame="{} She felt").warnings if line.startswith("frame")]


# --- the command -----------------------------------------------------------------------------------------------------

GOOD = "text,label\n" + "".join(f'"{text}",{label}\n' for text, label in LABELLED)
LEAK = "text,label,group\n" + "".join(f'"{t}",{label},{"ab"[k % 2]}\n' for k, (t, label) in enumerate(LABELLED))
BAD = {  # file name, content, what is said
    "one label": ("a.csv", GOOD.replace(",rude\n", ",polite\n"), "all 18 texts have the label 'polite'"),
    "empty class": ("a.yaml", yaml.safe_dump({"texts": {"polite": POLITE, "rude": []}}), "texts.rude is empty"),
    "leaked duplicate": ("a.csv", LEAK + f'"{POLITE[0]}",polite,b\n', "line 20: the same text as line 2"),
    "not UTF-8": ("a.csv", GOOD.encode() + b"caf\xe9,polite\n", "line 20: not UTF-8 text (byte 3 of the line)"),
    "UTF-16": ("a.csv", GOOD.encode("utf-16"), "line 1: not UTF-8 text"),
    "long line": (
        "a.csv",
        GOOD + "x" * 10**6 + ",polite\n",
        f"line 20: 1,000,007 characters, the limit is {LONGEST:,}",
    ),
    "long line of YAML": ("a.yaml", "name: a\ntexts: " + "x" * 10**6, "line 2: 1,000,007 characters, the limit is"),
    "long text": (
        "a.json",
        json.dumps([{"text": "x" * 10**6, "label": 1}]),
        "entry 1: 1,000,000 characters, the limit",
    ),
    "empty file": ("a.csv", "", "holds no texts"),
    "empty JSON lines": ("a.jsonl", "\n", "holds no texts"),
    "empty YAML": ("a.yaml", "", "expected 'key: value' lines"),
    "columns only": ("a.csv", "text,label\n", "holds no texts"),
    "ragged": ("a.csv", GOOD + "one, two,polite\n", "line 20: 3 cells, but 2 columns (text, label)"),
    "a quote missing": ("a.csv", GOOD + '"open,polite\n', "line 20: not valid CSV: unexpected end of data"),
    "bad JSON": ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b"', "line 2: not valid JSON"),
    "bad JSON file": ("a.json", '[{"text": "a"},\n{"text": ]', "line 2: not valid JSON"),
    "deep JSON": ("a.json", "[" * 200_000, "a.json: "),
    "no fields": ("a.jsonl", "[1, 2]\n", "line 1: expected fields"),
    "an object": ("a.json", "{}", "expected a list of entries, found dict"),
    "no label column": ("a.csv", "text,mood\na,b\n", "found the columns 'mood', 'text'; needed are"),
    "a text missing": ("a.jsonl", '{"text": "a", "label": 1}\n{"label": 0}\n', "line 2: text is missing or empty"),
    "a number as text": ("a.jsonl", '{"text": 3, "label": 1}\n', "line 1: text is 3, expected text"),
    "half a character": ("a.jsonl", '{"text": "\\ud800", "label": 1}\n', "line 1: text holds half a character"),
    "no choices": ("a.jsonl", '{"question": "Why?", "choices": "because", "answer": 0}\n', "line 1: answer '0'"),
    "same pair": ("a.csv", "positive,negative\nwell,WELL\n", "line 2: positive and negative are the same text"),
    "too few": ("a.csv", "text,label\na,x\nb,y\nc,x\nd,y\n", "2 pairs in 0 templates; at least 2 templates of 2 pairs"),
    "no such file": ("b.csv", None, "b.csv: no such file"),
    "another ending": ("a.txt", GOOD, "expected one that ends in .yaml, .yml, .csv, .jsonl, .json"),
    "both kinds": ("a.yaml", yaml.safe_dump({"texts": {"x": ["a"]}, "pairs": [["a", "b"]]}), "give either texts"),
}


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "steerlib", "concepts", "check", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def written(path, content):
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(("name", "content", "said"), BAD.values(), ids=BAD)
def test_a_bad_file_is_refused_by_line_without_a_traceback_and_at_once(tmp_path, name, content, said):
    path = written(tmp_path / name, content)
    start = time.perf_counter()
    with pytest.raises(SteerlibError) as caught:
        concept_check.check(path, {})
    assert str(caught.value).startswith(f"{path}: ") and said in str(caught.value)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    "case", ["leaked duplicate", "not UTF-8", "long line", "one label", "deep JSON", "another ending"]
)
def test_the_command_says_so_and_fails(tmp_path, case):
    name, content, said = BAD[case]
    done = command(written(tmp_path / name, content))
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stdout + done.stderr


def test_the_command_on_a_clean_file_a_leaky_one_and_a_study(tmp_path):
    clean = command(written(tmp_path / "manners.csv", GOOD), "--name", "tact")
    assert clean.returncode == 0 and not clean.stderr
    for part in ("polite 9, rude 9", "fit", "test", "by default", "readout.targets: ' polite'", "tact can be used"):
        assert part in clean.stdout
    loaded = concept(tmp_path / "manners.csv").model_dump()
    loaded["templates"][0]["positive"][0] = loaded["templates"][1]["positive"][0]
    leaky = command(written(tmp_path / "leaky.yaml", yaml.safe_dump(loaded)))
    assert leaky.returncode == 1 and "leak: " in leaky.stdout and "Do not use manners" in leaky.stdout
    whole = command(study(tmp_path, "happiness", "manners.csv", {"file": "manners.csv", "name": "tact"}))
    assert whole.returncode == 0 and "manners can be used" in whole.stdout and "tact can be used" in whole.stdout
