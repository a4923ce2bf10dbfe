"""What a sweep found: slopes of log-odds, what else they move, held against nulls; and which alpha to choose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from steerlib.numerics import statistics
from steerlib.study import Study


def own(values: xr.DataArray | xr.Dataset) -> xr.DataArray | xr.Dataset:
    """Each concept on its own readout: the diagonal of concept × readout_concept."""
    same = xr.DataArray(values.concept.values, dims="concept")
    diagonal = values.sel(concept=same, readout_concept=same).drop_vars("readout_concept")
    return diagonal.assign_coords(concept=values.concept)


def off_target(interference: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """mean over c′ ≠ c of |S[c, c′]|, how much a push moves readouts that are not its own; and S[c, c] less that.

    NaN of what was not pushed on the prompts of all of them, and of one concept alone. Where readouts are of texts, and
    per token, S is of whole texts: what is not of one unit has no mean.
    """
    whole = interference * interference.tokens
    sizes = abs(whole).where(whole.concept != whole.readout_concept, 0)
    others = sizes.sum("readout_concept", skipna=False) / (whole.sizes["readout_concept"] - 1 or np.nan)
    return others, own(whole) - others


def selective(interference: xr.DataArray, resamples: xr.DataArray) -> dict[str, xr.DataArray]:
    """`off_target` of slopes, with the interval of selectivity over ``resamples`` of their prompts."""
    off, own_less = off_target(interference)
    lower, upper = statistics.about(own_less, off_target(resamples)[1])
    return {"off_target": off, "selectivity": own_less, "selectivity_lower": lower, "selectivity_upper": upper}


def summarise(whole: xr.Dataset, study: Study) -> xr.Dataset:
    """Slopes over the linear window; validation prompts are there to choose by, test prompts to report."""
    finite = statistics.slope(whole.log_odds, study.sweep.window)
    whole["interference"] = finite.where(whole.split == "test").mean("prompt")
    mine = own(whole.assign(finite=finite))
    test, validation = mine.split == "test", mine.split == "validation"
    summary = whole.set_coords("split").assign(
        margin=mine.margin,
        margin_random=whole.margin.sel(probe="random", drop=True),
        local_slope=mine.local_slope,
        interference_local=whole.local_slope.sel(probe=study.emergence.method, drop=True),
        anti_steerable=_share_positive(-mine.finite.where(test)),
        monotonicity=statistics.monotonicity(mine.log_odds.where(test)).mean("prompt"),
        success_rate=_share_positive(mine.margin.where(test)),
        undo_error=whole.undo_error.max("readout_concept", skipna=False),
        margin_normalised=mine.margin_normalised,
        success_rate_normalised=_share_positive(mine.margin_normalised.where(test)),
        steerability_validation=mine.finite.where(validation).mean("prompt"),
    )
    for what in ("", "_lower", "_upper", "_null", "_null_validation"):
        summary[f"steerability{what}"] = mine[f"interference{what}"]
    if not mine.margin_normalised.notnull().any():  # no concept has items
        summary = summary.drop_vars(["margin_normalised", "success_rate_normalised"])
    summary = summary.assign(selective(whole.interference, whole.resamples))
    return summary.drop_vars(["interference_null_validation", "tokens", "resamples", "off_target"])


def against_nulls(swept: xr.Dataset, study: Study) -> xr.Dataset:
    """p-values of like with like: exact slopes, and for the analysis' method all of its shuffled draws."""
    swept, analysed = with_p_values(swept, swept.local_slope), {"probe": study.emergence.method}
    exact = swept.local_slope.sel(analysed, drop=True)
    p = statistics.against(exact, own(swept.interference_shuffled).rename(deal="draw"))
    return swept.assign(p_shuffled=swept.p_shuffled.where(swept["probe"] != study.emergence.method, p))


def with_p_values(result: xr.Dataset, slopes: xr.DataArray) -> xr.Dataset:
    """Of slopes against either kind of their null draws."""
    for kind in ("random", "shuffled"):
        result[f"p_{kind}"] = statistics.against(
            slopes, result.steerability_null.isel(draw=(result["null"] == kind).values)
        )
    return result


def _share_positive(values: xr.DataArray) -> xr.DataArray:
    """Of prompts that have a value. Where a margin is positive a target beats every foil: the answer is right."""
    return (values > 0).where(values.notnull()).mean("prompt")


def chosen_alpha(swept: xr.Dataset, allowed: xr.DataArray) -> xr.Dataset:
    """The positive alpha of greatest gain on validation prompts of those that are ``allowed``; NaN where none is.

    What is gained there is reported of test prompts.
    """
    log_odds, split = own(swept.log_odds), swept.split.rename(readout_concept="concept")
    means = (log_odds.where(split == name).mean("prompt") for name in ("validation", "test"))
    validation, test = (mean - mean.sel(alpha=0, drop=True) for mean in means)
    gain = validation.where((swept.alpha > 0) & allowed)
    index, some = gain.fillna(-np.inf).argmax("alpha"), gain.notnull().any("alpha")
    chosen = xr.Dataset({"chosen_alpha": swept.alpha[index], "chosen_gain": test.isel(alpha=index)})
    return chosen.where(some).drop_vars("alpha")


def recommended_alpha(swept: xr.Dataset, study: Study) -> xr.DataArray:
    """The alpha of greatest gain on validation prompts that surely keeps to both budgets of the sweep.

    Surely: by the upper bounds over validation passages, as of few a mean below the budget tells little. Where none
    surely keeps to that of the loss, which varies much from passage to passage, it is the weakest that keeps to that of
    KL: what it does to the loss is asked of the test passages.
    """
    plan = study.sweep
    some = plan.neutral_texts // 3 >= statistics.FEW  # so many are for validation (`prompt_split`)
    cheap = (swept.alpha > 0) & (swept.kl_validation_upper <= plan.kl_budget) & some
    sure = cheap & (swept.delta_nll_validation_upper <= plan.nll_budget)
    weakest = swept.alpha == swept.alpha.where(cheap).min("alpha")
    return chosen_alpha(swept, sure | (weakest & ~sure.any("alpha"))).chosen_alpha


# --- where to push --------------------------------------------------------------------------------------------------


def pushed_layer(swept: xr.Dataset) -> xr.DataArray:
    """Of every direction, the layer of greatest exact slope on validation prompts."""
    return statistics.best_layer(swept.local_slope_validation)


def near(chosen: xr.DataArray, probes: xr.Dataset, study: Study) -> xr.DataArray:
    """Where each direction is pushed: at its layer and so many on either side (`sweep.neighbours`).

    The two nulls likewise, and one of shuffled labels as well at the layer of what it is shown beside: of the
    analysis' direction of its concept.
    """
    place = xr.DataArray(np.arange(probes.sizes["layer"]), {"layer": probes.layer.values}, ["layer"])
    if study.sweep.neighbours == "all":
        return xr.ones_like(place, bool) & xr.ones_like(chosen, bool)
    there = abs(place - place.sel(layer=chosen).drop_vars("layer")) <= study.sweep.neighbours
    analysed = place.layer == chosen.sel(probe=study.emergence.method, drop=True)
    return there | (analysed & (there["probe"] == "shuffled"))


def beside(chosen: xr.DataArray, read: Sequence[str], probes: xr.Dataset, study: Study) -> xr.DataArray:
    """Where random directions are pushed as well, on the prompts of the concepts ``read`` there: at any method's
    layer for one of these, as its gain is held against the greatest of theirs. What they cost there, nobody asks."""
    here = chosen.sel(probe=study.probes.names, concept=chosen.concept.isin(read))  # of others nothing is pushed
    centres = (probes.layer == here).any(["probe", "concept"])
    return centres & (chosen["probe"] == "random") & xr.ones_like(chosen, bool)
