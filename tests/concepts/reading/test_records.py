"""Files as programs, spreadsheets and the hub write them; what cannot be read is told by row and remedy."""

from __future__ import annotations

import csv
import io
import json

import pytest

from helpers.concept_files import GOOD, LABELLED, POLITE, PUBLIC, RUDE, as_csv, as_jsonl, concept, loaded, refusal
from steerlib.concepts.reading.records import read
from steerlib.study import Study

ROWS = [{"text": text, "label": label} for text, label in LABELLED]


def parted(rows, mark, header=("text", "label"), end="\r\n"):
    out = io.StringIO()
    csv.writer(out, delimiter=mark, lineterminator=end).writerows([header, *rows])
    return out.getvalue()


def as_parquet(path, rows):
    """Rows as the hub has them, with lists and structures in their cells."""
    duckdb = pytest.importorskip("duckdb", reason="the environment is older than requirements.lock")
    lines = path.with_suffix(".rows.jsonl")
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    duckdb.sql(f"COPY (SELECT * FROM read_json('{lines}')) TO '{path}'")
    return path


@pytest.mark.parametrize(
    "content",
    {
        "semicolons": parted(LABELLED, ";"),
        "tabs": parted(LABELLED, "\t"),
        "as Unicode text": parted(LABELLED, "\t").encode("utf-16"),
        "a byte order mark": parted(LABELLED, ";").encode("utf-8-sig"),
        "an old Macintosh": parted(LABELLED, ",", end="\r"),
        "sep=": "sep=|\r\n" + parted(LABELLED, "|"),
        "a sep= in quotes": '"sep=;"\r\n' + parted(LABELLED, ";"),
        "empty columns and rows": parted([(*row, "", " ") for row in LABELLED], ";", ("text", "label", "", ""))
        + ";;;\r\n",
        "cells too many, all empty": parted([(*row, "", "") for row in LABELLED], ","),
        "pandas' index": parted([(k, *row) for k, row in enumerate(LABELLED)], ",", ("", "text", "label")),
        "commas in names": parted(
            [(*row, "so, so") for row in LABELLED], ";", ("text", "label", "notes, if any, on it")
        ),
        "as many commas in all": "text;label;a,b,c\n"
        + "".join(f"{text};{label};so, so, so\n" for text, label in LABELLED),
        "names as one types them": parted(LABELLED, ";", (" Text ", "LABEL\u00a0")),
    }.items(),
    ids=lambda item: item[0],
)
def test_a_table_is_read_as_it_was_saved(tmp_path, content):
    for ending in (".csv", ".tsv"):
        path = tmp_path / f"manners{ending}"
        path.write_bytes(content[1] if isinstance(content[1], bytes) else content[1].encode())
        assert concept(path) == concept(as_csv(tmp_path / "plain.csv", LABELLED), name="manners")


def test_a_text_keeps_what_parts_columns_elsewhere(tmp_path):
    rows = [(f"{text}; {text.lower()},\n\tso", label) for text, label in LABELLED]
    for mark in ",;\t":
        path = tmp_path / "a.csv"
        path.write_text(parted(rows, mark))
        assert [(row.fields["text"], row.fields["label"]) for row in read(path)] == rows


def test_json_is_read_as_lines_or_list_and_parquet_as_rows(tmp_path):
    (tmp_path / "lines.json").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    (tmp_path / "list.json").write_text(json.dumps(ROWS, indent=1))
    files = [tmp_path / "lines.json", tmp_path / "list.json", as_jsonl(tmp_path / "a.jsonl", LABELLED)]
    files.append(as_parquet(tmp_path / "a[1].parquet", ROWS))
    first, *others = [concept(path, name="manners") for path in files]
    assert all(other == first for other in others)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", GOOD.replace("polite", "p\xf6lite").encode("cp1252"), "line 2: not UTF-8 text (byte"),
        ("a.csv", "text,label,\na,polite,b\n", "line 2: 3 cells, but 2 columns (text, label)"),
        ("a.csv", ",text,label\nWell,a,polite\n", "line 2: 'Well' stands in a column without a name"),
        ("a.csv", "Text,text ,label\na,b,c\n", "line 1: column 'text' stands there twice"),
        ("a.csv", "text;label\na;b;polite\n", "line 2: 3 cells, but 2 columns (text, label); put what holds ';'"),
        ("a.csv", GOOD + '"open,polite\n', "not valid CSV"),
        ("a.jsonl", '{"text": "a", "label": "b", "text": "c"}\n', "line 1: 'text' stands twice in one entry; keep one"),
        ("a.json", '[{"text": "a", "label": {"b": 1, "b": 2}}]', "whole file: 'b' stands twice in one entry"),
        ("a.jsonl", '{"text": "a", "Text ": "b"}\n', "line 1: two names are the same but for capitals and spaces"),
        ("a.jsonl", '{"text": "a", "label": ' + "9" * 5000 + "}\n", "line 1: Exceeds the limit"),
        ("a.jsonl", '{"text": ' + "[" * 3000 + "\n", "nested too deeply"),
        ("a.jsonl", '{"text": ' + "[" * 90 + "]" * 90 + ', "label": "b"}\n', "line 1: text is [[[...]]], expected"),
        ("a.jsonl", '{"text": "a\\ud800", "label": "b"}\n', "line 1: text holds half a character"),
        ("a.jsonl", '{"text": "a\\u0000", "label": "b"}\n', "line 1: text holds a zero byte"),
        ("a.jsonl", '{"text": "\\u200b\\u00a0", "label": "b"}\n', "line 1: text is missing or empty"),
        ("a.parquet", "no table", "not valid parquet: "),
        ("a.parquet", None, "cannot be read (No such file or directory)"),
        ("a.yaml", 'name: a\ntemplates: [{name: "\\e[2J", positive: ["\\ud800", "\\u200b"]}]\n', "half a character"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told_in_a_line(tmp_path, name, content, said):
    if name.endswith("parquet"):
        pytest.importorskip("duckdb")
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refusal(path)
    assert message.startswith(f"{path}: ") and said in message
    assert all(len(line) < 500 and line.isprintable() for line in message.splitlines())


# --- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "label",
    [
        "",
        "  ",
        "\u00a0",
        "\u200b",
        *r"NaN nan NA N/A n.a. #N/A <NA> NULL (null) None NaT nil \N undefined ? -Inf".split(),
    ],
)
def test_no_label_is_no_side(tmp_path, label):
    path = as_csv(tmp_path / "a.csv", [*LABELLED[:12], ("Who said so?", label), *LABELLED[12:]])
    assert f"{path}: line 14: label" in refusal(path)


@pytest.mark.parametrize("label", [None, float("nan"), float("inf"), [], ["polite"], {}, {"a": 1}, "\ud800"])
def test_what_is_no_word_is_no_label(tmp_path, label):
    path = as_jsonl(tmp_path / "a.jsonl", [*LABELLED, ("Who said so?", label)])
    assert f"{path}: line 19: label" in refusal(path)


def test_a_row_that_lacks_what_others_have_is_told(tmp_path):
    for rows in ([{"text": "No group."}, *[{**row, "group": "a"} for row in ROWS]], [*ROWS, {"text": "No label."}]):
        path = tmp_path / "a.jsonl"
        path.write_text(
            "".join(json.dumps({"label": "polite"} | row if "group" in rows[1] else row) + "\n" for row in rows)
        )
        assert " is missing or empty" in refusal(path)


@pytest.mark.parametrize(
    ("labels", "one"),
    [
        (("polite", "Polite "), "polite"), (("very rude", "very  rude"), "very rude"), (("1", "1.0"), "1"),
        (("1", "1,00"), "1"), (("+1", "1."), "1"), (("1", "1.000e+00"), "1"),
        ((True, "TRUE"), "true"), ((1, 1.0), "1"), (("yes", "Yes"), "yes"),
    ],
)  # fmt: skip
def test_labels_that_differ_in_spelling_alone_are_one_and_that_is_told(tmp_path, labels, one):
    rows = [(text, labels[k % 2] if text in POLITE else "other") for k, (text, _) in enumerate(LABELLED)]
    draft = loaded(as_jsonl(tmp_path / "a.jsonl", rows), positive=labels[0], name="some")
    assert draft.counts == {one: len(POLITE), "other": len(RUDE)}
    assert any(line.startswith("labels: ") and line.endswith(f"are one, {one!r}") for line in draft.defaults)


@pytest.mark.parametrize(
    "labels", [("yes", "no"), ("on", "off"), (True, False), (1.0, 0.0), ("1,0", "0,0"), ("010", "007")]
)
def test_a_label_is_named_in_a_study_as_in_its_file(tmp_path, labels):
    """Also where YAML of old would make of it a number or true and false."""
    rows = [(text, labels[label == "rude"]) for text, label in LABELLED]
    path = as_csv(tmp_path / "a.csv", rows)
    entry = tmp_path / "study.yaml"
    words = f"{{{labels[0]}: [kind], {labels[1]}: [blunt]}}".replace("1,0", "'1,0'").replace("0,0", "'0,0'")
    entry.write_text(
        "name: small\ncheckpoints: {folder: x}\nconcepts:\n"
        f"  - {{file: {path.name}, positive: {str(labels[0]).replace('1,0', '1.0')}, words: {words}}}\n"
    )
    [made] = Study.load(entry).load_concepts()
    assert {text for template in made.templates for text in template.positive} == set(POLITE)
    assert (made.readout.targets, made.readout.foils) == ([" kind"], [" blunt"])


@pytest.mark.parametrize("labels", [("yes", "no"), ("POS", "neg"), ("+1", "-1"), ("T", "F"), ("+", "-"), (True, False)])
def test_the_label_that_affirms_is_the_positive_one_wherever_it_stands(tmp_path, labels):
    rows = sorted(((text, labels[label == "rude"]) for text, label in LABELLED), key=lambda row: row[1] == labels[0])
    draft = loaded(as_jsonl(tmp_path / "a.jsonl", rows))
    assert {text for template in draft.templates for text in template.positive} == set(POLITE)


def test_words_of_no_label_are_told(tmp_path):
    path = as_csv(tmp_path / "a.csv", LABELLED)
    assert "words: no text has the label 'polit'; found 'polite', 'rude'" in refusal(path, words={"polit": ["kind"]})
    with pytest.raises(ValueError, match="label 'polite' stands there twice"):
        concept(path, words={"polite": ["kind"], "Polite": ["good"]})


@pytest.mark.parametrize("groups", [("Home", "home "), ("1", "1.0"), ("café", "cafe\u0301")])
def test_spellings_of_a_group_are_one(tmp_path, groups):
    rows = [(text, label, groups[k % 2] if k % 3 else "other") for k, (text, label) in enumerate(LABELLED)]
    made = concept(as_csv(tmp_path / "a.csv", rows, ("text", "label", "group")))
    assert {template.name for template in made.templates} == {groups[1].strip(), "other"}


# --- the hub's forms -------------------------------------------------------------------------------------------------


def truthful(rows, ending, tmp_path):
    path = tmp_path / f"truthful{ending}"
    if ending == ".parquet":
        return as_parquet(path, rows)
    path.write_text(json.dumps(rows) if ending == ".json" else "".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".parquet"])
def test_truthfulqa_is_the_same_in_the_forms_of_the_hub(tmp_path, ending):
    of_scores = [
        {"question": f"What is {k}?", "mc1_targets": {f"It's {k}.": 1, "It is nothing.": 0, f"It is {k + 1}.": 0}}
        for k in range(20)
    ]
    generation = [
        {
            "type": "Adversarial", "category": "Sums", "question": row["question"], "best_answer": right,
            "correct_answers": [right, "That"], "incorrect_answers": wrong, "source": "https://…",
        }
        for row in of_scores for right, *wrong in [[*row["mc1_targets"]]]
    ]  # fmt: skip
    choices = [
        {
            "question": row["question"],
            "mc1_targets": {"choices": [*row["mc1_targets"]], "labels": [*row["mc1_targets"].values()]},
            "mc2_targets": {"choices": ["It is all."], "labels": [1]},
        }
        for row in of_scores
    ]
    first, second, third = (
        concept(truthful(rows, end, tmp_path))
        for rows, end in ((of_scores, ".json"), (generation, ending), (choices, ending))
    )
    assert first == second == third and len(first.readout.items) == 10


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"mc1_targets": {"choices": ["a", "b"], "labels": [1]}}, "its scored answers cannot be read"),
        (
            {"mc1_targets": "{'choices': ['a', 'b']}"},
            "its scored answers cannot be read; take the file as it was published",
        ),
        (
            {"mc1_targets": {"choices": ["a", "b", "c"], "labels": [1, 0, float("nan")]}},
            "its scored answers cannot be read",
        ),
        ({"best_answer": "a", "incorrect_answers": "['b' 'c']"}, "incorrect_answers is a list written as text"),
        ({"best_answer": "a", "incorrect_answers": []}, "needs right answers and wrong ones"),
        ({"best_answer": "It’s a.", "incorrect_answers": ["It's a.", "b"]}, "right answers and wrong ones, and none"),
        ({"best_answer": "a", "incorrect_answers": [None, "b"]}, "an answer is None, expected text"),
    ],
)
def test_answers_that_cannot_be_read_are_told_by_line(tmp_path, fields, said):
    path = truthful([{"question": f"{k}?", **fields} for k in range(20)], ".jsonl", tmp_path)
    assert f"{path}: line 1: " in refusal(path) and said in refusal(path)


def test_the_published_table_is_the_same_as_parquet(tmp_path):
    if not PUBLIC.is_dir():
        pytest.skip(f"the public data sets are not at {PUBLIC}")
    table = PUBLIC / "truthfulqa" / "TruthfulQA.csv"
    path = as_parquet(tmp_path / "a.parquet", [row.fields for row in read(table)])
    assert concept(path, name="truthful") == concept(table, name="truthful")
