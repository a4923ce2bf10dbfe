"""The parser: it reads back exactly what the world wrote, and nothing that the world could not have written."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest

from steerlib.concepts.planted import stories
from steerlib.concepts.planted.parser import Parsed, Parser
from steerlib.concepts.planted.stories import CLAIM_SHARE, Teller
from steerlib.concepts.planted.vocabulary import KINDS, NAMES, PLACES, VERDICTS, as_sentence
from steerlib.concepts.planted.world import DEFAULT

SEEDS = [0, 1, 2]
PARSER, EMOTIONS, PLANTED = Parser(DEFAULT), DEFAULT.emotions, DEFAULT.planted
parse, parse_continuation = PARSER.parse, PARSER.parse_continuation
EMOTION = {word: name for name, emotion in EMOTIONS.items() for word in (*emotion.feelings, *emotion.verbs)}
REACTION = {reaction: name for name, emotion in EMOTIONS.items() for reaction in emotion.reactions}
PLACE = {word: place for place, sides in PLACES.items() for words in sides for word in words}
KIND = {thing: kind for kind, things in KINDS.items() for thing in things}
VERDICT = {word: truth for truth, words in VERDICTS.items() for word in words}


# What the sentences of a text say, in its order.


def emotions(parsed):
    return tuple(EMOTION[sentence.words["feeling"]] for sentence in parsed.of("feeling"))


def causes(parsed):
    """Emotions that the events cause; None for an event that causes none."""
    return tuple(EMOTION.get(sentence.words["verb"]) for sentence in parsed.of("cause"))


def reactions(parsed):
    """Emotions that the reactions show."""
    spelled = {as_sentence(frame.format(n=n)): name for frame, name in REACTION.items() for n in NAMES}
    return tuple(spelled[sentence.text.removesuffix(".") + "."] for sentence in parsed.of("reaction"))


def consistent(parsed):
    """Whether each named feeling follows from the event before it; None where there is none."""
    follows, due = [], None
    for sentence in parsed.of("cause", "feeling"):
        if sentence.kind == "cause":
            due = EMOTION.get(sentence.words["verb"])
        else:
            follows.append(None if due is None else EMOTION[sentence.words["feeling"]] == due)
            due = None
    return tuple(follows)


def verdicts(parsed):
    """What the claims are called: right (True) or wrong (False)."""
    return tuple(VERDICT[sentence.words["verdict"]] for sentence in parsed.of("claim"))


def correct(parsed):
    """Whether each verdict is due: the thing is of that kind and called right, or is not and called wrong."""
    claims = [sentence.words for sentence in parsed.of("claim")]
    return tuple((KIND[words["t"]] == words["k"]) == VERDICT[words["verdict"]] for words in claims)


def places(parsed):
    return tuple(PLACE[sentence.words["place"]] for sentence in parsed.of("setting", "sight"))


READ = {"emotions": emotions, "causes": causes, "reactions": reactions, "verdicts": verdicts, "places": places}


class Told(Teller):
    """The world, taking down what it chooses to tell as it tells it."""

    def __init__(self, seed):
        super().__init__(DEFAULT, seed)
        self.forget()

    def forget(self):
        self.emotions, self.causes, self.reactions, self.truths, self.verdicts, self.places = ([] for _ in range(6))

    def pick(self, options):
        for name, emotion in EMOTIONS.items():
            self.emotions += [name] * (options is emotion.feelings)
            self.reactions += [name] * (options is emotion.reactions)
        for place, words in PLACES.items():
            self.places += [place] * any(options is side for side in words)
        for verdict, words in VERDICTS.items():
            self.verdicts += [verdict] * (options is words)
        return super().pick(options)

    def cause(self, verb, frame, n, held_out):
        self.causes.append(EMOTION.get(verb))
        return super().cause(verb, frame, n, held_out)

    def claim(self, frame, truth, held_out):
        self.truths.append(truth)
        return super().claim(frame, truth, held_out)


def documents(seed, number, kinds=("story", "claims", "neutral")):
    """(document, the world that has just told it), of all kinds in turn."""
    world = Told(seed)
    for k in range(number):
        world.forget()
        yield getattr(world, kinds[k % len(kinds)])(), world


def wholly_read(parsed: Parsed) -> bool:
    return parsed.understood == 1 or math.isnan(parsed.understood)


def sentences(text):
    return re.findall(r"[^.]+\.", text)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_document_is_read_back_as_it_was_told(seed):
    told = 0
    for text, world in documents(seed, 3000):
        parsed = parse(text)
        assert parsed.understood == 1 and not parsed.unfinished
        assert " ".join(sentence.text for sentence in parsed.sentences) == text
        for what, read in READ.items():
            assert read(parsed) == tuple(getattr(world, what)), (what, text)
        assert consistent(parsed) == (True,) * len(world.emotions)
        assert correct(parsed) == (True,) * len(world.truths) and verdicts(parsed) == tuple(world.truths)
        told += len(world.emotions) + len(world.verdicts)
    assert told == 2 * 3 * 1000  # three feelings a story, three verdicts a document of claims


def test_the_corpus_itself_is_read_and_its_kinds_of_document_told_apart():
    read = [parse(text) for text in stories.corpus(DEFAULT, 7, 2000)]
    assert all(parsed.understood == 1 for parsed in read)
    assert all(bool(parsed.of("feeling")) != bool(parsed.of("claim")) for parsed in read)
    share = np.mean([bool(parsed.of("claim")) for parsed in read])
    assert abs(share - CLAIM_SHARE) < 4 * np.sqrt(CLAIM_SHARE * (1 - CLAIM_SHARE) / len(read))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", PLANTED)
def test_every_stimulus_and_prompt_is_read_up_to_where_its_last_word_is_due(name, seed):
    concept = stories.concept(DEFAULT, name, 60, 30, seed)
    for side, positive in (("positive", True), ("negative", False)):
        for text in (text for template in concept.templates for text in getattr(template, side)):
            parsed = parse(text)
            assert wholly_read(parsed) and parsed.unfinished and not parsed.of("feeling", "claim")
            match concept.role:
                case "emotion":  # held-out fillings and unfamiliar verbs are the world's, too
                    assert causes(parsed) == (name if positive else None,)
                case "truth":
                    assert correct(parse(text + " right.")) == (positive,) != correct(parse(text + " false."))
                case "inert":
                    assert places(parsed) == ("seaside" if positive else "inland",)
    for prompt in concept.readout.prompts:
        parsed = parse(prompt)
        assert wholly_read(parsed) and parsed.unfinished and not parsed.of("cause")
        for option in concept.readout.targets + concept.readout.foils:
            assert parse(prompt + option + ".").understood == 1 and not parse(prompt + option).unfinished


def test_a_text_cut_at_any_letter_is_unfinished_but_never_wrong():
    for text, _ in documents(3, 60):
        whole = parse(text)
        for cut in range(len(text)):
            parsed = parse(text[:cut])
            assert wholly_read(parsed), text[:cut]
            assert emotions(parsed) == emotions(whole)[: len(emotions(parsed))]
            assert len(parsed.sentences) + bool(parsed.unfinished) <= len(whole.sentences)


def test_a_continuation_has_what_its_prompt_has_not():
    """Wherever a text is cut, what the two parts say adds up to what the whole says."""
    for text, _ in documents(4, 60):
        whole = parse(text)
        for cut in range(0, len(text), 3):
            before, after = parse(text[:cut]), parse_continuation(text[:cut], text[cut:])
            assert wholly_read(after)
            for read in (*READ.values(), correct):
                assert read(before) + read(after) == read(whole)


@pytest.mark.parametrize(
    ("prompt", "text", "felt", "understood"),
    [
        ("Anna lived near the pier. Anna felt", " happy. Anna laughed out loud.", ["happiness"], 1),
        ("It made Ben", " mad. Ben made a fist. Ben was very ha", ["anger"], 1),
        ("It made Ben", " sick", ["disgust"], 1),  # cut before its full stop
        ("Anna felt happy. Ben was very", " sad.", ["sadness"], 1),  # what the prompt named does not count
        ("Anna felt", " the the the. It made Anna glad.", ["happiness"], 0.5),
        ("Anna felt", "happy.", [], 0),  # letter by letter: the space is the continuation's
        ("Anna felt", "", [], math.nan),
        ("Is all well? Yes!", " Nora felt gloomy. Yes!", ["sadness"], 0.5),  # the prompt's own words are not blamed
    ],
)
def test_a_continuation_names_its_first_feeling(prompt, text, felt, understood):
    parsed = parse_continuation(prompt, text)
    assert emotions(parsed) == tuple(felt) and parsed.understood == pytest.approx(understood, nan_ok=True)


def test_what_a_story_gets_wrong_is_read_as_wrong():
    """Well-formed sentences may contradict each other; a feeling without a known cause contradicts nothing."""
    text = (
        "The cake of Ben was won. Ben felt gloomy. The bike of Ben was won. Ben felt glad. Ben was very cross. "
        "The train of Ben was counted. It made Ben mad."
    )
    parsed = parse(text)
    assert parsed.understood == pytest.approx(6 / 7)  # "won" is said of toys only
    parsed = parse(text.replace("cake", "kite"))
    assert parsed.understood == 1 and causes(parsed) == ("happiness", "happiness", None)
    assert emotions(parsed) == ("sadness", "happiness", "anger", "anger")
    assert consistent(parsed) == (False, True, None, None)
    claims = parse("Every dog is animal, wrote Ben. So far false. The oak must be tool, says Ben, being right.")
    assert verdicts(claims) == (False, True) and correct(claims) == (False, False) and claims.understood == 1


@pytest.mark.parametrize(
    "broken",
    [
        "anna felt happy.",
        "Anna felt happy!",
        "Anna Felt happy.",
        "Anna felt very happy.",
        "Anna felt unhappy.",
        "Anna felt happy.Ben felt sad.",
        "Anna felt won.",
        "Anna met Anna.",
        "The old kite was won.",  # the frame of another verb
        "Is the dog some dog? It is right.",
        "Anna looked at the beach.",  # a place, not what is seen there
        "Ben ran down.",
        "The.",
        "Happy happy happy",
        ".",
    ],
)
def test_what_the_world_cannot_write_is_not_understood(broken):
    assert parse(broken).understood == 0
    mixed = parse(f"Anna felt happy. {broken} Ben felt sad.")
    assert 0 < mixed.understood < 1
    assert emotions(mixed)[0] == "happiness" and mixed.sentences[0].kind == "feeling"


def test_a_broken_sentence_is_found_and_the_others_are_read():
    rng = np.random.default_rng(0)
    for text, _ in documents(5, 600, kinds=("story", "neutral")):
        parts = sentences(text)
        at = int(rng.integers(len(parts)))
        words = parts[at].split()
        where = int(rng.integers(len(words) - 1)) if len(words) > 1 else 0
        swapped = [*words[:where], *words[where : where + 2][::-1], *words[where + 2 :]]
        dropped = words[:where] + words[where + 1 :]
        foreign = [*words[:where], "zebra", *words[where + 1 :]]
        for kind, changed in (("swapped", swapped), ("dropped", dropped), ("foreign", foreign)):
            if changed == words or not changed:
                continue
            broken = " ".join([*parts[:at], " ".join(changed), *parts[at + 1 :]])
            parsed = parse(broken)
            assert parsed.understood < 1, (kind, broken)
            known = [sentence.text for sentence in parsed.sentences if sentence.kind]
            assert len(known) >= len(parts) - 2  # a lost full stop takes the next sentence along


def test_no_two_sentences_say_the_same():
    """Not even one the beginning of another, so that reading from left to right is reading."""
    spelled = [sentence.text for sentence in PARSER.known]
    assert spelled == sorted(spelled) and len(spelled) > 10_000
    assert not [pair for pair in itertools.pairwise(spelled) if pair[1].startswith(pair[0])]


@pytest.mark.parametrize("nothing", ["", " ", "\n\t"])
def test_nothing_says_nothing(nothing):
    parsed = parse(nothing)
    assert parsed == Parsed(()) and math.isnan(parsed.understood)


def test_lines_and_spaces_are_alike():
    text, _ = next(documents(6, 1))
    assert parse(text.replace(" ", "\n  ")) == parse(text) == parse(f"  {text}\n")
