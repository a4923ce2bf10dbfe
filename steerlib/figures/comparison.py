"""Figures of studies side by side, from the datasets of `steerlib.stages.comparison`."""

from collections.abc import Mapping
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from steerlib.figures.axes import (
    ALONE,
    LOW,
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
    vertical,
    write,
    zero,
)
from steerlib.figures.look import INK, INTERVAL, PAGE, SMALL, broken, dressed, labels_of_measures, looks
from steerlib.stages.comparison import across, replicates
from steerlib.stages.groups import ENDS, members

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")  # a variant each
DASHES = ("-", (0, (4, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
ORDERS = {"before_mean": "mean over seeds", "before_new": "a new seed"}
ROOM = 0.14  # beside the steps, for what is none
TOGETHER = "together"
MOST = 8.0  # times as late, or as early, that are shown
TIMES = (0.125, 0.25, 0.5, 0.7, 0.8, 1, 1.25, 1.5, 2, 3, 4, 8)
CROWDED = 7  # ticks: of so many only each that is twice the one before
LAYERS = "layers that validation prompts choose"


def of_steps(compared: xr.Dataset) -> str:
    """What the axis of steps counts: of as many tokens each, where it is so in every variant."""
    trained = compared.tokens_seen[compared.step > 0]
    each = np.unique(trained / trained.step)
    return f"training step, of {each[0]:,.0f} tokens" if len(each) == 1 and each[0] > 0 else "training step"


def several(compared: xr.Dataset) -> bool:
    """Whether its variants are several groups, some of them of replicates."""
    return replicates(compared) and compared.sizes["group"] > 1


def variants(compared: xr.Dataset) -> dict[str, dict]:
    """How each variant is drawn: its marker, its dash, and what it is called. Of several groups, all of one alike."""
    tuned = compared.finetuned.values.astype(bool)
    differ = tuned.any() and not tuned.all()
    kinds = np.where(tuned, " (fine-tuned)", " (not fine-tuned)") if differ else [""] * len(tuned)
    called = (compared.of_group if several(compared) else compared.variant).values
    marks = dict(zip(dict.fromkeys(called), zip(cycle(MARKERS), cycle(DASHES), strict=False), strict=False))
    whole = zip(compared.variant.values, called, kinds, strict=True)
    return {
        str(variant): {"marker": marks[name][0], "ls": marks[name][1], "label": f"{name}{kind}"}
        for variant, name, kind in whole
    }


def _rows(compared: xr.Dataset) -> list[tuple[list[str], str]]:
    """Of a concept's onsets: which variants stand there, or of which group the mean."""
    of_groups = {name: of.variant.values.tolist() for name, of in members(compared).items()}
    if several(compared):
        return [row for name, names in of_groups.items() for row in ((names, ""), ([], name))]
    means = [([], name) for name in of_groups] if replicates(compared) else []
    return [([name], "") for name in compared.variant.values] + means


def onsets(compared: xr.Dataset) -> Figure:
    """Onset of every concept in every variant with its interval: a panel a measure, a row an answer to "when?".

    At the left: from the start. At the right hollow: not reached, a cross: no onset told; beside it, in how many it
    was reached. Of replicates also the mean, with a thick line for its interval and a thin one for a new seed's onset;
    none where a variant has no onset. Of several groups, the variants of each stand in one row, below it their mean.
    """
    measures, questions, steps = compared.measure.values, compared.question.values, compared.step.values
    look, drawn, rows, many = looks(compared.concept), variants(compared), _rows(compared), several(compared)
    places = np.linspace(-0.36, 0.36, len(rows))
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
            for (names, group), place in zip(rows, y + places, strict=True):
                for name in names:
                    dress = {"marker": drawn[name]["marker"], "label": drawn[name]["label"], "ms": 3.2}
                    mark_onset(axis, onset.sel(variant=name), place, edges, 0.8, color=look[concept]["color"], **dress)
                if group:
                    _mean_onset(axis, onset.sel(group=group), place, edges)
                elif many:
                    _share(axis, across(onset.sel(variant=names)), place)
            if not many:
                _share(axis, onset, y)
    for column, measure in zip(axes.T, measures, strict=True):
        column[0].set_title(measure)
        column[-1].set_xlabel(f"onset ({of_steps(compared)})")
    for row, question in zip(axes, questions, strict=True):
        row[0].set_ylabel(question.replace("_", " " if len(look) > 2 else "\n"))
    axes[0, 0].set_yticks(range(len(look)), map(broken, look))
    axes[0, 0].set_ylim(len(look) - 0.5, -0.5)
    return dressed(figure, compared, LAYERS, said=beyond(compared))


def _mean_onset(axis: Axes, onset: xr.Dataset, y: float, edges: tuple[float, float]) -> None:
    """Of a group, over where it and a new seed's may lie; nothing where a seed has no onset."""
    if not np.isfinite(onset.onset_mean):
        return
    mean_of = {"lw": 2.2, "label": f"{INTERVAL} of the mean"}
    kinds = {"new": {"lw": 0.8, "ls": "--", "label": "where a new seed's lies"}, "mean": mean_of}
    for kind, dress in kinds.items():
        ends = np.clip([float(onset[f"onset_{kind}_{end}"]) for end in ("lower", "upper")], *edges)
        axis.plot(ends, [y, y], color=INK, zorder=1, **dress)
    dress = {"color": INK, "ls": "", "marker": "|", "ms": 6, "mew": 1.2, "label": "mean over seeds"}
    axis.plot(float(onset.onset_mean), y, **dress)


def _share(axis: Axes, counts: Mapping[str, xr.DataArray], y: float) -> None:
    """In how many variants there is an onset, where it is not in all."""
    reached, present = int(counts["reached"]), int(counts["present"])
    if reached < present:
        at = {"xycoords": axis.get_yaxis_transform(), "va": "center", "color": "0.35"}
        told = f'"1 of {present}": in so many there is an onset'
        axis.annotate(f"{reached} of {present}", (1, y), **at, size=SMALL, label=told)


def order(compared: xr.Dataset) -> Figure:
    """Which concept can be steered first: P(row before column) for the mean over seeds and for a new seed.

    A row an answer to "when?". Concepts by that P; where one seed has no onset, grey: in how many the row came first.
    Of several groups a column each, of the mean over its seeds; concepts stand as in the first.
    """
    questions, many = compared.question.values, several(compared)
    seeds = {name: of.sizes["variant"] for name, of in members(compared).items()}
    columns = [(name, kind, name if many else title) for name in seeds for kind, title in ORDERS.items()]
    columns = columns[:: len(ORDERS)] if many else columns
    figure, axes = tables(compared.concept, 0.3, len(questions), len(columns))
    probability = "P(row before column)" + ", mean over seeds" * many
    for row, question in zip(axes, questions, strict=True):
        asked = compared.sel(question=question).transpose("concept", "concept_b", ...)
        # By how many others each precedes: also those that have no onset in some seed have a place then.
        leading = asked.isel(group=0)
        earlier = leading.before_mean.fillna(leading.before_count / seeds[columns[0][0]]).sum("concept_b").values
        first = np.argsort(-earlier, kind="stable")
        asked = asked.isel(concept=first, concept_b=first)
        for axis, (name, kind, title) in zip(row, columns, strict=True):
            of = asked.sel(group=name)
            mesh = cells(axis, of[kind].to_pandas(), 0.5, probability, centre=0.5)
            for (y, x), share in np.ndenumerate(of[kind].values):
                if x == y:
                    continue
                if np.isfinite(share):
                    write(axis, y, x, f"{share:.2f}", f"numbers: {probability}", color=readable(mesh, share))
                else:
                    told = f'"1/{seeds[name]}": in so many seeds the row came first, where one has no onset'
                    write(axis, y, x, f"{int(of.before_count[y, x])}/{seeds[name]}", told, color="0.4")
            if question == questions[0]:
                axis.set_title(title)
        row[0].set_ylabel(question.replace("_", " "))
        for axis in row[1:]:
            axis.set_yticklabels([])
    figure.colorbar(mesh, ax=axes, shrink=0.5, label=probability, ticks=[0, 0.5, 1])
    return dressed(figure, compared, LAYERS, said=ALONE if compared.sizes["concept"] < 2 else "")


def later(compared: xr.Dataset, measure: str = "steerability") -> Figure:
    """How many times as late each group has its onsets as the first, with the interval over seeds: a panel an answer.

    Below, all concepts together of which both have an onset with each seed. Nothing where a seed has none.
    """
    names, look, questions = compared.group.values[1:], looks(compared.concept), compared.question.values
    of, first = compared.sel(measure=measure), compared.group.values[0]
    dated = of.later.sel(group=names).notnull().any(["group", "question"])
    shown = [concept for concept in look if dated.sel(concept=concept)]
    places = 0.24 * np.linspace(-1, 1, len(names)) if len(names) > 1 else np.zeros(1)
    size = PAGE, max(LOW, (len(shown) + 1) * max(0.2, 0.11 * len(names)) + 0.8)
    figure, axes = plt.subplots(1, len(questions), figsize=size, sharex=True, sharey=True, squeeze=False)
    together = of[[f"later_all{end}" for end in ENDS]].rename({f"later_all{end}": f"later{end}" for end in ENDS})
    for axis, question in zip(axes[0], questions, strict=True):
        vertical(axis, 1, color="0.4", lw=0.6, zorder=1, label=f"as late as in {first}")
        for y, concept in enumerate([*shown, TOGETHER]):
            if y:
                guide(axis, y - 0.5)
            for name, marker, place in zip(names, MARKERS[1:], y + places, strict=False):
                one = (of.sel(concept=concept) if concept in look else together).sel(group=name, question=question)
                dress = {"color": look[concept]["color"] if concept in look else INK}
                axis.plot([one.later_lower, one.later_upper], [place] * 2, lw=1.2, label=INTERVAL, **dress)
                axis.plot(one.later, place, ls="", marker=marker, ms=4, label=name, **dress)
        axis.set_title(question.replace("_", " "))
        axis.set_xlabel(f"onset, times that of {first}")
    axis.set_xscale("log")
    low, high = np.clip(axis.get_xlim(), 1 / MOST, MOST)
    axis.set_xlim(low, high)
    ticks = [times for times in TIMES if low <= times <= high]
    axis.set_xticks(ticks if len(ticks) < CROWDED else [times for times in ticks if np.log2(times).is_integer()])
    axis.minorticks_off()
    axis.xaxis.set_major_formatter(lambda times, _: f"{times:g}")
    axes[0, 0].set_yticks(range(len(shown) + 1), [*map(broken, shown), TOGETHER])
    axes[0, 0].set_ylim(len(shown) + 0.5, -0.5)
    return dressed(
        figure, compared, LAYERS, said=f"{measure}; intervals over seeds that both have, cut at {MOST:g} times"
    )


def trajectories(compared: xr.Dataset, measure: str = "steerability") -> Figure:
    """A measure over training, a panel a concept: a line a variant with its interval, and each variant's own null.

    Filled where a variant clears what it itself has to; nulls lie one over another, so the darker, the more share it.
    Of several groups a line each, their mean over seeds with its interval: filled where it clears the bars of all.
    """
    label = labels_of_measures(compared).get(measure, measure)
    figure, axes = panels(compared.concept, below=of_steps(compared), left=label)
    drawn, many = variants(compared), several(compared)
    for concept, look in looks(compared.concept).items():
        axis, of_concept = axes[concept], compared.sel(measure=measure, concept=concept)
        for of_line in members(of_concept).values() if many else (of_concept.sel(variant=[name]) for name in drawn):
            nulls = of_line[["null_lower", "null_upper", "bar"]]
            curve = nulls.max("variant").assign(null_lower=nulls.null_lower.min("variant"))
            mean = of_concept.sel(group=of_line.of_group.values[0]) if many else None
            for end in ENDS:
                curve[f"value{end}"] = mean[f"value_mean{end}"] if many else of_line[f"value{end}"].isel(variant=0)
            curve, of = curve.dropna("step", subset=["value"]), drawn[of_line.variant.values[0]]
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
    figure, axes = panels(compared.concept, below=of_steps(compared), left=label)
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
