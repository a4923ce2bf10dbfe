"""Figures over training: when each measure emerges, where, how strongly, and what else moves."""

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.figure import Figure

from steerlib.figures.axes import (
    COLUMN,
    MEASURE_LABELS,
    NULL,
    PAGE,
    RIGHT,
    at_layer,
    cells,
    colours,
    dressed,
    handle,
    mark_onset,
    panels,
    step_axis,
)

BASELINES = {"baseline_words": ("bag of words", "--"), "baseline_untrained": ("untrained", "-.")}
MARKERS = {"separability": "o", "expression": "^", "steerability": "s"}


def emergence_curves(emergence: xr.Dataset) -> Figure:
    """Every measure of every concept against step: value with interval, null band, onset with interval."""
    measures, steps, colour = emergence.measure.values, emergence.step.values, colours(emergence.concept)
    size = PAGE, 0.92 * len(colour) + 0.5
    figure, axes = plt.subplots(len(colour), len(measures), figsize=size, sharex=True, sharey="col", squeeze=False)
    step_axis(axes[0, 0], steps)
    for row, concept in zip(axes, colour, strict=True):
        for axis, measure in zip(row, measures, strict=True):
            curve = emergence.sel(concept=concept, measure=measure)
            axis.fill_between(steps, curve.null_lower, curve.null_upper, color=NULL, alpha=0.35, lw=0)
            axis.plot(steps, curve.null_threshold, color="0.4", lw=0.7, ls=":")
            axis.fill_between(steps, curve.value_lower, curve.value_upper, color=colour[concept], alpha=0.3, lw=0)
            axis.plot(steps, curve.value, color=colour[concept], marker="o", ms=2)
            for name, (_, dash) in BASELINES.items():
                if np.isfinite(curve[name]):
                    axis.axhline(float(curve[name]), color="0.2", lw=0.8, ls=dash)
            if np.isfinite(curve.onset_step):
                upper = min(axis.get_xlim()[1], float(curve.onset_upper))
                axis.axvspan(float(curve.onset_lower), upper, color=colour[concept], alpha=0.12, lw=0)
                axis.axvline(float(curve.onset_step), color=colour[concept], lw=1, ls="--")
        row[0].set_ylabel(concept, rotation=0, ha="right", va="center")
    for top, bottom, measure in zip(axes[0], axes[-1], measures, strict=True):
        top.set_title(MEASURE_LABELS.get(measure, measure))
        bottom.set_xlabel("training step")
    handles = [handle(name, color="0.2", lw=0.8, ls=dash) for name, dash in BASELINES.values()]
    handles.append(handle("to be cleared", color="0.4", lw=0.7, ls=":"))
    look = {"ncol": 3, "fontsize": 6, "handlelength": 1.6, "columnspacing": 1}
    return dressed(figure, handles=handles, loc="outside upper left", **look)


def onset_summary(emergence: xr.Dataset) -> Figure:
    """When each concept became separable, expressed and steerable, with intervals; hollow at the right: not reached."""
    steps, colour = emergence.step.values, colours(emergence.concept)
    figure, axis = plt.subplots(figsize=(COLUMN, 0.32 * len(colour) + 0.8))
    beyond = steps.max() * 1.25
    handles = []
    for k, measure in enumerate(emergence.measure.values):
        look = {"marker": MARKERS[measure], "ms": 4}
        handles.append(handle(measure, ls="", color="0.2", **look))
        for y, concept in enumerate(colour):
            onset = emergence.sel(concept=concept, measure=measure)
            mark_onset(axis, onset, y + 0.24 * (k - 1), beyond, 1, {"mec": NULL}, color=colour[concept], **look)
    step_axis(axis, steps)
    axis.set_xlim(0, beyond * 1.12)
    axis.set(yticks=range(len(colour)), yticklabels=list(colour), xlabel="onset (training step)")
    axis.axvline(steps.max(), color=NULL, lw=0.8, ls=":")
    axis.invert_yaxis()
    return dressed(figure, handles=handles, handletextpad=0.1, columnspacing=1)


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
    """Steerability by layer and step. A dot: q-value against random directions below 5 %, and no more than 5 % of
    directions from shuffled labels steer as well."""
    swept = interventions.sel({"method": method})
    unit = interventions.steerability.attrs["units"]
    return heatmaps(swept.steerability, f"steerability\n({unit})", (q < 0.05) & (swept.p_shuffled <= 0.05))


def id_heatmap(probes: xr.Dataset, method: str, variant: str) -> Figure:
    """The Intervention Detector's view: ID score by layer and step."""
    unit = "cosine" if variant == "cosine" else "activation"
    return heatmaps(probes.id_score.sel({"method": method, "variant": variant}), f"ID score, {variant}\n({unit})")


def id_entropy(similarity: xr.Dataset, method: str) -> Figure:
    """Entropy of the ID score over layers against step, a panel a reading of the score.

    Grey: 90 % of isotropic directions; dotted: a score that is equal in all layers, log2(layers).
    """
    scores, steps = similarity.sel({"method": method}), similarity.step.values
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
    log_odds, steps = interventions.log_odds.sel({"method": method}), interventions.step.values
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
    cosine, steps = similarity.cosine_to_final.sel({"method": method}), similarity.step.values
    figure, axis = plt.subplots(figsize=(COLUMN, 2.6))
    axis.axhspan(-1.96 / np.sqrt(hidden), 1.96 / np.sqrt(hidden), color=NULL, alpha=0.35, lw=0)
    for concept, colour in colours(cosine.concept).items():
        axis.plot(steps, at_layer(cosine, layer, concept), color=colour, marker="o", ms=2, label=concept)
    axis.set(xlabel="training step", ylabel="cosine to final direction")
    step_axis(axis, steps)
    return dressed(figure, **RIGHT)


def interference(interventions: xr.Dataset, method: str, layer: xr.DataArray) -> Figure:
    """Slope of every readout, with its interval, when each concept is pushed, at the final checkpoint.

    In grey what lies inside the null band: 95 % of null draws move that readout less.
    """
    own_layer = layer.drop_vars([name for name in layer.coords if name != "concept"])
    last = interventions.isel(step=-1).sel({"method": method}).isel(layer=own_layer)
    last = last.transpose("concept", "readout_concept", ...)
    slopes = last.interference
    inside = abs(slopes) <= abs(last.interference_null).quantile(0.95, "draw")
    figure, axis = plt.subplots(figsize=(PAGE, PAGE * 0.7))
    top = float(np.nanmax(abs(slopes)))
    figure.colorbar(cells(axis, slopes.to_pandas(), top), label=f"slope ({slopes.attrs['units']})")
    for (row, column), value in np.ndenumerate(slopes.values):
        lower, upper = (float(bound[row, column]) for bound in (last.interference_lower, last.interference_upper))
        colour = "0.5" if inside[row, column] else "w" if abs(value) > 0.6 * top else "0.15"
        text = f"{value:.1f}\n[{lower:.1f}, {upper:.1f}]"
        axis.text(column + 0.5, row + 0.5, text, ha="center", va="center", size=6, color=colour)
    axis.set(xlabel="readout", ylabel="pushed concept")
    axis.tick_params(axis="x", rotation=45)
    axis.invert_yaxis()
    return figure


def with_and_without(interventions: xr.Dataset, method: str, layer: xr.DataArray) -> Figure:
    """Share of test prompts on which a target beats every foil (of items: the right answer), unsteered and pushed.

    Pushed at the alpha that validation prompts choose at each checkpoint within the KL budget; grey: by a random
    direction at that alpha. Pushing too early does nothing, or harm.
    """
    steps, colour = interventions.step.values, colours(interventions.concept)
    chosen = interventions.chosen_alpha.sel({"method": method})
    figure, axes = panels(interventions.concept, sharex=True, sharey=True)
    for concept, axis in axes.items():
        share = at_layer(interventions.success_rate, layer, concept)
        own, alpha = share.sel({"method": method}), at_layer(chosen, layer, concept).fillna(0.0)
        axis.plot(steps, share.sel({"method": "random"}).sel(alpha=alpha), color=NULL, lw=0.8)
        axis.plot(steps, own.sel(alpha=0), color="0.2", lw=1, ls=":")
        axis.plot(steps, own.sel(alpha=alpha), color=colour[concept], marker="o", ms=2)
    step_axis(axis, steps)
    axis.set_ylim(-0.05, 1.05)
    handles = [handle("pushed", color="0.2", marker="o", ms=2), handle("unsteered", color="0.2", ls=":")]
    handles.append(handle("random", color=NULL))
    return dressed(figure, "training step", "share of prompts where a target comes first", handles=handles)


def side_effects(interventions: xr.Dataset, method: str, layer: xr.DataArray) -> Figure:
    """What a gain in the readout costs on neutral text, at the final checkpoint; grey are random directions."""
    last = interventions.isel(step=-1)
    gain = last.log_odds.where(last.split == "test").mean("prompt")
    figure, axis = plt.subplots(figsize=(COLUMN, 2.6))
    for concept, colour in colours(last.concept).items():
        own, kl = at_layer(gain.sel(readout_concept=concept), layer, concept), at_layer(last.kl, layer, concept)
        own, kl = (values.sel(alpha=values.alpha > 0) for values in (own - own.sel(alpha=0), kl))
        axis.plot(kl.sel({"method": "random"}), own.sel({"method": "random"}), color=NULL, lw=0.8, zorder=1)
        axis.plot(
            kl.sel({"method": method}), own.sel({"method": method}), color=colour, marker="o", ms=2, label=concept
        )
    axis.set(xlabel="KL on neutral text (nat)", ylabel="gain in log-odds (nat)", xscale="log")
    return dressed(figure, **RIGHT)
