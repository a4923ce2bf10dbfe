"""Figures from labelled datasets: fit for a paper's column, colour-blind safe, one colour a concept throughout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import xarray as xr
from IPython import get_ipython
from IPython.display import Image, display
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

COLUMN, PAGE = 3.4, 7.0  # inches: one column, full width
DPI = 200
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


def show(figure: Figure) -> None:
    """In the notebook, sharp on any screen."""
    drawn = BytesIO()
    with settled(figure):
        figure.savefig(drawn, format="png", dpi=DPI)
    finish(figure, drawn.getvalue())


def save(figure: Figure, folder: Path, name: str) -> None:
    """As PNG and as SVG, and shown in the notebook."""
    folder.mkdir(parents=True, exist_ok=True)
    with settled(figure):
        for kind in ("png", "svg"):
            figure.savefig(folder / f"{name}.{kind}", dpi=DPI)
    finish(figure, (folder / f"{name}.png").read_bytes())


@contextmanager
def settled(figure: Figure) -> Iterator[None]:
    """Laid out once. Otherwise matplotlib lays a figure out, and draws it a second time, for every file."""
    if engine := figure.get_layout_engine():
        engine.execute(figure)
    with plt.rc_context({"figure.constrained_layout.use": False}):  # what None stands for, also after a file
        figure.set_layout_engine(None)
        yield


def finish(figure: Figure, png: bytes) -> None:
    """Show what was drawn, and close the figure: Jupyter would draw it again, four times, as its cell ends."""
    plt.close(figure)
    if get_ipython():
        display(Image(png, retina=True))


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
    """log(1 + step), nearly: linear up to the first trained checkpoint, so that step 0 has a place.

    Of panels that share their steps it is enough to tell one, and for many of them much quicker.
    """
    first = int(steps[steps > 0].min()) if (steps > 0).any() else 1
    axis.set_xscale("symlog", linthresh=first, linscale=0.4)
    shown = [0, *(s for s in np.geomspace(first, max(steps.max(), first), 4).round().astype(int))]
    axis.set_xticks(sorted(set(shown)), [str(s) for s in sorted(set(shown))])
    axis.minorticks_off()
    axis.set_xlim(steps.min(), max(steps.max(), 1))


def cells(axis: Axes, grid: pd.DataFrame, bound: float, ticks: int = 1) -> QuadMesh:
    """A table as coloured cells, white at 0, each row and every so many columns named.

    Not `seaborn.heatmap`, which draws the whole figure, all its panels, to see whether labels overlap.
    """
    mesh = axis.pcolormesh(grid.to_numpy(float), cmap="vlag", vmin=-bound, vmax=bound)
    axis.set_xticks(np.arange(0, len(grid.columns), ticks) + 0.5, grid.columns[::ticks])
    axis.set_yticks(np.arange(len(grid)) + 0.5, grid.index)
    axis.tick_params(length=2)
    sns.despine(ax=axis, left=True, bottom=True)
    return mesh


def heatmaps(values: xr.DataArray, label: str, dots: xr.DataArray | None = None) -> Figure:
    """Values by layer and step, a panel a concept, one scale for all, so that panels can be compared.

    ``dots`` marks cells: True where there is to be one.
    """
    bound = float(np.nanmax(abs(values)))
    figure, axes = panels(list(values.concept.values), height=1.25, sharex=True, sharey=True)
    for concept, axis in axes.items():
        grid = values.sel(concept=concept).transpose("layer", "step").to_pandas()
        mesh = cells(axis, grid, bound, max(1, len(grid.columns) // 6))
        if dots is not None:
            layer, step = np.nonzero(dots.sel(concept=concept).transpose("layer", "step").values)
            axis.plot(step + 0.5, layer + 0.5, ".", color="0.1", ms=1.6)
    figure.supxlabel("training step", fontsize=8)
    figure.supylabel("layer", fontsize=8)
    figure.colorbar(mesh, ax=list(axes.values()), label=label, shrink=0.6)
    return figure


def alpha_label(interventions: xr.Dataset) -> str:
    """What alpha counts in this study."""
    return f"alpha (× {interventions.alpha.attrs['units']})"
