"""Costs measured side by side, and ratios of them with their spread."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

Costs = dict[str, np.ndarray]  # of each case, seconds of every repeat


@dataclass(frozen=True)
class Row:
    """A line of the table: the median of all repeats, and their least and greatest."""

    case: str
    quantity: str
    value: float
    low: float
    high: float
    target: str = ""

    @classmethod
    def of(cls, case: str, quantity: str, values: Sequence[float] | np.ndarray, target: str = "") -> Row:
        return cls(case, quantity, float(np.median(values)), float(np.min(values)), float(np.max(values)), target)

    @property
    def met(self) -> bool | None:
        """Whether the median keeps its target, such as '≤ 1.5'; None without one."""
        if not self.target:
            return None
        sign, bound = self.target.split()
        return self.value <= float(bound) if sign == "≤" else self.value >= float(bound)


def interleaved(cases: Mapping[str, Callable[[], object]], repeats: int, device: str = "cpu") -> Costs:
    """Seconds of every case, all cases once a repeat, so that what else the machine does falls on all alike.

    CPU seconds of this process, or seconds of the device. Each case runs once before, unmeasured.
    """
    for run in cases.values():
        run()
    found = [[seconds(run, device) for run in cases.values()] for _ in range(repeats)]
    return dict(zip(cases, np.array(found).T, strict=True))


def seconds(run: Callable[[], object], device: str = "cpu") -> float:
    """What one call costs: CPU seconds of this process, or seconds on the device."""
    if device == "cpu":
        start = time.process_time()
        run()
        return time.process_time() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """k of cost = c · size^k, by least squares on logarithms: 1 is in proportion, 0 independent."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])
