"""Tiny studies, the command that runs them, and what they hold afterwards."""

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import yaml
from filelock import FileLock

from helpers.hub import tiny_checkpoints
from steerlib.files import datasets

PROJECT = Path(__file__).parents[2]
SMOKE = PROJECT / "params" / "smoke.yaml"
STEPS = [0, 10, 20]


def tiny_study(home: Path, steps: list[int], name: str = "tiny", **more) -> Path:
    """Params of a study whose jobs take about a second, over checkpoints made in ``home``."""
    if not (home / "history").exists():
        tiny_checkpoints(home / "history", steps, width=16)
    params = {
        "name": name,
        "checkpoints": {"folder": str(home / "history"), "steps": steps, "tokens_per_step": 1000},
        "concepts": ["happiness", "sadness"],
        "probes": {"methods": ["mean_difference"], "pairs": 12, "random": 20, "shuffled": 20},
        "sweep": {"alphas": [-0.5, 0, 0.5], "prompts": 6, "neutral_texts": 6, "bootstrap": 100},
        "similarity": {"texts": 8},
        "emergence": {"bootstrap": 100},
    }
    path = home / f"{name}.yaml"
    path.write_text(yaml.safe_dump(params | more))
    return path


def command(params: Path, outputs: Path, *words: str) -> list[str]:
    more = words or ("--workers", "2")
    return [sys.executable, "-m", "steerlib", "run", str(params), "--outputs", str(outputs), *more]


def contents(folder: Path) -> dict[str, str]:
    """What every job's dataset holds, by the hash of its values."""
    return {str(p.relative_to(folder)): datasets.digest(datasets.read(p)) for p in sorted(folder.glob("*/*.nc"))}


def half_files(folder: Path) -> list[Path]:
    """Temporary names that something was written to and that were never renamed, but for what a kill left of data."""
    return list(folder.rglob(".*.nc.*/temporary"))


def once(tmp_path_factory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that all processes of a session share: made by the first that asks for it, while others wait."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / name
    with FileLock(f"{folder}.lock"):
        if not (made := folder.with_suffix(".made")).exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


def call(*words) -> subprocess.CompletedProcess:
    """The command in this process, which need not import anew what it has imported."""
    from steerlib import __main__ as program

    out, err, code = io.StringIO(), io.StringIO(), 0
    argv = ["steerlib", *map(str, words)]
    with patch.object(sys, "argv", argv), redirect_stdout(out), redirect_stderr(err):
        try:
            program.main()
        except SystemExit as end:
            code = end.code or 0
    return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())


STEERLIB = [sys.executable, "-m", "steerlib"]


def steerlib(*arguments, **given) -> subprocess.CompletedProcess:
    words = [str(argument) for argument in arguments]
    return subprocess.run([*STEERLIB, *words], capture_output=True, text=True, cwd=PROJECT, timeout=3600, **given)
