"""`make bench`: every figure a ratio of costs within one run, its median and range over interleaved repeats."""

from __future__ import annotations

import os
import platform

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: more threads only fight over the cores

import json
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import torch
import transformers
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import overhead, reading, scale, study, sweep, watching
from benchmarks.measure import Row
from steerlib.results.provenance import git_commit

BENCHMARKS: dict[str, Callable[[int, str], Iterable[Row]]] = {
    "sweep": sweep.measure,
    "reading": reading.measure,
    "notebook": overhead.measure,
    "monitor": watching.measure,
    "growth": study.growth,
    "scale": scale.measure,
    "wide": study.wide,
    "toy": study.toy,
}


def main(
    only: Annotated[list[str] | None, typer.Option(help=f"Some of them: {', '.join(BENCHMARKS)}.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Interleaved, of each comparison.")] = 5,
    device: Annotated[str | None, typer.Option(help="cuda or cpu; cuda where there is one.")] = None,
    output: Annotated[Path, typer.Option(help="Where the JSON goes.")] = Path("outputs/bench.json"),
) -> None:
    """Measure, print a table of each as soon as it is there, write a JSON. Exits with 1 when a target is missed."""
    if wrong := set(only or ()) - set(BENCHMARKS):
        raise typer.BadParameter(f"there is no benchmark {', '.join(sorted(wrong))}; there are {', '.join(BENCHMARKS)}")
    warnings.filterwarnings("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    device, console, rows = device or ("cuda" if torch.cuda.is_available() else "cpu"), Console(), []
    output.parent.mkdir(parents=True, exist_ok=True)
    for name in only or BENCHMARKS:
        began = time.monotonic()
        with console.status(f"measuring: {name}"):
            found = list(BENCHMARKS[name](repeats, device))
        rows += found
        console.print(table(found, device, f"{name}: {(time.monotonic() - began) / 60:.1f} minutes"))
        output.write_text(json.dumps({**about(device), "repeats": repeats, "rows": [*map(asdict, rows)]}, indent=1))
    missed = sum(row.met is False for row in rows)
    console.print(f"Written to {output}; targets missed: {missed}")
    if missed:
        raise typer.Exit(1)


def about(device: str) -> dict[str, str]:
    """Where and when, so that two files can be told apart."""
    told = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    processor = next((line.split(":")[1].strip() for line in told if line.startswith("model name")), "")
    found = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git_commit(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores {processor}".strip(),
        "torch": torch.__version__,
        "device": device,
    }
    return found | ({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {})


def table(rows: list[Row], device: str, title: str) -> Table:
    """A line a figure, those of a case together; targets that are missed stand out."""
    unit = "CPU seconds" if device == "cpu" else f"{device} seconds"
    shown = Table("what", "median", "range", "target", title=f"{title}; ratios of {unit}", title_justify="left")
    for case in dict.fromkeys(row.case for row in rows):
        shown.add_section()
        shown.add_row(f"[bold]{case}[/]")
        for row in (row for row in rows if row.case == case):
            style = {True: "green", False: "bold red", None: "default"}[row.met]
            spread = "" if row.low == row.high else f"{row.low:.3g} – {row.high:.3g}"
            missed = "missed: " if row.met is False else ""
            shown.add_row(row.quantity, f"[{style}]{row.value:.3g}[/]", spread, f"[{style}]{missed}{row.target}[/]")
    return shown


if __name__ == "__main__":
    typer.run(main)
