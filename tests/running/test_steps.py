"""Runs of single steps side by side in one folder, as the jobs of an array do them."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from helpers.hub import Hub, ask, tiny_checkpoints
from helpers.processes import PATIENCE, wait_for
from helpers.studies import PROJECT, call, contents, tiny_study
from steerlib import SteerlibError
from steerlib.checkpoints import fetching, listing
from steerlib.checkpoints.fetching import Supply
from steerlib.files import locks
from steerlib.results.freshness import Freshness
from steerlib.results.workspace import Job, Workspace
from steerlib.running.pipeline import forced, of_steps
from steerlib.study import Study


def task(params: Path, outputs: Path, number: int) -> subprocess.Popen:
    """A task of the array, by the very script."""
    env = {"STEERLIB": f"{sys.executable} -m steerlib", "OUTPUTS": str(outputs), "SLURM_ARRAY_TASK_ID": str(number)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    words = ["sh", str(PROJECT / "docs" / "array.sbatch"), str(params)]
    return subprocess.Popen(words, cwd=PROJECT, env=os.environ | env, **pipes)


@pytest.mark.long
def test_an_array_of_jobs_and_then_the_whole_equal_one_calm_run(params, calm, run, tmp_path):
    assert call("checkpoints", params, "--steps").stdout == "0\n10\n20\n"
    first = task(params, tmp_path, 0)
    wait_for(lambda: list(tmp_path.glob("tiny/.locks/step=*")), first)
    whole = call("run", params, "--outputs", tmp_path)
    assert whole.returncode == 2 and "is at work on step=00000000" in whole.stderr
    assert run(params, tmp_path, "--only", "step=10").returncode == 0, "beside it"
    for each in (first, task(params, tmp_path, 3)):
        out, err = each.communicate(timeout=PATIENCE)
        assert each.returncode == 0, out + err
    assert "has fewer checkpoints" in out
    assert run(params, tmp_path, "--only", "step=20").returncode == 0, "a task does no more than this"
    made = {path.parent.name for path in tmp_path.glob("tiny/*/*.nc")}
    assert made == {"probes", "interventions"}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("tiny/*/*.nc")}
    whole = run(params, tmp_path)
    said = " ".join(whole.stdout.split())
    assert whole.returncode == 0 and "4 jobs to do, 6 done before" in said, whole.stdout + whole.stderr
    assert before.items() <= {path: path.stat().st_mtime_ns for path in tmp_path.glob("tiny/*/*.nc")}.items()
    assert contents(tmp_path / "tiny") == contents(calm)
    runs = json.loads((tmp_path / "tiny" / "run.json").read_text())["runs"]
    assert sorted(run.get("steps", []) for run in runs) == [[], [0], [10], [20]]


def test_a_step_that_there_is_not_or_is_taken_or_has_no_model_is_told(params, tmp_path):
    done = call("run", params, "--outputs", tmp_path, "--only", "step=10,11")
    assert done.returncode == 2 and "has no step 11; its steps are 0, 10, 20" in done.stderr
    assert "'ten' is no step" in call("run", params, "--only", "step=ten").stderr
    folder = tmp_path / "tiny"
    with FileLock(folder / ".lock"), pytest.raises(SteerlibError, match="at work on the whole study"):
        with locks.locked_steps(folder, [0]):
            pass
    with locks.locked_steps(folder, [0, 10]):
        with locks.locked_steps(folder, [20]):
            with pytest.raises(SteerlibError, match="at work on step=00000000"), locks.locked(folder):
                pass
        with pytest.raises(SteerlibError, match="at work on step 10"), locks.locked_steps(folder, [20, 10]):
            pass
    with locks.locked(folder):
        pass
    with pytest.raises(SteerlibError, match="not pretrained yet"):
        of_steps(Workspace(Study.load(PROJECT / "params" / "smoke.yaml"), tmp_path), [0])


def test_jobs_are_done_anew_by_name_and_one_there_is_not_is_told(params, calm, tmp_path):
    workspace = Workspace(Study.load(params), shutil.copytree(calm, tmp_path / "tiny").parent)
    meant = r"; did you mean 'interventions'\?"
    for wrong, near in {
        "intervention": meant,
        "interventins@10": meant,
        "probes@11": "",
        "emergence@10": "",
        "": "",
    }.items():
        told = rf"--again: there is no {wrong} here, but probes, .* 0, 10, 20 STAGE@STEP{near}$"
        with pytest.raises(SteerlibError, match=told):
            forced(workspace, ["similarity", wrong], workspace.jobs())
    forced(workspace, ["interventions@10"], workspace.jobs())
    todo = {str(job) for job in Freshness(workspace).todo()}
    assert todo == {"interventions step 10", "emergence"}
    workspace.stamp(Job("emergence")).unlink()
    workspace.stamp(Job("emergence")).mkdir()
    forced(workspace, ["emergence"], workspace.jobs())
    assert call("run", params, "--outputs", tmp_path, "--again", "probs").returncode == 2


@pytest.fixture
def tight(tmp_path, monkeypatch):
    """A repository's study whose budget holds one checkpoint: folder, listing, size, and how a run supplies a step."""
    steps, repo = [0, 1, 2], "EleutherAI/pythia-70m"
    histories = tiny_checkpoints(tmp_path / "histories", steps)
    size = sum(path.stat().st_size for path in histories[0].iterdir())
    path = tiny_study(tmp_path, steps)
    data = yaml.safe_load(path.read_text()) | {"checkpoints": {"repo": repo, "steps": steps, "disk": size + 1000}}
    path.write_text(yaml.safe_dump(data))
    with Hub() as hub:
        for step, history in histories.items():
            hub.add(repo, f"step{step}", history)
        ask(hub, monkeypatch, tmp_path / "cache")
        study, folder = Study.load(path), tmp_path / "outputs" / "tiny"
        found = listing.take(study, folder)
        yield folder, found, size, lambda step, arrived: Supply(study, found, folder, [step], arrived)


def test_a_checkpoint_that_another_run_is_at_work_on_is_not_removed(tight):
    folder, found, _, supply_of = tight
    arrived = {step: threading.Event() for step in (0, 1)}
    first, second = (supply_of(step, lambda step, problem: problem or arrived[step].set()) for step in (0, 1))
    first.start()
    assert arrived[0].wait(PATIENCE)
    second.start()
    assert not arrived[1].wait(1) and fetching.whole(folder, found.entries[0]), "it waits for the room"
    first.release(0)
    assert arrived[1].wait(PATIENCE) and fetching.whole(folder, found.entries[1])
    assert not fetching.place(folder, 0).exists(), "which was made once the other had let go"


def test_runs_whose_downloads_were_cut_short_do_not_wait_for_each_other(tight):
    """Each has its step, and more than half of a checkpoint lies here of all three: none has room while all stay."""
    folder, _, size, supply_of = tight
    arrived: list[tuple[int, str]] = []
    for step in (0, 1, 2):
        fetching.place(folder, step).mkdir(parents=True)
        (fetching.place(folder, step) / "part").write_bytes(b"x" * (size * 6 // 10))

    def tell(step: int, problem: str) -> None:
        arrived.append((step, problem))
        runs[step].release(step)

    with locks.locked_steps(folder, [0]), locks.locked_steps(folder, [1]), locks.locked_steps(folder, [2]):
        runs = [supply_of(step, tell) for step in (0, 1, 2)]
        for each in runs:
            each.start()
        for each in runs:
            each.join(timeout=PATIENCE)
    assert sorted(arrived) == [(0, ""), (1, ""), (2, "")]
