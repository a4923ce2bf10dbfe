"""The `steerlib` command."""

import gc
import os
from pathlib import Path

import typer

from steerlib import SteerlibError
from steerlib.running import audit, pilot
from steerlib.running.console import guarded
from steerlib.running.environment import THREADS, environ
from steerlib.running.options import Outputs, Params, argument, console, option

EXAMPLES = """Examples:

steerlib run params/toy.yaml – train the toy model, and find out when its concepts become steerable

steerlib new ../runs/my-model --concept politeness.csv – write params/my-model.yaml, a study of your own checkpoints

steerlib concepts check politeness.csv – what is to be mended before a concept is used"""
app = typer.Typer(epilog=EXAMPLES, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
concepts = typer.Typer(help="Concepts of your own.", no_args_is_help=True)
app.add_typer(concepts, name="concepts")
app.add_typer(pilot.app, name="pilot")
app.add_typer(audit.app, name="audit")
app.command()(pilot.monitor)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        console.print(f"steerlib {version('steerlib')}", highlight=False)
        raise typer.Exit


@app.callback()
def begin(
    version: option(bool, "Show the version and exit.", "--version", callback=_version, is_eager=True) = False,
) -> None:
    """When, during pretraining, does a language model become steerable?"""
    with environ(THREADS):  # or else it starts some, which takes a quarter of what a command does that only looks
        import numpy  # noqa: F401


@app.command()
def run(
    params: Params,
    outputs: Outputs = Path("outputs"),
    workers: option(
        int | None,
        "How many checkpoints are worked on at a time; by default one for each GPU or core, at most 8 (--slurm: 1).",
        min=1,
    ) = None,
    scheduler: option(str | None, "Use the workers of a Dask scheduler that runs already, at this tcp://…") = None,
    slurm: option(bool, "Start the workers as jobs of SLURM, with the settings of docs/cluster.md.", "--slurm") = False,
    only: option(
        list[str] | None,
        "Work on these checkpoints alone (step=1000,2000), and do only what needs no other checkpoint. So "
        "several commands, each with other steps, can run at once; a last one without --only does the rest.",
        metavar="step=N",
    ) = None,
    again: option(
        list[str] | None,
        "Do a stage again, of all steps or of one, though its results are up to date; and what is made from them.",
        metavar="STAGE[@STEP]",
    ) = None,
) -> None:
    """Run a study or a comparison, or continue one: what is done already, and up to date, is not done again."""
    from steerlib.checkpoints import contents
    from steerlib.results.workspace import Workspace
    from steerlib.study import Study
    from steerlib.study.comparison import is_comparison

    study = None if is_comparison(params) else Study.load(params)
    if study and study.checkpoints.folder:  # of what cannot be used nobody waits for the libraries that compute
        found = Workspace(study, outputs).checkpoints.values()
        contents.refuse_unfit(found, contents.faults(found, {}, layers_of=study.layers_of))
    from steerlib.running import findings, pipeline, tables

    if scheduler and slurm:
        raise SteerlibError("--slurm starts a scheduler of its own; leave out either it or --scheduler")
    if workers and scheduler:
        raise SteerlibError("--workers are those that steerlib starts; with --scheduler, its own workers are there")

    def connect(study, folder):
        from steerlib.running import cluster  # not where nothing is to do

        return cluster.client_of(study, folder, workers=workers, scheduler=scheduler, slurm=slurm)

    steps = pipeline.steps_of(only or [])
    if study:
        outcomes = pipeline.run(study, outputs, connect, console, steps, again or [])
        show = lambda: findings.results_of_study(Workspace(study, outputs), console, not outcomes)  # noqa: E731
    elif steps:
        raise SteerlibError(f"--only: {params} is a comparison; name one of its variants, {params}#VARIANT")
    else:
        from steerlib.running.comparison import ComparisonRun

        outcomes = pipeline.run_comparison(params, outputs, connect, console, again or [])
        show = lambda: findings.results_of_comparison(ComparisonRun(params, outputs), console)  # noqa: E731
    try:
        if steps:
            console.print("When every step is done, the same command without --only does the rest.")
        else:
            show()
    finally:  # whatever is wrong with results
        failed = tables.failures(outcomes, console)
    if failed:
        raise typer.Exit(1)


@app.command()
def status(params: Params, outputs: Outputs = Path("outputs")) -> None:
    """Which jobs of a study are done, which are stale (what they were made from has changed), and which are missing."""
    from steerlib.results.workspace import Workspace
    from steerlib.running import tables
    from steerlib.study import Study
    from steerlib.study.comparison import is_comparison

    if is_comparison(params):
        from steerlib.running.comparison import ComparisonRun

        tables.status_of_comparison(ComparisonRun(params, outputs), console)
    else:
        tables.status_of_study(Workspace(Study.load(params), outputs), console)


@app.command()
def explorer(params: Params, outputs: Outputs = Path("outputs")) -> None:
    """Write explorer.html beside a study's results: a page in which its small model runs, to be pushed in a browser."""
    from steerlib.running import explorer

    explorer.write(params, outputs, console)


@app.command()
def ready(
    params: Params,
    outputs: Outputs = Path("outputs"),
    step: option(int | None, "The checkpoint; by default the last.") = None,
    concept: option(list[str] | None, "Look at this concept alone; may be said again.") = None,
    method: option(str | None, "How the direction is found; by default the study's emergence.method.") = None,
    at_least: option(
        str | None, "The verdict that is asked for: explore, validate or deploy. Exit code 1 where one falls short."
    ) = None,
    json: option(bool, "Print all criteria for a machine to read.", "--json") = False,
) -> None:
    """Whether a checkpoint may be pushed along a concept, how hard, and what speaks against it."""
    from steerlib.results import audit, opening
    from steerlib.running import ready

    study = opening.open_study(params, outputs)
    found = ready.cells(study, step, concept, method)
    audit.note(study.workspace.folder, "ready", **ready.verdicts(study.params, found))
    if not ready.show(found, at_least, json, console):
        raise typer.Exit(1)


@app.command()
def suites() -> None:
    """Published models of which many checkpoints can be had: names for checkpoints.repo in a study."""
    from steerlib.running import tables

    tables.show_suites(console)


@app.command()
def checkpoints(
    params: Params,
    outputs: Outputs = Path("outputs"),
    steps: option(bool, "Print nothing but the steps, one a line, for use in a script.", "--steps") = False,
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
    table: argument(Path, "CSV or JSON lines (.xz, .gz) with the columns run, step, value, stderr (standard error)."),
    by: option(list[str] | None, "The columns that tell one trajectory from another; by default all others.") = None,
    pool: option(
        list[str] | None, "Columns, such as run, over whose values one untrained level (that of step 0) is estimated."
    ) = None,
    chance: option(float | None, "What a model scores that knows nothing, where no step 0 tells it: 0.25.") = None,
    lower_is_better: option(list[str] | None, "Names of metrics of which lower values are better: loss.") = None,
    least: option(
        float | None,
        "The least difference from the untrained level, or from chance, that matters, in the table's units. "
        "By default 0.02 for shares of right answers, as a test's own faults make up as much; 0 for other values, "
        "as how large theirs are only you can tell.",
        min=0.0,
    ) = None,
    order: option(str | None, "A column: of what differs in it alone, how likely is it that one came first?") = None,
    level: option(float, "The level of the intervals: 0.95 for 95 %.", min=0.5, max=0.999) = 0.95,
) -> None:
    """In any table of values over training: whether something rises, whether it matters, since when, what first."""
    from steerlib.running.findings import show_onsets
    from steerlib.stages import scores, trajectories

    rule = {"level": level, "chance": chance, "lower_is_better": lower_is_better, "pool": pool or (), "least": least}
    show_onsets(trajectories.onsets(scores.read(table, by), by, **rule), order, console)


@app.command()
def new(
    folder: argument(
        Path | None, "The folder of your checkpoints, one folder a step; you are asked if it is left out."
    ) = None,
    concept: option(str | None, "A concept's file, such as politeness.csv; you are asked if it is left out.") = None,
    positive: option(str | None, "The label, in the concept's file, of the texts that have the concept.") = None,
    base: option(str | None, "The model that was fine-tuned, folder or OWNER/NAME: step 0; LoRA changes it.") = None,
    tokenizer: option(str | None, "A folder with the tokenizer, where the checkpoints hold none.") = None,
    name: option(str | None, "The study's name; by default the folder's.") = None,
    params: option(Path, "The folder in which the study's file, NAME.yaml, is written.") = Path("params"),
    overwrite: option(bool, "Replace a file that is there already.", "--overwrite") = False,
) -> None:
    """Write a study of your own checkpoints and concept, with comments: by asking, or from what is told here."""
    from steerlib.running import new as study

    folder, concept, path = study.ask(folder, concept, name, params)
    following = study.write(folder, concept, path, base, tokenizer, positive, overwrite)
    for line in (f"{path}: written. Read it, and then:", *(f"  {command}" for command in following)):
        console.print(line, soft_wrap=True, highlight=False)


@concepts.command()
def check(
    file: argument(str, "A concept's file (.yaml, .csv, .jsonl, .parquet, hf://datasets/…), or a study."),
    model: option(str | None, "A checkpoint, folder or OWNER/NAME@REVISION: does it answer to the readout?") = None,
    base: option(str | None, "What that is merged into, if it is an adapter (LoRA) and does not say.") = None,
    tokenizer: option(str | None, "A folder or OWNER/NAME with its tokenizer, if it holds none.") = None,
    name: option(str | None, "What the concept is called; by default as its file.") = None,
    positive: option(str | None, "The label, in the file, of the texts that have the concept.") = None,
    format: option(str | None, "What the file holds, if unclear: pairs, texts, choices, truthfulqa, repe.") = None,
    readout: option(str | None, "What it is read by: words, texts (its own), or judged (the model's own).") = None,
    pairs: option(str | None, "rows: the first text of either side are a pair, and so on.") = None,
    length: option(str | None, "match: only texts as long as each other are paired.") = None,
) -> None:
    """Whether a concept can be used: what is wrong with its texts, what to look at, and what defaults filled in."""
    from steerlib.running.check import check, show

    told = {"name": name, "positive": positive, "format": format, "readout": readout, "pairs": pairs, "length": length}
    options = {key: value for key, value in told.items() if value}
    reports = check(file, options, model, base, tokenizer)
    for report in reports:
        show(report, console)
    if any(report.problems for report in reports):
        raise typer.Exit(1)


def main() -> None:
    """The command, with errors told in one line."""
    # There are none of ours, and to look for them pydantic reads what every installed package says of itself.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # What is imported stays, and to look for garbage in it takes an eighth of what a command does that only looks.
    gc.set_threshold(100_000)
    guarded(app)


if __name__ == "__main__":
    main()
