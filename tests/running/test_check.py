"""`steerlib concepts check`: any file and any study, and every bad file refused by line, without a traceback."""

from __future__ import annotations

import io
import json
import re
import shutil

import numpy as np
import pytest
import yaml
from rich.console import Console

from helpers.concept_files import (
    FEELINGS,
    GOOD,
    LABELLED,
    PLACES,
    POLITE,
    as_csv,
    concept,
    loaded,
    scenarios,
    study,
    written,
)
from helpers.studies import STEPS, call, tiny_study
from steerlib import SteerlibError
from steerlib.checkpoints.listing import Listing
from steerlib.checkpoints.suites import Revision
from steerlib.concepts.check import examine
from steerlib.concepts.reading.records import LONGEST
from steerlib.files.hub import RemoteFile
from steerlib.model.encoder import Encoder
from steerlib.results.workspace import Workspace
from steerlib.running import pipeline
from steerlib.running.check import admit, check, check_tokens, show
from steerlib.study import Study

LEAK = "text,label,group\n" + "".join(f'"{t}",{label},{"ab"[k % 2]}\n' for k, (t, label) in enumerate(LABELLED))
BAD = {  # file name, content, what is said
    "one label": ("a.csv", GOOD.replace(",rude\n", ",polite\n"), "all 18 texts have the label 'polite'"),
    "neither templates nor columns": (
        "a.yaml",
        yaml.safe_dump({"texts": {"polite": POLITE}}),
        "texts: unknown key; allowed here: name, role",
    ),
    "leaked duplicate": ("a.csv", LEAK + f'"{POLITE[0]}",polite,b\n', "line 20: the same text as line 2"),
    "not UTF-8": ("a.csv", GOOD.encode() + b"caf\xe9,polite\n", "line 20: not UTF-8 text (byte 3 of the line)"),
    "UTF-16 without its mark": ("a.csv", GOOD.encode("utf-16-le"), "line 1: holds a zero byte"),
    "long line": (
        "a.csv",
        GOOD + "x" * 10**6 + ",polite\n",
        f"line 20: 1,000,007 characters, the limit is {LONGEST:,}",
    ),
    "long line of YAML": ("a.yaml", "name: a\ntexts: " + "x" * 10**6, "line 2: 1,000,007 characters, the limit is"),
    "long text": (
        "a.json",
        json.dumps([{"text": "x" * 10**6, "label": 1}]),
        "entry 1: text has 1,000,000 characters, the limit",
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
    "same pair": ("a.csv", "positive,negative\nit's,it’s\n", "line 2: positive and negative are the same text"),
    "too few": ("a.csv", "text,label\na,x\nb,y\nc,x\nd,y\n", "2 pairs in 0 templates; at least 2 templates of 2 pairs"),
    "no such file": ("b.csv", None, "b.csv: no such file"),
    "another ending": ("a.txt", GOOD, "expected one that ends in .yaml, .yml, .csv, .jsonl, .json"),
}


def test_a_tokenizer_shows_pieces_and_what_it_cannot_tell_apart(tmp_path, checkpoint):
    path = as_csv(tmp_path / "a.csv", [(f"{who} {how}", how) for who in "abcdefgh" for how in ("glad", "mad")])
    encoder = Encoder.of_files(checkpoint())

    def checked(*targets, foils=(" happy Anna", " sad")):
        asked = {"prompts": ["Anna felt", "a b", "c d"], "targets": [*targets], "foils": [*foils]}
        report = examine(loaded(path, positive="glad", **asked))
        check_tokens(report, encoder)
        return report

    report = checked(" happy home", " glad")
    assert report.notes[0].startswith("2 of 4") and "' happy home' = 'happy' + 'home'" in report.notes
    assert any(line.startswith("first token shared by target and foil: 1 pairs") for line in report.warnings)
    assert not report.problems
    for targets, said in (
        ((" ecstatic",), "' ecstatic' after 'Anna felt' holds what this model's tokenizer has no token for"),
        (
            (" sad ",),
            "are the same tokens, or one begins with the other and is the likelier in any model: ' sad ' ('sad')",
        ),
        (
            (" happy",),
            ": ' happy' ('happy') and ' happy Anna' ('happy' + 'Anna') after 'Anna felt'; change one",
        ),
    ):
        report = checked(*targets)
        assert said in report.problems[0] and report.problems[0].endswith("; and so at 2 more prompts")
        assert report.verdict == "Do not use a as it is: 1 to mend."


def shown(report):
    console = Console(file=io.StringIO(), width=200)
    show(report, console)
    return console.file.getvalue()


def test_the_check_shows_the_frame_and_the_file_that_is_tested_on(tmp_path):
    """Alone and in a study; the overlap that is left is of words, as equal texts are refused."""
    scenarios(tmp_path / "ours.csv")
    other = scenarios(tmp_path / "other.csv", person="He", each=4)
    entry = {"file": "ours.csv", "positive": "fear", "frame": "{} {they} felt", "test": "other.csv"}
    [of_study] = check(study(tmp_path, entry), {})
    options = {name: value for name, value in entry.items() if name != "file"} | {"test": str(other)}
    [alone] = check(tmp_path / "ours.csv", options)
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
    [report] = check(paths[0], {"positive": "fear", "test": str(paths[1])})
    assert "no text of it is fitted on; near-duplicates between fit and test: " in shown(report)


@pytest.mark.parametrize(("name", "content", "said"), BAD.values(), ids=BAD)
def test_a_bad_file_is_refused_by_line_without_a_traceback(tmp_path, name, content, said):
    path = written(tmp_path / name, content)
    with pytest.raises(SteerlibError) as caught:
        check(path, {})
    assert str(caught.value).startswith(f"{path}: ") and said in str(caught.value)


@pytest.mark.parametrize(
    "case", ["leaked duplicate", "not UTF-8", "long line", "one label", "deep JSON", "another ending"]
)
def test_the_command_says_so_and_fails(tmp_path, case):
    name, content, said = BAD[case]
    done = call("concepts", "check", written(tmp_path / name, content))
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stdout + done.stderr


def test_the_command_on_a_clean_file_a_leaky_one_and_a_study(tmp_path):
    clean = call("concepts", "check", written(tmp_path / "manners.csv", GOOD), "--name", "tact")
    assert clean.returncode == 0 and not clean.stderr
    for part in ("polite 9, rude 9", "fit", "test", "by default", "readout.targets: ' polite'", "tact can be used"):
        assert part in clean.stdout
    loaded = concept(tmp_path / "manners.csv").model_dump()
    loaded["templates"][0]["positive"][0] = loaded["templates"][1]["positive"][0]
    loaded["readout"]["prompts"] += [loaded["readout"]["prompts"][0], *loaded["templates"][2]["positive"]]
    again = call("concepts", "check", written(tmp_path / "again.yaml", yaml.safe_dump(loaded)))
    assert again.returncode == 0 and "in several templates, which are never parted: 1 texts" in again.stdout
    assert re.search(r"left out: +1 of (\d+) prompts repeat others: one unit each\n +2 of \1 prompts are", again.stdout)
    entry = {"file": "manners.csv", "frame": "{} It was", "prompts": [*POLITE[:1], "That was", "It was", "She is"]}
    leaky = call("concepts", "check", study(tmp_path, entry))
    assert leaky.returncode == 1 and "leak: 1 readout prompts" in leaky.stdout
    assert "Do not use manners" in leaky.stdout
    params = study(tmp_path, "happiness", "manners.csv", {"file": "manners.csv", "name": "tact"})
    whole = call("concepts", "check", params)
    assert whole.returncode == 0 and "manners can be used" in whole.stdout and "tact can be used" in whole.stdout


# --- the same, asked by a run -------------------------------------------------------------------------------------


@pytest.fixture
def asking(tmp_path, home):
    """A study of the tiny history whose concept is this file, with these options."""
    shutil.copytree(home / "history", tmp_path / "history")
    who = ("She", "He", "Anna", "They", "We")

    def make(targets=(" glad",), foils=(" sad",), **entry) -> Workspace:
        rows = [(f"{name} was {how} {where}", how) for name in who for where in PLACES for how in ("glad", "sad")]
        file = as_csv(tmp_path / "mood.csv", rows)
        asked = {"prompts": [f"{name} felt" for name in who], "targets": [*targets], "foils": [*foils]}
        entry = {"file": str(file), "name": "mood", "positive": "glad"} | asked | entry
        return Workspace(Study.load(tiny_study(tmp_path, STEPS, concepts=["happiness", entry])), tmp_path / "out")

    return make


def test_a_run_refuses_what_the_check_says_not_to_use_before_anything_is_computed(asking, tmp_path):
    leaky = asking(frame="{} It was", prompts=["She was glad home", "That was", "It was", "She is"])
    [report] = check(leaky.study.path, {})
    done = call("run", leaky.study.path, "--outputs", tmp_path / "out")
    assert done.returncode == 2 and not list(tmp_path.glob("out/**/*.nc"))
    assert f"do not use these concepts as they are: mood: {report.problems[0]}" in done.stderr
    begun = asking([" glad"], [" glad and sad", " sad"])
    with pytest.raises(
        SteerlibError, match=r"mood: tokens: concept mood: .* one begins with the other .*' glad' .* after 'She felt'"
    ):
        admit(begun)
    glued = asking(["glad"])
    with pytest.raises(SteerlibError, match=r"mood: tokens: .*'glad' after 'She felt': .* one word"):
        admit(glued)


def test_a_checkpoint_says_whether_a_readout_fits_and_which_other_one_does(asking, monkeypatch):
    """Others are tried in turn where one is weak; all by the verdict alone, whatever the numbers are."""

    def manner_of(found):
        return "judged" if np.isnan(found["readout_rank"]) else ("texts", "words")[found["readout_tokens"] == 1]

    workspace = asking()
    folder, weak = workspace.checkpoints[0].path, {"words"}
    monkeypatch.setattr(
        "steerlib.running.trial.verdict",
        lambda found, role: "weak: so it is" if manner_of(found) in weak else "fits",
    )
    for weak, said in (
        (set(), None),
        ({"words"}, "targets named as the model says them; or `readout: texts`, which fits"),
        ({"words", "texts"}, "named as the model says them; or `readout: judged`, which fits: what the model itself"),
        ({"words", "texts", "judged"}, "them; or `readout: judged` with a classifier as the judge"),
    ):
        [report] = check(workspace.study.path, {}, folder)
        told = "\n".join(report.tried)
        assert re.search(
            r"its 5 prompts lead to .* % of the probability, and the best is no\. \d+ of all next words", told
        )
        assert re.search(r"AUROC [01]\.\d\d \[[01]\.\d\d, [01]\.\d\d\], \d+ pairs of texts", told)
        assert re.search(
            r"its 4 test prompts make an interval [\d.e+-]+ nat wide.*; one of 1 nat, .* counts, takes \d+", told
        )
        assert ("`readout: texts` instead: " in told) == ("its own next words at the prompts: " in told) == bool(weak)
        assert (re.search(r"`readout: judged` instead: of what it writes after its \d+ prompts, ", told) is None) == (
            "texts" not in weak
        )
        assert said is None or re.search(said, report.warnings[-1])
        assert ("readout: weak: so it is. What helps: " in " ".join(report.warnings)) == bool(weak)
    with pytest.raises(SteerlibError, match="--model: nowhere: no such folder"):
        check(workspace.study.path, {}, "./nowhere")


def test_a_run_tells_what_the_check_warns_of_and_no_more_than_a_screen(asking, monkeypatch):
    workspace = asking()
    [report] = check(workspace.study.path, {}, workspace.checkpoints[0].path)
    told = admit(workspace)
    assert {f"mood: {warning}" for warning in report.warnings[:-1]} == {*told} and len(told) == 3
    assert report.warnings[-1].startswith("readout: weak: ")  # of this model, which a run loads in its jobs alone
    monkeypatch.setattr("steerlib.running.check.TOLD", 1)
    assert admit(workspace) == [
        told[0],
        f"{len(told) - 1} more to look at: steerlib concepts check {workspace.study.path}",
    ]

    def stop(*_):
        raise SteerlibError("no workers")

    console = Console(file=io.StringIO(), width=300)
    with pytest.raises(SteerlibError, match="no workers"):
        pipeline.run(workspace.study, workspace.folder.parent, stop, console)
    assert f"note: {told[0]}" in console.file.getvalue()


def test_a_history_of_several_tokenizers_is_told_with_its_steps(asking, tmp_path, caplog):
    """By what they make of the study's texts, as their files may differ in what is no matter."""

    def changed(step, change):
        path = tmp_path / "history" / f"step{step}" / "tokenizer.json"
        about = json.loads(path.read_text())
        change(about)
        path.write_text(json.dumps(about))

    def swap(about):
        vocab = about["model"]["vocab"]
        vocab["e"], vocab["a"] = vocab["a"], vocab["e"]

    workspace, before = asking([" Glad"], [" glad"]), admit(asking([" Glad"], [" glad"]))
    changed(10, lambda about: about["added_tokens"][0].update(lstrip=True))
    assert admit(workspace) == before
    changed(20, swap)
    assert admit(workspace)[0].startswith("step 20: another tokenizer than at step 0: ")
    changed(10, lambda about: about.update(normalizer={"type": "Lowercase"}))
    told = admit(workspace)
    assert any(
        line.startswith("step 10: mood: tokens: concept mood: a target and a foil are the same") for line in told
    )
    changed(10, lambda about: about.update(model={"type": "WordLevel", "vocab": {"a": 1}, "unk_token": "none"}))
    assert admit(workspace)[0].startswith("step 10: another tokenizer than at step 0: this model's tokenizer fails at")
    changed(10, dict.clear)
    admit(workspace)
    assert caplog.messages[-1].startswith("step 10 will fail: ") and "tokenizer cannot be loaded" in caplog.messages[-1]
    for step in (0, 20):
        changed(step, lambda about: about.update(normalizer={"type": "Lowercase"}))
    with pytest.raises(SteerlibError, match="a target and a foil are the same tokens"):
        admit(workspace)


def test_a_repository_of_several_tokenizers_is_told_of_by_what_the_hub_lists():
    def entry(step, oid):
        files = [
            RemoteFile(name=name, size=1, oid=each)
            for name, each in (("tokenizer.json", oid), ("README.md", str(step)))
        ]
        return Revision(revision=f"step{step}", step=step, tokens_seen=-1, files=files)

    whole = {"repo": "a/b", "asked": {}, "entries": [entry(*one) for one in ((0, "a"), (1, "a"), (2, "b"))], "end": 2}
    assert Listing(**whole).remarks() == ["step 2: files of the tokenizer are not those of step 0"]
    assert not Listing(**whole | {"asked": {"tokenizer": "c/d"}}).remarks()
