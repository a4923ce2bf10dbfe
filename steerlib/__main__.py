"""The `steerlib` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from steerlib.errors import SteerlibError

app = typer.Typer(
    help="When, during pretraining, does a language model become steerable?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Params = Annotated[Path, typer.Argument(help="A study, such as params/toy.yaml.")]
Outputs = Annotated[Path, typer.Option(help="Folder of results; the study's own folder is made in it.")]
console = Console()


@app.command()
def run(
    params: Params,
    outputs: Outputs = Path("outputs"),
    workers: Annotated[
        int | None, typer.Option(min=1, help="Checkpoints at a time; as many as cores by default.")
    ] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a running Dask scheduler, tcp://…")] = None,
) -> None:
    """Run a study, or continue it: what is done and still true is not done again."""
    from steerlib import pipeline
    from steerlib.jobs import Workspace
    from steerlib.study import Study

    outcomes = pipeline.run(params, outputs, workers, scheduler, console)
    workspace = Workspace(Study.load(params), outputs)
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    skipped = [outcome for outcome in outcomes if outcome.state == "skipped"]
    if workspace.data(pipeline.Job("emergence")).exists():
        console.print(onset_table(workspace.read("emergence")))
        console.print(
            f"Figures: {workspace.folder / 'figures'}\nResults: {workspace.folder / 'results.zarr'}", soft_wrap=True
        )
    for outcome in failed:
        console.print(f"[red]failed[/] {outcome.job}: {escape(outcome.message)}", soft_wrap=True)
        console.print(f"       notebook: {workspace.notebook(outcome.job)}", soft_wrap=True)
    if failed:
        console.print(
            f"{len(failed)} jobs failed, {len(skipped)} that need them were skipped; the rest is kept. Run again."
        )
        raise typer.Exit(1)


@app.command()
def status(params: Params, outputs: Outputs = Path("outputs")) -> None:
    """Which jobs are done, stale (made from something that has changed) or missing."""
    from steerlib.jobs import NOTEBOOKS, Job, Workspace
    from steerlib.study import Study

    workspace = Workspace(Study.load(params), outputs)
    jobs = workspace.jobs()
    states = {job: workspace.state(job) for job in jobs}
    colours = {"done": "green", "stale": "yellow", "missing": "red"}
    show = lambda job: f"[{colours[states[job]]}]{states[job]}[/]" if job in states else ""  # noqa: E731
    per_step = [stage for stage in NOTEBOOKS if any(job.stage == stage and job.step is not None for job in jobs)]
    table = Table("step", *per_step, title=f"{workspace.study.name}: {workspace.folder}")
    for step in workspace.checkpoints:
        table.add_row(str(step), *(show(Job(stage, step)) for stage in per_step))
    console.print(table)
    for job in jobs:
        if job.step is None:
            console.print(f"{job}: {show(job)}")
    console.print(", ".join(f"{sum(s == state for s in states.values())} {state}" for state in colours))


def onset_table(found) -> Table:
    """When each concept became separable, expressed and steerable."""
    from steerlib.emergence import summary

    rows = summary(found)
    table = Table("concept", *rows.columns, title="Onset: training step, with its interval", box=box.SIMPLE)
    for concept, cells in rows.iterrows():
        table.add_row(str(concept), *(escape(str(cell)) for cell in cells))
    return table


def main() -> None:
    """The command, with our own errors told in one line instead of a traceback."""
    try:
        app()
    except SteerlibError as error:
        Console(stderr=True).print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
