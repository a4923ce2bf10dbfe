"""What stands in the columns of a concept's file: texts with labels, pairs, emotions of RepE, or questions.

Each format fills a `steerlib.concepts.reading.drafts.Draft`. What the file does not say gets a default, and every default is
written down in ``draft.defaults``, every text that cannot be used in ``draft.losses``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from steerlib.concepts.planted import world
from steerlib.concepts.reading import records
from steerlib.concepts.reading.drafts import Draft, as_name
from steerlib.concepts.reading.pairing import Pair, key, pair_up
from steerlib.concepts.reading.questions import fill_choices, fill_truthfulqa
from steerlib.concepts.reading.records import Record

TEXT, LABEL = ("text", "statement", "sentence", "scenario"), ("label", "class")  # names that a column may have
GROUP = ("template", "group", "topic", "situation")


class Entry(NamedTuple):
    """One text of the file; the group is None when the file has no column of groups."""

    where: str
    text: str
    label: str
    group: str | None = None


# --- texts with labels -----------------------------------------------------------------------------------------------


def fill_texts(draft: Draft, rows: Sequence[Record], truth: bool = False) -> None:
    """Texts, each with a label; 1 and 0 of statements are true and false."""
    text, label, group = (_column(rows, names) for names in (TEXT, LABEL, GROUP))
    entries = [
        Entry(row.where, draft.text(row, text), as_label(draft.cell(row, label)), draft.group(row, group))
        for row in rows
    ]
    if truth or (text == "statement" and {entry.label for entry in entries} <= {"0", "1"}):
        draft.defaults.append("labels: 1 is true and 0 is false, as these are statements")
        entries = [entry._replace(label={"1": "true", "0": "false"}.get(entry.label, entry.label)) for entry in entries]
    positive, *negative = _sides(draft, [entry.label for entry in entries])
    if len(negative) > 1 and not draft.told.name:
        draft.name = as_name(positive) or draft.name
    _fill_stimuli(draft, entries, positive)
    draft.fill_readout(_words(draft, [positive]), _words(draft, negative))


def _words(draft: Draft, labels: Iterable[str]) -> list[str]:
    """What they are called after "felt": as told; the adjectives of RepE's emotions; others as they are."""
    known = {name: emotion.feelings for name, emotion in world.EMOTIONS.items()} | draft.told.words
    return [word for label in labels for word in known.get(label, [label])]


def as_label(value: Any) -> str:
    """Labels are compared as words: 1, 1.0 and ' 1 ' are the same, and so are True and 'true'."""
    return str(value).strip().lower().removesuffix(".0")


def _sides(draft: Draft, labels: Sequence[str]) -> list[str]:
    """The positive label first, then the others. Raises SteerlibError when it cannot be known which is which."""
    found = list(dict.fromkeys(labels))
    listed = ", ".join(map(repr, found[:8])) + (", …" if len(found) > 8 else "")
    if len(found) < 2:
        raise draft.error(f"all {len(labels)} texts have the label {listed}; a direction needs both sides")
    if draft.told.positive is not None:
        positive = as_label(draft.told.positive)
        if positive not in found:
            raise draft.error(f"positive: no text has the label {positive!r}; found {listed}")
    elif own := [name for name in (draft.first and draft.first.label, draft.name) if name in found]:
        positive = own[0]
    elif len(found) > 2:
        raise draft.error(f"positive: found {len(found)} labels ({listed}); name the positive one, all others are not")
    else:
        positive = next((label for label in ("1", "true") if label in found), found[0])
        draft.defaults.append(f"positive: {positive!r}" + ("" if positive in ("1", "true") else ", the first label"))
    return [positive, *(label for label in found if label != positive)]


def _fill_stimuli(draft: Draft, entries: Sequence[Entry], positive: str) -> None:
    """Distinct texts in pairs at random, within their group if they have one."""
    draft.label = positive
    draft.found = dict(Counter(entry.label for entry in entries))
    entries = _distinct(draft, entries, positive)
    groups: dict[str | None, dict[str, list[str]]] = {}
    for entry in entries:
        groups.setdefault(entry.group, {}).setdefault(entry.label, []).append(entry.text)
    drawn = Counter()
    pairs = [
        Pair(*pair, group)
        for group, texts in groups.items()
        for pair in pair_up(texts.pop(positive, []), texts, draft.rng, drawn)
    ]
    within = "" if None in groups else " within their group"
    counts = ", ".join(f"{label} {drawn[label]}" for label in draft.found if label in drawn)
    others = f", with negatives {counts}" if len(drawn) > 1 else ""
    draft.defaults.append(f"pairs: texts were paired at random{within}{others}")
    if alone := len(entries) - 2 * len(pairs):
        draft.losses.append(f"texts without a partner of the other label{within}: {alone}")
    draft.fill_templates(pairs)


def _distinct(draft: Draft, entries: Sequence[Entry], positive: str) -> list[Entry]:
    """The first of equal texts; none of those that have both labels. Raises SteerlibError for a text in two groups."""
    same: dict[str, list[Entry]] = {}
    for entry in entries:
        same.setdefault(key(entry.text), []).append(entry)
    draft.places = {text: twins[0].where for text, twins in same.items()}
    _refuse_leaks(draft, same.values())
    torn, repeated, kept = [], [], []
    for twins in same.values():
        both = len({entry.label == positive for entry in twins}) > 1
        kept += [] if both else twins[:1]
        if len(twins) > 1:
            (torn if both else repeated).append(twins)
    for what, found, extra in (("texts with both labels", torn, 0), ("repeated texts", repeated, 1)):
        if found:
            first, second = found[0][:2]
            count = sum(len(twins) - extra for twins in found)
            draft.losses.append(f"{what}: {count} (first: {second.where}, the same text as {first.where})")
    return kept


def _refuse_leaks(draft: Draft, same: Iterable[list[Entry]]) -> None:
    """Raises SteerlibError when a text stands in two groups."""
    leaks = [(first, other) for first, *rest in same for other in rest if other.group != first.group]
    if leaks:
        first, second = leaks[0]
        more = f"; {len(leaks) - 1} more such texts" if len(leaks) > 1 else ""
        raise draft.error(
            f"{second.where}: the same text as {first.where}, but in group {second.group!r}, not {first.group!r}: "
            f"it may be tested on what it was fitted on; remove one, or put both into one group{more}"
        )


# --- pairs -----------------------------------------------------------------------------------------------------------


def fill_pairs(draft: Draft, rows: Sequence[Record]) -> None:
    """A positive and a negative text in every row."""
    draft.refuse("positive")
    group = _column(rows, GROUP)
    same: dict[str, list[Entry]] = {}
    pairs: dict[tuple[str, str], Pair] = {}
    for row in rows:
        pair = Pair(draft.text(row, "positive"), draft.text(row, "negative"), draft.group(row, group))
        ends = key(pair.positive), key(pair.negative)
        if ends[0] == ends[1]:
            raise draft.error(f"{row.where}: positive and negative are the same text; they must differ in the concept")
        for end, side in zip(ends, ("positive", "negative"), strict=True):
            same.setdefault(end, []).append(Entry(row.where, end, side, pair.group))
        pairs.setdefault(ends, pair)
    draft.places = {text: twins[0].where for text, twins in same.items()}
    _refuse_leaks(draft, same.values())
    draft.found = {"positive": len(rows), "negative": len(rows)}
    if repeated := len(rows) - len(pairs):
        draft.losses.append(f"repeated pairs: {repeated}")
    draft.fill_templates(list(pairs.values()))
    draft.fill_readout([], [])


# --- emotions of RepE ------------------------------------------------------------------------------------------------


def fill_repe(draft: Draft, rows: Sequence[Record]) -> None:
    """Scenarios of one emotion (or of a blend, as in happiness_sadness) against those of the others beside the file.

    Zou et al. 2023, "Representation Engineering", arXiv 2310.01405: both sides stand in the same words, which ask for
    the emotion unless a frame is told, and the state after the last of them is read.
    """
    draft.refuse("positive")
    own = draft.path.stem.lower().split("_")
    beside = {name: draft.path.with_name(f"{name}.json") for name in world.EMOTIONS if name not in own}
    beside = {name: records.read(path) for name, path in beside.items() if path.exists()}
    if not set(own) <= set(world.EMOTIONS) or not beside:
        raise draft.error(
            'texts without labels; give each one, as in {"text": …, "label": …}, or, for an emotion of RepE, keep the '
            f"files of the other emotions beside it (of {', '.join(world.EMOTIONS)})"
        )
    if draft.first is None:
        asked = f"Consider the {' and '.join(own)} of the following scenario:"
        draft.frame = draft.frame or f"{asked}\nScenario: {{}}\nAnswer:"
    elif wrong := {draft.name, draft.first.label, draft.told.positive} & set(world.EMOTIONS) - set(own):
        raise draft.error(f"these are scenarios of {' and '.join(own)}, but what is fitted is {min(wrong)}")
    positive = "_".join(own)
    entries = [Entry(row.where, draft.text(row, "text"), positive) for row in rows]
    for name, others in beside.items():
        entries += [Entry(f"{name} {row.where}", draft.text(row, "text"), name) for row in others]
    draft.defaults.append(f"negative: scenarios of {', '.join(beside)}")
    _fill_stimuli(draft, entries, positive)
    draft.fill_readout(_words(draft, own), _words(draft, beside))


# --- which is it? ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Format:
    """What a file must have, in words and as a test of its column names; and what makes a draft of its rows."""

    needs: str
    fits: Callable[[set[str]], bool]
    fill: Callable[[Draft, Sequence[Record]], None]


def _has(*alternatives: Sequence[str]) -> Callable[[set[str]], bool]:
    return lambda columns: all(columns & set(names) for names in alternatives)


ASKED = ("question", "question_stem")
FORMATS = {  # the first that fits is taken
    "pairs": Format("positive and negative", _has(["positive"], ["negative"]), fill_pairs),
    "truthfulqa": Format(
        "question with 'best answer' or mc0_targets",
        _has(["question"], ["best answer", "mc0_targets", "mc1_targets"]),
        fill_truthfulqa,
    ),
    "choices": Format("question, choices and answer", _has(ASKED, ["answer", "answerkey"]), fill_choices),
    "texts": Format("text and label", _has(TEXT, LABEL), fill_texts),
    "true_false": Format("statement and label", _has(TEXT, LABEL), partial(fill_texts, truth=True)),
    "repe": Format("a JSON list of texts", lambda columns: columns == {"text"}, fill_repe),
}


def recognise(draft: Draft, rows: Sequence[Record], name: str | None) -> Format:
    """The format of that name, or the first that fits the columns. Raises SteerlibError when none does.

    The name is that of the file that is fitted; one that is only tested on may have another.
    """
    columns = set(rows[0].fields)
    if draft.first and name and not FORMATS[name].fits(columns):
        name = None
    wanted = [FORMATS[name]] if name else list(FORMATS.values())
    for format in wanted:
        if format.fits(columns):
            return format
    needed = "; or ".join(format.needs for format in wanted)
    raise draft.error(f"found the columns {', '.join(sorted(map(repr, columns)))}; needed are {needed}")


def _column(rows: Sequence[Record], names: Sequence[str]) -> str | None:
    """The first of these names that the file has."""
    return next((name for name in names if name in rows[0].fields), None)
