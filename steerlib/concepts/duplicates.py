"""Texts that are nearly the same: what a direction was fitted on comes back where it is tested, in other words."""

from collections.abc import Sequence
from os.path import commonprefix

import numpy as np
from jaxtyping import Int, Shaped
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import CountVectorizer

ALIKE = 0.7  # Jaccard similarity of word triples from which two texts are near-duplicates
COMMON = 100  # texts in which a triple may stand; one in more is a wording, not a copy (this also bounds the time)


def near_duplicates(
    texts: Sequence[Sequence[str]], part: Shaped[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " found"], Int[np.ndarray, " found"]]:
    """Pairs of texts (as words) in different parts, of which a share `ALIKE` of all word triples is in both.

    Only texts that share a triple which is not `COMMON` are compared: memory and time grow with the number of texts,
    not with its square.
    """
    split = CountVectorizer(analyzer=_triples, binary=True, dtype=np.int32)
    triples = csr_array(split.fit_transform(texts))
    rare = triples[:, np.flatnonzero(triples.sum(0) <= COMMON)]
    candidates = (rare @ rare.T).tocoo()
    apart = (candidates.row < candidates.col) & (part[candidates.row] != part[candidates.col])
    first, second = candidates.row[apart], candidates.col[apart]
    common = triples[first].multiply(triples[second]).sum(1)
    size = triples.sum(1)
    alike = common >= ALIKE * (size[first] + size[second] - common)
    return first[alike], second[alike]


def _triples(words: Sequence[str]) -> list[str]:
    return [" ".join(words[i : i + 3]) for i in range(max(1, len(words) - 2))]


def bare_words(texts: Sequence[str]) -> list[list[str]]:
    """Words in lower case, without the wording that all texts begin and end with."""
    texts = [text.casefold().split() for text in texts]
    head = len(commonprefix(texts))  # noqa: RUF071 -- of words, not of letters
    texts = [words[head:] for words in texts]
    tail = len(commonprefix([words[::-1] for words in texts]))  # noqa: RUF071
    return [words[: len(words) - tail] for words in texts]
