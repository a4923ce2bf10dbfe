"""Figures of studies side by side, from the datasets of `steerlib.stages.comparison`; colours and sizes as in `figures`."""

from __future__ import annotations

from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from steerlib.figures import MEASURE_LABELS, NULL, PAGE, colours, panels, step_axis
from steerlib.stages.comparison import replicates

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")  # a variant each
DASHES = ("-", (0, (4, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))


def onsets(found: xr.Dataset) -> Figure:
    """Onset of every concept in every variant with its interval, a panel a measure; a bar is the mean over variants.

    Hollow at the right: not reached. There is no mean where a variant did not reach it, nor of variants that are no
    replicates.
    """
    concepts, measures, names = (list(found[dim].values) for dim in ("concept", "measure", "variant"))
    steps, colour, marker = found.step.values, colours(concepts), dict(zip(names, cycle(MARKERS), strict=False))
    height = len(concepts) * max(0.24, 0.085 * (len(names) + 1))
    figure, axes = plt.subplots(1, len(measures), figsize=(PAGE, height + 1), sharex=True, sharey=True, squeeze=False)
    beyond, spread, mean = steps.max() * 1.25, np.linspace(-0.3, 0.3, len(names)), replicates(found)
    for axis, measure in zip(axes[0], measures, strict=True):
        for y, concept in enumerate(concepts):
            one = found.sel(measure=measure, concept=concept)
            axis.axhline(y + 0.5, color="0.9", lw=0.5, zorder=0)
            if mean and np.isfinite(one.onset_mean):
                axis.plot([float(one.onset_mean)] * 2, [y - 0.42, y + 0.42], color="0.15", lw=1.4, zorder=1)
            for name, place in zip(names, y + spread, strict=True):
                _onset(axis, one.sel(variant=name), place, marker[name], colour[concept], beyond)
        axis.set(title=measure, xlabel="onset (training step)")
        axis.axvline(steps.max(), color=NULL, lw=0.8, ls=":")
    step_axis(axis, steps)
    axis.set_xlim(0, beyond * 1.15)
    axes[0, 0].set_yticks(range(len(concepts)), concepts)
    axes[0, 0].set_ylim(len(concepts) - 0.5, -0.5)
    handles = [plt.Line2D([], [], ls="", marker=marker[name], color="0.2", ms=4, label=name) for name in names]
    if mean:
        handles.append(plt.Line2D([], [], ls="", marker="|", color="0.15", ms=9, mew=1.4, label="mean"))
    handles.append(plt.Line2D([], [], ls="", marker="o", mfc="none", mec="0.5", ms=4, label="not reached"))
    figure.legend(handles=handles, loc="outside upper center", ncol=min(len(handles), 6), handletextpad=0.1)
    sns.despine(figure)
    return figure


def _onset(axis: Axes, one: xr.Dataset, place: float, marker: str, colour, beyond: float) -> None:
    """One variant's onset over its interval; nothing where it does not have the concept."""
    if np.isfinite(one.onset_step):
        upper = float(one.onset_upper) if np.isfinite(one.onset_upper) else beyond
        axis.plot([float(one.onset_lower), upper], [place, place], color=colour, lw=0.9)
        axis.plot(float(one.onset_step), place, marker, color=colour, ms=3.5)
    elif np.isposinf(one.onset_step):
        axis.plot(beyond, place, marker, mfc="none", mec="0.5", ms=3.5, mew=0.8)


def trajectories(found: xr.Dataset, measure: str = "steerability") -> Figure:
    """A measure over training, a panel a concept: a line a variant, the band of their range, the null's threshold.

    The threshold is the highest of the variants'. The band spans the steps that all variants share.
    """
    concepts, names = list(found.concept.values), list(found.variant.values)
    figure, axes = panels(concepts, sharex=True, sharey=True)
    dashes = dict(zip(names, cycle(DASHES), strict=False))
    for concept, axis in axes.items():
        one, colour = found.sel(measure=measure, concept=concept), colours(concepts)[concept]
        band = one[["value_lowest", "value_highest"]].dropna("step")
        axis.fill_between(band.step, band.value_lowest, band.value_highest, color=colour, alpha=0.22, lw=0)
        for name in names:
            line = one.value.sel(variant=name).dropna("step")
            axis.plot(line.step, line, color=colour, lw=0.9, ls=dashes[name])
        threshold = one.null_threshold.max("variant").dropna("step")
        axis.plot(threshold.step, threshold, color=NULL, lw=1, zorder=1)
    step_axis(axis, found.step.values)
    return _labelled(figure, dashes, MEASURE_LABELS.get(measure, measure), plt.Line2D([], [], color=NULL, label="null"))


def difference(found: xr.Dataset, name: str, measure: str = "steerability") -> Figure:
    """A variant less the first over training, with its interval, a panel a concept; filled marks exclude zero."""
    concepts = list(found.concept.values)
    figure, axes = panels(concepts, sharex=True, sharey=True)
    for concept, axis in axes.items():
        one = found.sel(variant=name, measure=measure, concept=concept)
        one, colour = (
            one[["difference", "difference_lower", "difference_upper"]].dropna("step"),
            colours(concepts)[concept],
        )
        axis.axhline(0, color="0.3", lw=0.7)
        axis.fill_between(one.step, one.difference_lower, one.difference_upper, color=colour, alpha=0.25, lw=0)
        axis.plot(one.step, one.difference, color=colour)
        apart = (one.difference_lower > 0) | (one.difference_upper < 0)
        look = {"color": colour, "marker": "o", "ls": "", "ms": 3, "mew": 0.8}
        axis.plot(one.step, one.difference, **look, mfc="white", zorder=3)
        axis.plot(one.step[apart], one.difference[apart], **look, zorder=3)
    step_axis(axis, found.step.values)
    axis.set_xlim(right=found.step.values.max() * 1.06)  # room for the last mark
    first = found.variant.values[0]
    return _labelled(figure, {}, f"{MEASURE_LABELS.get(measure, measure)}:\n{name} − {first}")


def _labelled(figure: Figure, dashes: dict, label: str, *more) -> Figure:
    """Labels at the left and below, and a legend of the variants' lines."""
    for axis in figure.axes:
        if axis.get_subplotspec().is_first_col():
            axis.set_ylabel(label)
    figure.supxlabel("training step", fontsize=8)
    handles = [plt.Line2D([], [], color="0.2", lw=1, ls=dash, label=name) for name, dash in dashes.items()]
    if handles:
        figure.legend(handles=[*handles, *more], loc="outside upper center", ncol=min(len(handles) + len(more), 6))
    sns.despine(figure)
    return figure
