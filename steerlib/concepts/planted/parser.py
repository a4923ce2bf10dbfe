"""Reading the embedded world back: what a text says, sentence by sentence, by the very rules that write it.

Where the world is planted, generated text needs no model to judge it: its frames and words make so many thousand
sentences, and one is understood if it is among them. What it says (which emotion, whether a claim is right, what is
seen) is then known exactly. Text is read letter by letter; a capital or a full stop out of place is a mistake.
Questions and answers, as fine-tuning shows them, are no sentences of a story.
"""

import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, product
from operator import attrgetter
from string import Formatter

from steerlib.concepts.planted import vocabulary
from steerlib.concepts.planted.vocabulary import KINDS, NAMES, PLACES, as_sentence
from steerlib.concepts.planted.world import World

ENDING = re.compile(r"[.?!](?= |$)")
SPELLED = attrgetter("text")


@dataclass(frozen=True)
class Sentence:
    """A sentence of a text; ``kind`` (see `written`) is None where it was not understood."""

    text: str
    kind: str | None = None
    words: dict[str, str] = field(default_factory=dict)  # what fills the slots of its frame


@dataclass(frozen=True)
class Parsed:
    """What a text says. The order is always that of the text."""

    sentences: tuple[Sentence, ...]
    unfinished: str = ""  # a last sentence that was cut, or is yet to be written, and was right as far as it went

    def of(self, *kinds: str) -> tuple[Sentence, ...]:
        """The sentences of some kinds."""
        return tuple(sentence for sentence in self.sentences if sentence.kind in kinds)

    @property
    def understood(self) -> float:
        """Share of sentences understood, an unfinished one left out; NaN when there is no other."""
        if not self.sentences:
            return float("nan")
        return sum(sentence.kind is not None for sentence in self.sentences) / len(self.sentences)


class Parser:
    """Reads texts of one world."""

    def __init__(self, world: World):
        self.world = world

    @cached_property
    def known(self) -> list[Sentence]:
        return written(self.world)

    def parse(self, text: str) -> Parsed:
        """What a text says, its sentences read from left to right.

        A last sentence that only lacks its full stop is read; one that stops earlier, within a word or not, is
        unfinished. A sentence that cannot be understood ends at the next full stop, question or exclamation mark.
        """
        rest, sentences, known = " ".join(text.split()), [], self.known
        while rest:
            closed = rest if rest.endswith((".", "?", "!")) else f"{rest}."
            sentence = known[bisect_right(known, closed, key=SPELLED) - 1]  # the last that does not come after it
            may_follow = known[min(bisect_left(known, rest, key=SPELLED), len(known) - 1)]
            if not f"{closed} ".startswith(f"{sentence.text} "):
                if may_follow.text.startswith(rest):
                    return Parsed(tuple(sentences), rest)
                end = ENDING.search(rest)
                sentence = Sentence(rest[: end.end()] if end else rest)
            length = len(sentence.text)
            sentences.append(replace(sentence, text=rest[:length]))
            rest = rest[length:].lstrip()
        return Parsed(tuple(sentences))

    def parse_continuation(self, prompt: str, text: str) -> Parsed:
        """What ``text`` adds to ``prompt``, which it continues letter by letter: the sentences that it completes.

        The first of them holds what the prompt had begun, so that "Anna felt" continued by " happy." names happiness,
        and continued by " the." is not understood. Mistakes in sentences that the prompt completed are none of the
        text's.
        """
        whole, before = self.parse(prompt + text), self.parse(prompt)
        return Parsed(whole.sentences[len(before.sentences) :], whole.unfinished)


def written(world: World) -> list[Sentence]:
    """All sentences of a world in alphabetical order; none of them is how another begins."""
    emotions = world.emotions.values()
    settings, details = ([*chain(*sides)] for sides in zip(*PLACES.values(), strict=True))
    verbs = [*(emotion.verbs for emotion in emotions), vocabulary.UNFAMILIAR]
    feelings = [*chain(*(emotion.feelings for emotion in emotions))]
    claims = {"t": [*chain(*KINDS.values())], "k": list(KINDS), "verdict": [*chain(*vocabulary.VERDICTS.values())]}
    everywhere = {"n": NAMES, "m": NAMES, "c": vocabulary.COLOURS, "toy": vocabulary.TOYS, "food": vocabulary.FOODS}
    kinds = [  # with their frames, and what fills the slots that are not the same everywhere
        ("setting", vocabulary.SETTINGS, {"place": settings}),
        ("aside", vocabulary.ASIDES, {}),
        ("sight", [f"{frame} {{place}}." for frame in vocabulary.SIGHTS], {"place": details}),
        ("feeling", [f"{frame} {{feeling}}." for frame in vocabulary.FEELINGS], {"feeling": feelings}),
        ("reaction", map(as_sentence, chain(*(emotion.reactions for emotion in emotions))), {}),
        ("claim", [f"{frame} {{verdict}}." for frame in vocabulary.CLAIMS], claims),
    ]
    for verb, frame in chain(*map(vocabulary.causes, verbs)):
        kinds.append(("cause", [as_sentence(frame)], {"verb": [verb]}))
    sentences = []
    for kind, frames, fillings in kinds:
        for frame in frames:
            slots = [slot for _, slot, *_ in Formatter().parse(frame) if slot]
            for words in product(*((everywhere | fillings)[slot] for slot in slots)):
                if len({*words}) == len(words):  # nobody meets herself
                    filled = dict(zip(slots, words, strict=True))
                    sentences.append(Sentence(frame.format(**filled), kind, filled))
    return sorted(sentences, key=SPELLED)
