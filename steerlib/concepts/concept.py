"""Concepts: what is looked for (stimuli), and what it should change in the model's words (readout)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Int
from pydantic import AfterValidator, Field, model_validator

from steerlib.files.params import Strict


def _not_empty(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty; write some text or remove the entry")
    return text


Text = Annotated[str, AfterValidator(_not_empty)]


class Template(Strict):
    """Stimuli that share a wording or a situation; a template is never in two splits.

    The i-th positive and the i-th negative are a pair: alike but for the concept.
    """

    name: str
    positive: list[Text] = Field(min_length=2)  # one pair alone has no null
    negative: list[Text] = Field(min_length=2)
    split: Literal["fit", "test"] | None = None  # drawn with the study's seed when absent

    @property
    def texts(self) -> list[str]:
        return self.positive + self.negative

    @model_validator(mode="after")
    def _paired(self):
        if len(self.positive) != len(self.negative):
            counts = f"{len(self.positive)} positive and {len(self.negative)} negative"
            raise ValueError(f"template {self.name!r} has {counts} stimuli; they are compared in pairs")
        return self


class Item(Strict):
    """A prompt after which one of the targets, or one of the foils, is due: a multiple choice with right answers."""

    prompt: Text
    targets: list[Text] = Field(min_length=1)
    foils: list[Text] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self):
        if both := sorted(set(self.targets) & set(self.foils)):
            raise ValueError(f"{both[0]!r} is both a target and a foil; log-odds need them distinct")
        return self


class Readout(Strict):
    """Where a push is to show: prompts that share their targets and foils, or items that each have their own.

    Targets and foils are continuations of one token or of several, with the space before them.
    """

    prompts: list[Text] = []
    targets: list[Text] = []
    foils: list[Text] = []
    items: list[Item] = []

    @model_validator(mode="after")
    def _one_kind(self):
        if self.items and (self.prompts or self.targets or self.foils):
            raise ValueError("give either items, or prompts with targets and foils; found both")
        missing = [side for side in ("prompts", "targets", "foils") if not getattr(self, side)]
        if not self.items and missing:
            raise ValueError(f"has no {' and no '.join(missing)}; give prompts with targets and foils, or items")
        if len(self.items or self.prompts) < 3:
            raise ValueError(f"has {len(self.items or self.prompts)} prompts; an interval needs at least 3")
        self.cases  # noqa: B018 -- a target that is a foil is told now
        return self

    @property
    def cases(self) -> list[Item]:
        """Every prompt with its own targets and foils."""
        if self.items:
            return self.items
        return [Item(prompt=prompt, targets=self.targets, foils=self.foils) for prompt in self.prompts]


class Concept(Strict):
    """A concept: paired stimuli in templates, and a readout."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    role: Literal["concept", "emotion", "truth", "inert", "null"] = "concept"
    planted_frequency: float | None = None
    templates: list[Template] = Field(min_length=2)
    readout: Readout

    @model_validator(mode="after")
    def _whole_split(self):
        given = {template.split for template in self.templates}
        if given not in ({None}, {"fit", "test"}):
            raise ValueError("templates: let each name its split, some fit and some test, or none of them")
        return self

    def halves(self, seed: int) -> np.ndarray:
        """One of 'fit' and 'test' for each template: as the templates say, else a half each by the seed."""
        if self.templates[0].split is not None:
            return np.array([template.split for template in self.templates])
        half = np.full(len(self.templates), "test")
        half[np.random.default_rng(seed).permutation(len(half))[: len(half) // 2]] = "fit"
        return half

    def stimuli(self, split: Literal["fit", "test"], seed: int) -> Stimuli:
        """Stimuli of the templates of one split: directions are fitted on one, separability is tested on the other."""
        chosen = [template for template, half in zip(self.templates, self.halves(seed), strict=True) if half == split]
        return Stimuli(
            positive=[text for template in chosen for text in template.positive],
            negative=[text for template in chosen for text in template.negative],
            fold=np.repeat(np.arange(len(chosen)), [len(template.positive) for template in chosen]),
        )


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
    def refits(self) -> list[Int[np.ndarray, " kept"]]:
        """Pairs to fit on: all of them, then all but those of each unit (a delete-one jackknife).

        Units are templates, whose texts vary together, or pairs where there are fewer than four templates. Where fewer
        than two pairs would be left, there is the first alone.
        """
        pairs = np.arange(len(self.fold))
        unit = self.fold if len(np.unique(self.fold)) >= 4 else pairs
        return [pairs, *(pairs[unit != one] for one in np.unique(unit) if len(pairs) > 2)]


def prompt_split(prompts: int, seed: int) -> np.ndarray:
    """One of 'validation' (a third: layer and alpha are chosen there) and 'test' for each readout prompt."""
    split = np.full(prompts, "test", dtype="<U10")
    split[np.random.default_rng(seed).permutation(prompts)[: prompts // 3]] = "validation"
    return split
