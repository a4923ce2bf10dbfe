"""What benchmarks/gpu.sh runs: how fast training is, the sweep's benchmark, a study that fits into what time is left.

Every part is ended at its limit. What was done by then is kept, and `summary.json` tells what was not.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer
import yaml

from benchmarks.bundle import CORPUS, MB, PLAN
from steerlib import SteerlibError
from steerlib.files import params, store
from steerlib.files.params import read_text
from steerlib.results.provenance import PROJECT, now
from steerlib.results.workspace import LAST, Job, Workspace
from steerlib.running.console import guarded
from steerlib.study import Study, comparison

PROFILE = PROJECT / "params" / "fiction-profiles.yaml#gpu"
LARGEST = 16 * 2**20  # bytes of a file that is left
SLACK = 0.9  # of the speed that was measured: rather done early than cut
FEWEST = 10  # updates, however slow
GRACE = 5  # seconds to end in, before a part is killed
LIBRARIES = ("torch", "transformers", "tokenizers", "nnsight", "numpy", "scipy", "xarray", "zarr", "dask", "papermill")


@dataclass
class Parts:
    """Parts of the run one after another, and how each ended."""

    begun: float
    budget: float
    work: Path
    told: dict[str, dict] = field(default_factory=dict)

    @property
    def left(self) -> float:
        return self.begun + self.budget - time.time()

    def run(self, name: str, limit: float, *command: object) -> bool:
        """Whether the command was done within so many seconds; with all that it started it is ended after them."""
        started, log = time.time(), self.work / f"{name}.log"
        if limit <= 0:
            return self._tell(name, "left out: no time", started, limit)
        with log.open("wb") as stream:
            words = [sys.executable, "-m", *map(str, command)]
            process = subprocess.Popen(words, stdout=stream, stderr=stream, cwd=PROJECT, start_new_session=True)
            try:
                code = process.wait(limit)
                state = "done" if code == 0 else f"failed ({code})"
            except subprocess.TimeoutExpired:
                state = "cut"
            finally:
                end(process)
        return self._tell(name, state, started, limit, log.read_text(errors="replace").splitlines()[-8:])

    def _tell(self, name: str, state: str, started: float, limit: float, last: Iterable[str] = ()) -> bool:
        seconds = time.time() - started
        self.told[name] = {"state": state, "seconds": round(seconds, 1), "limit": round(limit, 1)}
        print(f"{name}: {state}, {seconds:.0f} s of at most {limit:.0f}; {self.left:.0f} s left", flush=True)
        if state not in ("done", "left out: no time"):
            print(*(f"  {line}" for line in last), sep="\n", flush=True)
        return state == "done"


def end(process: subprocess.Popen) -> None:
    """A process and all of its group, if any of them is there."""
    for number, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)


def study_of(plan: dict, corpus: Path, device: str, **training: object) -> dict:
    """Params of the study; its own files are named from anywhere."""
    data, file = comparison.merged(PROFILE)
    data = params.overlaid(data, plan["study"])
    del data["pretraining"]["compute"]  # that of the profile
    data["concepts"] = str(file.parent / data["concepts"])
    data["sweep"] = data["sweep"] | {"neutral": str(file.parent / data["sweep"]["neutral"])}
    of_device = {"pretraining": {"corpus": str(corpus), "device": device, **training}, "loading": {"device": device}}
    return params.overlaid(data, of_device)


def need(device: str) -> str:
    """The device's name. Raises SteerlibError where it, or a package, is not there."""
    absent = []
    for name in PLAN["bundle"]["there"]:
        try:
            version(name)
        except PackageNotFoundError:
            absent.append(name)
    if absent:
        raise SteerlibError(
            f"{', '.join(absent)}: not there for {sys.executable}; take it off `there` in benchmarks/gpu.yaml, and "
            "make the bundle anew"
        )
    from steerlib.numerics import devices

    if devices.find(device).type != "cuda":
        return platform.processor() or platform.machine()
    import torch

    return torch.cuda.get_device_name()


def main(
    begun: Annotated[float, typer.Option(help="When, in seconds since 1970.")],
    bundle: Annotated[Path, typer.Option()],
    work: Annotated[Path, typer.Option(help="A folder that need not last.")],
    out: Annotated[Path, typer.Option(help="Where at most eight files are left.")],
    budget: Annotated[float, typer.Option(help="Seconds, of all; 0: as benchmarks/gpu.yaml says.")] = 0,
    device: str = "cuda",
    rehearse: Annotated[bool, typer.Option("--rehearse", help="A tiny study: does it work?")] = False,
) -> None:
    """The run. Exits with 1 when a part of it was cut, or failed."""
    plan = params.overlaid(PLAN, PLAN["rehearsal"]) if rehearse else PLAN
    limits, name = plan["time"], need(device)
    parts = Parts(begun, budget or limits["all"], work.resolve())
    corpus, file, outputs = bundle.resolve() / CORPUS, parts.work / "study.yaml", parts.work / "outputs"
    if "characters" in plan:
        text, corpus = read_text(corpus)[: plan["characters"]], parts.work / "some.txt"
        corpus.write_text(text)
    print(f"on {name}: {parts.left:.0f} s left", flush=True)

    file.write_text(yaml.safe_dump(study_of(plan, corpus, device, steps=10_000)))
    measured, benched = parts.work / "speed.json", parts.work / "bench.json"
    own = "benchmarks.gpu_parts"
    parts.run("speed", min(limits["speed"], parts.left), own, "speed", file, measured, plan["updates"])
    sizes = [word for size in plan["sizes"] for word in ("--size", size)]
    parts.run("bench", min(limits["bench"], parts.left), own, "bench", benched, device, plan["repeats"], *sizes)

    speed = store.read_json(measured, dict)
    seconds = min(limits["training"], parts.left - sum(limits[k] for k in ("before", "analysis", "end")))
    told = {}
    if speed:
        updates = max(FEWEST, int(SLACK * seconds / speed["seconds_per_update"]))
        told = {"compute": updates * speed["seconds_per_update"] * speed["flop_per_second"], "updates": updates}
        data = study_of(plan, corpus, device, steps=updates, compile=speed["compile"])
        file.write_text(yaml.safe_dump(data))
        limit, command = parts.left - limits["end"], ("run", file, "--outputs", outputs, "--workers", plan["workers"])
        if not parts.run("study", limit if seconds > 0 else 0, "steerlib", *command):
            parts.run("analyse", parts.left - 2 * GRACE, own, "analyse", file, outputs)

    summary = {
        "created": now(),
        "bundle": store.read_json(bundle / "bundle.json", dict),
        "rehearsal": rehearse,
        "machine": f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "device": name,
        "versions": {library: version(library) for library in LIBRARIES},
        "seconds": parts.budget,
        "parts": parts.told,
        "speed": speed,
        "planned": {"training_seconds": round(seconds, 1), **told},
    }
    left_out = keep(out, parts, Workspace(Study.load(file), outputs), summary)
    print(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}", *left_out, sep="\n")
    if left_out or any(part["state"] != "done" for part in parts.told.values()):
        raise typer.Exit(1)


def keep(out: Path, parts: Parts, workspace: Workspace, summary: dict) -> list[str]:
    """Leave what there is in the folder, and nothing of an earlier run; returns what is too large for it."""
    folder, log = workspace.folder, parts.work / "log.txt"
    log.write_text("\n".join(f"--- {path.stem}\n{path.read_text()}" for path in sorted(parts.work.glob("*.log"))))
    more = [*folder.glob("figures/*.png"), workspace.data(Job("pretraining")), workspace.notebook(LAST)]
    archive = parts.work / "figures.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in (path for path in (*more, parts.work / "study.yaml") if path.exists()):
            packed.write(path, path.name if path.parent.name != "pretraining" else "pretraining.nc")
    files = {
        "bench.json": parts.work / "bench.json",
        "run.json": folder / "run.json",
        "findings.json": workspace.findings,
        "emergence.nc": workspace.data(LAST),
        "emergence_curves.png": folder / "figures" / "emergence_curves.png",
        "figures.zip": archive,
        "log.txt": log,
    }
    out.mkdir(parents=True, exist_ok=True)
    for name in (*files, "summary.json"):
        (out / name).unlink(missing_ok=True)
    there = {name: path for name, path in files.items() if path.exists()}
    large = {name: size for name, path in there.items() if (size := path.stat().st_size) > LARGEST}
    for name in there.keys() - large.keys():
        shutil.copyfile(there[name], out / name)
    analysed = len([*(folder / "interventions").glob("*.stamp.json")])
    trained = store.read_json(folder / "run.json", dict) or {}
    left_out = [f"{name} is left out: {size / MB:.1f} MB" for name, size in large.items()]
    summary |= {"pretraining": trained.get("pretraining"), "checkpoints_analysed": analysed, "left_out": left_out}
    store.write_json(out / "summary.json", summary)
    return left_out


if __name__ == "__main__":
    guarded(lambda: typer.run(main))
