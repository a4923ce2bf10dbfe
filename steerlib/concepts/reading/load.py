"""Concepts from the files that people have, as a study names them.

A concept file is our own YAML with templates and readout; or a shorter YAML of ``texts`` by label or of ``pairs``; or
CSV, JSON lines or JSON with the columns of one of the `steerlib.concepts.reading.formats`. A second file may be named that the
directions fitted on the first are tested on. All that is drawn at random is drawn with the study's seed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, field_validator, model_validator

from steerlib import SteerlibError
from steerlib.concepts.concept import Concept, Text
from steerlib.concepts.reading import records
from steerlib.concepts.reading.drafts import Draft, Told, as_name
from steerlib.concepts.reading.formats import FORMATS, recognise
from steerlib.concepts.reading.pairing import key
from steerlib.concepts.reading.records import Record
from steerlib.files import params
from steerlib.files.params import Located

YAML = (".yaml", ".yml")
ENDINGS = (*YAML, ".csv", ".jsonl", ".json")
SHORT = re.compile(r"^(texts|pairs)\s*:", re.MULTILINE)


class ConceptFile(Told):
    """A concept's file as an entry of a study; only the path is needed."""

    file: Located
    format: str | None = None  # told by the columns
    # Another file: its stimuli alone are tested on, and all of the first file's are fitted on. Name, positive label,
    # frame and limit are told for both files, readout and format for the first.
    test: Located | None = None

    @field_validator("file", "test")
    @classmethod
    def _ending(cls, file):
        if file is not None and not file.lower().endswith(ENDINGS):
            raise ValueError(f"{file!r} is no concept file; expected one that ends in {', '.join(ENDINGS)}")
        return file

    @field_validator("format")
    @classmethod
    def _known(cls, name):
        if name is not None and name not in FORMATS:
            raise ValueError(f"{name!r} is no format; known are {', '.join(FORMATS)}")
        return name


class Short(Told):
    """A YAML file of texts by label (the first is positive unless told otherwise), or of pairs, positive first."""

    texts: Annotated[dict[str | bool | int, list[Text]], Field(min_length=1)] | None = None
    pairs: Annotated[list[Annotated[list[Text], Field(min_length=2, max_length=2)]], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_kind(self):
        if (self.texts is None) == (self.pairs is None):
            raise ValueError("give either texts, by their label, or pairs")
        for label, texts in (self.texts or {}).items():
            if not texts:
                raise ValueError(f"texts.{label} is empty; a direction needs both sides")
        return self

    def records(self) -> list[Record]:
        """The same as from a file with columns."""
        if self.pairs is not None:
            pairs = enumerate(self.pairs, 1)
            return [
                Record(f"pair {k}", {"positive": positive, "negative": negative}) for k, (positive, negative) in pairs
            ]
        return [
            Record(f"texts.{label} {k}", {"text": text, "label": label})
            for label, texts in self.texts.items()
            for k, text in enumerate(texts, 1)
        ]


def load(entry: ConceptFile, seed: int = 0) -> Draft:
    """What a concept's files, and the study about them, tell. Raises SteerlibError naming file and line."""
    entry = _with_prompts(entry)
    draft = _read(entry, entry.file.path, np.random.default_rng(seed))
    if entry.test is not None:
        _test_on(draft, entry, entry.test.path, np.random.default_rng([seed, 1]))
    return draft


def _with_prompts(told: Told) -> Told:
    """With the prompts themselves where a text file of them is named."""
    if not isinstance(told.prompts, str):
        return told
    path = told.prompts.path
    lines = records.read_lines(path)
    records.refuse_long_lines(path, lines)
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise SteerlibError(f"{path}: holds no prompts; expected one a line")
    return told.model_copy(update={"prompts": prompts})


def _read(entry: ConceptFile, path: Path, rng: np.random.Generator, first: Draft | None = None) -> Draft:
    if path.suffix.lower() not in YAML:
        return _fill(entry, entry, path, records.read(path), rng, first)
    lines = records.read_lines(path)
    records.refuse_long_lines(path, lines)
    if not SHORT.search("\n".join(lines)):
        return _templates(entry, path, rng, first)
    short = _with_prompts(params.load(path, Short))
    if first and short.frame not in (None, first.frame):
        raise SteerlibError(f"{path}: frame: {short.frame!r}, but what is fitted stands in {first.frame!r}")
    given = short.model_dump(include=short.model_fields_set & set(Told.model_fields))
    told = entry.model_copy(update={name: value for name, value in given.items() if name not in entry.model_fields_set})
    return _fill(entry, told, path, short.records(), rng, first)


def _fill(
    entry: ConceptFile, told: Told, path: Path, rows: list[Record], rng: np.random.Generator, first: Draft | None
) -> Draft:
    name = told.name or _name(path)
    draft = Draft(path, name, told, rng, first, frame=told.frame)
    recognise(draft, rows, entry.format).fill(draft, rows)
    if not told.name:
        origin = "from the file's name" if draft.name == name else "as the positive label"
        draft.defaults.insert(0, f"name: {draft.name}, {origin}")
    return draft


def _templates(entry: ConceptFile, path: Path, rng: np.random.Generator, first: Draft | None) -> Draft:
    """Our own YAML has its templates, and says which texts are positive; name and readout may be changed."""
    concept = params.load(path, Concept)
    sides = {side: given for side in ("prompts", "targets", "foils") if (given := getattr(entry, side))}
    if sides and concept.readout.items and not first:
        raise SteerlibError(f"{path}: {', '.join(sides)}: its readout has items, each with its own")
    told = {name for name in entry.model_fields_set if getattr(entry, name) not in (None, [])}
    allowed = {"positive", "questions", "format"} if first else set()  # said of the file that is fitted
    if unused := sorted(told - {"file", "test", "name", *sides} - allowed):
        raise SteerlibError(f"{path}: {', '.join(unused)}: this file has templates, which say it already")
    return Draft(
        path,
        entry.name or concept.name,
        entry,
        rng,
        first,
        templates=concept.templates,
        readout=concept.readout.model_dump() | sides,
        more={"role": concept.role, "planted_frequency": concept.planted_frequency},
        found={side: sum(len(getattr(t, side)) for t in concept.templates) for side in ("positive", "negative")},
        places={
            key(text): f"template {template.name!r}"
            for template in concept.templates
            for text in template.positive + template.negative
        },
    )


def _test_on(draft: Draft, entry: ConceptFile, path: Path, rng: np.random.Generator) -> None:
    """The draft's texts are all fitted on, the file's are tested on. Raises SteerlibError when they share one."""
    if any(template.split for template in draft.templates):
        raise draft.error("test: this file says itself which of its templates are tested on; leave out one of the two")
    told = {"file": entry.test, "test": None, "name": draft.name, "frame": draft.frame}
    tested = _read(entry.model_copy(update=told), path, rng, draft)
    if both := [text for text in tested.places if text in draft.places]:
        more = f"; {len(both) - 1} more such texts" if len(both) > 1 else ""
        raise tested.error(
            f"{tested.places[both[0]]}: the same text as {draft.path}: {draft.places[both[0]]}: "
            f"it would be tested on what it was fitted on; remove one{more}"
        )
    draft.tested = tested
    draft.templates = [template.model_copy(update={"split": "fit"}) for template in draft.templates] + [
        template.model_copy(update={"split": "test", "name": f"{path.stem}: {template.name}"})
        for template in tested.templates
    ]


def _name(path: Path) -> str:
    """The file's name as a concept's. Raises SteerlibError when nothing is left of it."""
    name = as_name(path.stem)
    if not name:
        raise SteerlibError(f"{path}: name: the file's name makes none; give one, as in {{file: {path.name}, name: …}}")
    return name
