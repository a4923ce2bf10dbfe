"""Where tensors live and how fast it is there."""

import torch
from torch.utils.benchmark import Timer

from steerlib import SteerlibError


def find(name: str) -> torch.device:
    """The device of that name; auto: CUDA if there, then MPS, then CPU. Raises SteerlibError when it is not there."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    kinds = [kind for kind, is_present in present.items() if is_present]
    device = torch.device(kinds[0] if name == "auto" else name)
    if device.type not in kinds or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise SteerlibError(
            f"device {name!r} is not to be had here; there is {', '.join(kinds)} (torch {torch.__version__})"
        )
    return device


def matmul_rate(device: torch.device, precision: str = "float32", seconds: float = 0.3) -> float:
    """FLOP a second of a large square matrix product: the best of as many as fit into the time given."""
    size = 1024 if device.type == "cpu" else 8192
    matrix = torch.randn(size, size, device=device, dtype=getattr(torch, precision))
    timer = Timer("matrix @ matrix", globals={"matrix": matrix}, num_threads=torch.get_num_threads())
    return 2.0 * size**3 / min(timer.blocked_autorange(min_run_time=seconds).times)
