"""Public data sets are read as they are published."""

from __future__ import annotations

import csv
import json

import pytest

from helpers.concept_files import EMOTIONS, PUBLIC, concept, examined, faults, refusal
from steerlib.concepts.reading.drafts import JUDGED
from steerlib.concepts.repeats import normalised

pytestmark = pytest.mark.skipif(not PUBLIC.is_dir(), reason=f"the public data sets are not at {PUBLIC}")
STATED = {"near-duplicates between fit and test", "imbalance", "length", "pairs"}  # what public data may be warned of


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


def test_sentence_beginnings_of_repe_have_no_labels_and_that_is_told():
    assert "texts without labels" in refusal(PUBLIC / "repe_emotions" / "all_truncated_outputs.json")


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


def test_truthfulqa_is_the_same_from_its_table_and_its_task_file():
    table, task = PUBLIC / "truthfulqa" / "TruthfulQA.csv", PUBLIC / "truthfulqa" / "mc_task.json"
    assert concept(table, name="truthful") == concept(task, name="truthful")


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
    claims = {normalised(text) for t in loaded.templates for text in t.positive + t.negative}
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
            assert not {normalised(text.replace("..", ".")) for text in own} & claims
    assert len(loaded.readout.items) == 36 and len(claims) > 500
    assert all(o.startswith(" ") and not o.startswith("  ") for i in loaded.readout.items for o in i.targets + i.foils)


def test_right_answers_are_the_published_ones():
    path = PUBLIC / "commonsense" / "openbookqa_test.jsonl"
    published = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        published.setdefault(row["question"].strip(), row["choices"][row["answer"]].strip())
    for item in concept(path, questions=100).readout.items:
        question = item.prompt.removeprefix("Question: ").removesuffix("\nAnswer:")
        assert item.targets == [f" {published[question]}"] and len(item.foils) == 3


@pytest.mark.parametrize(
    "path",
    sorted(
        path
        for folder in ("repe_emotions", "azaria_true_false", "truthfulqa", "commonsense")
        for path in (PUBLIC / folder).glob("*.*")
        if path.suffix in (".csv", ".json", ".jsonl") and path.stem != "all_truncated_outputs"
    ),
    ids=lambda path: path.stem,
)
def test_every_text_is_on_one_side(path):
    made = concept(path, others=["other"], name="public")
    assert not any(faults(made, seed) for seed in range(3)) and not made.readout.losses
