"""Similarity: CKA and entropy by their definitions, and cosines of the right pairs."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy.stats import special_ortho_group

from steerlib.numerics.directions import unit
from steerlib.stages.similarity import compare, layer_entropy, linear_cka

CONCEPTS, METHODS, TEXTS, HIDDEN = ["joy", "fear"], ["mean_difference", "pca", "random"], 12, 6


def states(seed, layers=2, hidden=HIDDEN):
    return np.random.default_rng(seed).standard_normal((layers, TEXTS, hidden))


def grams(states):
    centred = states - states.mean(1, keepdims=True)
    return centred @ centred.transpose(0, 2, 1)


def probes(seed, layers=3):
    """As the probe stage leaves them at one checkpoint."""
    draw, shape = np.random.default_rng(seed), (len(METHODS), len(CONCEPTS), layers)
    dims = ["probe", "concept", "layer"]
    return xr.Dataset(
        {
            "direction": ([*dims, "hidden"], unit(draw.standard_normal((*shape, HIDDEN)))),
            "id_score": (dims, draw.standard_normal(shape)),
            "direction_redrawn": (
                ["concept", "layer", "redraw", "hidden"],
                unit(draw.standard_normal((len(CONCEPTS), layers, 9, HIDDEN))).astype(np.float16),
                {"method": "pca"},
            ),
            "id_score_redrawn": (["concept", "layer", "redraw"], draw.standard_normal((len(CONCEPTS), layers, 9))),
            "fitted_units": ("concept", [6.0, 20.0]),
            "id_score_null": ([*dims, "draw"], draw.standard_normal((*shape, 5))),
            "gram": (["layer", "stimulus", "stimulus_b"], grams(states(seed, layers))),
        },
        {
            "probe": METHODS,
            "concept": CONCEPTS,
            "layer": range(layers),
            "role": ("concept", ["emotion", "emotion"]),
            "planted_frequency": ("concept", [0.4, 0.1]),
        },
    )


def test_cka_from_grams_is_its_formula_over_features():
    """‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖) of centred states (Kornblith et al. 2019), for every pair of layers, of any widths."""
    here, there = states(0, layers=2), states(1, layers=3, hidden=4)
    found = linear_cka(grams(here), grams(there))
    for i, x in enumerate(here - here.mean(1, keepdims=True)):
        for j, y in enumerate(there - there.mean(1, keepdims=True)):
            expected = ((x.T @ y) ** 2).sum() / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)
            assert found[i, j] == pytest.approx(expected, abs=1e-12)


def test_cka_sees_neither_rotation_nor_scale_nor_shift_but_sees_everything_else():
    here = states(0)
    turned = 3 * here @ special_ortho_group.rvs(HIDDEN, random_state=0) + 10
    assert np.allclose(np.diag(linear_cka(grams(here), grams(turned))), 1)
    assert (np.diag(linear_cka(grams(here), grams(here * np.linspace(0.2, 3, HIDDEN)))) < 0.95).all()
    assert (linear_cka(grams(here), grams(states(1))) < 0.8).all()


def test_cka_of_states_that_are_all_equal_is_nan_without_a_warning():
    assert np.isnan(linear_cka(grams(np.ones((1, TEXTS, HIDDEN))), grams(states(0)))).all()


@pytest.mark.parametrize(
    ("score", "bits"),
    [([2, -2, 2, 2], 2), ([0, 0, 5, 0], 0), ([1, 0, 0, -1], 1), ([1, 1, 2, 4], 1.75), ([0, 0, 0, 0], np.nan)],
)
@pytest.mark.parametrize("scale", [1, -0.03])
def test_layer_entropy_is_in_bits_whatever_the_scale_and_the_signs(score, bits, scale):
    found = layer_entropy(xr.DataArray([scale * np.array(score, float)], dims=["concept", "layer"]))
    assert found.dims == ("concept",)
    assert found.values == pytest.approx([bits], abs=1e-12, nan_ok=True)


def test_compare_puts_each_cosine_in_its_place():
    """Every value is the inner product of the two directions that its coordinates name."""
    here, before, final = probes(0), probes(1), probes(2)
    found = compare(here, before, final)
    at = here.direction.transpose("probe", "concept", "layer", "hidden").values
    then, last = before.direction.values, final.direction.values
    expected = {
        "cosine_to_final": (("probe", "concept", "layer"), np.einsum("mclh,mclh->mcl", at, last)),
        "cosine_to_previous": (("probe", "concept", "layer"), np.einsum("mclh,mclh->mcl", at, then)),
        "cosine_layers": (("probe", "concept", "layer", "layer_b"), np.einsum("mclh,mckh->mclk", at, at)),
        "cosine_concepts": (("probe", "concept", "layer", "concept_b"), np.einsum("mclh,mdlh->mcld", at, at)),
        "cka": (("layer", "layer_b"), linear_cka(here.gram.values, final.gram.values)),
    }
    for name, (dims, values) in expected.items():
        assert np.allclose(found[name].transpose(*dims), values), name
    assert found.id_entropy_null.dims == ("probe", "concept", "draw")
    for name in (*list(expected)[:4], "id_entropy"):
        lower, value, upper = (found[f"{name}{end}"].sel(probe="pca") for end in ("_lower", "", "_upper"))
        assert ((lower <= value + 1e-6) & (value <= upper + 1e-6)).all() and (upper > lower).any(), name
        assert found[f"{name}_lower"].drop_sel(probe="pca").isnull().all(), "others are not refitted"
    few, many = (probes(0).assign(fitted_units=("concept", [n, n])) for n in (3.0, 30.0))
    wide, narrow = (compare(one, before, final) for one in (few, many))
    width = [one.cosine_to_final_upper - one.cosine_to_final_lower for one in (wide, narrow)]
    assert (width[0] >= width[1]).where(width[0].notnull(), True).all(), "fewer units tell less"
    assert float(found.id_entropy_uniform) == pytest.approx(np.log2(3))
    assert found.id_entropy.max() <= found.id_entropy_uniform


@pytest.mark.parametrize("other", [None, probes(1, layers=2), probes(1).isel(hidden=slice(4))])
def test_with_no_other_or_one_of_another_depth_or_width_there_is_nothing_to_compare(other):
    found, whole = compare(probes(0), other, other), compare(probes(0), probes(1), probes(2))
    assert all(found[name].isnull().all() for name in ("cosine_to_previous", "cosine_to_final", "cka"))
    assert found.sizes == whole.sizes and found.cosine_layers.equals(whole.cosine_layers)


def test_a_checkpoint_is_its_own_likeness_and_the_first_has_no_previous():
    found = compare(probes(0), None, probes(0))
    assert np.allclose(found.cosine_to_final, 1) and found.cosine_to_previous.isnull().all()
    assert (
        np.allclose(found.cosine_to_final_lower.sel(probe="pca"), 1) and found.cosine_to_previous_lower.isnull().all()
    )
    for values, other in ((found.cosine_layers, "layer_b"), (found.cosine_concepts, "concept_b")):
        diagonal = values.sel({other: values[other.removesuffix("_b")].rename(None)})
        assert np.allclose(diagonal, 1) and abs(values).min() < 0.99
    assert np.allclose(np.diag(found.cka), 1)
