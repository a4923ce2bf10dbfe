"""Words around stimuli: they end where the concept is due, and change nothing else."""

from __future__ import annotations

import pytest

from helpers.concept_files import (
    FRAME,
    LABELLED,
    POLITE,
    RUDE,
    as_csv,
    concept,
    examined,
    loaded,
    questions,
    refusal,
    repe,
    scenarios,
    study,
    templates,
)
from steerlib import SteerlibError
from steerlib.concepts.reading.drafts import framed
from steerlib.study import Study


def shapes(folder):
    """Files of every format that takes a frame, with what must be told of them."""
    scenarios(folder / "emotions.csv")
    as_csv(folder / "pairs.csv", zip(POLITE, RUDE, strict=True), ("positive", "negative"))
    as_csv(folder / "claims.csv", [(t, int(label == "polite")) for t, label in LABELLED], ("statement", "label"))
    repe(folder / "repe")
    options = {"emotions.csv": {"positive": "anger"}, "pairs.csv": {"foils": [" x"]}}
    files = ("emotions.csv", "pairs.csv", "claims.csv", "repe/anger.json")
    return [(folder / file, options.get(file, {})) for file in files]


@pytest.mark.parametrize("seed", range(3))
def test_a_frame_changes_nothing_but_the_words_around_each_text(tmp_path, seed):
    """Splits, templates and pairs are the same; so one frame is compared with another on the same stimuli."""
    for path, options in shapes(tmp_path):
        bare = loaded(path, seed, frame="{}", **options).concept()
        framed = loaded(path, seed, frame="Of {concept}: {} {they} felt", **options).concept()
        about = framed.name.replace("_", " ")
        for split in ("fit", "test"):
            one, other = bare.stimuli(split, seed), framed.stimuli(split, seed)
            assert other.texts == [f"Of {about}: {text} {who(text)} felt" for text in one.texts]
            assert (one.fold == other.fold).all()
        assert bare.readout == framed.readout


def who(text):
    return "She" if {"she", "her"} & set(text.lower().split()) else "You"


def test_the_wording_of_repe_is_what_a_frame_replaces(tmp_path):
    path = repe(tmp_path / "repe") / "anger.json"
    frame = "Consider the anger of the following scenario:\nScenario: {}\nAnswer:"
    assert concept(path) == concept(path, frame=frame) == concept(path, frame=frame.replace("anger", "{concept}"))
    assert concept(path, frame="{}").templates[0].positive[0].startswith("You meet anger")
    mixed = tmp_path / "repe" / "fear_anger.json"
    mixed.write_text((tmp_path / "repe" / "fear.json").read_text().replace("fear", "both"))
    assert concept(mixed).templates[0].positive[0].startswith("Consider the fear and anger of")
    assert concept(mixed) == concept(mixed, frame=frame.replace("anger", "{concept}"))


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
    assert framed(text, FRAME, "x") == f"{text} {pronoun} felt"


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


def test_what_has_its_own_words_takes_no_frame(tmp_path):
    truthful = [(f"Is it {k}?", "Yes, always", "No") for k in range(12)]
    header = ("Question", "Best Answer", "Best Incorrect Answer")
    own = [questions(tmp_path / "q.jsonl"), as_csv(tmp_path / "t.csv", truthful, header)]
    own.append(templates(tmp_path / "own.yaml"))
    text = scenarios(tmp_path / "emotions.csv")
    for path in own:
        concept(path)
        assert f"{path}: frame: " in refusal(path, frame=FRAME)
        options = {"positive": "fear", "test": str(path)}
        concept(text, **options)
        assert f"{path}: frame: " in refusal(text, frame=FRAME, **options)


def test_texts_are_compared_without_their_frame(tmp_path):
    """Else all would be alike in the words of the frame, or equal ones differ by it."""
    rows = [(text, label, "ab"[k % 2]) for k, (text, label) in enumerate(LABELLED)]
    path = as_csv(
        tmp_path / "a.csv", [*rows, (POLITE[0].replace(" ", "\u00a0 "), "polite", "b")], ("text", "label", "group")
    )
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
