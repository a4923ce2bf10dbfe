"""Pairs that stand in the file's rows, and pairs as long as each other: said in a study's entry."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.concept_files import as_csv, loaded, refusal
from steerlib.concepts.check import examine
from steerlib.concepts.reading.pairing import ALIKE, by_length

THINGS = "salt pen door lamp chair book cup key box map bag hat".split()
POLITE = [f"Would you kindly pass me the {thing} over there, please?" for thing in THINGS]
RUDE = [f"Would you just pass me the {thing} over there, fool?" for thing in THINGS]
ASKED = {"targets": [" kind"], "foils": [" blunt"]}


def pairs_of(draft) -> set[tuple[str, str]]:
    return {pair for t in draft.templates for pair in zip(t.positive, t.negative, strict=True)}


@pytest.mark.parametrize("order", ["one after the other", "one side first"])
def test_rows_are_pairs_where_that_is_said_and_noticed_where_it_is_not(tmp_path, order):
    sides = [[(text, label) for text in texts] for texts, label in ((POLITE, "polite"), (RUDE, "rude"))]
    rows = (
        sides[0] + sides[1] if order == "one side first" else [row for pair in zip(*sides, strict=True) for row in pair]
    )
    path = as_csv(tmp_path / "manners.csv", rows)
    assert pairs_of(loaded(path, pairs="rows", **ASKED)) == set(zip(POLITE, RUDE, strict=True))
    noticed = examine(loaded(path, **ASKED)).warnings
    assert any(
        line.startswith("pairs: 12 of 12 texts share most words") and "`pairs: rows`" in line for line in noticed
    )
    assert not any(line.startswith("pairs:") for line in examine(loaded(path, pairs="rows", **ASKED)).warnings)
    shuffled = as_csv(tmp_path / "shuffled.csv", [rows[k] for k in np.random.default_rng(1).permutation(len(rows))])
    assert not loaded(shuffled, **ASKED).hints
    assert "pairs: rows: 12 texts are 'polite' and 11 are not" in refusal(
        as_csv(tmp_path / "a.csv", [row for row in rows if row != (RUDE[0], "rude")]), pairs="rows"
    )
    again = loaded(as_csv(tmp_path / "b.csv", [*rows, (POLITE[0], "polite"), ("Go away, you!", "rude")]), pairs="rows")
    assert (
        pairs_of(again) == set(zip(POLITE, RUDE, strict=True))
        and "pairs of which a text stands there twice: 1" in again.losses
    )


def test_texts_as_long_as_each_other_are_paired_and_the_rest_is_dropped_and_counted(tmp_path):
    """Then length alone tells positive from negative no more, which the check warned of and named this for."""
    draw = np.random.default_rng(0)
    words = lambda n: " ".join(draw.choice(THINGS, n))  # noqa: E731
    long, short = ([words(n) for n in draw.integers(*span, 80)] for span in ((6, 16), (3, 13)))
    path = as_csv(tmp_path / "long.csv", [(text, "long") for text in long] + [(text, "short") for text in short])
    warned = [line for line in examine(loaded(path, **ASKED)).warnings if line.startswith("length: ")]
    assert "`length: match` pairs texts as long as each other" in warned[0]
    draft = loaded(path, length="match", **ASKED)
    found = pairs_of(draft)
    for one, other in found:
        lengths = len(one.split()), len(other.split())
        assert abs(lengths[0] - lengths[1]) <= ALIKE * max(lengths)
    assert not any(line.startswith("length: ") for line in examine(draft).warnings)
    lost = f"texts without a partner of the other label: {len({*long, *short}) - 2 * len(found)}"
    assert 20 < len(found) < 80 and lost in draft.losses
    rows = as_csv(
        tmp_path / "rows.csv",
        [(f"{a} ?", f"{a} {b}") for a, b in zip(POLITE, [*RUDE[:6], *"abcdef"], strict=True)],
        ("positive", "negative"),
    )
    by_row = loaded(rows, length="match", **ASKED)
    assert len(pairs_of(by_row)) == 6 and "pairs that differ in length: 6" in by_row.losses


def test_as_many_find_a_partner_as_can():
    draw = np.random.default_rng(0)
    for _ in range(30):
        first, second = draw.integers(1, 30, 7).tolist(), draw.integers(1, 30, 7).tolist()
        partner = by_length(sorted(first), sorted(second)[::-1], 0.2)
        assert len(set(partner.values())) == len(partner)
        for i, k in partner.items():
            a, b = sorted(first)[i], sorted(second)[::-1][k]
            assert abs(a - b) <= 0.2 * max(a, b)
        left = (
            [sorted(first)[i] for i in range(7) if i not in partner],
            [sorted(second)[::-1][k] for k in range(7) if k not in partner.values()],
        )
        assert not any(abs(a - b) <= 0.2 * max(a, b) for a in left[0] for b in left[1])
