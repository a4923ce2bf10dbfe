"""What the README and its pages say to type works as printed. Their Python is run on the study that they speak of."""

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
CONCEPTS = "docs/concepts.md"
PAGES = {"README.md": (PROJECT / "README.md").read_text()} | {
    f"docs/{name}.md": (PROJECT / "docs" / f"{name}.md").read_text()
    for name in ("concepts", "checkpoints", "guideline", "pilot", "results", "studies", "trouble", "trust", "glossary")
}
TYPED = re.findall(r"`(make [^`]+|\.venv/bin/steerlib [^`]+)`", "\n".join(PAGES.values()))


def test_the_front_page_is_short_and_leads_to_every_page():
    assert len(PAGES["README.md"].split()) < 1500
    named = set(re.findall(r"docs/(\w+)\.md", PAGES["README.md"])) | {"pythia_evals"}  # which docs/results.md names
    assert {path.stem for path in (PROJECT / "docs").glob("*.md")} <= named


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target, mark in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", PAGES[page]):
        path = (PROJECT / page).parent / target if target else PROJECT / page
        assert path.exists(), target
        headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE) if mark else []
        marks = [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings]
        assert not mark or mark in marks or f'<a id="{mark}">' in path.read_text(), (target, mark)


@pytest.mark.parametrize("line", [line for block in blocks("sh") for line in block.splitlines()] + TYPED)
def test_commands_that_are_shown_are_there(line):
    words = line.partition("#")[0].split() if line.startswith("make") else line.replace("'", "").split()
    if words[0] == "make":  # -n tells what it would do
        made = subprocess.run(["make", "-n", *words[1:]], cwd=PROJECT, capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
    else:
        shown = call(
            *[word for word in words[1:] if word.isalpha()][: 2 if words[1] in ("concepts", "pilot") else 1], "--help"
        )
        assert shown.returncode == 0, shown.stdout + shown.stderr
    for named in re.findall(r"STUDY=(\S+)|(params/\S+\.yaml)", line):
        path = PROJECT / (f"params/{named[0]}.yaml" if named[0] else named[1])
        assert path.exists() or path.stem in ("mine", "politeness"), path  # the reader's own


def test_texts_with_labels_are_enough(tmp_path):
    (csv,), (told, *_) = blocks("csv", CONCEPTS), blocks("yaml", CONCEPTS)
    (tmp_path / "politeness.csv").write_text(csv)
    study = {"name": "own", "checkpoints": {"folder": "."}} | yaml.safe_load(told)
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(study))
    (concept,) = Study.load(tmp_path / "own.yaml").load_concepts()
    assert concept.name == "politeness" and concept.readout.targets == [" polite", " kind"]
    checked = call("concepts", "check", tmp_path / "politeness.csv")
    assert checked.returncode == 0 and "can be used" in checked.stdout, checked.stdout + checked.stderr


def test_a_concept_may_be_written_out(tmp_path):
    (tmp_path / "politeness.yaml").write_text(blocks("yaml", CONCEPTS)[1])
    checked = call("concepts", "check", tmp_path / "politeness.yaml")
    assert checked.returncode == 0 and "politeness can be used" in checked.stdout, checked.stdout + checked.stderr


def test_a_published_suite_is_named_in_a_few_lines(tmp_path):
    (told,) = blocks("yaml", "docs/checkpoints.md", "Published ones")
    shutil.copytree(PROJECT / "params" / "concepts", tmp_path / "concepts")
    (tmp_path / "study.yaml").write_text(told)
    study = Study.load(tmp_path / "study.yaml")
    assert study.checkpoints.repo == "EleutherAI/pythia-410m" and len(study.load_concepts()) == 8


@pytest.mark.skipif(not PUBLIC.is_dir(), reason=f"needs {PUBLIC}, RepE's published files")
def test_the_check_of_a_published_file_says_what_is_shown():
    shown, *_ = blocks("text", CONCEPTS)
    checked = call("concepts", "check", PUBLIC / "surprise.json")
    for line in shown.splitlines()[1:]:
        words = line.replace("surprise.json", "").replace("…", "").split()
        for word in words:
            assert word in checked.stdout, line


def test_the_studies_of_the_tables_are_there_and_load():
    sections = PAGES["docs/studies.md"].split("\n| study |")[1:]
    rows = [row.split("|")[1] for section in sections for row in section.split("\n\n")[0].splitlines()[2:]]
    named = {name for row in rows for name in re.findall(r"`([\w.-]+)`", row)}
    assert {"toy-instrument", "toy-seeds", "pythia-410m", "crystal"} <= named
    for path in [PROJECT / "params" / f"{name}.yaml" for name in named]:
        assert (Comparison if "variants" in yaml.safe_load(path.read_text()) else Study).load(path)
