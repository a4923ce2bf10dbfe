"""What dies, is cut off or runs full: the study tells of it, loses nothing, and ends equal to a calm run."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import filelock
import psutil
import pytest

from helpers.models import REMOTE
from helpers.processes import PATIENCE, ended, family, start, wait_for
from helpers.studies import STEPS, call, contents, half_files, tiny_study
from helpers.workers import Done
from steerlib.files import store
from steerlib.results.freshness import Freshness
from steerlib.results.tree import read
from steerlib.results.workspace import Job, Workspace
from steerlib.running import cluster
from steerlib.running.kernels import SHARED
from steerlib.study import Study

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are told apart by their commands on Linux")


# --- outputs that refuse ----------------------------------------------------------------------------------------------


def refuses(monkeypatch, number: int, what: str = "") -> None:
    """A disk on which nothing can be written, or no file whose name begins like that; nor can it be locked."""

    def refuse(*given, **_):
        raise OSError(number, os.strerror(number))

    take = store.take_name
    monkeypatch.setattr(store, "take_name", lambda old, new: (take if what not in new.name else refuse)(old, new))
    if not what:
        monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
        monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)


def test_where_nothing_can_be_written_what_is_done_is_told_and_what_is_not_refused_in_a_line(
    params, calm, monkeypatch, tmp_path
):
    shutil.copytree(calm, tmp_path / "tiny")
    refuses(monkeypatch, errno.EROFS)
    for command in ("run", "status"):
        done = call(command, params, "--outputs", tmp_path)
        assert done.returncode == 0 and "10" in done.stdout and not done.stderr, done.stdout + done.stderr
    (tmp_path / "tiny" / "emergence" / "study.stamp.json").unlink()
    assert "1 missing" in call("status", params, "--outputs", tmp_path).stdout
    done = call("run", params, "--outputs", tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "tiny/.lock: cannot be written (Read-only file system)" in done.stderr


@pytest.mark.parametrize("there", ["a file", "a link to nowhere", "a link in a circle", "a file in its place"])
def test_outputs_that_cannot_be_made_are_told_in_a_line_and_a_link_is_followed(params, there, tmp_path, monkeypatch):
    outputs = tmp_path / "outputs"
    if "file" in there:
        outputs.mkdir() if "place" in there else outputs.write_text("mine")
        (outputs / "tiny").write_text("mine") if "place" in there else None
    else:
        outputs.symlink_to(tmp_path / "disk" if "nowhere" in there else outputs)
    monkeypatch.setattr(cluster, "client_of", lambda *_, **__: nullcontext(Done()))
    done = call("run", params, "--outputs", outputs)
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == (there != "a link to nowhere")
    if there == "a link to nowhere":
        assert done.returncode == 0 and (tmp_path / "disk" / "tiny" / "run.json").exists() and outputs.is_symlink()
    else:
        assert done.returncode == 2 and str(outputs) in done.stderr, done.stderr
        looked = call("status", params, "--outputs", outputs)
        assert looked.returncode == 0 and "10 missing" in looked.stdout, looked.stdout + looked.stderr


def test_which_jobs_failed_is_told_though_the_run_cannot_be_recorded(params, monkeypatch, tmp_path):
    refuses(monkeypatch, errno.ENOSPC, "run.json")
    monkeypatch.setattr(cluster, "client_of", lambda *_, **__: nullcontext(Done(Job("probes", 10))))
    done = call("run", params, "--outputs", tmp_path)
    assert done.returncode == 1 and not done.stderr
    failed = [line for line in done.stdout.splitlines() if line.startswith("failed")]
    assert [line.split(":")[0] for line in failed] == ["failed probes step 10", "failed run.json"]
    assert "probes step 0 and 6 more: it, or what it is made from, was altered meanwhile" in done.stdout
    assert "No space left on device" in failed[1] and "Of 10 jobs 7 are done, 1 failed, 2 were skipped" in done.stdout


# --- what dies ------------------------------------------------------------------------------------------------------


def at_work(driver: subprocess.Popen, but: Sequence[psutil.Process] = ()) -> dict | None:
    """The processes of a run of one worker, once that is at a notebook and none of some others."""
    found = family(driver.pid)
    return found if found["kernel"] and not {*found["worker"], *found["kernel"]} & {*but} else None


@pytest.fixture
def halfway(calm, tmp_path) -> Path:
    """A copy of that folder without interventions, by steps."""
    shutil.copytree(calm, tmp_path / "tiny")
    for path in tmp_path.glob("tiny/interventions/*"):
        path.unlink()
    return tmp_path / "tiny"


@pytest.mark.long
def test_a_killed_worker_is_replaced_and_no_end_of_the_driver_leaves_or_loses_anything(
    params, halfway, calm, run, tmp_path
):
    short = Path(tempfile.mkdtemp(dir="/tmp"))
    env = {name: value for name, value in os.environ.items() if name != SHARED}  # a server of its own, which ends too
    env |= {"TMPDIR": str(short), "DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "1ms"}  # as where all takes long
    stamps = lambda: list(halfway.glob("interventions/*.stamp.json"))  # noqa: E731
    driver = start(params, tmp_path, "--workers", "1", env=env)
    first = wait_for(lambda: at_work(driver), driver)
    first["worker"][0].kill()
    wait_for(stamps, driver)
    there = wait_for(lambda: at_work(driver, first["worker"] + first["kernel"]), driver)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    killed = [process for found in (first, there) for kind in found.values() for process in kind]
    assert ended(killed), "workers, servers and kernels end too"
    (left,) = short.glob("steerlib-????????")
    kept = {path: path.stat().st_mtime_ns for path in stamps()}
    driver = start(params, tmp_path, "--workers", "1", env=env, start_new_session=True)
    stopped = wait_for(lambda: at_work(driver), driver)
    os.killpg(driver.pid, signal.SIGINT)  # as Ctrl-C in a terminal does
    out, err = driver.communicate()
    assert driver.returncode == 130 and err == "error: interrupted; what is done is kept: run again\n", out + err
    assert ended([process for kind in stopped.values() for process in kind])
    assert not left.exists() and not [*short.glob("steerlib-*")]
    done = run(params, tmp_path)
    assert done.returncode == 0 and "done before" in done.stdout, done.stdout + done.stderr
    assert kept.items() <= {path: path.stat().st_mtime_ns for path in stamps()}.items()
    assert contents(halfway) == contents(calm)
    shutil.rmtree(short)


DEADLY = """
import os
attempts = {attempts!r}
with open(attempts, "a") as stream:
    stream.write("x")
if os.path.getsize(attempts) <= {deaths}:
    os.kill(os.getpid(), 9)
"""


def deadly(home: Path, deaths: dict[int, int]) -> Path:
    """A study of checkpoints that kill the process that loads them, as often as told.

    As the system does when memory is short. Their code comes with them, with blocks where those of the others are.
    """
    import torch

    tiny_study(home, [*deaths])
    code, module = REMOTE.replace("self.h ", "self.layers ").replace("self.h:", "self.layers:"), {}
    exec(code, module)
    for step, count in deaths.items():
        folder = home / "history" / f"step{step}"
        config = json.loads((folder / "config.json").read_text())
        shape = {name: config[name] for name in ("hidden_size", "vocab_size", "num_hidden_layers")}
        torch.manual_seed(step)
        (folder / "model.safetensors").unlink()
        module["TinyForCausalLM"](module["TinyConfig"](heads=2, **shape)).save_pretrained(folder)
        attempts = str(home / f"attempts at {step}")
        (folder / "deadly.py").write_text(DEADLY.format(attempts=attempts, deaths=count) + code)
        config = json.loads((folder / "config.json").read_text())
        config["auto_map"] = {"AutoConfig": "deadly.TinyConfig", "AutoModelForCausalLM": "deadly.TinyForCausalLM"}
        (folder / "config.json").write_text(json.dumps(config))
    return tiny_study(home, [*deaths], "deadly", loading={"trust_remote_code": True, "blocks": "layers"})


@pytest.mark.slow
def test_a_killed_kernel_is_tried_once_more_and_then_told_with_its_checkpoint(run, tmp_path):
    done = run(deadly(tmp_path, {10: 1, 20: 99}), tmp_path)
    attempts = [(tmp_path / f"attempts at {step}").stat().st_size for step in (10, 20)]
    assert attempts == [3, 2], "probes once more, then interventions; probes once more, and that was all"
    assert done.returncode == 1, done.stdout + done.stderr
    analysed = {path.stem for path in (tmp_path / "deadly" / "interventions").glob("*.nc")}
    assert analysed == {"step=00000010"} and (tmp_path / "deadly" / "results.zarr").is_dir()
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("failed")]
    assert line.startswith("failed probes step 20: its kernel died twice") and "memory" in line
    assert "--workers" in line and "loading.batch" in line and "Traceback" not in done.stdout + done.stderr


@pytest.mark.long
def test_a_scheduler_that_goes_is_told_in_a_line_and_what_is_done_is_kept(params, halfway, calm, tmp_path):
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard", "--host"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    file = tmp_path / "scheduler.json"
    scheduler = subprocess.Popen([*dask, "127.0.0.1", "--scheduler-file", str(file)], **quiet)
    wait_for(lambda: store.read_json(file, dict), scheduler)
    address = json.loads(file.read_text())["address"]
    worker = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"], **quiet
    )
    try:
        driver = start(params, tmp_path, "--scheduler", address)
        wait_for(lambda: list(tmp_path.glob("tiny/interventions/*.stamp.json")), driver)
        scheduler.kill()
        out, err = driver.communicate(timeout=PATIENCE)
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait()
    assert driver.returncode == 2, out + err
    told = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(told) == 1 and "scheduler is gone" in told[0] and "Traceback" not in err, err
    kept = len(list(tmp_path.glob("tiny/interventions/*.stamp.json")))
    assert len(Freshness(Workspace(Study.load(params), tmp_path)).todo()) == 10 - 6 - kept
    assert contents(tmp_path / "tiny").items() <= contents(calm).items()


RUBBISH = {  # in the place of any state file; None is a folder
    "nothing": b"",
    "a list": b"[]",
    "an older version": b"{}",
    "no number": b'{"key": NaN, "seed": NaN, "runs": NaN}',
    "a huge integer": b'{"runs": ' + b"9" * 5000 + b"}",
    "zeros": bytes(512),
    "a folder": None,
}
STATE = (
    "study.json",
    "run.json",
    "weights/*.json",
    "emergence/study.stamp.json",
    "similarity/step=00000010.stamp.json",
)


def spoil(folder: Path, name: str, rubbish: bytes | None) -> list[Path]:
    """What has that name becomes rubbish."""
    found = list(folder.glob(name))
    for path in found:
        path.unlink()
        if rubbish is None:
            (path / "inside").mkdir(parents=True)
        else:
            path.write_bytes(rubbish)
    return found


@pytest.mark.parametrize("rubbish", RUBBISH)
def test_whatever_a_state_file_holds_the_study_is_told_of_and_what_it_proved_is_missing(
    params, calm, tmp_path, caplog, rubbish
):
    shutil.copytree(calm, folder := tmp_path / "tiny")
    spoilt = [path for name in STATE for path in spoil(folder, name, RUBBISH[rubbish])]
    assert len(spoilt) == 4 + len(STEPS)
    for words in (["status"], ["checkpoints"], ["checkpoints", "--steps"]):
        told = call(*words, params, "--outputs", tmp_path)
        assert told.returncode == 0 and not told.stderr, told.stderr
        assert words != ["status"] or "8 done, 0 stale, 2 missing" in told.stdout, told.stdout
    told = [message for message in caplog.messages if "counts as not there" in message]
    assert {message.partition(": ")[0] for message in told} >= {str(path) for path in spoilt if ".stamp." in path.name}
    assert all("\n" not in message and len(message) < 400 for message in told)


def test_results_of_a_library_s_other_patch_hold_and_status_tells(params, calm, tmp_path):
    shutil.copytree(calm, folder := tmp_path / "tiny")
    for path in folder.glob("probes/*.stamp.json"):
        stamp = json.loads(path.read_text())
        path.write_text(json.dumps(stamp | {"versions": stamp["versions"] | {"torch": "2.0.0+other"}}))
    told = call("status", params, "--outputs", tmp_path)
    assert "10 done, 0 stale, 0 missing" in told.stdout and "there are results made with 2.0.0+other" in told.stdout


@pytest.mark.slow
def test_a_run_puts_rubbish_right_whatever_file_it_is_in(params, calm, run, tmp_path):
    """Each state file holds another kind; a dataset is a folder, another one is none, and so are the collected ones."""
    shutil.copytree(calm, folder := tmp_path / "tiny")
    kinds = list(RUBBISH.values())
    for k, name in enumerate(STATE):
        spoil(folder, name, kinds[(k - 1) % len(kinds)])
    spoil(folder, "similarity/step=00000000.nc", None)
    spoil(folder, "similarity/step=00000020.nc", b"rubbish")
    shutil.rmtree(folder / "results.zarr")
    (folder / "results.zarr").write_bytes(b"rubbish")
    assert "6 done before" in (done := run(params, tmp_path)).stdout, done.stdout + done.stderr
    assert done.returncode == 0 and "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    assert contents(folder) == contents(calm) and not half_files(folder)
    assert {*read(folder / "results.zarr")} == {"probes", "interventions", "similarity", "emergence"}
    again = run(params, tmp_path)
    assert "nothing to do" in again.stdout and "counts as not there" not in again.stderr, again.stdout + again.stderr
    assert json.loads((folder / "study.json").read_text())["params"][0] == str(params)
    assert len(json.loads((folder / "run.json").read_text())["runs"]) == 1, "those of before are lost, this one is told"


@pytest.mark.long
def test_a_disk_that_runs_full_is_told_and_the_rest_is_done_when_there_is_room(params, calm, run, tmp_path):
    """Files may not grow beyond a limit; that of results.zarr is another test's."""
    import resource

    shutil.copytree(calm, folder := tmp_path / "tiny")
    for path in folder.glob("interventions/step=00000010*"):
        path.unlink()
    full = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))  # noqa: E731
    words = "--only", "step=10"
    out, err = (driver := start(params, tmp_path, "--workers", "1", *words, preexec_fn=full)).communicate()
    assert driver.returncode in (1, 2) and "Traceback" not in out + err, out + err
    told = [line for line in (out + err).splitlines() if line.startswith(("failed interventions", "error:"))]
    assert len(told) == 1 and "cannot be written (File too large); free some space" in told[0], out + err
    again = run(params, tmp_path, *words)
    assert again.returncode == 0, again.stdout + again.stderr
    assert contents(folder) == contents(calm) and not half_files(folder)
