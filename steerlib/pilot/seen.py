"""What an exploration has seen, by a mark for each text: that a text is among them can be told, and not what it is.

(A mark is no secret: who guesses a text can see whether it is one of them.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

from steerlib.concepts import Concept
from steerlib.concepts.reading import Draft
from steerlib.concepts.repeats import normalised
from steerlib.study import Study

# In a file they are one line of words, as YAML would take some of them for numbers.
Marks = Annotated[
    frozenset[str],
    BeforeValidator(lambda told: frozenset(told.split()) if isinstance(told, str) else told),
    PlainSerializer(lambda marks: " ".join(sorted(marks))),
]


def mark(text: str) -> str:
    """The same for texts that differ in quotes, dashes, white space, spellings of Unicode, or capitals alone."""
    return hashlib.sha256(normalised(text).casefold().encode()).hexdigest()[:16]


def marks(texts: Iterable[str]) -> frozenset[str]:
    return frozenset(map(mark, texts))


def texts_of(source: Concept | Draft, concept: Concept) -> list[str]:
    """All stimuli: as they stand in their file, too, where the concept has them in a frame; and texts to be said."""
    cases = concept.readout.cases if concept.readout.texts else []
    told = [
        text for of in {id(source): source, id(concept): concept}.values() for t in of.templates for text in t.texts
    ]
    return told + [text for case in cases for text in case.targets + case.foils]


def prompts_of(concept: Concept) -> list[str]:
    return [case.prompt for case in concept.readout.cases]


def of_study(study: Study) -> dict[str, tuple[frozenset[str], frozenset[str]]]:
    """Marks of each concept's texts and of its prompts, as the study has them now."""
    pairs = zip(study.read_concepts(), study.load_concepts(), strict=True)
    return {concept.name: (marks(texts_of(source, concept)), marks(prompts_of(concept))) for source, concept in pairs}
