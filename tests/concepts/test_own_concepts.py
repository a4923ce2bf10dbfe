"""The repository's own concept files: what a study of real English rests on is what it claims to be."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import make_pipeline

from steerlib.concepts import check
from steerlib.concepts.planted.world import DEFAULT
from steerlib.concepts.reading import ConceptFile, load
from steerlib.concepts.reading.drafts import framed, pronoun
from steerlib.concepts.reading.records import LONGEST
from steerlib.concepts.repeats import normalised

FOLDER = Path(__file__).parents[2] / "params" / "concepts"
PUBLIC = Path(__file__).parents[3] / "shared" / "data"
EMOTIONS = list(DEFAULT.emotions)

# Words that name one of the six emotions, in all their forms; "saddle" and "gladiolus" are none.
NAMING = re.compile(
    r"\b(?:happ(?:y|ier|iest|ily|iness)|unhapp\w+|glad(?:ly|ness|der)?|jo(?:y|ys|yful\w*|yous\w*)|delight\w*|cheer\w*|"
    r"sad(?:ly|ness|der|dest|den\w*)?|gloom\w*|lonel\w+|sorrow\w*|grie(?:f|v\w+)|mourn\w*|"
    r"ang(?:er\w*|ry|rier|rily)|mad(?:ly|ness|der|den\w*)?|cross(?:ly|ness)|furious\w*|fur(?:y|ies)|rag(?:e|es|ed|ing)|"
    r"fear\w*|afraid|scar(?:e|es|ed|ing|y)|nervous\w*|terrif\w+|terror\w*|fright\w*|dread\w*|"
    r"surpris\w*|amaz\w*|stun(?:s|ned|ning)?|astonish\w*|startl\w*|disgust\w*|sick(?:en\w*)?|revolt\w*|nause\w+)\b",
    re.IGNORECASE,
)
NEGATED = re.compile(
    r"\b(?:not|no|never|nor|none|nobody|nothing|nowhere|neither|cannot|without|\w+n't)\b", re.IGNORECASE
)


def own(name: str) -> Path:
    """The file, once it has been written."""
    if not (FOLDER / name).exists():
        pytest.skip(f"{FOLDER / name} is not written yet")
    return FOLDER / name


@cache
def table(name: str) -> list[dict[str, str]]:
    with own(name).open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


@cache
def questions() -> list[dict]:
    return [json.loads(line) for line in own("commonsense.jsonl").read_text().splitlines() if line.strip()]


@cache
def passages() -> list[str]:
    return [line.strip() for line in own("neutral.txt").read_text().splitlines() if line.strip()]


TEXTS = {  # of every file, all texts that have to be distinct
    "emotions.csv": lambda: [row["text"] for row in table("emotions.csv")],
    "truth.csv": lambda: [row[side] for row in table("truth.csv") for side in ("positive", "negative")],
    "commonsense.jsonl": lambda: [row["question"] for row in questions()],
    "neutral.txt": passages,
}


def concept(name: str, **options):
    return load(ConceptFile(file=str(own(name)), **options)).concept(["other"])


# --- what is in them -------------------------------------------------------------------------------------------------


def test_every_emotion_has_as_many_scenarios_in_each_type_of_situation():
    cells = Counter((row["label"], row["group"]) for row in table("emotions.csv"))
    assert {label for label, _ in cells} == set(EMOTIONS)
    assert len(set(cells.values())) == 1 and len(cells) == 6 * len({group for _, group in cells})
    assert min(Counter(row["label"] for row in table("emotions.csv")).values()) >= 60


def test_no_scenario_names_an_emotion():
    """Else a direction would find the word, which the readout asks for."""
    found = [row["text"] for row in table("emotions.csv") if NAMING.search(row["text"])]
    assert not found
    for emotion in DEFAULT.emotions.values():  # the expression knows what it has to
        assert all(word == "cross" or NAMING.fullmatch(word) for word in emotion.feelings)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("emotion", EMOTIONS)
def test_no_type_of_situation_is_in_two_splits_and_sides_are_what_they_are_called(emotion, seed):
    row = {row["text"]: row for row in table("emotions.csv")}
    loaded = load(ConceptFile(file=str(own("emotions.csv")), positive=emotion), seed).concept()
    splits = [loaded.stimuli(split, seed) for split in ("fit", "test")]
    groups = [{row[text]["group"] for text in split.texts} for split in splits]
    assert not groups[0] & groups[1] and len(groups[0]) == len(groups[1])
    for split in splits:
        assert {row[text]["label"] for text in split.positive} == {emotion}
        against = Counter(row[text]["label"] for text in split.negative)
        assert set(against) == set(EMOTIONS) - {emotion}
        assert all(row[a]["group"] == row[b]["group"] for a, b in zip(split.positive, split.negative, strict=True))
    drawn = Counter(row[text]["label"] for split in splits for text in split.negative)
    assert max(drawn.values()) - min(drawn.values()) <= 1


def test_every_scenario_has_a_person_and_the_frame_agrees():
    """In a text of one person the pronoun is that person's; in one of two, of the first."""
    words = {"She": {"she", "her", "hers", "herself"}, "He": {"he", "him", "his", "himself"}}
    for row in table("emotions.csv"):
        said = [w for w in re.findall(r"[a-z]+", row["text"].lower()) if w in words["She"] | words["He"]]
        said_of = pronoun(row["text"])
        assert said and said[0] in words[said_of], row["text"]
        assert framed(row["text"], "{} {they} felt", "") == f"{row['text']} {said_of} felt"


def test_the_pronoun_tells_no_emotion_from_another():
    she = Counter(row["label"] for row in table("emotions.csv") if pronoun(row["text"]) == "She")
    of = Counter(row["label"] for row in table("emotions.csv"))
    shares = [she[emotion] / of[emotion] for emotion in EMOTIONS]
    assert max(shares) - min(shares) < 0.05


def test_truth_has_pairs_of_many_topics_a_good_part_of_them_negated():
    rows = table("truth.csv")
    assert len(rows) >= 200
    assert len({row["group"] for row in rows}) >= 8
    assert sum(bool(NEGATED.search(row["positive"])) for row in rows) >= 60
    assert sum(bool(NEGATED.search(row["negative"])) for row in rows) >= 60  # else "not" would be a sign of truth


def test_common_sense_has_its_answers_at_all_places():
    rows = questions()
    assert len(rows) >= 100
    choices = {len(row["choices"]) for row in rows}
    assert all(row["answer"] in range(len(row["choices"])) for row in rows)
    assert all(len({normalised(choice).casefold() for choice in row["choices"]}) == len(row["choices"]) for row in rows)
    counts = Counter(row["answer"] for row in rows)
    assert set(counts) == set(range(max(choices)))
    assert max(counts.values()) <= 1.5 * min(counts.values())


def test_neutral_passages_are_many_and_long_enough():
    assert len(passages()) >= 100
    assert min(len(passage.split()) for passage in passages()) >= 6
    assert max(map(len, passages())) < LONGEST


def test_of_a_file_of_prompts_a_readout_may_have_fewer_spread_over_all_of_it():
    given = {"file": str(own("emotions.csv")), "positive": "fear", "prompts": str(own("felt.txt")), "foils": [" glad"]}
    every, some = (load(ConceptFile(**given, **most)).concept(()).readout.prompts for most in ({}, {"questions": 40}))
    assert len(some) == len({*some}) == 40 < len(every)
    places = np.array([every.index(prompt) for prompt in some])
    assert places[0] == 0 and (np.diff(places) > 0).all() and np.ptp(np.diff(places)) <= 1


def test_prompts_of_feeling_are_distinct_and_name_none():
    prompts = [line for line in own("felt.txt").read_text().splitlines() if line.strip()]
    assert len(prompts) == len({normalised(prompt).casefold() for prompt in prompts}) >= 36
    assert not [prompt for prompt in prompts if NAMING.search(prompt)]
    assert all(prompt == prompt.strip() for prompt in prompts)  # a target brings its own space


# --- what may not be in them -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEXTS)
def test_all_texts_are_distinct(name):
    again = [
        text for text, count in Counter(normalised(text).casefold() for text in TEXTS[name]()).items() if count > 1
    ]
    assert not again


@pytest.mark.parametrize("name", TEXTS)
def test_no_text_is_from_a_public_data_set(name):
    """They are ours to give away, and what is tested on such a set has not been fitted on."""
    if not PUBLIC.is_dir():
        pytest.skip(f"the public data sets are not at {PUBLIC}")
    assert not {normalised(text).casefold() for text in TEXTS[name]()} & published()


@cache
def published() -> frozenset[str]:
    """All texts of the data sets; lines of those that are not tables."""
    found = set()

    def take(value):
        if isinstance(value, dict | list):
            for one in value.values() if isinstance(value, dict) else value:
                take(one)
        elif isinstance(value, str):
            found.add(normalised(value).casefold())

    for path in sorted(PUBLIC.rglob("*")):
        if path.parent.parent.name == "tokenizers":
            continue
        if path.suffix == ".json":
            take(json.loads(path.read_text()))
        elif path.suffix == ".jsonl":
            take([json.loads(line) for line in path.read_text().splitlines()])
        elif path.suffix == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as handle:
                take(list(csv.reader(handle)))
    assert len(found) > 10_000
    return frozenset(found)


def by_words(texts: list[str], positive: np.ndarray, groups: list[str]) -> float:
    """AUROC of a bag of words that is fitted on the other groups, over each group and averaged."""
    bag = make_pipeline(CountVectorizer(), LogisticRegression(max_iter=1000))
    scores = cross_val_predict(
        bag, texts, positive, groups=groups, cv=LeaveOneGroupOut(), method="decision_function", n_jobs=1
    )
    of = np.array(groups)
    return float(np.mean([roc_auc_score(positive[of == g], scores[of == g]) for g in np.unique(of)]))


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_single_words_do_not_give_an_emotion_away(emotion):
    """A direction that carries over to other situations has to know more than which words stand there."""
    rows = table("emotions.csv")
    labels = np.array([row["label"] == emotion for row in rows])
    assert by_words([row["text"] for row in rows], labels, [row["group"] for row in rows]) < 0.8


def test_single_words_do_not_give_the_truth_away():
    rows = table("truth.csv")
    texts = [row[side] for side in ("positive", "negative") for row in rows]
    positive, groups = np.repeat([True, False], len(rows)), 2 * [row["group"] for row in rows]
    assert by_words(texts, positive, groups) < 0.6
    marked = [
        f"{text} Indeed." if k % 3 and true else text
        for k, (text, true) in enumerate(zip(texts, positive, strict=True))
    ]
    assert by_words(marked, positive, groups) > 0.7  # one word in two thirds of the true ones would be found


# --- as concepts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [("truth.csv", {"targets": [" true"], "foils": [" false"]}), ("commonsense.jsonl", {})]
    + [("emotions.csv", {"positive": emotion, "frame": "{} {they} felt"}) for emotion in EMOTIONS],
)
def test_the_check_finds_no_problem(name, options):
    report = check.examine(load(ConceptFile(file=str(own(name)), **options)))
    assert not report.problems
    assert {line.split(":")[0] for line in report.warnings} <= {"near-duplicates between fit and test"}


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_scenarios_of_another_source_can_be_tested_on(emotion):
    """The study that these files are for: fitted on ours, tested on those of RepE, in the same words."""
    test = PUBLIC / "repe_emotions" / f"{emotion}.json"
    if not test.exists():
        pytest.skip(f"needs the public file {test}, which is not part of the project")
    made = concept("emotions.csv", positive=emotion, test=str(test), frame="{} {they} felt")
    assert made.name == emotion
    ours, theirs = {row["text"] for row in table("emotions.csv")}, set(json.loads(test.read_text()))
    ends = re.compile(r" (?:She|He|You) felt$")
    fit, tested = (made.stimuli(split, 0) for split in ("fit", "test"))
    assert {ends.sub("", text) for text in fit.texts} <= ours
    assert {ends.sub("", text) for text in tested.positive} == {text.strip() for text in theirs}
    assert not {ends.sub("", text) for text in tested.texts} & ours
