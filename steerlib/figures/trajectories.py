"""Onsets of any table of values by training step (`steerlib.stages.trajectories`), as a figure and as text."""

from __future__ import annotations

import re
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from steerlib.figures import COLUMN, NULL
from steerlib.stages.trajectories import frame


def by_size(name) -> tuple:
    """A key for sorting models: by the first number of parameters in the name, and then by name."""
    size = re.search(r"(\d+(?:\.\d+)?)\s*([kmbt])(?![a-z])", str(name).lower())
    count = float(size[1]) * 1000.0 ** ("kmbt".index(size[2]) + 1) if size else float("inf")
    return count, str(name)


def told(one) -> str:
    """An onset with its interval, as text."""
    onset, lower, upper = one.onset_step, one.onset_lower, one.onset_upper
    if np.isnan(onset):
        return "no null"
    ends = [f"{end:.0f}" if np.isfinite(end) else "…" for end in (lower, upper)]
    if np.isinf(onset):
        return "not reached" + (f" [{ends[0]}–…]" if np.isfinite(lower) else "")
    return ("≤" if 0 < onset == one.first_step else "") + f"{onset:.0f} [{ends[0]}–{ends[1]}]"


def summary(found: xr.Dataset, column: str | None = None) -> pd.DataFrame:
    """Onsets with their intervals as text: a row a trajectory, or a row a model and a column a task (``column``)."""
    table = frame(found)
    text = table.apply(told, axis=1).rename("onset")
    if column is None:
        checks = table[["midpoint", "change_point"]].where(np.isfinite(table.onset_step), np.nan)
        rounded = checks.map(lambda step: f"{step:.0f}" if np.isfinite(step) else "")
        return pd.concat([text, rounded, table.better], axis=1)
    # Names that are the same for all say nothing.
    same = [name for name in text.index.names if name != column and text.index.unique(name).size == 1]
    spare = same if len(same) < text.index.nlevels - 1 else same[1:]
    wide = text.droplevel(spare).unstack(column)
    return wide.loc[sorted(wide.index, key=lambda key: tuple(map(by_size, np.atleast_1d(key))))]


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown, its index in front."""
    table = table.reset_index()
    rows = [list(map(str, table.columns)), ["---"] * len(table.columns), *table.astype(str).values.tolist()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def small_multiples(
    found: xr.Dataset, panels: Sequence[str], panel: str = "task", line: str = "model", label: str = "value"
) -> Figure:
    """A panel a task: values by step with intervals, a line a model; below it each model's onset with its interval.

    Grey is the null; hollow and at the right is what was not reached.
    """
    lines = sorted(np.unique(found[line].values), key=by_size)
    colour = dict(zip(lines, sns.color_palette("viridis_r", len(lines) + 1)[1:], strict=True))
    deep = -(-len(panels) // 2)
    figure, axes = plt.subplots(
        2 * deep,
        2,
        figsize=(COLUMN, 1.55 * deep + 0.75),
        sharex=True,
        squeeze=False,
        height_ratios=[1.15, 0.07 * len(lines)] * deep,
    )
    figure.get_layout_engine().set(h_pad=0.015, hspace=0, w_pad=0.02, wspace=0.03)
    if len(panels) % 2:
        axes[-2, 1].remove(), axes[-1, 1].remove()
    for k, name in enumerate(panels):
        curves, marks = axes[2 * (k // 2), k % 2], axes[2 * (k // 2) + 1, k % 2]
        there = found.isel(trajectory=found[panel].values == name)
        curves.fill_between(
            *_band(there.null_lower.min("trajectory"), there.null_upper.max("trajectory")), color=NULL, alpha=0.45, lw=0
        )
        for y, model in enumerate(lines):
            for _, one in there.isel(trajectory=there[line].values == model).groupby("trajectory", squeeze=False):
                one = one.isel(trajectory=0).dropna("step", subset=["value"])
                curves.fill_between(*_band(one.value_lower, one.value_upper), color=colour[model], alpha=0.18, lw=0)
                curves.plot(one.step, one.value, color=colour[model], lw=0.9)
                _mark(marks, one, y, colour[model], float(found.step.max()))
        curves.set_title(name, pad=2)
        curves.yaxis.set_major_locator(MaxNLocator(3))
        marks.set(ylim=(len(lines) - 0.4, -0.6), yticks=[])
        _step_axis(marks, float(found.step.max()))
        for axis in (curves, marks):
            axis.tick_params(length=2, pad=1.5)
    figure.supxlabel("training step", fontsize=8)
    figure.supylabel(f"{label}; below: onset", fontsize=8)
    handles = [plt.Line2D([], [], color=colour[name], lw=2, label=name) for name in lines]
    handles += [plt.Rectangle((0, 0), 1, 1, color=NULL, alpha=0.45, lw=0, label="untrained")]
    handles += [plt.Line2D([], [], ls="", marker="o", mfc="none", mec="0.4", ms=3, label="not reached")]
    figure.legend(handles=handles, loc="outside upper center", ncol=4, handlelength=0.9, columnspacing=1.2)
    sns.despine(figure)
    for axis in axes[::2].flat[: len(panels)]:  # one axis of steps for both halves
        axis.spines.bottom.set_visible(False)
        axis.tick_params(axis="x", length=0)
    for axis in axes[1::2].flat:
        axis.spines.left.set_visible(False)
    return figure


def _band(lower: xr.DataArray, upper: xr.DataArray) -> tuple:
    there = np.isfinite(lower.values)
    return lower.step.values[there], lower.values[there], upper.values[there]


def _mark(axis: Axes, one: xr.Dataset, y: float, colour, last: float) -> None:
    """The onset and its interval, which runs out of the panel where resamples do not reach one."""
    onset, lower, upper = (float(one[name]) for name in ("onset_step", "onset_lower", "onset_upper"))
    beyond = last * 3
    if np.isfinite(lower):
        axis.plot([lower, min(upper, beyond)], [y, y], color=colour, lw=1.1, solid_capstyle="butt")
    if np.isfinite(onset):
        axis.plot(onset, y, "o", color=colour, ms=2.8, mew=0)
    elif np.isinf(onset):
        axis.plot(beyond, y, "o", mfc="white", mec=colour, ms=2.6, mew=0.7)


def _step_axis(axis: Axes, last: float) -> None:
    """Linear to the first step, so that step 0 has a place, then logarithmic, in powers of a hundred or so."""
    axis.set_xscale("symlog", linthresh=1, linscale=0.4)
    powers = [p for p in (1, 2, 3, 4, 5, 6, 7) if 10**p <= last]
    shown = powers[::-1][::2][::-1] if len(powers) > 3 else powers
    labels = {3: "1k", 4: "10k", 5: "100k", 6: "1M", 7: "10M"}
    axis.set_xticks([0, *(10**p for p in shown)], ["0", *(labels.get(p, str(10**p)) for p in shown)])
    axis.minorticks_off()
    axis.set_xlim(0, last * 4.5)
