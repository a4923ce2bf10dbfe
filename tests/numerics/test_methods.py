"""Methods: what every one of them promises, whoever wrote it.

Tests over METHODS take a new method in without being edited; one with a required option other than ``file`` needs a
line in `method`.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import special_ortho_group

from helpers.planted import DENSE, HIDDEN, PAIRS, SPARSE, decoder, planted, with_nulls
from steerlib.numerics.directions import fit
from steerlib.numerics.labels import shuffled_labels, true_labels
from steerlib.numerics.methods import METHODS, Method, create
from steerlib.numerics.separability import auroc

every_method = pytest.mark.parametrize("method", METHODS, indirect=True)
serious_method = pytest.mark.parametrize("method", [n for n, m in METHODS.items() if m.serious], indirect=True)


@pytest.fixture
def method(request, tmp_path) -> Method:
    """With its defaults; one that wants a file gets a decoder in which one feature is SPARSE."""
    kind = METHODS[request.param]
    return kind(file=decoder(tmp_path), layer=0) if "file" in kind.model_fields else kind()


def truth(method: Method):
    return DENSE if method.rotates else SPARSE


# What all promise


@serious_method
@pytest.mark.parametrize("seed", range(3))
def test_a_planted_direction_is_found_and_points_from_negative_to_positive(method, seed):
    states, labels = planted(seed, truth(method)), true_labels(PAIRS)
    found, turned = fit(method, states, labels, seed), fit(method, states, labels[..., ::-1], seed)
    assert found.vector[0] @ truth(method) > 0.95
    assert found.vector[0] @ turned.vector[0] < -0.9999
    if not method.supervised:  # labels choose the sign and nothing else
        assert found.sign == -turned.sign and found.length == turned.length


@serious_method
def test_shuffled_labels_give_another_axis_if_the_method_says_so(method):
    found = fit(method, planted(0, truth(method)), with_nulls(3)).vector
    assert (abs(found @ found[0]) > 0.9999).all() == (not method.supervised)


@every_method
def test_scaled_and_moved_states_give_the_same_direction(method):
    states, labels = planted(0, truth(method)), with_nulls(2)
    one, other = fit(method, states, labels).vector, fit(method, 7 * states + 50, labels).vector
    assert ((one * other).sum(-1) > 0.9999).all()


@serious_method
def test_turned_states_give_the_turned_direction_if_the_method_says_so(method):
    states, labels = planted(0, truth(method)), with_nulls(2)
    turn = special_ortho_group.rvs(HIDDEN, random_state=1)
    expected, found = fit(method, states, labels).vector @ turn, fit(method, states @ turn, labels).vector
    assert ((expected * found).sum(-1) > 0.9999).all() == method.rotates


@every_method
def test_a_result_has_a_unit_direction_length_and_spread_for_every_draw(method):
    states, labels = planted(0, truth(method)), with_nulls(5)
    found = fit(method, states, labels, seed=3)
    assert found.method == method.name and found.vector.shape == (6, HIDDEN)
    assert np.allclose(np.linalg.norm(found.vector, axis=1), 1)
    vectors = method.vectors(states, labels, 3, None)
    assert np.allclose(found.vector * (found.length * found.sign)[:, None], vectors)
    assert set(found.sign) <= {1.0, -1.0} and (method.serious or (found.sign == 1).all())
    for values in (found.length, found.spread):
        assert values.shape == (6,) and np.isfinite(values).all()
    for vector, pairs, spread in zip(found.vector, labels, found.spread, strict=True):
        high, low = states[pairs[:, 0]] @ vector, states[pairs[:, 1]] @ vector
        assert spread == pytest.approx(np.sqrt((high.std() ** 2 + low.std() ** 2) / 2))


@every_method
def test_the_true_direction_does_not_depend_on_how_many_nulls_are_fitted_beside_it(method):
    states = planted(0, truth(method))
    together, alone = fit(method, states, with_nulls(5), seed=3), fit(method, states, true_labels(PAIRS), seed=3)
    assert together.vector[0] @ alone.vector[0] > 0.99999
    assert together.length[0] == pytest.approx(alone.length[0], rel=1e-2)


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.of_pairs], indirect=True)
def test_draws_of_some_pairs_are_fits_to_their_states_alone_where_the_method_says_so(method):
    states, some = planted(0, truth(method)), np.array([[0, 2, 2, 5], [4, 1, 0, 3]])
    drawn = fit(method, states, true_labels(PAIRS)[0, some])
    alone = [fit(method, states[[*kept, *kept + PAIRS]], true_labels(4)) for kept in some]
    for what in ("vector", "length", "sign", "spread"):
        expected = np.concatenate([getattr(one, what) for one in alone])
        assert np.allclose(getattr(drawn, what), expected, atol=1e-12)


@every_method
def test_the_same_seed_gives_the_same_bits_and_nothing_given_is_changed(method):
    states, labels = planted(0, truth(method), 30), with_nulls(3, 30)
    before = states.copy(), labels.copy()
    one, other = (fit(method, states, labels, seed=[4, 5]) for _ in range(2))
    assert (one.vector == other.vector).all() and (one.length == other.length).all()
    assert (states == before[0]).all() and (labels == before[1]).all()


@every_method
def test_placebo_labels_separate_held_out_states_by_chance_only(method):
    """Mean AUROC over many worlds is 1/2 within four standard errors, and far from it when something is planted."""

    def held_out(seed, gap):
        (found,) = fit(method, planted(seed, truth(method), 20, gap), true_labels(20), seed).vector
        return auroc(planted(seed + 1000, truth(method), 20, gap) @ found, np.arange(40) < 20)

    null, real = (np.array([held_out(seed, gap) for seed in range(40)]) for gap in (0.0, 3.0))
    assert abs(null.mean() - 0.5) < 4 * null.std() / np.sqrt(40) < 0.08
    assert real.mean() > 0.9 or not method.serious


@serious_method
@pytest.mark.parametrize("constant", [1.0, 0.1, None, "in another order"])
@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_classes_that_are_the_same_have_no_direction_and_no_nan(method, constant):
    """Means of 0.1, or of the same states in another order, leave rounding errors, which are no direction."""
    half = np.full((10, HIDDEN), constant) if isinstance(constant, float) else planted(0, truth(method))[:10] + 1000
    states = np.concatenate([half, half if constant is None else half[[3, 1, 4, 0, 5, 9, 2, 6, 8, 7]]])
    found = fit(method, states, true_labels(10))
    assert not found.vector.any() and not found.length.any() and not found.spread.any()
    assert np.isfinite(fit(method, states, shuffled_labels(10, 5, 0)).vector).all()


@every_method
@pytest.mark.parametrize("pairs", [1, 2])
def test_next_to_no_pairs_give_a_direction_or_none_but_no_nan(method, pairs):
    assert np.isfinite(fit(method, planted(0, truth(method), pairs), true_labels(pairs)).vector).all()


@every_method
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_states_that_are_not_finite_are_refused(method, bad):
    states = planted(0, truth(method))
    states[3, 4] = bad
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        fit(method, states, true_labels(PAIRS))


@every_method
def test_a_method_is_frozen_and_says_what_it_does_and_whose_it_is(method):
    assert "\n" not in method.formula and "v " in method.formula and method.source and type(method).__doc__
    with pytest.raises(ValidationError):
        method.seed = 1


# The registry


USERS = '''
import numpy as np
from steerlib.numerics.methods import Method

class Median(Method, name="users_median"):
    """Difference of the class medians."""
    formula = r"v = med(h^+) - med(h^-)"
    source = "a user"
    times: float = 1.0

    def vectors(self, states, labels, seed, layer):
        return self.times * (np.median(states[labels[..., 0]], 1) - np.median(states[labels[..., 1]], 1))
'''


def test_a_users_method_is_one_file(tmp_path, monkeypatch):
    monkeypatch.setattr("steerlib.numerics.methods.METHODS", METHODS.copy())
    (tmp_path / "users_median.py").write_text(USERS)

    def run():
        spec = importlib.util.spec_from_file_location("users_median", tmp_path / "users_median.py")
        spec.loader.exec_module(importlib.util.module_from_spec(spec))

    run()
    states = planted(0, DENSE)
    single, double = (fit(s, states, with_nulls(2)) for s in ("users_median", {"users_median": {"times": 2}}))
    assert single.vector[0] @ DENSE > 0.95 and single.method == "users_median"
    assert np.allclose(double.length, 2 * single.length)
    assert create("users_median").files() == []
    run()  # as a notebook does whose cell is run again


@pytest.mark.parametrize(
    "spec, message",
    [
        ("pcaa", r"unknown method 'pcaa'; allowed: .*pca, pca_centred"),
        ({"k_sparse": {"k": 0}}, r"k_sparse: k: 0 is not allowed: .*greater"),
        ({"k_sparse": {"kk": 3}}, r"k_sparse: kk: unknown option; allowed: k, c"),
        ({"mean_difference": {"k": 3}}, r"mean_difference: k: unknown option; allowed: none"),
        ({"l1": {"c": "much"}}, r"l1: c: 'much' is not allowed"),
        ({"l1": 3}, r"l1: 3 is not allowed"),
        ({"sae": {}}, r"sae: file: required, but missing"),
        ({"sae": {"file": "a.safetensors"}}, r"sae: say which layer"),
        ({"pca": {}, "l1": {}}, r"a method is a name"),
        (3, r"a method is a name"),
    ],
)
def test_a_wrong_spec_is_told_what_is_allowed(spec, message):
    with pytest.raises(ValueError, match=message):
        create(spec)


def test_options_come_with_the_name():
    assert create({"k_sparse": {"k": 3}}).k == 3 and create({"k_sparse": None}) == create("k_sparse")
    regression, shrunk = {"c": 1}, {"shrinkage": True}
    defaults = {"logistic": regression, "l1": regression, "k_sparse": {"k": 8, "c": 1}, "lda": shrunk, "leace": shrunk}
    assert {name: create(name).model_dump() for name in defaults} == defaults


def test_a_name_is_given_once_and_formula_and_source_must_be_said():
    with pytest.raises(TypeError, match=r"'pca' is taken by steerlib\.numerics\.methods\.components\.PCA"):
        type(Method)("Mine", (METHODS["pca"],), {"__module__": "mine"}, name="pca")
    with pytest.raises(TypeError, match="'mine' must say its formula and source"):
        type(Method)("Mine", (Method,), {"__module__": "mine"}, name="mine")
    assert "mine" not in METHODS
