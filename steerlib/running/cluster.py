"""Where jobs run: a local cluster, a scheduler that is running, or workers that are jobs of SLURM."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, ByteSize, Field, field_validator

from steerlib import SteerlibError
from steerlib.files.params import Strict

if TYPE_CHECKING:
    from steerlib.study import Study

GPUS = "STEERLIB_GPUS"  # an environment variable: those that the workers of a local cluster share out
LESS = "run again with fewer --workers, or a smaller loading.batch"
SLURM = "slurm"  # in the place of a scheduler's address
PATIENCE = 10  # seconds for a scheduler to answer
# Each worker computes on as many threads as the study says; more would only fight over the cores. Threads that wait for
# one another sleep instead of spinning: on a busy machine spinning costs many times the work.
THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}

DASK = {
    # A worker is given no job beyond the one that it is at: one that dies takes none along.
    "distributed.scheduler.worker-saturation": 1.0,
    # What Dask measures of idle processes, for a dashboard that nobody looks at, costs more than all else it does.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.admin.tick.interval": "1s",
}
AWAY = {"DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False"}  # the same, where a worker is not started from here


def _in_quotes(value):
    """YAML reads 12:00:00 as a number of seconds, in base 60."""
    if isinstance(value, int):
        raise ValueError(f'YAML reads this as the number {value}; put it in quotes, as "12:00:00"')
    return value


Unquoted = BeforeValidator(_in_quotes)
Name = BeforeValidator(lambda value: str(value) if isinstance(value, int) else value)  # YAML takes 1234 for a number


class Cluster(Strict):
    """What `steerlib run --slurm` asks SLURM for: every worker is a SLURM job of its own, at work on one checkpoint.

    Where a study runs changes no result, and redoes none.
    """

    jobs: Annotated[int, Field(ge=1)] = 1  # workers, and so checkpoints at a time
    cores: Annotated[int, Field(ge=1)] = 1  # CPU cores of each; the study's `threads` says how many it computes on
    memory: Annotated[ByteSize, Field(ge=100_000_000)]  # of each, as 16 GB
    # Of each worker, and so longer than one job takes.
    walltime: Annotated[str, Unquoted, Field(pattern=r"^(\d+-)?\d+(:\d+){0,2}$")] = "04:00:00"
    queue: Annotated[str | None, Name] = None  # SLURM's partition
    account: Annotated[str | None, Name] = None
    gpus: Annotated[int, Field(ge=0)] = 0  # of each; more than one is of use with loading.device_map only
    setup: list[str] = []  # lines of shell before the worker starts, as "module load cuda"
    directives: list[str] = []  # more #SBATCH lines, as "--constraint=a100"
    interface: str | None = None  # network on which workers reach the driver, as ib0, where there are several

    @field_validator("directives")
    @classmethod
    def _bare(cls, lines, info):
        if info.data.get("gpus") and any(line.startswith(("--gres", "--gpus", "-G")) for line in lines):
            raise ValueError("asks for GPUs, as `gpus` does; leave out one of them")
        if wrong := next((line for line in lines if not line.startswith("-")), None):
            raise ValueError(f"{wrong!r} is no option of sbatch; write it without #SBATCH, as --constraint=a100")
        return lines


@contextmanager
def cluster(study: Study, folder: Path, workers: int | None, scheduler: str | None) -> Iterator:
    """A Dask client of a running scheduler (by its address), of SLURM (`SLURM`), or else of workers on this machine.

    One thread a worker, as jobs change the directory. Raises SteerlibError when there is no such scheduler or SLURM.
    """
    from distributed.utils import silence_logging_cmgr

    if scheduler == SLURM:
        chosen = slurm(study, folder)
    else:
        chosen = connected(scheduler) if scheduler else local(workers, gpus_of(study))
    # What of Dask's fails is told in our words; its own are pages of tracebacks.
    for name in ("tornado.application", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with silence_logging_cmgr(logging.CRITICAL), chosen as client:
        yield client


@contextmanager
def connected(address: str) -> Iterator:
    """A client of the scheduler at an address."""
    from distributed import Client

    try:
        client = Client(address, timeout=PATIENCE)
    except (OSError, ValueError) as error:
        raise SteerlibError(
            f"{address}: no Dask scheduler answers there ({str(error).strip() or type(error).__name__}); "
            "give the address that `dask scheduler` told when it started, as tcp://HOST:8786"
        ) from None
    with client:
        yield client


@contextmanager
def local(workers: int | None, gpus: list[str]) -> Iterator:
    """Workers on this machine: one a GPU by default, or else one a core."""
    import dask
    from distributed import Client, LocalCluster

    from steerlib.running import kernels

    for variable, value in THREADS.items():
        os.environ.setdefault(variable, value)
    count = workers or len(gpus) or max(1, min(os.cpu_count() or 1, 8))
    os.environ[GPUS] = ",".join(gpus)
    # Without an address, even a scheduler without a dashboard wants Dask's usual port, and warns when it is taken.
    http = {"dashboard_address": "127.0.0.1:0", "scheduler_kwargs": {"dashboard": False}}
    if os.environ.get("STEERLIB_KERNELS") != "cold":
        kernels.share_server()
    with dask.config.set(DASK):
        try:
            here = LocalCluster(n_workers=count, threads_per_worker=1, processes=True, memory_limit=0, **http)
        except RuntimeError:
            raise SteerlibError(f"a worker died as it started, perhaps for want of memory; {LESS}") from None
        with here, Client(here) as client:
            yield client


@contextmanager
def slurm(study: Study, folder: Path) -> Iterator:
    """Workers that SLURM starts, as the study's `cluster` says; their scheduler is this process."""
    import dask
    from distributed import Client

    if study.cluster is None:
        raise SteerlibError(
            f"{study._path}: cluster: missing; --slurm needs to know what to ask for, at least "
            "`cluster: {jobs: 4, memory: 16 GB}` (docs/cluster.md)"
        )
    if not shutil.which("sbatch"):
        raise SteerlibError("sbatch: no such command; --slurm is for a machine from which SLURM takes jobs")
    from dask_jobqueue import SLURMCluster

    with (
        dask.config.set(DASK),
        SLURMCluster(**slurm_options(study.cluster, folder)) as cluster,
        Client(cluster) as client,
    ):
        # Adaptive, though between equal bounds: `scale` alone does not replace a job that SLURM ended before its time.
        cluster.scale(jobs=study.cluster.jobs)
        cluster.sync(_submitted, cluster)
        cluster.adapt(minimum_jobs=study.cluster.jobs, maximum_jobs=study.cluster.jobs)
        try:
            yield client
        finally:
            cluster.sync(_forget_refused, cluster)


async def _submitted(cluster) -> None:
    """Wait until SLURM has taken the jobs. Raises SteerlibError with its words when it does not."""
    await cluster
    try:
        for job in cluster.workers.values():
            if job.job_id is None:  # it was refused, which Dask tells nobody: asked again, to hear why
                await job.start()
    except RuntimeError as error:
        await _forget_refused(cluster)
        told = str(error).partition("stderr:")[2].strip() or str(error)
        raise SteerlibError(f"SLURM refuses the jobs ({told}); look at the study's `cluster`") from None


async def _forget_refused(cluster) -> None:
    """Jobs that SLURM did not take were never begun, and Dask could not end them."""
    from distributed.core import Status

    for job in cluster.workers.values():
        if job.job_id is None:
            job.status = Status.closed


def slurm_options(plan: Cluster, folder: Path) -> dict:
    """What dask-jobqueue is told: a worker a job, of one process and one thread."""
    gres = [f"--gres=gpu:{plan.gpus}"] if plan.gpus else []
    return {
        "cores": 1,
        "processes": 1,
        "job_cpu": plan.cores,
        "memory": f"{int(plan.memory)}B",
        "walltime": plan.walltime,
        "queue": plan.queue,
        "account": plan.account,
        "interface": plan.interface,
        "job_name": "steerlib",
        "job_extra_directives": [*gres, *plan.directives],
        "job_script_prologue": [*(f"export {name}={value}" for name, value in (THREADS | AWAY).items()), *plan.setup],
        # Not Dask's business: it would count the worker, but not the kernel, which is what is large.
        "worker_extra_args": ["--memory-limit", "0"],
        "log_directory": str(folder / "slurm"),
        "scheduler_options": {"dashboard_address": ":0"},
    }


def gpus_of(study: Study) -> list[str]:
    """The GPUs that local workers share out; none when the study uses none, or spreads a model over all."""
    wanted = study.loading.device in ("auto", "cuda") and study.loading.device_map is None
    if not wanted or not shutil.which("nvidia-smi"):  # importing torch to find none would take seconds
        return []
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(k) for k in range(torch.cuda.device_count())]
