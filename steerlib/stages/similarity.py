"""Notebook 3's computation: how directions and states resemble one another across checkpoints, layers and concepts."""

from functools import partial

import numpy as np
import xarray as xr
from jaxtyping import Float


def compare(probes: xr.Dataset, previous: xr.Dataset | None, final: xr.Dataset | None) -> xr.Dataset:
    """Schema `/similarity`: this checkpoint's directions and states against those of others and among themselves.

    NaN where there is no other, as before the first checkpoint, or where it is of another depth or width.
    """
    cosine, here = partial(xr.dot, dim="hidden"), probes.direction  # of unit directions
    nowhere = probes[["direction", "gram"]] * np.nan
    previous, final = (
        other if other is not None and other.direction.sizes == here.sizes else nowhere for other in (previous, final)
    )
    return xr.Dataset(
        {
            "cosine_to_final": cosine(here, final.direction),
            "cosine_to_previous": cosine(here, previous.direction),
            "cosine_layers": cosine(here, here.rename(layer="layer_b")),
            "cosine_concepts": cosine(here, here.rename(concept="concept_b").drop_vars(["role", "planted_frequency"])),
            "cka": (["layer", "layer_b"], linear_cka(probes.gram.values, final.gram.values)),
            "id_entropy": layer_entropy(probes.id_score),
            "id_entropy_null": layer_entropy(probes.id_score_null),
            "id_entropy_uniform": np.log2(probes.sizes["layer"]),
        }
    ).assign_coords(layer_b=probes.layer.values)


def linear_cka(
    grams: Float[np.ndarray, "layer n n"], others: Float[np.ndarray, "layer_b n n"]
) -> Float[np.ndarray, "layer layer_b"]:
    """Linear CKA (Kornblith et al. 2019) from centred Gram matrices: ⟨K, L⟩ / (‖K‖ ‖L‖).

    Invariant to rotations and to the scale of either space; NaN where all states of a layer are equal.
    """
    k, m = (g.reshape(len(g), -1).astype(np.float64) for g in (grams, others))
    with np.errstate(invalid="ignore"):
        return (k @ m.T) / np.outer(np.linalg.norm(k, axis=1), np.linalg.norm(m, axis=1))


def layer_entropy(score: xr.DataArray) -> xr.DataArray:
    """Entropy, in bits, of |score| as a distribution over layers: log2(layers) when all layers carry it alike."""
    share = abs(score) / abs(score).sum("layer")
    return -(share * np.log2(share.where(share > 0, 1.0))).sum("layer", skipna=False)
