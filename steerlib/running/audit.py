"""`steerlib audit`: what was done with a study, and whether the record of it is whole."""

from pathlib import Path

import typer
from rich import box
from rich.table import Table

from steerlib.running.options import Outputs, argument, console, option

app = typer.Typer(
    help="What was done with a study, by whom, and whether the record of it is whole.", no_args_is_help=True
)
Audited = argument(
    Path, "A study or a comparison, such as params/toy.yaml; or an audit, such as outputs/toy/audit.jsonl."
)
TOLD = "line", "time", "who", "event"  # columns of their own
APART = *TOLD, "command", "commit", "params", "previous", "inputs", "results"  # not among what else is shown of a line


@app.command()
def verify(
    params: Audited,
    outputs: Outputs = Path("outputs"),
    head: option(str, "A hash that `audit verify` has told before: of a line that still has to be there.") = "",
) -> None:
    """Whether lines were removed, altered, moved or cut off. Exit code 1 where they were."""
    from steerlib.results import audit
    from steerlib.running.tables import note

    path = _file(params, outputs)
    found = audit.verify(path, head)
    for remark in found.remarks:
        note(remark, console)
    for line in found.wrong:
        console.print(f"wrong: {line}", soft_wrap=True)
    told = "it is not as it was written" if found.wrong else "each is chained to the one before"
    console.print(f"{path}: {found.head.line} lines; {told}", soft_wrap=True)
    if found.wrong:
        raise typer.Exit(1)
    console.print(f"To be noted elsewhere, and given as --head: {found.head.sha256}", soft_wrap=True)


@app.command()
def show(params: Audited, outputs: Outputs = Path("outputs")) -> None:
    """A row for everything that was done; hashes are in the file."""
    from steerlib.results import audit

    table = Table(*TOLD, "what", box=box.SIMPLE, padding=(0, 1), pad_edge=False)
    for column in table.columns[:-1]:
        column.no_wrap = True
    for line in audit.read(_file(params, outputs)):
        told = line.told or {"event": "(cannot be read)"}
        rest = [f"{key}: {_short(value)}" for key, value in told.items() if key not in APART]
        cells = {"line": line.number, "time": "", "who": "", "event": ""} | told
        command = " ".join(map(str, told.get("command", ())))
        table.add_row(*(str(cells[key]) for key in TOLD), "; ".join([command, *rest]))
    console.print(table)


def _file(params: Path, outputs: Path) -> Path:
    """Of a study, or the file itself."""
    from steerlib.results.audit import NAME
    from steerlib.results.workspace import Workspace
    from steerlib.running.comparison import ComparisonRun
    from steerlib.study import Study
    from steerlib.study.comparison import is_comparison

    if params.suffix == Path(NAME).suffix:
        return params
    of = ComparisonRun(params, outputs) if is_comparison(params) else Workspace(Study.load(params), outputs)
    return of.folder / NAME


def _short(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {of}" for key, of in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
