"""The small figures of the notebooks that look at one checkpoint, and what a pushed model wrote there."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from steerlib.figures.axes import COLUMN, NULL, RIGHT, at_layer, cells, colours, dressed, panels


def separability_by_layer(probes: xr.Dataset, method: str) -> Figure:
    """AUROC of every concept by layer, mean over held-out templates, with the null's 95th percentile.

    At the left, what a bag of words reaches without any model.
    """
    figure, axis = plt.subplots(figsize=(COLUMN, 2.2))
    auroc, words = probes.auroc.sel(probe=method).mean("fold"), probes.auroc_words.mean("fold")
    for concept, colour in colours(probes.concept).items():
        axis.plot(probes.layer, auroc.sel(concept=concept), color=colour, marker="o", ms=3, label=concept)
        axis.plot(-1, words.sel(concept=concept), "_", color=colour, ms=7, mew=1.5)
    null = np.nanquantile(probes.auroc_shuffled.mean("fold"), [0.05, 0.95])
    axis.axhspan(*null, color=NULL, alpha=0.35, lw=0)
    layers = probes.layer.values[:: 1 + len(probes.layer) // 12]
    axis.set(xlabel="layer", ylabel="AUROC (held out)")
    axis.set_xticks([-1, *layers], ["words", *map(str, layers)])
    return dressed(figure, **RIGHT)


def doses_of_checkpoint(interventions: xr.Dataset, method: str, layer: xr.DataArray) -> Figure:
    """Change of each concept's own log-odds against alpha at one checkpoint; grey are random directions."""
    gain = interventions.log_odds.where(interventions.split == "test").mean("prompt")
    figure, axis = plt.subplots(figsize=(COLUMN, 2.2))
    for concept, colour in colours(interventions.concept).items():
        own = at_layer(gain, layer, concept).sel(readout_concept=concept)
        own = own - own.sel(alpha=0)
        axis.plot(own.alpha, own.sel(probe="random"), color=NULL, lw=0.8, zorder=1)
        axis.plot(own.alpha, own.sel(probe=method), color=colour, marker="o", ms=3, label=concept)
    axis.set(xlabel=f"alpha (× {interventions.alpha.attrs['units']})", ylabel="change of log-odds (nat)")
    return dressed(figure, **RIGHT)


def cosines_of_concepts(similarity: xr.Dataset, method: str, layer: int) -> Figure:
    """Cosines between the concepts' directions at one layer of one checkpoint."""
    cosines = similarity.cosine_concepts.sel(probe=method, layer=layer)
    figure, axis = plt.subplots(figsize=(COLUMN, 2.7))
    axis.set_aspect("equal")
    figure.colorbar(cells(axis, cosines.transpose("concept", "concept_b").to_pandas(), 1), label="cosine")
    axis.tick_params(axis="x", rotation=90)
    axis.invert_yaxis()
    return figure


def training_loss(pretraining: xr.Dataset) -> Figure:
    """Loss of every step."""
    figure, axis = plt.subplots(figsize=(COLUMN, 2))
    axis.plot(pretraining.step, pretraining.loss, color="0.2", lw=0.8)
    axis.set(xlabel="training step", ylabel="loss (nat per token)", xscale="log", yscale="log")
    axis.grid(alpha=0.3)
    return dressed(figure)


def side_by_side(written: xr.Dataset, prompts: int = 1) -> Styler:
    """Texts of the first prompts: a row a concept, prompt and direction, a column an alpha; unsteered stands at 0."""
    shown = written[["text", "given"]].isel(prompt=slice(prompts)).stack(row=["concept", "prompt", "probe"])
    table = shown.text.transpose("row", "alpha").to_pandas()
    table.columns = [f"alpha {alpha:g}" for alpha in table.columns]
    index = [shown.concept.values, shown.given.values, shown.probe.values]
    table.index = pd.MultiIndex.from_arrays(index, names=["concept", "prompt", "direction"])
    return table.style.set_properties(**{"text-align": "left", "white-space": "pre-wrap"})


def judgements(written: xr.Dataset, method: str) -> Figure:
    """Every judge's mean over prompts against alpha: a line a concept, and grey a random direction of its strength."""
    mean = written.judged.where(written.text != "").mean("prompt").dropna("judge", how="all")
    figure, axes = panels(mean.judge, height=1.6, margin=0.5, sharex=True, sharey=True)
    for judge, axis in axes.items():
        for concept, colour in colours(written.concept).items():
            scores = mean.sel(judge=judge, concept=concept)
            axis.plot(scores.alpha, scores.sel(probe="random"), color=NULL, lw=0.8, zorder=1)
            axis.plot(scores.alpha, scores.sel(probe=method), color=colour, marker="o", ms=3, label=concept)
        axis.set_ylim(-0.03, 1.03)
    return dressed(figure, "alpha", "mean over prompts", **RIGHT)
