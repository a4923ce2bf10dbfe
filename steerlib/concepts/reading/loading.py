"""Concepts from the files that people have, as a study names them.

A concept file is our own YAML with templates and readout; or CSV, JSON lines or JSON with the columns of one of the
`formats`. A second file may be named that the directions fitted on the first are tested on. All that is drawn at random
is drawn with the study's seed.
"""

import numpy as np

from steerlib.concepts.concept import Concept
from steerlib.concepts.reading import formats, records, texts
from steerlib.concepts.reading.drafts import YAML, ConceptFile, Draft, as_name
from steerlib.concepts.repeats import normalised
from steerlib.files import params


def load(entry: ConceptFile, seed: int = 0) -> Draft:
    """What a concept's files, and the study about them, say. Raises SteerlibError naming file and line."""
    draft = _read(entry, np.random.default_rng(seed))
    if entry.test is not None:
        _test_on(draft, np.random.default_rng([seed, 1]))
    if draft.manner:
        texts.fill(draft, seed)
    return draft


def _read(entry: ConceptFile, rng: np.random.Generator, first: Draft | None = None) -> Draft:
    path = entry.file.path
    draft = Draft(entry, rng, entry.name or as_name(path.stem), entry.frame, first)
    draft.manner = entry.readout if first is None and entry.readout in texts.MANNERS else None
    if path.suffix.lower() in YAML:
        records.read_lines(path)  # refuses a line beyond all measure
        _fill_whole(draft)
        return draft
    if not (name := draft.name):
        raise draft.error(f"name: the file's name makes none; give one, as in {{file: {path.name}, name: …}}")
    formats.fill(draft, records.read(path))
    if not entry.name:
        origin = "from the file's name" if draft.name == name else "as the positive label"
        draft.defaults.insert(0, f"name: {draft.name}, {origin}")
    return draft


def _fill_whole(draft: Draft) -> None:
    """Our own YAML has its templates, and says which texts are positive; name and readout may be changed."""
    data = params.read(draft.path)
    if draft.first is None and draft.options.readout is None and data.get("readout") in texts.MANNERS:
        draft.manner = data["readout"]
    if draft.manner:
        data |= {"readout": texts.STAND_IN}
    concept = params.validate(data, draft.path, Concept)
    told = ["positive", "format", "frame", "words", "limit", "pairs", "length"]
    told += ["questions"] * (draft.manner != "texts")
    draft.refuse(*told, why="this file has templates, which say it already")
    if concept.readout.items:
        draft.refuse("prompts", "targets", "foils", why="its readout has items, each with its own")
    draft.name = draft.options.name or concept.name
    draft.fields = {"role": concept.role, "planted_frequency": concept.planted_frequency, "licence": concept.licence}
    draft.templates = concept.templates
    draft.readout = data["readout"] | draft.options.sides()  # as told: repeats are counted when they are left out
    told = sum(len(template["positive"]) for template in data["templates"])
    kept = sum(len(template.positive) for template in concept.templates)
    draft.counts = dict.fromkeys(("positive", "negative"), told)
    if told > kept:
        draft.losses.append(f"{told - kept} of {told} pairs repeat others, or their texts: one unit each")
    draft.places = {
        normalised(text): f"template {template.name!r}" for template in draft.templates for text in template.texts
    }


def _test_on(draft: Draft, rng: np.random.Generator) -> None:
    """The draft's texts are all fitted on, those of `test` are tested on. Raises SteerlibError when they share one."""
    if any(template.split for template in draft.templates):
        raise draft.error("test: this file says itself which of its templates are tested on; leave out one of the two")
    options = {"file": draft.options.test, "name": draft.name, "frame": draft.frame}
    draft.tested = tested = _read(draft.options.model_copy(update=options), rng, draft)
    if both := [text for text in tested.places if text in draft.places]:
        more = f"; {len(both) - 1} more such texts" if len(both) > 1 else ""
        raise tested.error(
            f"{tested.places[both[0]]}: the same text as {draft.path}: {draft.places[both[0]]}: "
            f"it would be tested on what it was fitted on; remove one{more}"
        )
    draft.templates = [template.model_copy(update={"split": "fit"}) for template in draft.templates]
    for template in tested.templates:
        own = {"split": "test", "name": f"{tested.path.stem}: {template.name}"}
        draft.templates.append(template.model_copy(update=own))
