"""Words and frames of the embedded world (`vocabulary.yaml`); what is told with them is up to `world`."""

from dataclasses import dataclass
from pathlib import Path

import yaml

_LISTS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))

NAMES, TOYS, FOODS, COLOURS = (_LISTS[name].split() for name in ("names", "toys", "foods", "colours"))
UNFAMILIAR = _LISTS["unfamiliar"].split()
CAUSES, FEELINGS, SETTINGS = _LISTS["causes"], _LISTS["feelings"], _LISTS["settings"]
ASIDES, SIGHTS, CLAIMS = _LISTS["asides"], _LISTS["sights"], _LISTS["claims"]
KINDS = {kind: things.split() for kind, things in _LISTS["kinds"].items()}
PLACES = {place: [words.split() for words in sides.values()] for place, sides in _LISTS["places"].items()}
VERDICTS = {truth: words.split() for truth, words in _LISTS["verdicts"].items()}


@dataclass(frozen=True)
class Emotion:
    """What names an emotion, causes it and shows it, and its share of all episodes."""

    frequency: float
    feelings: list[str]
    verbs: list[str]
    reactions: list[str]

    @property
    def causes(self) -> list[tuple[str, str]]:
        """(verb, frame) of every cause: verb i stands in frame i modulo twelve."""
        return [(verb, CAUSES[k % len(CAUSES)]) for k, verb in enumerate(self.verbs)]


EMOTIONS = {
    name: Emotion(own["frequency"], own["feelings"].split(), own["verbs"].split(), own["reactions"])
    for name, own in _LISTS["emotions"].items()
}

# Planted concept -> its role.
PLANTED = {**dict.fromkeys(EMOTIONS, "emotion"), "truth": "truth", "place": "inert", "placebo": "null"}

# What stimuli and readouts need as one token, also where the corpus never shows it.
TOKENS = [
    f" {word}"
    for words in (*(emotion.verbs for emotion in EMOTIONS.values()), UNFAMILIAR, FOODS, TOYS)
    for word in words
]


def as_sentence(text: str) -> str:
    """The text with a capital and a full stop."""
    return f"{text[0].upper()}{text[1:]}."
