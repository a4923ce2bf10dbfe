"""`steerlib pilot`: from an exploration to a push that may be relied on."""

from pathlib import Path

import typer

from steerlib.running.options import Outputs, Params, argument, console, option

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


@app.command()
def validate(
    params: Params,
    texts: argument(
        list[str] | None,
        "Files of new texts, one a concept, as FILE or CONCEPT=FILE; without any, the planted world tells new ones.",
    ) = None,
    outputs: Outputs = Path("outputs"),
    prompts: option(Path | None, "A text file of new prompts, one a line, where the files of texts hold none.") = None,
    neutral: option(Path | None, "A text file of new neutral passages, one a line, for side effects.") = None,
    fresh: option(int | None, "The seed by which the planted world tells new texts.") = None,
) -> None:
    """Try what was frozen on texts and prompts that were not seen before. Exit code 1 where it does not hold."""
    from steerlib.pilot import validation
    from steerlib.results import opening

    found = validation.validate(opening.open_study(params, outputs), texts or [], prompts, neutral, fresh)
    for name, one in found.concepts.items():
        missed = [f"{key}: {told.said}" for key, told in one.criteria.items() if told.outcome != "pass"]
        said = "; ".join(missed) if missed else one.criteria["size"].said
        holds = "holds" if one.holds else "does not hold"
        console.print(f"{name} {holds} on {one.pairs} new pairs, {one.prompts} new prompts: {said}.", soft_wrap=True)
    if found.tries > 1:
        console.print(f"This freeze was tried {found.tries} times: of many tries, one may pass by chance.")
    if not found.holds:
        raise typer.Exit(1)
    console.print(f"Deploy it: steerlib pilot deploy {params}", soft_wrap=True)


@app.command()
def deploy(
    params: Params,
    outputs: Outputs = Path("outputs"),
    concept: option(list[str] | None, "Deploy this concept; may be said again. By default all that hold.") = None,
) -> None:
    """Hand over the directions whose validation holds, each with its card."""
    from steerlib.pilot import deployment
    from steerlib.results import opening

    for card in deployment.deploy(opening.open_study(params, outputs), concept):
        console.print(f"{card}: written, with its direction. Watch it: steerlib monitor {card}", soft_wrap=True)


@app.command()
def report(
    params: Params,
    outputs: Outputs = Path("outputs"),
    language: option(str, "Of the report: en or ja.") = "en",
) -> None:
    """Write report.html, a page for who decides: what can be pushed, at what cost, and what is not known."""
    from steerlib.pilot import report
    from steerlib.results import opening

    path = report.write(opening.open_study(params, outputs), language)
    console.print(f"{path}: written; open it in any browser, or print it.", soft_wrap=True)


def monitor(
    card: argument(Path, "The card of a deployed direction, outputs/STUDY/pilot/deployed/CONCEPT.card.json."),
    checkpoint: option(Path | None, "Another checkpoint, a folder; by default the one that it was found in.") = None,
    texts: option(Path | None, "A concept's file of other texts; by default those that it was validated on.") = None,
    prompts: option(Path | None, "A text file of prompts, one a line, where the file of texts holds none.") = None,
    neutral: option(Path | None, "A text file of neutral passages, one a line, for side effects.") = None,
    json: option(bool, "Print it for a machine to read.", "--json") = False,
) -> None:
    """Whether a deployed push still does what its card says. Exit code 1 where it does not, or it cannot be told."""
    from dataclasses import asdict
    from json import dumps

    from steerlib.pilot import watching
    from steerlib.results import audit

    found = watching.watch(card, checkpoint, texts, prompts, neutral)
    if (folder := card.resolve().parents[2]).joinpath(audit.NAME).exists():  # of the study, unless the card was moved
        audit.note(folder, "monitored", card=card.name, verdict=found.verdict)
    if json:
        criteria = {name: told.model_dump() for name, told in found.criteria.items()}
        print(dumps(asdict(found) | {"verdict": found.verdict, "criteria": criteria}, indent=1, allow_nan=False))
    else:
        console.print(f"{found.concept}, {found.checkpoint}, texts {found.texts}: {found.verdict}.", soft_wrap=True)
        for name, told in found.criteria.items():
            console.print(f"  {told.outcome:<7} {name}: {told.said}", soft_wrap=True)
    if found.verdict != watching.HOLDS:
        raise typer.Exit(1)
