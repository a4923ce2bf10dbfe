"""Reading the embedded world back: what a text says, sentence by sentence, by the very rules that write it.

Where the world is planted, generated text needs no model to judge it. The frames of its vocabulary are taken as a
grammar: a sentence is understood if, word for word, the world could have written it. What it says (which emotion,
whether a claim is right, what is seen) is then known exactly. Text is read letter by letter; a capital or a full stop
out of place is a mistake. Questions and answers, as fine-tuning shows them, are no sentences of a story.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from steerlib.concepts.planted import vocabulary
from steerlib.concepts.planted.vocabulary import CAUSES, EMOTIONS, KINDS, PLACES, as_sentence

Kind = Literal["setting", "aside", "sight", "cause", "feeling", "reaction", "claim"]


@dataclass(frozen=True)
class Form:
    """A frame as slots: each has a name (None for a fixed word), and spelling -> filling of what may stand there."""

    kind: Kind
    slots: tuple[tuple[str | None, dict[str, str]], ...]

    def fill(self, words: Sequence[str]) -> dict[str, str] | None:
        """What fills the slots, as far as there are words; None where a word does not fit."""
        fillings = {}
        for (name, options), word in zip(self.slots, words, strict=False):
            if word not in options:
                return None
            if name:
                fillings[name] = options[word]
        return None if "m" in fillings and fillings["m"] == fillings["n"] else fillings  # nobody meets herself


@dataclass(frozen=True)
class Sentence:
    """A sentence of a text; ``kind`` is None where it was not understood."""

    text: str
    kind: Kind | None = None
    words: dict[str, str] = field(default_factory=dict)  # what fills the slots of its frame


@dataclass(frozen=True)
class Parsed:
    """What a text says. The order is always that of the text."""

    sentences: tuple[Sentence, ...]
    unfinished: str = ""  # a last sentence that was cut, or is yet to be written, and was right as far as it went

    def of(self, *kinds: Kind) -> tuple[Sentence, ...]:
        """The sentences of some kinds."""
        return tuple(sentence for sentence in self.sentences if sentence.kind in kinds)

    @property
    def understood(self) -> float:
        """Share of sentences understood, an unfinished one left out; NaN when there is no other."""
        if not self.sentences:
            return float("nan")
        return sum(sentence.kind is not None for sentence in self.sentences) / len(self.sentences)


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
        spelled = " ".join(words[start:end])
        sentences.append(Sentence(spelled, match[0].kind, match[1]) if match else Sentence(spelled))
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

ENDING = re.compile(r"[.?!]\s*$")


def _forms() -> Iterator[Form]:
    people = {"n": vocabulary.NAMES, "m": vocabulary.NAMES, "c": vocabulary.COLOURS}
    feelings, reactions = (
        [text for emotion in EMOTIONS.values() for text in getattr(emotion, side)] for side in ("feelings", "reactions")
    )
    settings, details = ([word for words in sides for word in words] for sides in zip(*PLACES.values(), strict=True))
    for frame in vocabulary.SETTINGS:
        yield _form("setting", frame.replace("{s}", "{place}"), people | {"place": settings})
    for frame in vocabulary.ASIDES:
        yield _form("aside", frame, people)
    for frame in vocabulary.SIGHTS:
        yield _form("sight", f"{frame} {{place}}.", people | {"place": details})
    for k, frame in enumerate(CAUSES):  # every verb has a frame of its own, in no other is it written
        lists = [*(emotion.verbs for emotion in EMOTIONS.values()), vocabulary.UNFAMILIAR]
        fillings = {"verb": [verb for verbs in lists for verb in verbs[k :: len(CAUSES)]]}
        fillings |= {"toy": vocabulary.TOYS, "food": vocabulary.FOODS}
        yield _form("cause", as_sentence(frame.replace("{v}", "{verb}")), people | fillings)
    for frame in vocabulary.FEELINGS:
        yield _form("feeling", f"{frame} {{feeling}}.", people | {"feeling": feelings})
    for frame in reactions:
        yield _form("reaction", as_sentence(frame), people)
    claims = {"t": [thing for things in KINDS.values() for thing in things], "k": list(KINDS)}
    claims["verdict"] = [word for words in vocabulary.VERDICTS.values() for word in words]
    for frame in vocabulary.CLAIMS:
        yield _form("claim", f"{frame} {{verdict}}.", people | claims)


def _form(kind: Kind, frame: str, fillings: dict[str, Sequence[str]]) -> Form:
    slots = []
    for token in frame.split():
        name = re.search(r"\{(\w+)\}", token)
        options = {token.format(**{name[1]: word}): word for word in fillings[name[1]]} if name else {token: token}
        slots.append((name and name[1], options))
    return Form(kind, tuple(slots))


FORMS = tuple(_forms())


# --- fitting words into forms -------------------------------------------------------------------------------------


def _match(words: Sequence[str]) -> tuple[Form, dict[str, str]] | None:
    """The form that the words begin with, whole, and what fills it. No two forms fit the same words."""
    fits = ((form, form.fill(words)) for form in FORMS if len(form.slots) <= len(words))
    return next(((form, fillings) for form, fillings in fits if fillings is not None), None)


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
