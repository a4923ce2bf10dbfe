"""What a report tells of a study: results, freeze and validation brought together, as numbers and keys of words."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from steerlib import SteerlibError
from steerlib.numerics.onsets import QUESTIONS
from steerlib.pilot import freeze, other_ways, validation
from steerlib.pilot.freeze import Freeze
from steerlib.pilot.validation import Validation
from steerlib.results import judged
from steerlib.results.opening import OpenStudy
from steerlib.stages.criteria import LEVELS, PASS, UNKNOWN, plain
from steerlib.stages.other_ways import PUSHED, WAYS

GOOD = ("holds", "deploy", "validate")  # verdicts of which a report says that a push may be relied on, or be tried
NOTHING = "", ""  # is to be done: it is deployed
Numbers = Mapping[str, Any]  # of a criterion: outcome, value, lower, upper, threshold


@dataclass(frozen=True)
class One:
    """One concept."""

    name: str
    verdict: str  # of readiness, or of the validation: holds, fails
    held: str  # the first criterion that keeps it from more, if any
    layer: int
    alpha: float  # NaN: none is recommended
    since: tuple[float, float, float]  # when it is half-way steerable, with its interval (`numerics.onsets`)
    criteria: Mapping[str, Numbers]


@dataclass(frozen=True)
class Facts:
    """One study at one checkpoint."""

    study: OpenStudy  # as it was frozen, if it was
    frozen: Freeze | None
    validated: Validation | None
    following: tuple[str, str]  # what is to be done next, and with what, or what is wrong; nothing after deployment
    readiness: xr.Dataset  # of all checkpoints, by the analysis' method

    @classmethod
    def of(cls, study: OpenStudy) -> Facts:
        """Of a study that was run, as far as its pilot has come. Raises SteerlibError for one that was not."""
        frozen, validated, folder = None, None, freeze.folder_of(study)
        path = os.path.relpath(study.params.path)  # a page is handed on, and no other's folders are anybody's business
        path = study.params.path.name if path.startswith("..") else path
        try:
            following = "new", f"steerlib pilot new {path}"
            if (folder / freeze.NAME).exists():
                frozen, _, study = freeze.load(study)
                following = "validate", f"steerlib pilot validate {path}"
            if frozen and (folder / validation.NAME).exists():
                validated = validation.load(study, frozen.content)
                following = "deploy", f"steerlib pilot deploy {path}"
        except SteerlibError as error:
            following = "broken", str(error)
        if validated and any((folder / "deployed").glob("*.card.json")):
            following = NOTHING
        found = judged.whole(study).sel(probe=study.params.emergence.method)
        return cls(study, frozen, validated, following, found)

    @property
    def deployed(self) -> bool:
        return self.following == NOTHING

    @property
    def step(self) -> int:
        """The checkpoint that was frozen, or else the last."""
        return self.frozen.step if self.frozen else int(self.readiness.step[-1])

    @cached_property
    def cells(self) -> xr.Dataset:
        return self.readiness.sel(step=self.step)

    @cached_property
    def emergence(self) -> xr.Dataset:
        return self.study.results["emergence"].compute()

    @cached_property
    def ways(self) -> xr.Dataset | None:
        """None where nothing is frozen, so that nobody knows which push is meant."""
        return other_ways.of(self.study, self.frozen) if self.frozen else None

    @cached_property
    def concepts(self) -> list[One]:
        """The best first."""
        order = {verdict: k for k, verdict in enumerate(("holds", *reversed(LEVELS), "fails"))}
        return sorted((self._one(str(name)) for name in self.cells.concept.values), key=lambda one: order[one.verdict])

    @property
    def pushed(self) -> list[One]:
        """Those that the report is about: validated, or else ready to be."""
        holding = [one for one in self.concepts if one.verdict == "holds"]
        return holding or [one for one in self.concepts if one.verdict in GOOD]

    def _one(self, name: str) -> One:
        cell = self.cells.sel(concept=name)
        onset = self.emergence.sel(concept=name, measure="steerability", question=QUESTIONS[1])
        since = tuple(float(onset[f"onset{end}"]) for end in ("", "_lower", "_upper"))
        verdict, held, criteria = str(cell.verdict.item()), str(cell.held_back.item()), plain(cell)
        if self.validated and name in self.validated.concepts:
            tried = self.validated.concepts[name]
            criteria |= {key: told.model_dump() for key, told in tried.criteria.items()}
            verdict = "holds" if tried.holds else "fails"
            held = next((key for key, told in tried.criteria.items() if told.outcome != PASS), "")
        return One(name, verdict, held, int(cell.layer_pushed), float(cell.recommended_alpha), since, criteria)

    def unknown(self) -> dict[tuple[str, ...], list[str]]:
        """Criteria that cannot be told, by the concepts of which that is so: of those that the report is about."""
        criteria: dict[str, tuple[str, ...]] = {}
        for one in self.pushed or self.concepts:
            for key, told in one.criteria.items():
                if told["outcome"] == UNKNOWN:
                    criteria[key] = (*criteria.get(key, ()), one.name)
        return {names: [key for key, of in criteria.items() if of == names] for names in criteria.values()}


def best_ways(ways: xr.Dataset) -> dict[str, list[str]]:
    """Concepts by the way that gains most of those within the budget, surely more than or less than the push.

    Under "" those of which that cannot be told.
    """
    found: dict[str, list[str]] = {}
    for name in ways.concept.values:
        of = ways.sel(concept=name, way=[way for way in WAYS if bool(ways.within.sel(concept=name, way=way))])
        others = of.sel(way=of.way != PUSHED)
        beaten, better = others.advantage_lower > 0, others.advantage_upper < 0
        if PUSHED in of.way and beaten.all():
            best = PUSHED
        else:
            best = str(of.way[int(of.effect.argmax("way"))].item()) if better.any() or PUSHED not in of.way else ""
        found.setdefault(best, []).append(str(name))
    return found


def ends(values: xr.DataArray) -> tuple[float, float]:
    """Least and most; NaN of none."""
    there = values.values[np.isfinite(values.values)]
    return (float(there.min()), float(there.max())) if there.size else (np.nan, np.nan)
