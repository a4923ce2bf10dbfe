"""The smoke study by a SLURM that is there: by its jobs, of which one is cancelled in the middle, and as an array.

On several machines the folder that pytest's ``--basetemp`` names has to be one that all of them see. Partition, account
and the like are for Dask's configuration to say, and for sbatch's environment (``SBATCH_PARTITION``, …).

Where there is no SLURM, one machine is enough for one, by Debian's packages ``slurm-wlm`` and ``munge``. As root:

    printf '%s\n' ClusterName=one SlurmctldHost=$(hostname) SlurmUser=root AuthType=auth/munge ReturnToService=2 \\
      ProctrackType=proctrack/pgid TaskPlugin=task/none SelectType=select/cons_tres SelectTypeParameters=CR_Core \\
      StateSaveLocation=/tmp/slurm.state SlurmdSpoolDir=/tmp/slurm.spool \\
      "NodeName=$(hostname) CPUs=$(nproc) RealMemory=8000" \\
      "PartitionName=all Nodes=$(hostname) Default=YES MaxTime=INFINITE" > /etc/slurm/slurm.conf
    mkdir -p /run/munge /tmp/slurm.state /tmp/slurm.spool && chown munge: /run/munge
    runuser -u munge munged && slurmctld && slurmd && sinfo

and ``scontrol shutdown; kill $(cat /run/munge/munged.pid)`` ends it.
"""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import dask
import dask_jobqueue  # noqa: F401 -- its defaults
import psutil
import pytest

from helpers.intruder import doors, intruders, let_in, status
from helpers.processes import PATIENCE, start, wait_for
from helpers.studies import PROJECT, SMOKE, contents, steerlib


def told(*words: str, **given) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True, cwd=PROJECT, **given).stdout.strip()


def missing() -> str:
    """Why there is no SLURM to try; empty where there is one."""
    if not shutil.which("sinfo"):
        return "no SLURM here: there is no command sinfo"
    try:
        return "" if told("sinfo", "-h") else "SLURM has no partitions"
    except subprocess.CalledProcessError as error:
        return f"SLURM does not answer: {error.stderr.strip()}"


pytestmark = pytest.mark.skipif(bool(why := missing()), reason=why)
LEAST = {"cores": "1", "memory": "2 GB"}


@pytest.fixture
def pretrained(smoke, tmp_path) -> Path:
    """The study's folder, of which the model is trained and nothing else done."""
    kept = {"checkpoints", "pretraining", "weights", "study.json"}
    others = [path.name for path in (smoke / "smoke").iterdir() if path.name not in kept]
    shutil.copytree(smoke / "smoke", tmp_path / "outputs" / "smoke", ignore=lambda *_: others)
    return tmp_path / "outputs" / "smoke"


def jobs_of(folder: Path) -> set[str]:
    """The worker jobs that have begun, by what they print."""
    return {path.stem.removeprefix("steerlib-") for path in (folder / "slurm").glob("*.err")}


def test_jobs_of_slurm_give_the_same_results_though_one_is_cancelled_and_nobody_else_gets_in(smoke, pretrained):
    said = {key: value for key, value in LEAST.items() if dask.config.get(f"jobqueue.slurm.{key}") is None}
    env = os.environ | {f"DASK_JOBQUEUE__SLURM__{key.upper()}": value for key, value in said.items()}
    driver = start(SMOKE, pretrained.parent, "--slurm", "--workers", "2", env=env)
    wait_for(lambda: list(pretrained.glob("interventions/*.stamp.json")), driver)
    before = jobs_of(pretrained)
    (key,) = pretrained.glob(".run-*/tls_worker_key")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (key, key.parent)] == [0o600, 0o700]
    comms = {address for address in doors([psutil.Process(driver.pid)]) if not status(address)}
    for name, context in intruders().items():
        assert comms and let_in(comms, context) == set(), name
    told("scancel", min(before))
    out, err = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0, out + err
    assert contents(pretrained) == contents(smoke / "smoke")
    assert len(before) <= 2 < len(jobs_of(pretrained)), "one in the place of the other"
    assert not list(pretrained.glob(".run-*"))
    waiting_or_running = told("squeue", "-h", "-o", "%A", "--states", "PENDING,RUNNING").split()
    assert not jobs_of(pretrained) & {*waiting_or_running}, "jobs end with the study"


def test_an_array_of_slurm_and_the_job_that_follows_give_the_same_results(smoke, pretrained, tmp_path):
    outputs = str(pretrained.parent)
    steps = steerlib("checkpoints", SMOKE, "--outputs", outputs, "--steps").stdout.split()
    env = os.environ | {"OUTPUTS": outputs, "STEERLIB": f"{sys.executable} -m steerlib"}
    small = ["--parsable", "--cpus-per-task=1", "--mem=2G", f"--output={tmp_path}/%A-%a.log"]
    array = told("sbatch", *small, f"--array=0-{len(steps) - 1}", "docs/array.sbatch", str(SMOKE), env=env)
    rest = f"$STEERLIB run {SMOKE} --outputs $OUTPUTS --workers 1"
    follows = ["sbatch", *small, "--wait", f"--dependency=afterany:{array}", "--wrap", rest]
    done = subprocess.run(follows, capture_output=True, text=True, cwd=PROJECT, env=env)
    logs = "\n".join(path.read_text() for path in sorted(tmp_path.glob("*.log")))
    assert done.returncode == 0, done.stderr + logs
    assert logs.count("jobs to do") == len(steps) + 1, logs
    assert contents(pretrained) == contents(smoke / "smoke")
