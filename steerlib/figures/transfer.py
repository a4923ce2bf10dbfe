"""Figures of transfer: how long a direction lasts as the model goes on training."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from steerlib.figures.axes import DISCOVERY, band, cells, dots, horizontal, panels, step_axis, vertical, zero
from steerlib.figures.look import INTERVAL, NULL, dressed, looks, of_layers
from steerlib.numerics.statistics import false_discovery

FOUND = "at a false discovery rate below 5 % over a panel"
MOST = 2  # times what the own direction does: a later one may do more
NOTHING = "the own direction of the checkpoint that is pushed does no more than shuffled labels do"


def here(found: xr.Dataset, method: str) -> Figure:
    """What directions of all checkpoints do at one of them, as a share of its own, and their cosines with it."""
    origins = found.origin.values
    figure, axes = panels(found.concept, below="found at step", left="share, cosine")
    for concept, look in looks(found.concept).items():
        axis, of = axes[concept], found.sel(concept=concept)
        axis.plot(origins, of.share, color=look["color"], marker="o", ms=1.8, label="share")
        band(axis, origins, of.share_lower, of.share_upper, INTERVAL, color=look["color"])
        axis.plot(origins, of.cosine_to_origin, color=NULL, ls="--", lw=0.9, label="cosine")
        horizontal(axis, 1, color="0.4", lw=0.6, ls=":", label="its own direction")
        vertical(axis, int(found.step), color=NULL, lw=0.8, ls=":", label="this checkpoint")
        zero(axis)
    step_axis(axis, origins)
    nothing = f"no curve of shares: {NOTHING}" if found.share.isnull().all("origin").any() else ""
    said = f"share: of the slope of its own direction; {nothing}".removesuffix("; ")
    return dressed(figure, found, of_layers(found.layer_pushed), method, said)


def matrix(found: xr.Dataset, onset: xr.DataArray, method: str) -> Figure:
    """Shares of all directions (rows) at all checkpoints (columns), a panel a concept.

    A dot: more than directions from shuffled labels do there, at a false discovery rate below 5 % over a panel. Lines:
    the concept's onset, half-way up, on both axes.
    """
    figure, axes = panels(found.concept, 1.9, below="pushed at step", left="direction found at step")
    for concept, axis in axes.items():
        of = found.sel(concept=concept).transpose("origin", "step")
        share = of.share.clip(-MOST, MOST)
        mesh = cells(axis, share.to_pandas(), MOST, "share of its own direction's slope")
        row, column = np.nonzero(false_discovery(of.p_transferred.values) < DISCOVERY)
        dots(axis, column + 0.5, row + 0.5, f"more than shuffled labels do there, {FOUND}")
        if np.isfinite(when := float(onset.sel(concept=concept))):
            for line, steps in ((vertical, of.step.values), (horizontal, of.origin.values)):
                at = np.interp(when, steps, np.arange(len(steps)) + 0.5)
                line(axis, at, color="0.2", lw=0.8, ls="--", label="half-way up")
    figure.colorbar(mesh, ax=list(axes.values()), label="share of its own\ndirection's slope", shrink=0.8)
    said = f"empty: {NOTHING}; what is beyond ±{MOST} is drawn as ±{MOST}"
    return dressed(figure, found, of_layers(found.layer_pushed), method, said)
