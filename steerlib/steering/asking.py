"""What a model is asked, in tokens: continuations that it can tell apart, and texts that are not one to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from steerlib import SteerlibError
from steerlib.concepts import Concept, Item
from steerlib.concepts.reading.pairing import by_length
from steerlib.concepts.repeats import normalised
from steerlib.model.encoder import Encoder, quoted

Ids = tuple[int, ...]
SIDES = (lambda item: item.targets, lambda item: item.foils)
SHOWN = 3  # examples
APART = 0.2  # by what share of the longer one two texts may differ in tokens: per token, a longer text's end is easier


def continuations(encoder: Encoder, cases: Sequence[Item], names: Sequence[str]) -> dict[str, Ids]:
    """The tokens of all targets and foils of cases that share their prompt, by how they are spelled.

    Raises SteerlibError naming the concept, where one has no tokens of its own (`Encoder.after`), and where a target
    and a foil are the same tokens or one begins with the other: the shorter one is then the likelier in any model.
    """
    words = list(dict.fromkeys(word for case in cases for word in (*case.targets, *case.foils)))
    try:
        tokens = dict(zip(words, encoder.after([cases[0].prompt] * len(words), words), strict=True))
    except SteerlibError as error:
        raise SteerlibError(f"concept {', '.join(dict.fromkeys(names))}: readout option {error}") from None
    for name, case in zip(names, cases, strict=True):
        at = f"after {quoted(case.prompt)}"
        if unknown := [word for word in (*case.targets, *case.foils) if encoder.tokenizer.unk_token_id in tokens[word]]:
            raise SteerlibError(
                f"concept {name}: readout option {unknown[0]!r} {at} holds what this model's tokenizer has no token "
                "for; choose another word (with the space before it, as in ' happy')"
            )
        for target, foil in ((target, foil) for target in case.targets for foil in case.foils):
            both = tokens[target], tokens[foil]
            if both[0][: len(both[1])] == both[1][: len(both[0])]:
                shown = " and ".join(f"{word!r} ({encoder.pieces(tokens[word])})" for word in (target, foil))
                raise SteerlibError(
                    f"concept {name}: a target and a foil are the same tokens, or one begins with the other and is the "
                    f"likelier in any model: {shown} {at}; change one, or put a full stop behind both"
                )
    return tokens


def check_distinct(encoder: Encoder, texts: Sequence[str], name: str) -> list[list[int]]:
    """Ids of a concept's texts. Raises SteerlibError when texts that are not one, are one to the model."""
    first: dict[Ids, str] = {}
    encoded = encoder(texts)
    for text, ids in zip(texts, encoded, strict=True):
        other = first.setdefault(tuple(ids), text)
        if normalised(text) != normalised(other):
            raise SteerlibError(
                f"concept {name}: {quoted(other)} and {quoted(text)} are the same tokens to this model "
                f"({encoder.pieces(ids)}); remove one, or take a tokenizer that knows their words"
            )
    return encoded


def examine(encoder: Encoder, concept: Concept, cases: Sequence[Item]) -> tuple[list[str], list[str], list[str]]:
    """What is wrong with a concept's texts and options to this model, what is to look at, and how they are split."""
    problems, warnings, faults, told, shared = [], [], [], {}, {}
    texts = texts_of(concept)
    try:
        warnings += _as_read(encoder, texts, check_distinct(encoder, texts, concept.name))
    except SteerlibError as error:
        problems.append(str(error))
    if concept.readout.texts:
        try:
            concept, paired = matched(encoder, concept)
            cases = concept.readout.items
        except SteerlibError as error:
            return [*problems, str(error)], warnings, []
    for case in cases:
        try:
            tokens = continuations(encoder, [case], [concept.name])
        except SteerlibError as error:
            faults.append(str(error))
            continue
        told |= tokens
        pairs = ((tokens[target], tokens[foil]) for target in case.targets for foil in case.foils)
        shared |= {pair: case.prompt for pair in pairs if pair[0][0] == pair[1][0]}
    problems += [f"{fault}; and so at {len(faults) - 1} more prompts" for fault in faults[:1]]
    if concept.readout.texts:
        return problems, warnings, paired
    if concept.readout.judged:
        return problems, warnings, []
    if shared:
        (target, foil), prompt = next(iter(shared.items()))
        warnings.append(
            f"first token shared by target and foil: {len(shared)} pairs, such as {encoder.pieces(target)} and "
            f"{encoder.pieces(foil)} after {quoted(prompt)}; only what follows tells them apart"
        )
    several = [f"{option!r} = {encoder.pieces(ids)}" for option, ids in told.items() if len(ids) > 1]
    notes = [f"{len(told) - len(several)} of {len(told)} targets and foils are one token, {len(several)} several"]
    more = [f"{len(several) - SHOWN} more of several tokens"] if len(several) > SHOWN else []
    return problems, warnings, notes + several[:SHOWN] + more


def matched(encoder: Encoder, concept: Concept) -> tuple[Concept, list[str]]:
    """The concept with texts of its readout paired anew where they differ in length, and what became of them.

    Pairs no further `APART` are kept; of the others as many as can be are paired, from the shortest on; what finds no
    partner is left out. Raises SteerlibError where fewer than three pairs are left.
    """
    if not concept.readout.texts:
        return concept, []
    items = concept.readout.items
    prompts = [item.prompt for item in items]
    sides = [encoder.after(prompts, [text for item in items for text in side(item)]) for side in SIDES]
    partner = by_length(*([len(ids) for ids in side] for side in sides), APART)
    kept = [items[i].model_copy(update={"foils": items[partner[i]].foils}) for i in sorted(partner)]
    if len(kept) < 3:
        raise SteerlibError(
            f"concept {concept.name}: readout: texts: {len(kept)} of {len(items)} pairs of texts are alike in length "
            f"(to {APART:.0%} of their tokens); at least 3 are needed: add texts"
        )
    anew, out = sum(i != k for i, k in partner.items()), len(items) - len(kept)
    told = [f"{len(kept)} pairs of texts as long as each other, {anew} of them paired anew, {out} left out"]
    return concept.model_copy(update={"readout": concept.readout.model_copy(update={"items": kept})}), told


def difference(encoder: Encoder, other: Encoder, texts: Sequence[str]) -> str:
    """How many texts two tokenizers split otherwise, and one of them; empty where there is none."""
    try:
        ids, others = (one.split(texts) if texts else [] for one in (encoder, other))
    except SteerlibError as error:
        return str(error)
    if not (apart := [k for k, pair in enumerate(zip(ids, others, strict=True)) if pair[0] != pair[1]]):
        return ""
    return f"{len(apart)} of {len(texts)} texts are other tokens, such as {quoted(texts[apart[0]])}"


def texts_of(concept: Concept) -> list[str]:
    """All of its stimuli and prompts."""
    stimuli = [text for template in concept.templates for text in template.texts]
    return list(dict.fromkeys(stimuli + [case.prompt for case in concept.readout.cases]))


def all_texts(concepts: Sequence[Concept]) -> list[str]:
    """What some concepts ask: their texts, and prompts with each of their options."""
    asked = (c.prompt + option for concept in concepts for c in concept.readout.cases for option in c.targets + c.foils)
    return [text for concept in concepts for text in texts_of(concept)] + list(asked)


def _as_read(encoder: Encoder, texts: Sequence[str], encoded: Sequence[Sequence[int]]) -> Iterator[str]:
    """What is lost of texts, or of what stands before their last token."""

    def bare(text: str) -> tuple[str, bool]:
        return "".join(text.split()), text[-1:].isspace()

    back = [encoder.tokenizer.decode(ids, skip_special_tokens=True) for ids in encoded]
    if other := [k for k, text in enumerate(texts) if bare(back[k]) != bare(text)]:
        as_read = quoted(back[other[0]])
        yield f"{len(other)} texts are read otherwise than written, such as {quoted(texts[other[0]])} as {as_read}"
    if single := [text for text, ids in zip(texts, encoded, strict=True) if len(ids) == 1]:
        yield f"{len(single)} texts are one token, such as {quoted(single[0])}: nothing before it is known there"
