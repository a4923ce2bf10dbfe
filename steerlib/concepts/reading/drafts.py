"""A concept in the making: what its file says, what a default had to fill in, and what could not be used."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from steerlib import SteerlibError
from steerlib.concepts.concept import Concept, Template, Text
from steerlib.concepts.planted.vocabulary import EMOTIONS
from steerlib.concepts.reading.pairing import ALIKE, POOL, Pair, by_length, deal
from steerlib.concepts.reading.records import as_label, read_lines
from steerlib.files import params
from steerlib.files.params import Located, Strict, whole

YAML = (".yaml", ".yml")
QUESTIONS = 36  # of a choice set, or pairs of texts, in a readout, where no number is told
ENDINGS = (*YAML, ".csv", ".jsonl", ".json", ".tsv", ".parquet")
# Who a text may tell of, by their pronouns.
PERSONS = re.compile(
    r"\b(?:(?P<She>she|hers?|herself)|(?P<He>he|him|his|himself)|(?P<You>you|yours?|yourself|yourselves))\b",
    re.IGNORECASE,
)
# Readout prompts without evidence for anything, after which a word that describes is due, or a verdict.
MOMENTS = (
    "That morning", "On the way home", "After the call", "By the end of the week", "In the photograph", "At last",
)  # fmt: skip
DESCRIBED = [f"{moment} {stem}" for moment in MOMENTS for stem in ("she felt", "he seemed", "it was", "they were")]
CLAIMED = (
    "The claim", "That statement", "What she wrote", "The last answer", "His report", "The sentence on the board",
)  # fmt: skip
JUDGED = [f"{claim} {verb}" for claim in CLAIMED for verb in ("is", "was", "turned out to be", "is known to be")]
VERDICTS = {"true", "false", "right", "wrong", "correct", "incorrect"}


def _frame(frame: str) -> str:
    """The frame. Raises ValueError when it is none."""
    example = "as in '{} She felt'"
    try:
        fields = [field for field in Formatter().parse(frame) if field[1] is not None]
    except ValueError as error:
        raise ValueError(f"{frame!r} is no frame ({error}); it holds {{}} where the text goes, {example}") from None
    known = ("", "they", "concept")  # the text; who it tells of, at the beginning of a sentence; the concept's name
    if unknown := [name for _, name, spec, conversion in fields if name not in known or spec or conversion]:
        raise ValueError(f"{frame!r} has the unknown field {{{unknown[0]}}}; known are {{}}, {{they}} and {{concept}}")
    if (texts := sum(name == "" for _, name, *_ in fields)) != 1:
        raise ValueError(f"{frame!r} holds {{}} {texts} times; once it must stand, where the text goes, {example}")
    return frame


def _concept_file(path: str) -> str:
    if not path.lower().endswith(ENDINGS):
        raise ValueError(f"{path!r} is no concept file; expected one that ends in {', '.join(ENDINGS)}")
    return path


def _text_file(path: str) -> str:
    if not path.lower().endswith(".txt"):
        raise ValueError(f"{path!r} is neither a list of prompts nor the path of a .txt file with a prompt a line")
    return path


def _labels(words: Any) -> Any:
    labels = list(map(as_label, words)) if isinstance(words, dict) else []
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise ValueError(f"label {twice[0]!r} stands there twice; keep one")
    return words


Label = Annotated[str, BeforeValidator(as_label)]
Named = Annotated[Located, AfterValidator(_concept_file)]
# An empty list is no way to ask for a default, which is what is left out.
Texts = Annotated[list[Text], Field(min_length=1)]
# The tags stand in brackets, as errors leave such words out of the place that they name.
Prompts = Annotated[
    Annotated[Texts, Tag("[list]")] | Annotated[Located, AfterValidator(_text_file), Tag("[file]")],
    Discriminator(lambda prompts: "[file]" if isinstance(prompts, str) else "[list]"),
]


class ConceptFile(Strict):
    """A concept's file as an entry of a study, and what is told of it; only the path is needed."""

    file: Named  # its path
    name: str | None = None  # the positive label if there are more than two, else the file's name
    positive: Label | None = None  # the label that has the concept; all other labels lack it
    # What every stimulus is put into: {} is the text, {they} its She, He or You, {concept} the concept's name.
    frame: Annotated[Text, AfterValidator(_frame)] | None = None
    # rows: the first positive and the first negative text of the file are a pair, and so on; at random when absent.
    pairs: Literal["rows"] | None = None
    # match: only texts that find a partner as long as they are; of pairs by rows, those that are.
    length: Literal["match"] | None = None
    # Of a label: what it is called in the readout.
    words: Annotated[dict[Label, Texts], Field(min_length=1), BeforeValidator(_labels)] = {}
    prompts: Prompts = []  # or a text file of them; neutral ones, or the file's own questions
    targets: Texts = []  # the positive label's word (of an emotion of RepE, its words), or the concept's name
    foils: Texts = []  # the other labels' words, or the names of the study's other concepts
    # What a push is to raise: words (targets against foils); the concept's own held-out texts, positive against
    # negative; or what the model writes, as far as a judge finds the concept there. Words when absent, or what a YAML
    # file says.
    readout: Literal["words", "texts", "judged"] | None = None
    # Stimulus pairs at most, drawn at random; all when absent.
    limit: whole(10_000_000, "as no memory holds more", least=4) | None = None
    # Of its readout, at most: prompts, spread evenly over those that are told (all when absent); questions of a choice
    # set, while the others make its stimuli, or pairs of texts, of `readout: texts` (36 when absent).
    questions: whole(100_000, "as each is asked after every push", least=3) | None = None
    licence: Text | None = None  # of its texts, which the card of a direction tells, as in CC-BY-4.0
    # One of `formats`; told by the columns when absent.
    format: Literal["pairs", "truthfulqa", "choices", "texts", "repe"] | None = None
    # Another file: its stimuli alone are tested on, and all of the first file's are fitted on. Name, positive label,
    # frame and limit are told for both files, readout and format for the first.
    test: Named | None = None

    def sides(self) -> dict[str, list[str]]:
        """Prompts, targets and foils as far as they are told. Raises SteerlibError for a file without prompts."""
        sides = {"prompts": self.prompts, "targets": self.targets, "foils": self.foils}
        if isinstance(self.prompts, Located):
            path = self.prompts.path
            sides["prompts"] = [line.strip() for line in read_lines(path) if line.strip()]
            if not sides["prompts"]:
                raise SteerlibError(f"{path}: holds no prompts; expected one a line")
        if (most := self.questions) and len(told := sides["prompts"]) > most:
            sides["prompts"] = [told[k * len(told) // most] for k in range(most)]
        return {side: texts for side, texts in sides.items() if texts}


@dataclass
class Draft:
    """A concept as far as its file tells it. Formats fill it; what its ``options`` say goes before any default.

    Its templates hold the texts as they stand in the file; the concept has them in their frame. So nothing that is
    decided by comparing texts, as what is paired or refused, depends on the words that all of them share.
    """

    options: ConceptFile
    rng: np.random.Generator
    name: str
    frame: str | None = None
    first: Draft | None = None  # of the file that is fitted, when this one is only tested on
    tested: Draft | None = None  # of the file that is tested on, its templates among those here
    label: str | None = None  # the positive one
    templates: list[Template] = field(default_factory=list)
    readout: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)  # others of the concept
    counts: dict[str, int] = field(default_factory=dict)  # label -> how often it stands in the file
    places: dict[str, str] = field(default_factory=dict)  # normalised text or question -> where it is in the file
    defaults: list[str] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)  # what the file seems to mean, and nobody has said
    manner: Literal["texts", "judged"] | None = None  # its readout is to be its own texts, or the model's, and no words

    @property
    def path(self) -> Path:
        return self.options.file.path

    def error(self, message: str) -> SteerlibError:
        return SteerlibError(f"{self.path}: {message}")

    @property
    def lacks_foils(self) -> bool:
        return not any(self.readout.get(what) for what in ("items", "foils", "judged"))

    def concept(self, others: Iterable[str] = ()) -> Concept:
        """The concept; foils that nobody names are the names of ``others``. Raises SteerlibError."""
        readout = dict(self.readout)
        if self.lacks_foils:
            readout["foils"] = [as_continuation(other) for other in others if other != self.name]
            if not readout["foils"]:
                raise self.error(
                    "foils: nothing here says what stands against the targets; use words as labels, or name foils in "
                    f"the study: concepts: [{{file: {self.path.name}, foils: [' …']}}]"
                )
        words = self.name.split("_")
        name = (" and " if {*words} <= set(EMOTIONS) else " ").join(words)  # two feelings at once: happiness_fear
        templates = [template.model_dump() for template in self.templates]
        for template in templates if self.frame else ():
            for side in ("positive", "negative"):
                template[side] = [framed(text, self.frame, name) for text in template[side]]
        data = {"name": self.name, "templates": templates, "readout": readout, **self.fields}
        data["licence"] = self.options.licence or self.fields.get("licence")
        concept = params.validate(data, self.path, Concept)
        concept._frame = (self.frame or concept.frame).replace("{concept}", name)
        return concept

    def refuse(self, *options: str, why="not to be told of this kind of file, which says it itself") -> None:
        """Raises SteerlibError for an option that cannot be told; of a file only tested on, for frame and limit."""
        refused = [name for name in options if self.first is None or name in ("frame", "limit")]
        defaults = {name: ConceptFile.model_fields[name].default for name in refused}
        if given := [name for name, default in defaults.items() if getattr(self.options, name) != default]:
            raise self.error(f"{', '.join(given)}: {why}")

    def fill_templates(self, pairs: list[Pair]) -> None:
        """Templates of the pairs (see `pairing.deal`). Raises SteerlibError when they make fewer than two."""
        if self.options.length:
            words = [[len(text.split()) for text in side] for side in zip(*(pair[:2] for pair in pairs), strict=True)]
            alike = [pair for k, pair in enumerate(pairs) if by_length([words[0][k]], [words[1][k]], ALIKE)]
            if len(alike) < len(pairs):
                self.losses.append(f"pairs that differ in length: {len(pairs) - len(alike)}")
            pairs = alike
        if (limit := self.options.limit) and len(pairs) > limit:
            self.losses.append(f"pairs above the limit of {limit}: {len(pairs) - limit}")
            pairs = [pairs[i] for i in sorted(self.rng.permutation(len(pairs))[:limit])]
        self.templates = deal(pairs, self.rng)
        if len(self.templates) < 2:
            told = " that are as long as each other (`length: match`)" if self.options.length else ""
            raise self.error(
                f"{len(pairs)} pairs{told} in {len(self.templates)} templates; at least 2 templates of 2 pairs are "
                "needed, as one half fits and the other tests: add texts, or leave out the column of groups if any"
            )
        if pairs[0].group is None:
            self.defaults.append(
                f"templates: no groups are given; pairs were dealt into {len(self.templates)} at random"
            )
        elif self.templates[-1].name == POOL:
            self.defaults.append(f"templates: groups of one pair were pooled: {len(self.templates[-1].positive)}")
        if lost := len(pairs) - sum(len(template.positive) for template in self.templates):
            self.losses.append(f"pairs alone in their group: {lost}")

    def fill_readout(self, labels: Iterable[str], others: Iterable[str]) -> None:
        """Prompts, targets and foils by the options; else neutral prompts, and the labels' words (or the name).

        A label is called after "felt" what the options say; an emotion of RepE by its adjectives; others as they are.
        """
        if self.first is not None or self.manner:
            return  # a concept has one readout, its first file's
        if unknown := sorted(self.options.words.keys() - {*labels, *others}):
            found = ", ".join(map(repr, [*labels, *others])) or "none"
            raise self.error(f"words: no text has the label {unknown[0]!r}; found {found}")
        known = {name: emotion["feelings"] for name, emotion in EMOTIONS.items()} | self.options.words
        words, against = (
            [word for label in side for word in known.get(label, [label]) if any(map(str.isalpha, word))]
            for side in (labels, others)
        )
        words = words or [self.name]
        prompts = JUDGED if {*words, *against} & VERDICTS else DESCRIBED
        targets, foils = ([as_continuation(word) for word in side] for side in (words, against))
        defaults = {
            "prompts": (prompts, f"{len(prompts)} neutral ones, such as {prompts[0]!r}"),
            "targets": (targets, ", ".join(map(repr, targets))),
            "foils": (foils, ", ".join(map(repr, foils)) or "the names of the study's other concepts"),
        }
        told = self.options.sides()
        self.readout = {side: default for side, (default, _) in defaults.items()} | told
        self.defaults += [f"readout.{side}: {note}" for side, (_, note) in defaults.items() if side not in told]


def as_continuation(word: str) -> str:
    """A word as a continuation, with the space before it."""
    return " " + word.replace("_", " ").strip()


def as_name(words: str) -> str:
    """Words as a concept's name; empty when they make none."""
    return re.sub(r"[^a-z0-9_-]+", "_", words.lower()).lstrip("0123456789_-").rstrip("_-")


def opposites(concepts: Iterable[Concept | Draft]) -> list[str]:
    """Names that may stand against a concept without foils; that of a null concept means nothing."""
    return [concept.name for concept in concepts if not (isinstance(concept, Concept) and concept.role == "null")]


def pronoun(text: str) -> str:
    """She, He or You, by the first person that the text names with a pronoun; You when it names none."""
    person = PERSONS.search(text)
    return person.lastgroup if person else "You"


def framed(text: str, frame: str, concept: str) -> str:
    """The text in the frame."""
    return frame.format(text, they=pronoun(text), concept=concept)
