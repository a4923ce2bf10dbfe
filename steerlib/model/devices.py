"""Where tensors live and how fast it is there."""

from __future__ import annotations

import time

import torch

from steerlib import SteerlibError


def find(name: str) -> torch.device:
    """The device of that name; auto: CUDA if there, then MPS, then CPU. Raises SteerlibError when it is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, found in there.items() if found)
    device = torch.device(name)
    absent = not there[device.type] or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count())
    if absent:
        found = ", ".join(kind for kind, found in there.items() if found)
        raise SteerlibError(f"device {name!r} is not to be had here; there is {found} (torch {torch.__version__})")
    return device


def matmul_rate(device: torch.device, precision: str = "float32", seconds: float = 0.3) -> float:
    """FLOP a second of a large square matrix product: the best of as many as fit into the time given."""
    size = 1024 if device.type == "cpu" else 8192
    one = torch.randn(size, size, device=device, dtype=getattr(torch, precision))
    best, until = float("inf"), time.perf_counter() + seconds
    (one @ one).sum().item()
    while best == float("inf") or time.perf_counter() < until:
        started = time.perf_counter()
        (one @ one)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best
