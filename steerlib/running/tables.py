"""What there is to study and what that takes, told before anything is fetched (`steerlib suites`, `… checkpoints`)."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from steerlib import SteerlibError
from steerlib.checkpoints import downloads
from steerlib.checkpoints import listing as listings
from steerlib.checkpoints.history import Checkpoint
from steerlib.checkpoints.listing import Entry, Listing
from steerlib.checkpoints.suites import SUITES
from steerlib.files import hub
from steerlib.files.layout import weight_files
from steerlib.results.workspace import Workspace
from steerlib.study import Study


def show_suites(console: Console) -> None:
    """The table of `steerlib.checkpoints.suites`, a row a repository; not all that a suite has, but each kind of name."""
    table = Table("suite", "repository", "parameters", "a checkpoint", "revisions", box=box.SIMPLE)
    for name, suite in SUITES.items():
        for k, repo in enumerate(suite.examples):
            size, count = suite.bytes(repo), suite.parameters(repo)
            told = f"{suite.like[0]} … ({len(suite.grid)})" if suite.grid else suite.like[0]
            table.add_row(
                name if k == 0 else "",
                escape(repo),
                short(count) if count else "?",
                f"about {decimal(size)}" if size else "?",
                told if k == 0 else "",
            )
    for column in table.columns[1:2] + table.columns[4:]:
        column.overflow = "fold"
    console.print(table)
    for name, suite in SUITES.items():
        if suite.needs:
            console.print(f"{name} needs {suite.needs}", soft_wrap=True)
    console.print(
        "steerlib checkpoints PARAMS asks the hub for the sizes of a study's own. Any other repository or folder: "
        "checkpoints.pattern, a regular expression with a group named step.",
        soft_wrap=True,
    )


def show(study: Study, outputs: Path, console: Console) -> None:
    """A table of the checkpoints, what is known to be wrong with them, and the sums."""
    workspace = Workspace(study, outputs)
    table = Table("step", "%", "revision", "tokens", "size", "", title=study.name, box=box.SIMPLE)
    for column in table.columns[:2] + table.columns[3:5]:
        column.justify = "right"
    if study.checkpoints.repo:
        listing = listings.take(study, workspace.folder, keep=False)
        end = listing.end
        for entry in listing.entries:
            state = _state(entry, listing, workspace.folder)
            size = decimal(entry.size) if entry.size else "?"
            table.add_row(
                *_cells(entry.step, end, entry.revision, entry.tokens_seen), size, escape(state), style=_style(state)
            )
        console.print(table)
        _tell(study, listing, workspace, console)
        return
    for checkpoint in workspace.checkpoints.values():
        size = _size(checkpoint)
        state = "here" if size else "not trained yet" if study.pretraining else "no weights"
        end = max(workspace.checkpoints) or 1
        cells = _cells(checkpoint.step, end, checkpoint.revision, checkpoint.tokens_seen)
        table.add_row(*cells, decimal(size) if size else "?", state, style=_style(state))
    console.print(table)
    for remark in workspace.remarks():
        console.print(f"[yellow]note:[/] {escape(remark)}", soft_wrap=True)


def _cells(step: int, end: int, revision: str, tokens: int) -> tuple[str, str, str, str]:
    return f"{step:,}", f"{100 * step / end:.3g}", escape(revision), short(tokens) if tokens >= 0 else "?"


def _state(entry: Entry, listing: Listing, folder: Path) -> str:
    if twin := listing.twins.get(entry.step):
        return f"equal to {twin.revision}"
    if entry.problem:
        return entry.problem
    if downloads.whole(folder, entry):
        return "here"
    if entry.files and hub.in_cache(listing.repo, entry.commit, [file.name for file in entry.files]):
        return "in your cache"
    return "fetched, removed" if downloads.record(folder, entry) else "to fetch"


def _style(state: str) -> str | None:
    usual = {"here": None, "in your cache": None, "to fetch": None, "fetched, removed": "dim", "not trained yet": "dim"}
    return usual.get(state, "yellow")


def _tell(study: Study, listing: Listing, workspace: Workspace, console: Console) -> None:
    for remark in listing.remarks():
        console.print(f"[yellow]note:[/] {escape(remark)}", soft_wrap=True)
    missing = [e for e in listing.studied if _state(e, listing, workspace.folder) == "to fetch"]
    largest = max((entry.size for entry in listing.studied), default=0)
    budget = study.checkpoints.disk
    at_a_time = f"at most {decimal(budget)} at a time (checkpoints.disk)" if budget else "all are kept"
    console.print(
        f"{len(listing.studied)} checkpoints of {listing.repo}; to fetch: {len(missing)}, "
        f"{decimal(sum(entry.size for entry in missing))}; on disk: {at_a_time}; the largest: {decimal(largest)}.",
        soft_wrap=True,
    )
    if not any(entry.size for entry in listing.entries):
        console.print("The hub could not be asked: revisions are those of the suite's pattern, without sizes.")


def short(tokens: int) -> str:
    """A count of tokens in the unit that people say."""
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if tokens >= unit:
            return f"{tokens / unit:.3g}{name}"
    return str(tokens)


def _size(checkpoint: Checkpoint) -> int:
    try:
        return sum(file.stat().st_size for file in weight_files(checkpoint.path))
    except (SteerlibError, OSError):
        return 0
