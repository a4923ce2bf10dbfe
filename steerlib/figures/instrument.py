"""Figures and the table of the instrument: ways of pushing at equal KL, and what cures do to interference."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from steerlib.figures.axes import NULL, PAGE, colours, dressed, handle

MEASURES = {
    "steerability": "steerability\n(nat per push)",
    "selectivity": "selectivity\n(nat per push)",
    "delta_nll": "ΔNLL of neutral text\n(nat)",
}
KINDS = {"method": "directions (added)", "operator": "operators", "cure": "cures"}
CLOSE = 0.5  # quantile of |cosine| above which a pair of concepts counts as close


def serious(compared: xr.Dataset) -> list[str]:
    """Concepts that there are: not the null."""
    return list(compared.concept.values[compared.role.values != "null"])


def at_equal_kl(compared: xr.Dataset) -> Figure:
    """Steerability, selectivity and side effect of every candidate: a dot a concept, a bar their mean.

    Grey: what 95 % of null draws stay below (band: isotropic; line: the method on shuffled labels).
    """
    real, rows, colour = serious(compared), np.arange(compared.sizes["candidate"]), colours(compared.concept)
    figure, axes = plt.subplots(1, len(MEASURES), figsize=(PAGE, 0.19 * len(rows) + 1.0), sharey=True)
    for axis, (measure, label) in zip(axes, MEASURES.items(), strict=True):
        values = compared[measure].transpose("candidate", "concept")
        for concept in colour:
            hollow = {} if concept in real else {"mfc": "none"}
            axis.plot(values.sel(concept=concept), rows, "o", color=colour[concept], ms=2.8, mew=0.8, **hollow)
        axis.plot(values.sel(concept=real).mean("concept"), rows, "|", color="0.1", ms=9, mew=1.4)
        axis.hlines(rows, 0, 1, transform=axis.get_yaxis_transform(), color="0.93", lw=0.5, zorder=0)
        axis.axvline(0, color="0.3", lw=0.6)
        axis.set_xlabel(label)
    null = compared.steerability_null.sel(concept=real)
    isotropic, shuffled = (null.isel(draw=(null["null"] == kind).values) for kind in ("random", "shuffled"))
    if isotropic.notnull().any():
        axes[0].axvspan(*np.nanquantile(isotropic, [0.05, 0.95]), color=NULL, alpha=0.3, lw=0, zorder=0)
    labelled = np.flatnonzero(shuffled.notnull().any(["concept", "draw"]))  # what has labels to shuffle
    if len(labelled):
        bound = shuffled.isel(candidate=labelled).quantile(0.95, ["concept", "draw"])
        axes[0].vlines(bound, labelled - 0.42, labelled + 0.42, color="0.45", lw=1, zorder=1)
    kinds = zip(compared.candidate.values, compared.kind.values, strict=True)
    axes[0].set_yticks(rows, [name.removeprefix(f"{kind} ") for name, kind in kinds])
    axes[0].invert_yaxis()
    beside = {"transform": axis.get_yaxis_transform(), "clip_on": False}  # of the last panel
    for kind, label in KINDS.items():
        if len(of_kind := np.flatnonzero(compared.kind == kind)):
            axis.plot([1.03, 1.03], [of_kind[0] - 0.35, of_kind[-1] + 0.35], color="0.3", lw=1, **beside)
            axis.text(1.06, of_kind.mean(), label, rotation=270, va="center", fontsize=7, **beside)
    handles = [handle(concept, ls="", marker="o", ms=3, color=colour[concept]) for concept in colour]
    return dressed(figure, handles=handles, handletextpad=0.1, columnspacing=1)


def cures(compared: xr.Dataset) -> Figure:
    """Off-target effect of every pair of serious concepts at equal KL, before and after each cure.

    Filled: pairs whose directions are close (|cosine| above the median). Below the diagonal the cure has helped. Where
    no push reaches the KL budget, as in an untrained model, there is nothing to show.
    """
    names = compared.candidate.values[compared.kind.values == "cure"]
    size = PAGE, PAGE / max(3, len(names)) + 0.3
    figure, axes = plt.subplots(1, len(names), figsize=size, sharex=True, sharey=True, squeeze=False)
    pairs = off_target(compared).dropna(subset=["before", "after"])
    colour, top = colours(compared.concept), 1.08 * np.max([*pairs.before, *pairs.after], initial=1e-9)
    for axis, name in zip(axes.flat, names, strict=True):
        cured = pairs[pairs.cure == name]
        axis.plot([0, top], [0, top], color="0.5", lw=0.7, ls=":")
        for (pushed, close), some in cured.groupby(["pushed", "close"], sort=False):
            face = colour[pushed] if close else "none"
            axis.plot(some.before, some.after, "o", mec=colour[pushed], mfc=face, ms=3.5, mew=0.9)
        close = cured[cured.close]
        share = f"{np.mean(close.after < close.before):.0%} of close pairs lower" if len(close) else "not reached"
        axis.set_title(f"{name.removeprefix('cure ')}\n{share}")
        axis.set(xlim=(0, top), ylim=(0, top), xlabel="before (nat per push)", box_aspect=1)
    axes[0, 0].set_ylabel("after (nat per push)")
    handles = [handle(name, ls="", marker="o", ms=3.5, color=colour[name]) for name in serious(compared)]
    look = {"ncol": len(handles), "handletextpad": 0.1, "columnspacing": 1}
    return dressed(figure, handles=handles, loc="outside lower center", **look)


def off_target(compared: xr.Dataset) -> pd.DataFrame:
    """|slope| of every other serious concept's readout, a row a cure and ordered pair: before, after, close."""
    real, reported = serious(compared), str(compared.reported.item())
    slopes = abs(compared.interference.sel(concept=real, readout_concept=real)).rename(readout_concept="read")
    cosine = abs(compared.cosine_concepts.sel(concept=real, concept_b=real)).rename(concept_b="read")
    after = slopes.isel(candidate=(compared.kind == "cure").values)
    pairs = xr.Dataset({"cosine": cosine, "before": slopes.sel(candidate=reported, drop=True), "after": after})
    order = ["candidate", "concept", "read"]
    pairs = pairs.reset_coords(drop=True).astype(float).to_dataframe(order).reset_index()
    pairs = pairs.rename(columns={"candidate": "cure", "concept": "pushed"}).query("pushed != read")
    pairs.insert(4, "close", pairs.cosine >= pairs.cosine.quantile(CLOSE))
    return pairs.reset_index(drop=True)


def table(compared: xr.Dataset, level: float = 0.05) -> pd.DataFrame:
    """A row a candidate, means over the serious concepts; and which others it seems to find."""
    real, discovered = serious(compared), compared.q_value < level
    columns = {"off_target": "off-target", "kl": "KL", "delta_nll": "ΔNLL", "auroc": "AUROC"}
    measures = ["steerability", "selectivity", *columns, "strength"]
    means = compared[measures].sel(concept=real).mean("concept").reset_coords(drop=True)
    rows = means.to_dataframe()[measures].rename(columns=columns)
    rows[f"found (of {len(real)})"] = discovered.sel(concept=real).sum("concept").values
    others = discovered.drop_sel(concept=real).transpose("candidate", "concept")
    rows["also"] = [", ".join(others.concept.values[row]) for row in others.values]
    return rows
