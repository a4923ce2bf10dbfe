"""What a pushed model writes, for people to read and to see."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
import xarray as xr
from matplotlib.figure import Figure

from steerlib.figures import NULL, PAGE, colours


def side_by_side(written: xr.Dataset, prompts: int = 1) -> pd.DataFrame:
    """Texts of the first prompts: a row a concept, prompt and direction, a column an alpha; unsteered stands at 0."""

    def texts(**at) -> dict[str, str]:
        here = written.text.sel(at)
        return {f"alpha {alpha:g}": str(here.sel(alpha=alpha).item()) for alpha in written.alpha.values}

    rows = {
        (concept, str(written.given.sel(concept=concept, prompt=prompt).item()), method): texts(
            concept=concept, prompt=prompt, method=method
        )
        for concept in written.concept.values
        for prompt in written.prompt.values[:prompts]
        for method in written.method.values
    }
    return (
        pd.DataFrame(rows)
        .T.rename_axis(["concept", "prompt", "direction"])
        .style.set_properties(**{"text-align": "left", "white-space": "pre-wrap"})
    )


def judgements(written: xr.Dataset, method: str) -> Figure:
    """Every judge's mean over prompts against alpha: a line a concept, and grey a random direction of its strength."""
    mean = written.judged.where(written.text != "").mean("prompt")
    judges = [name for name in written.judge.values if bool(mean.sel(judge=name).notnull().any())]
    columns = min(3, len(judges))
    rows = -(-len(judges) // columns)
    size = PAGE, 1.6 * rows + 0.5
    figure, axes = plt.subplots(rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False)
    for spare in axes.flat[len(judges) :]:
        spare.remove()
    for axis, judge in zip(axes.flat, judges, strict=False):
        for concept, colour in colours(list(written.concept.values)).items():
            one = mean.sel(judge=judge, concept=concept)
            axis.plot(one.alpha, one.sel({"method": "random"}), color=NULL, lw=0.8, zorder=1)
            axis.plot(one.alpha, one.sel({"method": method}), color=colour, marker="o", ms=3, label=concept)
        axis.set_title(judge)
        axis.set_ylim(-0.03, 1.03)
    figure.supxlabel("alpha", fontsize=8)
    figure.supylabel("mean over prompts", fontsize=8)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", handlelength=1)
    sns.despine(figure)
    return figure
