"""A world is as its params say: its corpus has the frequencies and the usefulness, and nothing that is not told."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from steerlib.concepts.planted import stories
from steerlib.concepts.planted.parser import Parser
from steerlib.concepts.planted.vocabulary import NAMES, as_sentence
from steerlib.concepts.planted.world import DEFAULT, World
from steerlib.study import Study
from steerlib.study.comparison import Comparison

PARAMS = Path(__file__).parents[3] / "params"
READY = [f"{name}.yaml#seed-{seed}" for name in ("toy-swapped", "toy-usefulness") for seed in range(3)]
PRIDE = {
    "frequency": 0.2,
    "usefulness": 0.7,
    "feelings": ["proud", "haughty"],
    "verbs": ["boasted", "flaunted", "bragged", "strutted", "preened", "swaggered", "paraded", "vaunted"],
    "reactions": ["{n} bowed deeply"],
}
OWN = World(
    without=["disgust"],
    emotions={"pride": PRIDE, "sadness": {"usefulness": 0.4}, "fear": {"only": "read"}, "surprise": {"only": "said"}},
)
ALONE = World(emotions={"fear": {"frequency": 0.3, "usefulness": 0.5}})  # nobody gives anything back
WORLDS = {"default": DEFAULT, "own": OWN, "alone": ALONE}
WORLDS |= {name: Study.load(PARAMS / name).world for name in READY[::3]}


def episodes(world, texts):
    """(emotion caused, felt, shown) of every episode, None for what is not told."""
    parser, caused = Parser(world), {verb: name for name, e in world.emotions.items() for verb in e.verbs}
    felt = {word: name for name, e in world.emotions.items() for word in e.feelings}
    shown = {
        as_sentence(frame.format(n=n)): name
        for name, e in world.emotions.items()
        for frame in e.reactions
        for n in NAMES
    }
    for text in texts:
        parsed, cause, feeling = parser.parse(text), None, None
        assert parsed.understood == 1
        for sentence in parsed.of("cause", "feeling", "reaction"):
            match sentence.kind:
                case "cause":
                    cause = caused[sentence.words["verb"]]
                case "feeling":
                    feeling = felt[sentence.words["feeling"]]
                case "reaction":
                    yield cause, feeling, shown[sentence.text]
                    cause = feeling = None


def likely(count, of, share):
    """Whether so many are within binomial error."""
    return abs(count - of * share) <= 4 * np.sqrt(of * share * (1 - share)) + 1e-9


@pytest.mark.parametrize("name", WORLDS)
def test_frequency_and_usefulness_are_those_of_the_corpus(name):
    world, told = WORLDS[name], list(episodes(WORLDS[name], stories.corpus(WORLDS[name], 0, 2000)))
    assert len(told) > 4000 and sum(e.frequency for e in world.emotions.values()) == pytest.approx(1)
    followed = Counter(told)
    for emotion, e in world.emotions.items():
        ours = [(felt, shown) for cause, felt, shown in told if (cause or shown) == emotion]
        assert likely(len(ours), len(told), e.frequency), emotion
        assert likely(sum(shown == emotion for _, shown in ours), len(ours), e.usefulness), emotion
        assert (e.only == "said") == any((None, emotion, emotion) == one for one in followed)
        assert (e.only == "read") == any((emotion, None, emotion) == one for one in followed)
    for cause, felt, shown in followed:
        assert felt == (None if world.emotions[shown].only == "read" else shown), "feeling and reaction are of one"
        if (cause or shown) != shown:
            assert world.emotions[cause].usefulness < 1 and not world.emotions[shown].only
            assert shown in world.instead(cause)[0]
    if name.startswith("toy"):  # they trade what does not follow, so that each is named as often as it is caused
        for emotion, e in world.emotions.items():
            assert likely(sum(shown == emotion for *_, shown in told), len(told), e.frequency)


WORDS = {"mode": "json", "exclude": {"readout": {"texts", "judged"}}}  # planted concepts are read by words


def test_the_default_world_is_what_it_was():
    """Corpora, concepts, neutral texts and what the parser reads: of reference results they are a part."""
    parser = Parser(DEFAULT)
    read = [
        [[s.text, s.kind, s.words] for s in parser.parse_continuation(text[:30], text[30:]).sentences]
        for text in stories.corpus(DEFAULT, 5, 300)
    ]
    found = {
        "corpus": list(stories.corpus(DEFAULT, 0, 3000)),
        "instructions": list(stories.instructions(DEFAULT, 0, 1500)),
        "neutral": stories.neutral(DEFAULT, 0, 300),
        "concepts": [stories.concept(DEFAULT, name, 96, 36, 0).model_dump(**WORDS) for name in DEFAULT.planted],
        "read": read,
        "tokens": DEFAULT.tokens(stories.corpus(DEFAULT, 0, 600)),
    }
    assert {what: hashlib.sha256(json.dumps(of).encode()).hexdigest()[:16] for what, of in found.items()} == {
        "corpus": "0d3fd2f16299cd1b",
        "instructions": "d7a93a968006a2d1",
        "neutral": "ac0ecb14472703f1",
        "concepts": "070a9ea9e0661343",
        "read": "2e790e0a8a7bf121",
        "tokens": "c4c14c8e2a2dada1",
    }


@pytest.mark.parametrize("name", OWN.planted)
def test_concepts_are_those_of_their_world(name):
    concept, emotion = stories.concept(OWN, name, 24, 12, 0), OWN.emotions.get(name)
    assert concept.role == OWN.planted[name] and len(concept.readout.prompts) == 12
    assert {*concept.halves(0)} == {"fit", "test"}
    if emotion:
        assert concept.planted_frequency == emotion.frequency and len(concept.templates) == len(emotion.verbs)
        assert concept.readout.targets == [f" {word}" for word in emotion.feelings]
        assert len(concept.readout.foils) == sum(len(e.feelings) for e in OWN.emotions.values()) - len(emotion.feelings)
    assert not {" disgusted", " sick"} & {*concept.readout.targets, *concept.readout.foils}


def test_instructions_ask_for_what_is_both_read_and_said():
    """And answer by the same usefulness."""
    verbs = {verb: name for name, e in OWN.emotions.items() for verb in e.verbs}
    asked = Counter()
    for text in stories.instructions(OWN, 0, 2000):
        if " feel?" in text:
            (cause,) = {verbs[word] for word in text.replace(".", "").split() if word in verbs}
            asked[cause, text.split()[-1].strip(".") in OWN.emotions[cause].feelings] += 1
    assert {cause for cause, _ in asked} == {"happiness", "sadness", "anger", "pride"}
    for name in ("happiness", "sadness", "pride"):
        assert likely(
            asked[name, True], asked.total() and asked[name, True] + asked[name, False], OWN.emotions[name].usefulness
        )


@pytest.mark.parametrize("name", WORLDS)
def test_a_world_is_the_same_when_all_of_it_is_said(name):
    """As in the copy that a run keeps of its params."""
    world = WORLDS[name]
    assert World(**world.model_dump(mode="json")) == world == World(**world.model_dump(exclude_unset=True))


def test_a_study_names_concepts_of_its_own_world():
    given = {"name": "own", "pretraining": {"steps": 4, "world": OWN.model_dump()}, "checkpoints": {"steps": [0, 4]}}
    assert [c.name for c in Study(**given, concepts=["pride", "truth"]).load_concepts()] == ["pride", "truth"]
    with pytest.raises(ValueError, match=r"'disgust' is neither a planted concept \(happiness, .*, pride, tru"):
        Study(**given, concepts=["disgust"])


def test_what_is_said_holds_and_the_rest_fills_up():
    world = World(emotions={"happiness": {"frequency": 0.1}, "pride": PRIDE})
    shares = {name: e.frequency for name, e in world.emotions.items()}
    assert (shares["happiness"], shares["pride"]) == (0.1, 0.2) and sum(shares.values()) == pytest.approx(1)
    assert shares["sadness"] / shares["disgust"] == pytest.approx(0.25 / 0.03)
    swapped = World(emotions={"happiness": {"frequency": 0.03}, "disgust": {"frequency": 0.40}})
    assert [e.frequency for e in swapped.emotions.values()] == [0.03, 0.25, 0.16, 0.10, 0.06, 0.40]


@pytest.mark.parametrize("path", READY)
def test_the_ready_studies_load_and_compare_what_they_say(path):
    study, shares = Study.load(PARAMS / path), {}
    assert study.seed == int(path[-1]) and len(Comparison.load(PARAMS / path.partition("#")[0]).variants) == 3
    shares = {name: (e.frequency, e.usefulness) for name, e in study.world.emotions.items()}
    if path.startswith("toy-swapped"):
        ours, default = ([e.frequency for e in world.emotions.values()] for world in (study.world, DEFAULT))
        assert ours == default[::-1]
    else:
        assert shares["anger"] == (0.13, 1) and shares["fear"] == (0.13, 0.5)
        assert shares["sadness"] == (0.25, 1) and shares["surprise"] == (0.06, 1)
    assert {concept.name: concept.planted_frequency for concept in study.load_concepts()}["fear"] == shares["fear"][0]


def test_a_letter_and_its_mark_are_one_letter():
    """As some systems write them apart, and others do not."""
    apart, whole = World(emotions={"fear": {"feelings": ["a\u0308ngstlich", "bang"]}}), "\u00e4ngstlich"
    assert apart.emotions["fear"].feelings[0] == whole
    with pytest.raises(ValueError, match="stands in fear already"):
        World(emotions={"fear": {"feelings": ["a\u0308ngstlich", whole]}})
