"""What folders of steps and files of weights are called, in a repository and on disk."""

from __future__ import annotations

from pathlib import Path

from steerlib import SteerlibError

# In the order in which they are preferred. Optimizer states and copies for other programs have other names.
WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "pytorch_model.bin", "pytorch_model-*-of-*.bin")


def folder_name(step: int) -> str:
    return f"step={step:08d}"


def weight_files(folder: Path) -> list[Path]:
    """Weight files of a checkpoint, the kind that is loaded. Raises SteerlibError when there are none."""
    for pattern in WEIGHTS:
        if files := sorted(folder.glob(pattern)):
            return files
    raise SteerlibError(f"{folder}: holds no weights ({' or '.join(WEIGHTS)})")
