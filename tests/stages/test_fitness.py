"""Whether a readout fits, by numbers that mean what they say; and a concept's own texts as a readout like any other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers import plain
from helpers.concept_files import POLITE, RUDE, as_csv, loaded
from helpers.linear import of_words, outspoken, plan, text, write_files
from helpers.models import build
from steerlib import SteerlibError
from steerlib.concepts import Concept
from steerlib.concepts.repeats import normalised
from steerlib.model import Prefix
from steerlib.stages import fitness, interventions, probing
from steerlib.stages.verdicts import FITS, enough, verdict
from steerlib.steering import Arm, Readouts, dose_response
from steerlib.steering.arms import local_slopes
from steerlib.steering.asking import APART, matched
from steerlib.steering.operators import Add

TEXTS = [
    {"prompt": "Anna felt", "targets": [" happy home a b"], "foils": [" sad a b c"]},
    {"prompt": "a b c d", "targets": [" glad e f g h"], "foils": [" mad h g e"]},
    {"prompt": "h g felt", "targets": [" joyful"], "foils": [" gloomy"]},
    {"prompt": "mad", "targets": [" glad a"], "foils": [" angry b"]},
]


def of_texts(items=TEXTS) -> Concept:
    templates = plain.concept().templates
    return Concept(name="style", templates=templates, readout={"items": items, "texts": True})


def per_token(model, case, *pushed) -> torch.Tensor:
    """Log-odds of a text against another, by the book."""
    target, foil = (scored[0] for scored in plain.scores(model, case, *pushed))
    return target / len(plain.ids(model, case.targets[0])) - foil / len(plain.ids(model, case.foils[0]))


# --- log-odds of texts ------------------------------------------------------------------------------------------------


def test_log_odds_of_texts_are_per_token_and_pushed_on_all_of_them(model):
    """Fast equals plain; the exact slope at alpha 0 is what finite differences say, with the push on the whole text."""
    concept, layer, step = of_texts(), 1, plain.steps(model, 1)[0]
    readouts = Readouts.of(model, [concept, plain.concept("joy", [item["prompt"] for item in TEXTS])])
    prefix = Prefix(model, [case.prompt for case in concept.readout.cases], readouts.branches)
    arm = Arm(Add(step[None]), torch.ones(1))
    gradients, states = prefix.gradients(readouts.log_odds, "generated")
    slope = local_slopes(gradients[:1, layer], states[layer], arm)[0, :, 0]
    found = dose_response(prefix, readouts.log_odds, layer, arm, [-1.0, 0.0, 1.0], "generated")[:, :, 0, 0]
    for k, case in enumerate(concept.readout.cases):
        pushed = [per_token(model, case, {layer: lambda h, a=a: h + a * step}, "generated") for a in (-1, 0, 1)]
        assert torch.allclose(found[k], torch.stack(pushed).to(found), atol=1e-5)
        ends = [per_token(model, case, {layer: lambda h, a=a: h + a * step}, "generated") for a in (-1e-2, 1e-2)]
        assert float(slope[k]) == pytest.approx(float(ends[1] - ends[0]) / 2e-2, abs=2e-3)


@pytest.mark.parametrize("prompts", [3, 4])
def test_slopes_of_a_readout_that_is_tried_are_those_of_pushes_as_long_as_the_state(model, prompts):
    """Along the mean difference of stimuli, in the layer where they are greatest."""
    concept = plain.concept("joy", plain.TEXTS[:prompts])
    readouts = Readouts.of(model, [concept])
    states = np.random.default_rng(0).standard_normal((model.n_layers, 6, model.hidden)).astype(np.float32)
    found = fitness.slopes(readouts, concept, states)
    texts = [case.prompt for case in concept.readout.cases]
    prefix, by_layer = Prefix(model, texts, readouts.branches), []
    for layer, (positive, negative) in enumerate(zip(states[:, :3], states[:, 3:], strict=True)):
        along = torch.from_numpy(positive.mean(0) - negative.mean(0))
        size = model.read(texts).states[layer].norm(dim=-1).mean()
        arm = Arm(Add((along / along.norm() * size)[None]), torch.ones(1))
        low, high = dose_response(prefix, readouts.log_odds, layer, arm, [-1e-2, 1e-2], "generated")[:, :, 0, 0].T
        by_layer.append((high - low) / 2e-2)
    expected = max(by_layer, key=lambda slopes: slopes.mean())
    assert len(found) == len(texts) and np.allclose(found, expected, rtol=0.02, atol=2e-3)


def test_share_and_rank_are_of_the_whole_vocabulary(model):
    concepts = [plain.concept(), plain.concept("late", **plain.LONG)]
    readouts = Readouts.of(model, concepts)
    cases = concepts[0].readout.cases
    share, rank = readouts.led_to(Prefix(model, [case.prompt for case in cases], readouts.branches).final[:, None])
    for k, concept in enumerate(concepts):
        for i, case in enumerate(concept.readout.cases):
            assert float(share[i, k]) == pytest.approx(
                float(torch.cat(plain.scores(model, case)).exp().sum()), rel=1e-4
            )
            logits = plain.forward(model, plain.ids(model, case.prompt)).logits[0, -1]
            best = max(logits[plain.ids(model, option)[0]] for option in case.targets + case.foils)
            assert int(rank[i, k]) == 1 + int((logits > best + 1e-6).sum())


def test_texts_are_paired_by_their_tokens_and_what_finds_no_partner_is_left_out():
    """A pair that is alike stays; of the others the shortest that match are paired."""
    model, words = build("gpt_neox"), "a b c d e f g h".split()

    def asked(*lengths):
        text = lambda n, k: " " + " ".join([("happy", "sad")[k], *(words * 3)[: n - 1]])  # noqa: E731
        return of_texts([
            {"prompt": " ".join(words[: 2 + i]), "targets": [text(p, 0)], "foils": [text(q, 1)]}
            for i, (p, q) in enumerate(lengths)
        ])  # fmt: skip

    paired, told = matched(model.encoder, asked((4, 4), (10, 11), (2, 9), (9, 2), (3, 20)))
    lengths = [[len(plain.ids(model, side[0])) for side in (c.targets, c.foils)] for c in paired.readout.cases]
    assert lengths == [[4, 4], [10, 11], [2, 2], [9, 9]]
    assert all(abs(p - q) <= APART * max(p, q) for p, q in lengths)
    assert told == ["4 pairs of texts as long as each other, 2 of them paired anew, 1 left out"]
    assert matched(model.encoder, paired)[0] == paired
    with pytest.raises(SteerlibError, match="concept style: readout: texts: 2 of 3 pairs of texts are alike in length"):
        matched(model.encoder, asked((4, 4), (5, 5), (2, 9)))


def test_a_style_that_steering_changes_is_found_by_its_texts_and_one_of_nothing_is_not(tmp_path):
    """Blocks add nothing, and a push raises the words that it is the embedding of."""
    model, draw = outspoken(), np.random.default_rng(0)
    write_files(tmp_path)

    def concept(name, sides):
        """Texts of these words; every stimulus once."""
        templates = of_words(draw, *sides, 9)
        items = [
            {"prompt": f"Anna ran {word}"}
            | {side: [" " + text(draw, words, 5)] for side, words in zip(("targets", "foils"), sides, strict=True)}
            for word in "a b c d e f g h home".split()
        ]
        return Concept(name=name, templates=templates, readout={"items": items, "texts": True})

    concepts = [concept("style", ["a b c happy", "d e f sad"]), concept("nothing", ["a b c d e f", "a b c d e f"])]
    study = plan(tmp_path, positions="generated")
    probes = probing.extract(model, study, concepts)
    swept = interventions.sweep(model, study, concepts, probes).sel(probe="mean_difference")
    style, nothing = (swept.sel(concept=name, layer=1) for name in ("style", "nothing"))
    assert style.steerability > 0.1 and style.p_shuffled < 0.01 and style.p_random < 0.05
    assert nothing.p_shuffled > 0.05 and abs(nothing.steerability) < style.steerability / 3
    assert probes.readout_tokens.values.tolist() == [5, 5] and probes.readout_share.isnull().all()
    assert style.log_odds.sel(readout_concept="style").shape[-1] == 9
    own, other = (style.interference.sel(readout_concept=name) for name in ("style", "nothing"))
    assert float(style.selectivity) == pytest.approx(5 * float(own - abs(other)), rel=1e-4)  # of whole texts


# --- does it fit? -----------------------------------------------------------------------------------------------------


def test_what_prompts_lead_to_anyway_does_not_count_as_evidence():
    """A shift within pairs is found, whatever stands around it; none is not, and pairs of one unit are one."""
    draw = np.random.default_rng(0)
    around, noise, unit = 20 * draw.standard_normal(40), draw.standard_normal((2, 40)), np.arange(40)
    for shift, low, high in ((3.0, 0.95, 1.0), (0.0, 0.0, 0.5)):
        value, lower, upper = fitness.moved(np.concatenate([noise[0] + shift + around, noise[1] + around]), unit, 0)
        assert low <= lower <= high and lower <= value <= upper <= 1
    whole = fitness.moved(np.concatenate([noise[0] + 1, noise[1]]), unit, 0)
    few = fitness.moved(np.concatenate([noise[0] + 1, noise[1]]), unit // 10, 0)
    assert few[0] == whole[0] and few[2] - few[1] > whole[2] - whole[1]
    assert np.isnan(fitness.moved(np.array([1.0, 0.0]), np.zeros(1), 0)).all()


@pytest.mark.parametrize("options", [{}, plain.LONG], ids=["words", "several tokens"])
@pytest.mark.parametrize("end", ["", "."])
def test_evidence_stands_before_a_prompt_where_it_is_a_whole_sentence(options, end):
    """Expression is whether a target leads, after a stimulus or after a prompt behind it."""
    model = build("llama")
    stimuli = {side: [text + end for text in texts] for side, texts in plain.STIMULI.items()}
    one = plain.concept(stimuli=stimuli, **options)
    half = probing.ReadStimuli(model, [one], 0)
    fit, test = half("joy", "fit"), half("joy", "test")
    found = fitness.measured(Readouts.of(model, [one]), one, fit.stimuli, test.stimuli, test.final, 0)
    cases, sides = one.readout.cases, (test.stimuli.positive, test.stimuli.negative)
    margins = []
    for name, texts in zip(("expression", "expression_null"), sides, strict=True):
        behind = [f" {cases[k % len(cases)].prompt}" if end else "" for k in range(len(texts))]
        asked = [cases[0].model_copy(update={"prompt": text + more}) for text, more in zip(texts, behind, strict=True)]
        margin = [float(t.max() - f.max()) for t, f in (plain.scores(model, case) for case in asked)]
        assert found[name].tolist() == [float(one > 0) for one in margin]
        margins.append([float(plain.log_odds(model, case)) for case in asked])
    assert found["readout_auroc"] == pytest.approx(fitness.moved(np.concatenate(margins), np.arange(4), 0)[0])


def test_evidence_too_long_for_the_model_is_left_out_pair_by_pair():
    model = build("gpt2")
    long = {"positive": ["a b.", "c d."], "negative": ["e f.", f"{'a b c d ' * 15}g h."]}
    one = plain.concept(stimuli={side: [f"{t}" for t in texts] for side, texts in long.items()})
    half = probing.ReadStimuli(model, [one], 0, splits=["fit", "test"])
    fit, test = half("joy", "fit"), half("joy", "test")
    found = fitness.measured(Readouts.of(model, [one]), one, fit.stimuli, test.stimuli, test.final, 0)
    assert np.isnan(found["expression"]).tolist() == np.isnan(found["expression_null"]).tolist() == [False, True]


GOOD = {"readout_share": 0.2, "readout_rank": 2, "readout_auroc": 0.9, "readout_auroc_lower": 0.8}


@pytest.mark.parametrize(
    ("change", "role", "said"),
    [
        ({}, "concept", FITS),
        ({"readout_share": np.nan, "readout_rank": 900}, "concept", FITS),  # of items
        ({"readout_share": 1e-5}, "concept", FITS),  # one of the likeliest of very many words
        ({"readout_rank": 500}, "concept", FITS),  # likely, but after few of the prompts
        (
            {"readout_share": 1e-5, "readout_rank": 500},
            "concept",
            "weak: its prompts hardly lead to its words (0.001 % ",
        ),
        (
            {"readout_auroc_lower": 0.45},
            "concept",
            "weak: evidence hardly moves it (AUROC 0.90, its interval from 0.45)",
        ),
        ({"readout_auroc": 0.55, "readout_auroc_lower": 0.52}, "concept", "evidence hardly moves it"),
        ({"readout_auroc": np.nan, "readout_auroc_lower": np.nan}, "concept", "no text fits before a prompt"),
        ({"readout_auroc_lower": 0.45}, "null", FITS),  # as it should be
        ({"readout_rank": np.nan}, "concept", FITS),  # judged
        ({"readout_rank": np.nan, "readout_share": 0.005}, "concept", "of what it writes, 0.5 % is the concept's"),
        ({"readout_rank": np.nan, "readout_share": 1.0}, "null", "of what it writes, 100.0 % is the concept's"),
    ],
)
def test_a_verdict_says_why(change, role, said):
    assert said in verdict(GOOD | change, role)


def test_as_many_prompts_are_enough_as_make_the_interval_so_narrow():
    slopes = np.random.default_rng(0).normal(2, 0.8, 400)
    count, draws = enough(slopes, 0.5), np.random.default_rng(1)
    means = [draws.choice(slopes, count).mean() for _ in range(2000)]
    assert np.subtract(*np.quantile(means, [0.975, 0.025])) == pytest.approx(0.5, rel=0.1)


# --- from a file ------------------------------------------------------------------------------------------------------


def test_no_text_of_a_readout_of_texts_is_fitted_on(tmp_path):
    rows = [(text, "polite") for text in POLITE] + [(text, "rude") for text in RUDE]
    path = as_csv(tmp_path / "manner.csv", rows)
    for seed in range(3):
        draft = loaded(path, seed=seed, readout="texts")
        one = draft.concept()
        fitted = set(map(normalised, one.stimuli("fit", seed + 1).texts))  # whatever the seed: templates say it
        asked = {normalised(option) for case in one.readout.cases for option in case.targets + case.foils}
        assert len(asked) == 2 * len(one.readout.cases) >= 6 and not asked & fitted
        assert asked <= set(map(normalised, one.stimuli("test", 0).texts))
        assert all(normalised(case.targets[0]) in map(normalised, POLITE) for case in one.readout.cases)
    for told, said in (
        ({"targets": [" kind"]}, "targets: readout: texts asks for whole texts, and for no words"),
        ({"questions": 3, "limit": 4}, "readout: texts: 2 held-out pairs; at least 3 are needed"),
    ):
        with pytest.raises(SteerlibError, match=said):
            loaded(path, readout="texts", **told)
