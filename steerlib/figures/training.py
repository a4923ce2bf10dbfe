"""Figures over training: where a concept can be steered and how strongly, where directions point, what else moves."""

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.figure import Figure

from steerlib.figures.axes import (
    COLUMN,
    LOW,
    NULL,
    PAGE,
    RIGHT,
    at_layer,
    cells,
    colours,
    dressed,
    panels,
    step_axis,
)


def heatmaps(values: xr.DataArray, label: str, dots: xr.DataArray | None = None) -> Figure:
    """Values by layer and step, a panel a concept, one scale for all, so that panels can be compared.

    ``dots`` marks cells: True where there is to be one.
    """
    bound = float(np.nanmax(abs(values)))
    figure, axes = panels(values.concept, height=1.25, sharex=True, sharey=True)
    for concept, axis in axes.items():
        grid = values.sel(concept=concept).transpose("layer", "step").to_pandas()
        mesh = cells(axis, grid, bound, max(1, len(grid.columns) // 6))
        if dots is not None:
            layer, step = np.nonzero(dots.sel(concept=concept).transpose("layer", "step").values)
            axis.plot(step + 0.5, layer + 0.5, ".", color="0.1", ms=1.6)
    figure.supxlabel("training step", fontsize=8)
    figure.supylabel("layer", fontsize=8)
    figure.colorbar(mesh, ax=list(axes.values()), label=label, shrink=0.6)
    return figure


def steerability_heatmap(interventions: xr.Dataset, method: str, q: xr.DataArray) -> Figure:
    """Steerability by layer and step. A dot: a false discovery rate ``q`` below 5 % over all cells."""
    unit = interventions.steerability.attrs["units"]
    return heatmaps(interventions.steerability.sel(probe=method), f"steerability\n({unit})", q < 0.05)


def id_heatmap(probes: xr.Dataset, method: str, variant: str) -> Figure:
    """The Intervention Detector's view: ID score by layer and step."""
    unit = "cosine" if variant == "cosine" else "activation"
    return heatmaps(probes.id_score.sel(probe=method, variant=variant), f"ID score, {variant}\n({unit})")


def id_entropy(similarity: xr.Dataset, method: str) -> Figure:
    """Entropy of the ID score over layers against step, a panel a reading of the score.

    Grey: 90 % of isotropic directions; dotted: a score that is equal in all layers, log2(layers).
    """
    scores, steps = similarity.sel(probe=method), similarity.step.values
    figure, axes = panels(scores.variant, height=2.6, sharex=True, sharey=True)
    isotropic = scores.id_entropy_null.isel(draw=(scores["null"] == "random").values)
    for variant, axis in axes.items():
        null = isotropic.sel(variant=variant).quantile([0.05, 0.95], ["concept", "draw"])
        axis.fill_between(steps, *null.transpose("quantile", "step").values, color=NULL, alpha=0.35, lw=0)
        axis.axhline(float(similarity.id_entropy_uniform.max()), color="0.3", lw=0.8, ls=":")
        for concept, colour in colours(scores.concept).items():
            entropy = scores.id_entropy.sel(variant=variant, concept=concept)
            axis.plot(steps, entropy, color=colour, marker="o", ms=2, lw=1, label=concept)
    step_axis(axis, steps)
    return dressed(figure, "training step", "entropy over layers (bit)", handlelength=1)


def dose_response(interventions: xr.Dataset, method: str, layer: xr.DataArray) -> Figure:
    """Log-odds of a concept's own readout against alpha, a line a checkpoint, at the concept's chosen layer."""
    log_odds, steps = interventions.log_odds.sel(probe=method), interventions.step.values
    shades = sns.color_palette("viridis", len(steps))
    figure, axes = panels(log_odds.concept, sharex=True)
    for concept, axis in axes.items():
        own = at_layer(log_odds.sel(readout_concept=concept), layer, concept)
        own = own.where(interventions.split.sel(readout_concept=concept) == "test").mean("prompt")
        for step, shade in zip(steps, shades, strict=True):
            axis.plot(own.alpha, own.sel(step=step), color=shade, lw=1)
        axis.axvline(0, color=NULL, lw=0.6)
    scale = plt.cm.ScalarMappable(cmap="viridis")
    bar = figure.colorbar(scale, ax=list(axes.values()), label="training step", shrink=0.6)
    ticks = np.linspace(0, 1, min(5, len(steps)))
    bar.set_ticks(ticks, labels=[str(steps[round(t * (len(steps) - 1))]) for t in ticks])
    return dressed(figure, f"alpha (× {interventions.alpha.attrs['units']})", "log-odds (nat)")


def cosine_to_final(similarity: xr.Dataset, method: str, layer: xr.DataArray, hidden: int) -> Figure:
    """How far each direction already points where it will end; the band is where random directions lie."""
    cosine, steps = similarity.cosine_to_final.sel(probe=method), similarity.step.values
    figure, axis = plt.subplots(figsize=(COLUMN, 2.6))
    axis.axhspan(-1.96 / np.sqrt(hidden), 1.96 / np.sqrt(hidden), color=NULL, alpha=0.35, lw=0)
    for concept, colour in colours(cosine.concept).items():
        axis.plot(steps, at_layer(cosine, layer, concept), color=colour, marker="o", ms=2, label=concept)
    axis.set(xlabel="training step", ylabel="cosine to final direction")
    step_axis(axis, steps)
    return dressed(figure, **RIGHT)


def interference(interventions: xr.Dataset, layer: xr.DataArray, q: xr.DataArray) -> Figure:
    """Slope of every readout at alpha 0 when each concept is pushed, at the final checkpoint.

    Black: moved, either way, more than directions from shuffled labels move it, at a false discovery rate ``q`` below
    5 % over all cells; grey: not.
    """
    own_layer = layer.drop_vars([name for name in layer.coords if name != "concept"])
    last = interventions.interference_local.isel(step=-1).isel(layer=own_layer)
    slopes = last.transpose("concept", "readout_concept").to_pandas()
    found = q.transpose("concept", "readout_concept").values < 0.05
    size = min(PAGE * 0.8, 0.4 * len(slopes) + 2.4), max(LOW + 0.4, 0.33 * len(slopes) + 1.2)
    figure, axis = plt.subplots(figsize=size)
    top = float(np.nanmax(abs(slopes)))
    bar = figure.colorbar(cells(axis, slopes, 2.4 * top))  # no colour so deep that black on it is not read
    bar.set_label(f"slope\n({last.attrs['units']})")
    bar.ax.set_ylim(-top, top)
    for (row, column), slope in np.ndenumerate(slopes.to_numpy().round(1) + 0):  # no −0.0
        look = {"color": "k", "weight": "bold"} if found[row, column] else {"color": "0.5"}
        axis.text(column + 0.5, row + 0.5, f"{slope:.1f}", ha="center", va="center", size=6.5, **look)
    axis.set(xlabel="readout", ylabel="pushed concept")
    figure.suptitle("black: more than shuffled labels do,\neither way (false discovery rate 5 %)", size=7)
    axis.tick_params(axis="x", rotation=45)
    axis.invert_yaxis()
    return figure


def side_effects(interventions: xr.Dataset, method: str, layer: xr.DataArray) -> Figure:
    """What a gain in the readout costs on neutral text, at the final checkpoint; grey are random directions."""
    last = interventions.isel(step=-1)
    gain = last.log_odds.where(last.split == "test").mean("prompt")
    figure, axis = plt.subplots(figsize=(COLUMN, 2.6))
    for concept, colour in colours(last.concept).items():
        own, kl = at_layer(gain.sel(readout_concept=concept), layer, concept), at_layer(last.kl, layer, concept)
        own, kl = (values.sel(alpha=values.alpha > 0) for values in (own - own.sel(alpha=0), kl))
        axis.plot(kl.sel(probe="random"), own.sel(probe="random"), color=NULL, lw=0.8, zorder=1)
        axis.plot(kl.sel(probe=method), own.sel(probe=method), color=colour, marker="o", ms=2, label=concept)
    axis.set(xlabel="KL on neutral text (nat)", ylabel="gain in log-odds (nat)", xscale="log")
    if (ends := np.array(axis.get_xlim()))[1] < 30 * ends[0]:  # too few powers of ten to tell where one is
        ticks = np.geomspace(*ends, 5)[1:4]
        axis.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
        axis.minorticks_off()
    return dressed(figure, **RIGHT)
