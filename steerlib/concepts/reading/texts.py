"""Readouts that need no words of the concept, for those that are a manner and not a word.

Either its own held-out texts are what comes next, positive against negative: what is fitted on is never asked about, so
the templates' split is settled here, and the texts are those of the half that tests. Or what the model itself writes is
judged, and all that is given are prompts.
"""

from __future__ import annotations

import numpy as np

from steerlib.concepts.concept import Item, Template, halves
from steerlib.concepts.reading.drafts import QUESTIONS, Draft

MANNERS = ("texts", "judged")
WORDS = 40  # of a text; what follows is cut off, as every word is run again after every push
FEWEST = 3  # pairs, for an interval
# After which any text may follow.
MOMENTS = ("That morning", "Later that day", "At the end of the week", "After the call", "On the way home", "At last")
LEADS = [
    f"{moment} {who}:"
    for who in ("she said", "he wrote", "they answered", "the note read", "someone said", "the message was")
    for moment in MOMENTS
]
# For the shape of a concept whose readout is not made yet.
STAND_IN = {"prompts": LEADS, "targets": [" this"], "foils": [" that"]}


def fill(draft: Draft, seed: int) -> None:
    """Gives a draft the readout of its manner. Raises SteerlibError where its own texts are too few."""
    draft.refuse("targets", "foils", "words", why=f"readout: {draft.manner} asks for whole texts, and for no words")
    told = draft.options.sides().get("prompts")
    prompts, most = told or LEADS, draft.options.questions or QUESTIONS
    draft.defaults += [f"readout.prompts: {len(prompts)} that any text may follow, such as {prompts[0]!r}"] * (not told)
    if draft.manner == "judged":
        draft.refuse("questions", why="readout: judged asks after all of its prompts")
        draft.readout = {"prompts": list(prompts), "judged": True}
        return
    split = halves(draft.templates, seed)
    draft.templates = [
        template.model_copy(update={"split": half}) for template, half in zip(draft.templates, split, strict=True)
    ]
    pairs = [pair for template in draft.templates if template.split == "test" for pair in _pairs(template)]
    chosen = [pairs[k] for k in np.linspace(0, len(pairs) - 1, min(most, len(pairs))).astype(int)]
    kept = [pair for pair in chosen if pair[0] != pair[1]]
    if len(kept) < FEWEST:
        raise draft.error(f"readout: texts: {len(kept)} held-out pairs; at least {FEWEST} are needed: add texts")
    draft.readout = {"items": [_item(prompts[k % len(prompts)], *pair) for k, pair in enumerate(kept)], "texts": True}
    draft.defaults.append(f"readout.texts: {len(kept)} of the {len(pairs)} held-out pairs (questions: at most {most})")
    if long := sum(len(text.split()) > WORDS for pair in chosen for text in pair[2:]):
        draft.defaults.append(f"readout.texts: the first {WORDS} words of {long} longer texts")


def _pairs(template: Template) -> list[tuple[str, str, str, str]]:
    """What is asked of each pair, and the pair."""
    pairs = zip(template.positive, template.negative, strict=True)
    return [(*(" ".join(text.split()[:WORDS]) for text in pair), *pair) for pair in pairs]


def _item(prompt: str, positive: str, negative: str, *_: str) -> Item:
    return Item(prompt=prompt, targets=[f" {positive}"], foils=[f" {negative}"])
