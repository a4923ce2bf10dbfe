"""What the command's parameters are: how they are told, and those that most of its parts have."""

from pathlib import Path
from typing import Annotated

import typer

from steerlib.running.console import Plain

console = Plain()


def option(kind, told: str, *names: str, **more):
    """The annotation of an option of a command; of a parameter without a default, `argument`."""
    return Annotated[kind, typer.Option(*names, help=told, **more)]


def argument(kind, told: str):
    return Annotated[kind, typer.Argument(help=told)]


Params = argument(
    Path,
    "A study, such as params/toy.yaml; a comparison of variants, such as params/toy-seeds.yaml; or one of its "
    "variants, params/toy-seeds.yaml#seed-1.",
)
Outputs = option(Path, "The folder of results, in which every study has its own.")
