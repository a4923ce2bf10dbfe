"""How cost and memory grow with what is asked for: methods, layers, checkpoints, and the blocks of a 7B model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import torch

from benchmarks.measure import Row, exponent, interleaved
from benchmarks.models import ALPHAS, TOY, Size
from benchmarks.sweep import sweep
from steerlib.model import Prefix
from steerlib.results.provenance import PROJECT, peak_rss
from steerlib.steering.arms import dose_response
from steerlib.steering.readouts import Readouts

METHODS, LAYERS, CHECKPOINTS = (1, 4, 16), (2, 4, 8, 16), (2, 20, 200)
SEVEN = Size("7B's shape", 2, 4096, 32, 32000, prompts=32, tokens=48, directions=2)
BLOCKS = 32  # that it has: one and two are measured, and each further one taken to cost as much as the second
KEPT = {"concepts": 2, "layers": 2, "hidden": 16, "prompts": 8, "draws": 10}  # of each checkpoint that is collected
WIDE = {"concepts": 64, "layers": 32, "hidden": 64, "prompts": 32, "draws": 40}  # 0.7 GB each


def measure(repeats: int, device: str) -> list[Row]:
    return [of_methods(repeats, device), of_layers(repeats, device), *of_checkpoints(), of_blocks(SEVEN, BLOCKS)]


def grown(what: str, sizes, cases, repeats: int, device: str) -> Row:
    """k where the cost of a sweep goes as size^k; cases in the order of sizes."""
    costs = np.array(list(interleaved(dict(zip(map(str, sizes), cases, strict=True)), repeats, device).values()))
    name = f"exponent of a sweep's cost in {what} ({sizes[0]} … {sizes[-1]})"
    return Row.of(TOY.name, name, [exponent(sizes, one) for one in costs.T], "≤ 1.1")


def of_methods(repeats: int, device: str) -> Row:
    """Each finds a direction of every concept."""
    model, world = TOY.model(device), TOY.world()
    prompts, readouts = [case.prompt for case in world[0].readout.cases], Readouts.of(model, world)
    arms = [replace(TOY, directions=TOY.concepts * count).arms() for count in METHODS]
    cases = [lambda arm=arm: sweep(model, prompts, readouts, arm) for arm in arms]
    return grown("methods", METHODS, cases, repeats, device)


def of_layers(repeats: int, device: str) -> Row:
    """Of a model of so many, those that are looked at lie as far apart as they can."""
    size = replace(TOY, layers=LAYERS[-1], directions=9)
    model, world, arms = size.model(device), size.world(), size.arms()
    prompts, readouts = [case.prompt for case in world[0].readout.cases], Readouts.of(model, world)

    def at(count: int) -> None:
        prefix = Prefix(model, prompts, readouts.branches)
        for layer in np.linspace(0, size.layers - 1, count).round().astype(int):
            dose_response(prefix, readouts.log_odds, int(layer), arms[layer], ALPHAS)

    return grown("layers looked at", LAYERS, [lambda count=count: at(count) for count in LAYERS], repeats, device)


def of_checkpoints() -> list[Row]:
    """What notebook 4 does, of generated results (`tests/running/test_scale.py`), each in a process of its own."""
    told = [collected(count) for count in CHECKPOINTS]
    case = f"generated results, {CHECKPOINTS[0]} … {CHECKPOINTS[-1]} checkpoints, once each"
    costs = {what: [one[f"{what}_cpu_seconds"] for one in told] for what in ("collect", "analyse")}
    return [
        *(Row.of(case, f"exponent of cost: {w}", [exponent(CHECKPOINTS, each)], "≤ 1.1") for w, each in costs.items()),
        Row.of(case, "GB of memory at most (absolute)", [told[-1]["peak"] / 1e9], "≤ 2"),
        Row.of(case, "the same of 2 of 64 concepts × 32 layers", [collected(2, **WIDE)["peak"] / 1e9], "≤ 2"),
    ]


def collected(checkpoints: int, **sizes: int) -> dict[str, float]:
    asked = {"checkpoints": checkpoints, **KEPT, **sizes}
    words = [word for name, value in asked.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, PROJECT / "tests" / "running" / "test_scale.py", *words]
    env = os.environ | {"PYTHONPATH": str(PROJECT / "tests")}
    done = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"test_scale.py: {done.stderr}")
    return json.loads(done.stdout)


def of_blocks(size: Size, blocks: int) -> Row:
    """A sweep of random weights in bfloat16, on the CPU."""
    one, two = (peak(replace(size, layers=count)) for count in (1, 2))
    name = f"GB of memory at most (absolute): {one / 1e9:.2f} and {two / 1e9:.2f} of 1 and 2 blocks, of {blocks}"
    return Row.of(size.name, name, [(one + (blocks - 1) * (two - one)) / 1e9])


def peak(size: Size) -> int:
    """Bytes, of a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as alone:
        return alone.submit(swept, size).result()


def swept(size: Size) -> int:
    torch.set_default_dtype(torch.bfloat16)  # as weights that are loaded are never wider
    model, world = size.model(dtype=torch.bfloat16), size.world()
    torch.set_default_dtype(torch.float32)
    sweep(model, [case.prompt for case in world[0].readout.cases], Readouts.of(model, world), size.arms())
    return peak_rss()
