"""Figures and the table of the instrument: ways of pushing at equal KL, and what cures do to interference."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from steerlib.figures import NULL, PAGE, colours

KINDS = {"method": "directions (added)", "operator": "operators", "cure": "cures"}
CLOSE = 0.5  # quantile of |cosine| above which a pair of concepts counts as close


def serious(found: xr.Dataset) -> list[str]:
    """Concepts that there are: not the null."""
    return [name for name, role in zip(found.concept.values, found.role.values, strict=True) if role != "null"]


def at_equal_kl(found: xr.Dataset) -> Figure:
    """Steerability, selectivity and side effect of every candidate: a dot a concept, a bar their mean.

    Grey: what 95 % of null draws stay below (band: isotropic; line: the method on shuffled labels).
    """
    measures = {
        "steerability": "steerability\n(nat per push)",
        "selectivity": "selectivity\n(nat per push)",
        "delta_nll": "ΔNLL of neutral text\n(nat)",
    }
    names = list(found.candidate.values)
    figure, axes = plt.subplots(1, len(measures), figsize=(PAGE, 0.19 * len(names) + 1.0), sharey=True)
    for axis, (measure, label) in zip(axes, measures.items(), strict=True):
        _rows(axis, found, measure)
        axis.set_xlabel(label)
        axis.axvline(0, color="0.3", lw=0.6)
    _null_band(axes[0], found)
    axes[0].set_yticks(range(len(names)), [name.removeprefix(f"{kind} ") for name, kind in _kinds(found)])
    axes[0].invert_yaxis()
    _name_kinds(axes[-1], found)
    colour = colours(list(found.concept.values))
    handles = [plt.Line2D([], [], ls="", marker="o", ms=3, color=colour[c], label=c) for c in found.concept.values]
    look = {"ncol": min(9, len(handles)), "handletextpad": 0.1, "columnspacing": 1}
    figure.legend(handles=handles, loc="outside upper center", **look)
    sns.despine(figure)
    return figure


def _kinds(found: xr.Dataset) -> list[tuple[str, str]]:
    return list(zip(found.candidate.values, found.kind.values, strict=True))


def _rows(axis: Axes, found: xr.Dataset, measure: str) -> None:
    """One row a candidate."""
    colour, real, rows = colours(list(found.concept.values)), serious(found), np.arange(found.sizes["candidate"])
    values = found[measure].transpose("candidate", "concept")
    for concept in found.concept.values:
        hollow = {} if concept in real else {"mfc": "none"}
        axis.plot(values.sel(concept=concept), rows, "o", color=colour[concept], ms=2.8, mew=0.8, **hollow)
    axis.plot(values.sel(concept=real).mean("concept"), rows, "|", color="0.1", ms=9, mew=1.4)
    axis.hlines(rows, 0, 1, transform=axis.get_yaxis_transform(), color="0.93", lw=0.5, zorder=0)


def _null_band(axis: Axes, found: xr.Dataset) -> None:
    """Of the serious concepts' null draws, isotropic and shuffled."""
    null = found.steerability_null.sel(concept=serious(found))
    isotropic, shuffled = (null.isel(draw=(null["null"] == kind).values) for kind in ("random", "shuffled"))
    if isotropic.notnull().any():
        axis.axvspan(*np.nanquantile(isotropic, [0.05, 0.95]), color=NULL, alpha=0.3, lw=0, zorder=0)
    rows = np.flatnonzero(shuffled.notnull().any(["concept", "draw"]))  # what has labels to shuffle
    if len(rows):
        bound = shuffled.isel(candidate=rows).quantile(0.95, ["concept", "draw"])
        axis.vlines(bound, rows - 0.42, rows + 0.42, color="0.45", lw=1, zorder=1)


def _name_kinds(axis: Axes, found: xr.Dataset) -> None:
    """Which rows are methods, operators and cures, at the right edge."""
    kinds = found.kind.values
    for kind, label in KINDS.items():
        rows = np.flatnonzero(kinds == kind)
        if len(rows):
            beside = {"transform": axis.get_yaxis_transform(), "clip_on": False}
            axis.plot([1.03, 1.03], [rows[0] - 0.35, rows[-1] + 0.35], color="0.3", lw=1, **beside)
            axis.text(1.06, rows.mean(), label, rotation=270, va="center", fontsize=7, **beside)


def cures(found: xr.Dataset) -> Figure:
    """Off-target effect of every pair of serious concepts at equal KL, before and after each cure.

    Filled: pairs whose directions are close (|cosine| above the median). Below the diagonal the cure has helped. Where
    no push reaches the KL budget, as in an untrained model, there is nothing to show.
    """
    names = [name for name, kind in _kinds(found) if kind == "cure"]
    size = PAGE, PAGE / max(3, len(names)) + 0.3
    figure, axes = plt.subplots(1, len(names), figsize=size, sharex=True, sharey=True, squeeze=False)
    pairs = off_target(found)
    pairs = pairs.dropna(subset=["before", "after"])
    colour, top = colours(list(found.concept.values)), 1.08 * np.max([*pairs.before, *pairs.after], initial=1e-9)
    for axis, name in zip(axes.flat, names, strict=True):
        mine = pairs[pairs.cure == name]
        axis.plot([0, top], [0, top], color="0.5", lw=0.7, ls=":")
        for (pushed, close), some in mine.groupby(["pushed", "close"], sort=False):
            face = colour[pushed] if close else "none"
            axis.plot(some.before, some.after, "o", mec=colour[pushed], mfc=face, ms=3.5, mew=0.9)
        close = mine[mine.close]
        share = f"{np.mean(close.after < close.before):.0%} of close pairs lower" if len(close) else "not reached"
        axis.set_title(f"{name.removeprefix('cure ')}\n{share}")
        axis.set(xlim=(0, top), ylim=(0, top), xlabel="before (nat per push)", box_aspect=1)
    axes[0, 0].set_ylabel("after (nat per push)")
    handles = [plt.Line2D([], [], ls="", marker="o", ms=3.5, color=colour[c], label=c) for c in serious(found)]
    figure.legend(handles=handles, loc="outside lower center", ncol=len(handles), handletextpad=0.1, columnspacing=1)
    sns.despine(figure)
    return figure


def off_target(found: xr.Dataset) -> pd.DataFrame:
    """|slope| of every other serious concept's readout, a row a cure and ordered pair: before, after, close."""
    real, reported = serious(found), str(found.reported.item())
    cosine = abs(found.cosine_concepts.sel(concept=real, concept_b=real))
    apart = ~np.eye(len(real), dtype=bool)
    bound = np.quantile(cosine.values[apart], CLOSE)
    slopes = abs(found.interference.sel(concept=real, readout_concept=real))
    rows = [
        {
            "cure": name,
            "pushed": pushed,
            "read": read,
            "cosine": float(cosine.sel(concept=pushed, concept_b=read)),
            "close": bool(cosine.sel(concept=pushed, concept_b=read) >= bound),
            "before": float(slopes.sel(candidate=reported, concept=pushed, readout_concept=read)),
            "after": float(slopes.sel(candidate=name, concept=pushed, readout_concept=read)),
        }
        for name, kind in _kinds(found)
        if kind == "cure"
        for pushed in real
        for read in real
        if pushed != read
    ]
    return pd.DataFrame(rows)


def table(found: xr.Dataset, level: float = 0.05) -> pd.DataFrame:
    """A row a candidate, means over the serious concepts; and which others it seems to find."""
    real = serious(found)
    mean = lambda name: found[name].sel(concept=real).mean("concept").to_pandas()  # noqa: E731
    discovered = found.q_value < level
    others = [name for name in found.concept.values if name not in real]
    return pd.DataFrame(
        {
            "steerability": mean("steerability"),
            "selectivity": mean("selectivity"),
            "off-target": mean("off_target"),
            "KL": mean("kl"),
            "ΔNLL": mean("delta_nll"),
            "AUROC": mean("auroc"),
            "strength": mean("strength"),
            f"found (of {len(real)})": discovered.sel(concept=real).sum("concept").to_pandas(),
            "also": [", ".join(_found(discovered, candidate, others)) for candidate in found.candidate.values],
        }
    )


def _found(discovered: xr.DataArray, candidate: str, concepts: Sequence[str]) -> list[str]:
    return [name for name in concepts if bool(discovered.sel(candidate=candidate, concept=name))]
