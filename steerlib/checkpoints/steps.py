"""Which steps of a training history a study looks at."""

from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import shorten

import numpy as np

from steerlib import SteerlibError
from steerlib.checkpoints.suites import Revision
from steerlib.study import Study
from steerlib.study.checkpoints import Chosen, Percent


def choose(asked: Chosen, available: Sequence[int], end: int | None = None) -> list[int]:
    """Of the steps that there are (increasing), those that are asked for; ``end`` is what percent counts from.

    Those that a list names and that are not there are in it as well: the caller knows how to say so.
    """
    if asked == "all":
        return list(available)
    if isinstance(asked, list):
        return list(asked)
    steps = np.array(available)
    if isinstance(asked, Percent):
        wanted = np.array(asked.percent) / 100 * (steps[-1] if end is None else end)
        return sorted({int(steps[np.argmin(abs(steps - step))]) for step in wanted})
    last = steps[-1] if asked.last is None else asked.last
    steps = steps[(steps >= asked.first) & (steps <= last)]
    if asked.count is None or len(steps) <= asked.count:
        return steps.tolist()
    return _evenly(steps, np.log1p if asked.spacing == "log" else np.asarray, asked.count)


def select(study: Study, revisions: Sequence[Revision], place: str | Path, end: int | None = None) -> list[Revision]:
    """Of a place's revisions, in order of step, those that the study asks for.

    Raises SteerlibError when one of them, or any, is not there.
    """
    by_step = {revision.step: revision for revision in revisions}
    steps = choose(study.checkpoints.steps, list(by_step), end)
    absent = [step for step in steps if step not in by_step]
    if steps and not absent:
        return [by_step[step] for step in steps]
    problem = "has no step among those asked for"
    if absent:
        near = min(by_step, key=lambda step: abs(step - absent[0]))
        problem = f"has no step {absent[0]}; the nearest is {near} ({by_step[near].name})"
    available = shorten(", ".join(map(str, by_step)), 80, placeholder=", …")
    raise SteerlibError(
        f"{study.path}: checkpoints.steps: {place} {problem}; it has {available} ({len(by_step)}, up to {max(by_step)})"
    )


def _evenly(steps: np.ndarray, curve: Callable, count: int) -> list[int]:
    """``count`` of the steps, each the nearest left to an even grid on the curve, first and last among them."""
    left, kept = steps.astype(float), []
    for wanted in np.linspace(curve(left[0]), curve(left[-1]), count):
        at = np.nanargmin(abs(curve(left) - wanted))
        kept.append(int(left[at]))
        left[at] = np.nan
    return sorted(kept)


def saved_steps(study: Study) -> list[int]:
    """Steps at which pretraining saves the model."""
    return choose(study.checkpoints.steps, range(study.pretraining.updates + 1))
