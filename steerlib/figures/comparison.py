"""Figures of studies side by side, from the datasets of `steerlib.stages.comparison`."""

from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from steerlib.figures.axes import MEASURE_LABELS, NULL, PAGE, colours, dressed, handle, mark_onset, panels, step_axis
from steerlib.stages.comparison import replicates

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")  # a variant each
DASHES = ("-", (0, (4, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))


def onsets(compared: xr.Dataset) -> Figure:
    """Onset of every concept in every variant with its interval, a panel a measure; a bar is the mean over variants.

    Hollow at the right: not reached. There is no mean where a variant did not reach it, nor of variants that are no
    replicates.
    """
    measures, steps, colour = compared.measure.values, compared.step.values, colours(compared.concept)
    marker = dict(zip(compared.variant.values, cycle(MARKERS), strict=False))
    height = len(colour) * max(0.24, 0.085 * (len(marker) + 1))
    figure, axes = plt.subplots(1, len(measures), figsize=(PAGE, height + 1), sharex=True, sharey=True, squeeze=False)
    beyond, mean = steps.max() * 1.25, replicates(compared)
    for axis, measure in zip(axes[0], measures, strict=True):
        for y, concept in enumerate(colour):
            onset = compared.sel(measure=measure, concept=concept)
            axis.axhline(y + 0.5, color="0.9", lw=0.5, zorder=0)
            if mean and np.isfinite(onset.onset_mean):
                axis.plot([float(onset.onset_mean)] * 2, [y - 0.42, y + 0.42], color="0.15", lw=1.4, zorder=1)
            for name, place in zip(marker, y + np.linspace(-0.3, 0.3, len(marker)), strict=True):
                look = {"marker": marker[name], "color": colour[concept], "ms": 3.5}
                mark_onset(axis, onset.sel(variant=name), place, beyond, 0.9, {"mec": "0.5", "mew": 0.8}, **look)
        axis.set(title=measure, xlabel="onset (training step)")
        axis.axvline(steps.max(), color=NULL, lw=0.8, ls=":")
    step_axis(axis, steps)
    axis.set_xlim(0, beyond * 1.15)
    axes[0, 0].set_yticks(range(len(colour)), list(colour))
    axes[0, 0].set_ylim(len(colour) - 0.5, -0.5)
    handles = [handle(name, ls="", marker=marker[name], color="0.2", ms=4) for name in marker]
    if mean:
        handles.append(handle("mean", ls="", marker="|", color="0.15", ms=9, mew=1.4))
    handles.append(handle("not reached", ls="", marker="o", mfc="none", mec="0.5", ms=4))
    return dressed(figure, handles=handles, ncol=min(len(handles), 6), handletextpad=0.1)


def trajectories(compared: xr.Dataset, measure: str = "steerability") -> Figure:
    """A measure over training, a panel a concept: a line a variant, the band of their range, the null's threshold.

    The threshold is the highest of the variants'. The band spans the steps that all variants share.
    """
    figure, axes = panels(compared.concept, sharex=True, sharey=True, label=MEASURE_LABELS.get(measure, measure))
    dashes = dict(zip(compared.variant.values, cycle(DASHES), strict=False))
    for concept, colour in colours(compared.concept).items():
        axis, curves = axes[concept], compared.sel(measure=measure, concept=concept)
        band = curves[["value_lowest", "value_highest"]].dropna("step")
        axis.fill_between(band.step, band.value_lowest, band.value_highest, color=colour, alpha=0.22, lw=0)
        for name, dash in dashes.items():
            line = curves.value.sel(variant=name).dropna("step")
            axis.plot(line.step, line, color=colour, lw=0.9, ls=dash)
        threshold = curves.null_threshold.max("variant").dropna("step")
        axis.plot(threshold.step, threshold, color=NULL, lw=1, zorder=1)
    step_axis(axis, compared.step.values)
    handles = [handle(name, color="0.2", lw=1, ls=dash) for name, dash in dashes.items()]
    handles.append(handle("null", color=NULL))
    return dressed(figure, "training step", handles=handles, ncol=min(len(handles), 6))


def difference(compared: xr.Dataset, name: str, measure: str = "steerability") -> Figure:
    """A variant less the first over training, with its interval, a panel a concept; filled marks exclude zero."""
    label = f"{MEASURE_LABELS.get(measure, measure)}:\n{name} − {compared.variant.values[0]}"
    figure, axes = panels(compared.concept, sharex=True, sharey=True, label=label)
    steps, columns = compared.step.values, ["difference", "difference_lower", "difference_upper"]
    for concept, colour in colours(compared.concept).items():
        axis = axes[concept]
        curve = compared.sel(variant=name, measure=measure, concept=concept)[columns].dropna("step")
        axis.axhline(0, color="0.3", lw=0.7)
        axis.fill_between(curve.step, curve.difference_lower, curve.difference_upper, color=colour, alpha=0.25, lw=0)
        axis.plot(curve.step, curve.difference, color=colour)
        apart = (curve.difference_lower > 0) | (curve.difference_upper < 0)
        look = {"color": colour, "marker": "o", "ls": "", "ms": 3, "mew": 0.8, "zorder": 3}
        axis.plot(curve.step, curve.difference, **look, mfc="white")
        axis.plot(curve.step[apart], curve.difference[apart], **look)
    step_axis(axis, steps)
    axis.set_xlim(right=steps.max() * 1.06)  # room for the last mark
    return dressed(figure, "training step")
