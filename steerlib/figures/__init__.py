"""Figures from labelled datasets: fit for a paper's column, colour-blind safe, one colour a concept throughout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLUMN, PAGE = 3.4, 7.0  # inches: one column, full width
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "figure.constrained_layout.use": True,
    "svg.fonttype": "none",
}
NULL = "0.6"  # grey is the null's, and nobody else's
MEASURE_LABELS = {
    "separability": "separability (AUROC)",
    "expression": "expression (rate)",
    "steerability": "steerability (nat)",
}


def style() -> None:
    """The look of all figures."""
    sns.set_theme(style="ticks", rc=STYLE)


def colours(concepts: Sequence[str]) -> dict[str, tuple]:
    """One colour a concept, by its place in the study."""
    safe = [c for i, c in enumerate(sns.color_palette("colorblind", 10)) if i != 7]  # 7 is grey
    return dict(zip(concepts, safe if len(concepts) <= len(safe) else sns.husl_palette(len(concepts)), strict=False))


def save(figure: Figure, folder: Path, name: str) -> None:
    """As PNG and as SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("png", "svg"):
        figure.savefig(folder / f"{name}.{kind}", dpi=200)


def panels(concepts: Sequence[str], columns: int = 3, height: float = 1.5, **given) -> tuple[Figure, dict[str, Axes]]:
    """One panel a concept, titled."""
    columns = min(columns, len(concepts))
    rows = -(-len(concepts) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(PAGE, height * rows + 0.3), squeeze=False, **given)
    for spare in axes.flat[len(concepts) :]:
        spare.remove()
    for concept, axis in zip(concepts, axes.flat, strict=False):
        axis.set_title(concept)
    return figure, dict(zip(concepts, axes.flat, strict=False))


def step_axis(axis: Axes, steps: np.ndarray) -> None:
    """log(1 + step), nearly: linear up to the first trained checkpoint, so that step 0 has a place."""
    first = int(steps[steps > 0].min()) if (steps > 0).any() else 1
    axis.set_xscale("symlog", linthresh=first, linscale=0.4)
    shown = [0, *(s for s in np.geomspace(first, max(steps.max(), first), 4).round().astype(int))]
    axis.set_xticks(sorted(set(shown)), [str(s) for s in sorted(set(shown))])
    axis.minorticks_off()
    axis.set_xlim(steps.min(), max(steps.max(), 1))


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
    for row, concept in zip(axes, concepts, strict=True):
        for axis, measure in zip(row, measures, strict=True):
            one = emergence.sel(concept=concept, measure=measure)
            axis.fill_between(steps, one.null_lower, one.null_upper, color=NULL, alpha=0.35, lw=0)
            axis.plot(steps, one.null_threshold, color="0.4", lw=0.7, ls=":")
            axis.fill_between(steps, one.value_lower, one.value_upper, color=colour[concept], alpha=0.3, lw=0)
            axis.plot(steps, one.value, color=colour[concept], marker="o", ms=2)
            mark_onset(axis, one, colour[concept])
            step_axis(axis, steps)
        row[0].set_ylabel(concept, rotation=0, ha="right", va="center")
    for axis, measure in zip(axes[0], measures, strict=True):
        axis.set_title(MEASURE_LABELS.get(measure, measure))
    for axis in axes[-1]:
        axis.set_xlabel("training step")
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


def steerability_heatmap(interventions: xr.Dataset, method: str) -> Figure:
    """Steerability by layer and step, one scale for all concepts, so that panels can be compared."""
    values = interventions.steerability.sel({"method": method})
    bound = float(np.nanmax(abs(values)))
    figure, axes = panels(list(values.concept.values), height=1.25, sharex=True, sharey=True)
    for concept, axis in axes.items():
        grid = values.sel(concept=concept).transpose("layer", "step").to_pandas()
        sns.heatmap(
            grid, ax=axis, cmap="vlag", vmin=-bound, vmax=bound, cbar=False, xticklabels=max(1, len(grid.columns) // 6)
        )
        axis.invert_yaxis()
        axis.set(xlabel="", ylabel="")
        axis.tick_params(axis="both", length=2)
        axis.tick_params(axis="x", rotation=0)
    figure.supxlabel("training step", fontsize=8)
    figure.supylabel("layer", fontsize=8)
    figure.colorbar(
        axis.collections[0], ax=list(axes.values()), label="steerability\n(nat per residual norm)", shrink=0.6
    )
    return figure


def dose_response(interventions: xr.Dataset, method: str, layer: xr.DataArray) -> Figure:
    """Log-odds of a concept's own readout against alpha, a line a checkpoint, at the concept's chosen layer."""
    log_odds = interventions.log_odds.sel({"method": method}).where(interventions.split == "test").mean("prompt")
    steps = interventions.step.values
    shade = dict(zip(steps, sns.color_palette("viridis", len(steps)), strict=True))
    figure, axes = panels(list(log_odds.concept.values), sharex=True)
    for concept, axis in axes.items():
        own = log_odds.sel(concept=concept, readout_concept=concept).isel(layer=int(layer.sel(concept=concept)))
        for step in steps:
            axis.plot(own.alpha, own.sel(step=step), color=shade[step], lw=1)
        axis.axvline(0, color=NULL, lw=0.6)
    figure.supxlabel("alpha (residual norms)", fontsize=8)
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
    """Slope of every readout when each concept is pushed, at the final checkpoint; inside the null band in grey."""
    last = interventions.isel(step=-1).sel({"method": method})
    own_layer = layer.drop_vars([name for name in layer.coords if name != "concept"])
    slopes = last.interference.isel(layer=own_layer).transpose("concept", "readout_concept")
    null = last.interference_null.isel(layer=own_layer)
    bound = np.nanquantile(abs(null), 0.95, axis=null.get_axis_num("draw"))
    inside = (
        abs(slopes)
        <= xr.DataArray(bound, dims=[d for d in null.dims if d != "draw"])
        .transpose("concept", "readout_concept")
        .values
    )
    figure, axis = plt.subplots(figsize=(PAGE * 0.7, PAGE * 0.55))
    top = float(np.nanmax(abs(slopes)))
    sns.heatmap(
        slopes.to_pandas(),
        ax=axis,
        cmap="vlag",
        vmin=-top,
        vmax=top,
        annot=True,
        fmt=".1f",
        annot_kws={"size": 7},
        cbar_kws={"label": "slope (nat per residual norm)"},
    )
    for text, grey in zip(axis.texts, inside.values.ravel(), strict=True):
        text.set_color("0.55" if grey else text.get_color())
    axis.set(xlabel="readout", ylabel="pushed concept")
    axis.tick_params(axis="x", rotation=45)
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


# --- the small figures of the per-checkpoint notebooks ---------------------------------------------------------


def separability_by_layer(probes: xr.Dataset, method: str) -> Figure:
    """AUROC of every concept by layer, mean over held-out templates, with the null's 95th percentile."""
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
    null = np.nanquantile(probes.auroc_null.sel({"method": method}), [0.05, 0.95])
    axis.axhspan(*null, color=NULL, alpha=0.35, lw=0)
    axis.set(xlabel="layer", ylabel="AUROC (held out)", xticks=probes.layer)
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
    axis.set(xlabel="alpha (residual norms)", ylabel="change of log-odds (nat)")
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
    sns.heatmap(grid, ax=axis, cmap="vlag", vmin=-1, vmax=1, square=True, cbar_kws={"label": "cosine"})
    axis.set(xlabel="", ylabel="")
    return figure


def training_loss(pretraining: xr.Dataset) -> Figure:
    """Loss of every step."""
    figure, axis = plt.subplots(figsize=(COLUMN, 2))
    axis.plot(pretraining.step, pretraining.loss, color="0.2", lw=0.8)
    axis.set(xlabel="training step", ylabel="loss (nat per token)", xscale="log", yscale="log")
    axis.grid(alpha=0.3)
    sns.despine(figure)
    return figure
