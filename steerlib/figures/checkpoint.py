"""The small figures of the notebooks that look at one checkpoint."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.figure import Figure

from steerlib.figures import COLUMN, NULL, alpha_label, cells, colours


def separability_by_layer(probes: xr.Dataset, method: str) -> Figure:
    """AUROC of every concept by layer, mean over held-out templates, with the null's 95th percentile.

    At the left, what a bag of words reaches without any model.
    """
    figure, axis = plt.subplots(figsize=(COLUMN, 2.2))
    for concept, colour in colours(list(probes.concept.values)).items():
        axis.plot(
            probes.layer,
            probes.auroc.sel({"method": method}).sel(concept=concept).mean("fold"),
            color=colour,
            marker="o",
            ms=3,
            label=concept,
        )
        axis.plot(-1, probes.auroc_words.sel(concept=concept).mean("fold"), "_", color=colour, ms=7, mew=1.5)
    null = np.nanquantile(probes.auroc_null.sel({"method": method}), [0.05, 0.95])
    axis.axhspan(*null, color=NULL, alpha=0.35, lw=0)
    layers = probes.layer.values[:: 1 + len(probes.layer) // 12]
    axis.set(xlabel="layer", ylabel="AUROC (held out)")
    axis.set_xticks([-1, *layers], ["words", *map(str, layers)])
    figure.legend(loc="outside right center", handlelength=1)
    sns.despine(figure)
    return figure


def doses_of_checkpoint(interventions: xr.Dataset, method: str, layer: xr.DataArray) -> Figure:
    """Change of each concept's own log-odds against alpha at one checkpoint; grey are random directions."""
    gain = interventions.log_odds.where(interventions.split == "test").mean("prompt")
    figure, axis = plt.subplots(figsize=(COLUMN, 2.2))
    for concept, colour in colours(list(interventions.concept.values)).items():
        own = gain.sel(concept=concept, readout_concept=concept).isel(layer=int(layer.sel(concept=concept)))
        own = own - own.sel(alpha=0)
        axis.plot(own.alpha, own.sel({"method": "random"}), color=NULL, lw=0.8, zorder=1)
        axis.plot(own.alpha, own.sel({"method": method}), color=colour, marker="o", ms=3, label=concept)
    axis.set(xlabel=alpha_label(interventions), ylabel="change of log-odds (nat)")
    figure.legend(loc="outside right center", handlelength=1)
    sns.despine(figure)
    return figure


def cosines_of_concepts(similarity: xr.Dataset, method: str, layer: int) -> Figure:
    """Cosines between the concepts' directions at one layer of one checkpoint."""
    grid = (
        similarity.cosine_concepts.sel({"method": method})
        .sel(layer=layer)
        .transpose("concept", "concept_b")
        .to_pandas()
    )
    figure, axis = plt.subplots(figsize=(COLUMN, 2.7))
    axis.set_aspect("equal")
    figure.colorbar(cells(axis, grid, 1), label="cosine")
    axis.tick_params(axis="x", rotation=90)
    axis.invert_yaxis()
    return figure


def training_loss(pretraining: xr.Dataset) -> Figure:
    """Loss of every step."""
    figure, axis = plt.subplots(figsize=(COLUMN, 2))
    axis.plot(pretraining.step, pretraining.loss, color="0.2", lw=0.8)
    axis.set(xlabel="training step", ylabel="loss (nat per token)", xscale="log", yscale="log")
    axis.grid(alpha=0.3)
    sns.despine(figure)
    return figure
