"""What whole studies cost: the toy's analysis over its pretraining, and how cost grows with what is asked for."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import yaml

from benchmarks.measure import Row, exponent, interleaved
from benchmarks.models import ALPHAS, TOY
from benchmarks.sweep import sweep
from steerlib.results.provenance import PROJECT
from steerlib.steering.readouts import Readouts

CHECKPOINTS, CONCEPTS, DOSES = (2, 4, 8), (2, 8, 64), (3, 6, 12)
FOILS = 5
THREE = ["happiness", "sadness", "place"]


def toy(repeats: int, device: str) -> list[Row]:
    """The default study, run once from nothing."""
    with tempfile.TemporaryDirectory() as outputs:
        trained, analysed = ran(PROJECT / "params" / "toy.yaml", Path(outputs))
    return [Row.of("toy study, once", "all analysis over pretraining", [analysed / trained], "≤ 0.7")]


def wide(repeats: int, device: str) -> list[Row]:
    """A study of another shape, run once: `smoke` of 8 layers of 256, three concepts, trained four times as long."""
    model = {"hidden": 256, "layers": 8, "heads": 8, "context": 64}
    with tempfile.TemporaryDirectory() as folder:
        params = smoke(Path(folder), "wide", [0, 240, 480], model=model, steps=480)
        params.write_text(yaml.safe_dump(yaml.safe_load(params.read_text()) | {"concepts": THREE}))
        trained, analysed = ran(params, Path(folder))
    return [Row.of("study of 8 layers × 256, 3 concepts, once", "all analysis over pretraining", [analysed / trained])]


def growth(repeats: int, device: str) -> list[Row]:
    """k where cost goes as size^k."""
    return [of_checkpoints(), *of_concepts(repeats, device), of_alphas(repeats, device)]


def of_checkpoints() -> Row:
    """Of real studies like `smoke`, pretraining left out; each run once."""
    costs = []
    with tempfile.TemporaryDirectory() as folder:
        for count in CHECKPOINTS:
            steps = [round(120 * k / (count - 1)) for k in range(count)]
            costs.append(ran(smoke(Path(folder), f"of-{count}", steps), Path(folder))[1])
    return Row.of("studies, once each", "exponent of cost in checkpoints", [exponent(CHECKPOINTS, costs)], "≤ 1.1")


def smoke(folder: Path, name: str, checkpoints: list[int], **pretraining) -> Path:
    """Params like those of `smoke`, without what only some studies ask for."""
    params = yaml.safe_load((PROJECT / "params" / "smoke.yaml").read_text())
    del params["generation"], params["instrument"]
    params["pretraining"] |= pretraining
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(params | {"name": name, "checkpoints": {"steps": checkpoints}}))
    return file


def of_concepts(repeats: int, device: str) -> list[Row]:
    """Of few foils each; and where the words of all others are foils, of which each push then is read."""
    rows = []
    for what, foils in (("concepts", FOILS), ("concepts, whose foils are the words of all others", None)):
        sizes = [replace(TOY, concepts=count, directions=5 * count, foils=foils) for count in CONCEPTS]
        cases = {str(size.concepts): whole(size, ALPHAS, device) for size in sizes}
        rows.append(growing(what, CONCEPTS, cases, repeats, device, "≤ 1.1" if foils else ""))
    return rows


def of_alphas(repeats: int, device: str) -> Row:
    cases = {str(count): whole(TOY, tuple(np.linspace(0.1, 1, count)), device) for count in DOSES}
    return growing("alphas", DOSES, cases, repeats, device, "≤ 1.1")


def whole(size, alphas, device: str):
    """A sweep to be run."""
    model, world = size.model(device), size.world()
    prompts = [case.prompt for case in world[0].readout.cases]
    return partial(sweep, model, prompts, Readouts.of(model, world), size.arms(), alphas)


def growing(what: str, sizes, cases, repeats: int, device: str, target: str) -> Row:
    costs = np.array(list(interleaved(cases, repeats, device).values()))
    return Row.of(TOY.name, f"exponent of a sweep's cost in {what}", [exponent(sizes, one) for one in costs.T], target)


def ran(params: Path, outputs: Path) -> tuple[float, float]:
    """CPU seconds of a study's pretraining, and of all the rest: notebooks, workers, fork servers, driver."""
    command = [sys.executable, "-m", "steerlib", "run", params, "--outputs", outputs]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{params}: the study failed:\n{done.stdout}{done.stderr}")
    record = json.loads((outputs / yaml.safe_load(params.read_text())["name"] / "run.json").read_text())
    seconds = {name: stage["cpu_seconds"] for name, stage in record["stages"].items()}
    overhead = sum(sum(run["overhead_cpu_seconds"].values()) for run in record["runs"])
    trained = seconds.pop("pretraining")
    return trained, sum(seconds.values()) + overhead
