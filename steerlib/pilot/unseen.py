"""Texts, prompts and passages that exploring has not seen: from people's files, or told anew by the planted world."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from steerlib import SteerlibError, nearest
from steerlib.concepts import Concept
from steerlib.concepts.concept import Template
from steerlib.concepts.planted import stories
from steerlib.concepts.reading import ConceptFile, Draft, load, opposites
from steerlib.concepts.reading.drafts import as_name
from steerlib.concepts.repeats import normalised
from steerlib.files import params
from steerlib.pilot.seen import mark, prompts_of, texts_of
from steerlib.study import Study, sources

MORE = 3  # times as many are drawn, as some may be seen already
FEWEST, PASSAGES = 12, 128  # neutral passages of a file, at least, and of the planted world


@dataclass(frozen=True, eq=False)
class Unseen:
    """What a push is tried on."""

    concepts: list[Concept]
    others: list[Concept]  # of the study, read beside them: their prompts have been seen
    passages: list[str] | None  # None: those that the study has for testing


def told(
    study: Study,
    names: Sequence[str],
    seen: Set[str],
    files: Sequence[str] = (),
    prompts: Path | None = None,
    neutral: Path | None = None,
    fresh: int | None = None,
) -> Unseen:
    """Of these frozen concepts: from files, or where none are named from the planted world by the seed ``fresh``.

    Raises SteerlibError for a text, prompt or passage of which there is a mark in ``seen``, and names it.
    """
    fresh = study.seed + 1 if fresh is None else fresh
    if files:
        given = [_of_file(study, names, file, prompts) for file in files]
        for source, concept in given:
            _refuse_seen(source, concept, seen)
        concepts = [concept for _, concept in given]
        if twice := [name for name in names if [one.name for one in concepts].count(name) > 1]:
            raise SteerlibError(f"{twice[0]} has two files of new texts; put them into one")
    else:
        concepts = _drawn(study, names, seen, fresh)
    own = {concept.name for concept in concepts}
    judged = [concept for concept in concepts if concept.name in names]
    others = [concept for concept in concepts if concept.name not in names]
    others += [concept for concept in study.load_concepts() if concept.name not in own]
    return Unseen(judged, others, _passages(study, seen, neutral, None if files else fresh))


def _refuse_seen(source: Draft | Concept, concept: Concept, seen: Set[str]) -> None:
    path = source.path if isinstance(source, Draft) else concept.name
    places = source.places if isinstance(source, Draft) else {}
    for what, texts in (("text", texts_of(source, concept)), ("prompt", prompts_of(concept))):
        for text in texts:
            if mark(text) in seen:
                place = places.get(normalised(text), what)
                remedy = "name other prompts: --prompts FILE.txt" if what == "prompt" else "remove it"
                raise SteerlibError(f"{path}: {place}: {text[:80]!r} was seen in exploring; {remedy}")


# --- from files -----------------------------------------------------------------------------------------------------


def _of_file(study: Study, names: Sequence[str], told: str, prompts: Path | None) -> tuple[Draft, Concept]:
    """A concept's new texts (FILE, or NAME=FILE), read as the study reads its own."""
    name, file = told.split("=", 1) if "=" in told and not Path(told).exists() else (None, told)
    if name is None:
        name = names[0] if len(names) == 1 else as_name(Path(file).stem)
    if name not in names:
        raise SteerlibError(
            f"{told}: {name!r} was not frozen; name the concept that its texts are of, as in {names[0]}={file} (frozen "
            f"are {', '.join(names)}){nearest(name, names)}"
        )
    options = {"file": file, "name": name} | ({"prompts": str(prompts)} if prompts else {})
    entry = params.validate(options, Path(file), ConceptFile, folder=Path())
    known = study.read_concepts()
    own = next(entry for entry, source in zip(study.concepts, known, strict=True) if source.name == name)
    if isinstance(own, ConceptFile):  # positive label, frame, words and the like are as they were
        entry = own.model_copy(update={"file": entry.file, "name": name, "prompts": entry.prompts, "test": None})
    draft = load(entry, study.seed)
    return draft, draft.concept(opposites(known))


# --- from the planted world -----------------------------------------------------------------------------------------


def _drawn(study: Study, names: Sequence[str], seen: Set[str], seed: int) -> list[Concept]:
    """All planted concepts of the study, told anew; of what has been seen, none is left."""
    planted = [entry for entry in study.concepts if isinstance(entry, str) and entry in study.world.planted]
    if foreign := [name for name in names if name not in planted]:
        raise SteerlibError(
            f"{foreign[0]} is not planted, so nobody can tell new texts of it: give a file of them, as in "
            f"{foreign[0]}=new.csv"
        )
    pairs, prompts, told = study.probes.pairs, study.sweep.prompts, []
    for name in planted:
        drawn = stories.concept(study.world, name, MORE * pairs, MORE * prompts, seed)
        if (left := _without(drawn, seen, pairs, prompts)) or name in names:
            told.append(left or _exhausted(study, name, seed))
    return told


def _without(concept: Concept, seen: Set[str], pairs: int, prompts: int) -> Concept | None:
    """As much of it as the study has of its own, and nothing that was seen; None where too little is left."""
    each, templates = max(2, -(-pairs // len(concept.templates))), []
    for template in concept.templates:
        both = zip(template.positive, template.negative, strict=True)
        new = [pair for pair in both if seen.isdisjoint(map(mark, pair))][:each]
        if len(new) > 1:
            positive, negative = map(list, zip(*new, strict=True))
            templates.append(Template(name=template.name, positive=positive, negative=negative))
    asked = [prompt for prompt in concept.readout.prompts if mark(prompt) not in seen][:prompts]
    if len(templates) < 2 or len(asked) < 3:
        return None
    readout = concept.readout.model_copy(update={"prompts": asked})
    return concept.model_copy(update={"templates": templates, "readout": readout})


def _exhausted(study: Study, name: str, seed: int) -> Concept:
    again = "; that is the study's own seed" if seed == study.seed else ""
    raise SteerlibError(f"{name}: the planted world tells too little by seed {seed} that was not seen{again}")


def _passages(study: Study, seen: Set[str], file: Path | None, seed: int | None) -> list[str] | None:
    """All of a file, or as many as the planted world is asked for."""
    if file is not None:
        passages = sources.passages(file)
        if known := [text for text in passages if mark(text) in seen]:
            raise SteerlibError(f"{file}: {known[0][:80]!r} was seen in exploring; remove it")
        if len(passages) < FEWEST:
            raise SteerlibError(f"{file}: {len(passages)} distinct passages of six words or more; {FEWEST} are needed")
        return passages
    if seed is None or sources.neutral_file(study) is not None:
        return None
    count = max(PASSAGES, study.sweep.neutral_texts)
    return [text for text in stories.neutral(study.world, seed, MORE * count) if mark(text) not in seen][:count]
