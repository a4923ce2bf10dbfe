"""Tiny models with random weights, one of every architecture, in memory and as checkpoint folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.models import SHAPES, build


@pytest.fixture(autouse=True)
def not_driven(monkeypatch):
    """What a worker sets for good, a test sets for itself alone."""
    monkeypatch.setenv("STEERLIB_DRIVEN", "1")
    monkeypatch.delenv("STEERLIB_DRIVEN")


@pytest.fixture(scope="session", params=SHAPES)
def model(request):
    """A tiny model of every architecture, in float32."""
    return build(request.param)


@pytest.fixture(scope="session", params=SHAPES)
def exact_model(request):
    """The same in float64, for derivatives."""
    return build(request.param, "float64")


@pytest.fixture
def checkpoint(tmp_path) -> Callable[..., Path]:
    """Makes ``history/step-N``, an ordinary Hugging Face checkpoint folder of a tiny model."""

    def save(step: int = 1, architecture: str = "gpt_neox", **changes) -> Path:
        folder = tmp_path / "history" / f"step-{step}"
        tiny = build(architecture, **changes)
        tiny.hf.save_pretrained(folder)
        tiny.tokenizer.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def modules_elsewhere(tmp_path_factory):
    """Code that comes with a checkpoint is copied into a cache before it is run: not into the user's own."""
    from transformers import dynamic_module_utils as utils

    patch = pytest.MonkeyPatch()
    patch.setattr(utils, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
    yield
    patch.undo()


# A tiny study of three checkpoints, for what is done to studies.
@pytest.fixture(scope="session")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def params(home) -> Path:
    from helpers.studies import STEPS, tiny_study

    return tiny_study(home, STEPS)


@pytest.fixture(scope="session")
def calm(home, params) -> Path:
    """The study's folder after a run on this machine in which nothing happened."""
    import subprocess

    from helpers.studies import PROJECT, command

    done = subprocess.run(command(params, home / "calm"), cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return home / "calm" / "tiny"
