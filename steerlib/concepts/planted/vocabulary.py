"""Words and frames of the embedded world (`vocabulary.yaml`); what is told with them is up to `world`."""

from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import yaml

_LISTS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))

NAMES, TOYS, FOODS, COLOURS, UNFAMILIAR = (_LISTS[key] for key in ("names", "toys", "foods", "colours", "unfamiliar"))
CAUSES, FEELINGS, SETTINGS = _LISTS["causes"], _LISTS["feelings"], _LISTS["settings"]
ASIDES, SIGHTS, CLAIMS = _LISTS["asides"], _LISTS["sights"], _LISTS["claims"]
KINDS, PLACES, VERDICTS = _LISTS["kinds"], _LISTS["places"], _LISTS["verdicts"]


@dataclass(frozen=True)
class Emotion:
    """What names an emotion, causes it and shows it, and its share of all episodes."""

    frequency: float
    feelings: list[str]
    verbs: list[str]
    reactions: list[str]


EMOTIONS = {name: Emotion(**lists) for name, lists in _LISTS["emotions"].items()}

# Planted concept -> its role.
PLANTED = {**dict.fromkeys(EMOTIONS, "emotion"), "truth": "truth", "place": "inert", "placebo": "null"}

# What stimuli and readouts need as one token, also where the corpus never shows it.
_ONE_TOKEN = (*(emotion.verbs for emotion in EMOTIONS.values()), UNFAMILIAR, FOODS, TOYS)
TOKENS = [f" {word}" for words in _ONE_TOKEN for word in words]


def causes(verbs: list[str]) -> list[tuple[str, str]]:
    """(verb, frame) of every cause: verb i stands in frame i modulo twelve, and in no other."""
    return list(zip(verbs, cycle(CAUSES), strict=False))


def as_sentence(text: str) -> str:
    """The text with a capital and a full stop."""
    return f"{text[0].upper()}{text[1:]}."
