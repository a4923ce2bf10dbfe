"""What figures share: sizes and colours, panels and their dress, axes of steps, marks of onsets, tables as cells."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

COLUMN, PAGE = 3.4, 7.0  # inches: one column, full width
WIDTHS = (COLUMN, 5.2, PAGE)  # of one, two and three panels
LOW = 1.9  # inches: the least height of a figure with a colour bar, whose label has to fit
NULL = "0.6"  # grey is the null's, and nobody else's
RIGHT = {"loc": "outside right center", "ncol": 1, "handlelength": 1}  # a legend
MEASURE_LABELS = {
    "separability": "separability (AUROC)",
    "expression": "expression (rate gained)",
    "steerability": "steerability (nat)",
}


def colours(concepts: xr.DataArray) -> dict[str, tuple]:
    """One colour a concept, by its place in the study."""
    safe = [c for i, c in enumerate(sns.color_palette("colorblind", 10)) if i != 7]  # 7 is grey
    palette = safe if len(concepts) <= len(safe) else sns.husl_palette(len(concepts))
    return dict(zip(concepts.values, palette, strict=False))


def panels(
    titles: xr.DataArray, height: float = 1.5, margin: float = 0.3, label: str = "", **shared: bool
) -> tuple[Figure, dict]:
    """One titled panel (Axes) a concept, judge, …, at most three beside one another; the first of each row labelled."""
    columns = min(3, len(titles))
    rows = -(-len(titles) // columns)
    size = WIDTHS[columns - 1], max(LOW, height * rows + margin)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, **shared)
    for spare in axes.flat[len(titles) :]:
        spare.remove()
    plt.setp(axes[:, 0], ylabel=label)
    by_title = dict(zip(titles.values, axes.flat, strict=False))
    for title, axis in by_title.items():
        axis.set_title(title)
    return figure, by_title


def dressed(figure: Figure, below: str = "", left: str = "", handles: list[Line2D] | None = None, **legend) -> Figure:
    """The figure with labels below and at the left of all its panels, two spines, and above them a legend.

    In it stand ``handles``, or what the first panel has labels for, if any.
    """
    if below:
        figure.supxlabel(below, fontsize=8)
    if left:
        figure.supylabel(left, fontsize=8)
    if handles := handles or figure.axes[0].get_legend_handles_labels()[0]:
        room = 9 if figure.get_figwidth() == PAGE else 1
        above = {"loc": "outside upper center", "ncol": min(room, len(handles))}
        figure.legend(handles=handles, **above | legend)
    sns.despine(figure)
    return figure


def handle(label: str, **look) -> Line2D:
    """An entry of a legend."""
    return Line2D([], [], label=label, **look)


def step_axis(axis: Axes, steps: np.ndarray) -> None:
    """log(1 + step), nearly: linear up to the first trained checkpoint, so that step 0 has a place.

    Of panels that share their steps it is enough to tell one, and for many of them much quicker.
    """
    first = int(steps[steps > 0].min()) if (steps > 0).any() else 1
    axis.set_xscale("symlog", linthresh=first, linscale=0.4)
    shown = sorted({0, *np.geomspace(first, max(steps.max(), first), 4).round().astype(int)})
    axis.set_xticks(shown, [str(step) for step in shown])
    axis.minorticks_off()
    if len(steps) > 1:  # with room for the marks of the first and the last
        axis.set_xlim(steps.min() / 1.05 or -0.06 * first, 1.05 * max(steps.max(), 1))


def band(axis: Axes, steps: np.ndarray, lower: xr.DataArray, upper: xr.DataArray, **look) -> None:
    """Between two curves; at the one checkpoint there is, a bar."""
    axis.fill_between(steps, lower, upper, **look, lw=0 if len(steps) > 1 else 5)


def onset_axis(axis: Axes, steps: np.ndarray) -> tuple[float, float]:
    """An axis of steps with room beyond the first and the last; returns where stands what is no step."""
    step_axis(axis, steps)
    (first, last), room = axis.get_xlim(), 0.35 * min(steps[steps > 0], default=1)
    axis.set_xlim(first - 2.2 * room, last * 1.5)
    return first - room, last * 1.3


def mark_onset(axis: Axes, onset: xr.Dataset, y: float, edges: tuple[float, float], width: float = 1, **look) -> None:
    """One answer's onset over its interval at height ``y``; what is no step stands at an edge.

    At the left, with an arrow: from the start. At the right hollow: not reached; a cross: there is something, or may
    be, but no onset (too few units, no more than words alone, …). Nothing of a concept that a study lacks.
    """
    status, step = onset.status.item(), float(onset.onset)
    if np.isfinite(step):
        ends = np.clip([float(onset.onset_lower), float(onset.onset_upper)], *edges)
        axis.plot(ends, [y, y], color=look["color"], lw=width)
        axis.plot(step, y, ls="", **look)
    elif np.isneginf(step):
        axis.plot(edges[0], y, ls="", **look)
        beside = {"xytext": (-3, 0), "textcoords": "offset points", "ha": "right", "va": "center", "size": 6}
        axis.annotate("←", (edges[0], y), color=look["color"], **beside)
    elif status:
        hollow = status in ("not reached", "absent")
        axis.plot(edges[1], y, ls="", **look | ({"mfc": "none", "mew": 0.8} if hollow else {"marker": "x", "mew": 1}))


def onset_handles() -> list[Line2D]:
    """Entries of a legend for what `mark_onset` sets at the edges."""
    look = {"ls": "", "color": "0.2"}
    return [
        handle("from the start", marker="$\\leftarrow$", ms=6, **look),
        handle("not reached", marker="o", mfc="none", ms=4, **look),
        handle("no onset told", marker="x", ms=4, **look),
    ]


def at_layer(values: xr.DataArray, layer: xr.DataArray, concept: str) -> xr.DataArray:
    """A concept's values at its own layer."""
    return values.sel(concept=concept).isel(layer=int(layer.sel(concept=concept)))


def cells(axis: Axes, grid: pd.DataFrame, bound: float, ticks: int = 1, centre: float = 0) -> QuadMesh:
    """A table as coloured cells, white at the centre, each row and every so many columns named.

    Not `seaborn.heatmap`, which draws the whole figure, all its panels, to see whether labels overlap.
    """
    mesh = axis.pcolormesh(grid.to_numpy(float), cmap="vlag", vmin=centre - bound, vmax=centre + bound)
    axis.set_xticks(np.arange(0, len(grid.columns), ticks) + 0.5, grid.columns[::ticks])
    axis.set_yticks(np.arange(len(grid)) + 0.5, grid.index)
    axis.tick_params(length=2)
    sns.despine(ax=axis, left=True, bottom=True)
    return mesh
