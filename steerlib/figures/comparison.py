"""Figures of studies side by side, from the datasets of `steerlib.stages.comparison`."""

from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from steerlib.figures.axes import (
    MEASURE_LABELS,
    NULL,
    PAGE,
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
from steerlib.stages.comparison import replicates

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")  # a variant each
DASHES = ("-", (0, (4, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
MEAN = "0.15"  # the colour of what is said over seeds
ORDERS = {"before_mean": "mean over seeds", "before_new": "a new seed"}


def onsets(compared: xr.Dataset) -> Figure:
    """Onset of every concept in every variant with its interval: a panel a measure, a row an answer to "when?".

    At the left: from the start. At the right hollow: not reached, a cross: no onset told; beside it, in how many it
    was reached. Of replicates also the mean, with a thick line for its interval and a thin one for a new seed's onset;
    none where a variant has no onset.
    """
    measures, questions, steps = compared.measure.values, compared.question.values, compared.step.values
    colour, mean = colours(compared.concept), replicates(compared)
    marker = dict(zip(compared.variant.values, cycle(MARKERS), strict=False))
    places = np.linspace(-0.36, 0.36, len(marker) + mean)
    height = len(questions) * (len(colour) * max(0.24, 0.075 * (len(places) + 1)) + 0.5)
    shape = len(questions), len(measures)
    figure, axes = plt.subplots(*shape, figsize=(PAGE, height + 0.6), sharex=True, sharey=True, squeeze=False)
    edges = onset_axis(axes[0, 0], steps)
    for axis, (question, measure) in zip(axes.flat, np.ndindex(shape), strict=True):
        axis.axvline(steps.max(), color=NULL, lw=0.8, ls=":")
        for y, concept in enumerate(colour):
            onset = compared.isel(question=question, measure=measure).sel(concept=concept)
            axis.axhline(y + 0.5, color="0.9", lw=0.5, zorder=0)
            for name, place in zip(marker, y + places, strict=False):
                look = {"marker": marker[name], "color": colour[concept], "ms": 3.2}
                mark_onset(axis, onset.sel(variant=name), place, edges, 0.8, **look)
            if mean and np.isfinite(onset.onset_mean):
                for kind, width in (("new", 0.7), ("mean", 2.2)):
                    ends = np.clip([float(onset[f"onset_{kind}_{end}"]) for end in ("lower", "upper")], *edges)
                    axis.plot(ends, [y + places[-1]] * 2, color=MEAN, lw=width, zorder=1)
                axis.plot(float(onset.onset_mean), y + places[-1], "|", color=MEAN, ms=6, mew=1.2)
            if onset.reached < onset.present:
                share = f"{int(onset.reached)} of {int(onset.present)}"
                axis.annotate(share, (1, y), xycoords=axis.get_yaxis_transform(), size=5, va="center", color="0.35")
    for column, measure in zip(axes.T, measures, strict=True):
        column[0].set_title(measure)
        column[-1].set_xlabel("onset (training step)")
    for row, question in zip(axes, questions, strict=True):
        row[0].set_ylabel(question.replace("_", " "))
    axes[0, 0].set_yticks(range(len(colour)), list(colour))
    axes[0, 0].set_ylim(len(colour) - 0.5, -0.5)
    handles = [handle(name, ls="", marker=marker[name], color="0.2", ms=4) for name in marker]
    if mean:
        handles += [handle("mean", color=MEAN, lw=2.2, marker="|", ms=6), handle("a new seed", color=MEAN, lw=0.7)]
    handles += onset_handles()
    return dressed(figure, handles=handles, ncol=min(len(handles), 7), handletextpad=0.3, handlelength=1.2)


def order(compared: xr.Dataset) -> Figure:
    """Which concept can be steered first: P(row before column) for the mean over seeds and for a new seed.

    A row an answer to "when?". Concepts by that P; where one seed has no onset, grey: in how many the row came first.
    """
    questions, seeds = compared.question.values, compared.sizes["variant"]
    side = min(PAGE / 2, 0.36 * compared.sizes["concept"] + 0.8)
    size = 2 * side, len(questions) * side
    figure, axes = plt.subplots(len(questions), len(ORDERS), figsize=size, squeeze=False, sharey="row")
    for row, question in zip(axes, questions, strict=True):
        asked = compared.sel(question=question).transpose("concept", "concept_b", ...)
        # By how many others each precedes: also those that have no onset in some seed have a place then.
        count = asked.before_count / seeds
        earlier = asked.before_mean.fillna(count).sum("concept_b").values
        first = np.argsort(-earlier, kind="stable")
        asked = asked.isel(concept=first, concept_b=first)
        for axis, (name, title) in zip(row, ORDERS.items(), strict=True):
            mesh = cells(axis, asked[name].to_pandas(), 0.5, centre=0.5)
            for (y, x), share in np.ndenumerate(asked[name].values):
                if x == y:
                    continue
                told = f"{share:.2f}" if np.isfinite(share) else f"{int(asked.before_count[y, x])}/{seeds}"
                shade = "0.5" if np.isnan(share) else "w" if abs(share - 0.5) > 0.35 else "0.15"
                axis.text(x + 0.5, y + 0.5, told, ha="center", va="center", size=5, color=shade)
            axis.tick_params(axis="x", rotation=90)
            if question == questions[0]:
                axis.set_title(title)
        row[0].invert_yaxis()
        row[0].set_ylabel(question.replace("_", " "))
    figure.colorbar(mesh, ax=axes, shrink=0.5, label="P(row before column)", ticks=[0, 0.5, 1])
    return figure


def trajectories(compared: xr.Dataset, measure: str = "steerability") -> Figure:
    """A measure over training, a panel a concept: a line a variant, the band of their range, what is to be cleared.

    That is the highest of the variants' bars. The band spans the steps that all variants share.
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
        bar = curves.bar.max("variant").dropna("step")
        axis.plot(bar.step, bar, color="0.4", lw=0.7, ls=":", zorder=1)
    step_axis(axis, compared.step.values)
    handles = [handle(name, color="0.2", lw=1, ls=dash) for name, dash in dashes.items()]
    handles.append(handle("to be cleared", color="0.4", lw=0.7, ls=":"))
    return dressed(figure, "training step", handles=handles, ncol=min(len(handles), 6))


def difference(compared: xr.Dataset, name: str, measure: str = "steerability") -> Figure:
    """A variant less the first over training, with its interval, a panel a concept.

    Grey: what training again makes, where that is known; filled marks lie beyond, and their interval excludes zero.
    """
    label = f"{MEASURE_LABELS.get(measure, measure)}:\n{name} − {compared.variant.values[0]}"
    figure, axes = panels(compared.concept, sharex=True, sharey=True, label=label)
    steps, of = compared.step.values, compared.sel(measure=measure)
    chance = of.difference_null.dropna("step")
    columns = ["difference", "difference_lower", "difference_upper", "found"]
    for concept, colour in colours(compared.concept).items():
        axis = axes[concept]
        curve = of.sel(variant=name, concept=concept)[columns].dropna("step")
        axis.axhline(0, color="0.3", lw=0.7)
        axis.fill_between(curve.step, curve.difference_lower, curve.difference_upper, color=colour, alpha=0.25, lw=0)
        axis.plot(curve.step, curve.difference, color=colour)
        look = {"color": colour, "marker": "o", "ls": "", "ms": 3, "mew": 0.8, "zorder": 3}
        axis.plot(curve.step, curve.difference, **look, mfc="white")
        axis.plot(curve.step[curve.found], curve.difference[curve.found], **look)
    low, high = axis.get_ylim()
    for axis in axes.values():  # without end where too few differences tell of chance
        size = np.minimum(chance, max(-low, high) * 1.1)
        axis.fill_between(chance.step, -size, size, color=NULL, alpha=0.35, lw=0, zorder=0)
    axis.set_ylim(low, high)
    step_axis(axis, steps)
    axis.set_xlim(right=steps.max() * 1.06)  # room for the last mark
    marks = {"color": "0.2", "marker": "o", "ms": 3, "mew": 0.8, "ls": ""}
    handles = [handle("found", **marks), handle("not found", **marks, mfc="white")]
    if len(chance):
        handles.append(handle("training again", color=NULL, alpha=0.35, lw=5))
    return dressed(figure, "training step", handles=handles)
