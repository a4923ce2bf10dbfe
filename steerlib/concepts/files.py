"""Concepts from the files that people have, as a study names them.

A concept file is our own YAML with templates and readout; or a shorter YAML of ``texts`` by label or of ``pairs``; or
CSV, JSON lines or JSON with the columns of one of the `steerlib.concepts.formats`. All that is drawn at random is drawn
with the study's seed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, field_validator, model_validator

from steerlib import params
from steerlib.concepts import Concept, Text, records
from steerlib.concepts.drafts import Draft, Told
from steerlib.concepts.formats import FORMATS, recognise
from steerlib.concepts.records import Record
from steerlib.errors import SteerlibError

YAML = (".yaml", ".yml")
ENDINGS = (*YAML, ".csv", ".jsonl", ".json")
SHORT = re.compile(r"^(texts|pairs)\s*:", re.MULTILINE)


class ConceptFile(Told):
    """A concept's file as an entry of a study; only the path is needed."""

    file: str
    format: str | None = None  # told by the columns

    @field_validator("file")
    @classmethod
    def _ending(cls, file):
        if not file.lower().endswith(ENDINGS):
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


def load(entry: ConceptFile, path: Path, seed: int = 0) -> Draft:
    """What a concept's file, and the study about it, tell. Raises SteerlibError naming file and line."""
    if path.suffix.lower() not in YAML:
        return _fill(entry, entry, path, records.read(path), seed)
    lines = records.read_lines(path)
    records.refuse_long_lines(path, lines)
    if not SHORT.search("\n".join(lines)):
        return _templates(entry, path, seed)
    short = params.load(path, Short)
    given = short.model_dump(include=short.model_fields_set & set(Told.model_fields))
    told = entry.model_copy(update={name: value for name, value in given.items() if name not in entry.model_fields_set})
    return _fill(entry, told, path, short.records(), seed)


def _fill(entry: ConceptFile, told: Told, path: Path, rows: list[Record], seed: int) -> Draft:
    draft = Draft(path, told.name or _name(path), told, np.random.default_rng(seed))
    if not told.name:
        draft.defaults.append(f"name: {draft.name}, from the file's name")
    recognise(draft, rows, entry.format).fill(draft, rows)
    return draft


def _templates(entry: ConceptFile, path: Path, seed: int) -> Draft:
    """Our own YAML has its templates, and says which texts are positive; name and readout may be changed."""
    concept = params.load(path, Concept)
    sides = {side: given for side in ("prompts", "targets", "foils") if (given := getattr(entry, side))}
    if sides and concept.readout.items:
        raise SteerlibError(f"{path}: {', '.join(sides)}: its readout has items, each with its own")
    if unused := sorted(entry.model_fields_set - {"file", "name", *sides}):
        raise SteerlibError(f"{path}: {', '.join(unused)}: this file has templates, which say it already")
    return Draft(
        path,
        entry.name or concept.name,
        entry,
        np.random.default_rng(seed),
        concept.templates,
        concept.readout.model_dump() | sides,
        {"role": concept.role, "planted_frequency": concept.planted_frequency},
        {side: sum(len(getattr(t, side)) for t in concept.templates) for side in ("positive", "negative")},
    )


def _name(path: Path) -> str:
    """The file's name as a concept's. Raises SteerlibError when nothing is left of it."""
    name = re.sub(r"[^a-z0-9_-]+", "_", path.stem.lower()).lstrip("0123456789_-").rstrip("_-")
    if not name:
        raise SteerlibError(f"{path}: name: the file's name makes none; give one, as in {{file: {path.name}, name: …}}")
    return name
