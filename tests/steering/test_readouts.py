"""Readouts: log-odds, margins and side effects are those of the whole model's own probabilities."""

from __future__ import annotations

import pytest
import torch

from helpers import plain
from helpers.plain import LONG, TEXTS, concept, forward
from steerlib import SteerlibError
from steerlib.concepts import prompt_split
from steerlib.model.prefix import Prefix
from steerlib.stages import fitness, probing
from steerlib.steering import readouts
from steerlib.steering.readouts import QUANTITIES, Readouts
from steerlib.steering.side_effects import SideEffects

ITEMS = [
    {"prompt": "Anna felt", "targets": [" happy home"], "foils": [" sad", " angry a b"]},
    {"prompt": "a b c d", "targets": [" e", " e f g"], "foils": [" h"]},
    {"prompt": "h g felt", "targets": [" joyful"], "foils": [" gloomy", " mad"]},
    # The same options as of the second, on other sides.
    {"prompt": "mad", "targets": [" h"], "foils": [" e f g", " e"]},
]
ITEM_CONCEPT = concept("quiz", items=ITEMS)
PASSAGES = ["Anna ran home a b c d", "h g f e d c b a", "happy sad mad a b c d e f", "Anna felt a b c d e f g h"]


def measured(model, concepts):
    """(p, concept, quantity) on the unsteered prompts."""
    of = Readouts.of(model, concepts)
    prefix = Prefix(model, [case.prompt for case in concepts[0].readout.cases], of.branches)
    return of.measure(prefix.final[:, None])[:, 0].unflatten(-1, (len(concepts), len(QUANTITIES)))


def by_the_book(model, one):
    """The same of one concept, from a full forward pass over every prompt with every continuation."""
    rows = []
    for case in one.readout.cases:
        targets, foils = plain.scores(model, case)
        normalised = torch.tensor(torch.nan)
        if one.readout.items:
            t, f = (torch.tensor([len(o.strip()) for o in options]) for options in (case.targets, case.foils))
            normalised = (targets / t).max() - (foils / f).max()
        rows.append(torch.stack([targets.logsumexp(0) - foils.logsumexp(0), targets.max() - foils.max(), normalised]))
    return torch.stack(rows)


def same(found, expected):
    return torch.allclose(found, expected, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize(
    "concepts",
    [
        pytest.param([concept()], id="one token each"),
        pytest.param([concept(**LONG)], id="many tokens"),
        pytest.param(
            [concept(), concept("late", **LONG), concept("odd", targets=[" a b"], foils=[" a c"])], id="three"
        ),
        pytest.param([ITEM_CONCEPT], id="items"),
        pytest.param([ITEM_CONCEPT, concept("joy", [item["prompt"] for item in ITEMS])], id="items and others"),
    ],
)
@pytest.mark.parametrize(("beside", "wide"), [(1, 1), (readouts.BESIDE, readouts.WIDE)])
def test_what_is_measured_is_the_whole_models_own(model, concepts, beside, wide, monkeypatch):
    """Also when concepts share their prompts, and prompts differ in their options; however few are summed at a time."""
    monkeypatch.setattr(readouts, "BESIDE", beside)
    monkeypatch.setattr(readouts, "WIDE", wide)
    found = measured(model, concepts)
    for k, one in enumerate(concepts):
        expected = by_the_book(model, one)
        assert same(found[:, k], expected)
        assert expected[:, 2].isfinite().all() == bool(one.readout.items)
    assert found[..., :2].abs().min() > 1e-4
    for one in concepts:  # and what one measures among others it measures alone
        assert Readouts.of(model, concepts).only(one.name) == Readouts.of(model, [one])


def test_gradients_are_finite_and_the_same_however_few_options_are_summed_at_a_time(model, monkeypatch):
    """Where one concept has more targets and foils than another, whose place is then held by nothing."""
    of = Readouts.of(model, [concept(), concept("odd", targets=[" a"], foils=[" b"])])
    prefix, found = Prefix(model, [case.prompt for case in concept().readout.cases], of.branches), []
    for beside in (readouts.BESIDE, 1):
        monkeypatch.setattr(readouts, "BESIDE", beside)
        found.append(prefix.gradients(of.log_odds)[0])
    assert found[0].isfinite().all() and torch.allclose(*found, atol=1e-6) and found[0].abs().max() > 1e-3


def test_of_logits_that_overflow_the_normaliser_does_too():
    large = torch.tensor([[0.0, torch.inf], [3e38, 3e38], [-torch.inf, 1.0], [torch.nan, 0.0]])
    assert torch.allclose(readouts.normaliser_(large.clone()), large.logsumexp(-1), equal_nan=True)


def test_continuations_of_one_token_need_no_branches_and_give_what_the_general_path_gives(model):
    """Beside a concept of many tokens everything goes through branches; alone, nothing does."""
    short, long = concept(), concept("late", **LONG)
    alone, beside = Readouts.of(model, [short]), Readouts.of(model, [short, long])
    assert not any(tree.tokens for tree in alone.branches) and all(tree.tokens for tree in beside.branches)
    assert same(measured(model, [short])[:, 0], measured(model, [short, long])[:, 0])
    # And no normaliser: a constant added to all logits of the first token changes nothing.
    final = torch.randn(len(TEXTS), 2, 1, model.hidden, generator=torch.Generator().manual_seed(0))
    logits = model.logits(final[:, :, 0])
    targets, foils = (
        logits[..., [plain.ids(model, w)[0] for w in side]] for side in (short.readout.targets, short.readout.foils)
    )
    assert torch.allclose(alone.log_odds(final)[..., 0], targets.logsumexp(-1) - foils.logsumexp(-1), atol=1e-5)


def test_quantities_stand_in_their_places(model):
    concepts = [concept(**LONG), concept("quiz", items=[ITEMS[1] | {"prompt": text} for text in TEXTS])]
    readouts = Readouts.of(model, concepts)
    final = Prefix(model, TEXTS, readouts.branches).final[:, None]
    whole = readouts.measure(final)
    assert QUANTITIES == ("log_odds", "margin", "margin_normalised")
    assert torch.equal(readouts.log_odds(final), whole[..., [0, 3]])
    assert torch.equal(readouts.success(final), (whole[..., [1, 4]] > 0).to(whole.dtype))
    assert set(readouts.success(final).unique().tolist()) == {0.0, 1.0}


def test_spelling_an_option_twice_does_not_count_it_twice(model):
    twice = concept(targets=[" happy", "  happy", " glad", " happy "])
    assert same(measured(model, [twice]), measured(model, [concept()]))


def test_the_options_of_one_prompt_serve_for_other_texts_and_all_of_them_for_more(model):
    """As expression asks: the first prompt's options after any text; every prompt's own, after two rounds of texts."""
    joy = concept(**LONG)
    other = [*TEXTS[::-1], "a b", "c d e"]
    readouts = Readouts.of(model, [joy]).pick([0] * len(other))
    found = readouts.measure(Prefix(model, other, readouts.branches).final[:, None])[:, 0]
    assert same(found, by_the_book(model, concept(texts=other, **LONG)))

    readouts = Readouts.of(model, [ITEM_CONCEPT]).pick([*range(len(ITEMS))] * 2)
    texts = [item["prompt"] for item in ITEMS] + ["Anna ran"] * len(ITEMS)
    found = readouts.measure(Prefix(model, texts, readouts.branches).final[:, None])[:, 0]
    asked = [item | {"prompt": text} for item, text in zip(ITEMS * 2, texts, strict=True)]
    assert same(found, by_the_book(model, concept("quiz", items=asked)))


def test_expression_of_items_is_whether_a_target_leads_after_its_own_question_and_after_the_next(model):
    half = probing.ReadStimuli(model, [ITEM_CONCEPT], 0)
    fit, test = half("quiz", "fit"), half("quiz", "test")
    found = fitness.measured(Readouts.of(model, [ITEM_CONCEPT]), ITEM_CONCEPT, fit.stimuli, test.stimuli, test.final, 0)
    prompts = [item["prompt"] for item in ITEMS]
    for name, asked in (("expression", prompts), ("expression_null", prompts[1:] + prompts[:1])):
        moved = [item | {"prompt": text} for item, text in zip(ITEMS, asked, strict=True)]
        expected = by_the_book(model, concept("quiz", items=moved))[:, 1] > 0
        assert torch.equal(torch.from_numpy(found[name]), expected.float())


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (
            {"foils": [" sad", " happy "]},
            r"the same tokens, .*: ' happy' \('happy'\) and ' happy ' \('happy'\) after 'Anna felt'",
        ),
        (
            {"targets": [" a b"], "foils": [" a  b"]},
            r"joy: a target and a foil are the same tokens.*: ' a b' \('a' \+ 'b'\) and ' a  b'",
        ),
        (
            {"targets": [" happy zebra"]},
            "joy: readout option ' happy zebra' .* holds what .* no token for; choose another",
        ),
        (
            {"foils": [" happy home"]},
            r"joy: .*one begins with the other .*: ' happy' \('happy'\) and ' happy home' \('happy' \+ 'home'\)",
        ),
        (
            {"targets": [" sad a b"]},
            "joy: .*one begins with the other .*: ' sad a b' .* and ' sad' .* after 'Anna felt'",
        ),
        ({"targets": ["happy"]}, r"joy: readout option 'happy' after 'Anna felt': .* one word; write a space before"),
        ({"texts": ["Anna felt", "a b-", "c d"]}, None),
        ({"texts": ["Anna felt", "zebra", "c d"]}, None),
    ],
)
def test_options_that_cannot_be_told_apart_or_read_are_refused(model, how, said):
    """Naming concept, text and option. A prompt may hold what it likes, as long as it has tokens."""
    if said is None:
        assert Readouts.of(model, [concept("calm", **how)]).names == ["calm"]
        return
    with pytest.raises(SteerlibError, match=said):
        Readouts.of(model, [concept("calm"), concept(**how)])


def test_an_item_of_which_one_option_begins_another_is_left_out_and_counted():
    """As in public questions: the others are asked. What begins alike within a word is for the tokens to tell."""
    begun = [{"prompt": "b a", "targets": [" kg/m3"], "foils": [" kg", " h"]}]
    begun += [{"prompt": "c a", "targets": [" No"], "foils": [" h", " No, but"]}]
    kept = [*ITEMS, {"prompt": "d a", "targets": [" happ"], "foils": [" happy"]}]
    asked = concept("quiz", items=[*begun, *kept]).readout
    assert [item.prompt for item in asked.items] == [item["prompt"] for item in kept]
    assert asked.losses == ("2 of 7 prompts have an option that begins with one of the other side: left out",)


# --- side effects --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [False, True])
def test_side_effects_are_kl_and_nll_of_the_next_token(model, whole):
    effects = SideEffects(model, PASSAGES, seed=0, whole=whole)
    assert (effects.split == prompt_split(PASSAGES, 0)).all() and set(effects.split) == {"validation", "test"}
    clean = effects.measure(effects.prefix.final[:, None])[:, 0]
    assert clean[:, 0].abs().max() < 1e-6
    layer, (step,) = 1, plain.steps(model, 1)
    positions = "all" if whole else "last"
    pushed = effects.prefix.push(effects.prefix.states[layer][:, None], lambda h: h + step, positions)
    (final,) = plain.finished(effects.prefix, layer, pushed, positions)
    for i, (passage, (kl, nll)) in enumerate(zip(PASSAGES, effects.measure(final)[:, 0].tolist(), strict=True)):
        tokens = plain.ids(model, passage)  # a word is a token here
        cut = 3 + (7 * i) % (len(tokens) - 4)
        before = forward(model, tokens[:cut]).logits[0, -1].log_softmax(-1)
        with plain.hooked(model, plain.changing({layer: lambda h: h + step}, plain.at(cut, positions))):
            after = forward(model, tokens[:cut]).logits[0, -1].log_softmax(-1)
        assert kl == pytest.approx(float((before.exp() * (before - after)).sum()), abs=1e-5) and kl > 1e-3
        assert nll == pytest.approx(-float(after[tokens[cut]]), abs=1e-5)
        assert float(clean[i, 1]) == pytest.approx(-float(before[tokens[cut]]), abs=1e-5)
