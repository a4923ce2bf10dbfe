"""Whether a deployed push still does what its card says, on other texts or in another checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import ks_2samp
from transformers.utils import logging

from steerlib import SteerlibError
from steerlib.checkpoints.history import single
from steerlib.files.layout import absent
from steerlib.model import Model, load
from steerlib.pilot import deployment, trial, unseen
from steerlib.pilot.choices import Told
from steerlib.pilot.deployment import Card
from steerlib.pilot.trial import Tried
from steerlib.results.opening import OpenStudy
from steerlib.results.workspace import Workspace
from steerlib.stages.criteria import FAIL, PASS, UNKNOWN, plain
from steerlib.study import Study

HOLDS, DRIFTED, UNTOLD = "holds", "drifted", "cannot be told"
# Of the criteria of a validation these are asked again, by the same thresholds.
AGAIN = ("size", "one sign", "selective", "kl", "nll", "undo")
# Least distance of two distributions that matters (Kolmogorov and Smirnov's D): that of normal ones half a standard
# deviation apart. Of 24 texts on a side, and 48 before, a whole one is seen in 85 of 100 cases.
APART, TEXTS = 0.2, 24


@dataclass(frozen=True)
class Watched:
    """What came out."""

    concept: str
    checkpoint: str
    texts: str
    criteria: dict[str, Told]

    @property
    def verdict(self) -> str:
        """Drifted where a criterion fails; it holds where all pass."""
        outcomes = {told.outcome for told in self.criteria.values()}
        return DRIFTED if FAIL in outcomes else UNTOLD if UNKNOWN in outcomes else HOLDS


def watch(
    path: Path,
    checkpoint: Path | None = None,
    texts: Path | None = None,
    prompts: Path | None = None,
    neutral: Path | None = None,
) -> Watched:
    """Try a deployed push again: by default in its own checkpoint, on the texts that it was validated on.

    Those of the planted world are told anew, by the next seed. Raises SteerlibError for a card or direction that was
    altered, and for texts or a checkpoint that cannot be used.
    """
    card, chosen = deployment.load(path)
    file = Path(card.file)
    study = card.as_study(file, file.parent)
    model = _model(path, card, study, checkpoint)
    chosen.direction.check(model, transfer=True)
    model.check_layer(chosen.direction.layer)
    source, name = card.source, card.concept
    told = texts or source.files.get(name)
    asked, passages = (one and Path(one) for one in (prompts or source.prompts, neutral or source.neutral))
    fresh = None if told else (source.fresh or 0) + 1
    new = unseen.told(study, [name], frozenset(), [f"{name}={told}"] if told else [], asked, passages, fresh)
    tried = trial.tried(model, study, {name: chosen}, new.concepts, new.others, new.passages)
    texts = str(told) if told else f"of the planted world, seed {fresh}"
    return Watched(name, model.name, texts, criteria(card, tried))


def _model(path: Path, card: Card, study: Study, checkpoint: Path | None) -> Model:
    """The checkpoint that is named, or the card's own, in the study's folder of results in which it lies."""
    if checkpoint:
        if not checkpoint.is_dir():
            raise SteerlibError(absent(checkpoint))
        logging.disable_progress_bar()
        plan = study.checkpoints
        base, words = (named and named.path for named in (plan.base, plan.tokenizer))
        return load(single(checkpoint, base, "in the study's checkpoints.base", study.loading, words))
    own = OpenStudy(Workspace(study, path.resolve().parents[3]))
    if card.step not in own.here or own.workspace.analysed[card.step].weights_sha256 != card.weights_sha256:
        raise SteerlibError(f"{path}: its checkpoint, step {card.step}, is not here any more; name one: --checkpoint")
    return own.model(card.step)


# --- what is asked ----------------------------------------------------------------------------------------------------


def criteria(card: Card, tried: Tried) -> dict[str, Told]:
    """By name: does the effect lie where it was validated, have texts moved, and what is asked of every push."""
    again = plain(tried.cells.sel(concept=card.concept), trial.ASKED)
    found = {"effect": within(card.validated.criteria["size"], again["size"])}
    found["texts"] = drift(card.validated.along, tried.along[card.concept], round(1 - card.emergence.level, 9))
    return found | {name: Told(**again[name]) for name in AGAIN}


def within(then: Told, now: Mapping[str, float | None]) -> Told:
    """Whether an effect is the one that was validated, by the interval of their difference."""
    ends = {name: now[name] for name in ("value", "lower", "upper")}
    numbers = [*ends.values(), then.value, then.lower, then.upper]
    if any(number is None for number in numbers):
        return Told(
            outcome=UNKNOWN, said="there are too few prompts for an interval: add prompts", **ends, threshold=None
        )
    value, lower, upper, was, was_lower, was_upper = numbers
    less, more = np.hypot(value - lower, was_upper - was), np.hypot(upper - value, was - was_lower)
    same = value - less <= was <= value + more
    said = (
        f"the log-odds move by {value:.2f} nat [{lower:.2f}, {upper:.2f}] per unit of alpha, "
        f"{'as' if same else 'and not as'} when it was validated, {was:.2f} [{was_lower:.2f}, {was_upper:.2f}]"
    )
    return Told(outcome=PASS if same else FAIL, said=said, **ends, threshold=was)


def drift(then, now: Sequence[np.ndarray], level: float) -> Told:
    """Whether projections of texts are distributed as they were: on the side, of the two, where they differ most.

    Fails where Kolmogorov and Smirnov's test is sure of it (of two sides, by Bonferroni) and it matters (`APART`).
    """
    sides = dict(zip(("with", "without"), zip((then.having, then.lacking), now, strict=True), strict=True))
    few = min(len(values) for pair in sides.values() for values in pair)
    nothing = {"lower": None, "upper": None, "threshold": APART}
    if few < TEXTS:
        said = f"there are {few} texts on a side, too few to tell: add some, to {TEXTS} or more"
        return Told(outcome=UNKNOWN, said=said, value=None, **nothing)
    tests = {side: ks_2samp(new, old) for side, (old, new) in sides.items()}
    side = min(tests, key=lambda name: (tests[name].pvalue, -tests[name].statistic))
    old, new = sides[side]
    apart, p = float(tests[side].statistic), min(1.0, 2 * float(tests[side].pvalue))
    shift = (np.mean(new) - np.mean(old)) / np.std(old, ddof=1)
    moved = p <= level and apart >= APART
    said = (
        f"texts {side} the concept lie {'elsewhere along it than' if moved else 'along it as'} when it was validated "
        f"(D {apart:.2f}, p {p:.2g}; moved by {shift:+.2f} standard deviations)"
    )
    return Told(outcome=FAIL if moved else PASS, said=said, value=apart, **nothing)
