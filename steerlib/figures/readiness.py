"""Which checkpoint may be pushed along which concept, what holds the others back, and what another way would cost."""

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from steerlib.figures.axes import fitting, panels, vertical, write, zero
from steerlib.figures.look import INK, INTERVAL, NULL, WORDS, broken, dressed, looks, params_of
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


def other_ways(compared: xr.Dataset) -> Figure:
    """Gain in each concept's log-odds against what it costs in KL on neutral text, a marker a way, with intervals.

    Grey: what directions from shuffled labels gain, pushed as far.
    """
    left = f"gain in log-odds ({compared.effect.attrs.get('units', 'nat')})"
    figure, axes = panels(compared.concept, 1.5, "KL on neutral text (nat)", left)
    budget = params_of(compared)["sweep"]["kl_budget"]
    for concept, look in looks(compared.concept).items():
        axis, of = axes[concept], compared.sel(concept=concept)
        zero(axis)
        ends = of.effect_null.isel(draw=(of["null"] == "shuffled").values).quantile([0.05, 0.95])
        if ends.notnull().all():
            axis.axhspan(*ends.values, color=NULL, alpha=0.35, lw=0, zorder=0, label="shuffled labels, 90 % within")
        vertical(axis, budget, color="0.4", lw=0.8, ls=":", label="KL budget")
        for way, marker in zip(of.way.values, "ov^s", strict=True):
            at = of.sel(way=way)
            dress = {"marker": marker, "ls": "", "ms": 4, "color": look["color"], "label": str(way)}
            if not at.within:
                dress |= {"mfc": "none", "label": f"{way}, not surely within the budget"}
            axis.vlines(at.kl, at.effect_lower, at.effect_upper, color=look["color"], lw=0.8, label=INTERVAL)
            axis.hlines(at.effect, max(0, at.kl_lower), at.kl_upper, color=look["color"], lw=0.8, label=INTERVAL)
            axis.plot(at.kl, at.effect, **dress)
        axis.set_xscale("asinh", linear_width=budget / 10)
        ticks = budget * np.array([0, 0.1, 1, 10])
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
    said = (
        "KL is linear up to a tenth of the budget; intervals: of the gain over test prompts, of KL over test passages"
    )
    return dressed(
        figure, compared, f"step {int(compared.step)}, each concept at the layer that it is pushed at", said=said
    )
