"""The planted world is as it says: frequencies, what is held out, and pairs that differ in the concept only."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chi2_contingency, chisquare

from steerlib.concepts.planted import stories
from steerlib.concepts.planted.vocabulary import CLAIMS, FOODS, KINDS, PLACES, TOYS, UNFAMILIAR, VERDICTS
from steerlib.concepts.planted.world import DEFAULT, World

DOCUMENTS = 4000
EMOTIONS, PLANTED = DEFAULT.emotions, DEFAULT.planted
FEELING = {word: name for name, emotion in EMOTIONS.items() for word in emotion.feelings}
VERB = {verb: name for name, emotion in EMOTIONS.items() for verb in emotion.verbs}
PLACE = {word: name for name, lists in PLACES.items() for words in lists for word in words}
KIND = {thing: kind for kind, things in KINDS.items() for thing in things}
EMOTIONAL = {*FEELING, *VERB}
CLAIM = re.compile(  # every claim frame with its thing, its kind and, in the corpus, its verdict
    "|".join(
        re.escape(frame)
        .replace(r"\{t\}", f"(?P<thing{k}>\\w+)")
        .replace(r"\{k\}", f"(?P<kind{k}>\\w+)")
        .replace(r"\{n\}", r"\w+")
        + f"(?: (?P<verdict{k}>\\w+)\\.)?"
        for k, frame in enumerate(CLAIMS)
    )
)
planted = pytest.mark.parametrize("name", PLANTED)


@pytest.fixture(scope="module")
def corpus():
    return list(stories.corpus(DEFAULT, 0, DOCUMENTS))


def words(text):
    return re.findall(r"\w+", text.lower())


def causes(texts):
    """(verb, filling) of every sentence that has a verb of an emotion or an unfamiliar one, as a count."""
    sentences = (set(words(sentence)) for text in texts for sentence in text.split("."))
    return Counter(
        (verb, filling)
        for sentence in sentences
        for verb in sentence & {*VERB, *UNFAMILIAR}
        for filling in sentence & {*FOODS, *TOYS}
    )


def claims(text):
    """(frame, thing, kind, verdict) of every claim in a text; the verdict is None where it is still due."""
    for match in CLAIM.finditer(text):
        k = next(k for k in range(len(CLAIMS)) if match[f"thing{k}"])
        yield k, match[f"thing{k}"], match[f"kind{k}"], match[f"verdict{k}"]


def made(name, pairs=60, prompts=30, seed=0):
    return stories.concept(DEFAULT, name, pairs, prompts, seed)


def pairs_of(concept):
    return [pair for template in concept.templates for pair in zip(template.positive, template.negative, strict=True)]


def test_a_seed_is_a_world_of_its_own():
    one, again, other = (list(stories.corpus(DEFAULT, seed, 50)) for seed in (0, 0, 1))
    assert one == again and not set(one) & set(other)
    assert list(stories.corpus(DEFAULT, 0, 80))[:50] == one  # a longer corpus goes on where a shorter one ends
    for name in PLANTED:
        assert made(name) == made(name) != made(name, seed=1)
    assert stories.neutral(DEFAULT, 0, 9) == stories.neutral(DEFAULT, 0, 9) != stories.neutral(DEFAULT, 1, 9)


def test_words_mean_one_thing():
    """No verb, feeling, place word, food or toy belongs to two things, or the planted truth would not be true."""
    kinds = [*FEELING, *VERB, *PLACE, *FOODS, *TOYS, *UNFAMILIAR, *KIND, *KINDS, *VERDICTS[True], *VERDICTS[False]]
    listed = sum(len(e.feelings) + len(e.verbs) for e in EMOTIONS.values()) + sum(map(len, (FOODS, TOYS, UNFAMILIAR)))
    assert len(FEELING) + len(VERB) + len(FOODS) + len(TOYS) + len(UNFAMILIAR) == listed
    assert [word for word, count in Counter(kinds).items() if count > 1] == []
    assert sum(emotion.frequency for emotion in EMOTIONS.values()) == pytest.approx(1)


def test_planted_frequencies_are_the_corpus_frequencies(corpus):
    """Feelings named, verbs causing them, claims among documents and right claims among claims, by chi-square."""
    shares = np.array([emotion.frequency for emotion in EMOTIONS.values()])
    for family in (FEELING, VERB):
        found = Counter(family[word] for text in corpus for word in words(text) if word in family)
        counts = np.array([found[name] for name in EMOTIONS])
        assert counts.sum() > DOCUMENTS / 2
        assert chisquare(counts, counts.sum() * shares).pvalue > 1e-3
    said = [list(claims(text)) for text in corpus]
    telling = sum(map(bool, said))
    right = [KIND[thing] == kind for text in said for _, thing, kind, _ in text]
    for count, n, p in ((telling, DOCUMENTS, stories.CLAIM_SHARE), (sum(right), len(right), 0.5)):
        assert abs(count - n * p) < 4 * np.sqrt(n * p * (1 - p))
    assert all(verdict in VERDICTS[KIND[thing] == kind] for text in said for _, thing, kind, verdict in text)


def test_a_story_feels_what_its_event_causes_wherever_it_happens(corpus):
    """The verb tells the feeling without exception; the place tells nothing."""
    table = np.zeros((len(EMOTIONS), len(PLACES)))
    for text in corpus:
        said = words(text)
        causes, feelings = ([family[word] for word in said if word in family] for family in (VERB, FEELING))
        assert causes == feelings
        for name in causes:
            table[list(EMOTIONS).index(name), list(PLACES).index(next(PLACE[w] for w in said if w in PLACE))] += 1
    assert chi2_contingency(table).pvalue > 1e-3


@pytest.mark.parametrize("name", EMOTIONS)
def test_stimuli_of_an_emotion_are_events_that_the_corpus_never_tells(corpus, name):
    shown = causes(corpus)
    assert len(shown) > 500  # so that what is absent is held out, and not just rare
    for positive, negative in pairs_of(made(name)):
        for text, known in ((positive, EMOTIONS[name].verbs), (negative, UNFAMILIAR)):
            ((verb, filling),) = causes([text])
            assert verb in known and (verb, filling) not in shown


def test_claims_in_stimuli_are_ones_that_the_corpus_never_makes(corpus):
    shown = {(frame, thing) for text in corpus for frame, thing, _, _ in claims(text)}
    assert len(shown) >= len(CLAIMS) * len(KIND) // 2
    concept = made("truth")
    for side, truth in zip(zip(*pairs_of(concept), strict=True), (True, False), strict=True):
        for text in side:
            ((frame, thing, kind, verdict),) = claims(text)
            assert verdict is None and (frame, thing) not in shown and (KIND[thing] == kind) is truth
    asked = [next(claims(prompt)) for prompt in concept.readout.prompts]
    assert not {(frame, thing) for frame, thing, _, _ in asked} & shown
    assert sum(KIND[thing] == kind for _, thing, kind, _ in asked) == len(asked) / 2


def test_unfamiliar_verbs_are_unfamiliar(corpus):
    said = Counter(word for text in corpus for word in words(text))
    assert {verb: said[verb] for verb in UNFAMILIAR if said[verb]} == {}


@planted
@pytest.mark.parametrize("seed", [0, 1])
def test_fitting_and_testing_share_no_template(name, seed):
    concept = made(name, seed=seed)
    fit, test = (concept.stimuli(split, seed) for split in ("fit", "test"))
    templates = [
        {
            template.name
            for template in concept.templates
            if set(template.positive) <= set(half.positive) and set(template.negative) <= set(half.negative)
        }
        for half in (fit, test)
    ]
    assert templates[0] | templates[1] == {t.name for t in concept.templates} and not templates[0] & templates[1]
    assert [len(np.unique(half.fold)) for half in (fit, test)] == [len(found) for found in templates]
    assert len(fit.fold) + len(test.fold) == len(pairs_of(concept))
    assert sorted(fit.texts + test.texts) == sorted(text for pair in pairs_of(concept) for text in pair)


@planted
@pytest.mark.parametrize("pairs", [1, 60, 97])
def test_there_are_as_many_pairs_and_prompts_as_asked(name, pairs):
    concept = made(name, pairs, prompts=11)
    assert len(pairs_of(concept)) >= pairs
    assert len(concept.readout.prompts) == 11
    assert len({len(template.positive) for template in concept.templates}) == 1
    assert concept.name == name and concept.role == PLANTED[name]


@pytest.mark.parametrize("name", [*EMOTIONS, "place"])
def test_partners_differ_in_the_concept_only(name):
    """Emotions: in the verb and what it is done to. Place: in the setting. Wording, names and asides are the same."""
    concepts = {*VERB, *UNFAMILIAR, *FOODS, *TOYS} if name in EMOTIONS else set(PLACE)
    for pair in pairs_of(made(name)):
        ours, rest = ([[w for w in words(text) if (w in concepts) is own] for text in pair] for own in (True, False))
        assert rest[0] == rest[1] and ours[0] != ours[1] and len(ours[0]) == len(ours[1])
    if name == "place":
        assert all(PLACE[a] == "seaside" and PLACE[b] == "inland" for (a,), (b,) in map(_places, pairs_of(made(name))))


def _places(pair):
    return [[word for word in words(text) if word in PLACE] for text in pair]


def test_placebo_halves_come_from_one_distribution():
    """By chi-square over all words; the same test tells the halves of a real concept apart."""

    def p_value(name):
        sides = [Counter(w for t in side for w in words(t)) for side in zip(*pairs_of(made(name, 600)), strict=True)]
        common = [word for word, count in (sides[0] + sides[1]).items() if count >= 10]
        return chi2_contingency([[side[word] for word in common] for side in sides]).pvalue

    assert p_value("placebo") > 1e-3 and p_value("place") < 1e-6


@pytest.mark.parametrize("name", PLANTED)
def test_readout_prompts_give_nothing_away(name):
    """No emotion in any prompt (nor in neutral text), no place where the place is asked for, no option anywhere."""
    readout = made(name).readout
    said = {word for prompt in [*readout.prompts, *stories.neutral(DEFAULT, 0, 50)] for word in words(prompt)}
    assert not said & EMOTIONAL
    options = [option.strip() for option in (*readout.targets, *readout.foils)]
    asked = {word for prompt in readout.prompts for word in words(prompt)}
    assert not asked & {*options} and len(set(options)) == len(options)
    if name == "place":
        assert not asked & set(PLACE)
    assert all(option.startswith(" ") for option in (*readout.targets, *readout.foils))


def test_emotions_and_placebo_are_read_on_the_same_prompts():
    """One sweep then serves all of their readouts."""
    assert len({tuple(made(name).readout.prompts) for name in (*EMOTIONS, "placebo")}) == 1


def test_equal_worlds_have_the_very_same_concept_and_others_one_of_their_own():
    one, same, other = (
        stories.concept(World(emotions={"anger": {"feelings": words}}), "anger", 40, 20, 0)
        for words in (["cross", "irate"], ["cross", "irate"], ["cross", "livid"])
    )
    assert one is same and one.readout.targets == [" cross", " irate"] and other.readout.targets == [" cross", " livid"]


def test_a_concept_that_is_not_planted_is_a_key_error():
    with pytest.raises(KeyError, match="boredom"):
        made("boredom")
