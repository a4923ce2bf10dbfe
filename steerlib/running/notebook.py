"""What a notebook opens first: its job, with everything that the job needs."""

import os
import sys
import warnings
from collections.abc import Collection, Iterable
from contextlib import chdir
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers
import xarray as xr
from tqdm import tqdm

from steerlib import SteerlibError, figures
from steerlib.checkpoints import fetching, listing
from steerlib.checkpoints.history import Checkpoint
from steerlib.concepts import Concept
from steerlib.files import store
from steerlib.files.locks import locked
from steerlib.model import gguf
from steerlib.results.freshness import DRIVEN, Freshness
from steerlib.results.provenance import PROJECT, in_project
from steerlib.results.workspace import LAST, Job, Workspace
from steerlib.running.comparison import ComparisonRun
from steerlib.running.worker import run_notebook
from steerlib.stages.table import STAGES
from steerlib.study import Study

MADE = "STEERLIB_MADE"  # set for notebooks that another one has run first: it has made what it wants them to read
BAR = "{desc}: {bar:40} {n_fmt} of {total_fmt}, {elapsed} min"


class OpenJob:
    """A notebook's job: the study's params, its checkpoint, the results it reads, and where its own is saved."""

    def __init__(self, workspace: Workspace, job: Job):
        self.workspace, self.job, self.study = workspace, job, workspace.study
        self.figures = workspace.folder / "figures"
        self.method = self.study.emergence.method  # whose figures are drawn; all methods are in the data
        figures.style(self.study.model_dump())

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint looked at: fine-tuned where the study says so, and this job is not the fine-tuning."""
        return self.workspace.checkpoint(self.job)

    @property
    def concepts(self) -> list[Concept]:
        return self.workspace.concepts

    def read(self, stage: str, step: int | None = None) -> xr.Dataset:
        """Another stage's result at one checkpoint, this job's own by default."""
        return self.workspace.read(stage, self.job.step if step is None else step).squeeze("step")

    def read_previous_and_final(self, stage: str) -> list[xr.Dataset | None]:
        """A stage's results at the checkpoint before (None at the first) and at the last; None if missing, and told."""
        steps, freshness, found = list(self.workspace.checkpoints), Freshness(self.workspace), []
        at = steps.index(self.job.step)
        for step in (steps[at - 1] if at else None, steps[-1]):
            there = step is not None and freshness.usable(Job(stage, step))
            if step is not None and not there:
                print(f"warning: {Job(stage, step)} is missing, and nothing is compared with it")
            found.append(self.read(stage, step) if there else None)
        return found

    def read_each(self, stage: str, steps: Iterable[int] | None = None) -> xr.Dataset:
        """A stage's results at these checkpoints, by default all, along ``origin``."""
        steps = [*(steps or self.workspace.checkpoints)]
        each = [self.read(stage, step).drop_vars("step") for step in steps]
        return xr.concat(each, pd.Index(steps, name="origin"), join="outer")

    def save(self, dataset: xr.Dataset) -> None:
        self.workspace.save(self.job, dataset)

    def tell(self, findings: dict[str, Any]) -> None:
        """Keep what the console shows of the study: whoever asks again waits for no computation."""
        store.write_json(self.workspace.findings, findings)


def open_job(stage: str, study: str, outputs: str = "outputs", step: int | None = None) -> OpenJob:
    """Open a notebook's job; whatever it needs that is not there yet is made first, so that each notebook runs alone.

    Paths are taken from the current folder, or else from the project's. Raises SteerlibError for a stage that the
    study does not ask for, and a step that it does not have.
    """
    params, outputs = prepare(study, outputs)
    workspace = Workspace(Study.load(params), outputs)
    torch.set_num_threads(workspace.study.threads)
    if step is not None and step not in workspace.checkpoints:
        known = ", ".join(map(str, workspace.checkpoints))
        raise SteerlibError(f"{params}: has no checkpoint at step {step}; its steps are {known}")
    if stage not in {job.stage for job in workspace.jobs()}:
        raise SteerlibError(f"{params}: does not ask for {stage}; give it {STAGES[stage].params[0]}")
    job = Job(stage, step)
    if not {DRIVEN, MADE} & os.environ.keys():
        make((workspace, need) for need in shown(workspace, job))
        if STAGES[stage].loads:
            fetch(workspace, step)
        workspace = Workspace(workspace.study, outputs)  # what was made first may have been fetched to another place
    return OpenJob(workspace, job)


def fetch(workspace: Workspace, step: int) -> None:
    """Bring a checkpoint of a repository, or a GGUF file, and a base onto this disk. Raises SteerlibError."""
    fetching.base(workspace.study, workspace.folder, fetch=True)
    gguf.dequantise(workspace.study, workspace.folder)
    if not workspace.study.checkpoints.repo:
        return
    problems: list[str] = []
    with locked(workspace.folder):  # a run that is at work would fetch and remove at the same time
        repo = listing.load(workspace.study, workspace.folder, whole=True)
        told = lambda _, problem: problems.append(problem)  # noqa: E731
        supply = fetching.Supply(workspace.study, repo, workspace.folder, [step], told)
        supply.run()
        supply.release(step)
    if any(problems):
        raise SteerlibError("".join(problems))


def open_comparison(study: str, outputs: str = "outputs") -> ComparisonRun:
    """Open notebook 5's comparison; variants not analysed yet are made first. Paths as in `open_job`."""
    whole = ComparisonRun(*prepare(study, outputs))
    if DRIVEN not in os.environ:
        make(((workspace, LAST) for workspace in whole.variants.values()), unread=("similarity",))
    figures.style(whole.first.model_dump() | {"name": whole.params.name})
    return whole


def pretrain_first(study: str, outputs: str = "outputs") -> None:
    """Train the study's own model, if it has one and that is not there yet: for `steerlib.open`. Paths as above."""
    params, outputs = prepare(study, outputs)
    workspace = Workspace(Study.load(params), outputs)
    make((workspace, job) for job in workspace.jobs() if job == Job("pretraining"))


def prepare(study: str, outputs: str) -> tuple[Path, Path]:
    """The paths of params and outputs; figures in our style, and no chatter from libraries in what is to be read."""
    figures.style()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="xarray|nnsight|transformers")
    return in_project(study), PROJECT / outputs


def shown(workspace: Workspace, job: Job) -> list[Job]:
    """Those of its needs that a job's notebook shows; what else a run collects there is left to runs."""
    stages = {need.stage for need in STAGES[job.stage].needs if need.shown}
    return [need for need in workspace.needs(job) if need.stage in stages]


def make(wanted: Iterable[tuple[Workspace, Job]], unread: Collection[str] = ()) -> None:
    """Run the notebooks of jobs whose results cannot be read, each after those that it reads from; two at a time.

    Of stages that are ``unread`` here none is made for them: their notebooks show the less.
    """
    missing: dict[tuple[Workspace, Job], None] = {}

    def add(workspace: Workspace, job: Job, freshness: Freshness) -> None:
        if (workspace, job) not in missing and not freshness.usable(job):
            for need in (need for need in shown(workspace, job) if need.stage not in unread):
                add(workspace, need, freshness)
            missing[workspace, job] = None

    for workspace, job in wanted:
        add(workspace, job, Freshness(workspace))
    if not missing:
        return
    fetched = any(workspace.study.checkpoints.repo for workspace, _ in missing)  # under a lock, and large
    # Papermill changes the folder of the whole process, and back: there is nowhere else to go.
    os.environ[MADE] = "1"
    try:
        with chdir(PROJECT), ThreadPool(1 if fetched else 2) as pool, progress(len(missing), "made first") as bar:
            for stage in STAGES:
                of_stage = [one for one in missing if one[1].stage == stage]
                for _ in pool.imap_unordered(lambda one: run_notebook(*one, one[0].study.path), of_stage):
                    bar.update()
    finally:
        del os.environ[MADE]


def progress(total: int, what: str) -> tqdm:
    """A bar of plain text: the same in a notebook, in its executed copy and on a page, and no red box."""
    return tqdm(total=total, desc=what, file=sys.stdout, mininterval=2, bar_format=BAR)
