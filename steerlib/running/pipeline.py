"""What of a study is still to do, and who may do it: that is looked at first, and mostly all there is to a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from steerlib import SteerlibError, nearest
from steerlib.checkpoints import dequantised, fetching, listing
from steerlib.files import locks, store
from steerlib.results import audit, keys
from steerlib.results.freshness import DRIVEN, Freshness
from steerlib.results.workspace import Job, Workspace
from steerlib.running.claims import claim, take
from steerlib.stages.table import COMPARISON
from steerlib.study import Study

if TYPE_CHECKING:
    from steerlib.running.work import Connect, Outcome


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
    if study.generation and study.generation.classifier:
        from steerlib.stages import classifiers

        classifiers.named(study, workspace.concepts)
    fetching.base(study, workspace.folder, fetch=True)
    if dequantised.missing(study, workspace.folder):
        from steerlib.model import gguf

        with locks.turn(workspace.folder, "dequantised"):  # of many runs that start at once, one makes it
            claim(workspace)
            gguf.dequantise(study, workspace.folder)
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
    from steerlib.running import work  # where nothing is to do, nobody waits for what computes

    return work.do(workspace, jobs, todo, connect, console, only, came_to)


def left(workspace: Workspace, jobs: Sequence[Job], console: Console) -> list[Job]:
    """Those of the jobs that are not done; where there are none, that is said."""
    todo = Freshness(workspace).todo(jobs)
    if not todo:
        console.print(f"{workspace.folder}: all {len(jobs)} jobs are done; nothing to do")
    return todo


def run_comparison(
    params: Path, outputs: Path, connect: Connect, console: Console, again: Sequence[str] = ()
) -> list[Outcome]:
    """Every variant in turn, then the comparison of those that have results; what is done is not done again.

    ``again`` names stages of all variants, as for a study, or the comparison itself.
    Returns the outcomes of what was run: a variant that could not be, and the comparison itself, are in the place of a
    stage. Raises SteerlibError when the params of any are wrong.
    """
    from steerlib.running.comparison import ComparisonRun  # which reads results
    from steerlib.running.worker import Outcome, explain

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
        keys.hashes_of_files(workspace, stage)


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
