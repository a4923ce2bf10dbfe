"""Judges of generated text: how far each text expresses a concept, and how well it is still written.

Those that were trained, which a readout can be made of, are among the `classifiers`.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from jaxtyping import Float

from steerlib.concepts import Concept, Item
from steerlib.concepts.planted.parser import Parsed, Parser
from steerlib.concepts.planted.world import World
from steerlib.stages.classifiers import Judge, named, own_words, words
from steerlib.study import Study

# --- words --------------------------------------------------------------------------------------------------------


def lexicon(text: str, lexemes: Sequence[str]) -> float:
    """Whether a text holds one of the words or phrases: 1 or 0, NaN when none of them has a letter or digit.

    Whole words count: "unhappy" is not "happy". The mean over texts is the share that holds one.
    """
    phrases = [f" {' '.join(words(lexeme))} " for lexeme in lexemes if words(lexeme)]
    spaced = f" {' '.join(words(text))} "
    return float(any(phrase in spaced for phrase in phrases)) if phrases else math.nan


def distinct_n(texts: Sequence[str], n: int) -> Float[np.ndarray, " text"]:
    """Distinct n-grams of words among all n-grams of a text; NaN below n words.

    distinct-n of Li et al. (2016, arXiv 1510.03055), which divides by the number of words. Divided by n-grams, a text
    without any repetition has 1 for every n. What is missing to 1 is the share of n-grams that were there before:
    seq-rep-n of Welleck et al. (2020, arXiv 1908.04319), over words instead of tokens, so that models with different
    tokenizers can be compared.
    """
    grams = [list(zip(*(written[k:] for k in range(n)), strict=False)) for written in map(words, texts)]
    return np.array([len(set(of_text)) / len(of_text) if of_text else np.nan for of_text in grams])


def listed(side: str, concept: Concept, cases: Sequence[Item], texts: Sequence[str]) -> Float[np.ndarray, " text"]:
    """Whether a text holds one of its prompt's targets, or of its foils (``side``)."""
    return np.array([lexicon(text, getattr(case, side)) for case, text in zip(cases, texts, strict=True)])


# --- the planted world --------------------------------------------------------------------------------------------

# Kind of sentence that tells about a concept that is no feeling, and which of its words does.
TELLING = {"truth": ("claim", "verdict"), "inert": ("sight", "place")}


def planted(concept: Concept, text: Parsed) -> float:
    """Whether the first feeling that a text names is the concept's.

    Of truth it is the first verdict, of place the first sight. A text that gets no sentence of that kind right has 0.
    """
    kind, slot = TELLING.get(concept.role, ("feeling", "feeling"))
    targets = {target.strip() for target in concept.readout.targets}
    return any(sentence.words[slot] in targets for sentence in text.of(kind)[:1])


def of_world(world: World) -> dict[str, Judge]:
    """Judges of what a planted world's parser makes of a text; NaN for a concept that is not planted there."""
    parser = Parser(world)

    def of_texts(
        judge: Callable[[Concept, Parsed], float], concept: Concept, cases: Sequence[Item], texts: Sequence[str]
    ) -> Float[np.ndarray, " text"]:
        if concept.role != world.planted.get(concept.name):  # a file's may merely have the name of a planted one
            return np.full(len(texts), np.nan)
        pairs = zip(cases, texts, strict=True)
        read = [judge(concept, parser.parse_continuation(case.prompt, text)) for case, text in pairs]
        return np.array(read, dtype=float)

    return {"planted": partial(of_texts, planted), "understood": partial(of_texts, lambda _, text: text.understood)}


# --- all of them --------------------------------------------------------------------------------------------------

JUDGES: dict[str, Judge] = {  # add a judge here, and every study has it
    "targets": partial(listed, "targets"),
    "foils": partial(listed, "foils"),
    "distinct_2": lambda concept, cases, texts: distinct_n(texts, 2),
    "repetition_4": lambda concept, cases, texts: 1 - distinct_n(texts, 4),
}


def of_texts(study: Study, concepts: Sequence[Concept]) -> dict[str, Judge]:
    """``own_words``, where a concept is read by texts or a judge: no word is its own there, but held-out texts are.

    Whether they rather find it in a text, 1 or 0; NaN for a concept that is read by words.
    """
    judges = {c.name: own_words(c, study.seed) for c in concepts if c.readout.judged or c.readout.texts}

    def found(concept: Concept, cases: Sequence[Item], texts: Sequence[str]) -> Float[np.ndarray, " text"]:
        if concept.name not in judges:
            return np.full(len(texts), np.nan)
        return (judges[concept.name](concept, cases, texts) > 0.5).astype(float)

    return {"own_words": found} if judges else {}


def chosen(study: Study, concepts: Sequence[Concept]) -> dict[str, Judge]:
    """The judges of a study by name: these, its world's, ``own_words`` (`of_texts`) where a concept has no words, and
    ``classifier`` where generation.classifier names one. Raises SteerlibError (`classifiers.named`).
    """
    classifier = named(study, concepts)
    trained = {"classifier": classifier} if classifier else {}
    return JUDGES | of_world(study.world) | of_texts(study, concepts) | trained
