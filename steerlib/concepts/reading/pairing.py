"""From pairs of texts to templates: what shares a text stays together, and so never stands on both sides of a split."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from steerlib.concepts.concept import Template
from steerlib.concepts.repeats import linked

TEMPLATES = 12  # dealt when the file names no groups: six to fit on, six to test on
POOL = "small groups"
ALIKE = 0.1  # share of words by which texts as long as each other may differ: those of fewer than ten by none


class Pair(NamedTuple):
    """A positive and a negative text; the group is None when the file names none."""

    positive: str
    negative: str
    group: str | None = None


def pair_up(
    positive: Sequence[str], negative: Mapping[str, Sequence[str]], rng: np.random.Generator, drawn: Counter[str]
) -> list[tuple[str, str]]:
    """Texts of the two sides in random pairs, negatives from all labels alike; the surplus of a side is left over.

    Where labels cannot have equally many, those come first that were drawn least before: ``drawn`` counts over groups.
    """
    chosen = rng.permutation(len(positive))[: sum(map(len, negative.values()))]
    left = {label: list(rng.permutation(len(texts))[::-1]) for label, texts in negative.items()}
    order = [list(left)[i] for i in rng.permutation(len(left))]  # among equals, no label is always first
    here, pairs = Counter(), []
    for i in chosen:
        label = min((label for label in order if left[label]), key=lambda label: (here[label], drawn[label]))
        here[label] += 1
        drawn[label] += 1
        pairs.append((positive[i], negative[label][left[label].pop()]))
    return pairs


def pair_alike(
    positive: Sequence[str], negative: Mapping[str, Sequence[str]], rng: np.random.Generator, drawn: Counter[str]
) -> list[tuple[str, str]]:
    """The same of texts that are as long as each other in words (`ALIKE`), from whichever labels they come."""
    others = [(label, text) for label, texts in negative.items() for text in texts]
    others = [others[k] for k in rng.permutation(len(others))]
    lengths = ([len(text.split()) for text in side] for side in (positive, [text for _, text in others]))
    partner = by_length(*lengths, ALIKE)
    drawn.update(others[k][0] for k in partner.values())
    return [(positive[i], others[k][1]) for i, k in partner.items()]


def by_length(first: Sequence[int], second: Sequence[int], apart: float) -> dict[int, int]:
    """Partners of about the same length, as many as there are: place in the first -> place in the second.

    They differ by a share ``apart`` of the longer one at most. Partners in the same place that are alike stay; of the
    others the shortest that fit are paired first.
    """

    def alike(i: int, k: int) -> bool:
        return abs(first[i] - second[k]) <= apart * max(first[i], second[k])

    partner = {k: k for k in range(min(len(first), len(second))) if alike(k, k)}
    free = [sorted({*range(len(side))} - {*partner}, key=side.__getitem__) for side in (first, second)]
    while free[0] and free[1]:
        i, k = free[0][0], free[1][0]
        if fits := alike(i, k):
            partner[i] = k
        for side, shorter in zip(free, (first[i] <= second[k], first[i] > second[k]), strict=True):
            del side[: fits or shorter]  # where they do not fit, the shorter one fits none
    return partner


def deal(pairs: Sequence[Pair], rng: np.random.Generator) -> list[Template]:
    """Templates of two pairs or more: the groups, or as many as can be dealt, up to ``TEMPLATES``.

    Groups of one pair are pooled into one template. Fewer than two templates come back when there are too few pairs,
    or when their texts hang together so closely that they cannot be parted.
    """
    if pairs and pairs[0].group is not None:
        grouped = defaultdict(list)
        for pair in pairs:
            grouped[pair.group].append(pair)
        small = [group for group, members in grouped.items() if len(members) < 2]
        pool = [pair for group in small for pair in grouped.pop(group)]
        return _templates(grouped | ({POOL: pool} if len(pool) > 1 else {}))
    bundles = [[pairs[k] for k in group] for group in linked([pair[:2] for pair in pairs])]
    order = rng.permutation(len(bundles))
    for count in range(min(TEMPLATES, len(pairs) // 2), 1, -1):
        hands = [[] for _ in range(count)]
        for i in sorted(order, key=lambda i: -len(bundles[i])):  # stable: equal bundles stay in random order
            min(hands, key=len).extend(bundles[i])
        if min(map(len, hands)) > 1:
            return _templates({f"part {k}": hand for k, hand in enumerate(hands, 1)})
    return []


def _templates(grouped: dict[str, list[Pair]]) -> list[Template]:
    return [
        Template(name=name, positive=[pair.positive for pair in members], negative=[pair.negative for pair in members])
        for name, members in grouped.items()
    ]
