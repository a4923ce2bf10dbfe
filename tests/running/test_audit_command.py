"""What commands write into a study's audit, and `steerlib audit`: a table for people, an exit code for pipelines."""

import os
from contextlib import nullcontext

import pytest

import steerlib
from helpers.studies import call
from helpers.workers import Done
from steerlib.files.hashes import file_sha256
from steerlib.results import audit
from steerlib.results.workspace import Job
from steerlib.running import cluster
from steerlib.steering import Direction


@pytest.fixture
def workers(monkeypatch) -> Done:
    """Those of a run, which are done at once."""
    done = Done(Job("probes", 10))
    monkeypatch.setattr(cluster, "client_of", lambda *_, **__: nullcontext(done))
    return done


def told(folder) -> list[dict]:
    return [line.told for line in audit.read(folder / audit.NAME)]


def test_a_run_stands_in_the_audit_with_its_params_and_what_it_came_to(params, workers, tmp_path):
    assert call("run", params, "--outputs", tmp_path, "--again", "emergence").returncode == 1
    begun, ended = told(tmp_path / "tiny")
    assert begun["event"] == "run begins" and begun["again"] == ["emergence"] and len(begun["params"]) == 64
    assert begun["command"][:3] == ["steerlib", "run", str(params)]
    assert ended["event"] == "run ends" and ended["jobs"] == {"done": 7, "failed": 1, "skipped": 2}


def test_a_run_that_is_stopped_ends_in_the_audit_as_well(params, workers, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise SystemExit

    monkeypatch.setattr(workers, "submit", stop)
    call("run", params, "--outputs", tmp_path)
    assert told(tmp_path / "tiny")[-1]["stopped"] == "SystemExit"


def test_a_run_needs_the_audit(params, workers, tmp_path):
    (tmp_path / "tiny" / audit.NAME).mkdir(parents=True)
    done = call("run", params, "--outputs", tmp_path)
    assert done.returncode == 2 and "audit.jsonl: cannot be written (Is a directory)" in done.stderr
    assert not workers.submitted and "Traceback" not in done.stderr


def test_verify_ends_with_a_code_and_tells_the_head_that_is_to_be_noted(tmp_path):
    for name in ("sadness", "sadness"):
        audit.log(tmp_path, "ready", verdicts={name: "deploy"})
    path = tmp_path / audit.NAME
    assert "sadness deploy" in call("audit", "show", path).stdout
    whole = call("audit", "verify", path)
    head = whole.stdout.split()[-1]
    assert whole.returncode == 0 and "2 lines; each is chained" in whole.stdout
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    os.unlink(tmp_path / audit.HEAD)
    assert call("audit", "verify", path).returncode == 0
    cut = call("audit", "verify", path, "--head", head)
    assert cut.returncode == 1 and f"wrong: no line has the hash {head}" in cut.stdout
    absent = call("audit", "verify", tmp_path / "nowhere.jsonl")
    assert absent.returncode == 2 and "nowhere.jsonl: cannot be read (No such file" in absent.stderr


def test_directions_that_leave_a_study_and_come_back_stand_in_its_audit(params, tmp_path):
    (tmp_path / "tiny").mkdir()
    study = steerlib.open(params, tmp_path)
    for _ in range(2):
        found = study.direction("sadness", step=10, layer=1)
    found.save(file := tmp_path / "sadness.safetensors")
    study.load(file).save(tmp_path / "copy.safetensors")
    Direction.load(file)
    lines = told(study.workspace.folder)
    assert [line["event"].split()[1] for line in lines] == ["found", "saved", "loaded", "saved"]
    assert {(line["concept"], line["layer"]) for line in lines} == {("sadness", 1)} and lines[0]["step"] == 10
    assert lines[1]["sha256"] == lines[2]["sha256"] == file_sha256(file)
