"""Concepts: what is looked for (stimuli), and what it should change in the model's words (readout)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence, Set
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from steerlib.concepts.repeats import Places, linked, normalised
from steerlib.concepts.stimuli import Stimuli
from steerlib.files.params import Strict, within

LONGEST = 100_000  # characters of a line or a text; no context of a model studied here holds as much


def usable(text: str) -> str:
    """The text. Raises ValueError when there is nothing to see in it, or nothing that can hold it."""
    if not normalised(text):
        raise ValueError("is empty; write some text or remove the entry")
    if len(text) > LONGEST:
        raise ValueError(f"has {len(text):,} characters, the limit is {LONGEST:,}; is a line break or a quote missing?")
    if "\0" in text:  # JSON and YAML can spell it, no file of results can hold it
        raise ValueError("holds a zero byte, which no text has; mend its escape")
    if not text.isascii() and re.search(r"[\ud800-\udfff]", text):  # nor this
        raise ValueError("holds half a character (a lone surrogate); mend its escape \\u…")
    return text


Text = Annotated[str, AfterValidator(usable)]


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

    @property
    def unit(self) -> tuple[str, Set[str], Set[str]]:
        """What it has in common with its repeats; with other targets or foils the prompt asks something else."""
        return normalised(self.prompt), *(frozenset(map(normalised, side)) for side in (self.targets, self.foils))

    @property
    def begun(self) -> bool:
        """Whether a target begins with a foil, or the other way round: the shorter is the likelier in any model."""
        pairs = (sorted((target, foil), key=len) for target in self.targets for foil in self.foils)
        return any(long.startswith(short) and not long[len(short)].isalnum() for short, long in pairs)


class Readout(Strict):
    """Where a push is to show: prompts that share their targets and foils, or items that each have their own.

    Targets and foils are continuations of one token or of several, with the space before them.
    """

    prompts: list[Text] = []
    targets: list[Text] = []
    foils: list[Text] = []
    items: list[Item] = []
    # Options of the items are texts, one a side, that were not fitted on: log-odds are per token, of matched lengths.
    texts: bool = False
    # What the model itself writes after the prompts, as a judge finds it: no options are given.
    judged: bool = False

    _losses: tuple[str, ...] = PrivateAttr(())

    @model_validator(mode="after")
    def _one_kind(self):
        if self.items and (self.prompts or self.targets or self.foils):
            raise ValueError("give either items, or prompts with targets and foils; found both")
        if self.judged and (self.items or self.targets or self.foils):
            raise ValueError("judged: what the model writes is judged, whichever words it takes; give prompts alone")
        given = ("prompts",) if self.judged else ("prompts", "targets", "foils")
        missing = [side for side in given if not getattr(self, side)]
        if self.texts and any(len(side) != 1 for item in self.items for side in (item.targets, item.foils)):
            raise ValueError("texts stand against one another one by one; give each item one target and one foil")
        if self.texts and not self.items:
            raise ValueError(
                "texts: needs items, each with a text as its target and one as its foil; or write "
                "`readout: texts` alone, and they are the concept's own"
            )
        if not self.items and missing:
            raise ValueError(f"has no {' and no '.join(missing)}; give prompts with targets and foils, or items")
        if self.prompts and not self.judged:
            Item(prompt=self.prompts[0], targets=self.targets, foils=self.foils)  # a target that is a foil is told now
        return self

    @property
    def losses(self) -> tuple[str, ...]:
        """What of the prompts was left out when the concept was made."""
        return self._losses

    @property
    def cases(self) -> list[Item]:
        """Every prompt with its own targets and foils."""
        sides = {"targets": self.targets, "foils": self.foils}  # that they are sound is known
        return self.items or [Item.model_construct(prompt=prompt, **sides) for prompt in self.prompts]

    def once(self, fitted: Set[str]) -> Readout:
        """The first of prompts that are one unit, none of which is ``fitted`` on.

        Raises ValueError when fewer than three are left; those that have a prompt in common count as one.
        """
        cases, side = self.cases, "items" if self.items else "prompts"
        first = {case.unit: k for k, case in reversed([*enumerate(cases)])}
        asked = [k for k in sorted(first.values()) if not fitted & self._told(cases[k])]
        kept = [k for k in asked if not (self.items and cases[k].begun)]
        repeats, stimuli, begun = len(cases) - len(first), len(first) - len(asked), len(asked) - len(kept)
        reasons = (
            (repeats, "repeat others: one unit each"),
            (stimuli, f"are{', or lead to,' * self.texts} stimuli that may be fitted on: left out"),
            (begun, "have an option that begins with one of the other side: left out"),
        )
        losses = tuple(f"{count} of {len(cases)} prompts {reason}" for count, reason in reasons if count)
        if (left := len({normalised(cases[k].prompt) for k in kept})) < 3:
            why = f"repeats count once; {'; '.join(losses)}" if losses else "repeats count once"
            raise ValueError(f"has {left} prompts; an interval needs at least 3 ({why})")
        readout = self.model_copy(update={side: [getattr(self, side)[k] for k in kept]})
        readout._losses = self._losses + losses
        return readout

    def _told(self, case: Item) -> set[str]:
        """What must not have been fitted on: a prompt, and a text that is to follow it."""
        return {normalised(text) for text in (case.prompt, *(case.targets + case.foils if self.texts else ()))}


class Concept(Strict):
    """A concept: paired stimuli in templates, and a readout."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    role: Literal["concept", "emotion", "truth", "inert", "null"] = "concept"
    planted_frequency: within(float, 1, "which is always", ge=0) | None = None
    # Of its texts: for the card of a direction. No result hangs on it, so that it is no part of a dump.
    licence: Text | None = Field(None, exclude=True)
    templates: list[Template] = Field(min_length=2)
    readout: Readout

    _frame: str = PrivateAttr("{}")

    @property
    def frame(self) -> str:
        """What every stimulus was put into where it was read; ``{}`` where it stands as it was written."""
        return self._frame

    @field_validator("templates")
    @classmethod
    def _on_one_side(cls, templates: list[Template]) -> list[Template]:
        """A pair that repeats another is left out, and no text is on two sides of the split.

        Templates that share a text go to the same side (`halves`). If all of them hang together in this way, a pair of
        which a text stands in an earlier template is left out, too.
        """
        given = {template.split for template in templates}
        if given not in ({None}, {"fit", "test"}):
            raise ValueError("let each template name its split, some fit and some test, or none of them")
        fitted = {normalised(text): t.name for t in templates if t.split == "fit" for text in t.texts}
        for template in templates:
            for text in template.texts if template.split == "test" else ():
                if (name := fitted.get(normalised(text))) is not None:
                    raise ValueError(
                        f"{text[:80]!r} stands in {name!r} (fit) and in {template.name!r} (test): it would be tested "
                        "on what it was fitted on; remove one"
                    )
        once = _once(templates, [0] * len(templates))
        if given == {None} and len(linked([template.texts for template in once])) < 2:
            once = _once(templates, range(len(templates)))
        if len(once) < 2 or {template.split for template in once} != given:
            raise ValueError(
                "repeats count once, and too few pairs are left: at least 2 templates of 2 pairs are needed; "
                "add texts that stand in one template only"
            )
        return once

    @field_validator("readout", mode="before")
    @classmethod
    def _mapping(cls, readout):
        if isinstance(readout, str):
            raise ValueError(
                f"{readout!r} is no readout; give prompts with targets and foils, or items, or one of the words texts "
                "and judged"
            )
        return readout

    @field_validator("readout")
    @classmethod
    def _asked_of_others(cls, readout: Readout, info: ValidationInfo) -> Readout:
        """A prompt that may be fitted on is left out; where templates name no split, that is any stimulus."""
        templates = [template for template in info.data.get("templates", ()) if template.split != "test"]
        return readout.once({normalised(text) for template in templates for text in template.texts})

    def halves(self, seed: int) -> np.ndarray:
        return halves(self.templates, seed)

    def stimuli(self, split: Literal["fit", "test"], seed: int) -> Stimuli:
        """Stimuli of the templates of one split: directions are fitted on one, separability is tested on the other."""
        chosen = [template for template, half in zip(self.templates, self.halves(seed), strict=True) if half == split]
        return Stimuli(
            positive=[text for template in chosen for text in template.positive],
            negative=[text for template in chosen for text in template.negative],
            fold=np.repeat(np.arange(len(chosen)), [len(template.positive) for template in chosen]),
        )


def halves(templates: Sequence[Template], seed: int) -> np.ndarray:
    """One of 'fit' and 'test' for each template: as the templates say, else about a half each by the seed.

    Templates that share a text are never parted.
    """
    if templates[0].split is not None:
        return np.array([template.split for template in templates])
    half, groups = np.full(len(templates), "test"), linked([template.texts for template in templates])
    for k in np.random.default_rng(seed).permutation(len(groups)):
        if (half == "fit").sum() + len(groups[k]) <= len(half) // 2:
            half[groups[k]] = "fit"
    return half


def prompt_split(prompts: Sequence[str], seed: int) -> np.ndarray:
    """One of 'validation' (a third: layer and alpha are chosen there) and 'test' for each prompt, equal ones alike."""
    unit = [normalised(prompt) for prompt in prompts]
    units = list(dict.fromkeys(unit))
    chosen = {units[k] for k in np.random.default_rng(seed).permutation(len(units))[: len(units) // 3]}
    return np.array(["validation" if one in chosen else "test" for one in unit], dtype="<U10")


def _once(templates: Sequence[Template], places: Iterable[int]) -> list[Template]:
    """The templates, each unit taken once (`Places`), of which two pairs or more are left."""
    taken, kept = Places(), []
    for template, place in zip(templates, places, strict=True):
        pairs = zip(template.positive, template.negative, strict=True)
        if len(new := [pair for pair in pairs if taken.take(place, *pair)]) > 1:
            positive, negative = map(list, zip(*new, strict=True))
            kept.append(template.model_copy(update={"positive": positive, "negative": negative}))
    return kept
