"""Words and frames that every planted world has (`vocabulary.yaml`), and the emotions of the default one.

What is planted with them is up to `world`, what is told to `stories`.
"""

import re
from itertools import chain, cycle
from pathlib import Path

from steerlib.files import params

_LISTS = params.table(Path(__file__).with_suffix(".yaml"))

NAMES, TOYS, FOODS, COLOURS, UNFAMILIAR = (_LISTS[key] for key in ("names", "toys", "foods", "colours", "unfamiliar"))
CAUSES, FEELINGS, SETTINGS = _LISTS["causes"], _LISTS["feelings"], _LISTS["settings"]
ASIDES, SIGHTS, CLAIMS = _LISTS["asides"], _LISTS["sights"], _LISTS["claims"]
KINDS, PLACES, VERDICTS = _LISTS["kinds"], _LISTS["places"], _LISTS["verdicts"]
EMOTIONS = _LISTS["emotions"]  # as a params file would say them: frequency, feelings, verbs, reactions

_FRAMES = " ".join(chain(CAUSES, FEELINGS, SETTINGS, ASIDES, SIGHTS, CLAIMS))
_FILLINGS = chain(
    NAMES, TOYS, FOODS, COLOURS, UNFAMILIAR, KINDS, *KINDS.values(), *VERDICTS.values(), *chain(*PLACES.values())
)
# What no emotion may be called or caused by, as it stands in sentences that say nothing of one.
TAKEN = {word.casefold() for word in chain(_FILLINGS, re.findall(r"\w+", re.sub(r"\{\w+\}", "", _FRAMES)))}


def causes(verbs: list[str]) -> list[tuple[str, str]]:
    """(verb, frame) of every cause: verb i stands in frame i modulo twelve, and in no other."""
    return list(zip(verbs, cycle(CAUSES), strict=False))


def as_sentence(text: str) -> str:
    """The text with a capital and a full stop."""
    return f"{text[0].upper()}{text[1:]}."
