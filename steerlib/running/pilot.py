"""`steerlib pilot`: from an exploration to a push that may be relied on."""

from pathlib import Path

import typer

from steerlib.running.options import Outputs, Params, console, option

app = typer.Typer(help="From exploring to a push that may be relied on.", no_args_is_help=True)


@app.command()
def new(
    params: Params,
    outputs: Outputs = Path("outputs"),
    concept: option(list[str] | None, "Freeze this concept; may be said again. By default all that are ready.") = None,
    step: option(int | None, "The checkpoint; by default the last.") = None,
    overwrite: option(bool, "Replace a freeze that is there already.", "--overwrite") = False,
) -> None:
    """Freeze what a study has chosen: directions, layers, strengths, thresholds, and what it has seen."""
    from steerlib.pilot import freeze
    from steerlib.results import opening

    study = opening.open_study(params, outputs)
    frozen = freeze.new(study, concept, step, overwrite)
    for name, one in frozen.concepts.items():
        console.print(f"{name}: layer {one.layer}, alpha {one.alpha:g}; {one.explored['size'].said}", soft_wrap=True)
    console.print(
        f"Frozen in {freeze.folder_of(study)}. On texts that were not seen yet: steerlib pilot validate {params}",
        soft_wrap=True,
    )
