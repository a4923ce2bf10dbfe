"""What a model writes, judged, as a readout: draws, weights and slopes are those of its probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers import plain
from helpers.linear import of_words, outspoken, plan, write_files
from helpers.models import build
from steerlib.concepts import Concept
from steerlib.model import Prefix
from steerlib.model import written as write_ids
from steerlib.stages import classifiers, fitness, interventions, probing, written
from steerlib.steering import Arm, dose_response
from steerlib.steering.arms import local_slopes
from steerlib.steering.operators import Add

PROMPTS = ["Anna felt", "a b c d", "h g felt", "mad"]


def judged(name="style", prompts=PROMPTS, **how) -> Concept:
    return plain.concept(name, judged=True, prompts=list(prompts), **how)


def names(word):
    """A judge that finds the concept where a word stands."""
    return lambda _, cases, texts: np.array([float(word in text.split()) for text in texts])


def test_what_is_drawn_has_the_models_probabilities_whatever_else_is_in_the_batch():
    model, draws = build("llama"), 4000
    uniform = torch.linspace(0, 1, draws, dtype=torch.double)[:, None]
    ids = write_ids(model, ["a b c"] * draws, 1, uniform)
    logits = plain.forward(model, plain.ids(model, "a b c")).logits[0, -1].double()
    share = np.bincount([one[0] for one in ids], minlength=len(logits)) / draws
    assert np.abs(share - logits.softmax(-1).numpy()).max() < 1 / draws * 1.5
    uniform = torch.from_numpy(np.random.default_rng(0).random((len(plain.TEXTS), 6)))
    together = write_ids(model, plain.TEXTS, 6, uniform)
    alone = [write_ids(model, [text], 6, row[None])[0] for text, row in zip(plain.TEXTS, uniform, strict=True)]
    assert together == alone and len({*together}) > 1


def test_a_text_that_ends_is_no_longer_and_its_end_is_written():
    model = build("gpt_neox")
    model.tokenizer.eos_token = "happy"
    model.hf.generation_config.eos_token_id = end = model.tokenizer.eos_token_id
    uniform = torch.from_numpy(np.random.default_rng(0).random((200, 8)))
    ended = [ids for ids in write_ids(model, ["a b"] * 200, 8, uniform) if end in ids]
    assert ended and all(ids[-1] == end and ids.count(end) == 1 for ids in ended) and min(map(len, ended)) < 8


def test_log_odds_are_of_how_much_likelier_a_push_makes_what_was_written(model):
    """By the book, at every strength; the exact slope at alpha 0 is what finite differences say."""
    concept, layer, step = judged(), 1, plain.steps(model, 1)[0]
    readouts = written.readouts(model, [concept], {"style": names("a")}, 0)
    prefix = Prefix(model, PROMPTS, readouts.branches)
    arm = Arm(Add(step[None]), torch.ones(1))
    gradients, states = prefix.gradients(readouts.log_odds, "generated")
    slope = local_slopes(gradients[:, layer], states[layer], arm)[0, :, 0]
    alphas = [-1.0, -1e-2, 0.0, 1e-2, 1.0]
    found = dose_response(prefix, readouts.log_odds, layer, arm, alphas, "generated")[:, :, 0, 0]
    for k, (prompt, options) in enumerate(zip(PROMPTS, readouts.options, strict=True)):
        texts = [model.tokenizer.decode(ids) for ids in options.tokens]
        [(on, off)] = options.sides
        assert len(on) + len(off) == written.TEXTS
        assert all(("a" in text.split()) == (i in on) for i, text in enumerate(texts))
        assert float(found[k, 2]) == pytest.approx(np.log((len(on) + 0.5) / (len(off) + 0.5)), abs=1e-4)
        for a, alpha in enumerate(alphas):
            changes = {layer: lambda h, alpha=alpha: h + alpha * step}
            weight = [float(pushed(model, prompt, ids, changes) - pushed(model, prompt, ids)) for ids in options.tokens]
            t, f = (np.exp([weight[i] for i in side]).sum() for side in (on, off))
            half = (t + f) / (2 * written.TEXTS)
            assert float(found[k, a]) == pytest.approx(np.log((t + half) / (f + half)), abs=2e-4)
        assert float(slope[k]) == pytest.approx(float(found[k, 3] - found[k, 1]) / 2e-2, abs=2e-2)


def pushed(model, prompt, ids, changes=None):
    """Log-probability of some ids after a prompt, with the push from its last token on."""
    before = plain.ids(model, prompt)

    def hook(layer, states):
        if changes and layer in changes:
            return torch.cat([states[:, : len(before) - 1], changes[layer](states[:, len(before) - 1 :])], 1)

    with plain.hooked(model, hook):
        logits = plain.forward(model, before + list(ids)).logits[0].log_softmax(-1)
    return sum(logits[len(before) - 1 + k, token] for k, token in enumerate(ids))


def test_the_slope_is_that_of_the_odds_of_writing_it(monkeypatch):
    """Of one token: what the model's own probabilities say, exactly, as the number of texts grows."""
    monkeypatch.setattr(written, "TOKENS", 1)
    monkeypatch.setattr(written, "TEXTS", 3000)
    model, layer = build("llama"), 1
    step, words = plain.steps(model, 1)[0] / 4, ("happy", "a", "b", "glad")
    judge = lambda _, cases, texts: np.array([float(text.strip() in words) for text in texts])  # noqa: E731
    readouts = written.readouts(model, [judged()], {"style": judge}, 0)
    prefix = Prefix(model, PROMPTS, readouts.branches)
    gradients, states = prefix.gradients(readouts.log_odds, "generated")
    found = local_slopes(gradients[:, layer], states[layer], Arm(Add(step[None]), torch.ones(1)))[0, :, 0]
    own = [plain.ids(model, word)[0] for word in words]
    for k, prompt in enumerate(PROMPTS):
        before, odds = plain.ids(model, prompt), []
        for alpha in (-1e-2, 1e-2):
            change = torch.zeros(len(before), model.hidden)
            change[-1] = alpha * step
            with plain.hooked(model, lambda at, h, change=change: h + change if at == layer else None):
                share = plain.forward(model, before).logits[0, -1].softmax(-1)[own].sum()
            odds.append(float(torch.logit(share.double())))
        assert float(found[k]) == pytest.approx((odds[1] - odds[0]) / 2e-2, abs=0.05)


def test_a_style_that_is_written_under_a_push_is_found_and_one_of_nothing_is_not(tmp_path):
    """By the concept's own words as judge. Blocks add nothing, and a push raises the words that it is made of."""
    model, draw = outspoken(), np.random.default_rng(0)
    write_files(tmp_path)

    def concept(name, sides):
        templates = of_words(draw, *sides, 16)
        prompts = [f"Anna ran {word}" for word in "a b c d e f g h home".split()]
        return Concept(name=name, templates=templates, readout={"judged": True, "prompts": prompts})

    concepts = [
        concept("style", ["happy glad joyful", "sad mad angry"]),
        concept("nothing", ["a b c d e f", "a b c d e f"]),
    ]
    study = plan(tmp_path, positions="generated")
    probes = probing.extract(model, study, concepts)
    swept = interventions.sweep(model, study, concepts, probes).sel(probe="mean_difference")
    style, nothing = (swept.sel(concept=name, layer=1) for name in ("style", "nothing"))
    assert style.steerability > 0.1 and style.p_shuffled < 0.01 and style.p_random < 0.05
    assert nothing.p_shuffled > 0.05
    assert probes.readout_tokens.values.tolist() == [1, 1] and probes.readout_rank.isnull().all()
    assert (0.1 < probes.readout_share).all() and (probes.readout_share < 0.9).all()


def test_its_own_held_out_words_judge_a_concept_and_what_has_none_of_them_is_left_open():
    """Nothing of what directions are fitted on is known to the judge, lest both find the same accidents."""
    sides = {"fit": ("happy joyful", "sad angry"), "test": ("glad joyful", "mad angry")}
    templates = [
        {
            "name": half,
            "split": half,
            "positive": [f"{up} {k}" for k in "ab"],
            "negative": [f"{down} {k}" for k in "ab"],
        }
        for half, (up, down) in sides.items()
    ]
    concept = Concept(name="style", templates=templates, readout={"judged": True, "prompts": PROMPTS})
    scores = classifiers.own_words(concept, 0)(concept, [], ["glad joyful", "mad angry", "happy", "sad", "?", "zzz"])
    assert scores[0] > 0.5 > scores[1] and np.isnan(scores[2:]).all()
    evidence = fitness.evidence(concept, *(concept.stimuli(half, 0) for half in ("fit", "test")))
    assert [text.split()[0] for text in evidence.texts] == ["happy", "happy", "sad", "sad"]
