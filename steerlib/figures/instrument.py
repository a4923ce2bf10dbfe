"""Figures and the table of the instrument: ways of pushing at equal KL, and what cures do to interference."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from steerlib.figures.axes import guide, vertical
from steerlib.figures.look import GUIDE, INTERVAL, NULL, PAGE, dressed, looks, params_of

MEASURES = {"steerability": "steerability", "selectivity": "selectivity", "delta_nll": "ΔNLL of neutral text"}
PUSHED = "each concept at the layer that validation prompts choose"
CLOSE = 0.5  # quantile of |cosine| above which a pair of concepts counts as close


def serious(compared: xr.Dataset) -> list[str]:
    """Concepts that there are: not the null."""
    return list(compared.concept.values[compared.role.values != "null"])


def a_push(compared: xr.Dataset) -> str:
    """What slopes are per."""
    budget = params_of(compared).get("sweep", {}).get("kl_budget")
    return f"a push costs {f'{budget:g} nat of KL' if budget else 'the KL budget'} on neutral text"


def at_equal_kl(compared: xr.Dataset) -> Figure:
    """Steerability, selectivity and side effect of every candidate: a mark a concept, a bar their mean.

    Grey: what 95 % of null draws stay below (band: isotropic; line: the method on shuffled labels). With intervals over
    prompts, of ΔNLL over passages.
    """
    real, rows, look = serious(compared), np.arange(compared.sizes["candidate"]), looks(compared.concept)
    figure, axes = plt.subplots(1, len(MEASURES), figsize=(PAGE, 0.26 * len(rows) + 0.5), sharey=True)
    places = dict(zip(look, np.linspace(-0.36, 0.36, len(look) + 2)[1:-1], strict=True))
    for axis, (measure, label) in zip(axes, MEASURES.items(), strict=True):
        values = compared[measure].transpose("candidate", "concept")
        for concept, own in look.items():
            y, hollow = rows + places[concept], {} if concept in real else {"mfc": "none"}
            axis.plot(values.sel(concept=concept), y, **own, ls="", ms=2.8, mew=0.6, **hollow, label=concept)
            lower, upper = (compared[f"{measure}_{end}"].sel(concept=concept) for end in ("lower", "upper"))
            axis.hlines(y, lower, upper, color=own["color"], lw=0.6, label=INTERVAL)
        if len(real) > 1:
            mean = values.sel(concept=real).mean("concept")
            axis.plot(mean, rows, "|", color="0.1", ms=11, mew=1.2, label="mean, of no null concept")
        for row in rows[:-1]:
            guide(axis, row + 0.5)
        vertical(axis, 0, color="0.4", lw=0.6, label=GUIDE)
        axis.set_xlabel(f"{label}\n({values.attrs.get('units', 'nat')})")
    null = compared.steerability_null.sel(concept=real)
    isotropic, shuffled = (null.isel(draw=(null["null"] == kind).values) for kind in ("random", "shuffled"))
    if isotropic.notnull().any():
        ends = np.nanquantile(isotropic, [0.05, 0.95])
        axes[0].axvspan(*ends, color=NULL, alpha=0.3, lw=0, zorder=0, label="isotropic directions, 90 % within")
    labelled = np.flatnonzero(shuffled.notnull().any(["concept", "draw"]))  # what has labels to shuffle
    if len(labelled):
        bound, ends = shuffled.isel(candidate=labelled).quantile(0.95, ["concept", "draw"]), (-0.42, 0.42)
        told = "95th percentile of shuffled labels"
        axes[0].vlines(bound, *(labelled + end for end in ends), color=NULL, lw=1.2, zorder=1, label=told)
    names = zip(compared.candidate.values, compared.kind.values, strict=True)
    axes[0].set_yticks(rows, [name if kind != "method" else f"direction {name}" for name, kind in names])
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    said = "hollow: a null concept, which means nothing; " if len(real) < len(look) else ""
    said += f"{a_push(compared)}; intervals: over prompts, of ΔNLL over passages; grey, the null, is of steerability"
    if compared[list(MEASURES)].isnull().any().to_array().any():
        said += "; no mark: no push reaches that, or (selectivity) there is no other concept"
    return dressed(figure, compared, PUSHED, None, said)


def cures(compared: xr.Dataset) -> Figure:
    """Off-target effect of every pair of serious concepts at equal KL, before and after each cure.

    Filled: pairs whose directions are close (|cosine| above the median). Below the diagonal the cure has helped. Where
    no push reaches the KL budget, as in an untrained model, there is nothing to show.
    """
    names = compared.candidate.values[compared.kind.values == "cure"]
    size = PAGE, PAGE / max(3, len(names)) + 0.6
    figure, axes = plt.subplots(1, len(names), figsize=size, sharex=True, sharey=True, squeeze=False)
    pairs = off_target(compared).dropna(subset=["before", "after"])
    unit = compared.interference.attrs["units"]
    look, top = looks(compared.concept), 1.08 * np.max([*pairs.before, *pairs.after], initial=0) or 1
    for pushed in pairs.pushed.unique():  # also one that has no close pair is named
        axes[0, 0].plot([], [], **look[pushed], ls="", ms=3.5, label=f"{pushed} pushed")
    for axis, name in zip(axes.flat, names, strict=True):
        cured = pairs[pairs.cure == name]
        axis.plot([0, top], [0, top], color="0.4", lw=0.7, ls=":", label="no change")
        for (pushed, close), some in cured.groupby(["pushed", "close"], sort=False):
            dress = {**look[pushed], "ls": "", "ms": 3.5, "mew": 0.8} | ({} if close else {"mfc": "none"})
            axis.plot(some.before, some.after, **dress, label=f"{pushed} pushed" if close else "hollow: not close")
        close = cured[cured.close]
        share = f"{100 * np.mean(close.after < close.before):.0f} % of close pairs lower" if len(close) else "no pair"
        axis.set_title(f"{name.removeprefix('cure ')}\n{share}")
        axis.set(xlim=(0, top), ylim=(0, top), xlabel=f"before ({unit})", box_aspect=1)
    axes[0, 0].set_ylabel(f"after ({unit})")
    said = "a mark a pair: what a push does to another concept's words; filled: |cosine| of the two above the median; "
    said += f"{a_push(compared)}; no intervals, as pairs share directions and prompts: read the cloud, not a mark"
    if pairs.empty:
        said += "; no pair: there is one concept, or no push reaches the KL budget"
    return dressed(figure, compared, PUSHED, str(compared.reported.item()), said)


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
