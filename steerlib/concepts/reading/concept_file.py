"""Concepts from the files that people have, as a study names them.

A concept file is our own YAML with templates and readout; or a shorter YAML of ``texts`` by label or of ``pairs``; or
CSV, JSON lines or JSON with the columns of one of the `formats`. A second file may be named that the directions fitted
on the first are tested on. All that is drawn at random is drawn with the study's seed.
"""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from steerlib import SteerlibError
from steerlib.concepts.concept import Concept, Text
from steerlib.concepts.reading import formats, records
from steerlib.concepts.reading.drafts import Draft, Options, as_name
from steerlib.concepts.reading.pairing import key
from steerlib.concepts.reading.records import Record
from steerlib.files import params
from steerlib.files.params import Located

YAML = (".yaml", ".yml")
ENDINGS = (*YAML, ".csv", ".jsonl", ".json")


def _with_ending(path: str) -> str:
    if not path.lower().endswith(ENDINGS):
        raise ValueError(f"{path!r} is no concept file; expected one that ends in {', '.join(ENDINGS)}")
    return path


class ConceptFile(Options):
    """A concept's file as an entry of a study; only the path is needed."""

    file: Annotated[Located, AfterValidator(_with_ending)]
    format: Literal[*formats.FORMATS] | None = None  # told by the columns
    # Another file: its stimuli alone are tested on, and all of the first file's are fitted on. Name, positive label,
    # frame and limit are told for both files, readout and format for the first.
    test: Annotated[Located, AfterValidator(_with_ending)] | None = None


class Short(Options):
    """A YAML file of texts by label (the first is positive unless told otherwise), or of pairs, positive first."""

    texts: Annotated[dict[str | bool | int, Annotated[list[Text], Field(min_length=1)]], Field(min_length=1)] = {}
    pairs: Annotated[list[tuple[Text, Text]], Field(min_length=1)] = []

    @model_validator(mode="after")
    def _one_kind(self):
        if self.texts and self.pairs:
            raise ValueError("give either texts, by their label, or pairs")
        return self


def load(entry: ConceptFile, seed: int = 0) -> Draft:
    """What a concept's files, and the study about them, say. Raises SteerlibError naming file and line."""
    entry = _with_prompts(entry)
    draft = _read(entry, entry.file.path, np.random.default_rng(seed))
    if entry.test is not None:
        _test_on(draft, entry, entry.test.path, np.random.default_rng([seed, 1]))
    return draft


def _with_prompts(options: Options) -> Options:
    """With the prompts themselves where a text file of them is named."""
    if not isinstance(options.prompts, str):
        return options
    path = options.prompts.path
    prompts = [line.strip() for line in records.read_lines(path) if line.strip()]
    if not prompts:
        raise SteerlibError(f"{path}: holds no prompts; expected one a line")
    return options.model_copy(update={"prompts": prompts})


def _read(entry: ConceptFile, path: Path, rng: np.random.Generator, first: Draft | None = None) -> Draft:
    options = entry
    if path.suffix.lower() not in YAML:
        rows = records.read(path)
    else:
        records.read_lines(path)  # refuses a line beyond all measure
        data = params.read(path)
        if not {"texts", "pairs"} & data.keys():
            return _whole(params.validate(data, path, Concept), entry, path, rng, first)
        short = _with_prompts(params.validate(data, path, Short))
        if first and short.frame not in (None, first.frame):
            raise SteerlibError(f"{path}: frame: {short.frame!r}, but what is fitted stands in {first.frame!r}")
        own = short.model_fields_set & set(Options.model_fields) - entry.model_fields_set
        options = entry.model_copy(update=short.model_dump(include=own))
        pairs = enumerate(short.pairs, 1)
        rows = [Record(path, f"pair {k}", {"positive": pair[0], "negative": pair[1]}) for k, pair in pairs]
        for label, texts in short.texts.items():
            rows += [
                Record(path, f"texts.{label} {k}", {"text": text, "label": label}) for k, text in enumerate(texts, 1)
            ]
    name = options.name or as_name(path.stem)
    if not name:
        raise SteerlibError(f"{path}: name: the file's name makes none; give one, as in {{file: {path.name}, name: …}}")
    draft = Draft(path, name, options, rng, first, frame=options.frame)
    formats.fill(draft, rows, entry.format)
    if not options.name:
        origin = "from the file's name" if draft.name == name else "as the positive label"
        draft.defaults.insert(0, f"name: {draft.name}, {origin}")
    return draft


def _whole(concept: Concept, entry: ConceptFile, path: Path, rng: np.random.Generator, first: Draft | None) -> Draft:
    """Our own YAML has its templates, and says which texts are positive; name and readout may be changed."""
    sides = {side: given for side in ("prompts", "targets", "foils") if (given := getattr(entry, side))}
    if sides and concept.readout.items and not first:
        raise SteerlibError(f"{path}: {', '.join(sides)}: its readout has items, each with its own")
    given = {name for name in entry.model_fields_set if getattr(entry, name) not in (None, [])}
    allowed = {"positive", "questions", "format"} if first else set()  # said of the file that is fitted
    if unused := sorted(given - {"file", "test", "name", *sides} - allowed):
        raise SteerlibError(f"{path}: {', '.join(unused)}: this file has templates, which say it already")
    templates = concept.templates
    return Draft(
        path,
        entry.name or concept.name,
        entry,
        rng,
        first,
        templates=templates,
        readout=concept.readout.model_dump() | sides,
        fields={"role": concept.role, "planted_frequency": concept.planted_frequency},
        counts=dict.fromkeys(("positive", "negative"), sum(len(template.positive) for template in templates)),
        places={key(text): f"template {template.name!r}" for template in templates for text in template.texts},
    )


def _test_on(draft: Draft, entry: ConceptFile, path: Path, rng: np.random.Generator) -> None:
    """The draft's texts are all fitted on, the file's are tested on. Raises SteerlibError when they share one."""
    if any(template.split for template in draft.templates):
        raise draft.error("test: this file says itself which of its templates are tested on; leave out one of the two")
    options = {"file": entry.test, "test": None, "name": draft.name, "frame": draft.frame}
    draft.tested = tested = _read(entry.model_copy(update=options), path, rng, draft)
    if both := [text for text in tested.places if text in draft.places]:
        more = f"; {len(both) - 1} more such texts" if len(both) > 1 else ""
        raise tested.error(
            f"{tested.places[both[0]]}: the same text as {draft.path}: {draft.places[both[0]]}: "
            f"it would be tested on what it was fitted on; remove one{more}"
        )
    draft.templates = [template.model_copy(update={"split": "fit"}) for template in draft.templates]
    for template in tested.templates:
        own = {"split": "test", "name": f"{path.stem}: {template.name}"}
        draft.templates.append(template.model_copy(update=own))
