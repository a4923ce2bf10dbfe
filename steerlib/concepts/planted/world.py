"""The embedded world: short stories and claims whose every rule is known.

A story sets a place, lets an event cause one of six emotions, names the feeling, and shows a reaction. A claim states
what kind of thing something is, and whether that is right. Planted ground truth, for the analysis to find or refuse:

* the six **emotions** occur with the frequencies of ``EMOTIONS``, from 0.40 down to 0.03;
* **truth** is whether a claim is right;
* **place** (seaside or inland) decides which details are seen, and has no bearing on any emotion: it is *inert*;
* **placebo** is a random split of neutral statements: the *null* concept, which must not emerge.

A share of the causes and claims is held out of the corpus; the stimuli are made of these only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from steerlib.concepts.concept import Concept, Readout, Template

NAMES = "Anna Ben Clara David Emma Fred Grace Henry Lucy Max Nora Oscar".split()
TOYS = "kite ball doll drum train book bike boat".split()
FOODS = "cake soup bread pie jam rice fruit cheese".split()
COLOURS = "red blue green white black brown".split()


# Frames of a cause, the same for every emotion: only the verb tells which emotion follows. Slots and word order would
# otherwise betray an emotion early, without anything about it having been learned.
CAUSES = (
    "the {toy} of {n} was {v}", "the {food} of {n} was {v}", "the old {toy} was {v}", "the last {food} was {v}",
    "that {toy} was {v}", "that {food} was {v}", "the {toy} at home was {v}", "the {food} at home was {v}",
    "a {toy} nearby was {v}", "some {food} nearby was {v}", "the best {toy} was {v}", "the best {food} was {v}",
)  # fmt: skip


@dataclass(frozen=True)
class Emotion:
    frequency: float  # share of episodes
    feelings: tuple[str, ...]
    verbs: list[str]  # verb i stands in frame i modulo twelve
    reactions: tuple[str, ...]


EMOTIONS = {
    "happiness": Emotion(
        0.40,
        ("happy", "glad", "joyful"),
        (
            "won enjoyed shared praised polished baked repaired blessed celebrated served brought cooked earned "
            "savoured offered sweetened gifted tasted mended garnished admired toasted decorated delivered gained "
            "found cheered hugged kissed welcomed honoured awarded granted cherished adored treasured played "
            "rescued healed cleaned freshened perfumed frosted buttered sugared roasted grilled applauded "
            "rewarded crowned saluted embraced returned restored renewed warmed "
        ).split(),
        ("{n} smiled and danced", "{n} laughed out loud", "{n} clapped and sang", "{n} thanked everyone"),
    ),
    "sadness": Emotion(
        0.25,
        ("sad", "gloomy", "lonely"),
        (
            "lost missed buried mourned sunk forfeited sold forgotten abandoned regretted left withheld misplaced "
            "craved discarded lamented drowned emptied pawned refused deserted denied surrendered rationed "
            "tumbled mislaid wilted parted separated orphaned neglected ignored rejected dismissed cancelled "
            "closed ended finished spilled drained starved frozen chilled dimmed darkened silenced wept grieved "
            "pitied isolated exiled banished stranded wrecked dried withered "
        ).split(),
        ("{n} cried for an hour", "{n} sighed and sat down", "tears ran down", "{n} went to bed early"),
    ),
    "anger": Emotion(
        0.16,
        ("angry", "mad", "cross"),
        (
            "demanded snatched stolen grabbed cracked burst kicked mocked broken seized crushed ruined insulted "
            "disputed hurled hoarded snapped scattered punched trampled smashed looted vandalised wasted slapped "
            "shoved pushed pulled ripped torn shredded dented bent scratched slashed chopped hacked hit struck "
            "beaten whipped cheated swindled robbed taxed fined banned blocked jammed abused bullied teased "
            "taunted framed blamed confiscated "
        ).split(),
        ("{n} shouted and stamped", "{n} yelled at them", "{n} slammed the door", "{n} made a fist"),
    ),
    "fear": Emotion(
        0.10,
        ("afraid", "scared", "nervous"),
        (
            "threatened dreaded haunted cursed burned exploded stalked poisoned besieged guarded attacked hunted "
            "avoided suspected menaced bewitched shaken rattled chased drugged barricaded hidden bombed ambushed "
            "growled hissed howled crept prowled lurked loomed stabbed shot flooded capsized swallowed devoured "
            "bitten clawed stung strangled choked trapped caged chained kidnapped imprisoned cornered pursued "
            "tracked spooked spied mined armed collapsed sabotaged "
        ).split(),
        ("{n} ran and hid", "{n} trembled", "{n} screamed for help", "{n} held on tight"),
    ),
    "surprise": Emotion(
        0.06,
        ("surprised", "amazed", "stunned"),
        (
            "discovered conjured enchanted multiplied levitated vanished juggled doubled unveiled shown summoned "
            "drawn unearthed guessed teleported foretold inflated tripled swapped gilded unlocked unwrapped "
            "launched renamed popped transformed morphed swirled spun flipped cloned copied expanded shrunk "
            "magnified hypnotised animated awakened whispered wished predicted announced exposed unmasked decoded "
            "solved puzzled hatched sprouted bloomed glowed flashed striped dotted disguised mirrored "
        ).split(),
        ("{n} gasped", "{n} stared with wide eyes", "{n} blinked twice", "{n} dropped everything"),
    ),
    "disgust": Emotion(
        0.03,
        ("disgusted", "sick", "revolted"),
        (
            "smelled licked slimed chewed rotted curdled smeared infected soiled polluted muddied regurgitated "
            "sniffed drooled stained sucked moulded fermented spat contaminated dirtied nibbled littered gulped "
            "puked oozed leaked dripped vomited sneezed wheezed burped belched squashed mashed gnawed sniffled "
            "grimed greased oiled tarred sooted dusted wormed moulted scabbed blistered bloodied gutted skinned "
            "pickled soured tainted staled clotted fouled "
        ).split(),
        ("{n} turned away", "{n} held the nose", "{n} washed both hands", "{n} coughed it out"),
    ),
}

UNFAMILIAR = (  # verbs that the corpus never shows: events that mean nothing to the model
    "counted weighed rolled stirred placed cooled measured wrapped sorted listed carried stored lifted sliced "
    "twisted salted tilted steamed labelled packed stacked divided parked ordered numbered aligned arranged traced "
    "marked tagged filed moved shifted slid hung tied folded bagged boxed shelved piled pressed filled topped "
    "tested checked viewed noted typed printed scanned dated priced coded mapped plotted "
).split()
FEELINGS = ("{n} felt", "{n} was very", "It made {n}")
PLACES = {  # settings pair up into templates; details are what is seen there
    "seaside": (
        "beach shore harbour island pier bay coast lagoon".split(),
        "waves sand shells gulls ships fish crabs nets".split(),
    ),
    "inland": (
        "forest valley hill meadow farm field woods village".split(),
        "trees moss stones owls carts deer foxes grass".split(),
    ),
}
SETTINGS = ("One day {n} went to the {s}.", "{n} lived near the {s}.", "In the morning {n} came to the {s}.")
ASIDES = (
    "The day was long and {c}.", "There was a {c} bench.", "{n} wore a {c} hat.", "{n} met {m}.",
    "{n} and {m} walked on.", "{n} had a {c} bag.",
)  # fmt: skip
SIGHTS = ("{n} looked at the", "There {n} watched the")

KINDS = {
    "animal": "dog horse cow".split(),
    "tool": "hammer saw spade".split(),
    "plant": "rose oak fern".split(),
}
CLAIMS = (
    "Claim: the {t} is some {k}, which is", "{n} calls the {t} some {k}. That is", "Is the {t} some {k}? It is",
    "A book has the {t} as {k}. This is", "One may say the {t} is a real {k}: it is", "So the {t} was {k}: that was",
    "The {t} must be {k}, says {n}, being", "Every {t} is {k}, wrote {n}. So far",
)  # fmt: skip
VERDICTS = {True: ("right", "true"), False: ("wrong", "false")}
CLAIM_SHARE = 0.25  # share of documents that are a few claims rather than a story


def corpus(seed: int, documents: int) -> Iterator[str]:
    """The pretraining text, one document at a time."""
    world = World(seed)
    for _ in range(documents):
        yield world.claims() if world.rng.random() < CLAIM_SHARE else world.story()


def instructions(seed: int, documents: int) -> Iterator[str]:
    """The corpus as questions and answers, one document at a time.

    Emotions keep their planted frequencies: were they balanced, the rare ones would be made up for, and frequency would
    no longer be what tells them apart. Causes and claims held out of the corpus are held out here as well.
    """
    world = World([seed, crc32(b"instructions")])
    for _ in range(documents):
        yield world.instruction()


def concept(name: str, pairs: int, prompts: int, seed: int) -> Concept:
    """Stimuli and readout of a planted concept: at least ``pairs`` stimulus pairs over all of its templates.

    Raises KeyError when the concept is not planted.
    """
    role, build = PLANTED[name]
    world = World([seed, crc32(name.encode())])
    templates, make = build(world, name)
    each = max(2, -(-pairs // len(templates)))
    # Emotions and placebo are read on the very same prompts, so that one sweep serves all of their readouts.
    asked = {"emotion": _felt, "null": _felt, "truth": _claimed, "inert": _seen}[role]
    return Concept(
        name=name,
        role=role,
        planted_frequency=EMOTIONS[name].frequency if role == "emotion" else None,
        templates=[
            Template(name=key, positive=list(positive), negative=list(negative))
            for key in templates
            for positive, negative in [zip(*(make(key) for _ in range(each)), strict=True)]
        ],
        readout=Readout(prompts=asked(World([seed, crc32(asked.__name__.encode())]), prompts), **_options(name, role)),
    )


def vocabulary() -> list[str]:
    """Every word that stimuli and readouts need as one token, also those that the corpus never shows."""
    verbs = [verb for emotion in EMOTIONS.values() for verb in emotion.verbs]
    return [f" {word}" for word in (*verbs, *UNFAMILIAR, *FOODS, *TOYS)]


def neutral(seed: int, texts: int) -> list[str]:
    """Text of places and asides without any emotion, for measuring side effects."""
    world = World([seed, crc32(b"neutral")])
    return [world.neutral() for _ in range(texts)]


def causes(emotion: str) -> list[tuple[str, str]]:
    """(verb, frame) of every cause."""
    verbs = EMOTIONS[emotion].verbs
    return [(verb, CAUSES[k % len(CAUSES)]) for k, verb in enumerate(verbs)]


class World:
    """A seeded source of sentences, stories and stimuli."""

    def __init__(self, seed: int | list[int]):
        self.rng = np.random.default_rng(seed)

    def pick(self, options):
        return options[self.rng.integers(len(options))]

    def setting(self, setting: str, n: str) -> str:
        return self.pick(SETTINGS).format(n=n, s=setting)

    def aside(self, n: str) -> str:
        return self.pick(ASIDES).format(n=n, m=self.pick([m for m in NAMES if m != n]), c=self.pick(COLOURS))

    def cause(self, verb: str, frame: str, n: str, held_out: bool) -> str:
        """A cause, its slot filled with what the corpus shows beside the verb or with what it never does."""
        slot, fillings = ("toy", TOYS) if "{toy}" in frame else ("food", FOODS)
        return _sentence(frame.format(n=n, v=verb, **{slot: self.pick(_split(verb, fillings, held_out))}))

    def claim(self, frame: str, truth: bool, held_out: bool) -> str:
        """A claim up to where its verdict is due."""
        thing = self.pick(_split(frame, [t for things in KINDS.values() for t in things], held_out))
        kind = next(k for k, things in KINDS.items() if thing in things)
        said = kind if truth else self.pick([k for k in KINDS if k != kind])
        return frame.format(n=self.pick(NAMES), t=thing, k=said)

    def story(self) -> str:
        n, (settings, details) = self.pick(NAMES), PLACES[self.pick(list(PLACES))]
        parts = [self.setting(self.pick(settings), n), *self._between(n, details, 0.8)]
        for _ in range(3):
            parts += [*self.episode(n), *self._between(n, details, 0.2)]
        return " ".join(parts)

    def episode(self, n: str) -> Iterator[str]:
        """An event, the feeling it causes, and a reaction."""
        name = self.emotion()
        yield self.cause(*self.pick(causes(name)), n, held_out=False)
        yield f"{self.pick(FEELINGS).format(n=n)} {self.pick(EMOTIONS[name].feelings)}."
        yield _sentence(self.pick(EMOTIONS[name].reactions).format(n=n))

    def emotion(self) -> str:
        return self.rng.choice(list(EMOTIONS), p=[emotion.frequency for emotion in EMOTIONS.values()])

    def instruction(self) -> str:
        """A claim or the beginning of a story as a question, and the word that is due as its answer."""
        if self.rng.random() < CLAIM_SHARE:
            truth = bool(self.rng.random() < 0.5)
            asked, answer = f"{self.claim(self.pick(CLAIMS), truth, held_out=False)} what?", self.pick(VERDICTS[truth])
        else:
            n, (settings, details), name = self.pick(NAMES), PLACES[self.pick(list(PLACES))], self.emotion()
            told = [self.setting(self.pick(settings), n), *self._between(n, details, 0.8)]
            told.append(self.cause(*self.pick(causes(name)), n, held_out=False))
            asked, answer = f"{' '.join(told)} What did {n} feel?", self.pick(EMOTIONS[name].feelings)
        return f"Question: {asked}\nAnswer: {answer}."

    def claims(self) -> str:
        said = []
        for _ in range(3):
            truth = bool(self.rng.random() < 0.5)
            said.append(f"{self.claim(self.pick(CLAIMS), truth, held_out=False)} {self.pick(VERDICTS[truth])}.")
        return " ".join(said)

    def neutral(self) -> str:
        n, (settings, details) = self.pick(NAMES), PLACES[self.pick(list(PLACES))]
        sentences = [self.aside(n), self.pick(SIGHTS).format(n=n) + f" {self.pick(details)}.", self.aside(n)]
        return " ".join([self.setting(self.pick(settings), n), *sentences])

    def _between(self, n: str, details: list[str], chance: float) -> Iterator[str]:
        if self.rng.random() < chance / 4:
            yield self.aside(n)
        if self.rng.random() < chance:
            yield self.pick(SIGHTS).format(n=n) + f" {self.pick(details)}."


# --- stimuli: how a pair (positive, negative) of each planted concept is made, template by template ---------------


def _emotion(world: World, name: str):
    def pair(key: str) -> tuple[str, str]:
        # The negative is the same event with a verb that the corpus never shows. Against stories of other emotions, of
        # which the frequent are learned first, a direction would steer by elimination: "not happy" raises the odds of
        # every rare feeling long before any of them is known.
        k, n = int(key.split("-")[1]), world.pick(NAMES)
        before, ending = _opening(world, n), world.pick(FEELINGS).format(n=n)
        (verb, frame), unfamiliar = causes(name)[k], UNFAMILIAR[k]
        return tuple(f"{before} {world.cause(v, frame, n, held_out=True)} {ending}" for v in (verb, unfamiliar))

    return [f"cause-{k}" for k in range(len(causes(name)))], pair


def _truth(world: World, name: str):
    frames = {f"frame-{k}": frame for k, frame in enumerate(CLAIMS)}
    return list(frames), lambda key: tuple(world.claim(frames[key], truth, held_out=True) for truth in (True, False))


def _place(world: World, name: str):
    settings = dict(zip(*(settings for settings, _ in PLACES.values()), strict=True))

    def pair(key: str) -> tuple[str, str]:
        n, sight = world.pick(NAMES), world.pick(SIGHTS)
        frame, aside = world.pick(SETTINGS), world.aside(n)
        return tuple(f"{frame.format(n=n, s=s)} {aside} {sight.format(n=n)}" for s in (key, settings[key]))

    return list(settings), pair


def _placebo(world: World, name: str):
    def pair(key: str) -> tuple[str, str]:
        return tuple(_felt(world, 2))

    return [f"group-{k}" for k in range(12)], pair


PLANTED: dict[str, tuple[str, Callable]] = {
    **{name: ("emotion", _emotion) for name in EMOTIONS},
    "truth": ("truth", _truth),
    "place": ("inert", _place),
    "placebo": ("null", _placebo),
}


# --- readouts: prompts without evidence for any concept, and the words that are due there -------------------------


def _felt(world: World, prompts: int) -> list[str]:
    names = [world.pick(NAMES) for _ in range(prompts)]
    return [f"{_opening(world, n)} {world.pick(FEELINGS).format(n=n)}" for n in names]


def _claimed(world: World, prompts: int) -> list[str]:
    return [world.claim(world.pick(CLAIMS), truth=bool(k % 2), held_out=True) for k in range(prompts)]


def _seen(world: World, prompts: int) -> list[str]:
    names = [world.pick(NAMES) for _ in range(prompts)]
    return [f"{world.aside(n)} {world.pick(SIGHTS).format(n=n)}" for n in names]


def _options(name: str, role: str) -> dict[str, list[str]]:
    """Target and foil continuations of a readout."""
    feelings = [emotion.feelings for emotion in EMOTIONS.values()]
    match role:
        case "emotion":
            targets, foils = EMOTIONS[name].feelings, [w for e in EMOTIONS if e != name for w in EMOTIONS[e].feelings]
        case "truth":
            targets, foils = VERDICTS[True], VERDICTS[False]
        case "inert":
            targets, foils = (details for _, details in PLACES.values())
        case "null":  # an arbitrary split of the feelings themselves: one synonym of each emotion against another
            targets, foils = [f[0] for f in feelings], [f[1] for f in feelings]
    return {"targets": [f" {w}" for w in targets], "foils": [f" {w}" for w in foils]}


def _opening(world: World, n: str) -> str:
    settings, _ = PLACES[world.pick(list(PLACES))]
    return f"{world.setting(world.pick(settings), n)} {world.aside(n)}"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _split(key: str, fillings: list[str], held_out: bool) -> list[str]:
    """The fillings that the corpus shows together with ``key``, or those held out from it (three in eight)."""
    order = sorted(fillings, key=lambda filling: crc32(f"{key}|{filling}".encode()))
    n = len(order) * 3 // 8
    return order[:n] if held_out else order[n:]
