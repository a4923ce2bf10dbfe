"""A concept from anybody's file: what is read is what was written, and no text is fitted on and tested on."""

from __future__ import annotations

import csv
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from steerlib.concepts import check as concept_check
from steerlib.concepts.dealing import Pair, deal, key
from steerlib.concepts.drafts import DESCRIBED, JUDGED
from steerlib.concepts.files import ConceptFile, load
from steerlib.concepts.records import LONGEST
from steerlib.errors import SteerlibError
from steerlib.study import Study

PUBLIC = Path(__file__).parents[2] / "shared" / "data"
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


def concept(path, others=(), seed=0, **told):
    return load(ConceptFile(file=str(path), **told), path, seed).concept(others)


def refusal(path, **told):
    with pytest.raises(SteerlibError) as caught:
        concept(path, **told)
    return str(caught.value)


def keys(stimuli):
    return {key(text) for text in stimuli.texts}


STATED = {"near-duplicates between fit and test", "imbalance", "length"}  # what public data may be warned of


def examined(path, **told):
    return concept_check.examine(load(ConceptFile(file=str(path), **told), path))


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
    draft = load(ConceptFile(file="a.csv"), as_csv(tmp_path / "a.csv", rows, ("text", "label", "group")))
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
    draft = load(ConceptFile(file="a.csv"), path)
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
        ({"file": "a.csv", "lable": 1}, ["concepts.0.lable: unknown key", "positive, prompts, targets"]),
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
    report = concept_check.examine(load(ConceptFile(file="a.csv", **told), path), (), tokenizer)
    assert report.notes[0].startswith("tokens: 2 of 4") and "' happy home' = 'happy' + 'home'" in report.notes
    assert any(line.startswith("first token shared by target and foil: 1 pairs") for line in report.warnings)
    assert not report.problems
    told = {"targets": [" happy", " ecstatic"], "foils": [" happy\n", " sad"]}
    problems = concept_check.examine(load(ConceptFile(file="a.csv", **told), path), (), tokenizer).problems
    assert "none for ' ecstatic'" in problems[0] and "are the same tokens" in problems[1]


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
