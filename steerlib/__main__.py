"""The `steerlib` command."""

import io
import os
import signal
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from steerlib import SteerlibError

app = typer.Typer(
    help="When, during pretraining, does a language model become steerable?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Params = Annotated[
    Path,
    typer.Argument(
        help="A study, such as params/toy.yaml; a comparison of variants, such as params/toy-seeds.yaml; "
        "or one of its variants, params/toy-seeds.yaml#seed-1."
    ),
]
Outputs = Annotated[Path, typer.Option(help="Folder of results; the study's own folder is made in it.")]
concepts = typer.Typer(help="Concepts of your own.", no_args_is_help=True)
app.add_typer(concepts, name="concepts")

# What would steer the terminal, or begin another line.
STEERING = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160))}
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Plain(Console):
    """Texts are shown as they are: nothing in a path or a message is taken for markup, or reaches the terminal."""

    def __init__(self, **options):
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options) -> Text:
        return super().render_str(text.translate(STEERING), **options)


console = Plain()


@app.command()
def run(
    params: Params,
    outputs: Outputs = Path("outputs"),
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Checkpoints at a time; by default a GPU or core each, 8 at most; with --slurm one."),
    ] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a running Dask scheduler, tcp://…")] = None,
    slurm: Annotated[
        bool, typer.Option("--slurm", help="Workers are SLURM jobs, as Dask's configuration says (docs/cluster.md).")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="step=N", help="Of these steps only what needs no other one, while others may be at work on theirs."
        ),
    ] = None,
    again: Annotated[
        list[str] | None,
        typer.Option(metavar="STAGE[@STEP]", help="Done anew though it holds, and with it all that depends on it."),
    ] = None,
) -> None:
    """Run a study or a comparison, or continue it: what is done and still true is not done again."""
    from steerlib.results.workspace import Workspace
    from steerlib.running import cluster, pipeline, tables
    from steerlib.running.comparison import ComparisonRun
    from steerlib.study import Study
    from steerlib.study.comparison import is_comparison

    if scheduler and slurm:
        raise SteerlibError("--slurm starts a scheduler of its own; leave out either it or --scheduler")
    if workers and scheduler:
        raise SteerlibError("--workers are those that steerlib starts; with --scheduler, its own workers are there")
    connect = partial(cluster.client_of, workers=workers, scheduler=scheduler, slurm=slurm)
    steps = steps_of(only or [])
    if not is_comparison(params):
        study = Study.load(params)
        outcomes = pipeline.run(study, outputs, connect, console, steps, again or [])
        show = lambda: tables.results_of_study(Workspace(study, outputs), console)  # noqa: E731
    elif steps:
        raise SteerlibError(f"--only: {params} is a comparison; name one of its variants, {params}#VARIANT")
    else:
        outcomes = pipeline.run_comparison(params, outputs, connect, console, again or [])
        show = lambda: tables.results_of_comparison(ComparisonRun(params, outputs), console)  # noqa: E731
    try:
        if steps:
            console.print("When every step is done, the same command without --only does the rest.")
        else:
            show()
    finally:  # whatever is wrong with results
        failed = tables.failures(outcomes, console)
    if failed:
        raise typer.Exit(1)


def steps_of(only: list[str]) -> list[int]:
    """Steps as --only tells them, in order: step=1000, or several with commas. Raises SteerlibError for others."""
    words = [word.strip().removeprefix("step=") for option in only for word in option.split(",")]
    if wrong := [word for word in words if not word.isascii() or not word.isdigit()]:
        raise SteerlibError(f"--only: {wrong[0]!r} is no step; write step=1000, or step=1000,2000")
    return sorted({int(word) for word in words})


@app.command()
def status(params: Params, outputs: Outputs = Path("outputs")) -> None:
    """Which jobs are done, stale (made from something that has changed) or missing."""
    from steerlib.results.workspace import Workspace
    from steerlib.running import tables
    from steerlib.running.comparison import ComparisonRun
    from steerlib.study import Study
    from steerlib.study.comparison import is_comparison

    if is_comparison(params):
        tables.status_of_comparison(ComparisonRun(params, outputs), console)
    else:
        tables.status_of_study(Workspace(Study.load(params), outputs), console)


@app.command()
def suites() -> None:
    """Published training histories whose revisions are known: what to write as checkpoints.repo."""
    from steerlib.running import tables

    tables.show_suites(console)


@app.command()
def checkpoints(
    params: Params,
    outputs: Outputs = Path("outputs"),
    steps: Annotated[bool, typer.Option("--steps", help="Their steps alone, one a line, for a script.")] = False,
) -> None:
    """The checkpoints that a study looks at, with their sizes, before anything is fetched."""
    from steerlib.results.workspace import Workspace
    from steerlib.running import tables
    from steerlib.study import Study

    if steps:
        print(*Workspace(Study.load(params), outputs).steps(), sep="\n")
    else:
        tables.show_checkpoints(Study.load(params), outputs, console)


@app.command()
def onsets(
    table: Annotated[Path, typer.Argument(help="CSV (.xz, .gz) or JSON lines; columns run, step, value, stderr.")],
    by: Annotated[
        list[str] | None, typer.Option(help="Columns that tell trajectories apart; every other column by default.")
    ] = None,
    pool: Annotated[
        list[str] | None, typer.Option(help="Columns over which untrained levels are taken together.")
    ] = None,
    chance: Annotated[
        float | None, typer.Option(help="The level of knowing nothing, where step 0 does not tell.")
    ] = None,
    lower_is_better: Annotated[list[str] | None, typer.Option(help="Metrics of which less is better.")] = None,
    least: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="The least difference from the untrained level, or from chance, that matters, in the table's units. "
            "By default 0.02 for shares of right answers, as a test's own faults make up as much; 0 for other values, "
            "as how large theirs are only you can tell.",
        ),
    ] = None,
    order: Annotated[
        str | None, typer.Option(help="A column: how likely what differs in it alone, two models say, came in order.")
    ] = None,
    level: Annotated[float, typer.Option(min=0.5, max=0.999, help="Of the intervals.")] = 0.95,
) -> None:
    """Is there an effect, does it matter, since when, in which order: of any table of values with errors."""
    from steerlib.running.tables import show_onsets
    from steerlib.stages import scores, trajectories

    rule = {"level": level, "chance": chance, "lower_is_better": lower_is_better, "pool": pool or (), "least": least}
    show_onsets(trajectories.onsets(scores.read(table, by), by, **rule), order, console)


@concepts.command()
def check(
    file: Annotated[Path, typer.Argument(help="A concept's file (.yaml, .csv, .jsonl, .parquet, …), or a study.")],
    model: Annotated[Path | None, typer.Option(help="A checkpoint's folder: how it splits targets and foils.")] = None,
    name: Annotated[str | None, typer.Option(help="The concept's name, if not the file's.")] = None,
    positive: Annotated[str | None, typer.Option(help="The label that has the concept.")] = None,
    format: Annotated[str | None, typer.Option(help="What the file's columns are, if they do not tell.")] = None,
) -> None:
    """Whether a concept can be used: counts, splits, leaks, duplicates, length, tokens, and what defaults filled in."""
    from steerlib.running.check import check, show

    options = {key: value for key, value in (("name", name), ("positive", positive), ("format", format)) if value}
    reports = check(file, options, model)
    for report in reports:
        show(report, console)
    if any(report.problems for report in reports):
        raise typer.Exit(1)


def main() -> None:
    """The command, with our own errors, and the machine's, told in one line instead of a traceback."""
    for number in range(3):  # what is closed would be a socket, to which libraries then print
        with suppress(OSError):
            os.fstat(number)
            continue
        os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # which may know less than our texts hold
            stream.reconfigure(errors="backslashreplace")
    stopped: list[int] = []

    def stop(number: int, _) -> None:
        stopped.append(number)
        for other in before:
            signal.signal(other, signal.SIG_DFL)  # who asks again does not want to wait until all is tidied up
        raise SystemExit

    before = {number: found for number in STOPS if (found := signal.getsignal(number)) != signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, stop)
        app()
    except BaseException as error:  # what stops us may come out as anything, such as an import that failed
        if isinstance(error, SystemExit) and error.code is None and not stopped:
            stopped.append(signal.SIGINT)  # which dask_jobqueue, from its import on, answers so
        if not stopped and not isinstance(error, SteerlibError | OSError):
            raise
        told = f"{error.filename}: {error.strerror}" if getattr(error, "filename", None) else str(error)
        told = Text(told) if isinstance(error, SteerlibError) else told  # which is printable, a line a mistake
        told = "interrupted; what is done is kept: run again" if stopped else told
        Plain(stderr=True).print(Text("error:", "red"), told, soft_wrap=True, highlight=False)
        raise SystemExit(128 + stopped[0] if stopped else 2) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    main()
