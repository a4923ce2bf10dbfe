"""How long a study takes is told before it is run: about as long as it took, and more for what is more to do."""

import json

import pytest

from helpers.hub import tiny_checkpoints
from helpers.studies import PROJECT
from steerlib.model import writing
from steerlib.results.workspace import Job, Workspace
from steerlib.running import estimate
from steerlib.running.estimate import Estimate, Sizes, about, worded
from steerlib.study import Study

REFERENCE = json.loads((PROJECT / "outputs" / "reference" / "toy" / "run.json").read_text())
READS, PACE = 2.05, 0.77  # there: its rates of reading and of training, and its Python against where seconds are from


@pytest.fixture(autouse=True)
def as_then(monkeypatch):
    """This machine is as fast as that of the reference."""
    rate = REFERENCE["pretraining"]["flop_per_second"] / estimate.TRAINED
    monkeypatch.setattr(estimate, "rate", lambda *_, read=False: rate * (READS if read else 1))
    monkeypatch.setattr(estimate.timeit, "repeat", lambda *_, **__: [estimate.LOOP * PACE])
    monkeypatch.setattr(estimate, "cpu_count", lambda: 2)


def opened(outputs, **changes) -> Workspace:
    study = Study.load(PROJECT / "params" / "smoke.yaml").model_dump(mode="json") | changes
    return Workspace(Study.model_validate(study), outputs)


def test_as_many_texts_are_written_side_by_side_as_is_counted_with():
    assert estimate.TEXTS == writing.AT_ONCE


def test_the_toy_is_said_to_take_about_as_long_as_it_took(tmp_path):
    workspace = Workspace(Study.load(PROJECT / "params" / "toy.yaml"), tmp_path)
    found, jobs = Estimate(workspace), [job for job in workspace.jobs() if job.stage in REFERENCE["stages"]]
    assert 1 / 1.5 < found.seconds(jobs) / REFERENCE["runs"][-1]["wall_seconds"] < 1.5
    for stage in ("probes", "interventions"):
        told = sum(found.of(job) - estimate.JOB + 0.5 for job in jobs if job.stage == stage)
        assert 1 / 1.5 < told / REFERENCE["stages"][stage]["cpu_seconds"] < 1.5, stage


def test_training_and_reading_each_have_their_rate(tmp_path, monkeypatch):
    def seconds(trained: float, read: float) -> list[float]:
        monkeypatch.setattr(estimate, "rate", lambda *_, **asked: read if asked.get("read") else trained)
        found = Estimate(opened(tmp_path))
        return [found.of(Job("pretraining")), found.of(Job("probes", 0))]

    fast = seconds(1e12, 1e12)
    for rates, slower in (((1e9, 1e12), [True, False]), ((1e12, 1e9), [False, True])):
        assert [now > before + 0.1 for now, before in zip(seconds(*rates), fast, strict=True)] == slower


def test_what_is_more_takes_longer(tmp_path):
    def seconds(**changes) -> float:
        workspace = opened(tmp_path, **changes)
        return Estimate(workspace).seconds(workspace.jobs())

    least, plan = seconds(), opened(tmp_path).study.model_dump(mode="json")
    for part, key, more in (
        ("pretraining", "steps", 12_000),
        ("pretraining", "model", {"hidden": 256, "layers": 8, "heads": 2, "context": 64}),
        ("checkpoints", "steps", [0, 20, 40, 60, 80, 100, 120]),
        ("probes", "methods", ["mean_difference", "pca", "logistic", "lda", "leace"]),
        ("sweep", "neutral_texts", 900),
        ("generation", "tokens", 50),
        ("instrument", "draws", 400),
    ):
        assert seconds(**{part: plan[part] | {key: more}}) > least + 0.2, (part, key)
    assert seconds(concepts=["happiness", "placebo"]) < least - 0.5


def test_a_models_size_is_its_configs_whatever_its_architecture(tmp_path):
    (checkpoint,) = tiny_checkpoints(tmp_path / "history", [5], "llama", width=16).values()
    workspace = opened(tmp_path, pretraining=None, checkpoints={"folder": str(tmp_path / "history")}, instrument=None)
    words = json.loads((checkpoint / "config.json").read_text())["vocab_size"]
    assert Estimate(workspace).sizes == Sizes(16, 2, words) and about(workspace, workspace.jobs()).startswith(
        " (about "
    )
    (checkpoint / "config.json").write_text("{}")
    assert about(workspace, []) == "", "nothing is said of a model whose size is not known"


def test_an_estimate_has_two_figures_at_most():
    assert [worded(s) for s in (3, 44, 89, 90, 254, 5300, 86_400, 1e6)] == [
        *("10 seconds", "40 seconds", "90 seconds", "1.5 minutes", "4.2 minutes", "88 minutes"),
        *("24 hours", "280 hours"),
    ]
