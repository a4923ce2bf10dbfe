"""A study on a cluster: a scheduler elsewhere, workers that are SLURM jobs."""

import os
import platform
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

import dask
import dask_jobqueue  # noqa: F401 -- its defaults are there before they are changed
import psutil
import pytest
import yaml
from distributed import LocalCluster
from safetensors.numpy import save_file

from helpers.intruder import LOOPBACK, doors, intruders, let_in, status
from helpers.processes import PATIENCE, ended, start, wait_for
from helpers.studies import PROJECT, call, contents, steerlib
from helpers.workers import Done
from steerlib import SteerlibError
from steerlib.results.workspace import Job, Workspace
from steerlib.running import cluster as clusters
from steerlib.running.dispatch import Dispatch
from steerlib.running.worker import Outcome, Run, execute
from steerlib.study import Study

SLURM = {"cores": 2, "memory": "1 GB", "walltime": "00:30:00", "queue": "short", "account": "us"}
SLURM |= {"job-script-prologue": ["export SET_UP=yes"]}
SLURM |= {"job-extra-directives": ["--gres=gpu:1", "--constraint=a100"]}


def told(params: Path, outputs: Path, *words: str, **env: str) -> subprocess.CompletedProcess:
    """The command in a process of its own, which reads its environment anew."""
    return steerlib("run", params, "--outputs", outputs, *words, env=os.environ | env)


# --- what the driver does -------------------------------------------------------------------------------------------


def history_of(count: int, folder: Path) -> Workspace:
    """Of a study of so many checkpoints, of which there is nothing to be found wrong before they are loaded."""
    for step in range(count):
        (place := folder / "history" / f"step{step}").mkdir(parents=True)
        (place / "config.json").write_text('{"model_type": "gpt2"}')
        (place / "tokenizer.json").write_text("{}")
        save_file({}, place / "model.safetensors")
    path = folder / "many.yaml"
    path.write_text(yaml.safe_dump({"name": "m", "checkpoints": {"folder": "history"}, "concepts": ["happiness"]}))
    return Workspace(Study.load(path), folder)


def dispatched(workspace: Workspace, client: Done, report=lambda **_: None) -> list[Outcome]:
    return Dispatch(Run(Path(), Path(), Path()), workspace, workspace.jobs()).run(client, report)


@pytest.mark.parametrize("count", [20, 40])
def test_the_driver_asks_for_the_needs_of_each_job_once(tmp_path, count):
    workspace, asked, ends = history_of(count, tmp_path), [], []
    needs, client = workspace.needs, Done()
    workspace.needs = lambda job: (asked.append(job), needs(job))[1]
    outcomes = dispatched(workspace, client, lambda advance, **_: ends.append(advance))
    assert {o.job for o in outcomes} == set(workspace.jobs()) and sum(ends) == len(outcomes) == 3 * count + 1
    assert len(asked) == len(outcomes)
    at = {job: n for n, (job, _) in enumerate(client.submitted)}
    assert all(at[need] < at[job] for job in at for need in needs(job))
    assert [priority for _, priority in client.submitted[:count]] == [-k for k in range(count)]


def test_what_needs_a_job_that_failed_is_skipped_and_what_can_do_without_it_is_done(tmp_path):
    failed = Job("probes", 1)
    states = {outcome.job: outcome.state for outcome in dispatched(history_of(4, tmp_path), Done(failed))}
    ended = {state: {job for job in states if states[job] == state} for state in ("failed", "skipped")}
    assert ended == {"failed": {failed}, "skipped": {Job("interventions", 1), Job("similarity", 1)}}
    assert states[Job("similarity", 2)] == states[Job("emergence")] == "done"


def test_what_reads_only_jobs_that_failed_is_skipped_as_well(tmp_path):
    workspace = history_of(3, tmp_path)
    outcomes = dispatched(workspace, Done(*(Job("probes", step) for step in range(3))))
    assert sorted(o.state for o in outcomes) == ["failed"] * 3 + ["skipped"] * 7


# --- a scheduler elsewhere ------------------------------------------------------------------------------------------


def test_a_scheduler_that_does_not_answer_is_told_in_a_line(params, tmp_path, monkeypatch):
    monkeypatch.setattr(clusters, "PATIENCE", 1)
    done = call("run", params, "--outputs", tmp_path, "--scheduler", "tcp://127.0.0.1:9")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "tcp://127.0.0.1:9: no Dask scheduler answers there" in done.stderr.replace("\n", " ")


def test_workers_of_our_own_are_refused_with_a_scheduler_that_has_its_own(params, tmp_path):
    done = call("run", params, "--outputs", tmp_path, "--workers", 2, "--scheduler", "tcp://x:1")
    assert done.returncode == 2 and "own workers" in " ".join(done.stderr.split())


def test_a_worker_that_sees_other_code_or_not_the_folder_says_where_it_is_and_what_to_do(params, tmp_path):
    marker = tmp_path / "marker"
    here, job = Run(params, tmp_path, marker), Job("probes", 0)
    blind = execute(here, job)
    assert blind.state == "failed" and f"the worker on {platform.node()}" in blind.message
    assert str(marker) in blind.message and "file system that it shares" in blind.message
    marker.touch()
    other = execute(Run(here.params, here.outputs, here.marker, "another"), job)
    assert other.state == "failed" and platform.node() in other.message and "give it this checkout" in other.message
    away = execute(Run(tmp_path / "away.yaml", here.outputs, here.marker, here.code), job)
    assert "does not see" in away.message and "away.yaml" in away.message


@pytest.mark.slow
def test_workers_are_waited_for_and_one_with_another_checkout_is_told_of(params, tmp_path):
    for name in ("steerlib", "notebooks"):
        shutil.copytree(PROJECT / name, tmp_path / "other" / name)
    with (tmp_path / "other" / "steerlib" / "__init__.py").open("a") as stream:
        stream.write("# another\n")
    with LocalCluster(n_workers=0, processes=False, protocol="tcp", dashboard_address="127.0.0.1:0") as elsewhere:
        address = elsewhere.scheduler_address
        log = (tmp_path / "log").open("w")
        env = os.environ | {"TTY_COMPATIBLE": "1", "COLUMNS": "200"}
        driver = start(params, tmp_path / "outputs", "--scheduler", address, stdout=log, env=env)
        wait_for(lambda: "waiting for workers" in (tmp_path / "log").read_text(), driver)
        words = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"]
        env = os.environ | {"PYTHONPATH": str(tmp_path / "other")}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        worker = subprocess.Popen(words, env=env, cwd=tmp_path / "other", **quiet)
        try:
            driver.communicate(timeout=PATIENCE)
        finally:
            worker.kill()
            worker.wait()
    assert driver.returncode == 1
    line = next(line for line in (tmp_path / "log").read_text().splitlines() if "failed" in line and "probes" in line)
    assert platform.node() in line and "runs another steerlib" in line and "give it this checkout" in line


# --- who gets in ----------------------------------------------------------------------------------------------------


@pytest.fixture
def busy_port():
    """Dask's usual port is another program's."""
    with socket.socket() as other, warnings.catch_warnings():
        with suppress(OSError):  # taken already: as good
            other.bind(("", 8787))
            other.listen()
        warnings.filterwarnings("error", message="Port 8787")
        yield


@pytest.mark.parametrize("kind", ["local", "slurm"])
def test_nobody_without_the_certificate_of_a_run_has_its_processes_run_code(
    kind, queue, tmp_path, monkeypatch, busy_port
):
    monkeypatch.setattr(clusters.kernels, "share_server", lambda: None)
    for variable in clusters.THREADS:  # set by a local cluster, and as before afterwards
        monkeypatch.setenv(variable, "1")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    open_to_all = {"scheduler-options": {"dashboard_address": ":0", "protocol": "tcp://"}}
    me, slurm = psutil.Process(), {f"jobqueue.slurm.{key}": value for key, value in (SLURM | open_to_all).items()}
    before = doors([me])
    theirs = tmp_path / "tmp" / "dask-scratch-space"
    theirs.mkdir(parents=True)
    theirs.chmod(0o777)  # made by somebody else, in the folder that all users share
    clusters.kernels.folder_of_sockets()
    monkeypatch.setattr(tempfile, "tempdir", str(theirs.parent))
    monkeypatch.setenv("TMPDIR", str(theirs.parent))
    with (
        dask.config.set(slurm),
        clusters.local(1, []) if kind == "local" else clusters.of_slurm(tmp_path, 1) as client,
    ):
        paths = {*sys.path, *client.submit(lambda: sys.path).result()}
        assert not [*theirs.iterdir()] and not [path for path in paths if Path(path).is_relative_to(theirs)]
        cache = Path(client.submit(os.environ.get, "TORCHINDUCTOR_CACHE_DIR").result())
        assert stat.S_IMODE(cache.parent.stat().st_mode) == 0o700
        jobs = [psutil.Process(int(path.read_text())) for path in queue.glob("*.pid")]
        open_at = doors([me, *jobs]) - before
        pages = {address: said for address in open_at if (said := status(address))}
        assert {host for host, _ in (open_at if kind == "local" else pages)} == {LOOPBACK}
        assert kind == "slurm" or {*pages.values()} == {404}, "nothing about the run is told"
        comms = open_at - pages.keys()
        assert len(comms) == 3, "of scheduler, nanny and worker"
        assert let_in(comms, client.security.get_connection_args("client")["ssl_context"]) == comms
        for name, context in intruders().items():
            assert let_in(comms, context) == set(), name
        private = [stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob(".run-*/*")]
        assert private == ([] if kind == "local" else [0o600] * 3)
    assert not list(tmp_path.glob(".run-*"))


# --- SLURM ----------------------------------------------------------------------------------------------------------

SBATCH = """#!/bin/sh
for script; do :; done
cp "$script" "$QUEUE/$$.sh"
setsid sh "$QUEUE/$$.sh" > "$QUEUE/$$.log" 2>&1 < /dev/null &
echo $! > "$QUEUE/$$.pid"
echo "Submitted batch job $$"
"""
SCANCEL = """#!/bin/sh
kill -- "-$(cat "$QUEUE/$1.pid")"
"""
REFUSES = """#!/bin/sh
echo 'sbatch: error: invalid partition specified: short' >&2
exit 1
"""


@pytest.fixture
def queue(tmp_path, monkeypatch) -> Path:
    """A SLURM of this machine: its commands are on the path, and every job is a group of processes."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "queue").mkdir()
    for name, script in {"sbatch": SBATCH, "scancel": SCANCEL}.items():
        (tmp_path / "bin" / name).write_text(script)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("QUEUE", str(tmp_path / "queue"))
    yield tmp_path / "queue"
    for path in (tmp_path / "queue").glob("*.pid"):
        with suppress(ProcessLookupError):
            os.killpg(int(path.read_text()), signal.SIGKILL)


@pytest.fixture
def configured(tmp_path, monkeypatch) -> Path:
    """What Dask's configuration says of SLURM."""
    (tmp_path / "jobqueue.yaml").write_text(yaml.safe_dump({"jobqueue": {"slurm": SLURM}}))
    monkeypatch.setenv("DASK_CONFIG", str(tmp_path / "jobqueue.yaml"))
    return tmp_path / "jobqueue.yaml"


@pytest.mark.long
def test_a_study_goes_through_slurm_and_a_job_that_is_ended_is_replaced(params, calm, queue, configured, tmp_path):
    shutil.copytree(calm, tmp_path / "outputs" / "tiny")
    for path in tmp_path.glob("outputs/tiny/interventions/*"):
        path.unlink()
    (tmp_path / "outputs" / "tiny" / ".run-killed").mkdir()  # with its key, by a run that could not remove it
    driver = start(params, tmp_path / "outputs", "--slurm")
    wait_for(lambda: list(tmp_path.glob("outputs/tiny/interventions/*.stamp.json")), driver)
    (first,) = queue.glob("*.pid")
    os.killpg(int(first.read_text()), signal.SIGKILL)
    out, err = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0, out + err
    assert contents(tmp_path / "outputs" / "tiny") == contents(calm)
    assert len(list(queue.glob("*.pid"))) == 2, "one more than was asked for, in the place of the other"
    script = first.with_suffix(".sh").read_text().splitlines()
    asked = {"-p short", "-A us", "--cpus-per-task=2", "-t 00:30:00", "--gres=gpu:1", "--constraint=a100", "--mem=954M"}
    assert {f"#SBATCH {option}" for option in asked} <= set(script), script
    (worker,) = [line for line in script if "dask_worker" in line]
    assert "--nthreads 1" in worker and " --memory-limit 0 --dashboard-address 127.0.0.1:0 " in worker
    (key,) = re.findall("--tls-key ([^ ]+)", worker)
    assert (tmp_path / "outputs" / "tiny") in Path(key).parents and not list(tmp_path.glob("outputs/tiny/.run-*"))
    assert "export SET_UP=yes" in script[: script.index(worker)]
    assert "export DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=False" in script
    jobs = {int(path.read_text()) for path in queue.glob("*.pid")}
    assert ended([process for process in psutil.process_iter() if process.pid in jobs]), "jobs end with the study"


def test_what_slurm_refuses_or_is_not_there_is_told(params, queue, configured, monkeypatch, tmp_path):
    (queue.parent / "bin" / "sbatch").write_text(REFUSES)
    with dask.config.set({f"jobqueue.slurm.{key}": value for key, value in SLURM.items()}):
        done = call("run", params, "--outputs", tmp_path / "outputs", "--slurm", "--workers", 2)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        assert "invalid partition specified: short" in done.stderr
        with monkeypatch.context() as patch:
            patch.setenv("PATH", "/usr/bin:/bin")
            done = call("run", params, "--outputs", tmp_path / "outputs", "--slurm")
        assert done.returncode == 2 and "sbatch: no such command" in done.stderr
    configured.write_text("jobqueue: {slurm: {cores: 2}}")
    done = told(params, tmp_path / "outputs", "--slurm", HOME=str(tmp_path))
    assert done.returncode == 2 and "--slurm: memory of a job: missing" in done.stderr
    assert "jobqueue: {slurm: {cores: 4, memory: 16 GB}}" in done.stderr and str(configured) in done.stderr


@pytest.mark.parametrize(
    "wrong, message",
    [({"memory": "much"}, "much"), ({"memory": 16}, "configuration"), ({"walltime": 43200}, "quotes")],
)  # 16 is in bytes, and 43200 as YAML reads 12:00:00
def test_what_dasks_configuration_says_of_slurm_is_checked_before_it_is_asked(queue, tmp_path, wrong, message):
    with (
        dask.config.set({f"jobqueue.slurm.{key}": value for key, value in (SLURM | wrong).items()}),
        pytest.raises(SteerlibError, match=message),
        clusters.of_slurm(tmp_path, 1),
    ):
        pass
    assert not list(queue.iterdir())
