"""Notebook 7's computation: may this checkpoint be pushed along this concept, how hard, and what speaks against it?

A pure function of what was collected of a study. Criteria and their words are in `steerlib.stages.criteria`; both they
and the verdict are ours.
"""

from __future__ import annotations

from zlib import crc32

import numpy as np
import xarray as xr
from scipy.stats import binomtest

from steerlib.numerics import statistics
from steerlib.numerics.statistics import FEW, best_layer
from steerlib.stages.criteria import CRITERIA, ENDS, LEVELS, PASS
from steerlib.stages.effects import off_target, own, pushed_layer, recommended_alpha
from steerlib.stages.verdicts import FITS, NUMBERS, gained, verdict
from steerlib.study import Study
from steerlib.study.analysis import LENGTHS, Readiness

PUSHED = ("log_odds", "margin", "steerability", "steerability_lower", "steerability_upper", "anti_steerable")
PUSHED += ("kl_validation_upper", "delta_nll_validation_upper", "undo_error", "strength")
PUSHED += tuple(f"{name}{end}" for name in ("kl", "delta_nll") for end in ("", "_lower", "_upper"))
READ = (*PUSHED, "margin_random", "local_slope_validation", "steerability_null", "steerability_null_validation")
# Of these judges the first that knows a concept says whether a text shows it, and how well it is written.
JUDGES = {"text": ("classifier", "planted", "own_words", "targets"), "fluent": ("understood", "distinct_2")}
Rows = dict[str, list[xr.DataArray | float]]  # of a criterion: value, lower, upper, threshold


def judge(
    probes: xr.Dataset,
    interventions: xr.Dataset,
    emergence: xr.Dataset,
    study: Study,
    generations: xr.Dataset | None = None,
) -> xr.Dataset:
    """Schema `/readiness`: verdict, criteria and recommended alpha of every checkpoint, concept and method.

    Each at the layer that validation prompts choose there, and at the alpha of their greatest gain within the budgets
    on validation passages; all that is reported is of test ones.
    """
    parts, asked = [], study.readiness or Readiness()
    for step in interventions.step.values:
        at, read, emerged = (of.sel(step=step) for of in (interventions, probes, emergence))
        written = generations.sel(step=step) if generations is not None and step in generations.step else None
        parts.append(_at_step(at, read, emerged, study, asked, written))
    found = xr.concat(parts, interventions.step)
    outcome = xr.concat([_outcomes(found, name) for name in CRITERIA], found.criterion)
    lasting = _in_a_row((outcome.sel(criterion=["effect", "size"]) == PASS).all("criterion"))
    known = (lasting >= asked.lasting) | (xr.DataArray(np.arange(1, len(found.step) + 1), dims="step") > lasting)
    for name, values in (*((end, lasting.where(known)) for end in ENDS), ("threshold", asked.lasting)):
        found[name].loc[{"criterion": "lasting"}] = values
    outcome.loc[{"criterion": "lasting"}] = _outcomes(found, "lasting")
    level = xr.DataArray([LEVELS.index(one.level) for one in CRITERIA.values()], dims="criterion")
    missed = level.where(outcome != PASS, len(LEVELS))  # the level that each criterion keeps a cell from
    reached = missed.min("criterion") - 1
    first = np.array([*CRITERIA, ""], object)[missed.argmin("criterion").where(reached < len(LEVELS) - 1, -1).values]
    judged = {"verdict": np.array(LEVELS, object)[reached.values], "held_back": first}
    found = found.assign(outcome=outcome, **{name: (reached.dims, values) for name, values in judged.items()})
    found = found.assign_coords({name: ("concept", probes[name].values) for name in ("role", "planted_frequency")})
    return found.assign_attrs(params=study.model_dump_json())


def _outcomes(found: xr.Dataset, name: str) -> xr.DataArray:
    of = found[[*ENDS, "threshold"]].sel(criterion=name)
    return of.value.copy(data=CRITERIA[name].outcome(*(of[each].values for each in of)).astype(object))


def _in_a_row(holds: xr.DataArray) -> xr.DataArray:
    """Checkpoints up to each, without a gap, at which it holds."""
    counts = holds.transpose("step", ...).astype(float)
    for step in range(1, len(counts)):
        counts[step] += counts[step - 1] * counts[step]
    return counts


def _at_step(
    at: xr.Dataset,
    read: xr.Dataset,
    emerged: xr.Dataset,
    study: Study,
    asked: Readiness,
    written: xr.Dataset | None,
) -> xr.Dataset:
    """All that is asked of one checkpoint: value, interval and threshold, by criterion, concept and method."""
    names, method = study.probes.names, study.emergence.method
    at = at[[*READ]].sel(probe=[*names, "random"]).compute()
    layer = pushed_layer(at.sel(probe=names))
    # Of the analysis' method, the layer that all of the analysis is of.
    layer = layer.where(layer["probe"] != method, emerged.layer_by_step.drop_vars("step", errors="ignore")).astype(int)
    alpha = recommended_alpha(at[[*PUSHED]].sel(probe=names).sel(layer=layer), study)
    rule = emerged.sel(measure="steerability").rename(value_lower="lower", value_upper="upper")
    return numbers(at, read, rule, layer, alpha, study, asked, written)


def numbers(
    at: xr.Dataset,
    read: xr.Dataset,
    rule: xr.Dataset,
    layer: xr.DataArray,
    alpha: xr.DataArray,
    study: Study,
    asked: Readiness,
    written: xr.Dataset | None,
) -> xr.Dataset:
    """Of pushes at these layers and alphas: value, interval and threshold, by criterion, concept and method.

    ``rule`` is what the analysis says of those along its method: their value, its ends, the bar and the p-value.
    """
    names, plan = study.probes.names, study.emergence
    here = at[[*PUSHED]].sel(probe=names).sel(layer=layer)
    read = read.assign(tokens=read.readout_tokens.rename(concept="readout_concept")).sel(concept=here.concept)
    size = zip((rule.value, rule.lower, rule.upper, rule.bar), _size(here, read, layer, study), strict=True)
    cost = here.sel(alpha=alpha.fillna(0)).where(alpha.notnull())
    rows: Rows = {
        "effect": _exact(_q_values(at, here, rule.p_value, study), round(1 - plan.level, 9)),
        "size": [xr.where(here["probe"] == plan.method, *pair) for pair in size],
        "one sign": [*_wrong_way(here, plan.level), asked.wrong_way],
        "selective": [*_off_target(here, read, study), asked.off_target],
        "kl": [*(cost[f"kl{end}"] for end in ("", "_lower", "_upper")), asked.kl],
        "nll": [*(cost[f"delta_nll{end}"] for end in ("", "_lower", "_upper")), asked.nll],
        "readout": _exact(_answers(read), 1),
        "lasting": _exact(xr.full_like(alpha, np.nan), np.nan),
        "gain": _gain(at, here, alpha, layer, study, asked.gain),
        "undo": _exact(here.undo_error, asked.undo),
    }
    rows |= _texts(written, alpha, layer, study, asked)
    dims, sizes = ["concept", "probe"], {dim: alpha.sizes[dim] for dim in ("concept", "probe")}
    flat = lambda value: value.variable.set_dims(sizes).transpose(*dims).values  # noqa: E731
    found = np.empty((4, len(CRITERIA), *sizes.values()))
    for k, name in enumerate(CRITERIA):
        for j, value in enumerate(rows[name]):
            found[j, k] = flat(value) if isinstance(value, xr.DataArray) else value
    cells = {name: (["criterion", *dims], of) for name, of in zip((*ENDS, "threshold"), found, strict=True)}
    cells |= {"recommended_alpha": (dims, flat(alpha)), "layer_pushed": (dims, flat(layer))}
    return xr.Dataset(cells, {"criterion": [*CRITERIA], "concept": alpha.concept.values, "probe": names})


def _exact(value: xr.DataArray, threshold: float) -> list[xr.DataArray | float]:
    """Of a number that has no interval."""
    return [value, value, value, threshold]


def _mean(values: xr.DataArray, study: Study, purpose: str) -> list[xr.DataArray]:
    """Mean change over prompts with its interval, a concept at a time, as each has prompts of its own; NaN of too few.

    Of answers that are right or wrong, a prompt that gained and one that lost are added before they are resampled
    (after Agresti & Min 2005): few that are all alike would have an interval of no width.
    """
    seed, plan = [study.seed, crc32(purpose.encode())], study.emergence
    values = values.transpose("concept", ..., "prompt")
    mean = values.mean("prompt")
    ends = np.full((2, *mean.shape), np.nan)
    for k, of in enumerate(values.values.astype(float)):
        rows = of.reshape(-1, of.shape[-1])
        rows = rows[:, ~np.isnan(rows).all(0)]
        if rows.shape[1] < FEW:
            continue
        if (np.isin(rows, [-1, 0, 1]) | np.isnan(rows)).all():
            rows = np.concatenate([np.ones((len(rows), 1)), rows, -np.ones((len(rows), 1))], 1)
        draws = statistics.bootstrap_means(rows, plan.bootstrap, seed)
        ends[:, k] = np.reshape(statistics.interval(draws, plan.level), (2, *of.shape[:-1]))
    some = values.notnull().any(values.dims[1:-1]).sum("prompt") >= FEW
    return [of.clip(-1, 1) for of in (mean.where(some), *(mean.copy(data=end) for end in ends))]


# --- each criterion's numbers ---------------------------------------------------------------------------------------


def _size(here: xr.Dataset, read: xr.Dataset, layer: xr.DataArray, study: Study) -> list[xr.DataArray]:
    some = _own_test(here).sum("prompt") >= FEW
    ends = here.steerability_lower.where(some), here.steerability_upper.where(some)
    return [here.steerability, *ends, least(here, read, layer, study)]


def least(here: xr.Dataset, read: xr.Dataset, layer: xr.DataArray, study: Study) -> xr.DataArray:
    """The least effect that matters, per unit of alpha, whatever that counts."""
    pushed = here.strength / read.residual_norm.sel(layer=layer) if study.sweep.operator in LENGTHS else 1.0
    return study.emergence.least.steerability / read.readout_tokens * pushed


def _q_values(at: xr.Dataset, here: xr.Dataset, p_analysed: xr.DataArray, study: Study) -> xr.DataArray:
    """False discovery rate over a method's concepts, against its nulls, each draw at its own layer.

    NaN where no draw does as much, but these are too few for any q to be low.
    """
    analysed, p, lowest = here["probe"] == study.emergence.method, [], 0.0
    for kind in ("random", "shuffled"):
        draws = at.isel(draw=(at["null"] == kind).values).sel(probe=here["probe"])
        null = draws.steerability_null.sel(layer=best_layer(draws.steerability_null_validation))
        p.append(statistics.against(here.steerability, null))
        lowest = max(lowest, 1 / (1 + null.sizes["draw"]))
    p = xr.where(analysed, p_analysed, xr.concat(p, "kind").max("kind", skipna=False)).transpose("probe", "concept")
    q = p.copy(data=np.stack([statistics.false_discovery(row) for row in p.values]))
    return q.where(analysed | (p > lowest) | (q <= 1 - study.emergence.level))


def _wrong_way(here: xr.Dataset, level: float) -> list[xr.DataArray]:
    """Share of test prompts whose slope is negative, with its exact interval (Clopper & Pearson 1934)."""
    count = _own_test(here).sum("prompt")

    def ends(share: float, n: int) -> tuple[float, float]:
        return tuple(binomtest(round(share * n), n).proportion_ci(level)) if n and share == share else (np.nan, np.nan)

    bounds = xr.apply_ufunc(ends, here.anti_steerable, count, vectorize=True, output_core_dims=[[], []])
    return [here.anti_steerable, *bounds]


def _own_test(here: xr.Dataset) -> xr.DataArray:
    """Which prompts of a concept's own are for testing, and have been answered at every alpha."""
    return own(here.log_odds.where(here.split == "test")).notnull().all("alpha")


def _off_target(here: xr.Dataset, read: xr.Dataset, study: Study) -> list[xr.DataArray]:
    """Mean size of the slopes of other readouts over that of its own, of whole texts; ∞ where its own is none."""
    slopes, plan = statistics.slope(here.log_odds, study.sweep.window), study.emergence
    slopes = slopes.where(here.split == "test").assign_coords(tokens=read.tokens)
    drawn = []
    for name in slopes.readout_concept.values:  # which may have prompts in different number
        of, seed = slopes.sel(readout_concept=[name]), [study.seed, crc32(b"off target"), crc32(str(name).encode())]
        drawn.append(statistics.means_over(of, "prompt", plan.bootstrap, seed))

    def ratio(means: xr.DataArray) -> xr.DataArray:
        others, _ = off_target(means)
        return (others / own(means * means.tokens).clip(min=0)).where(others.notnull())

    ends = statistics.bounds(ratio(xr.concat(drawn, "readout_concept")), plan.level)
    some = _own_test(here).sum("prompt") >= FEW
    return [ratio(slopes.mean("prompt")), *(end.where(some) for end in ends)]


def _answers(read: xr.Dataset) -> xr.DataArray:
    """Whether the readout fits at this checkpoint: 1 or 0."""
    numbers = read[[*NUMBERS]].compute()
    fits = [verdict(of := numbers.sel(concept=name), str(of.role.item())) == FITS for name in numbers.concept.values]
    return numbers.readout_share.copy(data=np.array(fits, float))


def _gain(
    at: xr.Dataset, here: xr.Dataset, alpha: xr.DataArray, layer: xr.DataArray, study: Study, asked: float
) -> list[xr.DataArray]:
    """On how many more test prompts a target beats every foil.

    It has to be more than by any random push as strong, of which there is one a concept: one alone may well do nothing
    where the next, as often as once in seven on the toy, brings a target to the first place on every tenth prompt.
    """
    test, each = _own_test(here), at.margin_random.rename(concept="draw", readout_concept="concept")
    random = gained(each.sel(concept=here.concept).sel(layer=layer), test, alpha).mean("prompt").max("draw")
    return [*_mean(gained(here.margin, test, alpha), study, "gain"), random.fillna(0).clip(min=asked)]


def _texts(
    written: xr.Dataset | None, alpha: xr.DataArray, layer: xr.DataArray, study: Study, asked: Readiness
) -> Rows:
    """What is written under the recommended push: does it show the concept, more than under a random one, and how well
    is it written? And which right answers does the push cost?

    Nothing where texts are of another layer or alpha.
    """
    method, nothing = study.emergence.method, xr.full_like(alpha, np.nan)
    if written is None:
        asked_of = {"text": asked.text, "fluent": -asked.fluent, "task": asked.task}
        return {name: _exact(nothing, threshold) for name, threshold in asked_of.items()}
    written = written.drop_vars("text", errors="ignore").compute()
    here, at = (of.sel(probe=method, drop=True) for of in (alpha, layer))
    same = (written.alpha_recommended == here) & (written.generation_layer == at)
    lost = _lost(written, study).where(same).expand_dims(probe=[method])
    rows = {"task": [*(number.reindex_like(nothing) for number in _mean(lost, study, "task")), asked.task]}
    more = (written.judged_recommended - written.judged.sel(alpha=0)).where(same)
    for name, judges in JUDGES.items():
        of = more.sel(judge=[one for one in judges if one in more.judge])
        of = of.isel(judge=of.notnull().any(("probe", "prompt")).argmax("judge")).reset_coords(drop=True)
        random = of.sel(probe="random", drop=True).mean("prompt").fillna(0)
        threshold = random.clip(min=asked.text) if name == "text" else -asked.fluent
        numbers = _mean(of.sel(probe=[method]), study, name)
        rows[name] = [*(number.reindex_like(nothing) for number in numbers), threshold]
    return rows


def _lost(written: xr.Dataset, study: Study) -> xr.DataArray:
    """Right answers lost (1), and won (−1), of all tasks of other concepts that the unsteered model does.

    It does those of which it surely gets more than half right, which is what chance would (Clopper & Pearson 1934).
    """

    def done(share: float, n: int) -> bool:
        return n > 0 and binomtest(round(share * n), n, alternative="greater").pvalue <= 1 - study.emergence.level

    right = written.right
    does = xr.apply_ufunc(done, right.mean("evidence"), right.count("evidence"), vectorize=True)
    lost = (right - written.right_pushed).where(does & (written.concept != written.task))
    return lost.stack(prompt=["task", "evidence"], create_index=False)
