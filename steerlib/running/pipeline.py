"""Running a study or a comparison: papermill for every job, on Dask, resuming what an earlier run left."""

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import psutil
from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from steerlib import SteerlibError, nearest
from steerlib.checkpoints import contents, fetching, listing
from steerlib.files import locks, store
from steerlib.results import audit, crate, keys
from steerlib.results.freshness import DRIVEN, Freshness
from steerlib.results.provenance import peak_rss, provenance
from steerlib.results.workspace import Job, Workspace
from steerlib.running.claims import claim, take
from steerlib.running.comparison import ComparisonRun
from steerlib.running.tables import note
from steerlib.running.worker import Outcome, Run, explain
from steerlib.stages.table import COMPARISON
from steerlib.study import Study

Connect = Callable[[Study, Path], AbstractContextManager]  # a Dask client, for a study and its folder


def run(
    study: Study, outputs: Path, connect: Connect, console: Console, only: Sequence[int] = (), again: Sequence[str] = ()
) -> list[Outcome]:
    """Everything of a study that is not done yet. Returns the outcomes of the jobs that were run.

    ``only`` are steps: then their own jobs alone, those that need nothing of another step, are done, and other such
    runs may be at work in the folder. ``again`` names what is done anew, as it is, with all that depends on it.

    Raises SteerlibError when the concepts are wrong or not to be used, when the folder was made by other params, when
    another run is at work in it, or when the study's repository or one of its steps does not exist.
    """
    workspace = Workspace(study, outputs)
    workspace.concepts  # noqa: B018 — wrong steps, concepts and files are told now, not by fifteen workers
    study.load_neutral()
    if study.generation:
        from steerlib.stages import judges

        judges.chosen(study, workspace.concepts)
    fetching.base(study, workspace.folder, fetch=True)
    if not study.checkpoints.repo:
        check_files(workspace)
    if only and (unknown := sorted({*only} - {*workspace.steps()})):
        there = ", ".join(map(str, workspace.checkpoints))
        raise SteerlibError(f"--only: {study.name} has no step {unknown[0]}; its steps are {there}")
    writable = not workspace.folder.exists() or os.access(workspace.folder, os.W_OK)
    if not writable and not again and not left(workspace, workspace.jobs(), console):
        return []
    with locks.locked_steps(workspace.folder, only) if only else locks.locked(workspace.folder):
        claim(workspace)
        with audit.during(workspace.folder, study, "run", only=[*only], again=[*again]) as came_to:
            return _run(workspace, connect, console, only, again, came_to)


def _run(
    workspace: Workspace, connect: Connect, console: Console, only: Sequence[int], again: Sequence[str], came_to: dict
) -> list[Outcome]:
    """What is not done yet of a folder that is ours alone; what the audit is to tell of it is put into ``came_to``."""
    study = workspace.study
    if study.checkpoints.repo:  # anew: a model that is still in training has more of them by now
        if not only:
            listing.take(study, workspace.folder)
        check_files(workspace)
    jobs = of_steps(workspace, only) if only else workspace.jobs()
    forced(workspace, again, jobs)
    todo = left(workspace, jobs, console)
    came_to["to_do"] = len(todo)
    if not todo:
        return []
    from steerlib.running import check  # where nothing is to do, nobody waits for what computes
    from steerlib.running.dispatch import Dispatch

    for remark in [*workspace.remarks(), *check.admit(workspace)]:
        note(remark, console)
    done = len(jobs) - len(todo)
    console.print(f"{workspace.folder}: {len(todo)} jobs to do" + (f", {done} done before" if done else ""))
    started, before = time.time(), ended_children()
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
            record(workspace, outcomes, time.time() - started, before, only)
            crate.write(workspace, now)
    except SteerlibError as error:  # of a full disk, say: which jobs failed is told all the same
        outcomes.append(Outcome(Job("run.json"), "failed", str(error)))
    return outcomes


def left(workspace: Workspace, jobs: Sequence[Job], console: Console) -> list[Job]:
    """Those of the jobs that are not done; where there are none, that is said."""
    todo = Freshness(workspace).todo(jobs)
    if not todo:
        console.print(f"{workspace.folder}: all {len(jobs)} jobs are done; nothing to do")
    return todo


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


def run_comparison(
    params: Path, outputs: Path, connect: Connect, console: Console, again: Sequence[str] = ()
) -> list[Outcome]:
    """Every variant in turn, then the comparison of those that have results; what is done is not done again.

    ``again`` names stages of all variants, as for a study, or the comparison itself.
    Returns the outcomes of what was run: a variant that could not be, and the comparison itself, are in the place of a
    stage. Raises SteerlibError when the params of any are wrong.
    """
    os.environ[DRIVEN] = "1"
    outcomes: list[Outcome] = []
    whole, own = ComparisonRun(params, outputs), COMPARISON.name
    stages = [word for word in again if word != own]
    for name, workspace in whole.variants.items():
        try:
            outcomes += run(workspace.study, outputs, connect, console, again=stages)
        except SteerlibError as error:
            outcomes.append(Outcome(Job(name), "failed", str(error)))
    # Opened anew, as there may be weights by now that were not there; the params are those that it began with.
    whole.variants = {name: Workspace(workspace.study, outputs) for name, workspace in whole.variants.items()}
    try:
        if whole.state() == "done" and own not in again:
            console.print(f"{whole.folder}: the comparison is done; nothing to do")
        elif (count := len(whole.usable())) < 2:
            message = f"a comparison needs two variants with results; found {count}"
            outcomes.append(Outcome(Job(whole.params.name), "failed", message))
        else:
            with locks.locked(whole.folder):
                take(whole.folder, whole.path, {})
                with audit.during(whole.folder, whole.params, "comparison"):
                    whole.compare()
    except Exception as error:  # whatever a notebook, a kernel or a disk may do
        outcomes.append(Outcome(Job(whole.params.name), "failed", explain(error), notebook=whole.notebook))
    return outcomes


def steps_of(only: list[str]) -> list[int]:
    """Steps as --only tells them, in order: step=1000, or several with commas. Raises SteerlibError for others."""
    words = [word.strip().removeprefix("step=") for option in only for word in option.split(",")]
    if wrong := [word for word in words if not word.isascii() or not word.isdigit()]:
        raise SteerlibError(f"--only: {wrong[0]!r} is no step; write step=1000, or step=1000,2000")
    return sorted({int(word) for word in words})


def of_steps(workspace: Workspace, only: Sequence[int]) -> list[Job]:
    """Jobs of these steps that need nothing of another one, nor have a need that does.

    Raises SteerlibError when the study has yet to pretrain the model.
    """
    if (trained := Job("pretraining")) in workspace.jobs() and Freshness(workspace).state(trained) != "done":
        raise SteerlibError(
            f"{workspace.folder}: its model is not pretrained yet, and --only does not do that; "
            "run the study without --only until it is"
        )
    jobs: list[Job] = []
    for job in (job for job in workspace.jobs() if job.step in only):
        if all(need == trained or (need in jobs and need.step == job.step) for need in workspace.needs(job)):
            jobs.append(job)
    return jobs


def check_files(workspace: Workspace) -> None:
    """Raises SteerlibError when the history lacks what is asked for, or a file that the params name is not there."""
    for stage in {job.stage for job in workspace.jobs()}:
        keys.hashes_of_files(workspace.study, stage)


class Runs(BaseModel):
    """What of `run.json` is kept when it is written anew."""

    runs: list[dict]


def forced(workspace: Workspace, again: Sequence[str], jobs: Sequence[Job]) -> None:
    """Let jobs that are named by stage, or as STAGE@STEP, count as not done. Raises SteerlibError where none is."""
    chosen: list[Job] = []
    for word in again:
        stage, _, step = word.partition("@")
        named = [job for job in jobs if job.stage == stage and step in ("", str(job.step))]
        if not named:
            stages = list(dict.fromkeys(job.stage for job in jobs))
            steps = ", ".join(dict.fromkeys(str(job.step) for job in jobs if job.step is not None))
            raise SteerlibError(
                f"--again: there is no {word} here, but {', '.join(stages)}; and at steps {steps} STAGE@STEP"
                f"{nearest(stage, stages) if stage not in stages else ''}"
            )
        chosen += named
    for job in chosen:
        if stamp := Freshness(workspace).stamp(job):  # it goes on telling what was written
            store.write_json(workspace.stamp(job), stamp.model_copy(update={"key": {}}).model_dump())
        if job.stage == "pretraining":
            from steerlib.stages import pretraining

            pretraining.forget(workspace.folder)


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
