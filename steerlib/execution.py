"""What a worker does: one job's notebook by papermill, then its stamp."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from steerlib import store
from steerlib.jobs import DRIVEN, Job, Workspace
from steerlib.provenance import PROJECT
from steerlib.stages import STAGES
from steerlib.study import Study

GPUS = "STEERLIB_GPUS"  # those that the workers of a local cluster share out


@dataclass(frozen=True)
class Outcome:
    """How a job ended, and what it cost."""

    job: Job
    state: str  # 'done', 'failed' or 'skipped' (something it needs failed)
    message: str = ""
    cpu: dict[str, float] = field(default_factory=dict)  # process (kind and pid) -> CPU seconds since its start


def execute(params: str, outputs: str, job: Job) -> Outcome:
    """One job in a worker: its notebook by papermill, then its stamp. Failures are told, not raised."""
    if gpus := [gpu for gpu in os.environ.get(GPUS, "").split(",") if gpu]:
        os.environ["CUDA_VISIBLE_DEVICES"] = own_gpu(gpus)
    os.environ[DRIVEN] = "1"
    started = time.time()
    try:
        workspace = Workspace(Study.load(params), outputs)
        try:
            run_notebook(workspace, job, params, outputs)
        except RuntimeError:  # its kernel did not start, or died: once more, as that may have been the machine's fault
            run_notebook(workspace, job, params, outputs)
        kernel = store.read(workspace.data(job)).attrs["cpu_seconds"]
        workspace.write_stamp(job, {"cpu_seconds": float(kernel), "wall_seconds": time.time() - started})
    except Exception as error:  # whatever a notebook, a kernel or a disk may do: the other checkpoints go on
        return Outcome(job, "failed", explain(error), cpu_of_processes())
    return Outcome(job, "done", cpu=cpu_of_processes())


def own_gpu(gpus: list[str]) -> str:
    """This worker's share of them. Workers of a local cluster are numbered."""
    from distributed import get_worker

    return gpus[int(get_worker().name) % len(gpus)]


def run_notebook(workspace: Workspace, job: Job, params: str, outputs: str) -> None:
    """Execute a stage's notebook; the executed copy is kept, whether or not it succeeds."""
    given = {"study": str(params), "outputs": str(outputs)} | ({} if job.step is None else {"step": int(job.step)})
    execute_notebook(STAGES[job.stage].notebook, workspace.notebook(job), given)


def execute_notebook(name: str, executed: Path, given: dict[str, str | int]) -> None:
    """Execute one of the project's notebooks with the parameters given, and keep what it became at ``executed``."""
    import papermill
    from traitlets.config import Config

    from steerlib.kernels import use_warm_kernels

    if os.environ.get("STEERLIB_KERNELS") != "cold":
        use_warm_kernels()
    executed.parent.mkdir(parents=True, exist_ok=True)
    # Jupyter looks for free TCP ports before the kernel binds them, and two workers may find the same: Unix sockets, in
    # a folder of this job's own, cannot collide.
    with tempfile.TemporaryDirectory(prefix="steerlib-") as sockets:
        papermill.execute_notebook(
            str(PROJECT / "notebooks" / f"{name}.ipynb"),
            str(executed),
            parameters=given,
            progress_bar=False,
            kernel_name="python3",
            cwd=str(PROJECT),
            config=Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}}),
        )


def cpu_of_processes() -> dict[str, float]:
    """CPU seconds of this worker and of its fork server, each since its start."""
    import psutil

    found = {f"worker {os.getpid()}": time.process_time()}
    for child in psutil.Process().children():
        times = child.cpu_times()
        found[f"fork server {child.pid}"] = times.user + times.system
    return found


def explain(error: Exception) -> str:
    """The last line that a person needs: a notebook's own error rather than papermill's wrapping of it."""
    name, value = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", str(error))
    if name == "DeadKernelError":
        return "its kernel died, perhaps for want of memory; run again with fewer --workers"
    return value if name == "SteerlibError" else f"{name}: {value}"
