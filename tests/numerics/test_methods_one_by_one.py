"""Methods one by one: what each finds by its own definition, against scikit-learn and plain linear algebra."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy.stats import special_ortho_group
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from helpers.planted import DENSE, HIDDEN, PAIRS, SPARSE, decoder, planted, with_nulls
from steerlib import SteerlibError
from steerlib.files.params import Located
from steerlib.numerics.directions import fit, unit
from steerlib.numerics.labels import gaps, shuffled_labels, true_labels
from steerlib.numerics.methods import create
from steerlib.numerics.separability import auroc


@pytest.mark.parametrize("name", ["mean_difference", "logistic", "k_sparse", "l1", "lda", "leace"])
def test_draws_fitted_at_once_are_as_fitted_one_at_a_time(name):
    states, labels = planted(0, DENSE), shuffled_labels(PAIRS, 6, 0)
    alone = np.concatenate([fit(name, states, labels[[r]]).vector for r in range(6)])
    assert ((fit(name, states, labels).vector * alone).sum(-1) > 0.9999).all()


def test_pca_is_an_svd_of_flipped_and_centred_differences():
    states, labels = planted(0, DENSE), with_nulls(3)
    flips = np.where(np.random.default_rng(5).random(labels.shape[:2]) < 0.5, -1.0, 1.0)
    found = fit("pca", states, labels, seed=5)
    for r, (pairs, flip) in enumerate(zip(labels, flips, strict=True)):
        difference = (states[pairs[:, 0]] - states[pairs[:, 1]]) * flip[:, None]
        components = np.linalg.svd(difference - difference.mean(0))[2]
        assert abs(components[0] @ found.vector[r]) > 0.999999
    assert np.allclose(found.length, 1)


def test_pca_centred_is_an_svd_of_the_centred_states_which_pca_is_not():
    """Where a nuisance shared by partners varies most, the one finds that and the other the concept."""
    nuisance = unit(np.eye(HIDDEN)[0] - DENSE * DENSE[0])
    states = planted(0, DENSE) + 9 * np.tile(np.random.default_rng(1).standard_normal((PAIRS, 1)), (2, 1)) * nuisance
    components = np.linalg.svd(states - states.mean(0))[2]
    assert abs(components[0] @ fit("pca_centred", states, true_labels(PAIRS)).vector[0]) > 0.999999
    assert abs(components[0] @ nuisance) > 0.95 < fit("pca", states, true_labels(PAIRS)).vector[0] @ DENSE


@pytest.mark.parametrize("c", [1.0, 0.01])
def test_logistic_solves_all_labellings_as_scikit_learn_solves_each(c):
    """In direction and in length, so that the strength of the penalty is the same, too."""
    states, labels = planted(0, DENSE, gap=2), with_nulls(20)
    weights = create({"logistic": {"c": c}}).vectors(states, labels, 0, None)
    for pairs, found in zip(labels, weights, strict=True):
        positive = np.isin(np.arange(2 * PAIRS), pairs[:, 0])
        (expected,) = LogisticRegression(C=c, tol=1e-8).fit(scaled(states), positive).coef_
        assert unit(found) @ unit(expected) > 0.9999
        assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(expected), rel=1e-2)


def scaled(states):
    centred = states - states.mean(0)
    return centred / np.sqrt((centred**2).mean())


def test_k_sparse_is_a_logistic_probe_on_the_k_dimensions_that_separate_best():
    states, labels = planted(0, SPARSE, gap=2), with_nulls(4)
    states[:, 6] *= 0.05  # small, and no less telling for that
    weights = create({"k_sparse": {"k": 2}}).vectors(states, labels, 0, None)
    assert ((weights != 0).sum(1) == 2).all() and set(np.flatnonzero(weights[0])) == {2, 6}
    positive = np.arange(2 * PAIRS) < PAIRS
    (expected,) = LogisticRegression(C=1, tol=1e-8).fit(scaled(states)[:, [2, 6]], positive).coef_
    assert unit(weights[0, [2, 6]]) @ unit(expected) > 0.999
    everything = fit({"k_sparse": {"k": 10**6}}, states, labels).vector
    assert ((everything * fit("logistic", states, labels).vector).sum(-1) > 0.9999).all()


def test_l1_has_the_fewer_weights_the_stronger_its_penalty():
    states = planted(0, SPARSE)
    found = [fit({"l1": {"c": c}}, states, true_labels(PAIRS)) for c in (1e-5, 0.02, 1.0, 1e3)]
    nonzero = [np.count_nonzero(fitted.vector) for fitted in found]
    assert nonzero == sorted(nonzero) and nonzero[0] == 0 < nonzero[1] <= 3 < nonzero[-1] == HIDDEN
    assert not found[0].vector.any() and found[1].vector[0] @ SPARSE > 0.9


def test_lda_is_scikit_learns_and_leace_parallel_to_it_until_they_are_shrunk():
    states = planted(0, DENSE, 40) @ np.random.default_rng(3).standard_normal((HIDDEN, HIDDEN))
    labels = true_labels(40)
    expected = LinearDiscriminantAnalysis(solver="lsqr").fit(states, np.arange(80) < 40).coef_[0]
    plain, shrunk = (
        [fit({name: {"shrinkage": on}}, states, labels).vector[0] for name in ("lda", "leace")] for on in (False, True)
    )
    assert plain[0] @ unit(expected) > 1 - 1e-9 and plain[1] @ unit(expected) > 1 - 1e-9
    read, _, _, _ = np.linalg.lstsq(states - states.mean(0), np.repeat([0.5, -0.5], 40), rcond=None)
    for name, length in (("lda", expected), ("leace", read)):  # in length, too
        assert np.allclose(create({name: {"shrinkage": False}}).vectors(states, labels, 0, None)[0], length)
    assert shrunk[0] @ plain[0] < 0.9999 and shrunk[1] @ shrunk[0] < 0.999999


def test_lda_of_a_single_pair_is_its_difference():
    """Nothing varies within classes of one."""
    states = planted(0, DENSE, 1)
    assert fit("lda", states, true_labels(1)).vector[0] @ unit(states[0] - states[1]) == pytest.approx(1)


@pytest.mark.parametrize("name", ["lda", "leace"])
def test_shrinkage_helps_where_states_are_few(name):
    """One dimension is loud and says nothing; twice as many states as dimensions do not show its covariance well."""

    def held_out(seed, **options):
        worlds = [planted(s, DENSE, 7, 2) for s in (seed, seed + 500)]
        (found,) = fit({name: options}, worlds[0], true_labels(7)).vector
        return auroc(worlds[1] @ found, np.arange(14) < 7)

    plain, shrunk = (np.mean([held_out(s, shrinkage=on) for s in range(60)]) for on in (False, True))
    assert shrunk > plain + 0.05


def test_cluster_mean_is_the_distance_of_clusters_that_labels_did_not_make():
    states, labels = planted(0, DENSE, gap=8), with_nulls(3)
    found = fit("cluster_mean", states, labels)
    gap = states[:PAIRS].mean(0) - states[PAIRS:].mean(0)
    assert found.length[0] == pytest.approx(np.linalg.norm(gap)) and found.vector[0] @ unit(gap) > 0.9999
    assert (abs(found.vector @ found.vector[0]) > 0.999999).all()


def test_nulls_know_nothing():
    """`random` of states and labels; `shuffled` of the labels, whichever way round they are, in any order of states."""
    states, labels = planted(0, DENSE, gap=12), np.repeat(true_labels(PAIRS), 100, 0)
    other = planted(1, SPARSE)
    assert (fit("random", states, labels).vector == fit("random", other, labels[..., ::-1]).vector).all()
    dealt = gaps(states, shuffled_labels(PAIRS, 100, 1))
    assert np.allclose(create("shuffled").vectors(states, labels, 1, None), dealt)  # in length, too
    order = np.random.default_rng(0).permutation(2 * PAIRS)
    for name in ("random", "shuffled"):
        found = fit(name, states[order], np.argsort(order)[labels], seed=1).vector
        chance = np.sqrt(2 / np.pi / HIDDEN)  # mean |cosine| of two random directions
        assert 0.7 * chance < np.abs(found @ DENSE).mean() < 1.3 * chance
        assert 0.3 < (found @ DENSE > 0).mean() < 0.7


# Sparse autoencoders


@pytest.mark.parametrize("name, turned", [("W_dec", False), ("decoder.weight", True), ("decoder_linear.weight", True)])
def test_published_layouts_of_a_decoder_are_understood(tmp_path, name, turned):
    method = create({"sae": {"file": decoder(tmp_path, name, turned), "layer": 2}})
    states = planted(0, SPARSE)
    found = fit(method, states, with_nulls(2), layer=2)
    assert found.vector[0] @ SPARSE > 0.999999 and found.length[0] == pytest.approx(3, rel=1e-6)
    assert not fit(method, states, with_nulls(2), layer=1).vector.any()
    named = method.model_copy(update={"feature": 3})
    stored = load_file(method.file)[name]
    third = unit(stored[:, 3] if turned else stored[3])
    assert (abs(fit(named, states, with_nulls(2), layer=2).vector @ third) > 0.999999).all()


def test_a_square_decoder_is_read_by_torchs_convention_and_a_tensor_of_any_name_by_its_own(tmp_path):
    rows = special_ortho_group.rvs(HIDDEN, random_state=0).astype(np.float32)
    save_file({"decoder.weight": np.ascontiguousarray(rows.T), "rows": rows}, tmp_path / "square.safetensors")
    for tensor in ("decoder.weight", "rows"):
        method = create({"sae": {"file": str(tmp_path / "square.safetensors"), "tensor": tensor, "layer": 0}})
        found = fit(method, planted(0, rows[5]), true_labels(PAIRS))
        assert found.vector[0] @ rows[5] > 0.999999


@pytest.mark.parametrize("way", [1, -1])
def test_the_chosen_feature_is_the_one_of_highest_auroc_either_way_round(tmp_path, way):
    method = create({"sae": {"file": decoder(tmp_path), "layer": 0}})
    rows = load_file(method.file)["W_dec"].astype(float)
    states = planted(0, way * unit(rows[3]), gap=1.0) + 1000
    separated = auroc(rows @ (states - 1000).T, np.arange(2 * PAIRS) < PAIRS)
    best = np.abs(separated - 0.5).argmax()
    found = fit(method, states, true_labels(PAIRS))
    assert found.vector[0] @ unit(rows[best]) * way > 0.999999 and found.sign == np.sign(separated[best] - 0.5) == way


def test_a_feature_that_is_always_higher_for_negatives_separates_better_than_one_that_errs_once(tmp_path):
    save_file({"W_dec": np.eye(2, dtype=np.float32)}, tmp_path / "two.safetensors")
    method = create({"sae": {"file": str(tmp_path / "two.safetensors"), "layer": 0}})
    states = np.array([[0, 3.0], [1, 4], [2, 5], [3, 0], [4, 1], [5, 3.5]])
    assert method.vectors(states, true_labels(3), 0, 0).tolist() == [[1, 0]]


def test_a_file_a_layer(tmp_path):
    for layer in (0, 11):
        (tmp_path / f"layer_{layer}").mkdir()
        decoder(tmp_path / f"layer_{layer}")
    method = create({"sae": {"file": Located("layer_{layer}/sae.safetensors", tmp_path)}})
    assert [path.parent.name for path in method.files()] == ["layer_0", "layer_11"]
    there = [fit(method, planted(0, SPARSE), true_labels(PAIRS), layer=i).vector.any() for i in (0, 1, 11)]
    assert there == [True, False, True]
    with pytest.raises(SteerlibError, match="say of which layer the states are"):
        fit(method, planted(0, SPARSE), true_labels(PAIRS))


def test_what_is_wrong_with_a_file_is_said(tmp_path):
    good = decoder(tmp_path)
    damaged, other, narrow, endless = (str(tmp_path / f"{n}.safetensors") for n in "abcd")
    Path(damaged).write_bytes(Path(good).read_bytes()[:-200])
    save_file({"encoder": np.zeros((3, HIDDEN), np.float32)}, other)
    save_file({"W_dec": np.zeros((3, 5), np.float32)}, narrow)
    save_file({"W_dec": np.full((3, HIDDEN), np.nan, np.float32)}, endless)
    for options, message in [
        ({"file": str(tmp_path / "none.safetensors")}, r"none.safetensors: no such file; option `file`"),
        ({"file": str(tmp_path / "{layer}.safetensors"), "layer": 0}, r"\{layer\}.safetensors: no such file"),
        ({"file": damaged}, r"a.safetensors: cannot be read as safetensors"),
        (
            {"file": other},
            r"b.safetensors: no tensor W_dec, decoder.weight.* 12 hidden.*; there are: encoder \(3, 12\)",
        ),
        ({"file": narrow}, r"c.safetensors: no tensor W_dec.* with a side of the model's 12 hidden.*W_dec \(3, 5\)"),
        ({"file": endless}, r"d.safetensors: W_dec holds NaN"),
        ({"file": good, "feature": 30}, r"has features 0 to 29; option `feature` asks for 30"),
    ]:
        method = create({"sae": {"layer": 0, **options}})
        with pytest.raises(SteerlibError, match=message):
            fit(method, planted(0, SPARSE), true_labels(PAIRS))
