"""The `steerlib` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

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
console = Console()
SAME = 5  # failures of one cause that are told one by one


@app.command()
def run(
    params: Params,
    outputs: Outputs = Path("outputs"),
    workers: Annotated[
        int | None, typer.Option(min=1, help="Checkpoints at a time; as many as cores by default, with --slurm one.")
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
) -> None:
    """Run a study or a comparison, or continue it: what is done and still true is not done again."""
    from steerlib.results.freshness import Freshness
    from steerlib.results.workspace import Job, Workspace
    from steerlib.running import cluster, pipeline
    from steerlib.study import Study
    from steerlib.study.comparison import is_comparison

    if scheduler and slurm:
        raise SteerlibError("--slurm starts a scheduler of its own; leave out either it or --scheduler")
    if workers and scheduler:
        raise SteerlibError("--workers are those that steerlib starts; with --scheduler, its own workers are there")
    where, steps = cluster.SLURM if slurm else scheduler, steps_of(only or [])
    if is_comparison(params):
        if steps:
            raise SteerlibError(f"--only: {params} is a comparison; name one of its variants, {params}#VARIANT")
        return run_comparison(params, outputs, workers, where)
    outcomes = pipeline.run(params, outputs, workers, where, console, steps)
    workspace = Workspace(Study.load(params), outputs)
    if steps:
        console.print("When every step is done, the same command without --only does the rest.")
    elif Freshness(workspace).state(Job("emergence")) == "done":  # not an earlier run's, when it failed in this one
        console.print(onset_table(workspace.read("emergence")))
        console.print(
            f"Figures: {workspace.folder / 'figures'}\nResults: {workspace.folder / 'results.zarr'}", soft_wrap=True
        )
    if tell_failures(workspace, outcomes):
        raise typer.Exit(1)


def steps_of(only: list[str]) -> list[int]:
    """Steps as --only tells them: step=1000, or several with commas. Raises SteerlibError for what is none."""
    words = [word.strip().removeprefix("step=") for told in only for word in told.split(",")]
    if wrong := [word for word in words if not word.isascii() or not word.isdigit()]:
        raise SteerlibError(f"--only: {wrong[0]!r} is no step; write step=1000, or step=1000,2000")
    return list(map(int, words))


def run_comparison(params: Path, outputs: Path, workers: int | None, scheduler: str | None) -> None:
    """Run every variant, then compare them; exits with 1 when anything failed."""
    from steerlib.files import store
    from steerlib.running import comparison
    from steerlib.stages.comparison import orders, summary

    outcomes, refused = comparison.run(params, outputs, workers, scheduler, console)
    whole = comparison.Family(params, outputs)
    if whole.state() == "done":
        found = store.read(whole.data)
        console.print(table_of(summary(found), "Onset of steerability: training step, with its interval"))
        if taus := ", ".join(f"{name} {tau:.2f}" for name, tau in orders(found).dropna().items()):
            console.print(f"Kendall's tau of planted frequency and earliness: {taus}", soft_wrap=True)
        console.print(f"Figures: {whole.figures}\nResults: {whole.data}", soft_wrap=True)
    failed = [name for name, of in outcomes.items() if tell_failures(whole.members[name], of)]
    for name, why in refused.items():
        console.print(f"[red]failed[/] {name}: {escape(why)}", soft_wrap=True)
    if failed or refused:
        raise typer.Exit(1)


def tell_failures(workspace, outcomes) -> bool:
    """Say which jobs failed, why, and where their notebooks are. Returns whether any did."""
    from steerlib.stages.table import STAGES

    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    skipped = [outcome for outcome in outcomes if outcome.state == "skipped"]
    told: dict[str, int] = {}
    for outcome in failed:
        told[outcome.message] = told.get(outcome.message, 0) + 1
        if told[outcome.message] > SAME:
            continue
        console.print(f"[red]failed[/] {outcome.job}: {escape(outcome.message)}", soft_wrap=True)
        if outcome.job.stage in STAGES and (notebook := workspace.notebook(outcome.job)).exists():
            console.print(f"       notebook: {notebook}", soft_wrap=True)
    for message, count in told.items():
        if count > SAME:
            console.print(f"[red]failed[/] {count - SAME} more: {escape(message)}", soft_wrap=True)
    if failed:
        console.print(f"{len(failed)} failed, {len(skipped)} that need them were skipped; the rest is kept. Run again.")
    return bool(failed)


@app.command()
def status(params: Params, outputs: Outputs = Path("outputs")) -> None:
    """Which jobs are done, stale (made from something that has changed) or missing."""
    from steerlib.results.freshness import Freshness
    from steerlib.results.workspace import Job, Workspace
    from steerlib.study import Study
    from steerlib.study.comparison import is_comparison

    if is_comparison(params):
        return status_of_comparison(params, outputs)
    workspace = Workspace(Study.load(params), outputs)
    jobs = workspace.jobs()
    freshness = Freshness(workspace)
    states = {job: freshness.state(job) for job in jobs}
    colours = {"done": "green", "stale": "yellow", "missing": "red"}
    show = lambda job: f"[{colours[states[job]]}]{states[job]}[/]" if job in states else ""  # noqa: E731
    per_step = list(dict.fromkeys(job.stage for job in jobs if job.step is not None))
    table = Table("step", *per_step, title=f"{workspace.study.name}: {workspace.folder}")
    for step in workspace.checkpoints:
        table.add_row(str(step), *(show(Job(stage, step)) for stage in per_step))
    console.print(table)
    for job in jobs:
        if job.step is None:
            console.print(f"{job}: {show(job)}")
    console.print(", ".join(f"{sum(s == state for s in states.values())} {state}" for state in colours))


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
    from steerlib.running import pipeline, tables
    from steerlib.study import Study

    if steps:
        for step in pipeline.steps(Workspace(Study.load(params), outputs)):
            print(step)
        return
    tables.show(Study.load(params), outputs, console)


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
    level: Annotated[float, typer.Option(min=0.5, max=0.999, help="Of the intervals.")] = 0.95,
) -> None:
    """When anybody's measure emerged in training: onsets, by the rule of studies, of a table of values with errors."""
    from steerlib.figures.trajectories import summary
    from steerlib.stages import trajectories

    found = trajectories.onsets(
        trajectories.read(table, by), by, level=level, chance=chance, lower_is_better=lower_is_better, pool=pool or ()
    )
    console.print(table_of(summary(found), "Onset: training step, with its interval"))


@concepts.command()
def check(
    file: Annotated[Path, typer.Argument(help="A concept's file (.yaml, .csv, .jsonl, .json), or a study.")],
    model: Annotated[Path | None, typer.Option(help="A checkpoint's folder: how it splits targets and foils.")] = None,
    name: Annotated[str | None, typer.Option(help="The concept's name, if not the file's.")] = None,
    positive: Annotated[str | None, typer.Option(help="The label that has the concept.")] = None,
    format: Annotated[str | None, typer.Option(help="What the file's columns are, if they do not tell.")] = None,
) -> None:
    """Whether a concept can be used: counts, splits, leaks, duplicates, length, tokens, and what defaults filled in."""
    from steerlib.concepts.check import show
    from steerlib.running.check import check

    options = {key: value for key, value in (("name", name), ("positive", positive), ("format", format)) if value}
    reports = check(file, options, model)
    for report in reports:
        show(report, console)
    if any(report.problems for report in reports):
        raise typer.Exit(1)


def status_of_comparison(params: Path, outputs: Path) -> None:
    """How much of every variant, and whether the comparison, is done."""
    from steerlib.results.freshness import Freshness
    from steerlib.running.comparison import Family

    family, states = Family(params, outputs), ("done", "stale", "missing")
    table = Table("variant", *states, "results", title=f"{family.comparison.name}: {family.folder}")
    problems = []
    for name, workspace in family.members.items():
        try:
            found = list(map(Freshness(workspace).state, workspace.jobs()))
        except SteerlibError as error:  # its checkpoints are another variant's, and not there yet
            table.add_row(name, *("?" * len(states)), str(workspace.folder))
            problems.append(f"{name}: {error}")
        else:
            table.add_row(name, *(str(found.count(state)) for state in states), str(workspace.folder))
    console.print(table)
    for problem in problems:
        console.print(escape(problem), soft_wrap=True)
    console.print(f"comparison: {family.state()}")


def onset_table(found) -> Table:
    """When each concept became separable, expressed and steerable."""
    from steerlib.stages.emergence import summary

    return table_of(summary(found), "Onset: training step, with its interval")


def table_of(frame, title: str) -> Table:
    """A data frame of texts, a row a concept, or what else its index tells as far as it tells rows apart."""
    told = frame.index.to_frame().rename(columns={0: "concept"})
    if len(told) > 1:
        told = told.loc[:, told.nunique() > 1]
    table = Table(*map(str, [*told, *frame.columns]), title=title, box=box.SIMPLE)
    for names, (_, cells) in zip(told.itertuples(index=False), frame.iterrows(), strict=True):
        table.add_row(*(escape(str(cell)) for cell in (*names, *cells)))
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
