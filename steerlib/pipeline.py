"""Running a study: papermill for every job, on Dask, resuming what an earlier run left."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from steerlib import judges, store
from steerlib.errors import SteerlibError
from steerlib.jobs import DRIVEN, Job, Workspace
from steerlib.provenance import PROJECT, provenance
from steerlib.stages import STAGES
from steerlib.study import Study


@dataclass(frozen=True)
class Outcome:
    """How a job ended, and what it cost."""

    job: Job
    state: str  # 'done', 'failed' or 'skipped' (something it needs failed)
    message: str = ""
    cpu: dict[str, float] = field(default_factory=dict)  # process (kind and pid) -> CPU seconds since its start


def execute(params: str, outputs: str, job: Job, needed: list[Outcome]) -> Outcome:
    """One job in a worker: its notebook by papermill, then its stamp. Failures are told, not raised."""
    workspace = Workspace(Study.load(params), outputs)
    if lacking := [o for o in needed if o.state != "done" and workspace.needs(job)[o.job]]:
        return Outcome(job, "skipped", f"because {', '.join(str(o.job) for o in lacking)} failed")
    os.environ[DRIVEN] = "1"
    started = time.time()
    try:
        try:
            run_notebook(workspace, job, params, outputs)
        except RuntimeError:  # its kernel did not start, or died: once more, as that may have been the machine's fault
            run_notebook(workspace, job, params, outputs)
        kernel = store.read(workspace.data(job)).attrs["cpu_seconds"]
        workspace.write_stamp(job, {"cpu_seconds": float(kernel), "wall_seconds": time.time() - started})
    except Exception as error:  # whatever a notebook, a kernel or a disk may do: the other checkpoints go on
        return Outcome(job, "failed", explain(error), cpu_of_processes())
    return Outcome(job, "done", cpu=cpu_of_processes())


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


def run(
    params: Path,
    outputs: Path,
    workers: int | None = None,
    scheduler: str | None = None,
    console: Console | None = None,
) -> list[Outcome]:
    """Everything of a study that is not done yet. Returns the outcomes of the jobs that were run.

    Raises SteerlibError when the params or concepts are wrong, when the folder was made by other params, or when
    another run is at work in it.
    """
    console = console or Console()
    study = Study.load(params)
    workspace = Workspace(study, outputs)
    workspace.concepts  # noqa: B018 — wrong steps, concepts and files are told now, not by fifteen workers
    study.load_neutral()
    if study.generation:
        judges.chosen(study, workspace.concepts)
    for stage in {job.stage for job in workspace.jobs()}:
        workspace.files(stage)
    with locked(workspace.folder):
        claim(workspace)
        todo = workspace.todo()
        if not todo:
            console.print(f"{workspace.folder}: all {len(workspace.jobs())} jobs are done; nothing to do")
            return []
        done = len(workspace.jobs()) - len(todo)
        console.print(f"{workspace.folder}: {len(todo)} jobs to do" + (f", {done} done before" if done else ""))
        started = time.time()
        with cluster(workers, scheduler) as client, bar(console) as progress:
            outcomes = submit(client, params, outputs, workspace, todo, progress)
        # Opened anew: checkpoints that were trained just now have other hashes than those seen before.
        record(Workspace(study, outputs), outcomes, time.time() - started)
    return outcomes


def submit(
    client, params: Path, outputs: Path, workspace: Workspace, todo: list[Job], progress: Progress
) -> list[Outcome]:
    """One Dask task a job, each waiting for those it needs."""
    from distributed import as_completed

    futures: dict[Job, object] = {}
    for order, job in enumerate(todo):
        needed = [futures[need] for need in workspace.needs(job) if need in futures]
        futures[job] = client.submit(
            execute,
            str(params.resolve()),
            str(outputs.resolve()),
            job,
            needed,
            key=f"{job} {time.time_ns()}",
            priority=-order,
            pure=False,
        )
    jobs, outcomes = {future.key: job for job, future in futures.items()}, []
    task = progress.add_task("starting", total=len(todo))
    for future in as_completed(futures.values()):
        job = jobs[future.key]
        error = future.exception()
        outcome = (
            future.result() if error is None else Outcome(job, "failed", f"its worker died ({type(error).__name__})")
        )
        outcomes.append(outcome)
        progress.update(task, advance=1, description=f"{outcome.job}: {outcome.state}")
    return outcomes


@contextmanager
def cluster(workers: int | None, scheduler: str | None):
    """A running scheduler by its address, or a local cluster: one thread a worker, as jobs change the directory."""
    from distributed import Client, LocalCluster

    if scheduler:
        with Client(scheduler) as client:
            yield client
        return
    # Each worker computes on as many threads as the study says; more would only fight over the cores.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    # Threads that wait for one another sleep instead of spinning: on a busy machine spinning costs many times the work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    count = workers or max(1, min(os.cpu_count() or 1, 8))
    with (
        LocalCluster(
            n_workers=count, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=0
        ) as local,
        Client(local) as client,
    ):
        yield client


@contextmanager
def bar(console: Console):
    columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=console, refresh_per_second=2) as progress:
        yield progress


@contextmanager
def locked(folder: Path):
    """One driver a folder: two would overwrite each other's work."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise SteerlibError(f"{folder}: another steerlib run is at work here; wait for it, or stop it") from None


def claim(workspace: Workspace) -> None:
    """Take an output folder for a study. Raises SteerlibError when it holds results of another model.

    Other analysis params are no hindrance: what they touch is made again. Another model is: its checkpoints would be
    overwritten, or mixed with these.
    """
    path, mine = workspace.folder / "study.json", workspace.study.model_dump(mode="json")
    theirs = store.read_json(path)
    if theirs is not None:
        for where, here, there in _differences(_identity(mine), _identity(theirs)):
            raise SteerlibError(
                f"{workspace.folder}: made by other params "
                f"({where} is {there!r} there, {here!r} in {workspace.study._path}); "
                f"give this study another name, or remove the folder with `make clean STUDY={workspace.study.name}`"
            )
    store.write_json(path, mine)


def _identity(study: dict) -> dict:
    made = study["pretraining"] or {}
    return {"seed": study["seed"], "checkpoints.folder": study["checkpoints"]["folder"]} | {
        f"pretraining.{k}": v for k, v in made.items()
    }


def _differences(here: dict, there: dict) -> Iterable[tuple[str, object, object]]:
    for key in sorted({*here, *there}):
        if here.get(key) != there.get(key):
            yield key, here.get(key), there.get(key)


def record(workspace: Workspace, outcomes: list[Outcome], wall: float) -> None:
    """`run.json`: params, versions, checkpoint hashes, and what each stage and each run cost."""
    from importlib.metadata import version

    path = workspace.folder / "run.json"
    earlier = (store.read_json(path) or {}).get("runs", [])
    processes: dict[str, float] = {f"driver {os.getpid()}": time.process_time()}
    for outcome in outcomes:
        processes |= {name: max(seconds, processes.get(name, 0)) for name, seconds in outcome.cpu.items()}
    stages: dict[str, dict[str, float]] = {}
    for job in workspace.jobs():
        if stamp := workspace.read_stamp(job):
            stage = stages.setdefault(job.stage, {"jobs": 0, "cpu_seconds": 0.0, "wall_seconds": 0.0})
            stage["jobs"] += 1
            for kind in ("cpu_seconds", "wall_seconds"):
                stage[kind] = round(stage[kind] + stamp[kind], 3)
    checkpoints = {}
    for step, c in workspace.checkpoints.items():
        if workspace.state(Job("probes", step)) == "done":
            seen = {"revision": c.revision, "tokens_seen": c.tokens_seen, "weights_sha256": c.weights_sha256}
            if workspace.study.finetuning:
                seen["finetuned_sha256"] = workspace.analysed[step].weights_sha256
            checkpoints[str(step)] = seen
    libraries = ("torch", "transformers", "nnsight", "numpy", "scipy", "xarray", "zarr", "papermill", "distributed")
    this = {
        "finished": provenance(workspace.study)["created"],
        "wall_seconds": round(wall, 3),
        "jobs": {state: sum(o.state == state for o in outcomes) for state in ("done", "failed", "skipped")},
        # Beside the notebooks' own seconds above: papermill in the workers, imports in their fork servers, the driver.
        "overhead_cpu_seconds": {name: round(seconds, 3) for name, seconds in processes.items()},
    }
    made_by = {key: value for key, value in provenance(workspace.study).items() if key != "params"}
    store.write_json(
        path,
        {
            "study": workspace.study.model_dump(mode="json"),
            **made_by,
            "versions": {library: version(library) for library in libraries},
            "checkpoints": checkpoints,
            "stages": stages,
            "runs": [*earlier, this],
        },
    )
