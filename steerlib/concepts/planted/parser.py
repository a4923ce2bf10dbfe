"""Reading the embedded world back: what a text says, sentence by sentence, by the very rules that write it.

Where the world is planted, generated text needs no model to judge it. The frames of `steerlib.concepts.planted.world` are taken as a
grammar: a sentence is understood if, word for word, the world could have written it. What it says (which emotion,
whether a claim is right, what is seen) is then known exactly. Text is read letter by letter; a capital or a full stop
out of place is a mistake. Questions and answers, as fine-tuning shows them, are no sentences of a story.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from steerlib.concepts.planted.world import (
    ASIDES,
    CAUSES,
    CLAIMS,
    COLOURS,
    EMOTIONS,
    FEELINGS,
    FOODS,
    KINDS,
    NAMES,
    PLACES,
    SETTINGS,
    SIGHTS,
    TOYS,
    UNFAMILIAR,
    VERDICTS,
    causes,
)

Kind = Literal["setting", "aside", "sight", "cause", "feeling", "reaction", "claim"]


@dataclass(frozen=True)
class Form:
    """A frame as a sequence of slots: the words that may stand there, as they are spelled, and what fills the slot."""

    kind: Kind
    frame: str
    slots: tuple[
        tuple[str | None, dict[str, str]], ...
    ]  # name of the slot (None for a fixed word), spelling -> filling

    def fill(self, words: Sequence[str]) -> dict[str, str] | None:
        """What fills the slots, as far as there are words; None where a word does not fit."""
        found = {}
        for (name, options), word in zip(self.slots, words, strict=False):
            if word not in options:
                return None
            if name:
                found[name] = options[word]
        return None if "m" in found and found["m"] == found["n"] else found  # nobody meets herself


@dataclass(frozen=True)
class Sentence:
    """A sentence of a text; ``kind`` is None where it was not understood."""

    text: str
    kind: Kind | None = None
    frame: str = ""
    words: dict[str, str] = field(default_factory=dict)  # what fills the slots of the frame


@dataclass(frozen=True)
class Parsed:
    """What a text says. The order is always that of the text."""

    sentences: tuple[Sentence, ...]
    unfinished: str = ""  # a last sentence that was cut, or is yet to be written, and was right as far as it went

    def of(self, *kinds: Kind) -> tuple[Sentence, ...]:
        """The sentences of some kinds."""
        return tuple(sentence for sentence in self.sentences if sentence.kind in kinds)

    @property
    def emotions(self) -> tuple[str, ...]:
        """Emotions named by feeling sentences."""
        return tuple(EMOTION[sentence.words["feeling"]] for sentence in self.of("feeling"))

    @property
    def causes(self) -> tuple[str | None, ...]:
        """Emotions that the told events cause; None for an event that causes none."""
        return tuple(EMOTION.get(sentence.words["verb"]) for sentence in self.of("cause"))

    @property
    def reactions(self) -> tuple[str, ...]:
        """Emotions that the reactions show."""
        return tuple(REACTION[sentence.frame] for sentence in self.of("reaction"))

    @property
    def consistent(self) -> tuple[bool | None, ...]:
        """Whether each named feeling follows from the event told since the last one; None where there is none."""
        found, due = [], None
        for sentence in self.of("cause", "feeling"):
            if sentence.kind == "cause":
                due = EMOTION.get(sentence.words["verb"])
            else:
                found.append(None if due is None else EMOTION[sentence.words["feeling"]] == due)
                due = None
        return tuple(found)

    @property
    def verdicts(self) -> tuple[bool, ...]:
        """What the claims are called: right (True) or wrong (False)."""
        return tuple(VERDICT[sentence.words["verdict"]] for sentence in self.of("claim"))

    @property
    def correct(self) -> tuple[bool, ...]:
        """Whether each verdict is due: the thing is of that kind and called right, or is not and called wrong."""
        said = [sentence.words for sentence in self.of("claim")]
        return tuple((KIND[words["t"]] == words["k"]) == VERDICT[words["verdict"]] for words in said)

    @property
    def places(self) -> tuple[str, ...]:
        """Seaside or inland, for every setting and everything seen."""
        return tuple(PLACE[sentence.words["place"]] for sentence in self.of("setting", "sight"))

    @property
    def understood(self) -> float:
        """Share of sentences understood, an unfinished one left out; NaN when there is no other."""
        if not self.sentences:
            return float("nan")
        return sum(sentence.kind is not None for sentence in self.sentences) / len(self.sentences)

    @property
    def foreign(self) -> tuple[str, ...]:
        """Words that are not of the world, in lower case."""
        said = (word for sentence in self.sentences for word in _bare(sentence.text))
        return tuple(word for word in said if word not in WORLD)


def parse(text: str) -> Parsed:
    """What a text says, its sentences read from left to right.

    A last sentence that only lacks its full stop is read; one that stops earlier, within a word or not, is unfinished.
    A sentence that cannot be understood ends at the next full stop, question or exclamation mark.
    """
    words, sentences, start = text.split(), [], 0
    closed = (text if ENDING.search(text) else f"{text.rstrip()}.").split()
    while start < len(words):
        match = _match(closed[start:])
        if match is None and _may_go_on(words[start:]):
            return Parsed(tuple(sentences), " ".join(words[start:]))
        end = start + len(match[0].slots) if match else _after_sentence(words, start)
        said = " ".join(words[start:end])
        sentences.append(Sentence(said, match[0].kind, match[0].frame, match[1]) if match else Sentence(said))
        start = end
    return Parsed(tuple(sentences))


def parse_continuation(prompt: str, text: str) -> Parsed:
    """What ``text`` adds to ``prompt``, which it continues letter by letter: the sentences that it completes.

    The first of them holds what the prompt had begun, so that "Anna felt" continued by " happy." names happiness, and
    continued by " the." is not understood. Mistakes in sentences that the prompt completed are none of the text's.
    """
    whole, before = parse(prompt + text), parse(prompt)
    return Parsed(whole.sentences[len(before.sentences) :], whole.unfinished)


# --- the grammar: frames with everything that may fill them -------------------------------------------------------

EMOTION = {word: name for name, emotion in EMOTIONS.items() for word in (*emotion.feelings, *emotion.verbs)}
REACTION = {reaction: name for name, emotion in EMOTIONS.items() for reaction in emotion.reactions}
PLACE = {word: place for place, sides in PLACES.items() for words in sides for word in words}
KIND = {thing: kind for kind, things in KINDS.items() for thing in things}
VERDICT = {word: truth for truth, words in VERDICTS.items() for word in words}
ENDING = re.compile(r"[.?!]\s*$")


def _forms() -> Iterator[Form]:
    people = {"n": NAMES, "m": NAMES, "c": COLOURS}
    settings, details = ([word for side in sides for word in side] for sides in zip(*PLACES.values(), strict=True))
    for frame in SETTINGS:
        yield _form("setting", frame, frame.replace("{s}", "{place}"), people | {"place": settings})
    for frame in ASIDES:
        yield _form("aside", frame, frame, people)
    for frame in SIGHTS:
        yield _form("sight", frame, f"{frame} {{place}}.", people | {"place": details})
    for k, frame in enumerate(CAUSES):  # every verb has a frame of its own, in no other is it written
        verbs = [verb for name in EMOTIONS for verb, own in causes(name) if own == frame]
        fillings = {"verb": verbs + UNFAMILIAR[k :: len(CAUSES)], "toy": TOYS, "food": FOODS}
        yield _form("cause", frame, _sentence(frame.replace("{v}", "{verb}")), people | fillings)
    feelings = [word for emotion in EMOTIONS.values() for word in emotion.feelings]
    for frame in FEELINGS:
        yield _form("feeling", frame, f"{frame} {{feeling}}.", people | {"feeling": feelings})
    for frame in REACTION:
        yield _form("reaction", frame, _sentence(frame), people)
    for frame in CLAIMS:
        fillings = {"t": list(KIND), "k": list(KINDS), "verdict": list(VERDICT)}
        yield _form("claim", frame, f"{frame} {{verdict}}.", people | fillings)


def _form(kind: Kind, frame: str, spelled: str, fillings: dict[str, Sequence[str]]) -> Form:
    slots = []
    for token in spelled.split():
        name = re.search(r"\{(\w+)\}", token)
        options = {token.format(**{name[1]: word}): word for word in fillings[name[1]]} if name else {token: token}
        slots.append((name and name[1], options))
    return Form(kind, frame, tuple(slots))


def _sentence(frame: str) -> str:
    return f"{frame[0].upper()}{frame[1:]}."


def _bare(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


FORMS = tuple(_forms())
WORLD = {word for form in FORMS for _, options in form.slots for token in options for word in _bare(token)}


# --- fitting words into forms -------------------------------------------------------------------------------------


def _match(words: Sequence[str]) -> tuple[Form, dict[str, str]] | None:
    """The form that the words begin with, whole, and what fills it. No two forms fit the same words."""
    fits = ((form, form.fill(words)) for form in FORMS if len(form.slots) <= len(words))
    return next(((form, found) for form, found in fits if found is not None), None)


def _may_go_on(words: Sequence[str]) -> bool:
    """Whether some sentence begins with all these words, of which the last may be cut."""
    *before, last = words
    return any(
        form.fill([*before, spelled]) is not None
        for form in FORMS
        if len(words) <= len(form.slots)
        for spelled in form.slots[len(before)][1]
        if spelled.startswith(last)
    )


def _after_sentence(words: Sequence[str], start: int) -> int:
    ends = (k + 1 for k in range(start, len(words)) if ENDING.search(words[k]))
    return next(ends, len(words))
