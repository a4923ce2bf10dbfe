"""Studies of a published history, and processes that find it on a hub on this machine."""

from __future__ import annotations

import os
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import yaml

from helpers.hub import Hub
from helpers.studies import steerlib

REPO, STEPS = "EleutherAI/pythia-70m", [0, 1, 16, 512, 16000, 143000]


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def study(home: Path, **checkpoints) -> Path:
    """A small study of these checkpoints, the repository's unless told otherwise."""
    params = {
        "name": "tiny",
        "checkpoints": {"repo": REPO, "steps": STEPS} | checkpoints,
        "concepts": ["happiness", "sadness"],
        "probes": {"methods": ["mean_difference"], "pairs": 12, "random": 20, "shuffled": 20},
        "sweep": {"alphas": [-0.5, 0, 0.5], "prompts": 6, "neutral_texts": 6, "bootstrap": 100},
        "similarity": {"texts": 8},
        "emergence": {"bootstrap": 100},
    }
    params["checkpoints"] = {key: value for key, value in params["checkpoints"].items() if value is not None}
    path = home / "tiny.yaml"
    path.write_text(yaml.safe_dump(params))
    return path


def environment(hub: Hub | None, home: Path) -> dict[str, str]:
    """Of a process that knows this hub only, with a cache of its own."""
    own = {"HF_ENDPOINT": hub.endpoint if hub else "http://127.0.0.1:9", "HF_HOME": str(home / "hf")}
    return os.environ | own | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_ETAG_TIMEOUT": "2"}


def run(hub: Hub | None, home: Path, params: Path, scheduler: str, **more: str) -> subprocess.CompletedProcess:
    """The driver alone knows the hub; workers find checkpoints where it has put them."""
    words = "run", params, "--outputs", home / "outputs", "--scheduler", scheduler
    return steerlib(*words, env=environment(hub, home) | more)


class Peak(threading.Thread):
    """The most that a folder has held while a ``with`` block lasted."""

    def __init__(self, folder: Path):
        super().__init__(daemon=True)
        self.folder, self.bytes, self.over = folder, 0, threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()

    def run(self):
        while not self.over.wait(0.005):
            total = 0
            for place, _, names in os.walk(self.folder):
                for name in names:
                    with suppress(FileNotFoundError):
                        total += os.lstat(os.path.join(place, name)).st_size
            self.bytes = max(self.bytes, total)
