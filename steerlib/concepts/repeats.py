"""When two texts are the same: they are one unit then, which counts once and never stands on two sides of a split."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from functools import lru_cache

# Before NFKC, which would take an acute accent or a double prime apart.
_PLAIN = str.maketrans(
    dict.fromkeys("‘’‚‛′ʹʼ`´‹›＇", "'") | dict.fromkeys("“”„‟″ʺ«»〝〞〟＂", '"') | dict.fromkeys("‐‑‒–—―−⁃﹘﹣－", "-")
)
# What is not seen, wherever it stands: Unicode's Default_Ignorable_Code_Point.
_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


@lru_cache(1 << 16)  # of a text it is asked again and again
def normalised(text: str) -> str:
    """What equal texts have in common: quotes, dashes, white space, what is not seen and Unicode's spellings do not
    tell them apart. Capitals do: "it was" goes on after something, "It was" begins.
    """
    seen = text if text.isascii() else _UNSEEN.sub("", text)
    plain = re.sub("-{2,}", "-", seen.translate(_PLAIN)).replace("''", '"')  # as word processors do
    return " ".join(unicodedata.normalize("NFKC", plain).split())


def once(texts: Iterable[str]) -> list[str]:
    """The first of equal texts each, without those in which there is nothing to see."""
    first: dict[str, str] = {}
    for text in texts:
        first.setdefault(normalised(text), text)
    return [text for plain, text in first.items() if plain]


class Places:
    """Where texts stand, for each unit to be taken once."""

    def __init__(self):
        self._units: set[tuple[str, ...]] = set()
        self._places: dict[str, Hashable] = {}

    def take(self, place: Hashable, *texts: str) -> bool:
        """Whether the texts together are new, and none of them stands in another place; if so they stand here now."""
        unit = tuple(map(normalised, texts))
        if unit in self._units or any(self._places.get(text, place) != place for text in unit):
            return False
        self._units.add(unit)
        self._places |= dict.fromkeys(unit, place)
        return True


def linked(members: Sequence[Iterable[str]]) -> list[list[int]]:
    """Members by their number, those together that share a text, directly or over others."""
    before = list(range(len(members)))  # of each member: an earlier one of its group, or itself

    def first(i: int) -> int:
        while before[i] != i:
            before[i] = before[before[i]]
            i = before[i]
        return i

    stands: dict[str, int] = {}
    for i, texts in enumerate(members):
        for text in map(normalised, texts):
            early, late = sorted((first(i), first(stands.setdefault(text, i))))
            before[late] = early
    groups = defaultdict(list)
    for i in range(len(members)):
        groups[first(i)].append(i)
    return list(groups.values())
