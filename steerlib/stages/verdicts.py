"""What is said of a readout, by its numbers, and of what a push gains on it."""

from __future__ import annotations

from collections.abc import Mapping
from zlib import crc32

import numpy as np
import xarray as xr
from jaxtyping import Float

from steerlib.numerics import statistics
from steerlib.study import Study

# Words that together have less than a thousandth of the probability, and of which the best is not among the hundred
# likeliest, are never said there: log-odds between them are of what the model does not weigh.
SHARE, RANK = 0.001, 100
# Of two pairs of texts three in five lean the right way together: less is hardly more than chance, one half.
MOVED = 0.6
NUMBERS = ("readout_share", "readout_rank", "readout_auroc", "readout_auroc_lower")
FEW = 0.02  # of what is written: more rarely than one text in fifty, or always but for one in fifty
FITS = "fits"


def verdict(numbers: Mapping[str, float], role: str = "concept") -> str:
    """ "fits", or "weak: " and why. What a null concept is asked must not be moved by anything."""
    share, rank, auroc, lower = (float(numbers[name]) for name in NUMBERS)
    reasons = []
    if share < SHARE and rank > RANK:
        reasons.append(
            f"its prompts hardly lead to its words ({100 * share:.2g} % of the probability; the best is no. {rank:.0f})"
        )
    if rank != rank and not FEW <= share <= 1 - FEW:  # no words are asked for, and what is written is judged
        reasons.append(f"of what it writes, {100 * share:.1f} % is the concept's to the judge")
    if role != "null" and not (auroc >= MOVED and lower > 0.5):
        measured = (
            f"AUROC {auroc:.2f}, its interval from {lower:.2f}" if auroc == auroc else "no text fits before a prompt"
        )
        reasons.append(f"evidence hardly moves it ({measured})")
    return f"weak: {'; '.join(reasons)}" if reasons else FITS


def width(slopes: Float[np.ndarray, " prompt"], prompts: int) -> float:
    """Of the 95 % interval of their mean over so many prompts."""
    return 2 * 1.96 * float(np.std(slopes, ddof=1)) / prompts**0.5


def enough(slopes: Float[np.ndarray, " prompt"], wide: float) -> int:
    """Prompts over which that interval is so wide."""
    return max(3, int(np.ceil((width(slopes, 1) / wide) ** 2)))


def verdicts(probes: xr.Dataset) -> xr.DataArray:
    """Of every concept, by the last checkpoint."""
    last = probes[list(NUMBERS)].isel(step=-1).compute()
    of = [verdict(last.sel(concept=name), str(last.role.sel(concept=name).item())) for name in last.concept.values]
    return xr.DataArray(np.array(of, dtype=object), {"concept": last.concept.values}, ["concept"])


def came_first(margin: xr.DataArray, test: xr.DataArray) -> xr.DataArray:
    """On which test prompts a target beats every foil."""
    return (margin > 0).where(margin.notnull() & test)


def gained(margin: xr.DataArray, test: xr.DataArray, alpha: xr.DataArray) -> xr.DataArray:
    """On which it does so at an alpha and not unsteered, 1, or the other way round, -1; NaN where there is no alpha."""
    first = came_first(margin, test)
    return (first.sel(alpha=alpha.fillna(0)) - first.sel(alpha=0)).where(alpha.notnull())


def gains(swept: xr.Dataset, layer: xr.DataArray, study: Study) -> xr.Dataset:
    """What a push does to the share of test prompts on which a target comes first, with its interval over prompts.

    At each checkpoint's own layer and at the alpha that validation prompts choose there, NaN where none is within the
    KL budget. ``gain_null``: what a random direction does to it at that alpha; ``unsteered``: the share without.
    """
    plan, of_concepts = study.emergence, []
    both = swept[["margin", "chosen_alpha"]].sel(probe=[plan.method, "random"])
    for name in layer.concept.values:
        here = both.sel(concept=name).compute()
        here = here.sel(layer=layer.sel(concept=name, drop=True))
        alpha = here.chosen_alpha.sel(probe=plan.method, drop=True)
        test = swept.split.sel(readout_concept=name, drop=True) == "test"
        gain_of, first = gained(here.margin, test, alpha), came_first(here.margin, test)
        found, seed = {}, [study.seed, crc32(b"gains")]
        for gain, probe in (("gain", plan.method), ("gain_null", "random")):
            of_probe = gain_of.sel(probe=probe, drop=True)
            bounds = statistics.mean_interval(of_probe, "prompt", plan.bootstrap, seed, plan.level)
            found |= {gain: of_probe.mean("prompt")}
            bounds = [end.clip(-1, 1) for end in bounds]  # no more than all prompts
            found |= dict(zip((f"{gain}_lower", f"{gain}_upper"), bounds, strict=True))
        found["unsteered"] = first.sel(alpha=0, probe=plan.method, drop=True).mean("prompt")
        of_concepts.append(xr.Dataset(found).reset_coords(drop=True))
    return xr.concat(of_concepts, layer.concept)
