"""Which steps of a training history a study looks at."""

from collections.abc import Iterable, Sequence
from textwrap import shorten

import numpy as np

from steerlib import SteerlibError
from steerlib.checkpoints.suites import Revision, parse, suite_of
from steerlib.study import Study
from steerlib.study.checkpoints import Chosen, Percent


def choose(asked: Chosen, available: Sequence[int], end: int) -> list[int]:
    """Of the steps that there are (increasing), those that are asked for; ``end`` is what percent counts from.

    Those that a list names and that are not there are in it as well: the caller knows how to say so.
    """
    if asked == "all":
        return list(available)
    if isinstance(asked, list):
        return list(asked)
    steps = np.array(available)
    if isinstance(asked, Percent):
        wanted = np.array(asked.percent) / 100 * end
        return sorted({int(steps[np.argmin(abs(steps - step))]) for step in wanted})
    last = steps[-1] if asked.last is None else asked.last
    steps = steps[(steps >= asked.first) & (steps <= last)]
    if asked.count is None or len(steps) <= asked.count:
        return steps.tolist()
    curve = np.log1p if asked.spacing == "log" else np.asarray
    left, kept = steps.astype(float), []
    # The nearest that is left to each point of an even grid on the curve, first and last among them.
    for wanted in np.linspace(curve(left[0]), curve(left[-1]), asked.count):
        at = np.nanargmin(abs(curve(left) - wanted))
        kept.append(int(left[at]))
        left[at] = np.nan
    return sorted(kept)


def select(study: Study, names: Iterable[str]) -> tuple[list[Revision], int]:
    """Of the names in its repository or folder, those that a study asks for, by step; and what percent counts from.

    Raises SteerlibError when one of them, or any, is not there.
    """
    plan = study.checkpoints
    place, suite = plan.repo or (plan.folder or plan.gguf).path, suite_of(plan.repo) if plan.repo else None
    try:
        revisions = parse(names, suite, plan.pattern, plan.stages, plan.tokens_per_step)
    except SteerlibError as error:
        raise SteerlibError(f"{place}: {error}") from None
    if plan.base and revisions[0].step:
        revisions.insert(0, Revision(step=0, revision=str(plan.base), tokens_seen=0, base=True))
    end = (suite.end if suite and not plan.pattern else None) or revisions[-1].step or 1
    by_step = {revision.step: revision for revision in revisions}
    steps = choose(plan.steps, list(by_step), end)
    absent = [step for step in steps if step not in by_step]
    if steps and not absent:
        return [by_step[step] for step in steps], end
    problem = "has no step among those asked for"
    if absent:
        near = min(by_step, key=lambda step: abs(step - absent[0]))
        problem = f"has no step {absent[0]}; the nearest is {near} ({by_step[near].revision})"
    available = shorten(", ".join(map(str, by_step)), 80, placeholder=", …")
    raise SteerlibError(
        f"{study.path}: checkpoints.steps: {place} {problem}; it has {available} ({len(by_step)}, up to {max(by_step)})"
    )


def saved_steps(study: Study) -> list[int]:
    """Steps at which pretraining saves the model."""
    return choose(study.checkpoints.steps, range(study.pretraining.updates + 1), study.pretraining.updates)
