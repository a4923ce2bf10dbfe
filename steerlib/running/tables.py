"""What the console shows of a study without its results: what there is, how much of it is done, and what failed.

Nothing that computes is imported: whoever asks waits for files alone.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.filesize import decimal, pick_unit_and_suffix
from rich.table import Table
from rich.text import Text

from steerlib import SteerlibError
from steerlib.checkpoints import fetching, listing
from steerlib.checkpoints.history import Checkpoint
from steerlib.checkpoints.suites import Revision, known
from steerlib.files.layout import weight_files
from steerlib.results.freshness import Freshness
from steerlib.results.workspace import Job, Workspace
from steerlib.stages.table import STAGES
from steerlib.study import Study

if TYPE_CHECKING:
    import pandas as pd

    from steerlib.running.comparison import ComparisonRun
    from steerlib.running.worker import Outcome

COLOURS = {"done": "green", "stale": "yellow", "missing": "red"}  # of a job's states
FEW = 3  # failures alike that are told one by one, and checkpoints of more that are named
# How a checkpoint's row is written; in yellow where something is wrong with it.
STYLES = {"here": None, "in your cache": None, "to fetch": None, "fetched, removed": "dim", "not trained yet": "dim"}


# --- before a run: suites and checkpoints ----------------------------------------------------------------------------


def show_suites(console: Console) -> None:
    """The suites whose revisions are known, a line a repository: not all of a suite's, but each kind of name."""
    widest = max(len(repo) for suite in known().values() for repo in suite.examples)
    told = lambda *cells: console.print("  {:<{}}  {:>6}  {}".format(cells[0], widest, *cells[1:]), soft_wrap=True)  # noqa: E731
    told("repository", "params", "a checkpoint")
    for name, suite in known().items():
        revisions = f"{suite.like[0]} … ({len(suite.grid)})" if suite.grid else suite.like[0]
        console.print(Text(f"{name}:", "bold"), f"revisions as {revisions}", soft_wrap=True, highlight=False)
        for repo in suite.examples:
            size, count = suite.bytes(repo), suite.parameters(repo)
            told(repo, short(count) if count else "?", f"about {decimal(size)}" if size else "?")
    for name, suite in known().items():
        if suite.needs:
            console.print(f"{name} needs {suite.needs}", soft_wrap=True)
    console.print(
        "steerlib checkpoints PARAMS asks the hub for the sizes of a study's own. Any other repository or folder: "
        "checkpoints.pattern, a regular expression with a group named step.",
        soft_wrap=True,
    )


def show_checkpoints(study: Study, outputs: Path, console: Console) -> None:
    """A table of the checkpoints, what is known to be wrong with them, and the sums."""
    workspace = Workspace(study, outputs)
    if study.checkpoints.repo:
        listed = listing.take(study, workspace.folder, keep=False)
        end, remarks = listed.end, listed.remarks()
        rows = [(entry, entry.size, _state(entry, listed, workspace.folder)) for entry in listed.entries]
        base = fetching.base(study, workspace.folder)
        lying = [Checkpoint(0, base, 0, str(study.checkpoints.base))] if listed.base else []
    else:
        listed, end, remarks = None, max(workspace.checkpoints) or 1, workspace.remarks()
        rows, lying = [], list(workspace.checkpoints.values())
    rows = [(checkpoint, *_found(checkpoint, study)) for checkpoint in lying] + rows
    table = Table("step", "%", "revision", "tokens", "size", "", title=study.name, box=box.SIMPLE)
    for column in table.columns[:2] + table.columns[3:5]:
        column.justify = "right"
    for checkpoint, size, state in rows:
        table.add_row(
            f"{checkpoint.step:,}",
            f"{100 * checkpoint.step / end:.3g}",
            checkpoint.revision,
            short(checkpoint.tokens_seen) if checkpoint.tokens_seen >= 0 else "?",
            decimal(size) if size else "?",
            state,
            style=STYLES.get(state, "yellow"),
        )
    console.print(table)
    for remark in remarks:
        note(remark, console)
    if listed is None:
        return
    missing = [size for _, size, state in rows if state == "to fetch"]
    known = any(entry.size for entry in listed.entries)
    size = lambda count: decimal(count) if known else "of unknown size"  # noqa: E731
    largest = max((entry.size for entry in listed.studied), default=0)
    budget = study.checkpoints.disk
    at_a_time = f"at most {decimal(budget)} at a time (checkpoints.disk)" if budget else "all are kept"
    console.print(
        f"{len(listed.studied)} checkpoints of {listed.repo}; to fetch: {len(missing)}, {size(sum(missing))}; "
        f"on disk: {at_a_time}; the largest: {size(largest)}.",
        soft_wrap=True,
    )
    if not known:
        console.print("The hub could not be asked: revisions are those of the suite's pattern, without sizes.")


def _state(entry: Revision, listed: listing.Listing, folder: Path) -> str:
    if twin := listed.twins.get(entry.step):
        return f"equal to {twin.revision}"
    if entry.problem:
        return entry.problem
    if fetching.whole(folder, entry):
        return "here"
    if fetching.cached(listed, entry):
        return "in your cache"
    return "fetched, removed" if fetching.record(folder, entry) else "to fetch"


def _found(checkpoint: Checkpoint, study: Study) -> tuple[int, str]:
    """Size and state of what no download brings: of a base that is to be fetched there may be nothing yet."""
    try:
        return sum(file.stat().st_size for file in weight_files(checkpoint.path)), "here"
    except (SteerlibError, OSError):
        absent = "no weights" if os.path.lexists(checkpoint.path) else "to fetch"
        return 0, "not trained yet" if study.pretraining else absent


def short(count: int) -> str:
    """A count of tokens or parameters in the unit that people say."""
    unit, name = pick_unit_and_suffix(count, ["", "k", "M", "B", "T"], 1000)
    return f"{count / unit:.3g}{name}"


# --- during and after it ---------------------------------------------------------------------------------------------


def status_of_study(workspace: Workspace, console: Console) -> None:
    """Which jobs are done, stale or missing: a row a checkpoint, and those of the whole study below."""
    freshness = Freshness(workspace)
    states = {job: freshness.state(job) for job in workspace.jobs()}
    show = lambda job: Text(states[job], COLOURS[states[job]]) if job in states else ""  # noqa: E731
    per_step = list(dict.fromkeys(job.stage for job in states if job.step is not None))
    console.print(f"{workspace.study.name}: {workspace.folder}", soft_wrap=True)
    table = Table("step", *per_step)
    for step in workspace.checkpoints:
        table.add_row(str(step), *(show(Job(stage, step)) for stage in per_step))
    console.print(table)
    for job in states:
        if job.step is None:
            console.print(f"{job}:", show(job))
    counts = Counter(states.values())
    console.print(", ".join(f"{counts[state]} {state}" for state in COLOURS))
    tell_by_hand([job for job in states if freshness.by_hand(job)], console)
    for remark in freshness.remarks():
        note(remark, console)


def status_of_comparison(run: ComparisonRun, console: Console) -> None:
    """How much of every variant, and whether the comparison, is done."""
    console.print(f"{run.params.name}: {run.folder}", soft_wrap=True)
    table = Table("variant", *COLOURS, "results")
    problems, by_hand = [], []
    for name, workspace in run.variants.items():
        try:
            freshness, jobs = Freshness(workspace), workspace.jobs()
            counts = Counter(map(freshness.state, jobs))
            by_hand += filter(freshness.by_hand, jobs)
        except SteerlibError as error:  # its checkpoints are another variant's, and not there yet
            counts = dict.fromkeys(COLOURS, "?")
            problems.append(f"{name}: {error}")
        table.add_row(name, *(str(counts[state]) for state in COLOURS), str(workspace.folder))
    console.print(table)
    tell_by_hand(by_hand, console)
    for problem in problems:
        console.print(problem, soft_wrap=True)
    console.print(f"comparison: {run.state()}")


def tell_by_hand(jobs: list[Job], console: Console) -> None:
    """Which results count as missing though they are there."""
    if jobs:
        said = "without a stamp, as notebooks run by hand and interrupted runs leave them"
        note(f"{len(jobs)} of the missing lie here {said}: notebooks read them, the next run makes them anew", console)


def note(remark: str, console: Console) -> None:
    """What a reader should know of before, but which ends nothing."""
    console.print(Text("note:", "yellow"), remark, soft_wrap=True)


def failures(outcomes: list[Outcome], console: Console) -> bool:
    """Say which jobs failed, why, and where their notebooks are; of many alike the first. Returns whether any did."""
    alike: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.state == "failed":  # alike when they differ in numbers alone: of a step, a revision, of bytes
            alike.setdefault((outcome.job.stage, re.sub(r"\d+", "", outcome.message)), []).append(outcome)
    for group in alike.values():
        told = group if len(group) <= FEW else group[:1]
        for outcome in told:
            console.print(Text("failed", "red"), f"{outcome.job}: {outcome.message}", soft_wrap=True)
            if outcome.notebook and outcome.notebook.exists():
                console.print(f"       notebook: {outcome.notebook}", soft_wrap=True)
        if more := [str(outcome.job.step) for outcome in group[len(told) :]]:
            steps = ", ".join(more[:FEW]) + (f" … {more[-1]}" if len(more) > FEW else "")
            console.print(Text("failed", "red"), f"{len(more)} more in the same way: {group[0].job.stage} step {steps}")
    jobs = Counter(outcome.state for outcome in outcomes if outcome.job.stage in STAGES)
    if alike:
        console.print(
            f"Of {jobs.total()} jobs {jobs['done']} are done, {jobs['failed']} failed, {jobs['skipped']} were skipped "
            "as they need what failed. What is done is kept; once that is mended, the same command does the rest.",
            soft_wrap=True,
        )
    return bool(alike)


def table(columns: Iterable[object], rows: Iterable[Iterable[object]], title: str) -> Table:
    """Texts as a narrow table. Nothing is cut off, as "…" says that an onset may be later than all steps."""
    told = Table(*map(str, columns), title=title, box=box.SIMPLE, padding=0, pad_edge=False)
    for column in told.columns:
        column.overflow = "fold"
        column.min_width = max(map(len, str(column.header).split()))
    for row in rows:
        told.add_row(*map(str, row))
    return told


def table_of(frame: pd.DataFrame, title: str) -> Table:
    """A data frame of texts, a row a concept, or what else its index tells as far as it tells rows apart."""
    index = frame.index.to_frame().rename(columns={0: "concept"})
    if len(index) > 1:
        index = index.loc[:, index.nunique() > 1]
    rows = zip(index.itertuples(index=False), frame.itertuples(index=False), strict=True)
    return table([*index, *frame.columns], ((*names, *cells) for names, cells in rows), title)
