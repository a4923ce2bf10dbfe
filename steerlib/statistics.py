"""Slopes, intervals and nulls. Arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float


def slope(values: xr.DataArray, window: float, dim: str = "alpha") -> xr.DataArray:
    """OLS slope of values against a coordinate, over |coordinate| ≤ window."""
    inside = values.where(abs(values[dim]) <= window, drop=True)
    x = inside[dim] - inside[dim].mean()
    return (inside * x).sum(dim, skipna=False) / (x**2).sum()


def bootstrap_means(
    values: Float[np.ndarray, "step unit"], draws: int, seed: int | Sequence[int]
) -> Float[np.ndarray, "draw step"]:
    """Means over resampled units (prompts or templates). NaN marks units that do not exist, at every step alike.

    One resample serves all steps: the same prompts are asked of every checkpoint, so that differences between
    checkpoints are paired.
    """
    units = values[:, ~np.isnan(values).all(0)]
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(units.shape[1], np.full(units.shape[1], 1 / units.shape[1]), size=draws) / units.shape[1]
    return weights @ units.T


def interval(draws: Float[np.ndarray, "draw ..."], level: float) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval over draws. Infinite draws (not reached) are ordered, not averaged."""
    tail = (1 - level) / 2
    return tuple(np.quantile(draws, [tail, 1 - tail], axis=0, method="inverted_cdf"))


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation; NaN when either does not vary, as a constant has no rank order."""
    from scipy.stats import spearmanr

    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(spearmanr(x, y).statistic)
