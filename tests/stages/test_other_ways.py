"""What another way would do and cost: in a linear model it is known, and what is chosen hangs on validation alone."""

import numpy as np
import pytest
import torch
import xarray as xr

from helpers.linear import close, ends, linear, plan, rows, three
from helpers.models import build
from helpers.plain import concept
from steerlib.concepts import prompt_split
from steerlib.results.schema import describe
from steerlib.stages import other_ways
from steerlib.stages.other_ways import BEFORE, NOTHING, PUSHED, TUNED, Look, Tried, compare, examples
from steerlib.stages.probing import extract

LAYER, ALPHA = 1, 0.5


@pytest.fixture(scope="module")
def world(folder):
    model = linear()
    before = {name: weight.clone() for name, weight in model.hf.state_dict().items()}
    study, probes = plan(folder), extract(model, plan(folder), three())
    with pytest.MonkeyPatch.context() as few:
        few.setattr(other_ways, "UPDATES", (1, 4))
        found = compare(model, study, three()[0], probes, "mean_difference", LAYER, ALPHA)
    assert all(torch.equal(weight, before[name]) for name, weight in model.hf.state_dict().items())
    return model, study, probes, found


def test_the_push_does_what_the_sweep_says_and_texts_before_change_nothing_where_only_the_last_token_counts(world):
    model, study, probes, found = world
    here = probes.sel(probe="mean_difference", concept="joy", layer=LAYER)
    slope = float(here.residual_norm) * here.direction.values @ rows(model).numpy()[0]
    push, before = found.sel(way=PUSHED), found.sel(way=BEFORE)
    for name in ("effect", "effect_lower", "effect_upper"):  # every prompt has the same slope
        close(push[name], ALPHA * slope, atol=1e-3)
    passages = [text.split() for text in study.load_neutral()]
    cut = [words[: 3 + (7 * i) % (len(words) - 4)] for i, words in enumerate(passages)]
    states = torch.stack([ends(model, " ".join(words))[-1] for words in cut])
    moved = states + ALPHA * float(here.residual_norm) * torch.from_numpy(here.direction.values)
    said, pushed = ((of @ model.unembedding.T).log_softmax(-1) for of in (states, moved))
    kl = (said.exp() * (said - pushed)).sum(-1)
    close(push.kl_passage, kl, atol=1e-4)
    close(push.kl, kl[torch.from_numpy(prompt_split(study.load_neutral(), 0) == "test")].mean(), atol=1e-4)
    for name in ("effect", "kl", "delta_nll"):
        close(before[name], 0, atol=1e-5)
        assert found[name].sel(way=NOTHING) == 0
    close(found.advantage, found.effect.sel(way=PUSHED) - found.effect, atol=1e-5)
    null = ALPHA * float(here.residual_norm) * here.null_direction.values.astype(float) @ rows(model).numpy()[0]
    close(found.effect_null[(found["null"] == "shuffled").values], null, atol=1e-2)


def test_costs_are_counted_by_the_book(world):
    model, _, _, found = world
    n = sum(weight.numel() for weight in model.hf.parameters()) - model.hf.get_input_embeddings().weight.numel()
    texts = three()[0].stimuli("fit", 0)
    lengths = [len(model.tokenizer(text)["input_ids"]) for text in texts.texts]
    assert found.flop.sel(way=PUSHED) == 2 * n * sum(lengths) and found.texts.sel(way=PUSHED) == len(texts.texts)
    shown = examples(three()[0], 0)
    context = sum(len(model.tokenizer(text)["input_ids"]) for text in shown)
    updates = found.amount.sel(way=TUNED)
    assert updates in (1, 4) and found.flop.sel(way=TUNED) == 6 * n * updates * 16 * min(context, 64)
    assert found.texts.sel(way=TUNED) == len(shown) == len(texts.positive)
    first = shown[: int(found.amount.sel(way=BEFORE))]
    assert found.tokens.sel(way=BEFORE) == len(model.tokenizer(" ".join(first))["input_ids"])
    assert (found.tokens.sel(way=[NOTHING, TUNED, PUSHED]) == 0).all() and found.cpu_seconds.sel(way=TUNED) > 0
    assert found.effect.sel(way=TUNED) > 0, "it has learned to say the concept's words"
    describe(found)  # all of it is in the schema


def test_a_context_that_holds_no_text_more_is_told_and_the_rest_goes_on(folder, monkeypatch):
    """In another architecture, where all tokens count."""
    monkeypatch.setattr(other_ways, "UPDATES", (1,))
    model, study = build("llama", max_position_embeddings=12), plan(folder)
    found = compare(model, study, three()[0], extract(model, study, three()), "mean_difference", LAYER, ALPHA)
    before = found.sel(way=BEFORE)
    assert "the model's context is 12" in before.why.item() and np.isnan(before.effect) and not before.within
    assert np.isfinite(found.effect.sel(way=[TUNED, PUSHED])).all() and (found.why.sel(way=[TUNED, PUSHED]) == "").all()


def test_what_is_chosen_hangs_on_validation_alone_and_keeps_to_the_budget(world):
    model, study, _, _ = world
    at, budget = Look(model, study, three()[0]), study.sweep.kl_budget

    def tried(amount, gain, cost, test_gain=0.0):
        log_odds = at.unsteered.log_odds + np.where(at.bench.split == "validation", gain, test_gain)
        kl = xr.DataArray(np.where(at.effects.split == "validation", cost, 0.0), dims="passage")
        return Tried(amount, at.unsteered.assign(log_odds=log_odds, kl=kl))

    tries = [tried(1, 1, 0.5 * budget, 3), tried(2, 2, 0.9 * budget), tried(3, 5, 1.1 * budget, 9)]
    chosen = at.chosen(tries)
    assert chosen.amount == 2 and chosen.within and float(chosen.effect) == 0, "told of test prompts"
    beyond = at.chosen([tried(1, 9, 3 * budget), tried(2, 1, 2 * budget)])
    assert beyond.amount == 2 and not beyond.within, "of those beyond the budget the one that costs least"


def test_examples_end_where_a_sentence_does():
    assert all(text.endswith(" happy.") for text in examples(three()[0], 0)), "where a word is due, a target stands"
    whole = {"positive": ["a b.", "c d.", "e f!"], "negative": ["g h.", "b a.", "d c."]}
    assert {*examples(concept("joy", stimuli=whole), 0)} <= {*whole["positive"], "home a b.", "home c d.", "home e f!"}
