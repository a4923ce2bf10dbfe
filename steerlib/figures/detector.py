"""The Intervention Detector's view of training: ID scores by layer and step, and their entropy over layers."""

from __future__ import annotations

import seaborn as sns
import xarray as xr
from matplotlib.figure import Figure

from steerlib.figures import NULL, PAGE, colours, heatmaps, panels, step_axis


def id_heatmap(probes: xr.Dataset, method: str, variant: str) -> Figure:
    """ID score by layer and step."""
    unit = "cosine" if variant == "cosine" else "activation"
    return heatmaps(probes.id_score.sel({"method": method}).sel(variant=variant), f"ID score, {variant}\n({unit})")


def id_entropy(similarity: xr.Dataset, method: str) -> Figure:
    """Entropy of the ID score over layers against step, a panel a reading of the score.

    Grey: 90 % of isotropic directions; dotted: a score that is equal in all layers, log2(layers).
    """
    one, variants = similarity.sel({"method": method}), list(similarity.variant.values)
    figure, axes = panels(variants, columns=len(variants), height=2.2, sharex=True, sharey=True)
    steps = one.step.values
    isotropic = one.id_entropy_null.isel(draw=(one["null"] == "random").values)
    for variant, axis in axes.items():
        null = isotropic.sel(variant=variant).stack(both=["concept", "draw"]).quantile([0.05, 0.95], "both")
        axis.fill_between(steps, *null.transpose("quantile", "step").values, color=NULL, alpha=0.35, lw=0)
        axis.axhline(float(similarity.id_entropy_uniform.max()), color="0.3", lw=0.8, ls=":")
        for concept, colour in colours(list(one.concept.values)).items():
            entropy = one.id_entropy.sel(variant=variant, concept=concept)
            axis.plot(steps, entropy, color=colour, marker="o", ms=2, lw=1, label=concept)
    step_axis(axis, steps)
    figure.supxlabel("training step", fontsize=8)
    figure.supylabel("entropy over layers (bit)", fontsize=8)
    handles, labels = axes[variants[0]].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncol=min(9, len(labels)), handlelength=1)
    figure.set_size_inches(PAGE, 2.9)
    sns.despine(figure)
    return figure
