"""Figures of when: each measure over training with its onsets, all onsets, their order, and what a push gains when."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from steerlib.figures.axes import (
    COLUMN,
    MEASURE_LABELS,
    NULL,
    PAGE,
    band,
    cells,
    colours,
    dressed,
    handle,
    mark_onset,
    onset_axis,
    onset_handles,
    panels,
    step_axis,
)
from steerlib.numerics.onsets import words
from steerlib.stages.summary import tau

BASELINES = {"baseline_words": ("bag of words", "--"), "baseline_untrained": ("untrained", "-.")}
ANSWERS = {"first_detectable": ("first detectable", "^"), "half_way": ("half-way up", "D")}
BAR, LEAST = {"color": "0.25", "lw": 0.9, "ls": ":"}, {"color": "0.55", "lw": 0.6}
BAND = {"lw": 5, "solid_capstyle": "butt"}  # in a legend
# What an onset is of: measure, answer, and how that is drawn.
ONSETS = {
    "separability": ("separability", "first_detectable", "o"),
    "expression": ("expression", "first_detectable", "v"),
    "steerability": ("steerability", "first_detectable", "s"),
    "half-way up": ("steerability", "half_way", "D"),
}
MARKED = ("rises", "from the start", "not reached")  # what a mark says without words


def emergence_curves(emergence: xr.Dataset) -> Figure:
    """Every measure of every concept against step, with its interval, what it is held against, and when it emerged.

    Grey: between the quantiles of its null at each checkpoint. Marks stand over the intervals of both answers; of what
    does not simply rise is said in words what it does.
    """
    measures, steps, colour = emergence.measure.values, emergence.step.values, colours(emergence.concept)
    size = PAGE, 0.92 * len(colour) + 0.9
    figure, axes = plt.subplots(len(colour), len(measures), figsize=size, sharex=True, sharey="col", squeeze=False)
    step_axis(axes[0, 0], steps)
    alone = {"marker": "_", "ms": 12} if len(steps) == 1 else {}
    for row, concept in zip(axes, colour, strict=True):
        for axis, measure in zip(row, measures, strict=True):
            curve = emergence.sel(concept=concept, measure=measure)
            band(axis, steps, curve.null_lower, curve.null_upper, color=NULL, alpha=0.35)
            axis.plot(steps, curve.least, **LEAST, **alone)
            axis.plot(steps, curve.bar, **BAR, **alone)
            band(axis, steps, curve.value_lower, curve.value_upper, color=colour[concept], alpha=0.3)
            axis.plot(steps, curve.value, color=colour[concept], marker="o", ms=1.8)
            for name, (_, dash) in BASELINES.items():
                if np.isfinite(curve[name]):
                    axis.axhline(float(curve[name]), color="0.2", lw=0.8, ls=dash)
            _answer(axis, curve, colour[concept])
        row[0].set_ylabel(concept, rotation=0, ha="right", va="center")
    for top, bottom, measure in zip(axes[0], axes[-1], measures, strict=True):
        least = _least(measure, emergence.least.sel(measure=measure))
        top.set_title(f"{MEASURE_LABELS.get(measure, measure)}\nleast effect: {least}", size=7, pad=12)
        bottom.set_xlabel("training step")
    handles = [
        handle("measure", color="0.2", marker="o", ms=2),
        handle("its interval", color="0.2", alpha=0.3, **BAND),
        handle("null", color=NULL, alpha=0.35, **BAND),
        handle("to be cleared", **BAR),
        handle("least effect", **LEAST),
        *(
            handle(told, color="0.2", lw=0.8, ls=dash)
            for name, (told, dash) in BASELINES.items()
            if emergence[name].notnull().any()
        ),
        *(handle(f"{name}, with interval", color="0.15", marker=mark, ms=4, lw=1.2) for name, mark in ANSWERS.values()),
    ]
    return dressed(figure, handles=handles, ncol=5, fontsize=6.5, handlelength=2)


def _answer(axis: Axes, curve: xr.Dataset, colour: tuple) -> None:
    """Both answers to when, each with its interval: at the bottom of the panel, and on the curve."""
    place = axis.xaxis.get_transform().transform
    for question, (_, mark) in ANSWERS.items():
        answer = curve.sel(question=question)
        if np.isfinite(step := float(answer.onset)):
            y, across = 0.07, axis.get_xaxis_transform()
            if question == "half_way":
                y, across = np.interp(place([step]), place(curve.step.values), curve.value)[0], axis.transData
            ends = np.clip([float(answer.onset_lower), float(answer.onset_upper)], *axis.get_xlim())
            axis.plot(ends, [y, y], color="0.15", lw=1.2, transform=across, zorder=3)
            look = {"color": colour, "mec": "0.15", "mew": 0.6, "ms": 4.5}
            axis.plot(step, y, ls="", marker=mark, **look, transform=across, zorder=4)
    said = words(curve.status.item(), float(curve.onset.sel(question="first_detectable")))
    axis.text(0.02, 1.01, said, transform=axis.transAxes, size=6, color="0.15", va="bottom")


def _least(measure: str, least: xr.DataArray) -> str:
    """The least effect that counts, in words."""
    low, high = float(least.min()), float(least.max())
    if low < high:  # where alpha counts another length than the state's own
        return f"{low:.1g} to {high:.1g} nat"
    return f"{high:g} nat (odds × {np.exp(high):.1f})" if measure == "steerability" else f"{high:g}"


def onset_summary(emergence: xr.Dataset) -> Figure:
    """When each concept became separable, expressed and steerable, and when steerability was half-way up.

    An arrow at the left: from the start. At the right hollow: not reached; a cross, or words: what else there is.
    """
    steps, colour = emergence.step.values, colours(emergence.concept)
    figure, axis = plt.subplots(figsize=(COLUMN, 0.42 * len(colour) + 1))
    edges = onset_axis(axis, steps)
    for y, concept in enumerate(colour):
        for k, (measure, question, mark) in enumerate(ONSETS.values()):
            onset = emergence.sel(concept=concept, measure=measure, question=question)
            place, first = y + 0.22 * (k - 1.5), question == "first_detectable"
            if first or np.isfinite(onset.onset):
                mark_onset(axis, onset, place, edges, color=colour[concept], marker=mark, ms=3.5)
            if first and (status := onset.status.item()) not in MARKED:
                beside = {"xytext": (5, 0), "textcoords": "offset points", "va": "center", "size": 5.5}
                axis.annotate(words(status, float(onset.onset)), (edges[1], place), **beside, annotation_clip=False)
        axis.axhline(y + 0.5, color="0.9", lw=0.5, zorder=0)
    axis.set(yticks=range(len(colour)), yticklabels=list(colour), xlabel="onset (training step)")
    axis.set_ylim(len(colour) - 0.5, -0.5)
    axis.axvline(steps.max(), color="0.8", lw=0.8, ls=":", zorder=0)
    look = {"color": "0.2", "ls": "", "ms": 4}
    handles = [handle(name, marker=mark, **look) for name, (_, _, mark) in ONSETS.items()]
    return dressed(figure, handles=handles + onset_handles(), ncol=3, handletextpad=0.1, columnspacing=1, fontsize=6.5)


def order(emergence: xr.Dataset) -> Figure:
    """Which concept can be steered before which: P(row before column) by either answer, over joint resamples.

    The more frequent a planted concept the further up, then by onset. "=": most resamples hold neither before the
    other, as both lie between the same two checkpoints, or neither is reached; empty: cannot be told.
    τ: of planted frequency and earliness.
    """
    onset = emergence.onset.sel(measure="steerability", question="first_detectable")
    names = emergence.concept.values[np.lexsort([onset, -emergence.planted_frequency.fillna(-1)])]
    figure, axes = plt.subplots(1, len(ANSWERS), figsize=(PAGE, 0.27 * max(4, len(names)) + 1.3), sharey=True)
    for axis, (question, (title, _)) in zip(axes, ANSWERS.items(), strict=True):
        of = emergence.sel(question=question, concept=names, concept_b=names).transpose("concept", "concept_b", ...)
        tied = of.tied.values > 0.5
        mesh = cells(axis, of.before.where(~tied, 0.5).to_pandas(), 0.5, centre=0.5)
        for (row, column), p in np.ndenumerate(of.before.values):
            if not np.isnan(p):
                text = "=" if tied[row, column] else f"{p:.2f}"
                dark = abs(p - 0.5) > 0.35 and not tied[row, column]
                look = {"size": 5.5, "color": "w" if dark else "0.15", "ha": "center", "va": "center"}
                axis.text(column + 0.5, row + 0.5, text, **look)
        axis.set_title("\n".join(filter(None, [title, tau(emergence, question)])))
        axis.tick_params(axis="x", rotation=90)
    axes[0].invert_yaxis()
    figure.colorbar(mesh, ax=axes, label="P(row before column)", shrink=0.8)
    figure.supxlabel('"=": neither before the other; empty: cannot be told', fontsize=6.5)
    return figure


def with_and_without(emergence: xr.Dataset) -> Figure:
    """What a push gains: on how many more of the test prompts a target beats every foil, pushed than unsteered.

    (Of items: on how many more the answer is right.) With its interval over test prompts, at the alpha that validation
    prompts choose at each checkpoint within the KL budget; grey: by a random direction at that alpha.
    """
    steps = emergence.step.values
    figure, axes = panels(emergence.concept, margin=0.8, sharex=True, sharey=True)
    for concept, colour in colours(emergence.concept).items():
        axis, of = axes[concept], emergence.sel(concept=concept)
        axis.axhline(0, color="0.3", lw=0.7)
        axis.plot(steps, of.gain_null, color=NULL, lw=1, marker="o", ms=1.5)
        axis.vlines(steps, of.gain_lower, of.gain_upper, color=colour, lw=2, alpha=0.4)
        axis.plot(steps, of.gain, color=colour, marker="o", ms=2.5)
    onset_axis(axis, steps)  # room for the bars of the first and the last
    handles = [handle("pushed − unsteered", color="0.2", marker="o", ms=2)]
    handles.append(handle("its interval", color="0.2", alpha=0.4, ls="", marker="|", ms=9, mew=2))
    handles.append(handle("random direction − unsteered", color=NULL, marker="o", ms=1.5))
    return dressed(figure, "training step", "gain in the share of prompts\nwhere a target comes first", handles=handles)
