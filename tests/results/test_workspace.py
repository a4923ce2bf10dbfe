"""The job graph: what depends on what, what makes a result stale, and what is read when something failed."""

import json
import shutil
import subprocess
import sys
from io import StringIO

import numpy as np
import pytest
import xarray as xr
import yaml
from rich.console import Console

from helpers.concept_files import LABELLED, as_csv
from steerlib import SteerlibError
from steerlib.results.freshness import DRIVEN, Begun, Freshness, write_stamp
from steerlib.results.keys import hashes_of_files
from steerlib.results.provenance import PROJECT, peak_rss
from steerlib.results.tree import collect
from steerlib.results.workspace import Job, Workspace
from steerlib.running.notebook import OpenJob
from steerlib.running.tables import status_of_study
from steerlib.stages.table import STAGES
from steerlib.study import Study

OPTIONAL = {"finetuning": {}, "generation": {}, "transfer": {}, "instrument": {"steps": [2]}, "readiness": {}}


@pytest.fixture
def opened(tmp_path, checkpoint):
    """Opens a study of three checkpoints, with some params changed."""
    for step in (1, 2, 3):
        path = checkpoint(step) / "weight.bin"
        (path.parent / "pytorch_model.bin").write_bytes(bytes([step]))  # other weights at every step
        (path.parent / "model.safetensors").unlink()

    def workspace(**changes) -> Workspace:
        params = {"name": "graph", "checkpoints": {"folder": "history"}, "concepts": ["happiness"]} | changes
        (tmp_path / "graph.yaml").write_text(yaml.safe_dump(params))
        return Workspace(Study.load(tmp_path / "graph.yaml"), tmp_path / "outputs")

    return workspace


def finish(workspace: Workspace, jobs: list[Job] | None = None, value: float = 0.0) -> None:
    """Let jobs be done, as far as files and stamps tell."""
    for job in workspace.jobs() if jobs is None else jobs:
        begun = Begun.of(workspace, job)
        if job.stage == "finetuning":
            folder = workspace.analysed[job.step].path
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "model.safetensors").write_bytes(bytes([job.step, 7]))
            workspace = Workspace(workspace.study, workspace.folder.parent)
        workspace.save(job, xr.Dataset({"loss": ("update", np.array([value]))}))
        write_stamp(workspace, job, begun, 0.0)


def named(jobs) -> set[str]:
    return {str(job) for job in jobs}


def test_every_row_is_whole():
    params = json.loads(Study.load(PROJECT / "params" / "smoke.yaml").model_dump_json())
    for name, stage in STAGES.items():
        assert (PROJECT / "notebooks" / f"{stage.notebook}.ipynb").exists(), name
        for part in stage.params:
            first, *rest = part.split(".")
            assert first in params and all(key in params[first] for key in rest)
        assert all(need.stage in STAGES for need in stage.needs)
        earlier = list(STAGES)[: list(STAGES).index(name)]
        assert all(need.stage in earlier for need in stage.needs), "jobs stand after those they need"


def test_optional_stages_are_jobs_of_the_studies_that_ask_for_them(opened):
    assert {job.stage for job in opened().jobs()} == {"probes", "interventions", "similarity", "emergence"}
    jobs = opened(**OPTIONAL).jobs()
    assert {job.stage for job in jobs} == {*STAGES} - {"pretraining"}
    assert [job.step for job in jobs if job.stage == "instrument"] == [2]
    workspace = opened(**OPTIONAL)
    assert list(workspace.needs(Job("probes", 2))) == [Job("finetuning", 2)]
    assert {*workspace.needs(Job("emergence"))} == {job for job in jobs if job.step is not None}
    assert not any(workspace.needs(Job("emergence")).values())
    assert workspace.needs(Job("similarity", 3)) == {Job("probes", 3): True, Job("probes", 2): False}
    assert workspace.needs(Job("similarity", 1)) == {Job("probes", 1): True, Job("probes", 3): False}


@pytest.mark.parametrize("asked", ["generation", "instrument"])
def test_asking_for_more_redoes_nothing_else(opened, asked):
    finish(opened())
    assert Freshness(opened()).todo() == []
    more = opened(**{asked: OPTIONAL[asked]})
    stage = "generations" if asked == "generation" else asked
    assert {job.stage for job in Freshness(more).todo()} == {stage, "emergence"}
    finish(more)
    assert Freshness(more).todo() == []
    assert Freshness(opened()).todo() == [Job("emergence")], "and no longer asking for it only collects anew"


def test_one_more_checkpoint_under_the_instrument_leaves_the_others(opened):
    finish(opened(instrument={"steps": [2]}))
    assert named(Freshness(opened(instrument={"steps": [2, 3]})).todo()) == {"instrument step 3", "emergence"}
    assert "instrument step 2" in named(Freshness(opened(instrument={"steps": [2], "draws": 50})).todo())


def test_changed_params_touch_what_is_made_from_them(opened):
    finish(opened(**OPTIONAL))
    stages = lambda **changes: {job.stage for job in Freshness(opened(**OPTIONAL | changes)).todo()}  # noqa: E731
    assert stages() == set()
    assert stages(emergence={"bootstrap": 300}) == {"emergence", "readiness"}
    assert stages(emergence={"shuffled": 300}) == {*STAGES} - {"pretraining", "finetuning"}
    assert stages(sweep={"kl_budget": 0.2}) == {*STAGES} - {"pretraining", "finetuning", "probes", "similarity"}
    assert stages(generation={"tokens": 5}) == {"generations", "emergence", "readiness"}
    assert stages(readiness={"gain": 0.2}) == {"readiness"}
    assert stages(similarity={"texts": 64}) == {*STAGES} - {"pretraining", "finetuning"}
    assert stages(finetuning={"steps": 3}) == {*STAGES} - {"pretraining"}


def test_a_step_for_the_instrument_that_there_is_not_is_refused(opened):
    with pytest.raises(SteerlibError, match=r"graph\.yaml: instrument\.steps: step 5 is not .* they are 1, 2, 3"):
        opened(instrument={"steps": [2, 5]}).jobs()


# --- fine-tuned checkpoints --------------------------------------------------------------------------------------


def test_a_study_with_finetuning_analyses_the_finetuned_weights(opened):
    plain = opened()
    finish(plain)
    keys = {job: Freshness(plain).key(job) for job in plain.jobs()}
    tuned = opened(finetuning={})
    assert {job.stage for job in Freshness(tuned).todo()} == {
        "finetuning",
        "probes",
        "interventions",
        "similarity",
        "emergence",
    }
    finish(tuned)
    tuned = opened(finetuning={})
    assert Freshness(tuned).todo() == []
    original, analysed = tuned.checkpoints[2], tuned.analysed[2]
    assert tuned.checkpoint(Job("finetuning", 2)) == original
    assert OpenJob(tuned, Job("probes", 2)).checkpoint == analysed != original
    for stage in ("finetuning", "probes", "interventions"):
        saved = tuned.read(stage, 2)
        assert saved.weights_sha256.item() == analysed.weights_sha256 != original.weights_sha256
        assert saved.revision.item() == "step-2"
    assert tuned.read("finetuning", 2).original_weights_sha256.item() == original.weights_sha256
    assert {job: Freshness(opened()).key(job) for job in keys if job.stage == "probes"} == {
        job: key for job, key in keys.items() if job.stage == "probes"
    }


def test_a_finetuned_checkpoint_that_is_gone_is_made_again(opened):
    finish(opened(finetuning={}))
    shutil.rmtree(opened(finetuning={}).analysed[2].path)
    workspace = opened(finetuning={})
    assert Freshness(workspace).state(Job("finetuning", 2)) == "missing"
    assert named(Freshness(workspace).todo()) >= {"finetuning step 2", "probes step 2", "emergence"}
    assert "probes step 1" not in named(Freshness(workspace).todo())


def test_weights_of_a_killed_finetuning_are_not_taken_for_those_of_an_earlier_one(opened):
    """Other params, killed between the folder and the stamp, and the params of before again."""
    finish(opened(finetuning={}))
    (opened(finetuning={}).analysed[2].path / "model.safetensors").write_bytes(b"of other params")
    assert Freshness(opened(finetuning={})).state(Job("finetuning", 2)) == "missing"


def test_equal_checkpoints_are_one_point_also_when_finetuned(opened, tmp_path, capsys):
    shutil.copy(tmp_path / "history/step-1/pytorch_model.bin", tmp_path / "history/step-2/pytorch_model.bin")
    workspace = opened(finetuning={})
    finish(workspace)
    collected = collect(opened(finetuning={}))
    assert list(collected["probes"].step.values) == [1, 3] == list(collected["finetuning"].step.values)
    assert "step 2 is left out; its weights are those of step 1" in capsys.readouterr().out


def test_the_content_of_a_file_that_the_params_name_counts(opened, tmp_path):
    plan = {"corpus": "own.txt"}
    with pytest.raises(SteerlibError, match=r"graph\.yaml: finetuning\.corpus: .*own\.txt: No such file"):
        hashes_of_files(opened(finetuning=plan), "finetuning")
    (tmp_path / "own.txt").write_text("one\n")
    finish(opened(finetuning=plan))
    assert Freshness(opened(finetuning=plan)).todo() == []
    (tmp_path / "own.txt").write_text("two\n")
    assert Job("finetuning", 1) in Freshness(opened(finetuning=plan)).todo()


@pytest.mark.parametrize("judged", [False, True])
def test_another_classifier_or_autoencoder_in_the_same_place_counts(opened, tmp_path, judged):
    """A classifier also where a readout is what it says of texts."""
    manner = {"file": str(as_csv(tmp_path / "manner.csv", LABELLED)), "readout": "judged"}
    plan = {
        "concepts": ["happiness", *[manner] * judged],
        "generation": {"classifier": "judge", "labels": {"happiness": "joy"}},
        "probes": {"methods": ["mean_difference", {"sae": {"file": "sae.safetensors", "layer": 1}}]},
    }
    (tmp_path / "judge").mkdir()
    for name in ("sae.safetensors", "judge/config.json", "judge/model.safetensors"):
        (tmp_path / name).write_bytes(b"one")
    finish(opened(**plan))
    assert Freshness(opened(**plan)).todo() == []
    (tmp_path / "judge" / "model.safetensors").write_bytes(b"two")
    read = {"probes", "interventions", "similarity"} if judged else set()
    assert {job.stage for job in Freshness(opened(**plan)).todo()} == {"generations", "emergence"} | read
    (tmp_path / "judge" / "model.safetensors").write_bytes(b"one")
    (tmp_path / "sae.safetensors").write_bytes(b"two")
    assert {"probes", "interventions"} <= {job.stage for job in Freshness(opened(**plan)).todo()}


# --- when something failed ---------------------------------------------------------------------------------------


def test_what_does_not_hold_any_more_is_not_read(opened):
    """A checkpoint that fails on a rerun leaves its older file behind; nobody may take it for today's."""
    finish(opened())
    again = opened(probes={"pairs": 48})
    assert OpenJob(again, Job("similarity", 1)).read_previous_and_final("probes") == [None, None]
    finish(again, [Job("probes", step) for step in (1, 3)])  # step 2 failed
    previous, final = OpenJob(again, Job("similarity", 3)).read_previous_and_final("probes")
    assert previous is None and final is not None
    without = Freshness(again).key(Job("similarity", 3))
    finish(again, [Job("probes", 2)])
    previous, _ = OpenJob(again, Job("similarity", 3)).read_previous_and_final("probes")
    assert previous is not None and Freshness(again).key(Job("similarity", 3)) != without


def test_a_result_without_a_stamp_is_for_notebooks_run_by_hand(opened, monkeypatch):
    workspace = opened()
    finish(workspace)
    workspace.stamp(Job("probes", 2)).unlink()
    assert Freshness(workspace).usable(Job("probes", 2))
    told = Console(file=StringIO(), width=200)
    status_of_study(workspace, told)
    assert "1 missing\nnote: 1 of the missing lie here without a stamp" in told.file.getvalue()
    monkeypatch.setenv(DRIVEN, "1")
    assert not Freshness(workspace).usable(Job("probes", 2))


def test_optional_results_are_collected_where_they_are_and_not_asked_for(opened, capsys):
    workspace = opened(**OPTIONAL)
    finish(workspace)
    workspace = opened(**OPTIONAL)
    (workspace.data(Job("generations", 3))).unlink()
    (workspace.data(Job("interventions", 1))).unlink()
    collected = collect(workspace)
    steps = {stage: list(dataset.step.values) for stage, dataset in collected.items()}
    assert steps["probes"] == steps["interventions"] == [2, 3]
    assert steps["generations"] == steps["instrument"] == [2]
    assert "step 1 is left out; it was not analysed in full" in capsys.readouterr().out


def test_the_record_of_a_failed_analysis_of_all_is_stale(opened):
    """So that the command does not print an earlier run's table as if it were this one's."""
    finish(opened())
    again = opened(probes={"pairs": 48})
    finish(again, [job for job in again.jobs() if job.stage != "emergence"], value=1.0)
    assert Freshness(again).state(Job("emergence")) == "stale"


# --- what a result costs -----------------------------------------------------------------------------------------


def test_a_stamp_says_how_much_memory_its_notebook_took(opened):
    workspace = opened()
    finish(workspace, [Job("probes", 1)])
    assert peak_rss() / 2 < Freshness(workspace).stamp(Job("probes", 1)).peak_rss_bytes <= peak_rss()


def test_peak_memory_is_the_most_a_process_has_held_itself():
    """What it gave back counts, and not what the process held that started it."""
    code = "from steerlib.results.provenance import peak_rss; {}; print(peak_rss())"
    hold, size = np.ones(60_000_000), 480_000_000  # held by this process while the others start

    def peak(what: str) -> int:
        return int(subprocess.run([sys.executable, "-c", code.format(what)], capture_output=True, check=True).stdout)

    little, much = peak("pass"), peak(f"len(bytearray(b'1') * {size})")
    assert hold.nbytes < peak_rss() and little < 0.5 * size <= much - little
