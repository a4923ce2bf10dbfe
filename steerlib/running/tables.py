"""How much of a study or comparison is done, what was found, and what failed, told on the console."""

from __future__ import annotations

from collections import Counter

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from steerlib import SteerlibError
from steerlib.files import store
from steerlib.results.freshness import Freshness
from steerlib.results.workspace import Job, Workspace
from steerlib.running.comparison import LAST, ComparisonRun
from steerlib.running.worker import Outcome
from steerlib.stages import comparison, emergence
from steerlib.stages.table import STAGES

COLOURS = {"done": "green", "stale": "yellow", "missing": "red"}  # of a job's states
SAME = 5  # failures of one cause that are told one by one


def status_of_study(workspace: Workspace, console: Console) -> None:
    """Which jobs are done, stale or missing: a row a checkpoint, and those of the whole study below."""
    freshness = Freshness(workspace)
    states = {job: freshness.state(job) for job in workspace.jobs()}
    show = lambda job: f"[{COLOURS[states[job]]}]{states[job]}[/]" if job in states else ""  # noqa: E731
    per_step = list(dict.fromkeys(job.stage for job in states if job.step is not None))
    table = Table("step", *per_step, title=f"{workspace.study.name}: {workspace.folder}")
    for step in workspace.checkpoints:
        table.add_row(str(step), *(show(Job(stage, step)) for stage in per_step))
    console.print(table)
    for job in states:
        if job.step is None:
            console.print(f"{job}: {show(job)}")
    counts = Counter(states.values())
    console.print(", ".join(f"{counts[state]} {state}" for state in COLOURS))


def status_of_comparison(run: ComparisonRun, console: Console) -> None:
    """How much of every variant, and whether the comparison, is done."""
    table = Table("variant", *COLOURS, "results", title=f"{run.params.name}: {run.folder}")
    problems = []
    for name, workspace in run.variants.items():
        try:
            counts = Counter(map(Freshness(workspace).state, workspace.jobs()))
        except SteerlibError as error:  # its checkpoints are another variant's, and not there yet
            table.add_row(name, *("?" * len(COLOURS)), str(workspace.folder))
            problems.append(f"{name}: {error}")
        else:
            table.add_row(name, *(str(counts[state]) for state in COLOURS), str(workspace.folder))
    console.print(table)
    for problem in problems:
        console.print(escape(problem), soft_wrap=True)
    console.print(f"comparison: {run.state()}")


def results_of_study(workspace: Workspace, console: Console) -> None:
    """When each concept became separable, expressed and steerable; nothing unless the analysis of all holds."""
    if Freshness(workspace).state(LAST) == "done":  # not an earlier run's, when it failed in this one
        summary = emergence.summary(workspace.read(LAST.stage))
        console.print(table_of(summary, "Onset: training step, with its interval"))
        figures, results = workspace.folder / "figures", workspace.folder / "results.zarr"
        console.print(f"Figures: {figures}\nResults: {results}", soft_wrap=True)


def results_of_comparison(run: ComparisonRun, console: Console) -> None:
    """The onsets of all variants side by side; nothing unless the comparison holds."""
    if run.state() == "done":
        compared = store.read(run.data)
        title = "Onset of steerability: training step, with its interval"
        console.print(table_of(comparison.summary(compared), title))
        if taus := ", ".join(f"{name} {tau:.2f}" for name, tau in comparison.orders(compared).dropna().items()):
            console.print(f"Kendall's tau of planted frequency and earliness: {taus}", soft_wrap=True)
        console.print(f"Figures: {run.figures}\nResults: {run.data}", soft_wrap=True)


def failures(workspace: Workspace, outcomes: list[Outcome], console: Console) -> bool:
    """Say which jobs failed, why, and where their notebooks are. Returns whether any did."""
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    skipped = sum(outcome.state == "skipped" for outcome in outcomes)
    counts = Counter()
    for outcome in failed:
        counts[outcome.message] += 1
        if counts[outcome.message] > SAME:
            continue
        console.print(f"[red]failed[/] {outcome.job}: {escape(outcome.message)}", soft_wrap=True)
        if outcome.job.stage in STAGES and (notebook := workspace.notebook(outcome.job)).exists():
            console.print(f"       notebook: {notebook}", soft_wrap=True)
    for message, count in counts.items():
        if count > SAME:
            console.print(f"[red]failed[/] {count - SAME} more: {escape(message)}", soft_wrap=True)
    if failed:
        console.print(f"{len(failed)} failed, {skipped} that need them were skipped; the rest is kept. Run again.")
    return bool(failed)


def table_of(frame: pd.DataFrame, title: str) -> Table:
    """A data frame of texts, a row a concept, or what else its index tells as far as it tells rows apart."""
    index = frame.index.to_frame().rename(columns={0: "concept"})
    if len(index) > 1:
        index = index.loc[:, index.nunique() > 1]
    table = Table(*map(str, [*index, *frame.columns]), title=title, box=box.SIMPLE)
    for names, (_, cells) in zip(index.itertuples(index=False), frame.iterrows(), strict=True):
        table.add_row(*(escape(str(cell)) for cell in (*names, *cells)))
    return table
