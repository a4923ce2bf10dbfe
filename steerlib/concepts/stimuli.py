"""The texts of one split of a concept, in pairs: what directions are fitted on, again and again, or tested on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # for which nobody waits who only looks at a study
    from jaxtyping import Int


@dataclass(frozen=True)
class Stimuli:
    """Pairs of texts; ``fold`` numbers the template that each pair comes from."""

    positive: list[str]
    negative: list[str]
    fold: Int[np.ndarray, " pair"]

    @property
    def texts(self) -> list[str]:
        """Positives, then negatives: pair i is texts i and i + number of pairs."""
        return self.positive + self.negative

    @property
    def units(self) -> Int[np.ndarray, " pair"]:
        """What each pair varies with: its template, or itself where there are fewer than four templates."""
        return self.fold if len(np.unique(self.fold)) >= 4 else np.arange(len(self.fold))

    @property
    def refits(self) -> list[Int[np.ndarray, " kept"]]:
        """Pairs to fit on: all of them, then all but those of each unit (a delete-one jackknife).

        Where fewer than two pairs would be left, there is the first alone.
        """
        pairs, unit = np.arange(len(self.fold)), self.units
        return [pairs, *(pairs[unit != one] for one in np.unique(unit) if len(pairs) > 2)]

    def redraws(self, draws: int, seed) -> list[Int[np.ndarray, " drawn"]]:
        """Pairs to fit on: all of them, then those of so many bootstrap resamples of units."""
        of_unit = [np.flatnonzero(self.units == one) for one in np.unique(self.units)]
        picks = np.random.default_rng(seed).integers(len(of_unit), size=(draws, len(of_unit)))
        return [np.arange(len(self.fold)), *(np.concatenate([of_unit[k] for k in pick]) for pick in picks)]
