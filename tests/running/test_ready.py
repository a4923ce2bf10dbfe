"""`steerlib ready`: a table for people, JSON for machines, an exit code for pipelines, and a line for what is wrong."""

import json

import pytest

from helpers.studies import call
from steerlib.results import audit
from steerlib.stages.criteria import CRITERIA, LEVELS


def test_a_study_that_did_not_ask_is_judged_all_the_same(calm, params):
    shown = call("ready", params, "--outputs", calm.parent)
    assert shown.returncode == 0 and "happiness" in shown.stdout and "not ready" in shown.stdout
    told = json.loads(call("ready", params, "--outputs", calm.parent, "--json", "--step", 10).stdout)
    assert (
        told["step"] == 10 and told["method"] == "mean_difference" and {*told["concepts"]} == {"happiness", "sadness"}
    )
    for concept in told["concepts"].values():
        assert concept["verdict"] in LEVELS and {*concept["criteria"]} == {*CRITERIA}
        held = concept["criteria"][concept["held_back"]]
        assert held["outcome"] != "pass" and held["said"]


def test_a_verdict_stands_in_the_audit_and_needs_none(calm, params, monkeypatch):
    call("ready", params, "--outputs", calm.parent, "--step", 10)
    lines = [line.told for line in audit.read(calm / audit.NAME)]
    assert [line for line in lines if (line["event"], line.get("step")) == ("ready", 10)][-1]["verdicts"].keys() == {
        "happiness",
        "sadness",
    }
    monkeypatch.setattr(audit, "NAME", "probes")  # what cannot be written
    told = call("ready", params, "--outputs", calm.parent)
    assert told.returncode == 0 and "happiness" in told.stdout


def test_a_pipeline_is_told_by_the_exit_code(calm, params):
    short = call("ready", params, "--outputs", calm.parent, "--at-least", "explore", "--concept", "sadness")
    assert short.returncode == 1 and "sadness is not ready to explore: effect" in short.stdout
    assert "happiness" not in short.stdout
    assert call("ready", params, "--outputs", calm.parent, "--at-least", "explore", "--json").returncode == 1


@pytest.mark.parametrize(
    "words, told",
    [
        (["--step", "7"], "has no step 7; there are 0, 10, 20"),
        (["--concept", "sadnes"], "did you mean 'sadness'?"),
        (["--method", "pca"], "has no method 'pca'"),
        (
            ["--at-least", "deployed"],
            "none of explore, validate, deploy; did you mean 'deploy'?",
        ),
    ],
)
def test_what_there_is_not_is_told_in_a_line(calm, params, words, told):
    ended = call("ready", params, "--outputs", calm.parent, *words)
    assert ended.returncode == 2 and told in ended.stderr and "Traceback" not in ended.stderr


def test_a_study_that_was_not_run_says_what_to_run(tmp_path, params):
    ended = call("ready", params, "--outputs", tmp_path)
    assert ended.returncode == 2 and f"steerlib run {params}" in ended.stderr


def test_results_of_other_params_are_no_ground_for_a_verdict(calm, params, tmp_path):
    changed = tmp_path / "changed.yaml"
    changed.write_text(params.read_text() + "seed: 1\n")
    ended = call("ready", changed, "--outputs", calm.parent)
    assert ended.returncode == 2 and f"other params; steerlib run {changed}" in ended.stderr
