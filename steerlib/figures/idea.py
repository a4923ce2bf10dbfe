"""How the sweep stays cheap, drawn: what a loop of forward passes computes, and what is left of it."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from steerlib.figures import PAGE

PROMPT, LAYERS, LAYER = ("In", "the", "morning", "Anna", "felt"), 5, 1
ONCE, SPARED = "0.75", "0.93"  # computed once for all; not computed again


def shared_prefix(variants: int = 4) -> Figure:
    """Left, a forward pass for each push; middle, one prefix and the pushed token alone; right, who sees whom."""
    colours = sns.color_palette("colorblind", variants)
    figure, axes = plt.subplots(1, 3, figsize=(PAGE, 1.9), width_ratios=[2.2, 1.3, 1.1])
    width, before = len(PROMPT), len(PROMPT) - 1

    loop = np.ones((LAYERS, variants * (width + 1) - 1, 3))
    for k, colour in enumerate(colours):
        loop[:, k * (width + 1) : k * (width + 1) + width] = colour
    _cells(axes[0], loop, f"one forward pass a push: {variants} × {width * LAYERS} cells")
    for k in range(variants):
        _push(axes[0], k * (width + 1) + before)
    axes[0].set_ylabel("block")
    axes[1].set_ylabel("block")

    ours = np.ones((LAYERS, width + 1 + variants, 3))
    ours[:, :width] = to_rgb(ONCE)
    for k, colour in enumerate(colours):
        ours[:, width + 1 + k] = to_rgb(SPARED)
        ours[LAYER + 1 :, width + 1 + k] = colour
        _push(axes[1], width + 1 + k)
    _cells(axes[1], ours, f"ours: {width * LAYERS} once, then {variants * (LAYERS - 1 - LAYER)}")
    axes[1].set_xticks(range(width), PROMPT, rotation=90)
    axes[1].text(width + (variants + 1) / 2, -0.8, f"“{PROMPT[-1]}”, pushed", ha="center", va="top", fontsize=7)

    sees = np.ones((variants, before + 1 + variants, 3))
    sees[:, :before], sees[:, before + 1 :] = to_rgb(ONCE), to_rgb(SPARED)
    for k, colour in enumerate(colours):
        sees[k, before + 1 + k] = colour
    _cells(axes[2], sees, "who sees whom")
    axes[2].set_ylabel("variant")
    axes[2].set_xticks([*range(before), *range(before + 1, before + 1 + variants)])
    axes[2].set_xticklabels([*PROMPT[:-1], *range(1, variants + 1)], rotation=90)
    axes[2].invert_yaxis()
    return figure


def _cells(axis: Axes, colours: np.ndarray, title: str) -> None:
    axis.imshow(colours, origin="lower", interpolation="none")
    axis.set_title(title)
    axis.set(xticks=[], yticks=[])
    axis.tick_params(length=0)
    axis.hlines(np.arange(len(colours) + 1) - 0.5, -0.5, colours.shape[1] - 0.5, color="white", lw=0.8)
    axis.vlines(np.arange(colours.shape[1] + 1) - 0.5, -0.5, len(colours) - 0.5, color="white", lw=0.8)
    sns.despine(ax=axis, left=True, bottom=True)


def _push(axis: Axes, column: int) -> None:
    """Marks where a vector is added: after the block, at the last token."""
    axis.add_patch(Rectangle((column - 0.5, LAYER + 0.38), 1, 0.24, color="black", lw=0, zorder=3))
