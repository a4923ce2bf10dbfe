"""Where jobs run: a local cluster, a scheduler that is running, or workers that are jobs of SLURM.

Who can talk to a scheduler or worker of Dask can have it run anything. Those that are started here talk TLS, and only
to who has a certificate that is made for this run; their HTTP servers, which know no such thing, are on loopback.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import dask
from dask.system import cpu_count
from dask_jobqueue import SLURMCluster
from distributed import Client, LocalCluster, Security, Status, Worker

from steerlib import SteerlibError
from steerlib.running import kernels
from steerlib.running.environment import THREADS
from steerlib.running.kernels import LESS
from steerlib.study import Study

PATIENCE = 10  # seconds for a scheduler to answer

DASK = {
    # A worker is given no job beyond the one that it is at: one that dies takes none along.
    "distributed.scheduler.worker-saturation": 1.0,
    # What Dask measures of idle processes, for a dashboard that nobody looks at, costs more than all else it does.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.admin.tick.interval": "1s",
}
CLIENT = {"set_as_default": False}  # were it, xarray would ask it for the locks on its files
# The same, where a worker is not started from here.
AWAY = {"DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False", "DASK_TEMPORARY_DIRECTORY": "$(mktemp -d)"}
AWAY |= {"TORCHINDUCTOR_CACHE_DIR": '"$DASK_TEMPORARY_DIRECTORY/inductor"'}


def client_of(
    study: Study, folder: Path, workers: int | None = None, scheduler: str | None = None, slurm: bool = False
) -> AbstractContextManager[Client]:
    """A Dask client of a running scheduler (by its address), of SLURM's, or else of workers on this machine.

    One thread a worker, as jobs change the directory. Raises SteerlibError when there is no such scheduler or SLURM.
    """
    dask.config.set(DASK)
    # What of Dask's fails is told in our words; its own are pages of tracebacks.
    for name in ("tornado.application", "asyncio", "distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if slurm:
        return of_slurm(folder, workers or 1)
    if not scheduler:
        return local(workers, gpus_of(study))
    try:
        return Client(scheduler, timeout=PATIENCE, **CLIENT)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise SteerlibError(
            f"{scheduler}: no Dask scheduler answers there ({str(error).strip() or type(error).__name__}); "
            "give the address that `dask scheduler` told when it started, as tcp://HOST:8786, or tls://HOST:8786 with "
            "certificates that Dask's configuration names (docs/cluster.md)"
        ) from None


@contextmanager
def local(workers: int | None, gpus: list[str]) -> Iterator[Client]:
    """Workers on this machine: one a GPU by default, or else one a core that this process may use."""
    for variable, value in THREADS.items():
        os.environ.setdefault(variable, value)
    count = workers or len(gpus) or min(cpu_count(), 8)
    # Without an address, even a scheduler without a dashboard wants Dask's usual port, and warns when it is taken.
    options = {"dashboard_address": "127.0.0.1:0", "scheduler_kwargs": {"dashboard": False}, "memory_limit": 0}
    options |= {"security": True, "silence_logs": logging.CRITICAL}  # as here, so in workers
    dask.config.set({f"distributed.{node}.http.routes": [] for node in ("scheduler", "worker")})  # no pages either
    keep_to_ourselves()
    kernels.share_server()
    try:
        with kernels.left_alone():
            machine = LocalCluster(n_workers=count, threads_per_worker=1, processes=True, **options)
    except (RuntimeError, OSError) as error:
        while error.__cause__:  # what a worker raised says more than that it did not start
            error = error.__cause__
        reason = str(error) or type(error).__name__
        memory = f"; if for want of memory, {LESS}" if "Nanny failed" in reason else ""  # its process ended, and why
        raise SteerlibError(f"workers do not start ({reason}){memory}") from None
    # One that takes long to start in the place of a dead one is waited for. Dask would give it up, and a run whose only
    # worker it is would never end.
    patient = dask.config.set({"distributed.deploy.lost-worker-timeout": "1000 days"})
    with patient, machine, Client(machine, **CLIENT) as client:
        if gpus:
            client.register_worker_callbacks(partial(take_gpu, gpus))  # also of workers that replace others
        yield client


@contextmanager
def of_slurm(folder: Path, jobs: int) -> Iterator[Client]:
    """Workers that SLURM starts, a job each, as Dask's configuration says; their scheduler is this process."""
    if not shutil.which("sbatch"):
        raise SteerlibError("sbatch: no such command; --slurm is for a machine from which SLURM takes jobs")
    # Should this process be killed, the study's next run removes it.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".run-") as private:
        options = slurm_options(folder, certificate(Path(private)))
        keep_to_ourselves()
        try:
            queue = SLURMCluster(**options)
        except (TypeError, ValueError) as error:
            raise SteerlibError(f"jobqueue.slurm in Dask's configuration: {error} (docs/cluster.md)") from None
        with queue, Client(queue, **CLIENT) as client:
            try:
                # Adaptive, though between equal bounds: `scale` alone does not replace a job that SLURM ended early.
                queue.scale(jobs=jobs)
                queue.sync(_submitted, queue)
                queue.adapt(minimum_jobs=jobs, maximum_jobs=jobs)
                yield client
            finally:
                queue.sync(_forget_refused, queue)


def keep_to_ourselves() -> None:
    """What Dask and torch have on disk, from where they import; by default in folders of whoever made them first."""
    dask.config.set({"temporary-directory": kernels.folder_of_sockets()})
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{kernels.folder_of_sockets()}/inductor")


def certificate(private: Path) -> Security:
    """A new one, of which workers elsewhere find their part in a folder that only this user can open.

    Dask would write these files itself, but keeps them open, and so undeletable on NFS, for as long as it lives.
    """
    made = Security.temporary()
    for part in ("tls_ca_file", "tls_worker_cert", "tls_worker_key"):
        path = private / part
        path.touch(0o600)
        path.write_text(getattr(made, part))
        setattr(made, part, str(path))
    return made


async def _submitted(queue: SLURMCluster) -> None:
    """Wait until SLURM has taken the jobs. Raises SteerlibError with its words when it does not."""
    await queue
    try:
        for job in queue.workers.values():
            if job.job_id is None:  # it was refused, which Dask tells nobody: asked again, to hear why
                await job.start()
    except RuntimeError as error:
        refusal = str(error).partition("stderr:")[2].strip() or str(error)
        raise SteerlibError(
            f"SLURM refuses the jobs ({refusal}); look at jobqueue.slurm in Dask's configuration"
        ) from None


async def _forget_refused(queue: SLURMCluster) -> None:
    """Jobs that SLURM did not take were never begun, and Dask could not end them."""
    for job in queue.workers.values():
        if job.job_id is None:
            job.status = Status.closed


def slurm_options(folder: Path, security: Security) -> dict:
    """What is laid over `jobqueue.slurm` of Dask's configuration: a worker a job, of one process and one thread.

    Raises SteerlibError where the configuration does not say how large a job is.
    """
    asked = lambda key: dask.config.get(f"jobqueue.slurm.{key}")  # noqa: E731
    if missing := [key for key in ("cores", "memory") if asked(key) is None]:
        raise SteerlibError(
            f"--slurm: {' and '.join(missing)} of a job: missing in Dask's configuration; write at least "
            f"`jobqueue: {{slurm: {{cores: 4, memory: 16 GB}}}}` to a YAML file in {dask.config.PATH} (docs/cluster.md)"
        )
    if isinstance(walltime := asked("walltime"), int):
        raise SteerlibError(
            f"jobqueue.slurm.walltime in Dask's configuration: YAML reads this as the number {walltime}; "
            'put it in quotes, as "12:00:00"'
        )
    scheduler = asked("scheduler-options")
    port = str(scheduler.get("dashboard_address", "")).rpartition(":")[2] or 0
    ours = {"dashboard_address": f"127.0.0.1:{port}", "protocol": "tls://", "security": security}
    exports = [f"export {name}={value}" for name, value in (THREADS | AWAY).items()]
    exports += ["trap 'rm -rf \"$DASK_TEMPORARY_DIRECTORY\"' EXIT"]
    return {
        "cores": 1,  # on how many threads a job computes, the study's `threads` says
        "processes": 1,
        "job_cpu": asked("job-cpu") or asked("cores"),
        "job_name": "steerlib",
        "job_script_prologue": [*exports, *asked("job-script-prologue")],
        # Memory is not Dask's business: it would count the worker, but not the kernel, which is what is large.
        "worker_extra_args": [*asked("worker-extra-args"), "--memory-limit", "0", "--dashboard-address", "127.0.0.1:0"],
        "log_directory": str(folder / "slurm"),
        "security": security,
        "scheduler_options": scheduler | ours,
    }


def gpus_of(study: Study) -> list[str]:
    """The GPUs that local workers share out; none when the study uses none, or spreads a model over all."""
    wanted = study.loading.device in ("auto", "cuda") and study.loading.device_map is None
    if not wanted or not shutil.which("nvidia-smi"):  # importing torch to find none would take seconds
        return []
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()  # of those that are visible: none where the list is empty, or says -1
    return visible.split(",")[:count] if visible else [str(k) for k in range(count)]


def take_gpu(gpus: list[str], dask_worker: Worker) -> None:
    """In a worker: its share of them, and that of its kernels. Workers of a local cluster are numbered."""
    os.environ["CUDA_VISIBLE_DEVICES"] = gpus[int(dask_worker.name) % len(gpus)]
