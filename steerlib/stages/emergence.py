"""Notebook 4's computation: when each concept became separable, expressed and steerable, in which order, how surely.

Labelled arrays in, labelled arrays out; the rule is `steerlib.numerics.onsets`. Arrays may be such as are read from
disk when used (`steerlib.results.tree`): then one concept at a time is in memory. Nothing that is said of a checkpoint
hangs on a later one, but for its discovery rate, and for where half the way is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from zlib import crc32

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from steerlib.checkpoints.suites import starts_untrained
from steerlib.numerics import onsets, statistics
from steerlib.numerics.onsets import QUESTIONS, Measured, anywhere, seen_at
from steerlib.numerics.statistics import best, counts_of_units, interval, redrawn, resampled, spearman
from steerlib.stages.verdicts import gains, verdicts
from steerlib.study import Study
from steerlib.study.analysis import LENGTHS

MEASURES = ("separability", "expression", "steerability")
Values = Float[np.ndarray, "step layer unit refit"]


def analyse(probes: xr.Dataset, interventions: xr.Dataset, study: Study) -> xr.Dataset:
    """Schema `/emergence`, from the collected probes and interventions of a study."""
    swept, plan = interventions, study.emergence
    probes, interventions = (dataset.sel(probe=plan.method) for dataset in (probes, interventions))
    names = probes.concept.values
    seen = {name: measures(probes.sel(concept=name), of_concept(interventions, name), study) for name in names}
    slope_unit = interventions.slope.attrs.get("units", "nat per unit of alpha")
    whole, named = curves(seen, probes.concept, slope_unit, study)
    whole = whole.merge(lags(whole.step.values, named, whole.onset, plan.level, study.seed))
    whole = whole.merge(correlations(whole.value))
    layer = whole.layer_by_step
    of_steering = {"measure": "steerability"}
    frequency = probes.planted_frequency.values
    first = order(whole.step.values, named.sel(of_steering), whole.onset.sel(of_steering), frequency, plan.level)
    whole = whole.merge(first).merge(discoveries(interventions, whole.chosen_layer)).merge(gains(swept, layer, study))
    return whole.assign(readout=verdicts(probes)).assign_attrs(params=study.model_dump_json())


def curves(
    seen: Mapping[str, Mapping[str, tuple[Measured, dict]]],
    concept: xr.DataArray,
    slope_unit: str,
    study: Study,
    kinds: Sequence[str] = MEASURES,
) -> tuple[xr.Dataset, xr.DataArray]:
    """What is `seen` of every concept over training, judged; and onsets of every resample, over ``draw``."""
    plan, names = study.emergence, concept.values
    p = np.array([[one[measure][0].p_value for one in seen.values()] for measure in kinds])
    q = np.stack([statistics.family(of_measure) for of_measure in p])
    judged, draws = [], np.empty((len(kinds), len(names), len(QUESTIONS), plan.bootstrap))
    for k, measure in enumerate(kinds):
        of_measure = []
        for c, name in enumerate(names):
            measured, about = seen[name][measure]
            found, draws[k, c] = onsets.judge(measured, q[k, c], plan.level, plan.sustained, study.seed)
            least = np.broadcast_to(measured.least, found.step.shape)
            of_measure.append(found.assign(about | {"least": ("step", least)}))
        judged.append(xr.concat(of_measure, concept))
    whole = xr.concat(judged, xr.DataArray(list(kinds), dims="measure", name="measure"))
    whole = whole.assign_coords({name: ("concept", concept[name].values) for name in ("role", "planted_frequency")})
    units = {"separability": "AUROC", "expression": "rate gained", "steerability": slope_unit}
    whole = whole.assign_coords(unit=("measure", [units[measure] for measure in kinds]))
    layer = whole.layer.sel(measure="steerability", drop=True)
    whole = whole.drop_vars("layer").assign(layer_by_step=layer, chosen_layer=layer.isel(step=-1, drop=True))
    dims = ["measure", "concept", "question", "draw"]
    return whole, xr.DataArray(draws, {"measure": list(kinds), "concept": names}, dims)


# --- what each measure is of ------------------------------------------------------------------------------------------


def of_concept(interventions: xr.Dataset, name: str) -> xr.Dataset:
    """The interventions along a concept, on its own readout, in memory."""
    own = interventions.sel(concept=name, readout_concept=name)
    wanted = ["slope", "strength", "interference_shuffled", "steerability_shuffled_validation", "split"]
    return own.reset_coords("split")[wanted].compute()


def measures(probes: xr.Dataset, own: xr.Dataset, study: Study) -> dict[str, tuple[Measured, dict]]:
    """Every measure of a concept, and what else is told of it: floors, layers, units that were left out."""
    steps, plan, name = probes.step.values, study.emergence, probes.concept.item()
    least = plan.least
    words = float(probes.auroc_words.mean("fold").max("step"))  # no model is in them: of any step that has them

    def counts(units: np.ndarray | int, *purpose: str) -> Float[np.ndarray, "draw unit"]:
        # The same prompts have the same weights whatever concept they are asked about: orders are of joint resamples.
        seed = [study.seed, *(crc32(word.encode()) for word in purpose)]
        return counts_of_units(units, plan.bootstrap, seed, plan.level)

    slopes = _array(own.slope, "prompt", "refit")
    # Refits leave out a unit each of the texts that directions are fitted on. Concepts may have fewer than others.
    fits = (np.isfinite(slopes) | ~np.isfinite(slopes[..., :1])).all((0, 1, 2)) & np.isfinite(slopes).any((0, 1, 2))
    slopes = np.concatenate([slopes[..., :1], slopes[..., 1:][..., fits[1:]]], -1)
    fitted = slopes.shape[-1] - 1
    refits = counts(fitted, "refits", name)

    folds, dealt = _array(probes.auroc_redrawn, "fold", "redraw"), _array(probes.auroc_shuffled, "fold", "deal")
    exist, kept = whole_units(folds[..., 0])
    out = int((exist & ~kept).sum())
    folds, dealt = at_layers_of_others(folds[:, :, kept]), at_layers_of_others(dealt[:, :, kept], draws=True)
    untrained = bool(steps[0] == 0 and starts_untrained(study))
    observed = _mean(folds[..., 0])
    floors = {"baseline_words": words, "baseline_untrained": float(observed[0]) if untrained else np.nan}
    seed = [study.seed, crc32(name.encode()), 1]
    separability = Measured(
        steps,
        observed,
        redrawn(folds, counts(kept[exist], "folds"), fitted, seed, plan.level).clip(0, 1),
        _mean(dealt),
        int(kept.sum()),
        0.5 + least.separability,
        words if np.isfinite(words) else -np.inf,
        chance=0.5,
        untrained=untrained,
    )

    said, without = (probes[kind].transpose("step", "prompt").values for kind in ("expression", "expression_null"))
    # How much more often with evidence than without: by which words come first anyway, it would come and go.
    more = said - without
    exist, audible = whole_units(more[:, None])
    unsaid = int((exist & ~audible).sum())
    turned = np.random.default_rng(study.seed).choice([-1.0, 1.0], (plan.shuffled, int(audible.sum())))
    expression = Measured(
        steps,
        _mean(more[:, audible]),
        resampled(more[:, audible, None], counts(audible[exist], "texts"), refits[:, :0]),
        _mean(more[:, None, audible] * turned, 2),
        int(audible.sum()),
        least.expression,
    )

    parts = {}
    for split in ("validation", "test"):
        of_split = slopes[:, :, (own.split == split).values]
        exist, moved = whole_units(of_split[..., 0])
        values, unmoved = of_split[:, :, moved], int((exist & ~moved).sum())
        weights = counts(moved[exist], "prompts", split)
        parts[split] = _mean(values[..., 0], 2), resampled(values, weights, refits), int(moved.sum())
    layer, layers = (best(parts["validation"][k], -1) for k in range(2))
    null = _array(own.interference_shuffled, "deal")
    null_layer = best(_array(own.steerability_shuffled_validation, "deal"), 1)
    # Whatever alpha counts, the least effect is that of a push as long as the state, if it is a length; and of texts it
    # is that on the whole of them, while their log-odds are per token.
    pushed = own.strength / (probes.residual_norm if study.sweep.operator in LENGTHS else 1.0)
    steerability = Measured(
        steps,
        _taken(parts["test"][0], layer, 1),
        _taken(parts["test"][1], layers, 2),
        _taken(null, null_layer, 1),
        parts["test"][2],
        least.steerability / probes.readout_tokens.values * _taken(_array(pushed), layer, 1),
    )
    nowhere, chosen = dict.fromkeys(floors, np.nan), {"layer": ("step", probes.layer.values[layer])}
    return {
        "separability": (separability, floors | chosen | {"left_out": out}),
        "expression": (expression, nowhere | chosen | {"left_out": unsaid}),
        "steerability": (steerability, nowhere | chosen | {"left_out": unmoved}),
    }


def whole_units(values: Float[np.ndarray, "step layer unit"]) -> tuple[np.ndarray, np.ndarray]:
    """Which units exist, and which of them have a value wherever any has one: the others are left out everywhere.

    So that all checkpoints are of the same units. A checkpoint, or a layer of it, without any is not there.
    """
    there = ~np.isnan(values)
    exist = there.any((0, 1))
    return exist, exist & there[there.any(2)].all(0)


def at_layers_of_others(values: Values, draws: bool = False) -> Float[np.ndarray, "step unit k"]:
    """Each held-out template at the layer that the others choose, at its own checkpoint: the one of greatest AUROC.

    So no template has a say in where it is looked at, unless it is the only one. Refits go by the layer of refit 0, and
    null ``draws`` each by their own, lest choosing look like separating.
    """
    folds = values.shape[2]
    others = values.sum(2, keepdims=True) - values if folds > 1 else values
    layer = best(others if draws else others[..., :1], 1)
    return np.take_along_axis(values, layer[:, None], 1)[:, 0]


def _mean(values: np.ndarray, axis: int = 1) -> np.ndarray:
    """Over units; NaN where there are none."""
    return values.mean(axis) if values.shape[axis] else np.full(np.delete(values.shape, axis), np.nan)


def _array(values: xr.DataArray, *dims: str) -> Float[np.ndarray, "step layer ..."]:
    return values.transpose("step", "layer", *dims).values.astype(float)


def _taken(values: np.ndarray, layer: Int[np.ndarray, "..."], axis: int) -> np.ndarray:
    """Values at a layer each."""
    return np.take_along_axis(values, np.expand_dims(layer, axis), axis).squeeze(axis)


# --- what is said of all ----------------------------------------------------------------------------------------------


def order(
    steps: np.ndarray, draws: xr.DataArray, onset: xr.DataArray, frequency: Float[np.ndarray, " concept"], level: float
) -> xr.Dataset:
    """Which concept came first, by either answer: P(row before column) over joint resamples, and how often they tie.

    They tie where they are first seen at the same checkpoint, both are not reached, or both were there from the start.
    ``tau``: Kendall's τ_b of planted frequency and earliness so counted, with its interval; not reached comes last.
    """
    d, observed = (seen_at(steps, of.transpose("question", "concept", ...).values) for of in (draws, onset))
    pairs = np.stack([(row[:, None] < row[None], row[:, None] == row[None]) for row in d]).astype(float).mean(-1)
    unknown = np.isnan(d).any(-1)
    pairs[np.broadcast_to((unknown[:, :, None] | unknown[:, None])[:, None], pairs.shape)] = np.nan
    pairs[..., np.arange(d.shape[1]), np.arange(d.shape[1])] = np.nan
    planted = np.isfinite(frequency)
    taus = np.array([kendall(frequency[planted], row[planted].T) for row in d])
    bounds = np.array([interval(row, level) if not np.isnan(row).any() else (np.nan, np.nan) for row in taus])
    return xr.Dataset(
        {
            "before": (["question", "concept", "concept_b"], pairs[:, 0]),
            "tied": (["question", "concept", "concept_b"], pairs[:, 1]),
            "tau": ("question", kendall(frequency[planted], observed[:, planted])),
            "tau_lower": ("question", bounds[:, 0]),
            "tau_upper": ("question", bounds[:, 1]),
        },
        {"concept": draws.concept.values, "concept_b": draws.concept.values, "question": list(QUESTIONS)},
    )


def kendall(frequency: Float[np.ndarray, " c"], onset: Float[np.ndarray, "draw c"]) -> Float[np.ndarray, " draw"]:
    """τ_b of frequency and earliness of every draw; NaN where either does not vary, or an onset cannot be told."""
    first, second = np.triu_indices(len(frequency), 1)
    more = np.sign(frequency[first] - frequency[second])
    earlier = (onset[:, first] < onset[:, second]).astype(float) - (onset[:, first] > onset[:, second])
    with np.errstate(invalid="ignore"):
        tau = (more * earlier).sum(1) / np.sqrt((more**2).sum() * (earlier**2).sum(1))
    return np.where(np.isnan(onset).any(1), np.nan, tau)


def lags(steps: np.ndarray, draws: xr.DataArray, onset: xr.DataArray, level: float, seed: int) -> xr.Dataset:
    """How much later steerability than separability, in steps, by either answer; NaN where one of them is no step.

    In its interval each onset lies anywhere between the two checkpoints around it, as nothing was seen there.
    """
    drawn = draws.copy(data=anywhere(steps, draws.values, np.random.default_rng(seed)))
    lag, drawn = (of.sel(measure="steerability") - of.sel(measure="separability") for of in (onset, drawn))
    lag = lag.where(np.isfinite(lag))
    there = np.isfinite(lag) & drawn.notnull().all("draw")
    lower, upper = xr.apply_ufunc(
        lambda values: interval(np.moveaxis(values, -1, 0), level),
        drawn,
        input_core_dims=[["draw"]],
        output_core_dims=[[], []],
    )
    return xr.Dataset({"lag": lag, "lag_lower": lower.where(there), "lag_upper": upper.where(there)})


def correlations(value: xr.DataArray) -> xr.Dataset:
    """How separability and steerability go together over steps. Two rising curves always do, so also their changes."""
    first, last = (value.sel(measure=measure).transpose("concept", "step").values for measure in MEASURES[::2])
    pairs = list(zip(first, last, strict=True))
    return xr.Dataset(
        {
            "rank_correlation": ("concept", [spearman(a, b) for a, b in pairs]),
            "rank_correlation_detrended": ("concept", [spearman(np.diff(a), np.diff(b)) for a, b in pairs]),
        }
    )


def discoveries(interventions: xr.Dataset, layer: xr.DataArray) -> xr.Dataset:
    """What is more than directions from shuffled labels do: q-values over all cells.

    Of steerability at every layer and checkpoint; and, either way, of all readouts that a push moves at the final one.
    """
    last = interventions[["interference_local", "interference_shuffled"]].isel(step=-1)
    last = last.sel(layer=layer).transpose("concept", "readout_concept", ...).compute()
    p = statistics.exceedance(abs(last.interference_local.values), abs(last.interference_shuffled.values))
    q = statistics.false_discovery(p)
    cells = interventions.p_shuffled.transpose("concept", "layer", "step").compute()
    dims = ["concept", "readout_concept"]
    return xr.Dataset(
        {"interference_q": (dims, q), "q_shuffled": (cells.dims, statistics.false_discovery(cells.values))},
        {"readout_concept": last.readout_concept.values, "layer": cells.layer.values},
    )
