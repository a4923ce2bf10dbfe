"""What the README says to type works as printed. Its Python is run in test_toy.py, on the study that it speaks of."""

import re
import shutil
import subprocess

import pytest
import yaml

from helpers.readme import blocks
from helpers.studies import PROJECT, call
from steerlib.study import Study
from steerlib.study.comparison import Comparison

PUBLIC = PROJECT.parent / "shared" / "data" / "repe_emotions"
README = (PROJECT / "README.md").read_text()
TYPED = re.findall(r"`(make [^`]+|\.venv/bin/steerlib [^`]+)`", README)


def test_every_block_is_of_a_kind_that_is_tried_here_or_in_the_toys_tests():
    kinds = re.findall(r"^```(\w*)$", README, re.MULTILINE)
    assert set(kinds) - {""} == {"sh", "python", "csv", "yaml", "text"}


@pytest.mark.parametrize("line", [line for block in blocks("sh") for line in block.splitlines()] + TYPED)
def test_commands_that_are_shown_are_there(line):
    words = line.partition("#")[0].split() if line.startswith("make") else line.replace("'", "").split()
    if words[0] == "make":  # -n tells what it would do
        made = subprocess.run(["make", "-n", *words[1:]], cwd=PROJECT, capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
    else:
        shown = call(*[word for word in words[1:] if word.isalpha()][: 2 if words[1] == "concepts" else 1], "--help")
        assert shown.returncode == 0, shown.stdout + shown.stderr
    for named in re.findall(r"STUDY=(\S+)|(params/\S+\.yaml)", line):
        path = PROJECT / (f"params/{named[0]}.yaml" if named[0] else named[1])
        assert path.exists() or path.stem in ("mine",), path  # the reader's own


def test_texts_with_labels_are_enough(tmp_path):
    (csv,), (_, told, *_) = blocks("csv"), ["", *blocks("yaml", "Your own concept")]
    (tmp_path / "politeness.csv").write_text(csv)
    study = {"name": "own", "checkpoints": {"folder": "."}} | yaml.safe_load(told)
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(study))
    (concept,) = Study.load(tmp_path / "own.yaml").load_concepts()
    assert concept.name == "politeness" and concept.readout.targets == [" polite", " kind"]
    checked = call("concepts", "check", tmp_path / "politeness.csv")
    assert checked.returncode == 0 and "can be used" in checked.stdout, checked.stdout + checked.stderr


def test_a_concept_may_be_written_out(tmp_path):
    (tmp_path / "politeness.yaml").write_text(blocks("yaml", "Your own concept")[1])
    checked = call("concepts", "check", tmp_path / "politeness.yaml")
    assert checked.returncode == 0 and "politeness can be used" in checked.stdout, checked.stdout + checked.stderr


def test_a_published_suite_is_named_in_a_few_lines(tmp_path):
    (told,) = blocks("yaml", "Published checkpoints")
    shutil.copytree(PROJECT / "params" / "concepts", tmp_path / "concepts")
    (tmp_path / "study.yaml").write_text(told)
    study = Study.load(tmp_path / "study.yaml")
    assert study.checkpoints.repo == "EleutherAI/pythia-410m" and len(study.load_concepts()) == 8


@pytest.mark.skipif(not PUBLIC.is_dir(), reason=f"needs {PUBLIC}, RepE's published files")
def test_the_check_of_a_published_file_says_what_is_shown():
    (shown,) = blocks("text", "Your own concept")
    checked = call("concepts", "check", PUBLIC / "surprise.json")
    for line in shown.splitlines()[1:]:
        words = line.replace("surprise.json", "").replace("…", "").split()
        for word in words:
            assert word in checked.stdout, line


def test_the_studies_of_the_tables_are_there_and_load():
    sections = README.split("\n| study |")[1:]
    rows = [row.split("|")[1] for section in sections for row in section.split("\n\n")[0].splitlines()[2:]]
    named = {name for row in rows for name in re.findall(r"`([\w.-]+)`", row)}
    assert {"toy-instrument", "toy-seeds", "pythia-410m", "crystal"} <= named
    for path in [PROJECT / "params" / f"{name}.yaml" for name in named]:
        assert (Comparison if "variants" in yaml.safe_load(path.read_text()) else Study).load(path)
