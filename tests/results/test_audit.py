"""The audit of a study: whatever is done to its lines is told by number; one is written whole or not."""

import errno
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from steerlib import SteerlibError
from steerlib.files import store
from steerlib.results import audit


@pytest.fixture(scope="module")
def lines(tmp_path_factory) -> tuple[list[bytes], bytes]:
    """Those of an audit of six, and its head."""
    folder = tmp_path_factory.mktemp("audited")
    for number in range(1, 7):
        audit.log(folder, "run", params=f"params {number}", folder=folder)
    return (folder / audit.NAME).read_bytes().splitlines(keepends=True), (folder / audit.HEAD).read_bytes()


@pytest.fixture
def left(lines, tmp_path):
    """What is left of them, in a folder with that head."""

    def leave(change):
        (tmp_path / audit.HEAD).write_bytes(lines[1])
        (tmp_path / audit.NAME).write_bytes(b"".join(change(list(lines[0]))))
        return tmp_path / audit.NAME

    return leave


def test_a_line_tells_when_who_and_by_what_code(lines):
    told = json.loads(lines[0][0])
    assert told["event"] == "run" and told["params"] == "params 1" and told["who"] and told["commit"]
    assert told["time"].endswith("+00:00") and told["command"] and told["previous"] == audit.FIRST


@pytest.mark.parametrize(
    ("change", "told"),
    {
        "the first is removed": (lambda was: was[1:], "line 1 was removed"),
        "one is removed": (lambda was: was[:2] + was[3:], "line 3 was removed"),
        "two are removed": (lambda was: was[:2] + was[4:], "lines 3 to 4 were removed"),
        "one is removed, and the next numbered as it": (
            lambda was: [*was[:2], was[3].replace(b'"line": 4', b'"line": 3'), *was[4:]],
            "line 4 was removed",
        ),
        "the first is altered": (lambda was: [was[0].replace(b"params", b"PARAMS"), *was[1:]], "line 1 was altered"),
        "one is altered": (
            lambda was: [*was[:2], was[2].replace(b"params 3", b"params 9"), *was[3:]],
            "line 3 was altered",
        ),
        "a digit becomes huge": (
            lambda was: [*was[:2], was[2].replace(b'"line": 3', b'"line": 3000000000000'), *was[3:]],
            "lines 7 to 2999999999999 were removed",
        ),
        "the last is altered": (lambda was: [*was[:5], was[5].replace(b"run", b"ran")], "line 6 was altered"),
        "two change places": (
            lambda was: [*was[:2], was[3], was[2], *was[4:]],
            "line 3 stands behind line 4: moved, or put in",
        ),
        "one is copied": (lambda was: was[:3] + was[2:], "line 3 stands behind line 3: moved, or put in"),
        "the last are cut off": (lambda was: was[:3], "lines 4 to 6 were cut off"),
        "all are cut off": (lambda was: [], "lines 1 to 6 were cut off"),
        "it is cut in the middle": (lambda was: [*was[:2], was[2][:50], *was[3:]], "line 3 cannot be read"),
        "it is cut in the last line": (lambda was: [*was[:5], was[5][:50]], "line 6 cannot be read"),
        "others' text is put in": (lambda was: [*was[:3], b"[" * 9999 + b"\n", *was[3:]], "line 4 cannot be read"),
    }.values(),
)
def test_what_was_done_to_its_lines_is_told_with_their_numbers_and_still_after_more_are_written(left, change, told):
    path = left(change)
    assert any(line.startswith(told) for line in audit.verify(path).wrong), audit.verify(path).wrong
    audit.log(path.parent, "run")
    assert audit.verify(path).wrong


def test_an_audit_as_it_was_written_is_right_and_any_earlier_head_of_it_is_in_it(left, lines):
    path = left(lambda was: was)
    found = audit.verify(path)
    assert not found.wrong and not found.remarks and found.head.line == 6
    audit.log(path.parent, "run")
    assert not audit.verify(path, noted=found.head.sha256).wrong


def test_who_cuts_the_last_lines_off_and_writes_the_head_anew_is_found_by_a_head_that_was_noted_elsewhere(left):
    head = audit.verify(path := left(lambda was: was)).head
    left(lambda was: was[:5])
    (path.parent / audit.HEAD).unlink()
    assert not audit.verify(path).wrong and "cut off is not known" in audit.verify(path).remarks[0]
    (told,) = audit.verify(path, noted=head.sha256).wrong
    assert "no line has the hash" in told


@pytest.mark.parametrize("all_but", [50, 1])
def test_a_kill_while_a_line_is_written_loses_that_line_alone(left, tmp_path, all_but):
    path = left(lambda was: [*was[:5], was[5][:-all_but]])
    store.write_json(tmp_path / audit.HEAD, {"line": 5, "sha256": audit.read(path)[4].sha256})  # it is written later
    assert audit.verify(path).wrong == ["line 6 cannot be read: it was altered, or broke off when it was written"]
    audit.log(tmp_path, "run")
    found = audit.verify(path)
    lost = ["line 6 broke off when it was written: by a kill, or a full disk"] * (all_but > 1)
    assert not found.wrong and found.remarks == lost
    assert [line.number for line in audit.read(path)] == [1, 2, 3, 4, 5, 6, 7]


def test_many_write_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(
        audit, "command", lambda: time.sleep(0.01)
    )  # between reading the last line and writing the next
    with ThreadPoolExecutor(4) as pool:
        assert not [*filter(None, pool.map(lambda n: audit.log(tmp_path, "run", n=n), range(12)))]
    found = audit.verify(tmp_path / audit.NAME)
    assert found.head.line == 12 and not found.wrong and not found.remarks
    assert {line.told["n"] for line in audit.read(tmp_path / audit.NAME)} == {*range(12)}


def test_a_disk_that_is_full_leaves_the_audit_as_it_was_and_who_only_reads_is_told(left, monkeypatch, caplog):
    path = left(lambda was: was)
    before = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(SteerlibError, match=r"audit\.jsonl: cannot be written .No space left.*free some space"):
            audit.log(path.parent, "run")
        audit.note(path.parent, "ready")
    assert path.read_bytes() == before and "not noted in the audit" in caplog.text
    audit.note(path.parent / "nowhere", "ready")
    assert not (path.parent / "nowhere").exists()


def test_what_json_cannot_tell_is_refused(tmp_path):
    with pytest.raises(SteerlibError, match="would not be JSON"):
        audit.log(tmp_path, "run", value=float("nan"))
    assert not (tmp_path / audit.NAME).exists()


def test_who_did_it_may_be_said(monkeypatch):
    monkeypatch.setenv(audit.USER, "reviewer 2")
    assert audit.who() == "reviewer 2"
