"""The analysis' method fitted again, without some texts and on shuffled labels: each as by hand, one at a time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from helpers.linear import close, plan
from helpers.models import WORDS, build
from helpers.plain import log_odds
from steerlib.concepts import Concept, prompt_split
from steerlib.numerics import directions
from steerlib.numerics.labels import shuffled_labels, true_labels
from steerlib.numerics.methods import METHODS
from steerlib.stages.interventions import sweep
from steerlib.stages.probing import REDRAWN, extract, seed_of
from steerlib.stages.pushes import Pushes
from steerlib.steering.arms import Arm, dose_response
from steerlib.steering.operators import build as build_operator

DEALS, BUDGET, LAYER = 100, 0.02, 1
KINDS = [("add", scale) for scale in ("residual_norm", "raw", "projection_std", "iso_kl")]
KINDS += [("affine", "residual_norm"), ("rotate", "iso_kl"), ("ablate", "residual_norm")]
PROMPTS = {n: [f"{word} felt {n * 'g '}{word}" for word in WORDS[:n]] for n in (4, 6)}


def concept(name: str, templates: int, pairs: int, prompts: int, target: str, foil: str) -> Concept:
    """Texts of words drawn at random: half of the templates fit. As many prompts are the same."""
    draw = np.random.default_rng([templates, pairs])
    said = lambda: " ".join(draw.choice(WORDS, 4))  # noqa: E731
    sides = ("positive", "negative")
    stimuli = [
        {"name": str(k), "split": split, **{side: [said() for _ in range(pairs)] for side in sides}}
        for k, split in enumerate(["fit", "test"] * (templates // 2))
    ]
    asked = {"prompts": PROMPTS[prompts], "targets": [target], "foils": [foil]}
    return Concept(name=name, templates=stimuli, readout=asked)


WORLD = [
    concept("joy", 8, 2, 6, " happy", " sad"),  # four templates to fit on
    concept("rest", 2, 2, 4, " a", " b"),  # one, of two pairs
    concept("calm", 2, 4, 6, " home", " mad"),  # one, of four pairs
]
KEPT = {
    "joy": [range(8), [2, 3, 4, 5, 6, 7], [0, 1, 4, 5, 6, 7], [0, 1, 2, 3, 6, 7], [0, 1, 2, 3, 4, 5]],
    "calm": [range(4), [1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]],
    "rest": [range(2)],
}


def studied(folder, method="mean_difference", **changes):
    study = plan(folder, ["mean_difference", *{method} - {"mean_difference"}], kl_budget=BUDGET, **changes)
    emergence = study.emergence.model_copy(update={"method": method, "shuffled": DEALS})
    return study.model_copy(update={"emergence": emergence})


@pytest.fixture(scope="module")
def model():
    return build("gpt_neox", "float64")


def fitting(model, one: Concept, layer: int) -> np.ndarray:
    return model.read(one.stimuli("fit", 0).texts).states[layer].double().numpy()


# --- which texts ---------------------------------------------------------------------------------------------------


def test_units_are_templates_or_pairs_where_these_are_few():
    for one in WORLD:
        assert [kept.tolist() for kept in one.stimuli("fit", 0).refits] == [list(kept) for kept in KEPT[one.name]]
    three = concept("three", 6, 2, 4, " a", " b").stimuli("fit", 0).refits
    assert [len(kept) for kept in three] == [6, 5, 5, 5, 5, 5, 5]


# --- how well they separate ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["mean_difference", "pca", "logistic", "cluster_mean"])
def test_every_redraw_separates_as_one_fitted_by_hand(model, folder, method):
    study = studied(folder, method)
    probes = extract(model, study, WORLD)
    assert probes.auroc_redrawn.dims == ("concept", "layer", "fold", "redraw")
    close(probes.auroc_redrawn.isel(redraw=0), probes.auroc.sel(probe=method))
    for one, layer in itertools.product(WORLD, range(model.n_layers)):
        states, test, fit = fitting(model, one, layer), one.stimuli("test", 0), one.stimuli("fit", 0)
        drawn = fit.redraws(REDRAWN, seed_of(study, one.name, "redrawn"))
        pairs, read = len(states) // 2, model.read(test.texts).states[layer].double().numpy()
        vectors = [
            directions.fit(method, np.concatenate([states[:pairs][k], states[pairs:][k]]), true_labels(len(k))).vector
            for k in map(list, drawn[:7])
        ]
        expected = np.full((4, 7), np.nan)
        for f, r in itertools.product(np.unique(test.fold), range(7)):
            within = np.tile(test.fold == f, 2)
            positive = np.repeat([True, False], len(test.fold))[within]
            expected[f, r] = roc_auc_score(positive, (read @ vectors[r][0])[within])
        here = probes.sel(concept=one.name, layer=layer)
        close(here.auroc_redrawn.isel(redraw=slice(7)), expected)
        np.testing.assert_allclose(here.direction_redrawn.isel(redraw=slice(7)), np.concatenate(vectors), atol=2e-3)
        assert here.fitted_units == len(np.unique(fit.units))
    whole = probes.id_score_redrawn.isel(redraw=0).transpose("concept", "layer", "variant")
    np.testing.assert_allclose(whole, probes.id_score.sel(probe=method), rtol=1e-2, atol=1e-4)
    least = 1 / (1 + (study.emergence.shuffled if METHODS[method].supervised else study.probes.random))
    counted = probes.p_id.sel(probe=method) / least  # the draws that are as large, and itself
    assert counted.min() >= 0.999 and probes.p_id.max() <= 1
    by_count = abs(counted - counted.round()).max(["layer", "variant"]) < 1e-3
    assert by_count.any(), "of all deals, where labels can be dealt so often that they tell"


def test_redraws_are_bootstrap_resamples_of_whole_units():
    for one in WORLD:
        stimuli = one.stimuli("fit", 0)
        whole, *drawn = stimuli.redraws(300, 1)
        sizes = {unit: (stimuli.units == unit).sum() for unit in np.unique(stimuli.units)}
        assert whole.tolist() == list(range(len(stimuli.fold)))
        times = np.array([[(stimuli.units[pick] == unit).sum() / n for unit, n in sizes.items()] for pick in drawn])
        assert (times == times.round()).all() and (times.sum(1) == len(sizes)).all()
        assert abs(times.mean(0) - 1).max() < 0.2 and len(np.unique(times, axis=0)) > len(sizes)


def test_shuffled_labels_separate_nothing_even_where_the_concept_is_all_there_is(model, folder):
    """Neither do they where there are too few to be told apart, or the method does not look at them: NaN."""
    told = concept("told", 8, 8, 4, " a", " b")
    for template in told.templates:  # the last word tells
        template.positive[:] = [f"{text} happy" for text in template.positive]
        template.negative[:] = [f"{text} ran" for text in template.negative]
    probes = extract(model, studied(folder), [told, *WORLD])
    assert (probes.auroc.sel(probe="mean_difference", concept="told") > 0.95).all()
    shuffled = probes.auroc_shuffled.sel(concept="told")
    assert probes.auroc_shuffled.dims == ("concept", "layer", "fold", "deal") and probes.sizes["deal"] == DEALS
    assert abs(shuffled.mean("deal") - 0.5).max() < 0.08
    close(shuffled.std("deal"), np.full((3, 4), np.sqrt(17 / 12 / 64)), rtol=0.25)  # Mann-Whitney's, of 8 and 8
    there = probes.auroc_shuffled.notnull().all(["layer", "deal"])
    assert there.sum("fold").values.tolist() == [4, 4, 0, 1]
    assert extract(model, studied(folder, "cluster_mean"), WORLD).auroc_shuffled.isnull().all()


# --- what they do --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=KINDS, ids=" ".join)
def pushed(request, model, folder):
    operator, scale = request.param
    study = studied(folder, operator=operator, scale=scale)
    probes = extract(model, study, WORLD)
    return model, study, probes, sweep(model, study, WORLD, probes)


def test_all_texts_give_the_slope_that_is_reported(pushed):
    _, study, _, swept = pushed
    assert swept["slope"].dims == ("concept", "layer", "prompt", "refit")
    split = swept.split.rename(readout_concept="concept")
    reported = swept.local_slope.sel(probe=study.emergence.method)
    loose = 0.02 if study.sweep.scale == "iso_kl" else 1e-5  # strengths are solved for anew
    close(swept["slope"].isel(refit=0).where(split == "test").mean("prompt"), reported, rtol=loose, atol=1e-5)
    for one in WORLD:
        there = np.zeros((6, 5), bool)
        there[: len(one.readout.prompts), : len(KEPT[one.name])] = True
        np.testing.assert_array_equal(swept["slope"].sel(concept=one.name, layer=LAYER).notnull(), there)


class Push:
    """Along one mean difference by hand: its exact slopes by finite differences behind plain hooks."""

    def __init__(self, pushed, one: Concept, vector: np.ndarray, spread_over: tuple[np.ndarray, np.ndarray]):
        self.model, study, self.probes, _ = pushed
        self.study, states, length = study, fitting(self.model, one, LAYER), np.linalg.norm(vector)
        unit, sides = vector / length, np.split(states, 2)
        self.operator = build_operator(study.sweep.operator, unit[None, None, None], [tuple(sides)])
        spread = np.sqrt(np.mean([(side @ unit).var() for side in spread_over]))
        residual = float(self.probes.residual_norm[LAYER]) if study.sweep.operator == "add" else 1.0
        self.strength = {"raw": length, "projection_std": spread, "residual_norm": residual}.get(study.sweep.scale, 1.0)

    def slopes(self, one: Concept, split: str | None = None) -> np.ndarray:
        """Of one readout at all of its prompts, or those of a split."""
        cases = one.readout.cases
        chosen = [k for k, of in enumerate(prompt_split([case.prompt for case in cases], 0)) if split in (None, of)]
        ends = [[self._log_odds(cases[k], alpha) for alpha in (1e-4, -1e-4)] for k in chosen]
        return np.array([float(up - down) / 2e-4 for up, down in ends])

    def _log_odds(self, case, alpha: float):
        act = self.operator.each(lambda tensor: tensor[0].double())
        return log_odds(self.model, case, {LAYER: lambda state: act(state, alpha * self.strength)})

    def agrees(self, exact: np.ndarray, slopes: np.ndarray) -> bool:
        """As strong as its KL says at equal KL, whatever that takes; False where no strength has that KL."""
        if self.study.sweep.scale == "iso_kl":
            if np.isnan(exact).all() or not exact.any():
                return False
            strength = float(exact @ slopes / (slopes @ slopes))
            effects, arm = Pushes(self.model, self.study, WORLD, self.probes).effects, Arm(self.operator, torch.ones(1))
            kl = dose_response(effects.prefix, effects.measure, LAYER, arm, [strength])[:, 0, 0, 0].numpy()
            assert kl[effects.split == "validation"].mean() == pytest.approx(BUDGET, rel=0.03)
            slopes = slopes * strength
        close(exact, slopes, rtol=2e-3, atol=1e-4)
        return True


def test_every_refit_has_the_slopes_of_a_push_by_hand(pushed):
    model, *_, swept = pushed
    agreed = []
    for one in WORLD:
        positive, negative = np.split(fitting(model, one, LAYER), 2)
        for r in {0, len(KEPT[one.name]) - 1}:  # of all texts, and without the last unit
            kept = [*KEPT[one.name][r]]
            push = Push(pushed, one, (positive[kept] - negative[kept]).mean(0), (positive[kept], negative[kept]))
            exact = swept["slope"].sel(concept=one.name, layer=LAYER).isel(refit=r).dropna("prompt").values
            agreed.append(push.agrees(exact, push.slopes(one)))
    assert np.mean(agreed) > 0.5


def test_every_deal_has_the_slopes_of_a_push_by_hand(pushed):
    """On every readout, mean of test prompts; on its own, of validation prompts too."""
    model, study, _, swept = pushed
    agreed = []
    for one, deal in itertools.product(WORLD[::2], (0, DEALS - 1)):
        states, here = fitting(model, one, LAYER), swept.sel(concept=one.name, layer=LAYER).isel(deal=deal)
        labels = shuffled_labels(len(states) // 2, DEALS, seed_of(study, one.name, "shuffled"))[deal]
        vector = np.mean([states[a] - states[b] for a, b in labels], 0)
        push = Push(pushed, one, vector, tuple(np.split(states, 2)))
        slopes = [push.slopes(each, "test").mean() for each in WORLD] + [push.slopes(one, "validation").mean()]
        exact = [*here.interference_shuffled.values, here.steerability_shuffled_validation.item()]
        agreed.append(push.agrees(np.array(exact), np.array(slopes)))
    assert np.mean(agreed) > 0.5


def test_too_few_texts_to_shuffle_have_no_null(pushed):
    *_, swept = pushed
    for name in ("interference_shuffled", "steerability_shuffled_validation"):
        there = swept[name].notnull().any([dim for dim in swept[name].dims if dim != "concept"])
        assert there.values.tolist() == [True, False, True] and swept.sizes["deal"] == DEALS
    p = swept.p_shuffled.sel(probe="mean_difference").isnull().all("layer")
    assert p.values.tolist() == [False, True, False]


def test_states_that_the_probes_kept_are_not_read_again(model, folder, monkeypatch):
    study = studied(folder).model_copy(update={"layers": [1, 2]})
    study = study.model_copy(update={"probes": study.probes.model_copy(update={"states": "float16"})})
    probes = extract(model, study, WORLD)
    without = sweep(model, study, WORLD, probes.drop_vars(["state", "text"]))
    monkeypatch.setattr(type(model), "read", None)
    kept = sweep(model, study, WORLD, probes)
    test_all_texts_give_the_slope_that_is_reported((model, study, probes, kept))
    close(kept["slope"], without["slope"], atol=1e-3)
