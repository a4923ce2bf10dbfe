"""A study of one's own checkpoints, written from what lies in a folder: it loads, and says what was found."""

import io
import shutil

import pytest
import yaml

from helpers.studies import call
from steerlib.checkpoints.history import history
from steerlib.study import Study

CONCEPT = "text,label\n" + "".join(f"please do number {k},polite\ndo number {k} now,rude\n" for k in range(8))


@pytest.fixture
def home(tmp_path, checkpoint, monkeypatch):
    """The folder that a user stands in, with checkpoints of which one is spoilt, and a concept."""
    for step in (10, 20, 30):
        checkpoint(step, "llama")
    (tmp_path / "history" / "step-30" / "config.json").unlink()
    (tmp_path / "history" / "step-20" / "trainer_state.json").write_text('{"num_input_tokens_seen": 2048}')
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "polite.csv").write_text(CONCEPT)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def test_a_study_is_written_from_a_folder_with_what_was_found_in_it(home, checkpoint):
    told = call("new", "../history", "--concept", "polite.csv", "--positive", "polite", "--name", "mine")
    path = home / "params" / "mine.yaml"
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines()[1:] == [
        "  steerlib concepts check params/mine.yaml --model ../history/step-20", "  steerlib run params/mine.yaml"
    ]  # fmt: skip
    text = path.read_text()
    for found in ("3 checkpoints, step 10 to 30; LlamaForCausalLM", "3 blocks of width 32", "step 30 will fail: "):
        assert found in text
    assert "trainer_state.json tells the tokens seen: 2.05k at step 20" in text and len(text.splitlines()) < 18
    study = Study.load(path)
    assert [one.step for one in history(study, home)] == [10, 20, 30] and study.load_concepts()[0].name == "polite"
    again = call("new", "../history", "--concept", "polite.csv", "--name", "mine")
    assert again.returncode == 2 and "is there already" in again.stderr and path.read_text() == text
    checkpoint(0, "llama"), (home / "params" / "mine.yaml").unlink()
    assert call("new", "../history", "--concept", "happiness", "--name", "mine").returncode == 0
    assert "# untrained: true" in path.read_text() and "concepts: [happiness]" in path.read_text()


def test_a_tokenizer_that_the_checkpoints_lack_can_be_named_or_is_their_bases(home, checkpoint):
    shutil.copytree(home.parent / "history" / "step-10", whole := home.parent / "whole")
    for file in (home.parent / "history").glob("*/tokenizer*"):
        file.unlink()
    words = ("new", "../history", "--concept", "polite.csv", "--overwrite")
    told = call(*words)
    assert told.returncode == 2 and "holds no tokenizer" in told.stderr and "--tokenizer" in told.stderr
    for option in ("--tokenizer", "--base"):
        assert call(*words, option, str(whole)).returncode == 0
        study = Study.load(home / "params" / "history.yaml")
        assert {one.tokenizer for one in history(study, home) if one.step} == {whole.resolve()}


def test_what_is_not_told_is_asked_for(home, checkpoint, monkeypatch):
    checkpoint(30, "llama").rename(home.parent / "base model")
    monkeypatch.setattr("sys.stdin", io.StringIO("../history\npolite.csv\n\n"))
    told = call("new", "--base", "../base model")
    assert told.returncode == 0, told.stderr
    given = yaml.safe_load((home / "params" / "history.yaml").read_text())
    assert given["checkpoints"] == {"folder": "../../history", "base": "../../base model", "steps": "all"}
    assert given["name"] == "history" and given["concepts"] == [{"file": "../polite.csv"}]
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert call("new").returncode != 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["../histori", "--concept", "polite.csv"], "histori: no such folder; did you mean 'history'?"),
        (["../history", "--concept", "polit.csv"], "polit.csv: no such file; did you mean 'polite.csv'?"),
        (["../history", "--concept", "joy"], "'joy' is neither a planted concept"),
        (["../history", "--concept", "polite.csv", "--base", "./no"], "checkpoints.base: "),
        (["../history/step-30", "--concept", "polite.csv"], "is one checkpoint itself"),
        (["../history", "--concept", "polite.csv", "--name", "No name"], "name: 'No name' is not allowed"),
    ],
)
def test_what_cannot_be_used_is_told_in_a_line_and_nothing_is_written(home, words, said):
    told = call("new", *words)
    assert told.returncode == 2 and said in told.stderr and len(told.stderr.splitlines()) == 1, told.stderr
    assert not (home / "params").exists()
