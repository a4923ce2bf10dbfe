"""Doing what is to do of a study: papermill for every job, on Dask; and the record of what it cost, `run.json`."""

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from steerlib import SteerlibError
from steerlib.checkpoints import contents
from steerlib.files import locks, store
from steerlib.results import audit, crate, keys
from steerlib.results.freshness import Freshness
from steerlib.results.provenance import peak_rss, provenance
from steerlib.results.workspace import Job, Workspace
from steerlib.running import check
from steerlib.running.dispatch import Dispatch
from steerlib.running.estimate import about
from steerlib.running.tables import note
from steerlib.running.worker import Outcome, Run
from steerlib.study import Study

Connect = Callable[[Study, Path], AbstractContextManager]  # a Dask client, for a study and its folder


def do(
    workspace: Workspace,
    jobs: Sequence[Job],
    todo: Sequence[Job],
    connect: Connect,
    console: Console,
    only: Sequence[int],
    came_to: dict[str, Any],
) -> list[Outcome]:
    """Those of the jobs that are to do, in a folder that is ours alone. Returns how they ended.

    What the audit is to tell of it is put into ``came_to``. Raises SteerlibError as `pipeline.run` does.
    """
    study = workspace.study
    for remark in [*workspace.remarks(), *check.admit(workspace)]:
        note(remark, console)
    done = len(jobs) - len(todo)
    before = f", {done} done before" if done else ""
    console.print(f"{workspace.folder}: {len(todo)} jobs to do{before}{about(workspace, todo)}")
    started, spent = time.time(), ended_children()
    for abandoned in workspace.folder.glob(".run-*") if not only else ():  # of killed runs: no other is at work
        shutil.rmtree(abandoned) if abandoned.is_dir() else abandoned.unlink(missing_ok=True)
    with marked(workspace.folder) as marker:
        terms = {stage: keys.of_stage(workspace, stage) for stage in {job.stage for job in todo}}
        common = Run(study.keep(workspace.folder), workspace.folder.parent, marker, of_stages=terms)
        dispatch = Dispatch(common, workspace, todo)
        contents.refuse_unfit(workspace.checkpoints.values(), dispatch.faults)
        for step in sorted(dispatch.faults.keys() & {job.step for job in todo}):
            note(f"step {step} fails: {dispatch.faults[step]}", console)
        columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
        bar = Progress(*columns, console=console, refresh_per_second=2)
        with connect(study, workspace.folder) as client, bar:
            task = bar.add_task("starting", total=len(todo))
            outcomes = dispatch.run(client, partial(bar.update, task))
    # Opened anew: checkpoints that were trained just now have other hashes than those seen before.
    workspace = Workspace(study, workspace.folder.parent)
    try:
        now, ended = Freshness(workspace), {outcome.job for outcome in outcomes if outcome.state != "done"}
        if late := [str(job) for job in jobs if job not in ended and now.state(job) != "done"]:
            some = late[0] + (f" and {len(late) - 1} more" if len(late) > 1 else "")
            note(f"{some}: it, or what it is made from, was altered meanwhile; run again", console)
        came_to |= {"jobs": counts(outcomes)} | audit.of_results(now, jobs)
        with locks.turn(workspace.folder, "record"):
            record(workspace, outcomes, time.time() - started, spent, only)
            crate.write(workspace, now)
    except SteerlibError as error:  # of a full disk, say: which jobs failed is told all the same
        outcomes.append(Outcome(Job("run.json"), "failed", str(error)))
    return outcomes


@contextmanager
def marked(folder: Path) -> Iterator[Path]:
    """A file of this run alone, by which workers tell that they see its folder."""
    marker = folder / f".run-{uuid.uuid4().hex}"
    store.write_bytes(marker, b"")
    try:
        yield marker
    finally:
        with suppress(OSError):  # the disk may refuse by now, and other things are to be told
            marker.unlink(missing_ok=True)


class Runs(BaseModel):
    """What of `run.json` is kept when it is written anew."""

    runs: list[dict]


def counts(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How many jobs ended how."""
    return {state: sum(outcome.state == state for outcome in outcomes) for state in ("done", "failed", "skipped")}


def ended_children() -> float:
    """CPU seconds of this process's children that have ended."""
    return sum(os.times()[2:4])


def record(workspace: Workspace, outcomes: list[Outcome], wall: float, before: float, only: Sequence[int] = ()) -> None:
    """`run.json`: params, versions, checkpoint hashes, and what each stage and each run cost.

    ``before`` are the CPU seconds of children that had ended when the run began.
    """
    path = workspace.folder / "run.json"
    earlier = store.read_json(path, Runs)
    made_by = provenance(workspace.study)
    del made_by["params"]
    processes = {"driver": time.process_time(), "workers": ended_children() - before, "fork server": 0.0}
    # Workers on this machine have ended by now, the server of their kernels has not.
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            processes["fork server"] += sum(child.cpu_times()[:2])
    freshness = Freshness(workspace)
    costs = {"jobs": "sum", "cpu_seconds": "sum", "wall_seconds": "sum", "peak_rss_bytes": "max"}
    stamps = {job: stamp for job in workspace.jobs() if (stamp := freshness.stamp(job))}
    of_jobs = [{"stage": job.stage, "jobs": 1, **stamp.model_dump()} for job, stamp in stamps.items()]
    stages = pd.DataFrame(of_jobs, columns=["stage", *costs]).groupby("stage", sort=False).agg(costs).round(3)
    checkpoints = {}
    for step, c in workspace.checkpoints.items():
        if freshness.state(Job("probes", step)) == "done":
            record = {"revision": c.revision, "tokens_seen": c.tokens_seen, "weights_sha256": c.weights_sha256}
            if workspace.study.finetuning:
                record["finetuned_sha256"] = workspace.analysed[step].weights_sha256
            checkpoints[str(step)] = record
    speed = {"pretraining": {}} if workspace.study.pretraining else {}
    if freshness.state(Job("pretraining")) == "done":
        attrs = workspace.read("pretraining").loss.attrs
        speed["pretraining"] = {name: value for name, value in attrs.items() if isinstance(value, float)}
    libraries = ("torch", "transformers", "nnsight", "numpy", "scipy", "xarray", "zarr", "papermill", "distributed")
    run = {
        "finished": made_by["created"],
        "wall_seconds": round(wall, 3),
        **({"steps": list(only)} if only else {}),
        "jobs": counts(outcomes),
        # Beside the notebooks' own seconds above: papermill in the workers, imports in their fork servers, the driver.
        "driver_peak_rss_bytes": peak_rss(),
        "overhead_cpu_seconds": {name: round(seconds, 3) for name, seconds in processes.items()},
    }
    whole = {
        "study": workspace.study.model_dump(mode="json"),
        **made_by,
        "versions": {library: version(library) for library in libraries},
        "checkpoints": checkpoints,
        **speed,
        "stages": stages.to_dict("index"),
        "runs": [*(earlier.runs if earlier else ()), run],
    }
    store.write_json(path, whole)
