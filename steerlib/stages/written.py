"""Readouts, with what they ask a model for: words and texts that are given, or what it writes by itself, as judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Bool, Int

from steerlib.concepts import Concept
from steerlib.model import Model, Prefix, written
from steerlib.stages.classifiers import Judge
from steerlib.steering.asking import matched
from steerlib.steering.readouts import Options, Readouts

TEXTS, TOKENS = 16, 12  # that are drawn after each prompt, and their length at most


def by_prompts(
    model: Model, concepts: Sequence[Concept], judges: Mapping[str, Judge], seed: int
) -> Iterator[tuple[list[Concept], Readouts]]:
    """Readouts of `matched` concepts: as few as there are different sets of prompts, and judged ones apart."""
    alike: dict[tuple[bool, tuple[str, ...]], list[Concept]] = {}
    for concept, _ in (matched(model.encoder, concept) for concept in concepts):
        prompts = tuple(case.prompt for case in concept.readout.cases)
        alike.setdefault((concept.readout.judged, prompts), []).append(concept)
    for group in alike.values():
        yield group, readouts(model, group, judges, seed)


def readouts(model: Model, concepts: Sequence[Concept], judges: Mapping[str, Judge], seed: int) -> Readouts:
    """Of concepts that are read alike, after the same prompts. Raises SteerlibError (`Readouts.of`)."""
    if not concepts[0].readout.judged:
        return Readouts.of(model, concepts)
    names, prompts = [concept.name for concept in concepts], [case.prompt for case in concepts[0].readout.cases]
    asked = np.repeat(np.arange(len(prompts)), TEXTS)
    drawn, texts = draw(model, [prompts[k] for k in asked], seed)
    found = np.array([expressed(concept, judges[concept.name], asked, texts) for concept in concepts])
    options = [_options(drawn[k : k + TEXTS], found[:, k : k + TEXTS]) for k in range(0, len(asked), TEXTS)]
    plain = Readouts(model, names, [False] * len(names), [False] * len(names), options)
    return plain.drawn(Prefix(model, prompts, plain.branches).final[:, None])


def draw(model: Model, prompts: Sequence[str], seed: int) -> tuple[list[tuple[int, ...]], list[str]]:
    """A text after each prompt at random, as ids and as it reads; the same at every checkpoint that is alike."""
    uniform = np.random.default_rng([seed, crc32(b"written")]).random((len(prompts), TOKENS))
    ids = written(model, prompts, TOKENS, torch.from_numpy(uniform))
    return ids, model.tokenizer.batch_decode(ids, skip_special_tokens=True)


def expressed(
    concept: Concept, judge: Judge, asked: Int[np.ndarray, " text"], texts: Sequence[str]
) -> Bool[np.ndarray, " text"]:
    """Whether the judge finds the concept in texts after its prompts: what it has no opinion of is not found."""
    cases = concept.readout.cases
    return judge(concept, [cases[k] for k in asked], texts) > 0.5


def _options(drawn: Sequence[tuple[int, ...]], found: Bool[np.ndarray, "concept text"]) -> Options:
    """Each text once, and on either side as often as it was drawn."""
    tokens = tuple(dict.fromkeys(drawn))
    place = np.array([tokens.index(ids) for ids in drawn])
    sides = tuple(tuple(tuple(place[on].tolist()) for on in (here, ~here)) for here in found)
    return Options(tokens, tuple(map(len, tokens)), sides, ())
