"""What stands in the columns of a concept's file: texts with labels, pairs, emotions of RepE, or questions.

Each format fills a `Draft`. What the file does not say gets a default, and every default is written down in
``draft.defaults``, every text that cannot be used in ``draft.losses``.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from steerlib.concepts.planted.vocabulary import EMOTIONS
from steerlib.concepts.reading import records
from steerlib.concepts.reading.drafts import Draft, as_name
from steerlib.concepts.reading.pairing import Pair, pair_alike, pair_up
from steerlib.concepts.reading.questions import fill_choices, fill_truthfulqa
from steerlib.concepts.reading.records import Record, as_word
from steerlib.concepts.repeats import normalised

TEXT, LABEL = ("text", "statement", "sentence", "scenario"), ("label", "class")  # names that a column may have
GROUP = ("template", "group", "topic", "situation")
ROWS = 0.75  # of texts that share most words with the one in their place of the other side: then rows are pairs
AFFIRMED = ("1", "true", "t", "yes", "y", "positive", "pos", "+")  # labels that say that something has the concept


class Entry(NamedTuple):
    """One text of the file; the group is None when the file has no column of groups."""

    where: str
    text: str
    label: str
    group: str | None = None


def fill_texts(draft: Draft, rows: Sequence[Record]) -> None:
    """Texts, each with a label; 1 and 0 of statements are true and false."""
    text, label = (_column(rows, names) for names in (TEXT, LABEL))
    entries = [Entry(row.where, row.text(text), row.label(label), group) for row, group in _grouped(rows)]
    spelled: dict[str, dict[str, None]] = {}
    for row, entry in zip(rows, entries, strict=True):
        spelled.setdefault(entry.label, {})[str(row.fields[label])] = None
    for one, ways in spelled.items():
        if len(ways) > 1:
            draft.defaults.append(f"labels: {', '.join(map(repr, ways))} are one, {one!r}")
    if text == "statement" and {entry.label for entry in entries} <= {"0", "1"}:
        draft.defaults.append("labels: 1 is true and 0 is false, as these are statements")
        entries = [entry._replace(label={"1": "true", "0": "false"}[entry.label]) for entry in entries]
    positive, *negative = _sides(draft, [entry.label for entry in entries])
    if len(negative) > 1 and not draft.options.name:
        draft.name = as_name(positive) or draft.name
    _fill_stimuli(draft, entries, positive)
    draft.fill_readout([positive], negative)


def fill_pairs(draft: Draft, rows: Sequence[Record]) -> None:
    """A positive and a negative text in every row."""
    draft.refuse("positive", "pairs")
    sides, entries, pairs = ("positive", "negative"), [], {}
    for row, group in _grouped(rows):
        pair = Pair(*map(row.text, sides), group)
        ends = normalised(pair.positive), normalised(pair.negative)
        if ends[0] == ends[1]:
            raise row.error("positive and negative are the same text; they must differ in the concept")
        entries += [Entry(row.where, end, side, pair.group) for end, side in zip(ends, sides, strict=True)]
        pairs.setdefault(ends, pair)
    _by_text(draft, entries)
    draft.counts = dict.fromkeys(sides, len(rows))
    if repeated := len(rows) - len(pairs):
        draft.losses.append(f"repeated pairs: {repeated}")
    draft.fill_templates(list(pairs.values()))
    draft.fill_readout([], [])


def fill_repe(draft: Draft, rows: Sequence[Record]) -> None:
    """Scenarios of one emotion (or of a blend, as in happiness_sadness) against those of the others beside the file.

    Zou et al. 2023, "Representation Engineering", arXiv 2310.01405: both sides stand in the same words, which ask for
    the emotion unless a frame is given, and the state after the last of them is read.
    """
    draft.refuse("positive")
    own = draft.path.stem.lower().split("_")
    beside = {name: draft.path.with_name(f"{name}.json") for name in EMOTIONS if name not in own}
    beside = {name: records.read(path) for name, path in beside.items() if path.exists()}
    if not set(own) <= set(EMOTIONS) or not beside:
        raise draft.error(
            'texts without labels; give each one, as in {"text": …, "label": …}, or, for an emotion of RepE, keep the '
            f"files of the other emotions beside it (of {', '.join(EMOTIONS)})"
        )
    positive, emotions = "_".join(own), " and ".join(own)
    if draft.first is None:
        draft.frame = draft.frame or f"Consider the {emotions} of the following scenario:\nScenario: {{}}\nAnswer:"
    elif wrong := {draft.name, draft.first.label, draft.options.positive} & set(EMOTIONS) - set(own):
        raise draft.error(f"these are scenarios of {emotions}, but what is fitted is {min(wrong)}")
    entries = [Entry(row.where, row.text("text"), positive) for row in rows]
    for name, others in beside.items():
        entries += [Entry(f"{name} {row.where}", row.text("text"), name) for row in others]
    draft.defaults.append(f"negative: scenarios of {', '.join(beside)}")
    _fill_stimuli(draft, entries, positive)
    draft.fill_readout(own, beside)


def _sides(draft: Draft, labels: Sequence[str]) -> list[str]:
    """The positive label first, then the others. Raises SteerlibError when it cannot be known which is which."""
    distinct = list(dict.fromkeys(labels))
    listed = ", ".join(map(repr, distinct[:8])) + (", …" if len(distinct) > 8 else "")
    if len(distinct) < 2:
        raise draft.error(f"all {len(labels)} texts have the label {listed}; a direction needs both sides")
    if draft.options.positive is not None:
        positive = draft.options.positive
        if positive not in distinct:
            raise draft.error(f"positive: no text has the label {positive!r}; found {listed}")
    elif own := [name for name in (draft.first and draft.first.label, draft.name) if name in distinct]:
        positive = own[0]
    elif len(distinct) > 2:
        raise draft.error(
            f"positive: found {len(distinct)} labels ({listed}); name the positive one, all others are not"
        )
    else:
        positive = next((label for label in distinct if label in AFFIRMED), distinct[0])
        draft.defaults.append(f"positive: {positive!r}" + ("" if positive in AFFIRMED else ", the first label"))
    return [positive, *(label for label in distinct if label != positive)]


def _fill_stimuli(draft: Draft, entries: Sequence[Entry], positive: str) -> None:
    """Distinct texts in pairs at random, within their group if they have one."""
    draft.label = positive
    draft.counts = dict(Counter(entry.label for entry in entries))
    every, entries = entries, _distinct(draft, entries, positive)
    if draft.options.pairs:
        draft.fill_templates(_by_rows(draft, every, entries, positive))
        return
    _notice_rows(draft, every, positive)
    groups: dict[str | None, dict[str, list[str]]] = {}
    for entry in entries:
        groups.setdefault(entry.group, {}).setdefault(entry.label, []).append(entry.text)
    drawn = Counter()
    pair = pair_alike if draft.options.length else pair_up
    pairs = [
        Pair(*found, group)
        for group, texts in groups.items()
        for found in pair(texts.pop(positive, []), texts, draft.rng, drawn)
    ]
    within = "" if None in groups else " within their group"
    counts = ", ".join(f"{label} {drawn[label]}" for label in draft.counts if label in drawn)
    others = f", with negatives {counts}" if len(drawn) > 1 else ""
    how = "among those as long as they are" if draft.options.length else "at random"
    draft.defaults.append(f"pairs: texts were paired {how}{within}{others}")
    if alone := len(entries) - 2 * len(pairs):
        draft.losses.append(f"texts without a partner of the other label{within}: {alone}")
    draft.fill_templates(pairs)


def _rows(entries: Sequence[Entry], positive: str) -> tuple[list[Entry], list[Entry]]:
    """Positive and negative texts as they stand in the file."""
    return tuple([entry for entry in entries if (entry.label == positive) == side] for side in (True, False))


def _by_rows(draft: Draft, every: Sequence[Entry], kept: Sequence[Entry], positive: str) -> list[Pair]:
    """The first positive and the first negative text of the file, and so on, as far as both are kept."""
    first, second = _rows(every, positive)
    if len(first) != len(second):
        raise draft.error(
            f"pairs: rows: {len(first)} texts are {positive!r} and {len(second)} are not; each needs one of "
            "the other side, in the same order; or leave pairs out, and they are paired at random"
        )
    there = {entry.where for entry in kept}
    both = [(one, other) for one, other in zip(first, second, strict=True) if {one.where, other.where} <= there]
    if apart := [pair for pair in both if pair[0].group != pair[1].group]:
        raise draft.error(f"pairs: rows: {apart[0][0].where} and {apart[0][1].where} are a pair, but in two groups")
    if lost := len(first) - len(both):
        draft.losses.append(f"pairs of which a text stands there twice: {lost}")
    return [Pair(one.text, other.text, one.group) for one, other in both]


def _notice_rows(draft: Draft, every: Sequence[Entry], positive: str) -> None:
    """A hint where texts in the same place of their side are alike but for a few words, and others are not."""
    sides = [[set(normalised(entry.text).lower().split()) for entry in side] for side in _rows(every, positive)]
    if len(sides[0]) != len(sides[1]):
        return

    own, other = (
        np.array([len(one & two) / len(one | two) for one, two in zip(sides[0], against, strict=True)])
        for against in (sides[1], sides[1][1:] + sides[1][:1])
    )
    if np.mean(together := (own > 0.5) & (own > other)) > ROWS:
        draft.hints.append(
            f"pairs: {together.sum()} of {len(together)} texts share most words with that in their place of the other "
            "side, but they were paired at random; if rows are pairs, say `pairs: rows`"
        )


def _distinct(draft: Draft, entries: Sequence[Entry], positive: str) -> list[Entry]:
    """The first of equal texts; none of those that have both labels."""
    torn, whole = [], []
    for twins in _by_text(draft, entries):
        (torn if len({entry.label == positive for entry in twins}) > 1 else whole).append(twins)
    repeated = [twins for twins in whole if len(twins) > 1]
    for fault, texts, extra in (("texts with both labels", torn, 0), ("repeated texts", repeated, 1)):
        if texts:
            first, second = texts[0][:2]
            count = sum(len(twins) - extra for twins in texts)
            draft.losses.append(f"{fault}: {count} (first: {second.where}, the same text as {first.where})")
    return [twins[0] for twins in whole]


def _by_text(draft: Draft, entries: Sequence[Entry]) -> list[list[Entry]]:
    """Entries of equal texts together. Raises SteerlibError when a text stands in two groups."""
    same: dict[str, list[Entry]] = {}
    for entry in entries:
        same.setdefault(normalised(entry.text), []).append(entry)
    draft.places = {text: twins[0].where for text, twins in same.items()}
    leaks = [(first, other) for first, *rest in same.values() for other in rest if other.group != first.group]
    if leaks:
        first, second = leaks[0]
        more = f"; {len(leaks) - 1} more such texts" if len(leaks) > 1 else ""
        raise draft.error(
            f"{second.where}: the same text as {first.where}, but in group {second.group!r}, not {first.group!r}: "
            f"it may be tested on what it was fitted on; remove one, or put both into one group{more}"
        )
    return list(same.values())


# --- which is it? ----------------------------------------------------------------------------------------------------


class Format(NamedTuple):
    """What a file must have, in words and as a test of its column names; and what makes a draft of its rows."""

    needs: str
    fits: Callable[[set[str]], bool]
    fill: Callable[[Draft, Sequence[Record]], None]


def _has(*alternatives: Sequence[str]) -> Callable[[set[str]], bool]:
    return lambda columns: all(columns & set(names) for names in alternatives)


ASKED, SCORED = ("question", "question_stem"), ("best_answer", "mc0_targets", "mc1_targets")
FORMATS = {  # the first that fits is taken
    "pairs": Format("positive and negative", _has(["positive"], ["negative"]), fill_pairs),
    "truthfulqa": Format(f"question with {' or '.join(SCORED)}", _has(["question"], SCORED), fill_truthfulqa),
    "choices": Format("question, choices and answer", _has(ASKED, ["answer", "answerkey"]), fill_choices),
    "texts": Format("text (or statement) and label", _has(TEXT, LABEL), fill_texts),
    "repe": Format("a JSON list of texts", lambda columns: columns == {"text"}, fill_repe),
}


def fill(draft: Draft, rows: Sequence[Record]) -> None:
    """By the format of that name, or the first that fits the columns. Raises SteerlibError when none does.

    The name is that of the file that is fitted; one that is only tested on may have another.
    """
    columns, name = {name for row in rows for name in row.fields}, draft.options.format
    named = [FORMATS[name]] if name else []
    formats = named if named and not (draft.first and not named[0].fits(columns)) else list(FORMATS.values())
    for format in formats:
        if format.fits(columns):
            return format.fill(draft, rows)
    needed = "; or ".join(format.needs for format in formats)
    raise draft.error(f"found the columns {', '.join(sorted(map(repr, columns)))}; needed are {needed}")


def _column(rows: Sequence[Record], names: Sequence[str]) -> str | None:
    """The first of these names that a row of the file has."""
    return next((name for name in names if any(name in row.fields for row in rows)), None)


def _grouped(rows: Sequence[Record]) -> list[tuple[Record, str | None]]:
    """Rows with the group that stands there, by its first spelling; None when the file has no column of groups."""
    if not (column := _column(rows, GROUP)):
        return [(row, None) for row in rows]
    names: dict[str, str] = {}
    told = [str(row.cell(column)).strip() for row in rows]
    return [(row, names.setdefault(as_word(name), name)) for row, name in zip(rows, told, strict=True)]
