"""Figures over training: when each measure emerges, where, how strongly, and what else moves."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from steerlib.figures import (
    COLUMN,
    MEASURE_LABELS,
    NULL,
    PAGE,
    alpha_label,
    cells,
    colours,
    heatmaps,
    panels,
    step_axis,
)

BASELINES = {"baseline_words": "--", "baseline_untrained": "-."}


def emergence_curves(emergence: xr.Dataset) -> Figure:
    """Every measure of every concept against step: value with interval, null band, onset with interval."""
    concepts, measures = list(emergence.concept.values), list(emergence.measure.values)
    colour = colours(concepts)
    figure, axes = plt.subplots(
        len(concepts),
        len(measures),
        figsize=(PAGE, 0.92 * len(concepts) + 0.5),
        sharex=True,
        sharey="col",
        squeeze=False,
    )
    steps = emergence.step.values
    step_axis(axes[0, 0], steps)
    for row, concept in zip(axes, concepts, strict=True):
        for axis, measure in zip(row, measures, strict=True):
            one = emergence.sel(concept=concept, measure=measure)
            axis.fill_between(steps, one.null_lower, one.null_upper, color=NULL, alpha=0.35, lw=0)
            axis.plot(steps, one.null_threshold, color="0.4", lw=0.7, ls=":")
            axis.fill_between(steps, one.value_lower, one.value_upper, color=colour[concept], alpha=0.3, lw=0)
            axis.plot(steps, one.value, color=colour[concept], marker="o", ms=2)
            for name, style in BASELINES.items():
                if np.isfinite(one[name]):
                    axis.axhline(float(one[name]), color="0.2", lw=0.8, ls=style)
            mark_onset(axis, one, colour[concept])
        row[0].set_ylabel(concept, rotation=0, ha="right", va="center")
    for axis, measure in zip(axes[0], measures, strict=True):
        axis.set_title(MEASURE_LABELS.get(measure, measure))
    for axis in axes[-1]:
        axis.set_xlabel("training step")
    lines = {"bag of words": BASELINES["baseline_words"], "untrained": BASELINES["baseline_untrained"]}
    handles = [plt.Line2D([], [], color="0.2", lw=0.8, ls=style, label=name) for name, style in lines.items()]
    handles.append(plt.Line2D([], [], color="0.4", lw=0.7, ls=":", label="to be cleared"))
    figure.legend(handles=handles, loc="outside upper left", ncol=3, fontsize=6, handlelength=1.6, columnspacing=1)
    sns.despine(figure)
    return figure


def mark_onset(axis: Axes, one: xr.Dataset, colour) -> None:
    """A line at the onset over a band of its interval; nothing where it is not reached."""
    if np.isfinite(one.onset_step):
        upper = float(one.onset_upper) if np.isfinite(one.onset_upper) else axis.get_xlim()[1]
        axis.axvspan(float(one.onset_lower), upper, color=colour, alpha=0.12, lw=0)
        axis.axvline(float(one.onset_step), color=colour, lw=1, ls="--")


def onset_summary(emergence: xr.Dataset) -> Figure:
    """When each concept became separable, expressed and steerable, with intervals; hollow at the right: not reached."""
    concepts, steps = list(emergence.concept.values), emergence.step.values
    figure, axis = plt.subplots(figsize=(COLUMN, 0.32 * len(concepts) + 0.8))
    colour, beyond = colours(concepts), steps.max() * 1.25
    markers = {"separability": "o", "expression": "^", "steerability": "s"}
    for k, measure in enumerate(emergence.measure.values):
        for y, concept in enumerate(concepts):
            one = emergence.sel(concept=concept, measure=measure)
            place = y + 0.24 * (k - 1)
            if np.isfinite(one.onset_step):
                upper = float(one.onset_upper) if np.isfinite(one.onset_upper) else beyond
                axis.plot([float(one.onset_lower), upper], [place, place], color=colour[concept], lw=1)
                axis.plot(float(one.onset_step), place, markers[measure], color=colour[concept], ms=4)
            else:
                axis.plot(beyond, place, markers[measure], mfc="none", mec=NULL, ms=4)
    handles = [
        plt.Line2D([], [], ls="", marker=markers[m], color="0.2", ms=4, label=m) for m in emergence.measure.values
    ]
    figure.legend(handles=handles, loc="outside upper center", ncol=3, handletextpad=0.1, columnspacing=1)
    step_axis(axis, steps)
    axis.set_xlim(0, beyond * 1.12)
    axis.set(yticks=range(len(concepts)), xlabel="onset (training step)")
    axis.set_yticklabels(concepts)
    axis.axvline(steps.max(), color=NULL, lw=0.8, ls=":")
    axis.invert_yaxis()
    sns.despine(figure)
    return figure


def steerability_heatmap(interventions: xr.Dataset, method: str, q: xr.DataArray) -> Figure:
    """Steerability by layer and step. A dot: q-value against random directions below 5 %, and no more than 5 % of
    directions from shuffled labels steer as well."""
    one = interventions.sel({"method": method})
    unit = interventions.steerability.attrs["units"]
    return heatmaps(one.steerability, f"steerability\n({unit})", (q < 0.05) & (one.p_shuffled <= 0.05))


def dose_response(interventions: xr.Dataset, method: str, layer: xr.DataArray) -> Figure:
    """Log-odds of a concept's own readout against alpha, a line a checkpoint, at the concept's chosen layer."""
    log_odds = interventions.log_odds.sel({"method": method})
    steps = interventions.step.values
    shade = dict(zip(steps, sns.color_palette("viridis", len(steps)), strict=True))
    figure, axes = panels(list(log_odds.concept.values), sharex=True)
    for concept, axis in axes.items():
        own = log_odds.sel(concept=concept, readout_concept=concept).isel(layer=int(layer.sel(concept=concept)))
        own = own.where(interventions.split.sel(readout_concept=concept) == "test").mean("prompt")
        for step in steps:
            axis.plot(own.alpha, own.sel(step=step), color=shade[step], lw=1)
        axis.axvline(0, color=NULL, lw=0.6)
    figure.supxlabel(alpha_label(interventions), fontsize=8)
    figure.supylabel("log-odds (nat)", fontsize=8)
    scale = plt.cm.ScalarMappable(cmap="viridis")
    bar = figure.colorbar(scale, ax=list(axes.values()), label="training step", shrink=0.6)
    ticks = np.linspace(0, 1, min(5, len(steps)))
    bar.set_ticks(ticks, labels=[str(steps[round(t * (len(steps) - 1))]) for t in ticks])
    sns.despine(figure)
    return figure


def cosine_to_final(similarity: xr.Dataset, method: str, layer: xr.DataArray, hidden: int) -> Figure:
    """How far each direction already points where it will end; the band is where random directions lie."""
    concepts, steps = list(similarity.concept.values), similarity.step.values
    figure, axis = plt.subplots(figsize=(COLUMN, 2.6))
    axis.axhspan(-1.96 / np.sqrt(hidden), 1.96 / np.sqrt(hidden), color=NULL, alpha=0.35, lw=0)
    for concept, colour in colours(concepts).items():
        values = (
            similarity.cosine_to_final.sel({"method": method})
            .sel(concept=concept)
            .isel(layer=int(layer.sel(concept=concept)))
        )
        axis.plot(steps, values, color=colour, marker="o", ms=2, label=concept)
    axis.set(xlabel="training step", ylabel="cosine to final direction")
    step_axis(axis, steps)
    figure.legend(loc="outside right center", handlelength=1)
    sns.despine(figure)
    return figure


def interference(interventions: xr.Dataset, method: str, layer: xr.DataArray) -> Figure:
    """Slope of every readout, with its interval, when each concept is pushed, at the final checkpoint.

    In grey what lies inside the null band: 95 % of null draws move that readout less.
    """
    own_layer = layer.drop_vars([name for name in layer.coords if name != "concept"])
    last = interventions.isel(step=-1).sel({"method": method}).isel(layer=own_layer)
    last = last.transpose("concept", "readout_concept", ...)
    slopes, null = last.interference, abs(last.interference_null)
    inside = abs(slopes) <= null.quantile(0.95, "draw")
    figure, axis = plt.subplots(figsize=(PAGE, PAGE * 0.7))
    top = float(np.nanmax(abs(slopes)))
    mesh = cells(axis, slopes.to_pandas(), top)
    figure.colorbar(mesh, label=f"slope ({slopes.attrs['units']})")
    for (row, column), value in np.ndenumerate(slopes.values):
        lower, upper = (float(bound[row, column]) for bound in (last.interference_lower, last.interference_upper))
        axis.text(
            column + 0.5,
            row + 0.5,
            f"{value:.1f}\n[{lower:.1f}, {upper:.1f}]",
            ha="center",
            va="center",
            size=6,
            color="0.5" if inside[row, column] else "w" if abs(value) > 0.6 * top else "0.15",
        )
    axis.set(xlabel="readout", ylabel="pushed concept")
    axis.tick_params(axis="x", rotation=45)
    axis.invert_yaxis()
    return figure


def with_and_without(interventions: xr.Dataset, method: str, layer: xr.DataArray) -> Figure:
    """Share of test prompts on which a target beats every foil (of items: the right answer), unsteered and pushed.

    Pushed at the alpha that validation prompts choose at each checkpoint within the KL budget; grey: by a random
    direction at that alpha. Pushing too early does nothing, or harm.
    """
    one = interventions.sel({"method": method})
    figure, axes = panels(list(one.concept.values), sharex=True, sharey=True)
    colour, steps = colours(list(one.concept.values)), one.step.values
    for concept, axis in axes.items():
        at = {"concept": concept, "layer": int(layer.sel(concept=concept))}
        alpha = one.chosen_alpha.isel(layer=at["layer"]).sel(concept=concept)
        there = {"alpha": alpha.fillna(0.0)}
        of = interventions.success_rate.isel(layer=at["layer"]).sel(concept=concept)
        random = of.sel({"method": "random"}).sel(there)
        axis.plot(steps, random, color=NULL, lw=0.8)
        axis.plot(steps, of.sel({"method": method}).sel(alpha=0), color="0.2", lw=1, ls=":")
        axis.plot(steps, of.sel({"method": method}).sel(there), color=colour[concept], marker="o", ms=2)
    step_axis(axis, steps)
    axis.set_ylim(-0.05, 1.05)
    figure.supxlabel("training step", fontsize=8)
    figure.supylabel("share of prompts where a target comes first", fontsize=8)
    lines = (("pushed", {"color": "0.2", "marker": "o", "ms": 2}), ("unsteered", {"color": "0.2", "ls": ":"}))
    handles = [plt.Line2D([], [], label=name, **look) for name, look in (*lines, ("random", {"color": NULL}))]
    figure.legend(handles=handles, loc="outside upper center", ncol=3)
    sns.despine(figure)
    return figure


def side_effects(interventions: xr.Dataset, method: str, layer: xr.DataArray) -> Figure:
    """What a gain in the readout costs on neutral text, at the final checkpoint; grey are random directions."""
    last = interventions.isel(step=-1)
    gain = last.log_odds.where(last.split == "test").mean("prompt")
    figure, axis = plt.subplots(figsize=(COLUMN, 2.6))
    for concept, colour in colours(list(last.concept.values)).items():
        at = {"concept": concept, "layer": int(layer.sel(concept=concept))}
        for name, look in (
            ("random", {"color": NULL, "lw": 0.8}),
            (method, {"color": colour, "marker": "o", "ms": 2, "label": concept}),
        ):
            own = gain.sel(**at, readout_concept=concept).sel({"method": name})
            kl = last.kl.sel(**at).sel({"method": name})
            doses = own.alpha > 0
            axis.plot(kl[doses], (own - own.sel(alpha=0))[doses], **look, zorder=1 if name == "random" else 2)
    axis.set(xlabel="KL on neutral text (nat)", ylabel="gain in log-odds (nat)", xscale="log")
    figure.legend(loc="outside right center", handlelength=1)
    sns.despine(figure)
    return figure
