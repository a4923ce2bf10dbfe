"""Running a study: papermill for every job, on Dask, resuming what an earlier run left."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from steerlib import judges, listing, store
from steerlib.dispatch import Dispatch
from steerlib.errors import SteerlibError
from steerlib.execution import GPUS, Outcome
from steerlib.jobs import Job, Workspace
from steerlib.provenance import provenance
from steerlib.study import Study


def run(
    params: Path,
    outputs: Path,
    workers: int | None = None,
    scheduler: str | None = None,
    console: Console | None = None,
) -> list[Outcome]:
    """Everything of a study that is not done yet. Returns the outcomes of the jobs that were run.

    Raises SteerlibError when the params or concepts are wrong, when the folder was made by other params, when another
    run is at work in it, or when the study's repository or one of its steps does not exist.
    """
    console = console or Console()
    study = Study.load(params)
    workspace = Workspace(study, outputs)
    workspace.concepts  # noqa: B018 — wrong steps, concepts and files are told now, not by fifteen workers
    study.load_neutral()
    if study.generation:
        judges.chosen(study, workspace.concepts)
    if not study.checkpoints.repo:
        check_files(workspace)
    with locked(workspace.folder):
        claim(workspace)
        if study.checkpoints.repo:  # anew: a model that is still in training has more of them by now
            listing.take(study, workspace.folder)
            check_files(workspace)
        todo = workspace.todo()
        if not todo:
            console.print(f"{workspace.folder}: all {len(workspace.jobs())} jobs are done; nothing to do")
            return []
        for remark in workspace.remarks():
            console.print(f"[yellow]note:[/] {escape(remark)}", soft_wrap=True)
        done = len(workspace.jobs()) - len(todo)
        console.print(f"{workspace.folder}: {len(todo)} jobs to do" + (f", {done} done before" if done else ""))
        started = time.time()
        dispatch = Dispatch(params, outputs, workspace, todo)
        with cluster(workers, scheduler, gpus_of(study)) as client, bar(console) as progress:
            task = progress.add_task("starting", total=len(todo))
            outcomes = dispatch.run(
                client,
                lambda what, ended: progress.update(task, advance=int(ended), description=what),
            )
        # Opened anew: checkpoints that were trained just now have other hashes than those seen before.
        record(Workspace(study, outputs), outcomes, time.time() - started)
    return outcomes


def check_files(workspace: Workspace) -> None:
    """Raises SteerlibError when the history lacks what is asked for, or a file that the params name is not there."""
    for stage in {job.stage for job in workspace.jobs()}:
        workspace.files(stage)


def gpus_of(study: Study) -> list[str]:
    """The GPUs that local workers share out; none when the study uses none, or spreads a model over all."""
    wanted = study.loading.device in ("auto", "cuda") and study.loading.device_map is None
    if not wanted or not shutil.which("nvidia-smi"):  # importing torch to find none would take seconds
        return []
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(k) for k in range(torch.cuda.device_count())]


@contextmanager
def cluster(workers: int | None, scheduler: str | None, gpus: list[str]):
    """A running scheduler by its address, or a local cluster: one thread a worker, as jobs change the directory.

    By default a worker a GPU, or else one a core.
    """
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
    count = workers or len(gpus) or max(1, min(os.cpu_count() or 1, 8))
    os.environ[GPUS] = ",".join(gpus)
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
    origin = {f"checkpoints.{key}": study["checkpoints"].get(key) for key in ("folder", "repo")}
    return {"seed": study["seed"]} | origin | {f"pretraining.{k}": v for k, v in made.items()}


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
            **({"pretraining": workspace.speed()} if workspace.study.pretraining else {}),
            "stages": stages,
            "runs": [*earlier, this],
        },
    )
