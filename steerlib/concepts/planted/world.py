"""`World`: what is planted, as a params file may say it; what it leaves out is as in the default world.

An episode of an emotion is its cause, the feeling that is named, and a reaction. A world says which emotions there are,
by which words, how frequent the episodes of each are, and how useful its causes: how often what follows is its own.
"""

import re
import unicodedata
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from steerlib import nearest
from steerlib.concepts.planted.vocabulary import EMOTIONS, FOODS, TAKEN, TOYS, UNFAMILIAR
from steerlib.files.params import Strict, overlaid, within

# Planted whatever the emotions are: concept -> its role.
BESIDE = {"truth": "truth", "place": "inert", "placebo": "null"}
WORDS = ("feelings", "verbs", "reactions")
ROUNDING = 1e-3  # by which frequencies may miss a sum of 1


def _name(name: str) -> str:
    if not re.fullmatch("[a-z][a-z0-9_-]*", name):
        near = nearest(name, EMOTIONS)
        raise ValueError(f"{name!r} is no name of an emotion: a to z first, then a to z, 0 to 9, _ and -{near}")
    return name


def _word(word: str) -> str:
    if not (whole := unicodedata.normalize("NFC", word)).isalpha():  # in which ü is a letter, not u and a mark
        raise ValueError(f"{word!r} is not one word of letters alone, which a tokenizer can have as one token")
    return whole


def _reaction(text: str) -> str:
    if not re.fullmatch(r"[^\s.?!{}]+( [^\s.?!{}]+)*", said := text.replace("{n}", "Anna")) or not said[0].isalpha():
        raise ValueError(
            f"{text!r} is no reaction: a sentence on one line, without its full stop; {{n}} is whose it is, "
            "as in '{n} smiled and danced'"
        )
    return text


Name = Annotated[str, Field(max_length=60), AfterValidator(_name)]
Word = Annotated[str, Field(max_length=40), AfterValidator(_word)]
Reaction = Annotated[str, Field(max_length=200), AfterValidator(_reaction)]
Frequency = within(float, 1, "which is every episode", gt=0)


class Emotion(Strict):
    """How often an emotion is told, by which words, and what of it."""

    frequency: Frequency = 0.0  # share of all episodes; what nobody says fills up to 1, in the default's proportions
    # Probability that feeling and reaction are of the emotion whose cause stands before them. If not, they are of one
    # that is not wholly useful either, or of any where there is no such.
    usefulness: within(float, 1, "which is always", ge=0) = 1.0
    only: Literal["read", "said"] | None = None  # read: caused, but never named; said: named, but never caused
    # Placebo sets the first of them against the second.
    feelings: Annotated[list[Word], Field(min_length=2, max_length=20)] = []
    # A template of stimuli each, half of them to test on, and an interval needs four; each has an unfamiliar partner.
    verbs: Annotated[list[Word], Field(min_length=8, max_length=len(UNFAMILIAR))] = []
    reactions: Annotated[list[Reaction], Field(min_length=1, max_length=50)] = []  # "{n} smiled"


class World(Strict):
    """The emotions of the planted stories."""

    without: list[Name] = []  # emotions of the default world that are left out
    # Name -> what is told of it. Of the default's, what is said here is changed; a new one needs all of its words.
    emotions: Annotated[dict[Name, Emotion], Field(max_length=50, validate_default=True)] = {}

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @field_validator("without")
    @classmethod
    def _there(cls, without):
        if unknown := next((name for name in without if name not in EMOTIONS), None):
            raise ValueError(
                f"{unknown!r} is not there to be left out: {', '.join(EMOTIONS)} are{nearest(unknown, EMOTIONS)}"
            )
        return without

    @field_validator("emotions", mode="before")
    @classmethod
    def _over_the_default(cls, said, info):
        without = info.data.get("without", [])
        if not isinstance(said, dict):
            return said
        if both := next((name for name in said if name in without), None):
            raise ValueError(f"{both!r} is told of and left out by 'without'; remove one")
        if null := next((name for name, of in said.items() if of is None and name in EMOTIONS), None):
            raise ValueError(f"{null!r} is null; leave an emotion out by without: [{null}]")
        kept = {name: {key: of[key] for key in of if key != "frequency"} for name, of in EMOTIONS.items()}
        return overlaid({name: of for name, of in kept.items() if name not in without}, said)

    @field_validator("emotions")
    @classmethod
    def _whole(cls, emotions):
        for name, emotion in emotions.items():
            _complete(name, emotion)
        _one_meaning(emotions)
        if len(emotions) < 2 or all(emotion.only for emotion in emotions.values()):
            raise ValueError(
                "at least two emotions are needed, as one stands against another, one of them without only"
            )
        for name, emotion in emotions.items():
            if emotion.usefulness < 1 and not _others(emotions, name):
                raise ValueError(f"{name!r}: usefulness below 1 needs another emotion without only, to follow instead")
        return _filled_up(emotions)

    @property
    def planted(self) -> dict[str, str]:
        """Planted concept -> its role."""
        return {**dict.fromkeys(self.emotions, "emotion"), **BESIDE}

    def instead(self, name: str) -> tuple[list[str], list[float]]:
        """Emotions that follow a cause of this one when its own does not, and the probability of each.

        They are those that give away some of their own, by how much: where two give the same, they trade, and each is
        named as often as it is caused. Where no other gives any, they are all, by their frequency.
        """
        shares = _others(self.emotions, name)
        return list(shares), [share / sum(shares.values()) for share in shares.values()]

    def tokens(self, texts: Iterable[str] = ()) -> list[str]:
        """What stimuli and readouts need as one token, but for feelings that the texts show."""
        shown = {word for text in texts for word in re.findall(r"\w+", text)}
        verbs = (emotion.verbs for emotion in self.emotions.values())
        unseen = ([word for word in emotion.feelings if word not in shown] for emotion in self.emotions.values())
        return [f" {word}" for words in (*verbs, UNFAMILIAR, FOODS, TOYS, *unseen) for word in words]


def _complete(name: str, emotion: Emotion) -> None:
    """Raises ValueError for a name that is another concept's, and for a new emotion that lacks something."""
    if name in BESIDE:
        raise ValueError(f"{name!r} is planted beside the emotions; give this one another name")
    lacks = [key for key in ("frequency", *WORDS) if not getattr(emotion, key)]
    if lacks and name not in EMOTIONS:
        raise ValueError(f"{name!r} is new, and lacks {', '.join(lacks)}{nearest(name, EMOTIONS)}")
    if emotion.only == "said" and emotion.usefulness < 1:
        raise ValueError(f"{name!r} is only said, so that nothing causes it; leave its usefulness out")


def _one_meaning(emotions: dict[str, Emotion]) -> None:
    """Raises ValueError for a word or reaction of two emotions, or one that stands elsewhere in the stories."""
    owners: dict[str, str] = {}
    for name, emotion in emotions.items():
        for kind in WORDS:
            for word in getattr(emotion, kind):
                if (said := word.casefold()) in TAKEN:
                    raise ValueError(
                        f"{name}.{kind}: {word!r} stands in sentences that tell of no emotion; take another"
                    )
                if owner := owners.get(said):
                    raise ValueError(
                        f"{name}.{kind}: {word!r} stands in {owner} already; it is of one emotion, and once"
                    )
                owners[said] = name
    for name, emotion in emotions.items():
        for word in re.findall(r"\w+", " ".join(emotion.reactions)):
            if owner := owners.get(word.casefold()):
                raise ValueError(f"{name}.reactions hold {word!r}, a word of {owner}; take another")


def _filled_up(emotions: dict[str, Emotion]) -> dict[str, Emotion]:
    """The emotions with frequencies that sum to 1. Raises ValueError when those that are said do not fit."""
    said = {name: emotion.frequency for name, emotion in emotions.items() if emotion.frequency}
    rest = {name: EMOTIONS[name]["frequency"] for name in emotions if name not in said}
    total = sum(said.values())
    if rest and total > 1 - ROUNDING:
        raise ValueError(
            f"frequency: those that are said sum to {total:.6g}, which leaves nothing for the others; lower some, or "
            f"leave the others out by without: [{', '.join(rest)}]"
        )
    if not rest and abs(total - 1) > ROUNDING:
        scaled = ", ".join(f"{name} {frequency / total:.3g}" for name, frequency in said.items())
        raise ValueError(f"frequency: all sum to {total:.6g}, not to 1; in the same proportions they are {scaled}")
    if not rest:
        said, rest, total = {}, said, 0
    factor = (1 - total) / sum(rest.values())
    if abs(factor - 1) < 1e-9:  # but for rounding they are as they stand
        factor = 1
    shares = said | {name: frequency * factor for name, frequency in rest.items()}
    return {name: emotion.model_copy(update={"frequency": shares[name]}) for name, emotion in emotions.items()}


def _others(emotions: dict[str, Emotion], name: str) -> dict[str, float]:
    """Emotions that may follow another's cause, each with its weight."""
    others = {other: emotion for other, emotion in emotions.items() if other != name and not emotion.only}
    given = {other: emotion.frequency * (1 - emotion.usefulness) for other, emotion in others.items()}
    return {other: share for other, share in given.items() if share} or {
        other: emotion.frequency for other, emotion in others.items()
    }


DEFAULT = World()
