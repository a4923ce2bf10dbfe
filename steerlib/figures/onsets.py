"""Figures of when: each measure over training with its onsets, all onsets, their order, and what a push gains when."""

from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from steerlib.figures.axes import (
    ALONE,
    band,
    beyond,
    cells,
    guide,
    horizontal,
    last_step,
    mark_onset,
    null_band,
    panels,
    readable,
    step_axis,
    tables,
    write,
    zero,
)
from steerlib.figures.look import (
    COLUMN,
    INK,
    INTERVAL,
    NULL,
    PAGE,
    SMALL,
    WORDS,
    broken,
    dressed,
    labels_of_measures,
    level_of,
    looks,
    nat_of,
    of_layers,
    slope_unit,
)
from steerlib.numerics.onsets import words
from steerlib.stages.summary import tau

BASELINES = {"baseline_words": ("bag of words", "--"), "baseline_untrained": ("untrained", "-.")}
ANSWERS = {"first_detectable": ("first detectable", "^"), "half_way": ("half-way up", "D")}
LINES = {
    "bar": ("to be cleared", {"color": "0.25", "lw": 0.9, "ls": ":"}),
    "least": ("least effect", {"color": "0.5", "lw": 0.6}),
}
ROOM = 0.09  # beside the steps, for what is none
# What an onset is of: measure, answer, and how that is drawn.
ONSETS = {
    "separable": ("separability", "first_detectable", "o"),
    "expressed": ("expression", "first_detectable", "v"),
    "steerable": ("steerability", "first_detectable", "s"),
    "half-way steerable": ("steerability", "half_way", "D"),
}
MARKED = ("rises", "from the start", "not reached")  # what a mark says without words
LAYERS = "at each step the layer that validation prompts choose ({})"


def emergence_curves(emergence: xr.Dataset) -> Figure:
    """Every measure of every concept against step, with its interval, what it is held against, and when it emerged.

    Grey: between the quantiles of its null at each checkpoint. Marks stand over the intervals of both answers; of what
    does not simply rise is said in words what it does.
    """
    measures, steps, look = emergence.measure.values, emergence.step.values, looks(emergence.concept)
    size = PAGE, 0.9 * len(look) + 0.5
    figure, axes = plt.subplots(len(look), len(measures), figsize=size, sharex=True, sharey="col", squeeze=False)
    step_axis(axes[0, 0], steps)
    across = [*axes[0, 0].get_xlim()] if len(steps) == 1 else steps
    for row, concept in zip(axes, look, strict=True):
        colour = look[concept]["color"]
        for axis, measure in zip(row, measures, strict=True):
            curve = emergence.sel(concept=concept, measure=measure)
            axis.plot(steps, curve.value, color=colour, marker="o", ms=1.8, label="measure")
            band(axis, steps, curve.value_lower, curve.value_upper, INTERVAL, color=colour)
            null_band(axis, steps, curve.null_lower, curve.null_upper, "null")
            for name, (label, dash) in LINES.items():
                axis.plot(across, np.broadcast_to(curve[name], len(across)), **dash, label=label)
            for name, (label, dash) in BASELINES.items():
                if np.isfinite(curve[name]):
                    horizontal(axis, float(curve[name]), color="0.2", lw=0.8, ls=dash, label=label)
            _answer(axis, curve, colour)
        row[0].set_ylabel(broken(concept), rotation=0, ha="right", va="center")
    labels = labels_of_measures(emergence)
    for top, bottom, measure in zip(axes[0], axes[-1], measures, strict=True):
        least = _least(measure, emergence.least.sel(measure=measure), nat_of(slope_unit(emergence)))
        lines = labels.get(measure, measure), f"least effect: {least}"
        top.set_title("\n".join(fill(line, 40) for line in lines), size=7, pad=10)
        bottom.set_xlabel("training step")
    level = 100 * level_of(emergence)
    said = (
        f"null: of shuffled labels (of expression: of signs dealt at random), {100 - level:g} to {level:g} % of draws"
    )
    said = "; ".join(filter(None, [said, beyond(emergence)]))
    return dressed(figure, emergence, LAYERS.format(of_layers(emergence.layer_by_step)), said=said)


def _answer(axis: Axes, curve: xr.Dataset, colour: str) -> None:
    """Both answers to when, each with its interval: at the bottom of the panel, and on the curve."""
    place = axis.xaxis.get_transform().transform
    for question, (name, mark) in ANSWERS.items():
        answer = curve.sel(question=question)
        if np.isfinite(step := float(answer.onset)):
            y, across = 0.07, axis.get_xaxis_transform()
            if question == "half_way":
                y, across = np.interp(place([step]), place(curve.step.values), curve.value)[0], axis.transData
            ends = np.clip([float(answer.onset_lower), float(answer.onset_upper)], *axis.get_xlim())
            axis.plot(ends, [y, y], color=INK, lw=1.2, transform=across, zorder=3, label=f"{INTERVAL} of an onset")
            dress = {"color": colour, "mec": INK, "mew": 0.6, "ms": 4.5, "transform": across, "zorder": 4}
            axis.plot(step, y, ls="", marker=mark, label=name, **dress)
    said = words(curve.status.item(), float(curve.onset.sel(question="first_detectable")))
    axis.text(0.02, 1.01, said, transform=axis.transAxes, size=SMALL, color=INK, va="bottom", label=WORDS)


def _least(measure: str, least: xr.DataArray, nat: str) -> str:
    """The least effect that counts, in words."""
    low, high = float(least.min()), float(least.max())
    if low < high:  # where alpha counts another length than the state's own
        return f"{low:.1g} to {high:.1g} {nat}"
    odds = f" (odds × {np.exp(high):.1f})" if nat == "nat" else ""  # of texts they are those of a token
    return f"{high:.2g} {nat}{odds}" if measure == "steerability" else f"{high:g}"


def onset_summary(emergence: xr.Dataset) -> Figure:
    """When each concept became separable, expressed and steerable, and when steerability was half-way up.

    An arrow at the left: from the start. At the right hollow: not reached; a cross, or words: what else there is.
    """
    steps, look = emergence.step.values, looks(emergence.concept)
    asked = {name: of for name, of in ONSETS.items() if of[0] in emergence.measure}  # live, nothing is of expression
    figure, axis = plt.subplots(figsize=(COLUMN, 0.4 * len(look) + 0.6))
    for name, (_, _, mark) in asked.items():
        axis.plot([], [], ls="", marker=mark, ms=3.5, color=INK, label=name)
    axis.set_ylim(len(look) - 0.5, -0.5)
    edges = step_axis(axis, steps, ROOM)
    for y, concept in enumerate(look):
        for k, (name, (measure, question, mark)) in enumerate(asked.items()):
            onset = emergence.sel(concept=concept, measure=measure, question=question)
            place, first = y + 0.22 * (k - (len(asked) - 1) / 2), question == "first_detectable"
            if first or np.isfinite(onset.onset):
                mark_onset(axis, onset, place, edges, color=look[concept]["color"], marker=mark, ms=3.5, label=name)
            if first and (status := onset.status.item()) not in MARKED:
                beside = {"xytext": (5, 0), "textcoords": "offset points", "va": "center", "size": SMALL}
                told = words(status, float(onset.onset))
                axis.annotate(told, (edges[1], place), **beside, annotation_clip=False, label=WORDS)
        guide(axis, y + 0.5)
    axis.set(yticks=range(len(look)), yticklabels=map(broken, look), xlabel="onset (training step)")
    last_step(axis, steps)
    said = "each when first detectable; half-way: half of what a push does in the end is done"
    said = "; ".join(filter(None, [said, beyond(emergence)]))
    return dressed(figure, emergence, LAYERS.format(of_layers(emergence.layer_by_step)), said=said)


def order(emergence: xr.Dataset) -> Figure:
    """Which concept can be steered before which: P(row before column) by either answer, over joint resamples.

    The more frequent a planted concept the further up, then by onset. "=": most resamples hold neither before the
    other, as both lie between the same two checkpoints, or neither is reached; empty: cannot be told.
    τ: of planted frequency and earliness.
    """
    onset = emergence.onset.sel(measure="steerability", question="first_detectable")
    names = emergence.concept.values[np.lexsort([onset, -emergence.planted_frequency.fillna(-1)])]
    figure, axes = tables(emergence.concept, 0.26, columns=len(ANSWERS))
    probability = "P(row before column)"
    for axis, (question, (title, _)) in zip(axes[0], ANSWERS.items(), strict=True):
        of = emergence.sel(question=question, concept=names, concept_b=names).transpose("concept", "concept_b", ...)
        tied = of.tied.values > 0.5
        mesh = cells(axis, of.before.where(~tied, 0.5).to_pandas(), 0.5, probability, centre=0.5)
        for (row, column), p in np.ndenumerate(of.before.values):
            if tied[row, column]:
                write(axis, row, column, "=", '"=": neither before the other in most resamples')
            elif not np.isnan(p):
                write(axis, row, column, f"{p:.2f}", f"numbers: {probability}", color=readable(mesh, p))
        axis.set_title("\n".join(filter(None, [title, tau(emergence, question).replace("-", "−")])))
    axes[0, 1].set_yticklabels([])
    figure.colorbar(mesh, ax=axes, label=probability, shrink=0.8)
    said = ALONE if len(names) < 2 else "empty: cannot be told; not reached counts as last"
    if emergence.tau.notnull().any():
        said += "; τ: Kendall's, of planted frequency and earliness, with its interval"
    return dressed(figure, emergence, LAYERS.format(of_layers(emergence.layer_by_step)), said=said)


def with_and_without(emergence: xr.Dataset) -> Figure:
    """What a push gains: on how many more of the test prompts a target beats every foil, pushed than unsteered.

    (Of items: on how many more the answer is right.) With its interval over test prompts, at the alpha that validation
    prompts choose at each checkpoint within the KL budget; grey: by a random direction at that alpha.
    """
    steps = emergence.step.values
    figure, axes = panels(emergence.concept, below="training step", left="gain (share of prompts)")
    for concept, look in looks(emergence.concept).items():
        axis, of = axes[concept], emergence.sel(concept=concept)
        zero(axis)
        kinds = ("gain", "along the direction", look["color"]), ("gain_null", "along a random one", NULL)
        for name, kind, colour in kinds:
            dress = {"color": colour, "zorder": 3 if name == "gain" else 2}
            axis.plot(steps, of[name], **dress, marker="o", ms=2, label=f"pushed {kind}, less unsteered")
            if f"{name}_lower" in of:
                ends = of[f"{name}_lower"], of[f"{name}_upper"]
                axis.vlines(steps, *ends, **dress, lw=2, alpha=0.4, label=f"{INTERVAL}, {kind}")
    step_axis(axis, steps)
    low, high = axis.get_ylim()
    axis.set_ylim(min(low, -0.1), max(high, 0.1))  # rounding alone is not drawn large
    said = "gain: on how many more of the test prompts one of the concept's words comes first, pushed than unsteered"
    if emergence.gain.isnull().any():
        said += "; no point: no strength is within the KL budget"
    return dressed(figure, emergence, LAYERS.format(of_layers(emergence.layer_by_step)), said=said)
