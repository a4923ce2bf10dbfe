"""Notebook 3's computation: how directions and states resemble one another across checkpoints, layers and concepts."""

import numpy as np
import xarray as xr
from jaxtyping import Float

from steerlib.numerics.statistics import about, widened


def compare(probes: xr.Dataset, previous: xr.Dataset | None, final: xr.Dataset | None) -> xr.Dataset:
    """Schema `/similarity`: this checkpoint's directions and states against those of others and among themselves.

    NaN where there is no other, as before the first checkpoint, or where it is of another depth or width. Intervals are
    over the texts that directions are fitted on, resampled alike at all checkpoints; of the analysed method alone, as
    no other is refitted.
    """
    nowhere = probes[["direction", "direction_redrawn", "gram"]] * np.nan
    previous, final = (
        other if other is not None and other.direction.sizes == probes.direction.sizes else nowhere
        for other in (previous, final)
    )
    most = float(np.log2(probes.sizes["layer"]))
    found = cosines(probes.direction, previous.direction, final.direction)
    found["id_entropy"] = layer_entropy(probes.id_score)
    again = cosines(*map(redrawn, (probes, previous, final))) | {"id_entropy": layer_entropy(probes.id_score_redrawn)}
    analysed = {"probe": [probes.direction_redrawn.attrs["method"]]}
    wide = xr.apply_ufunc(np.vectorize(widened), probes.fitted_units)
    for name, draws in again.items():
        least, draws = -1.0 if name.startswith("cosine") else 0.0, draws.rename(redraw="resample").astype(np.float64)
        # The first is of all texts.
        ends = about(found[name].sel(analysed), draws.isel(resample=slice(1, None)), wide)
        for end, bound in zip(("lower", "upper"), ends, strict=True):
            found[f"{name}_{end}"] = bound.clip(least, 1.0 if least else most).reindex(probe=probes.probe.values)
    found["cka"] = ["layer", "layer_b"], linear_cka(probes.gram.values, final.gram.values)
    found |= {"id_entropy_null": layer_entropy(probes.id_score_null), "id_entropy_uniform": most}
    return xr.Dataset(found).assign_coords(layer_b=probes.layer.values)


def cosines(here: xr.DataArray, previous: xr.DataArray, final: xr.DataArray) -> dict[str, xr.DataArray]:
    """Of unit directions."""
    others = {
        "to_final": final,
        "to_previous": previous,
        "layers": here.rename(layer="layer_b"),
        "concepts": here.rename(concept="concept_b").drop_vars(["role", "planted_frequency"]),
    }
    return {f"cosine_{name}": xr.dot(here, other, dim="hidden") for name, other in others.items()}


def redrawn(probes: xr.Dataset) -> xr.DataArray:
    """Refitted directions, of unit length again, as they are kept in half precision."""
    of = probes.direction_redrawn.astype(np.float32)
    norm = xr.dot(of, of, dim="hidden") ** 0.5
    return of / norm.where(norm > 0)


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
