"""A validated push, handed over: its direction as a file, and a card that says what was found and how to watch it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from steerlib import SteerlibError, nearest
from steerlib.files import store
from steerlib.files.params import Strict
from steerlib.files.store import Sha256
from steerlib.model import Model
from steerlib.pilot import freeze, sealed, validation
from steerlib.pilot.choices import Choices, Frozen
from steerlib.pilot.trial import Chosen
from steerlib.pilot.validation import Source, Validated
from steerlib.results import audit
from steerlib.results.opening import OpenStudy
from steerlib.results.provenance import git_commit, now
from steerlib.steering import steer

ENDING = ".card.json"
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
PROMPTS = 4  # on which undoing is tried


class Spread(Strict):
    """How projections lie."""

    n: int
    mean: float
    sd: float
    quantiles: dict[str, float]

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        found = zip(QUANTILES, np.quantile(values, QUANTILES).tolist(), strict=True)
        spread = {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1))}
        return cls(n=len(values), **spread, quantiles={f"{share:g}": value for share, value in found})


class Card(Choices):
    """Of one deployed direction, which lies beside it."""

    concept: str
    frozen: Frozen
    validated: Validated  # `size` is its effect; `kl` and `nll` what it costs; with the projections themselves
    having: Spread  # of texts with the concept
    lacking: Spread
    undone: float  # largest change of a logit after the push was taken off, tried when this was written: 0
    source: Source
    file: str  # the params file: where names of files in the params belong
    freeze: Sha256
    validation: Sha256


def deploy(study: OpenStudy, concepts: Sequence[str] | None = None) -> list[Path]:
    """Cards, with their directions, of the concepts whose validation holds, or of those that are named.

    Raises SteerlibError where there is no validation of this very freeze, and where one that is asked for did not hold.
    """
    frozen, directions, then = freeze.load(study)
    found = validation.load(study, frozen.content)
    holding = [name for name, one in found.concepts.items() if one.holds]
    for name in concepts or ([] if holding else found.concepts):
        if name not in found.concepts:
            known = ", ".join(found.concepts)
            raise SteerlibError(f"{name} was not validated; {known} were{nearest(name, found.concepts)}")
        if name not in holding:
            missed = next(key for key, told in found.concepts[name].criteria.items() if told.outcome != "pass")
            why = found.concepts[name].criteria[missed].said
            raise SteerlibError(f"{name}: its validation does not hold: {missed}: {why}; it is not deployed")
    folder, model, cards = freeze.folder_of(study) / "deployed", then.model(frozen.step), []
    common = {name: getattr(frozen, name) for name in Choices.model_fields if name not in ("hash", "made", "commit")}
    for name in concepts or holding:
        one, chosen = found.concepts[name], Chosen(frozen.concepts[name], directions[name])
        prompts = [case.prompt for c in then.workspace.concepts if c.name == name for case in c.readout.cases]
        card = Card(
            **common,
            made=now(),
            commit=git_commit(),
            concept=name,
            frozen=chosen.frozen,
            validated=one,
            having=Spread.of(one.along.having),
            lacking=Spread.of(one.along.lacking),
            undone=undone(model, chosen, frozen.sweep.operator, prompts[:PROMPTS]),
            source=found.source,
            file=str(then.params.home / then.params.path.name),
            freeze=frozen.content,
            validation=found.content,
        ).sealed()
        if card.undone > frozen.readiness.undo:
            raise SteerlibError(f"{name}: taking the push off leaves {card.undone:.1e} behind; it is not deployed")
        store.write_bytes(freeze.direction_file(folder, name), freeze.direction_file(folder.parent, name).read_bytes())
        cards.append(folder / f"{name}{ENDING}")
        sealed.write(cards[-1], card)
        told = {"freeze": card.freeze, "validation": card.validation, "card": card.hash}
        audit.log(study.workspace.folder, "pilot deployed", concept=name, **told)
    return cards


def undone(model: Model, chosen: Chosen, operator: str, prompts: Sequence[str]) -> float:
    """Largest change of a logit between before a push and after it was taken off.

    Raises SteerlibError where the push changes nothing while it is on: then nothing was undone.
    """

    def logits() -> torch.Tensor:
        return model.hf(**model.tokens(prompts).inputs).logits[:, -1]

    with torch.no_grad():
        before = logits()
        with steer(model, chosen.push("all", operator)):
            during = logits()
        after = logits()
    if torch.equal(before, during):
        raise SteerlibError(f"{chosen.direction.concept}: the push changes nothing at layer {chosen.direction.layer}")
    return float((after - before).abs().max())


def load(path: Path) -> tuple[Card, Chosen]:
    """A card with its push. Raises SteerlibError for a card or direction that is not there, or was altered."""
    card = sealed.read(path, Card, "deploy it again: steerlib pilot deploy PARAMS")
    file = freeze.direction_file(path.parent, card.concept)
    found = freeze.direction(file, card.frozen.direction_sha256, "deploy it again: steerlib pilot deploy PARAMS")
    return card, Chosen(card.frozen, found)
