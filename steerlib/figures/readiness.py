"""The figure of readiness: which checkpoint may be pushed along which concept, and what holds the others back."""

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from steerlib.figures.axes import fitting, write
from steerlib.figures.look import INK, WORDS, broken, dressed
from steerlib.stages.criteria import LEVELS

WIDEST = 16  # checkpoints whose cells have room for a word
COLOURS = dict(zip(LEVELS, ["1", *sns.color_palette("YlGnBu", 4)[:3]], strict=True))
SIGNS = dict(zip(LEVELS, ("–", "●○○", "●●○", "●●●"), strict=True))


def matrix(readiness: xr.Dataset, method: str) -> Figure:
    """Concept × checkpoint: the verdict, in colour and as dots, and the first criterion that keeps it from the next.

    Of many checkpoints some are shown, the last among them.
    """
    steps = readiness.step.values
    shown = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), WIDEST)).round().astype(int))
    of = readiness.sel(probe=method).isel(step=shown).transpose("concept", "step", ...)
    rows = [broken(str(name)) for name in of.concept.values]
    high = max(0.3, 0.11 * (1 + max(row.count("\n") for row in rows)))  # inches
    size = fitting(1.0 + 0.39 * max(6, len(shown))), high * len(rows) + 0.5
    figure, axis = plt.subplots(figsize=size)
    for verdict in LEVELS:
        for row, column in np.argwhere(of.verdict.values == verdict):
            look = {
                "fc": COLOURS[verdict],
                "ec": "0.8",
                "lw": 0.5,
                "clip_on": False,
                "label": f"{SIGNS[verdict]} {verdict}",
            }
            axis.add_patch(Rectangle((column, row), 1, 1, **look))
            reason = str(of.held_back.values[row, column])
            write(axis, row - 0.2 * bool(reason), column, SIGNS[verdict], WORDS)
            if reason:  # apart, as dots are higher than letters
                write(axis, row + 0.2, column, reason, "in a cell: the first criterion that keeps it from the next")
    axis.set(xlim=(0, max(3, len(shown))), ylim=(len(rows), 0), xlabel="training step")
    axis.set_xticks(np.arange(len(shown)) + 0.5, of.step.values)
    axis.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axis.tick_params(length=0, colors=INK)
    axis.spines[["left", "bottom"]].set_visible(False)
    layer = "at each step the layer that validation prompts choose"
    said = "a criterion passes where its whole interval does"
    if len(shown) < len(steps):
        said += f"; {len(shown)} of {len(steps)} checkpoints are shown"
    return dressed(figure, readiness, layer, method, said)
