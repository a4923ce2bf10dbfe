"""Ways of pushing at equal KL: in a linear model strengths, layers and slopes have closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from helpers.linear import PROMPTS, SERIOUS, close, ends, linear, plan, residual_norm, rows, three, write_files
from helpers.plain import concept
from steerlib.concepts import prompt_split
from steerlib.figures import instrument as pictures
from steerlib.numerics.methods import METHODS
from steerlib.stages.instrument import Candidates, compare
from steerlib.steering.operators import OPERATORS

BUDGET = 0.05


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    write_files(folder)
    model = linear()
    study = plan(folder, SERIOUS, {"steps": [0], "draws": 20}, kl_budget=BUDGET)
    candidates = Candidates(model, study, three())
    return model, study, candidates, compare(model, study, three())


def kl_of(model, study):
    """Of a step added at whatever layer, mean KL on validation and on test passages."""
    passages = [text.split() for text in study.load_neutral()]
    cut = [" ".join(words[: 3 + (7 * i) % (len(words) - 4)]) for i, words in enumerate(passages)]
    logits = torch.stack([ends(model, text)[-1] for text in cut]) @ model.unembedding.T
    before, split = logits.log_softmax(-1), prompt_split(study.load_neutral(), 0)

    def kl(step):
        after = (logits + step @ model.unembedding.T).log_softmax(-1)
        values = (before.exp() * (before - after)).sum(-1).numpy()
        return [values[split == name].mean() for name in ("validation", "test")]

    return kl


def test_all_ways_are_there_each_once_for_every_concept(world):
    _, study, candidates, compared = world
    names = [*SERIOUS, *(f"operator {kind}" for kind in OPERATORS if kind != "add"), "operator add, all layers"]
    names += [f"cure {cure}" for cure in study.instrument.cures]
    assert compared.candidate.values.tolist() == names
    tried = [(candidate.name, candidate.concept) for candidate in candidates.all()]
    assert len(tried) == len(set(tried)) == 3 * len(names)
    assert compared.strength.notnull().mean() > 0.8


def test_what_is_added_has_the_slope_and_the_kl_of_its_closed_form(world):
    """Methods and cures: a step of the direction, so long that KL on validation passages meets the budget."""
    model, study, candidates, compared = world
    norm, difference, kl, checked = residual_norm(model), rows(model), kl_of(model, study), 0
    for candidate in candidates.all():
        if candidate.arm.operator.name != "add":
            continue
        here = compared.sel(candidate=candidate.name).isel(concept=candidate.concept)
        assert int(here.chosen_layer) == candidate.layer
        steps = [candidate.arm.operator.step[0], *(above.step[0] for above in candidate.arm.above.values())]
        for layer, step in enumerate(steps, start=candidate.layer):
            length = step.norm().item()
            assert length == pytest.approx(norm[layer], rel=1e-4) or (length == 0 and candidate.kind == "cure")
        if np.isnan(here.strength):
            assert not sum(steps).any()
            continue
        pushed = float(here.strength) * sum(steps)
        validation, test = kl(pushed)
        assert validation == pytest.approx(BUDGET, rel=0.02)
        close(here.kl, test, atol=1e-4)
        slopes = difference @ pushed
        close(here.interference, slopes, atol=1e-3)
        close(here.steerability, slopes[candidate.concept], atol=1e-3)
        others = np.delete(slopes.numpy(), candidate.concept)
        close(here.off_target, np.abs(others).mean(), atol=1e-3)
        close(here.selectivity, slopes[candidate.concept] - np.abs(others).mean(), atol=1e-3)
        close([here.steerability_lower, here.steerability_upper], [here.steerability] * 2, atol=1e-3)
        checked += 1
    assert checked > 3 * (len(SERIOUS) + 2)


def test_layers_are_where_a_push_of_one_residual_norm_does_most(world):
    model, _, candidates, _ = world
    norm, difference = residual_norm(model), rows(model).numpy()
    for vectors in candidates.directions.values():
        assert vectors.shape == (3, 3, 21, model.hidden)
        effect = np.einsum("lcrd,cd->lcr", vectors, difference) * norm[:, None, None]
        chosen = np.take_along_axis(effect, candidates.choose(vectors)[None], 0)[0]
        close(chosen, effect.max(0))


def test_p_values_are_those_of_nulls_at_their_own_layers_and_strengths(world):
    model, study, candidates, compared = world
    difference, kl, kinds = rows(model), kl_of(model, study), compared.null.values
    assert (kinds == "random").sum() == (kinds == "shuffled").sum() == study.instrument.draws
    slopes = {}
    for candidate in candidates.nulls():
        if candidate.name != "random" and not METHODS[candidate.name].supervised:
            # Shuffled labels choose no other axis for it, so they are no null.
            assert compared.p_shuffled.sel(candidate=candidate.name).isnull().all()
            continue
        if len(slopes.get((candidate.name, candidate.concept), [])) == 2:  # two of each are enough
            continue
        step = candidate.arm.operator.step[0]
        drawn = compared.steerability_null
        name = study.emergence.method if candidate.name == "random" else candidate.name
        here = drawn.sel(candidate=name).isel(concept=candidate.concept).values
        here = here[kinds == ("random" if candidate.name == "random" else "shuffled")]
        if not step.any():  # no direction there (a file of another layer): not pushed
            assert np.isnan(here).any()
            continue
        # What is in there must be this step at its own strength: its slope for the budget.
        low, high = 0.0, 100.0
        for _ in range(25):
            middle = (low + high) / 2
            over = kl(middle * step)[0] > BUDGET
            low, high = (low, middle) if over else (middle, high)
        slope = low * float(difference[candidate.concept] @ step)
        assert np.nanmin(np.abs(here - slope)) < 0.02 * max(1, abs(slope)), (candidate.name, candidate.concept)
        slopes.setdefault((candidate.name, candidate.concept), []).append(slope)
    assert len(slopes) == 3 * (1 + sum(METHODS[name].supervised for name in candidates.directions))
    for k, c in itertools.product(range(compared.sizes["candidate"]), range(3)):
        here = compared.isel(candidate=k, concept=c)
        for kind in ("random", "shuffled"):
            drawn = here.steerability_null.values[kinds == kind]
            drawn = drawn[~np.isnan(drawn)]  # those that some strength brought to the budget
            expected = (1 + (drawn >= here.steerability.item()).sum()) / (1 + len(drawn))
            expected = expected if len(drawn) and here.steerability.notnull() else np.nan
            assert here[f"p_{kind}"].item() == pytest.approx(expected, nan_ok=True)
    larger = np.fmax(compared.p_random, compared.p_shuffled)
    assert (compared.q_value >= larger - 1e-12).where(larger.notnull(), True).all()
    assert (compared.q_value.isnull() == larger.isnull()).all()


def test_cured_directions_are_independent_of_the_others_at_their_layer(world):
    _, _, candidates, _ = world
    vectors, _ = candidates.reported
    for candidate in candidates.all():
        step = candidate.arm.operator.step[0].numpy() if candidate.kind == "cure" else None
        others = np.delete(vectors[candidate.layer], candidate.concept, 0)
        if candidate.name == "cure gram_schmidt":
            assert np.abs(others @ step).max() < 1e-4
        elif candidate.name == "cure leace":
            assert step @ vectors[candidate.layer, candidate.concept] > 0


def test_a_budget_that_nothing_reaches_is_not_reached_and_drawn_so(tmp_path):
    """As in an untrained model, whose words hardly depend on what it is pushed to."""
    write_files(tmp_path)
    study = plan(tmp_path, instrument={"steps": [0], "draws": 20})
    study = study.model_copy(update={"sweep": study.sweep.model_copy(update={"kl_budget": 1e6})})
    compared = compare(linear(), study, three())
    for name in ("strength", "kl", "delta_nll", "steerability", "steerability_lower", "selectivity", "q_value"):
        assert compared[name].isnull().all(), name
    for figure in (pictures.at_equal_kl(compared), pictures.cures(compared)):
        figure.savefig(tmp_path / "figure.png")
    assert (pictures.table(compared).filter(like="found") == 0).all(axis=None)


def test_a_concept_whose_classes_look_the_same_goes_through_and_is_not_found(tmp_path):
    """As a placebo may in a young model: there is no direction, so nothing to erase and nothing to carry over."""
    write_files(tmp_path)
    same = {"positive": ["Anna a", "c b"], "negative": ["ran a", "d b"]}
    concepts = [*three()[:1], concept("placebo", PROMPTS, [" home"], [" mad"], same)]
    study = plan(tmp_path, instrument={"steps": [0], "draws": 20}, kl_budget=BUDGET)
    compared = compare(linear(), study, concepts).sel(concept="placebo")
    directed = compared.kind != "operator"
    assert compared.strength.where(directed, drop=True).isnull().all()
    assert compared.steerability.where(directed, drop=True).isnull().all(), (
        "what was not pushed has no effect, not even none"
    )
    assert not (compared.q_value < 0.05).any()


def test_where_one_concept_alone_is_no_null_the_pictures_say_what_there_is(world):
    """No other concept can be moved by mistake then."""
    *_, compared = world
    names = compared.concept.values
    alone = compared.assign_coords(role=("concept", ["emotion", *["null"] * (len(names) - 1)]))
    assert pictures.off_target(alone).empty and len(pictures.table(alone)) == compared.sizes["candidate"]
    for draw in (pictures.at_equal_kl, pictures.cures):
        assert draw(alone).axes
