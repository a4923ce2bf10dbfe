"""Weights are hashed once a study and machine, and never taken for others."""

from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from steerlib.files import hashes
from steerlib.files.hashes import file_sha256
from steerlib.results.freshness import Freshness
from steerlib.results.workspace import Job, Workspace
from steerlib.study import Study


@pytest.fixture
def read(monkeypatch) -> list[Path]:
    """The files that were read whole, so far."""
    seen = []
    monkeypatch.setattr(hashes, "file_sha256", lambda path: seen.append(path) or file_sha256(path))
    return seen


@pytest.fixture
def settled(monkeypatch):
    """What was written just now counts as long ago."""
    monkeypatch.setattr(hashes, "TICK", -(10**9))


@pytest.fixture
def study(tmp_path) -> Path:
    (tmp_path / "outputs" / "mine").mkdir(parents=True)
    return tmp_path / "outputs" / "mine"


@pytest.fixture
def files(tmp_path) -> list[Path]:
    folder = tmp_path / "history" / "step-1"
    folder.mkdir(parents=True)
    for k in (1, 2):
        (folder / f"model-{k}-of-2.safetensors").write_bytes(bytes([k]) * 100)
    return sorted(folder.iterdir())


def right(files: list[Path]) -> list[str]:
    return [file_sha256(file) for file in files]


def test_a_file_is_read_once_and_again_when_it_is_another(files, study, read, settled):
    assert hashes.sha256_of(files, study) == right(files) and read == files
    assert hashes.sha256_of(files, study) == right(files) and read == files
    files[1].write_bytes(bytes(200))
    assert hashes.sha256_of(files, study) == right(files) and read == [*files, files[1]]
    assert hashes.sha256_of(files, study) == right(files) and len(read) == 3
    assert len(list((study / "weights").iterdir())) == 1


def _in_place(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def _renamed(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(bytes(file.stat().st_size))
    other.rename(file)


@pytest.mark.parametrize("change", [_in_place, _renamed])
def test_a_file_of_equal_size_and_time_is_another(files, study, read, settled, change):
    hashes.sha256_of(files, study)
    before, old = files[0].stat(), right(files)
    time.sleep(0.05)  # more than the clock of a local disk's tick
    change(files[0])
    os.utime(files[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert files[0].stat().st_size == before.st_size and files[0].stat().st_mtime_ns == before.st_mtime_ns
    assert hashes.sha256_of(files, study) == right(files) != old


def test_what_was_written_just_now_is_not_noted(files, study, read):
    """A change within a tick of the file system's clock would leave size and times as they are."""
    for file in files:
        os.utime(file, (0, 0))  # whatever it says of itself
    for _ in range(2):
        assert hashes.sha256_of(files, study) == right(files)
    assert len(read) == 4 and not (study / "weights").exists()


def test_a_file_that_changes_while_it_is_read_is_read_again(files, study, settled, monkeypatch):
    def changing(path: Path) -> str:
        found = file_sha256(path)
        if path == files[0]:
            path.write_bytes(bytes(300))
        return found

    monkeypatch.setattr(hashes, "file_sha256", changing)
    hashes.sha256_of(files, study)
    monkeypatch.undo()
    assert hashes.sha256_of(files, study) == right(files)


@pytest.mark.parametrize("notes", [b"", b"[1]", b'{"a"', b"\xff"])
def test_notes_that_are_no_use_are_done_without(files, study, settled, notes):
    hashes.sha256_of(files, study)
    (path,) = (study / "weights").iterdir()
    path.write_bytes(notes)
    assert hashes.sha256_of(files, study) == right(files)


MILLION = 10**6  # the nanoseconds of a clock that tells milliseconds at best


@pytest.mark.parametrize(("last", "tick"), [(1, 10**8), (MILLION + 1, 10**8), (0, 2 * 10**9), (MILLION, 2 * 10**9)])
def test_a_file_has_settled_once_its_clock_has_moved_on(tmp_path, monkeypatch, last, tick):
    """Two seconds where its times are round, as of FAT; a twentieth of it where they are not."""
    file = tmp_path / "file"
    file.touch()
    latest = file.stat().st_ctime_ns // 10**9 * 10**9 + 10**10 + last
    os.utime(file, ns=(0, latest))
    found = []
    for now in (latest + tick, latest + tick + 1):
        monkeypatch.setattr("time.time_ns", lambda now=now: now)
        found.append(hashes.settled(file))
    assert found == [False, True]


def test_a_file_is_called_what_git_calls_it(tmp_path):
    (tmp_path / "file").write_text("hello\n")
    assert hashes.git_id(tmp_path / "file") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_where_nothing_can_be_noted_files_are_read(files, study, tmp_path, settled):
    assert hashes.sha256_of([], study) == [] and not (study / "weights").exists()
    assert hashes.sha256_of(files[:1], study) == right(files[:1])
    shutil.rmtree(study / "weights")
    (study / "weights").write_text("a file where the folder should be")
    assert hashes.sha256_of(files, study) == right(files)
    nowhere = tmp_path / "outputs" / "not there"
    assert hashes.sha256_of(files, None) == hashes.sha256_of(files, nowhere) == right(files) and not nowhere.exists(), (
        "looking makes no folder"
    )


def test_folders_of_one_name_are_two(files, study, tmp_path, settled):
    """As a checkpoint and the same one fine-tuned."""
    other = tmp_path / "tuned" / "step-1"
    shutil.copytree(files[0].parent, other)
    (other / files[0].name).write_bytes(bytes(100))
    tuned = sorted(other.iterdir())
    for _ in range(2):
        assert hashes.sha256_of(files, study) == right(files) != hashes.sha256_of(tuned, study) == right(tuned)
    assert len(list((study / "weights").iterdir())) == 2


def test_many_at_once_find_the_same(files, study, settled):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: hashes.sha256_of(files, study), range(64)))
    assert all(one == right(files) for one in found)
    assert hashes.sha256_of(files, study) == right(files)


def test_a_study_reads_its_weights_once_whoever_asks(files, study, read, settled, tmp_path):
    params = {"name": "mine", "checkpoints": {"folder": "history"}, "concepts": ["happiness"]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(params))
    keys = set()
    for _ in range(3):  # the driver, a worker, a notebook
        workspace = Workspace(Study.load(tmp_path / "mine.yaml"), tmp_path / "outputs")
        keys.add(str(Freshness(workspace).key(Job("probes", 1))))
    assert len(keys) == 1 and read == files
    files[0].write_bytes(bytes(100))
    again = Workspace(Study.load(tmp_path / "mine.yaml"), tmp_path / "outputs")
    assert str(Freshness(again).key(Job("probes", 1))) not in keys
