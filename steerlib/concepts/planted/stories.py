"""What is told of a planted world: short stories and claims whose every rule is known.

A story sets a place, lets an event cause an emotion, names the feeling, and shows a reaction. A claim states what kind
of thing something is, and whether that is right. Planted ground truth, for the analysis to find or refuse:

* the **emotions** occur with the frequencies and words of the `World`, in the default one from 0.40 down to 0.03;
* **truth** is whether a claim is right;
* **place** (seaside or inland) decides which details are seen, and has no bearing on any emotion: it is *inert*;
* **placebo** is a random split of neutral statements: the *null* concept, which must not emerge.

A share of the causes and claims is held out of the corpus; the stimuli are made of these only.
"""

from collections.abc import Callable, Hashable, Iterator
from functools import lru_cache, partial
from itertools import chain
from zlib import crc32

import numpy as np

from steerlib.concepts.concept import Concept, Readout, Template
from steerlib.concepts.planted import vocabulary
from steerlib.concepts.planted.vocabulary import CLAIMS, FEELINGS, NAMES, PLACES, SIGHTS, VERDICTS
from steerlib.concepts.planted.world import World
from steerlib.concepts.repeats import Places

CLAIM_SHARE = 0.25  # share of documents that are a few claims rather than a story
ROUNDS = 60  # of drawing: what is not found in as many is not there, as good as certainly


def corpus(world: World, seed: int, documents: int) -> Iterator[str]:
    """The pretraining text, one document at a time."""
    teller = Teller(world, seed)
    for _ in range(documents):
        yield teller.claims() if teller.rng.random() < CLAIM_SHARE else teller.story()


def instructions(world: World, seed: int, documents: int) -> Iterator[str]:
    """The corpus as questions and answers, one document at a time.

    Emotions keep their planted frequencies: were they balanced, the rare ones would be made up for, and frequency would
    no longer be what tells them apart. Causes and claims held out of the corpus are held out here as well, and of an
    emotion that is only read or only said nothing is asked.
    """
    teller = Teller(world, [seed, crc32(b"instructions")])
    for _ in range(documents):
        yield teller.instruction()


def neutral(world: World, seed: int, texts: int) -> list[str]:
    """Text of places and asides without any emotion, for measuring side effects."""
    teller = Teller(world, [seed, crc32(b"neutral")])
    return [teller.neutral() for _ in range(texts)]


@lru_cache(maxsize=256)  # a driver and its workers ask for the same ones with every job
def concept(world: World, name: str, pairs: int, prompts: int, seed: int) -> Concept:
    """Stimuli and readout of a planted concept: at least ``pairs`` stimulus pairs over all of its templates.

    No pair and no prompt stands there twice, and no prompt is a stimulus; where the world has too few, fewer come.
    Raises KeyError when the concept is not planted.
    """
    role = world.planted[name]
    make_pairs, make_prompts = MAKERS[role]
    templates = make_pairs(Teller(world, [seed, crc32(name.encode())]), name)
    each = max(2, -(-pairs // len(templates)))
    # Emotions and placebo are read on the very same prompts, so that one sweep serves all of their readouts.
    asking = Teller(world, [seed, crc32(make_prompts.__name__.encode())])
    draws = {
        "prompts": lambda: [(k, prompt) for k, prompt in enumerate(make_prompts(asking, prompts))],
        "stimuli": lambda: [(key, *make()) for key, make in templates.items() for _ in range(each)],
    }
    if role == "truth":  # so few claims are held out that the prompts are what the stimuli leave
        draws = dict(reversed(draws.items()))
    taken = Places()
    drawn = {kind: _distinct(draw, taken) for kind, draw in draws.items()}
    told: dict[str, list[tuple[str, str]]] = {}
    for key, *pair in drawn["stimuli"]:
        told.setdefault(key, []).append(pair)
    sides = {key: tuple(zip(*pairs, strict=True)) for key, pairs in told.items()}
    return Concept(
        name=name,
        role=role,
        planted_frequency=world.emotions[name].frequency if role == "emotion" else None,
        templates=[Template(name=key, positive=texts[0], negative=texts[1]) for key, texts in sides.items()],
        readout=Readout(prompts=[prompt for _, prompt in drawn["prompts"]], **_options(world, name, role)),
    )


def _distinct(draw: Callable[[], list[tuple[Hashable, ...]]], taken: Places) -> list[tuple[Hashable, ...]]:
    """Places and their texts as drawn, but for what is taken: there stands what a later round draws in its stead."""
    kept: dict[int, tuple[Hashable, ...]] = {}
    for _ in range(ROUNDS):
        drawn = draw()
        kept |= {k: drawn[k] for k in range(len(drawn)) if k not in kept and taken.take(*drawn[k])}
        if len(kept) == len(drawn):
            break
    return [kept[k] for k in sorted(kept)]


class Teller:
    """A seeded source of sentences (what they say is chosen before), choices and whole documents."""

    def __init__(self, world: World, seed: int | list[int]):
        self.world, self.rng = world, np.random.default_rng(seed)

    def pick(self, options):
        return options[self.rng.integers(len(options))]

    def setting(self, setting: str, n: str) -> str:
        return self.pick(vocabulary.SETTINGS).format(n=n, place=setting)

    def aside(self, n: str) -> str:
        frame, other = self.pick(vocabulary.ASIDES), self.pick([m for m in NAMES if m != n])
        return frame.format(n=n, m=other, c=self.pick(vocabulary.COLOURS))

    def sight(self, n: str, details: list[str]) -> str:
        return f"{self.pick(SIGHTS).format(n=n)} {self.pick(details)}."

    def cause(self, verb: str, frame: str, n: str, held_out: bool) -> str:
        """A cause, its slot filled with what the corpus shows beside the verb or with what it never does."""
        slot, fillings = ("toy", vocabulary.TOYS) if "{toy}" in frame else ("food", vocabulary.FOODS)
        filling = self.pick(_split(verb, tuple(fillings), held_out))
        return vocabulary.as_sentence(frame.format(n=n, verb=verb, **{slot: filling}))

    def claim(self, frame: str, truth: bool, held_out: bool) -> str:
        """A claim up to where its verdict is due."""
        kinds = vocabulary.KINDS
        thing = self.pick(_split(frame, tuple(chain(*kinds.values())), held_out))
        own = next(kind for kind, things in kinds.items() if thing in things)
        said = own if truth else self.pick([kind for kind in kinds if kind != own])
        return frame.format(n=self.pick(NAMES), t=thing, k=said)

    def opening(self, n: str) -> str:
        settings, _ = self.place()
        return f"{self.setting(self.pick(settings), n)} {self.aside(n)}"

    def place(self) -> tuple[list[str], list[str]]:
        """Settings and details, both of the seaside or both inland."""
        return PLACES[self.pick(list(PLACES))]

    def emotion(self, asked: bool = False) -> str:
        """One by its frequency; ``asked``: of those that are both read and said."""
        emotions = self.world.emotions
        told = {name: of.frequency for name, of in emotions.items() if not (asked and of.only)}
        share = sum(told.values()) if len(told) < len(emotions) else 1
        return self.rng.choice(list(told), p=[frequency / share for frequency in told.values()])

    def following(self, name: str) -> str:
        """The emotion that follows a cause: its own, or another as often as the cause is not useful."""
        if (useful := self.world.emotions[name].usefulness) == 1 or self.rng.random() < useful:
            return name
        others, shares = self.world.instead(name)
        return self.rng.choice(others, p=shares)

    def corpus_claim(self) -> tuple[str, str]:
        """A claim that the corpus may make, and its verdict."""
        truth = bool(self.rng.random() < 0.5)
        return self.claim(self.pick(CLAIMS), truth, held_out=False), self.pick(VERDICTS[truth])

    def story(self) -> str:
        n, (settings, details) = self.pick(NAMES), self.place()
        parts = [self.setting(self.pick(settings), n), *self._between(n, details, 0.8)]
        for _ in range(3):
            parts += [*self.episode(n), *self._between(n, details, 0.2)]
        return " ".join(parts)

    def episode(self, n: str) -> Iterator[str]:
        """An event, the feeling it causes, and a reaction; without the one or the other where that is all there is."""
        name = self.emotion()
        if self.world.emotions[name].only != "said":
            yield self.cause(*self.pick(vocabulary.causes(self.world.emotions[name].verbs)), n, held_out=False)
        emotion = self.world.emotions[self.following(name)]
        if emotion.only != "read":
            yield f"{self.pick(FEELINGS).format(n=n)} {self.pick(emotion.feelings)}."
        yield vocabulary.as_sentence(self.pick(emotion.reactions).format(n=n))

    def claims(self) -> str:
        return " ".join(f"{claim} {verdict}." for claim, verdict in (self.corpus_claim() for _ in range(3)))

    def instruction(self) -> str:
        """A claim or the beginning of a story as a question, and the word that is due as its answer."""
        if self.rng.random() < CLAIM_SHARE:
            claim, answer = self.corpus_claim()
            return f"Question: {claim} what?\nAnswer: {answer}."
        n, (settings, details), name = self.pick(NAMES), self.place(), self.emotion(asked=True)
        story = [self.setting(self.pick(settings), n), *self._between(n, details, 0.8)]
        story.append(self.cause(*self.pick(vocabulary.causes(self.world.emotions[name].verbs)), n, held_out=False))
        felt = self.world.emotions[self.following(name)].feelings
        return f"Question: {' '.join(story)} What did {n} feel?\nAnswer: {self.pick(felt)}."

    def neutral(self) -> str:
        n, (settings, details) = self.pick(NAMES), self.place()
        sentences = [self.aside(n), self.sight(n, details), self.aside(n)]
        return " ".join([self.setting(self.pick(settings), n), *sentences])

    def _between(self, n: str, details: list[str], chance: float) -> Iterator[str]:
        if self.rng.random() < chance / 4:
            yield self.aside(n)
        if self.rng.random() < chance:
            yield self.sight(n, details)


# --- stimuli: how a pair (positive, negative) of each planted concept is made, by the names of its templates -------

Makers = dict[str, Callable[[], tuple[str, str]]]


def _emotion(teller: Teller, name: str) -> Makers:
    def pair(verb: str, frame: str, unfamiliar: str) -> tuple[str, str]:
        # The negative is the same event with a verb that the corpus never shows. Against stories of other emotions, of
        # which the frequent are learned first, a direction would steer by elimination: "not happy" raises the odds of
        # every rare feeling long before any of them is known.
        n = teller.pick(NAMES)
        before, ending = teller.opening(n), teller.pick(FEELINGS).format(n=n)
        return tuple(f"{before} {teller.cause(v, frame, n, held_out=True)} {ending}" for v in (verb, unfamiliar))

    causes = enumerate(vocabulary.causes(teller.world.emotions[name].verbs))
    return {f"cause-{k}": partial(pair, verb, frame, vocabulary.UNFAMILIAR[k]) for k, (verb, frame) in causes}


def _truth(teller: Teller, name: str) -> Makers:
    def pair(frame: str) -> tuple[str, str]:
        return tuple(teller.claim(frame, truth, held_out=True) for truth in (True, False))

    return {f"frame-{k}": partial(pair, frame) for k, frame in enumerate(CLAIMS)}


def _place(teller: Teller, name: str) -> Makers:
    def pair(*settings: str) -> tuple[str, str]:
        n, sight = teller.pick(NAMES), teller.pick(SIGHTS)
        frame, aside = teller.pick(vocabulary.SETTINGS), teller.aside(n)
        return tuple(f"{frame.format(n=n, place=setting)} {aside} {sight.format(n=n)}" for setting in settings)

    both = zip(*(settings for settings, _ in PLACES.values()), strict=True)
    return {settings[0]: partial(pair, *settings) for settings in both}


def _placebo(teller: Teller, name: str) -> Makers:
    return {f"group-{k}": partial(_felt, teller, 2) for k in range(12)}


# --- readouts: prompts without evidence for any concept, and the words that are due there -------------------------


def _felt(teller: Teller, prompts: int) -> list[str]:
    names = [teller.pick(NAMES) for _ in range(prompts)]
    return [f"{teller.opening(n)} {teller.pick(FEELINGS).format(n=n)}" for n in names]


def _claimed(teller: Teller, prompts: int) -> list[str]:
    return [teller.claim(teller.pick(CLAIMS), truth=bool(k % 2), held_out=True) for k in range(prompts)]


def _seen(teller: Teller, prompts: int) -> list[str]:
    names = [teller.pick(NAMES) for _ in range(prompts)]
    return [f"{teller.aside(n)} {teller.pick(SIGHTS).format(n=n)}" for n in names]


# What makes the stimuli of each role, and its prompts; the function's name is part of the seed of these.
MAKERS = {
    "emotion": (_emotion, _felt),
    "truth": (_truth, _claimed),
    "inert": (_place, _seen),
    "null": (_placebo, _felt),
}


def _options(world: World, name: str, role: str) -> dict[str, list[str]]:
    """Target and foil continuations of a readout."""
    feelings = {emotion: words.feelings for emotion, words in world.emotions.items()}
    match role:
        case "emotion":
            targets, foils = feelings.pop(name), [word for words in feelings.values() for word in words]
        case "truth":
            targets, foils = VERDICTS[True], VERDICTS[False]
        case "inert":
            targets, foils = (details for _, details in PLACES.values())
        case "null":  # an arbitrary split of the feelings themselves: one synonym of each emotion against another
            targets, foils, *_ = zip(*feelings.values(), strict=False)
    return {"targets": [f" {word}" for word in targets], "foils": [f" {word}" for word in foils]}


@lru_cache(maxsize=4096)
def _split(key: str, fillings: tuple[str, ...], held_out: bool) -> list[str]:
    """The fillings that the corpus shows together with ``key``, or those held out from it (three in eight)."""
    order = sorted(fillings, key=lambda filling: crc32(f"{key}|{filling}".encode()))
    n = len(order) * 3 // 8
    return order[:n] if held_out else order[n:]
