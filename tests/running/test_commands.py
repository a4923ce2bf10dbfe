"""Commands that look and tell: suites, checkpoints, onsets; and what a study may share with others."""

import os
import re
import socket
import subprocess
import sys
import warnings
from contextlib import suppress

import numpy as np
import pytest
import yaml

from helpers.studies import PROJECT, SMOKE, call
from steerlib import SteerlibError
from steerlib.checkpoints import suites
from steerlib.numerics.onsets import STATUS
from steerlib.running import cluster as clusters
from steerlib.study import Study


def test_the_command_itself_imports_none_of_the_wings():
    code = (
        "import sys; from steerlib import __main__; print(*(name for name in sys.modules if name[:9] == 'steerlib.'))"
    )
    asked = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert asked.stdout.split() == ["steerlib.__main__"], asked.stderr


@pytest.mark.parametrize(
    "words", [["suites"], ["status", SMOKE], ["checkpoints", SMOKE], ["checkpoints", SMOKE, "--steps"]]
)
def test_a_command_that_only_looks_waits_for_no_library_that_computes(tmp_path, words):
    code = """
import sys
from steerlib import __main__ as program
try:
    program.main()
finally:
    print({"dask", "distributed", "torch", "transformers"} & sys.modules.keys())
"""
    outputs = ["--outputs", tmp_path] if SMOKE in words else []
    command = [sys.executable, "-c", code, *words, *outputs]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert "Traceback" not in done.stderr and done.stdout.splitlines()[-1] == "set()", done.stdout + done.stderr


def test_suites_are_listed_with_every_repository_that_stands_for_others():
    told = call("suites")
    assert told.returncode == 0, told.stderr
    for name, suite in suites.SUITES.items():
        assert name in told.stdout and all(repo in told.stdout for repo in suite.examples)
    assert "crystal needs loading: {trust_remote_code: true" in told.stdout


def test_a_study_that_trains_its_own_model_tells_its_checkpoints_before_and_after(tmp_path):
    told = call("checkpoints", SMOKE, "--outputs", tmp_path)
    assert told.returncode == 0, told.stderr
    assert told.stdout.count("not trained yet") == 3
    made = tmp_path / "smoke" / "checkpoints" / "step=00000060"
    made.mkdir(parents=True)
    (made / "model.safetensors").write_bytes(b"x" * 2000)
    told = call("checkpoints", SMOKE, "--outputs", tmp_path)
    assert told.stdout.count("not trained yet") == 2 and "2.0 kB" in told.stdout


def test_onsets_of_a_table_are_told_and_a_table_that_is_none_is_refused(tmp_path):
    steps = [0, 10, 100, 1000, 10_000]
    rows = [("early", k, s, v) for k, s, v in zip([0] * 5, steps, [0.5, 0.5, 0.9, 0.9, 0.9], strict=True)]
    rows += [("never", 0, s, 0.5) for s in steps]
    lines = ["task,run,step,value,stderr", *(f"{task},{run},{step},{value},0.01" for task, run, step, value in rows)]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    told = call("onsets", tmp_path / "table.csv")
    assert told.returncode == 0, told.stderr
    (early,) = (line for line in told.stdout.splitlines() if " early  " in line)
    (never,) = (line for line in told.stdout.splitlines() if " never  " in line)
    assert re.search(r" \d\d \[\d+–100\] ", early) and never.count("not reached") == 2
    assert f"not reached: {STATUS['not reached']}" in told.stdout
    ordered = call("onsets", tmp_path / "table.csv", "--order", "task", "--least", "0.5")
    assert (
        "tied" in ordered.stdout and "…" not in ordered.stdout and ordered.stdout.count("not reached") == 5
    )  # 0.4 does not matter
    (tmp_path / "bad.csv").write_text("step,value\n0,1\n")
    refused = call("onsets", tmp_path / "bad.csv")
    assert refused.returncode == 2 and "bad.csv: line 1: no column 'run'" in refused.stderr
    assert "Traceback" not in refused.stderr


def shared(folder, concepts, **more) -> Study:
    """A study that names a list of concepts, in a folder beside it."""
    (folder / "lists").mkdir()
    (folder / "lists" / "some.yaml").write_text(yaml.safe_dump({"concepts": concepts, **more}))
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({"name": "s", "checkpoints": {"folder": "."}, "concepts": "lists/some.yaml"}))
    return Study.load(path)


def test_a_shared_list_of_concepts_is_as_if_it_stood_in_the_study(tmp_path):
    study = shared(tmp_path, ["happiness", "own.csv", {"file": "../other.csv", "test": "own.csv", "prompts": "p.txt"}])
    planted, own, other = study.concepts
    assert (planted, own) == ("happiness", "lists/own.csv")
    assert (other.file, other.test, other.prompts) == ("other.csv", "lists/own.csv", "lists/p.txt")
    assert own.path == tmp_path / "lists" / "own.csv"


def test_what_is_no_list_of_concepts_is_refused(tmp_path):
    with pytest.raises(SteerlibError, match=r"some\.yaml: .* no list of them"):
        shared(tmp_path, "happiness")


def test_our_own_english_concepts_are_the_same_wherever_they_are_named():
    for name in ("pythia-70m", "amber"):
        study = Study.load(PROJECT / "params" / f"{name}.yaml")
        assert [concept.name for concept in study.load_concepts()] == [
            *("happiness", "sadness", "anger", "fear", "surprise", "disgust", "truth", "commonsense")
        ]
        for concept in study.load_concepts()[:6]:
            assert len(concept.readout.targets) == 5 and len(concept.readout.foils) == 25
            assert not set(concept.stimuli("fit", 0).texts) & set(concept.stimuli("test", 0).texts)
            assert all(text.endswith(" felt") for text in concept.stimuli("fit", 0).texts)


def test_runs_side_by_side_do_not_want_the_same_port(monkeypatch):
    monkeypatch.setattr(clusters.kernels, "share_server", lambda: None)
    for variable in clusters.THREADS:  # set by a local cluster, and as before afterwards
        monkeypatch.setenv(variable, "1")
    with socket.socket() as other, warnings.catch_warnings():
        with suppress(OSError):  # taken already: as good
            other.bind(("", 8787))
            other.listen()
        warnings.filterwarnings("error", message="Port 8787")
        with clusters.local(1, []) as client:
            assert client.submit(sum, [1, 2]).result() == 3


def test_workers_of_a_local_cluster_share_out_the_gpus(monkeypatch):
    monkeypatch.setattr(clusters.kernels, "share_server", lambda: None)
    for variable in clusters.THREADS:
        monkeypatch.setenv(variable, "1")
    with clusters.local(4, ["3", "5"]) as client:
        visible = client.run(os.getenv, "CUDA_VISIBLE_DEVICES")
    assert np.unique([*visible.values()], return_counts=True)[1].tolist() == [2, 2]
