"""A history of six tiny checkpoints: as folders, on a hub, and on a hub that this process asks."""

from pathlib import Path

import pytest

from helpers.hub import Hub, ask, tiny_checkpoints
from helpers.repositories import REPO, STEPS


@pytest.fixture(scope="session")
def histories(tmp_path_factory) -> dict[int, Path]:
    """The checkpoints' folders, by step."""
    return tiny_checkpoints(tmp_path_factory.mktemp("pythia"), STEPS, width=32)


@pytest.fixture
def hub(histories):
    with Hub() as hub:
        for step, folder in histories.items():
            hub.add(REPO, f"step{step}", folder)
        yield hub


@pytest.fixture
def inside(hub, tmp_path, monkeypatch) -> Path:
    """A study's folder of results; this process asks the hub, too."""
    ask(hub, monkeypatch, tmp_path / "cache")
    return tmp_path / "outputs" / "tiny"
