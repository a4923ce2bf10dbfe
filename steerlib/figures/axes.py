"""What figures are built of: panels, the axis of steps, curves and their bands, marks of onsets, tables as cells."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import FillBetweenPolyCollection, PolyCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.transforms import offset_copy

from steerlib.figures.look import BAND, COLUMN, GUIDE, INK, INTERVAL, NULL, PAGE, SMALL, STYLE

WIDTHS = (COLUMN, 5.2, PAGE)  # of one, two and three panels; no figure has another
DISCOVERY = 0.05  # false discovery rate below which a cell is dotted
LINEAR = 0.4  # decades that the axis of steps gives to the first trained checkpoint
ALONE = "of one concept there is no order"
HATCHED = 0.1  # of the largest size: what is less below 0 has hardly a colour
LOW = 1.7  # inches: the least height of a figure with a colour bar, whose label has to fit


def panels(titles: xr.DataArray, height: float = 1.25, below: str = "", left: str = ""):
    """A figure, and one titled panel (Axes) a concept, judge, …, at most three beside one another.

    The lowest of each column is labelled ``below``, all rows at the left.
    """
    columns = 2 if len(titles) == 4 else min(3, len(titles))
    rows = -(-len(titles) // columns)
    size = WIDTHS[columns - 1], max(LOW, height * rows + 0.2)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, sharex=True, sharey=True)
    for spare in axes.flat[len(titles) :]:
        spare.remove()
    if rows > 1:  # of one row it would stand apart
        figure.supylabel(left, fontsize=STYLE["axes.labelsize"])
    else:
        long = 0.55 * STYLE["axes.labelsize"] / 72 * len(left) > size[1] - 0.3
        axes[0, 0].set_ylabel(left.replace(" (", "\n(") if long else left)
    drawn = list(axes.flat[: len(titles)])
    for axis in drawn[-columns:]:
        axis.set_xlabel(below)
        axis.tick_params(labelbottom=True)
    by_title = dict(zip(map(str, titles.values), drawn, strict=True))
    for title, axis in by_title.items():
        axis.set_title(title)
    return figure, by_title


# --- steps ------------------------------------------------------------------------------------------------------------


def step_axis(axis: Axes, steps: np.ndarray, room: float = 0.0) -> tuple[float, float]:
    """log(1 + step), nearly: linear up to the first trained checkpoint, so that step 0 has a place.

    Ticks stand at checkpoints. Of panels that share their steps it is enough to tell one. ``room`` is left before the
    first and after the last for what is no step; returned is where that stands.
    """
    axis.set_xscale("symlog", linthresh=first_trained(steps), linscale=LINEAR)
    scale = axis.xaxis.get_transform()
    at = scale.transform(steps.astype(float))
    span = np.ptp(at) or 1.0
    inches = axis.get_position().width * axis.figure.get_figwidth() * 0.9 / (1 + 2 * room)
    shown = spread(at, [0.62 * STYLE["xtick.labelsize"] / 72 * (len(str(step)) + 1.5) / inches for step in steps])
    axis.set_xticks(steps[shown], [str(step) for step in steps[shown]])
    axis.minorticks_off()
    wide, half = (0.03 + room) * span, 0.6 * room * span
    left, before, after, right = scale.inverted().transform([at[0] - wide, at[0] - half, at[-1] + half, at[-1] + wide])
    axis.set_xlim(left, right)
    return float(before), float(after)


def alpha_axis(axis: Axes, alphas: np.ndarray) -> None:
    """Ticks stand at alphas that were pushed. Of panels that share them it is enough to tell one."""
    inches = axis.get_position().width * axis.figure.get_figwidth() * 0.9
    names = [f"{alpha:g}".replace("-", "−") for alpha in alphas]
    shown = spread(alphas, [0.62 * STYLE["xtick.labelsize"] / 72 * (len(name) + 1) / inches for name in names])
    axis.set_xticks(alphas[shown], [names[k] for k in shown])


def first_trained(steps: np.ndarray) -> int:
    """The step up to which the axis is linear."""
    return int(steps[steps > 0].min()) if (steps > 0).any() else 1


def spread(at: np.ndarray, wide: list[float]) -> list[int]:
    """Which of the labels at some places, each so wide (shares of the axis), fit side by side: the last one first."""
    shown, at = [len(at) - 1], at / (np.ptp(at) or 1.0)
    while len(shown) < len(at):  # each time the one that is farthest from those there are, while it fits
        gaps = [min(2 * abs(at[k] - at[j]) / (wide[k] + wide[j]) for j in shown) for k in range(len(at))]
        if max(gaps) < 1:
            break
        shown.append(int(np.argmax(gaps)))
    return sorted(shown)


def step_cells(axis: Axes, grid: pd.DataFrame, bound: float, label: str) -> QuadMesh:
    """Layers × steps as coloured cells on the axis of steps: each reaches half-way to its neighbours, a row a layer.

    What is clearly below 0 is hatched, as in grey its colour is that of what is above.
    """
    steps, layers = grid.columns.to_numpy(), grid.index.to_numpy()
    step_axis(axis, steps)
    scale = axis.xaxis.get_transform()
    at = scale.transform(steps.astype(float))
    half = np.diff(at) / 2 if len(at) > 1 else np.array([0.5])
    edges = scale.inverted().transform([at[0] - half[0], *(at[1:] - half[: len(at) - 1]), at[-1] + half[-1]])
    rows, look = np.arange(len(layers) + 1) - 0.5, {"cmap": "vlag", "vmin": -bound, "vmax": bound}
    mesh = axis.pcolormesh(edges, rows, grid.to_numpy(float), **look, label=label)
    if (below := grid < -HATCHED * bound).any(axis=None):
        hatch = {"facecolor": "none", "edgecolor": "0.2", "hatch": "//////", "lw": 0, "label": "below 0"}
        axis.add_collection(
            PolyCollection([_corners(edges, rows, *cell) for cell in np.argwhere(below.values)], **hatch)
        )
    axis.set_xlim(edges[0], edges[-1])
    shown = slice(None, None, 1 + len(layers) // 6)
    axis.set_yticks(np.arange(len(layers))[shown], layers[shown])
    return mesh


def _corners(edges: np.ndarray, rows: np.ndarray, row: int, column: int) -> list[tuple[float, float]]:
    left, right, low, high = *edges[column : column + 2], *rows[row : row + 2]
    return [(left, low), (right, low), (right, high), (left, high)]


# --- curves -----------------------------------------------------------------------------------------------------------


def band(axis: Axes, x: np.ndarray, lower: xr.DataArray, upper: xr.DataArray, label: str, **look) -> None:
    """Between two curves; a bar where there is a value and none beside it.

    It has an edge, and a bar is narrower than a null's: they are told apart also where all colours are seen as grey.
    """
    x, lower, upper, look = *map(np.asarray, (x, lower, upper)), {"alpha": BAND, "zorder": 1, "edge": 0.4} | look
    there, edge = np.pad(np.isfinite(lower + upper), 1), look.pop("edge")
    # Not `fill_between`, which asks all panels that share its axes how far they reach.
    ends = map(np.ma.masked_invalid, (lower, upper))
    axis.add_collection(FillBetweenPolyCollection("x", x, *ends, label=label, lw=edge, **look), autolim=False)
    for end in (lower, upper):
        axis.update_datalim(np.stack([x, end], 1)[there[1:-1]])
    axis.autoscale(None)
    if (alone := there[1:-1] & ~there[:-2] & ~there[2:]).any():
        axis.vlines(x[alone], lower[alone], upper[alone], label=label, lw=3 if edge else 6, **look)


def null_band(
    axis: Axes, x: np.ndarray, lower: xr.DataArray, upper: xr.DataArray, label: str, alpha: float = 0.35
) -> None:
    """What the null does."""
    band(axis, x, lower, upper, label, color=NULL, alpha=alpha, zorder=0, edge=0)


def horizontal(axis: Axes, y: float, **look) -> None:
    """A line from edge to edge. Not `axhline`, which asks all panels that share these first how far they reach."""
    axis.plot([0, 1], [y, y], transform=axis.get_yaxis_transform("grid"), **look)


def vertical(axis: Axes, x: float, **look) -> None:
    """The same from top to bottom."""
    axis.plot([x, x], [0, 1], transform=axis.get_xaxis_transform("grid"), **look)


def last_step(axis: Axes, steps: np.ndarray) -> None:
    vertical(axis, steps.max(), color=NULL, lw=0.8, ls=":", zorder=0, label="end of training")


def beyond(onsets: xr.Dataset) -> str:
    """What a bar says that is cut at the edge, if there is one."""
    cut = np.isfinite(onsets.onset) & np.isinf(onsets.onset_upper)
    return "a bar beyond the last step: some resamples never reach it" if cut.any() else ""


def guide(axis: Axes, y: float) -> None:
    """A line between rows."""
    horizontal(axis, y, color="0.9", lw=0.5, zorder=0, label=GUIDE)


def zero(axis: Axes) -> None:
    horizontal(axis, 0, color="0.4", lw=0.6, zorder=1, label=GUIDE)


def mark_onset(axis: Axes, onset: xr.Dataset, y: float, edges: tuple[float, float], width: float = 1, **look) -> None:
    """One answer's onset over its interval at height ``y``; what is no step stands at an edge.

    At the left, with an arrow: from the start. At the right hollow: not reached; a cross: there is something, or may
    be, but no onset (too few units, no more than words alone, …). Nothing of a concept that a study lacks.
    """
    status, step = onset.status.item(), float(onset.onset)
    if np.isfinite(step):
        ends = np.clip([float(onset.onset_lower), float(onset.onset_upper)], *edges)
        axis.plot(ends, [y, y], color=look["color"], lw=width, label=INTERVAL)
        axis.plot(step, y, ls="", **look)
    elif np.isneginf(step):
        axis.plot(edges[0], y, ls="", **look)
        beside = offset_copy(axis.transData, axis.figure, x=-6, units="points")
        arrow = {"marker": "$\\leftarrow$", "ms": 5, "mew": 0.3, "color": look["color"], "label": "from the start"}
        axis.plot(edges[0], y, ls="", transform=beside, **arrow)
    elif status:
        hollow = status in ("not reached", "absent")
        other = {"mfc": "none", "mew": 0.8, "label": "not reached"} if hollow else {"marker": "x", "mew": 1}
        axis.plot(edges[1], y, ls="", **look | {"label": "no onset told"} | other)


# --- values -----------------------------------------------------------------------------------------------------------


def at_layer(values: xr.DataArray, layer: xr.DataArray, concept: str) -> xr.DataArray:
    """A concept's values at its own layer, which may be another at every checkpoint."""
    values, own = values.sel(concept=concept), layer.sel(concept=concept)
    if "step" not in own.dims:
        return values.sel(layer=int(own), drop=True)
    # One at a time, as values may lie on disk.
    return xr.concat([values.sel(step=at.step, layer=int(at), drop=True) for at in own], own.step, coords="minimal")


def tables(names: xr.DataArray, cell: float, rows: int = 1, columns: int = 1) -> tuple[Figure, np.ndarray]:
    """A figure for square tables of concepts, with room for their names and a colour bar, and its panels."""
    side, room = max(1.2, cell * len(names)), 0.62 * STYLE["ytick.labelsize"] / 72 * max(map(len, names.values))
    width = fitting(room + columns * (side + 0.15) + 1.1)
    side = (width - room - 1.1) / columns - 0.15  # as wide as there is room
    return plt.subplots(rows, columns, figsize=(width, rows * (side + room + 0.3) + 0.4), squeeze=False)


def fitting(inches: float) -> float:
    """The least width of all figures that holds so much; the widest, where none does."""
    return next((width for width in WIDTHS if width >= inches), PAGE)


def cells(axis: Axes, grid: pd.DataFrame, bound: float, label: str, centre: float = 0) -> QuadMesh:
    """A square table as coloured cells, white at the centre, each row and column named.

    Not `seaborn.heatmap`, which draws the whole figure, all its panels, to see whether labels overlap.
    """
    values = grid.to_numpy(float)
    mesh = axis.pcolormesh(values, cmap="vlag", vmin=centre - bound, vmax=centre + bound, label=label)
    axis.set_xticks(np.arange(len(grid.columns)) + 0.5, grid.columns, rotation=90)
    axis.set_yticks(np.arange(len(grid)) + 0.5, grid.index)
    whole = max(2, len(grid))  # a single cell does not fill the panel
    axis.set(xlim=(0, whole), ylim=(len(grid), len(grid) - whole), aspect="equal")
    axis.tick_params(length=0)
    axis.spines[["left", "bottom"]].set_visible(False)
    return mesh


def dots(axis: Axes, x: np.ndarray, y: np.ndarray, label: str) -> None:
    """On cells that are marked."""
    axis.plot(x, y, ls="", marker="o", ms=1.8, mew=0.4, mec="w", color="k", label=label)


def readable(mesh: QuadMesh, value: float) -> str:
    """Of letters on a cell of that value: white or black, whichever stands out more."""
    luminance = np.dot(np.array(mesh.to_rgba(value)[:3]) ** 2.2, (0.2126, 0.7152, 0.0722))
    return "white" if luminance < 0.18 else "black"  # not "k", which seaborn makes a grey


def write(axis: Axes, row: int, column: int, text: str, label: str, **look) -> None:
    """Into a cell; what it says is told below."""
    look = {"size": SMALL, "ha": "center", "va": "center", "color": INK} | look
    axis.text(column + 0.5, row + 0.5, text, label=label, **look)
