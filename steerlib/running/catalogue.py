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

# How a checkpoint's row is written; in yellow where something is wrong with it.
STYLES = {"here": None, "in your cache": None, "to fetch": None, "fetched, removed": "dim", "not trained yet": "dim"}


def show_suites(console: Console) -> None:
    """The suites whose revisions are known, a row a repository: not all of a suite's, but each kind of name."""
    table = Table("suite", "repository", "parameters", "a checkpoint", "revisions", box=box.SIMPLE)
    for name, suite in SUITES.items():
        revisions = f"{suite.like[0]} … ({len(suite.grid)})" if suite.grid else suite.like[0]
        for k, repo in enumerate(suite.examples):
            size, count = suite.bytes(repo), suite.parameters(repo)
            parameters, size = short(count) if count else "?", f"about {decimal(size)}" if size else "?"
            table.add_row("" if k else name, escape(repo), parameters, size, "" if k else revisions)
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


def show_checkpoints(study: Study, outputs: Path, console: Console) -> None:
    """A table of the checkpoints, what is known to be wrong with them, and the sums."""
    workspace = Workspace(study, outputs)
    if study.checkpoints.repo:
        listing = listings.take(study, workspace.folder, keep=False)
        end, remarks = listing.end, listing.remarks()
        rows = [(entry, entry.size, _state(entry, listing, workspace.folder)) for entry in listing.entries]
    else:
        listing, end, remarks = None, max(workspace.checkpoints) or 1, workspace.remarks()
        absent = "not trained yet" if study.pretraining else "no weights"
        sizes = [(checkpoint, _size(checkpoint)) for checkpoint in workspace.checkpoints.values()]
        rows = [(checkpoint, size, "here" if size else absent) for checkpoint, size in sizes]
    table = Table("step", "%", "revision", "tokens", "size", "", title=study.name, box=box.SIMPLE)
    for column in table.columns[:2] + table.columns[3:5]:
        column.justify = "right"
    for checkpoint, size, state in rows:
        table.add_row(
            f"{checkpoint.step:,}",
            f"{100 * checkpoint.step / end:.3g}",
            escape(checkpoint.revision),
            short(checkpoint.tokens_seen) if checkpoint.tokens_seen >= 0 else "?",
            decimal(size) if size else "?",
            escape(state),
            style=STYLES.get(state, "yellow"),
        )
    console.print(table)
    for remark in remarks:
        console.print(f"[yellow]note:[/] {escape(remark)}", soft_wrap=True)
    if listing:
        _show_sums(study, listing, workspace.folder, console)


def _state(entry: Entry, listing: Listing, folder: Path) -> str:
    if twin := listing.twins.get(entry.step):
        return f"equal to {twin.revision}"
    if entry.problem:
        return entry.problem
    if downloads.here(folder, entry):
        return "here"
    if entry.files and hub.in_cache(listing.repo, entry.commit, [file.name for file in entry.files]):
        return "in your cache"
    return "fetched, removed" if downloads.record(folder, entry) else "to fetch"


def _show_sums(study: Study, listing: Listing, folder: Path, console: Console) -> None:
    missing = [entry for entry in listing.studied if _state(entry, listing, folder) == "to fetch"]
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


def _size(checkpoint: Checkpoint) -> int:
    try:
        return sum(file.stat().st_size for file in weight_files(checkpoint.path))
    except (SteerlibError, OSError):
        return 0


def short(count: int) -> str:
    """A count of tokens or parameters in the unit that people say."""
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.3g}{name}"
    return str(count)
