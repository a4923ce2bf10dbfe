"""Figures of studies side by side, from the datasets of `steerlib.stages.comparison`."""

from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from steerlib.figures.axes import (
    ALONE,
    band,
    beyond,
    cells,
    guide,
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
from steerlib.figures.look import INK, INTERVAL, PAGE, SMALL, broken, dressed, labels_of_measures, looks
from steerlib.stages.comparison import replicates

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")  # a variant each
DASHES = ("-", (0, (4, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
ORDERS = {"before_mean": "mean over seeds", "before_new": "a new seed"}
ROOM = 0.14  # beside the steps, for what is none
LAYERS = "layers that validation prompts choose"


def variants(compared: xr.Dataset) -> dict[str, dict]:
    """How each variant is drawn: its marker, its dash, and what it is called."""
    tuned = compared.finetuned.values.astype(bool)
    differ = tuned.any() and not tuned.all()
    kinds = np.where(tuned, " (fine-tuned)", " (not fine-tuned)") if differ else [""] * len(tuned)
    looks_of = zip(compared.variant.values, kinds, cycle(MARKERS), cycle(DASHES), strict=False)
    return {str(name): {"marker": mark, "ls": dash, "label": f"{name}{kind}"} for name, kind, mark, dash in looks_of}


def onsets(compared: xr.Dataset) -> Figure:
    """Onset of every concept in every variant with its interval: a panel a measure, a row an answer to "when?".

    At the left: from the start. At the right hollow: not reached, a cross: no onset told; beside it, in how many it
    was reached. Of replicates also the mean, with a thick line for its interval and a thin one for a new seed's onset;
    none where a variant has no onset.
    """
    measures, questions, steps = compared.measure.values, compared.question.values, compared.step.values
    look, mean, drawn = looks(compared.concept), replicates(compared), variants(compared)
    places = np.linspace(-0.36, 0.36, len(drawn) + mean)
    height = len(questions) * (len(look) * max(0.24, 0.075 * (len(places) + 1)) + 0.5)
    shape = len(questions), len(measures)
    figure, axes = plt.subplots(*shape, figsize=(PAGE, height), sharex=True, sharey=True, squeeze=False)
    edges = step_axis(axes[0, 0], steps, ROOM)
    for of in drawn.values():
        axes[0, 0].plot([], [], color=INK, ls="", ms=3.2, marker=of["marker"], label=of["label"])
    for axis, (question, measure) in zip(axes.flat, np.ndindex(shape), strict=True):
        last_step(axis, steps)
        for y, concept in enumerate(look):
            onset = compared.isel(question=question, measure=measure).sel(concept=concept)
            guide(axis, y + 0.5)
            for (name, of), place in zip(drawn.items(), y + places, strict=False):
                dress = {"marker": of["marker"], "label": of["label"], "color": look[concept]["color"], "ms": 3.2}
                mark_onset(axis, onset.sel(variant=name), place, edges, 0.8, **dress)
            if mean and np.isfinite(onset.onset_mean):
                mean_of = {"lw": 2.2, "label": f"{INTERVAL} of the mean"}
                kinds = {"new": {"lw": 0.8, "ls": "--", "label": "where a new seed's lies"}, "mean": mean_of}
                for kind, dress in kinds.items():
                    ends = np.clip([float(onset[f"onset_{kind}_{end}"]) for end in ("lower", "upper")], *edges)
                    axis.plot(ends, [y + places[-1]] * 2, color=INK, zorder=1, **dress)
                dress = {"color": INK, "ls": "", "marker": "|", "ms": 6, "mew": 1.2, "label": "mean over seeds"}
                axis.plot(float(onset.onset_mean), y + places[-1], **dress)
            if onset.reached < onset.present:
                told = f'"1 of {len(drawn)}": in so many there is an onset'
                share = f"{int(onset.reached)} of {int(onset.present)}"
                at = {"xycoords": axis.get_yaxis_transform(), "va": "center", "color": "0.35"}
                axis.annotate(share, (1, y), **at, size=SMALL, label=told)
    for column, measure in zip(axes.T, measures, strict=True):
        column[0].set_title(measure)
        column[-1].set_xlabel("onset (training step)")
    for row, question in zip(axes, questions, strict=True):
        row[0].set_ylabel(question.replace("_", " " if len(look) > 2 else "\n"))
    axes[0, 0].set_yticks(range(len(look)), map(broken, look))
    axes[0, 0].set_ylim(len(look) - 0.5, -0.5)
    return dressed(figure, compared, LAYERS, said=beyond(compared))


def order(compared: xr.Dataset) -> Figure:
    """Which concept can be steered first: P(row before column) for the mean over seeds and for a new seed.

    A row an answer to "when?". Concepts by that P; where one seed has no onset, grey: in how many the row came first.
    """
    questions, seeds = compared.question.values, compared.sizes["variant"]
    figure, axes = tables(compared.concept, 0.3, len(questions), len(ORDERS))
    probability = "P(row before column)"
    for row, question in zip(axes, questions, strict=True):
        asked = compared.sel(question=question).transpose("concept", "concept_b", ...)
        # By how many others each precedes: also those that have no onset in some seed have a place then.
        count = asked.before_count / seeds
        earlier = asked.before_mean.fillna(count).sum("concept_b").values
        first = np.argsort(-earlier, kind="stable")
        asked = asked.isel(concept=first, concept_b=first)
        for axis, (name, title) in zip(row, ORDERS.items(), strict=True):
            mesh = cells(axis, asked[name].to_pandas(), 0.5, probability, centre=0.5)
            for (y, x), share in np.ndenumerate(asked[name].values):
                if x == y:
                    continue
                if np.isfinite(share):
                    write(axis, y, x, f"{share:.2f}", f"numbers: {probability}", color=readable(mesh, share))
                else:
                    told = f'"1/{seeds}": in so many seeds the row came first, where one has no onset'
                    write(axis, y, x, f"{int(asked.before_count[y, x])}/{seeds}", told, color="0.4")
            if question == questions[0]:
                axis.set_title(title)
        row[0].set_ylabel(question.replace("_", " "))
        row[1].set_yticklabels([])
    figure.colorbar(mesh, ax=axes, shrink=0.5, label=probability, ticks=[0, 0.5, 1])
    return dressed(figure, compared, LAYERS, said=ALONE if compared.sizes["concept"] < 2 else "")


def trajectories(compared: xr.Dataset, measure: str = "steerability") -> Figure:
    """A measure over training, a panel a concept: a line a variant with its interval, and each variant's own null.

    Filled where a variant clears what it itself has to; nulls lie one over another, so the darker, the more share it.
    """
    label = labels_of_measures(compared).get(measure, measure)
    figure, axes = panels(compared.concept, below="training step", left=label)
    drawn = variants(compared)
    for concept, look in looks(compared.concept).items():
        axis, of_concept = axes[concept], compared.sel(measure=measure, concept=concept)
        for name, of in drawn.items():
            shown = ["value", "value_lower", "value_upper", "null_lower", "null_upper", "bar"]
            curve = of_concept[shown].sel(variant=name).dropna("step", subset=["value"])
            steps, cleared = curve.step.values, (curve.value > curve.bar).values
            dress = {"color": look["color"], "marker": of["marker"], "ms": 2.2, "mew": 0.6}
            axis.plot(steps, curve.value, **dress, mfc="w", lw=0.9, ls=of["ls"], label=of["label"])
            axis.plot(steps[cleared], curve.value[cleared], **dress, ls="", zorder=3, label="filled: above its own bar")
            band(axis, steps, curve.value_lower, curve.value_upper, INTERVAL, color=look["color"], alpha=0.2)
            null_band(axis, steps, curve.null_lower, curve.null_upper, "null of each", alpha=0.5 / len(drawn))
    step_axis(axis, compared.step.values)
    said = "bar: the upper end of a variant's own null, and the least effect; hollow: not above it"
    return dressed(figure, compared, LAYERS, said=said)


def difference(compared: xr.Dataset, name: str, measure: str = "steerability") -> Figure:
    """A variant less the first over training, with its interval, a panel a concept.

    Grey: what training again makes, where that is known; filled marks lie beyond, and their interval excludes zero.
    """
    drawn = variants(compared)
    label = f"difference in {labels_of_measures(compared).get(measure, measure)}"
    figure, axes = panels(compared.concept, below="training step", left=label)
    steps, of = compared.step.values, compared.sel(measure=measure)
    chance = of.difference_null.dropna("step")
    columns = ["difference", "difference_lower", "difference_upper", "found"]
    for concept, look in looks(compared.concept).items():
        axis, colour = axes[concept], look["color"]
        curve = of.sel(variant=name, concept=concept)[columns].dropna("step")
        zero(axis)
        band(axis, curve.step, curve.difference_lower, curve.difference_upper, INTERVAL, color=colour)
        axis.plot(curve.step, curve.difference, color=colour, label="difference")
        dress = {"color": colour, "marker": "o", "ls": "", "mew": 0.8, "zorder": 3}
        axis.plot(curve.step, curve.difference, **dress, mfc="w", label="not found")
        axis.plot(curve.step[curve.found], curve.difference[curve.found], **dress, label="found")
    low, high = axis.get_ylim()
    for axis in axes.values():  # without end where too few differences tell of chance
        size = np.minimum(chance, max(-low, high) * 1.1)
        if len(chance):
            null_band(axis, chance.step, -size, size, "null: training again")
    axis.set_ylim(low, high)
    step_axis(axis, steps)
    first = compared.variant.values[0]
    said = f"difference: {drawn[name]['label']} less {drawn[first]['label']}; "
    said += "found: its interval excludes 0, and it exceeds what training again makes"
    return dressed(figure, compared, LAYERS, said=said + ("" if len(chance) else " (not known here, so none is found)"))
