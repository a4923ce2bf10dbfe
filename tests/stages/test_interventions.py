"""The sweep: in a linear model every number has a closed form, and what is chosen hangs on validation prompts only."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from helpers.linear import ALPHAS, PROMPTS, SERIOUS, close, ends, linear, plan, residual_norm, rows, three
from helpers.models import build
from steerlib.concepts import prompt_split
from steerlib.numerics.methods import METHODS
from steerlib.numerics.statistics import bootstrap_means
from steerlib.stages import probing
from steerlib.stages.effects import chosen_alpha
from steerlib.stages.interventions import sweep
from steerlib.stages.probing import extract
from steerlib.stages.pushes import Pushes
from steerlib.steering.arms import dose_response
from steerlib.steering.operators import build as build_operator


@pytest.fixture(scope="module")
def world(folder):
    model = linear()
    return model, extract(model, plan(folder, SERIOUS), three())


@pytest.mark.parametrize("scale", ["residual_norm", "projection_std", "raw"])
def test_steerability_of_a_linear_model_is_its_closed_form(world, folder, scale):
    """s · (u_target − u_foil)·v̂ of every method, concept, layer and readout; all else follows from it."""
    model, probes = world
    swept, difference = sweep(model, plan(folder, SERIOUS, scale=scale), three(), probes), rows(model).numpy()
    residual = residual_norm(model)
    close(probes.residual_norm, residual)
    unit = {"residual_norm": residual, "projection_std": probes.spread.values, "raw": probes.length.values}[scale]
    strength = np.broadcast_to(unit, probes.length.shape)  # method, concept, layer
    close(swept.strength, strength)

    slopes = strength[..., None] * (probes.direction.values @ difference.T)
    close(swept.interference, slopes)
    mine = np.stack([slopes[:, c, :, c] for c in range(3)], 1)
    for name in ("steerability", "steerability_validation", "local_slope"):
        close(swept[name], mine)
    for name in ("steerability_lower", "steerability_upper"):  # every prompt has the same slope
        close(swept[name], mine, atol=1e-3)
    others = np.abs(slopes).sum(-1) - np.abs(mine)
    close(swept.selectivity, mine - others / 2)
    certain = np.abs(mine) > 1e-3
    np.testing.assert_array_equal(swept.anti_steerable.values[certain], (mine < 0)[certain])
    close(swept.monotonicity.where(certain), np.where(certain, np.sign(mine), np.nan))
    assert certain.mean() > 0.9 and swept.undo_error.max() < 1e-4

    odds = np.stack(
        [np.stack([ends(model, c.prompt)[-1].numpy() for c in concept.readout.cases]) for concept in three()[:2]]
    )
    expected = odds @ difference[:2].T  # concept of the prompts, prompt, readout
    for c, a in itertools.product(range(2), range(len(ALPHAS))):
        moved = expected[c][:, c] + ALPHAS[a] * mine[:, c, :, None]
        close(swept.log_odds[:, c, :, a, c, :12], moved, atol=1e-3)
        tested = prompt_split(PROMPTS, 0) == "test"
        close(swept.success_rate[:, c, :, a], (moved > 0)[..., tested].mean(-1), atol=1e-6)


def test_nulls_of_a_linear_model_have_the_closed_form_and_give_the_p_values(world, folder):
    model, probes = world
    study = plan(folder, SERIOUS)
    swept, difference = sweep(model, study, three(), probes), rows(model).numpy()
    norm = probes.residual_norm.values[:, None]
    for layer in range(3):
        random = probing.random_directions(study, layer, model.hidden)
        shuffled = probes.null_direction.sel(probe=SERIOUS).isel(layer=layer).values
        for m, c in itertools.product(range(len(SERIOUS)), range(3)):
            null = np.concatenate([random, shuffled[m, c]]) @ difference[c] * norm[layer]
            if not METHODS[SERIOUS[m]].supervised:  # shuffled labels choose no other axis for it: no null of it
                assert np.isnan(null[len(random) :]).all()
            here = swept.isel(probe=m, concept=c, layer=layer)
            for name in ("steerability_null", "steerability_null_validation"):
                close(here[name], null, atol=1e-2)  # shuffled directions are kept in half precision
            for kind in ("random", "shuffled"):
                drawn = here.steerability_null.values[swept.null.values == kind]
                if (kind, SERIOUS[m]) == ("shuffled", study.emergence.method):  # the analysis' method has more of them
                    drawn = swept.interference_shuffled.isel(concept=c, readout_concept=c, layer=layer).values
                expected = (1 + (drawn >= here.local_slope.item()).sum()) / (1 + len(drawn))
                expected = np.nan if np.isnan(drawn).all() else expected
                assert here[f"p_{kind}"].item() == pytest.approx(expected, nan_ok=True)
    for name in ("p_random", "p_shuffled"):  # nulls are no methods
        assert swept[name].sel(probe=list(probing.NULLS)).isnull().all()


@pytest.mark.parametrize(
    ("operator", "scale"), [("add", "residual_norm"), ("ablate", "residual_norm"), ("rotate", "iso_kl")]
)
def test_side_effects_of_a_linear_model_have_the_closed_form(world, folder, operator, scale):
    model, probes = world
    study = plan(folder, SERIOUS, operator=operator, scale=scale)
    swept = sweep(model, study, three(), probes)
    passages = [text.split() for text in study.load_neutral()]
    cuts = [3 + (7 * i) % (len(words) - 4) for i, words in enumerate(passages)]
    states = torch.stack([ends(model, " ".join(w[:c])) for w, c in zip(passages, cuts, strict=True)], 1)
    following = torch.tensor([model.tokenizer(w[c])["input_ids"][0] for w, c in zip(passages, cuts, strict=True)])
    shift = states[-1] - states  # what the blocks above add
    before = (states[-1] @ model.unembedding.T).log_softmax(-1)
    split = prompt_split(study.load_neutral(), 0)
    assert swept.alpha.values.tolist() == ALPHAS
    for m, c, layer in itertools.product((0, 3, 7), range(3), range(3)):
        strength = float(swept.strength[m, c, layer])
        if np.isnan(strength):  # no strength costs as much: nothing was pushed, which is not a push that does nothing
            there = swept.isel(probe=m, concept=c, layer=layer)
            for name in ("kl", "delta_nll"):
                assert there[name].sel(alpha=0).notnull().all() and there[name].where(there.alpha != 0).isnull().all()
            assert there.steerability.isnull() and there.local_slope.isnull()
            continue
        make = build_operator(operator, probes.direction.values[m, c, layer][None, None, None], ())
        for a, alpha in enumerate(ALPHAS):
            far = alpha if operator == "add" else alpha * strength
            step = make.each(lambda tensor: tensor[0] * (strength if operator == "add" else 1))  # noqa: B023
            after = ((step(states[layer], far) + shift[layer]) @ model.unembedding.T).log_softmax(-1)
            kl = (before.exp() * (before - after)).sum(-1).numpy()
            nll = -after[range(12), following].numpy()
            here = swept.isel(probe=m, concept=c, layer=layer, alpha=a)
            for name, values, part in (
                ("kl", kl, "test"),
                ("kl_validation", kl, "validation"),
                ("nll", nll, "test"),
                ("delta_nll", nll + before[range(12), following].numpy(), "test"),
            ):
                assert here[name].item() == pytest.approx(values[split == part].mean(), abs=1e-4, rel=1e-3)


@pytest.mark.parametrize(
    ("operator", "positions", "reached"),
    [("add", "all", 1), ("rotate", "last", 0.3), ("ablate", "last", 0)],
)
def test_strengths_of_equal_kl_meet_their_budget(folder, operator, positions, reached):
    """In a model that is not linear: of all directions and all null draws, on validation passages; NaN where none."""
    model, concepts = build("gpt_neox"), three()
    study = plan(folder, ["mean_difference", "pca"], operator=operator, scale="iso_kl", positions=positions)
    study = study.model_copy(update={"sweep": study.sweep.model_copy(update={"kl_budget": 0.05})})
    probes = extract(model, study, concepts)
    swept = sweep(model, study, concepts, probes)
    solved = swept.strength.notnull()
    assert solved.mean() >= reached
    close(swept.kl_validation.sel(alpha=1.0).where(solved), np.where(solved, 0.05, np.nan), rtol=0.02)
    assert (swept.kl_validation.sel(alpha=1.0).where(~solved, 0) < 0.05 * 1.1).all()

    pushes = Pushes(model, study, concepts, probes)
    effects, arm = pushes.effects, pushes.null(1)
    validation = torch.from_numpy(effects.split == "validation")
    kl = dose_response(effects.prefix, effects.measure, 1, arm, [1.0], positions)[validation, 0, :, 0].mean(0)
    reachable = arm.strength.isfinite()
    assert reachable.float().mean() >= reached and len(reachable) == 2 * 3 * 60
    assert (kl[reachable] / 0.05 - 1).abs().max() < 0.02 and (kl[~reachable] == 0).all()
    # Isotropic draws are the same for every method, so they are solved for once.
    by_method = arm.strength.reshape(2, 3, 60)[:, :, :40]
    assert torch.equal(by_method[0].nan_to_num(), by_method[1].nan_to_num())


@pytest.mark.parametrize("operator", ["ablate", "set", "affine", "rotate"])
def test_other_operators_are_read_out_as_they_act_on_states(world, folder, operator):
    """Log-odds are those of the moved states, local slopes their derivative at alpha = 0."""
    model, probes = world
    swept = sweep(model, plan(folder, SERIOUS, operator=operator), three(), probes)
    difference, tested = rows(model).double(), prompt_split(PROMPTS, 0) == "test"
    states = torch.stack([ends(model, text) for text in PROMPTS], 1).double()
    for m, (c, concept), layer in itertools.product((0, 4, 9), enumerate(three()[:2]), range(3)):
        stimuli = concept.stimuli("fit", 0)
        sides = [
            torch.stack([ends(model, text)[layer] for text in side]).numpy()
            for side in (stimuli.positive, stimuli.negative)
        ]
        built = build_operator(operator, probes.direction.values[m, c, layer][None, None, None], [tuple(sides)])
        act = built.each(lambda tensor: tensor[0].double())

        def odds(alpha, act=act, c=c, layer=layer):
            return (act(states[layer], alpha) + states[-1] - states[layer]) @ difference[c]

        here = swept.isel(probe=m, concept=c, layer=layer)
        for a, alpha in enumerate(ALPHAS):
            close(here.log_odds[a, c, :12], odds(alpha), atol=1e-3)
        derivative = (odds(1e-5) - odds(-1e-5)) / 2e-5
        close(here.local_slope, derivative[tested].mean(), rtol=1e-3, atol=1e-3)


# --- what is chosen, and on what -----------------------------------------------------------------------------------


CURVED, PUSHED = [["mean_difference", "pca", "lda"]], {"scale": "raw", "kl_budget": 0.02}


@pytest.fixture(scope="module")
def curved(folder):
    """A model that is not linear, pushed by directions as long as they were found."""
    model, concepts = build("gpt_neox"), three()
    study = plan(folder, *CURVED, **PUSHED)
    probes = extract(model, study, concepts)
    return model, study, probes, sweep(model, study, concepts, probes)


def replaced(split):
    """The first two concepts with other prompts in one split."""
    chosen = prompt_split(PROMPTS, 0) == split
    return three([f"h {text} mad" if new else text for text, new in zip(PROMPTS, chosen, strict=True)])[:2]


def test_other_test_prompts_and_passages_move_what_is_reported_and_nothing_that_is_chosen(curved, folder, tmp_path):
    model, study, probes, swept = curved
    probes, swept = probes.sel(concept=["joy", "calm"]), swept.sel(concept=["joy", "calm"])
    again = sweep(model, study, replaced("test"), probes)
    close(again.steerability_validation, swept.steerability_validation)
    close(again.steerability_null_validation, swept.steerability_null_validation, atol=1e-3)
    np.testing.assert_array_equal(again.chosen_alpha.values, swept.chosen_alpha.values)
    for name in ("steerability", "steerability_null", "local_slope", "chosen_gain", "selectivity", "success_rate"):
        assert abs(again[name] - swept[name]).max() > 1e-3
    # And the other way round: validation prompts have no part in what is reported.
    moved_validation = sweep(model, study, replaced("validation"), probes)
    for name in ("steerability", "steerability_null", "steerability_lower", "local_slope", "monotonicity"):
        close(moved_validation[name], swept[name], atol=1e-3)
    assert abs(moved_validation.steerability_validation - swept.steerability_validation).max() > 1e-3

    passages = study.load_neutral()
    split = prompt_split(passages, 0)
    wild = [
        " ".join(text.split()[::-1]) if part == "test" else text for text, part in zip(passages, split, strict=True)
    ]
    (tmp_path / "neutral.txt").write_text("\n".join(wild))
    third = sweep(model, plan(tmp_path, *CURVED, **PUSHED), three()[:2], probes)
    close(third.kl_validation, swept.kl_validation)
    np.testing.assert_array_equal(third.chosen_alpha.values, swept.chosen_alpha.values)
    assert abs(third.kl - swept.kl).max() > 1e-3


def test_alpha_is_chosen_by_validation_gain_within_the_validation_budget(curved):
    """However wild the test prompts and passages are; and it moves when the validation prompts say so."""
    _, study, _, swept = curved
    validation = swept.split == "validation"
    budget = study.sweep.kl_budget
    chosen = chosen_alpha(swept, swept.kl_validation <= budget).chosen_alpha
    for m, c, layer in itertools.product(range(5), range(3), range(3)):
        here = swept.isel(probe=m, concept=c, layer=layer)
        odds = here.log_odds.isel(readout_concept=c)[:, validation[c].values].mean("prompt").values
        allowed = [a for a in range(3, 7) if here.kl_validation[a] <= 0.02]
        best = max(allowed, key=lambda a: odds[a], default=None)
        expected = np.nan if best is None else ALPHAS[best]
        np.testing.assert_equal(chosen[m, c, layer].item(), expected)
        test = here.log_odds.isel(readout_concept=c)[:, (swept.split[c] == "test").values].mean("prompt").values
        gain = np.nan if best is None else test[best] - test[2]
        np.testing.assert_allclose(swept.chosen_gain[m, c, layer].item(), gain, atol=1e-5)
    assert len(set(chosen.values[~np.isnan(chosen.values)].tolist())) > 2 and chosen.isnull().any()

    wild = swept.log_odds + 50 * np.random.default_rng(0).standard_normal(swept.log_odds.shape)
    at_test = swept.assign(log_odds=swept.log_odds.where(validation, wild), kl=swept.kl * 100)
    again = chosen_alpha(at_test, at_test.kl_validation <= budget)
    np.testing.assert_array_equal(again.chosen_alpha.values, chosen.values)
    assert not again.chosen_gain.equals(swept.chosen_gain)
    for moved in (swept.assign(log_odds=wild), swept.assign(kl_validation=swept.kl_validation * 100)):
        assert not chosen_alpha(moved, moved.kl_validation <= budget).chosen_alpha.equals(chosen)


def test_what_is_summed_up_of_a_curved_model_is_that_of_its_log_odds(curved):
    """Of test prompts, each concept on its own readout, however many prompts others have."""
    swept = curved[-1]
    for m, c, layer in itertools.product(range(5), range(3), range(3)):
        test = (swept.split[c] == "test").values
        odds = swept.log_odds.isel(probe=m, concept=c, layer=layer, readout_concept=c, prompt=test)
        odds = odds.dropna("prompt", how="all").transpose("prompt", "alpha")
        assert len(odds) == (8 if c < 2 else 6)
        here = swept.isel(probe=m, concept=c, layer=layer)
        slopes = [np.polyfit(ALPHAS[:5], row[:5], 1)[0] for row in odds.values]
        assert here.steerability.item() == pytest.approx(np.mean(slopes), abs=1e-4)
        assert here.anti_steerable.item() == pytest.approx(np.mean(np.array(slopes) < 0))
        correlations = [spearmanr(row, ALPHAS).statistic for row in odds.values]
        assert here.monotonicity.item() == pytest.approx(np.nanmean(correlations), abs=1e-5)
        assert here.steerability_lower <= here.steerability <= here.steerability_upper
        draw = bootstrap_means(np.array(slopes)[None], 2000, 0)
        width = np.quantile(draw, 0.975) - np.quantile(draw, 0.025)
        assert float(here.steerability_upper - here.steerability_lower) == pytest.approx(width, rel=0.25, abs=1e-4)
        np.testing.assert_allclose(here.success_rate.values, (odds > 0).mean("prompt"), atol=1e-6)
    # Selectivity wanders at least as far as what it is the difference of, and no further than both sides together.
    widths = {name: swept[f"{name}_upper"] - swept[f"{name}_lower"] for name in ("selectivity", "steerability")}
    others = (swept.interference_upper - swept.interference_lower).max("readout_concept")
    assert (widths["selectivity"] <= 1.01 * (widths["steerability"] + others) + 1e-6).all()
    for name in ("selectivity", "kl", "delta_nll"):
        lower, upper = swept[f"{name}_lower"], swept[f"{name}_upper"]
        assert ((lower <= swept[name] + 1e-6) & (swept[name] <= upper + 1e-6)).all(), name
        assert (upper > lower).any(), name
