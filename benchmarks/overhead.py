"""What it costs that a job is a notebook: beside the same cells called as code, in a warm kernel and in a cold one.

CPU seconds, which are absolute here, of all processes that have a part: worker, fork server and kernel.
"""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import psutil

from benchmarks.measure import Row
from benchmarks.study import smoke
from steerlib.results.freshness import DRIVEN
from steerlib.results.provenance import PROJECT
from steerlib.results.workspace import Job
from steerlib.running import kernels
from steerlib.running.worker import Run, execute
from steerlib.stages.table import STAGES

CASES = ("bare", "warm", "cold")
LAST = 20  # step
BEFORE, JOB = (Job("pretraining"), Job("probes", 0), Job("probes", LAST)), Job("similarity", 0)


def measure(repeats: int, device: str) -> list[Row]:
    """Overhead of a warm and a cold kernel, and what the whole job costs cold over warm.

    A worker a case, as in a study: the first job of each, which starts the fork server, is not counted.
    """
    with tempfile.TemporaryDirectory(prefix="steerlib-") as folder, ExitStack() as stack:
        params = smoke(Path(folder), "overhead", [0, LAST], documents=1000, steps=LAST, warmup=5)
        workers = {case: stack.enter_context(worker(case)) for case in CASES}
        run = {case: partial(workers[case].submit, cost, case, params) for case in CASES}
        workers["warm"].submit(prepare, params).result()
        for start in run.values():
            start().result()
        found = np.array([[start().result() for start in run.values()] for _ in range(repeats)])
    bare, warm, cold = found.T
    case, quantity = f"notebook {STAGES[JOB.stage].notebook}", "seconds (absolute) beyond its cells, {}"
    return [
        Row.of(case, quantity.format("warm"), warm - bare, "≤ 0.5"),
        Row.of(case, quantity.format("cold"), cold - bare),
        Row.of(case, "cold kernel over warm kernel", cold / warm),
    ]


def worker(case: str) -> ProcessPoolExecutor:
    """One process that does a case's jobs: once warm kernels are in use, it has no cold ones."""
    return ProcessPoolExecutor(1, get_context("spawn"), become_worker, (case,))


def become_worker(case: str) -> None:
    """As a study's worker is; where kernels are to be cold, it is never told to use warm ones."""
    os.environ[DRIVEN] = "1"
    if case == "cold":
        kernels.use_warm_kernels = lambda: None


def prepare(params: Path) -> None:
    """What the job reads."""
    for job in BEFORE:
        as_notebook(params, job)


def cost(case: str, params: Path) -> float:
    """CPU seconds of the job, in this process and all those it started."""
    before = spent()
    as_code(params, JOB) if case == "bare" else as_notebook(params, JOB)
    return spent() - before


def spent() -> float:
    """Of this process since its start, of its fork server, and of what either has started and seen end: kernels."""
    this = psutil.Process()
    return sum(sum(process.cpu_times()[:4]) for process in (this, *this.children()))


def as_notebook(params: Path, job: Job) -> None:
    """As a study's worker does it."""
    outcome = execute(Run(params.resolve(), params.parent.resolve(), params.resolve()), job)
    if outcome.state != "done":
        raise RuntimeError(f"{job}: {outcome.message}")


def as_code(params: Path, job: Job) -> None:
    """The notebook's cells one after another in this process, its figures drawn."""
    notebook = nbformat.read(PROJECT / "notebooks" / f"{STAGES[job.stage].notebook}.ipynb", as_version=4)
    given = {"study": str(params), "outputs": str(params.parent), "step": job.step}
    for cell in notebook.cells:
        if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", []):
            exec(cell.source, given)
    for number in plt.get_fignums():
        plt.figure(number).savefig(BytesIO())
    plt.close("all")
