"""Parts of the GPU run (benchmarks/gpu.py), each a process of its own that can be ended at its limit.

What a part has found it has written: nothing of it is lost when it is ended.
"""

from __future__ import annotations

import os
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks import sweep
from benchmarks.__main__ import about
from benchmarks.models import SIZES
from steerlib import SteerlibError
from steerlib.files import store
from steerlib.numerics import devices
from steerlib.results.freshness import DRIVEN
from steerlib.results.workspace import LAST
from steerlib.running.console import guarded
from steerlib.running.worker import Run, execute
from steerlib.stages import pretraining, training
from steerlib.study import Study

ROWS = 100_000  # of the corpus, about: what a step takes to find its own among them counts
UNTIMED = 3  # updates, the first of which compiles
app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def speed(params: Path, output: Path, updates: int) -> None:
    """How fast a study's model is trained, on random tokens; compiled, if the study says so and that works here."""
    study = Study.load(params)
    plan = study.pretraining
    torch.set_num_threads(plan.threads)
    device = devices.find(plan.device)
    data = torch.randint(plan.vocabulary, (ROWS, plan.model.context))
    model = pretraining.build(plan, plan.vocabulary, study.seed).to(device)
    told = {"compile": plan.compile}
    try:
        seconds = timed(torch.compile(model) if plan.compile else model, data, study, updates)
    except Exception as error:  # of a compiler, of which there are many
        if not plan.compile:
            raise
        told = {"compile": False, "why": f"compiling failed: {type(error).__name__}: {store.reason(error)}"}
        seconds = timed(model, data, study, updates)
    told |= pretraining.speed(plan, training.weights(model), seconds, device)
    store.write_json(output, told | {"seconds_per_update": float(np.median(seconds))})


def timed(model: torch.nn.Module, data: torch.Tensor, study: Study, updates: int) -> list[float]:
    """Seconds of each update, as training takes them."""
    optimizer, seconds = training.optimizer_of(model), []
    for step in range(UNTIMED + updates):
        started = time.perf_counter()
        training.update(model, optimizer, data, study.pretraining, step, study.seed, "speed: pretraining")
        seconds.append(time.perf_counter() - started)
    return seconds[UNTIMED:]


@app.command()
def bench(output: Path, device: str, repeats: int, size: Annotated[list[str], typer.Option()]) -> None:
    """The sweep against loops, as `make bench` has it: written after each of the models."""
    warnings.filterwarnings("ignore")
    rows = []
    for name in size:
        rows += sweep.of_size(SIZES[name], repeats, device)
        store.write_json(output, {**about(device), "repeats": repeats, "rows": [*map(asdict, rows)]})


@app.command()
def analyse(params: Path, outputs: Path) -> None:
    """The analysis of those checkpoints that are done, where the rest of a study was cut off."""
    os.environ[DRIVEN] = "1"
    outcome = execute(Run(params.resolve(), outputs.resolve(), params.resolve()), LAST)
    if outcome.state != "done":
        raise SteerlibError(outcome.message)


if __name__ == "__main__":
    guarded(app)
