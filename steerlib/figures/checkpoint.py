"""The small figures of the notebooks that look at one checkpoint, and what a pushed model wrote there."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from pandas.io.formats.style import Styler

from steerlib.figures.axes import alpha_axis, at_layer, band, cells, null_band, panels, tables, write, zero
from steerlib.figures.look import (
    COLUMN,
    INTERVAL,
    NULL,
    all_layers,
    alpha_label,
    dressed,
    level_of,
    looks,
    of_layers,
    params_of,
)
from steerlib.numerics.statistics import mean_interval

DRAWS = 500  # resamples of an interval
SHUFFLED = "shuffled labels, 90 % within"
NO_REFITS = "no intervals: the analysed method alone is refitted to resampled texts"


def separability_by_layer(probes: xr.Dataset, method: str) -> Figure:
    """AUROC of every concept by layer, mean over held-out templates with its interval, with the null's 90 %.

    At the left, what a bag of words reaches without any model.
    """
    figure, axis = plt.subplots(figsize=(COLUMN, 2.1))
    auroc, words = probes.auroc.sel(probe=method), probes.auroc_words.mean("fold")
    look, layers = looks(probes.concept), probes.layer.values
    beside = dict(zip(look, np.linspace(-0.2, 0.2, len(look) + 2)[1:-1], strict=True))
    for concept, own in look.items():
        values = auroc.sel(concept=concept).dropna("fold", how="all")
        mean, lower, upper = (of.clip(0, 1) for of in with_interval(values, probes, "fold"))
        axis.plot(layers + beside[concept], mean, **own, lw=0.9, label=concept)
        axis.vlines(layers + beside[concept], lower, upper, color=own["color"], lw=0.7, label=INTERVAL)
        axis.plot(
            -1 + beside[concept], words.sel(concept=concept), **own, ls="", mfc="none", mew=0.6, label="bag of words"
        )
    null = probes.auroc_shuffled.mean("fold").quantile([0.05, 0.95], ["concept", "deal"])
    null_band(axis, layers, *null.transpose("quantile", "layer").values, "shuffled labels")
    shown = layers[:: 1 + len(layers) // 12]
    axis.set(xlabel="layer", ylabel="AUROC (held out)")
    axis.set_xticks([-1, *shown], ["words", *map(str, shown)])
    return dressed(figure, probes, all_layers(probes.layer), method, f"grey: {SHUFFLED}")


def gains_of(interventions: xr.Dataset, layer: xr.DataArray, concept: str, **probe: str) -> xr.DataArray:
    """Change of a concept's own log-odds by a push, at its layer, on every test prompt that it has."""
    own = at_layer(interventions.log_odds.sel(readout_concept=concept, **probe), layer, concept).compute()
    test = interventions.split.sel(readout_concept=concept) == "test"
    own = own.isel(prompt=test.values & own.notnull().any([dim for dim in own.dims if dim != "prompt"]).values)
    return own - own.sel(alpha=0)


def with_interval(values: xr.DataArray, source: xr.Dataset, dim: str = "prompt") -> tuple[xr.DataArray, ...]:
    """The mean, and its interval of the study's level."""
    return values.mean(dim), *mean_interval(values, dim, DRAWS, 0, level_of(source))


def null_of_doses(axis: Axes, interventions: xr.Dataset, layer: xr.DataArray, concept: str) -> None:
    """What directions from shuffled labels do at one checkpoint: one at every alpha, and the slopes of all at alpha 0.

    These are drawn on as far as log-odds are taken as linear.
    """
    alphas = interventions.alpha.values
    own = gains_of(interventions, layer, concept, probe="shuffled").mean("prompt")
    axis.plot(alphas, own, color=NULL, lw=0.9, ls="--", zorder=1.5, label="a direction of shuffled labels")
    slopes = at_layer(interventions.interference_shuffled.sel(readout_concept=concept), layer, concept)
    if slopes.notnull().any():
        near = alphas[abs(alphas) <= params_of(interventions).get("sweep", {}).get("window", 0.5)]
        low, high = slopes.quantile([0.05, 0.95], "deal").values
        null_band(axis, near, low * near, high * near, f"slopes at alpha 0 of {SHUFFLED}")


def doses_of_checkpoint(interventions: xr.Dataset, method: str, layer: xr.DataArray) -> Figure:
    """Change of each concept's own log-odds against alpha at one checkpoint, with its interval over test prompts.

    Grey: what directions from shuffled labels do.
    """
    below, left = alpha_label(interventions.alpha), f"change of log-odds ({interventions.log_odds.attrs['units']})"
    figure, axes = panels(interventions.concept, below=below, left=left)
    for concept, look in looks(interventions.concept).items():
        axis, gained = axes[concept], gains_of(interventions, layer, concept, probe=method)
        own, lower, upper = with_interval(gained, interventions)
        zero(axis)
        axis.plot(own.alpha, own, color=look["color"], marker="o", label="pushed along the direction")
        band(axis, own.alpha, lower, upper, INTERVAL, color=look["color"])
        null_of_doses(axis, interventions, layer, concept)
    alpha_axis(axis, interventions.alpha.values)
    return dressed(figure, interventions, of_layers(layer), method)


def cosines_of_concepts(similarity: xr.Dataset, method: str, layer: int) -> Figure:
    """Cosines between the concepts' directions at one layer of one checkpoint, and which are more than chance.

    Black where the whole interval over refitted directions is.
    """
    names = ["cosine_concepts", "cosine_concepts_lower", "cosine_concepts_upper"]
    here = similarity[names].sel(probe=method, layer=layer).transpose("concept", "concept_b")
    cosines, lower, upper = (here[name].to_pandas() for name in names)
    pairs = abs(similarity.cosine_concepts.sel(probe="shuffled")).stack(pair=["concept", "concept_b"])
    chance = pairs.isel(pair=(pairs.concept != pairs.concept_b).values)
    chance = float(chance.quantile(0.95)) if chance.size else 1.0
    figure, axes = tables(similarity.concept, 0.26)
    axis = axes[0, 0]
    bar = figure.colorbar(cells(axis, cosines, 2, "cosine"), label="cosine")  # so light that black on it is read
    bar.ax.set_ylim(-1, 1)
    found = np.fmax(lower, -upper).to_numpy() > chance
    told = "black: beyond 95 % of the cosines of shuffled labels, with the whole interval over refits; grey: not"
    for (row, column), cosine in np.ndenumerate(cosines.to_numpy()):
        if row != column:
            look = {"weight": "bold", "color": "k"} if found[row, column] else {"color": "0.4"}
            write(axis, row, column, f"{cosine:.2f}".replace("0.", ".").replace("-", "−"), told, **look)
    said = NO_REFITS if lower.isnull().all(axis=None) else ""
    said = said if len(cosines) > 1 else "of one concept there is no pair"
    return dressed(figure, similarity, f"layer {layer}", method, said)


def training_loss(pretraining: xr.Dataset) -> Figure:
    """Loss of every step."""
    figure, axis = plt.subplots(figsize=(COLUMN, 1.8))
    axis.plot(pretraining.step, pretraining.loss, color="0.2", lw=0.8, label="loss of a step's batch")
    axis.set(xlabel="training step", ylabel="loss (nat per token)")
    if trained := pretraining.sizes["step"] > 0:
        axis.set(xscale="log", yscale="log")
        for of in (axis.xaxis, axis.yaxis):
            of.set_major_formatter(LogFormatter())
            of.set_minor_formatter(LogFormatter())
    axis.grid(alpha=0.3)
    return dressed(
        figure, pretraining, method=None, said="one batch a step, no interval" if trained else "no step was trained"
    )


def side_by_side(written: xr.Dataset, prompts: int = 1) -> Styler:
    """Texts of the first prompts: a row a concept, prompt and direction, a column an alpha; unsteered stands at 0."""
    shown = written[["text", "given"]].isel(prompt=slice(prompts)).stack(row=["concept", "prompt", "probe"])
    table = shown.text.transpose("row", "alpha").to_pandas()
    table.columns = [f"alpha {alpha:g}" for alpha in table.columns]
    index = [shown.concept.values, shown.given.values, shown.probe.values]
    table.index = pd.MultiIndex.from_arrays(index, names=["concept", "prompt", "direction"])
    return table.style.set_properties(**{"text-align": "left", "white-space": "pre-wrap"})


def judgements(written: xr.Dataset, method: str) -> Figure:
    """Every judge's mean over prompts against alpha, with its interval: a line a concept.

    Grey: a random direction of its strength.
    """
    judged = written.judged.where(written.text != "").dropna("judge", how="all")
    figure, axes = panels(judged.judge, 1.7, alpha_label(written.alpha), "judgement, mean over prompts")
    look = looks(written.concept)
    beside = dict(zip(look, 0.04 * np.ptp(written.alpha.values) * np.linspace(-1, 1, len(look) + 2)[1:-1], strict=True))
    for judge, axis in axes.items():
        for concept, own in look.items():
            scores = judged.sel(judge=judge, concept=concept)
            x, pushed = scores.alpha + beside[concept], scores.sel(probe=method).dropna("prompt", how="all")
            if not pushed.sizes["prompt"]:
                continue  # a judge that has no opinion of this concept
            random = scores.sel(probe="random").mean("prompt")
            axis.plot(scores.alpha, random, color=NULL, lw=0.8, zorder=1, label="a random direction")
            mean, lower, upper = with_interval(pushed, written)
            axis.plot(x, mean, **own, lw=0.9, label=concept)
            axis.vlines(x, lower, upper, color=own["color"], lw=0.7, label=INTERVAL)
        axis.set_ylim(-0.03, 1.03)
    alpha_axis(axis, written.alpha.values)
    return dressed(figure, written, method=method, said="a grey line a concept: what a random push of its size does")
