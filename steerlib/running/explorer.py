"""The explorer of a study, written beside its results."""

from pathlib import Path

from rich.console import Console

from steerlib.figures.explorer import page
from steerlib.files import store
from steerlib.results.opening import open_study


def write(params: Path, outputs: Path, console: Console) -> None:
    """Raises SteerlibError where the page cannot be made (`steerlib.figures.explorer.page`), or written."""
    study = open_study(params, outputs)
    path, made = study.workspace.folder / "explorer.html", page(study).encode()
    store.write_bytes(path, made)
    told = f"{path}: written ({len(made) / 1e6:.1f} MB). It runs in any browser: open it by a double click."
    console.print(told, soft_wrap=True, highlight=False)
