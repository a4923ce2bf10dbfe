"""Onsets in any table of values by training step (a benchmark's scores, say), by the rule of `numerics.onsets`.

Columns run, step, value and stderr; others (model, task, metric, …) say whose value it is. Shapes: ``s`` steps,
``r`` resamples, ``n`` null draws, ``k`` untrained levels.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from zlib import crc32

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float, Int
from scipy.stats import norm

from steerlib import SteerlibError
from steerlib.numerics.onsets import QUESTIONS, Measured, judge, seen_at, text
from steerlib.numerics.statistics import family, interval
from steerlib.stages.scores import NUMBERS, check

LOWER = "ppl perplexity word_perplexity byte_perplexity loss nll log_ppl cross_entropy bits_per_byte bpb brier error"
HIGHER = "acc acc_norm accuracy f1 em exact_match auroc auc mcc mc1 mc2 bleu log_odds margin"
BETTER = {name: "lower" for name in LOWER.split()} | {name: "higher" for name in HIGHER.split()}
# Of shares of right answers: above what is left over of a test's own faults (doubled items, a favoured letter), which
# no standard error knows. What the size of a perplexity, say, means, only its owner can tell.
LEAST = 0.02
CERTAIN = -1.0  # error of a level that is known: other than 0 of 5,153, whose error of 0 is not believed
UNTOLD = 1_000_000  # units of a value whose standard error is given: enough of them for an interval
GRID = norm.ppf((np.arange(1000) + 0.5) / 1000)  # null draws, evenly: no two runs set another bar
ENDS = {"value_lower": "value_upper", "null_lower": "null_upper"}
TURNED = {"value": "value", "bar": "bar"} | ENDS | {upper: lower for lower, upper in ENDS.items()}  # less is better


# --- what is measured, and what it is held against --------------------------------------------------------------------


def better(metric: str | None, lower_is_better: Collection[str] | None) -> str:
    """Which way is up: as the caller says, else as known of the metric's name. Without a column metric: higher."""
    if lower_is_better is not None or metric is None:
        return "lower" if metric in (lower_is_better or ()) else "higher"
    if (up := BETTER.get(str(metric).split(",")[0].lower())) is None:
        raise SteerlibError(f"metric {metric!r}: is lower better? Say which are, as in lower_is_better={{'ppl'}}")
    return up


def items_of(value: np.ndarray, stderr: np.ndarray) -> float:
    """Of how many right or wrong answers the values are shares, if value and stderr agree on it; else NaN."""
    inside = (stderr > 0) & (value > 0) & (value < 1)
    implied = value[inside] * (1 - value[inside]) / stderr[inside] ** 2 + 1  # stderr with n - 1, as the harness has it
    shares = ((value >= 0) & (value <= 1) & (inside | (stderr == 0))).all() and len(implied) > 1
    return float(np.round(np.median(implied))) if shares and np.ptp(implied) < 0.03 * implied.max() else float("nan")


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Values by step with their errors, turned over where less is better: more is better here."""

    key: tuple
    steps: Int[np.ndarray, " s"]
    value: Float[np.ndarray, " s"]
    stderr: Float[np.ndarray, " s"]
    items: float
    better: str

    @classmethod
    def of(cls, key: tuple, rows: pd.DataFrame, lower_is_better: Collection[str] | None) -> "Trajectory":
        up = better(rows["metric"].iloc[0] if "metric" in rows else None, lower_is_better)
        steps, value, stderr = (rows[name].to_numpy() for name in NUMBERS)
        one = cls(key, steps, value, stderr, items_of(value, stderr), up)
        return replace(one, value=one.turned(value))

    def turned(self, values: np.ndarray) -> np.ndarray:
        """Of the table's values ours, and the other way round."""
        return values if self.better == "higher" else (0 if np.isnan(self.items) else 1) - values

    def evened(self, value: np.ndarray, stderr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values where their errors are normal, and these errors.

        Shares of right answers go by their angle, where the error is the same everywhere (Anscombe 1948): 0 of 5,153 is
        not certainly nothing. Anything else is as it is.
        """
        if np.isnan(n := self.items):
            return value, stderr
        return np.arcsin(np.sqrt((value * n + 0.375) / (n + 0.75))), np.full(value.shape, (4 * n + 2) ** -0.5)

    def restored(self, evened: np.ndarray) -> np.ndarray:
        """The values of what is `evened`."""
        if np.isnan(n := self.items):
            return evened
        return np.clip((np.sin(np.clip(evened, 0, np.pi / 2)) ** 2 * (n + 0.75) - 0.375) / n, 0, 1)

    def resampled(self, draws: int, paired: float, draw: np.random.Generator) -> Float[np.ndarray, "r s"]:
        """What the values may be as well."""
        y, error = self.evened(self.value, self.stderr)
        own, common = draw.standard_normal((draws, len(y))), draw.standard_normal((draws, 1))
        return self.restored(y + error * ((1 - paired) ** 0.5 * own + paired**0.5 * common))

    def against(
        self,
        levels: Float[np.ndarray, "k 2"],
        resamples: Float[np.ndarray, "r s"],
        least: float,
        paired: float,
        draw: np.random.Generator,
    ) -> tuple[Measured, Float[np.ndarray, " s"], float]:
        """It and what it is where nothing is; p-values of that; the level itself.

        ``levels``: untrained ones, its own first, with their errors, `CERTAIN` for none. What is only another
        draw of a level is off by the errors of both: that is the null. What has to be cleared is the bar of its own
        level and that of all together, whichever is higher. p-values are of the normal's tail, as no number of draws
        reaches as low as a family of hundreds asks for.
        """
        units = UNTOLD if np.isnan(self.items) else int(self.items)
        if not len(levels):
            nothing = np.full((len(self.steps), 1), np.nan)
            return Measured(self.steps, self.value, resamples, nothing, units), nothing[:, 0], np.nan
        y, error = self.evened(self.value, self.stderr)
        level, off = self.evened(*levels.T)
        off = np.where(levels[:, 1] == CERTAIN, 0, off)
        both = np.hypot(off[:, None], error)
        both[0] = np.sqrt(both[0] ** 2 - 2 * paired * off[0] * error)
        with np.errstate(invalid="ignore", divide="ignore"):  # without any error, equal is a draw
            tails = norm.sf(np.nan_to_num((y - level[:, None]) / both))
        own = level[0] + both[0, :, None] * GRID
        # Of all together a draw a quantile, each of another level, so that every level has low ones and high ones.
        which = (np.arange(len(GRID)) * (5**0.5 - 1) / 2 % 1 * len(level)).astype(int)
        together = np.sort(level[which] + both[which].T * GRID)
        null = self.restored(np.maximum(own, together))  # both in order, so quantile by quantile
        # The bar stands on the levels, which may be off: by how much in a resample is taken off the values there.
        may_be = self.restored(level + off * draw.standard_normal((len(resamples), len(level))))
        if off[0]:
            may_be[:, 0] = resamples[:, 0]
        stands, may_stand = (np.maximum(of[..., 0], of.mean(-1)) for of in (levels[:, 0], may_be))
        relative = resamples - (may_stand - stands)[:, None]
        measured = Measured(self.steps, self.value, relative, null, units, stands + least, chance=float(stands))
        return measured, np.maximum(tails[0], tails.mean(0)), float(stands)


def onsets(
    table: pd.DataFrame,
    by: Sequence[str] | None = None,
    level: float = 0.95,
    sustained: int = 2,
    draws: int = 1000,
    seed: int = 0,
    chance: float | None = None,
    lower_is_better: Collection[str] | None = None,
    pool: Collection[str] = (),
    paired: float = 0.0,
    least: float | None = None,
) -> xr.Dataset:
    """What `judge` says of every trajectory, against its untrained level; discovery rates are of the whole table.

    That level is its step 0. ``pool`` names columns (model, say) over which levels are draws of one thing: then a value
    has to clear what any of them might have scored as well. ``chance`` replaces both. Without any of them, as where the
    first step is 3,000, nothing can be told. ``least``: the least difference from the level that matters, in the
    table's units; if not given, `LEAST` for shares of right answers and 0 for others. ``paired``: correlation of a
    trajectory's errors, as all steps answer the same questions: a table does not say, and intervals depend on it.
    """
    table, keys = check(table, by)
    if unknown := [name for name in pool if name not in keys]:
        raise SteerlibError(f"pool: {unknown[0]!r} is none of {', '.join(keys)}")
    for name, number in (("chance", chance), ("least", least)):
        if number is not None and not np.isfinite(number):
            raise SteerlibError(f"{name}: {number} is no finite number")
    if not 0 <= paired < 1:
        raise SteerlibError(f"paired: {paired} is no correlation from 0 to below 1")
    groups = table.sort_values("step").groupby(keys, dropna=False)
    curves = [Trajectory.of(key, rows, lower_is_better) for key, rows in groups]
    kin = [tuple(part for name, part in zip(keys, one.key, strict=True) if name not in pool) for one in curves]
    starts = [[(one.value[0], one.stderr[0])] if one.steps[0] == 0 else [] for one in curves]
    seeds = [[seed, crc32("|".join(map(str, one.key)).encode())] for one in curves]  # whatever others there are
    measures = []
    for k, one in enumerate(curves):
        shares = not np.isnan(one.items)
        # Equal starts, as of models with one initialisation, are one draw.
        alike = [start for other, start in zip(kin, starts, strict=True) if other == kin[k]]
        levels = [*dict.fromkeys(sum(alike, starts[k]))] if starts[k] else []
        if chance is not None:
            levels = [(one.turned(chance), CERTAIN)]
            if shares and not 0 <= chance <= 1:
                raise SteerlibError(f"chance: {chance} is none for shares, which are from 0 to 1")
        matters = (LEAST if shares else 0) if least is None else least
        draw = np.random.default_rng(seeds[k])
        resamples = one.resampled(draws, paired, draw)
        against = one.against(np.array(levels, float).reshape(-1, 2), resamples, matters, paired, draw)
        measures.append((*against, interval(resamples, level)))
    q = family(np.array([*zip_longest(*(p for _, p, *_ in measures), fillvalue=np.nan)]).T)
    trajectories = []
    for one, own_seeds, found, (measured, p, stands, ends) in zip(curves, seeds, q, measures, strict=True):
        judged, dated = judge(measured, found[: len(p)], level, sustained, [*own_seeds, 1])  # not the resamples' own
        curve = {"p_value": p, "value_lower": ends[0], "value_upper": ends[1]}
        judged = judged.assign({name: ("step", values) for name, values in curve.items()})
        difference = one.value[-1] - stands
        if one.better == "lower":
            judged, difference = judged.assign(one.turned(judged[list(TURNED)]).rename(TURNED)), -difference
        told = {"difference": difference, "units": one.items, "better": one.better}
        judged = judged.assign(told | {"draws": (("question", "draw"), dated)})
        trajectories.append(judged.assign_coords(dict(zip(keys, one.key, strict=True))))
    whole = xr.concat(trajectories, "trajectory", coords=keys, compat="equals", join="outer")
    return whole.assign_attrs(by=keys, level=level, sustained=sustained, pool=list(pool), paired=paired)


# --- as text ----------------------------------------------------------------------------------------------------------


def frame(trajectories: xr.Dataset) -> pd.DataFrame:
    """A row a trajectory: its status, both onsets with their intervals, and what else there is one of each."""
    columns = {name: trajectories[name] for name in ("status", "difference", "units", "better")}
    columns["q"] = trajectories.q_value.min("step")
    for name in QUESTIONS:
        columns |= {f"{name}{end}": trajectories[f"onset{end}"].sel(question=name) for end in ("", "_lower", "_upper")}
    keys = trajectories.attrs["by"]
    index = pd.MultiIndex.from_arrays([trajectories[name].values for name in keys], names=keys)
    return pd.DataFrame({name: column.values for name, column in columns.items()}, index)


def summary(trajectories: xr.Dataset, order: str | None = None) -> pd.DataFrame:
    """What was found as text, a row a trajectory: both onsets, how far it ends from its untrained level, its q.

    ``order`` names a column: trajectories that differ in it alone then stand by when they can first be detected, each
    with how likely, over resamples, it is seen at an earlier checkpoint than the next, and how likely at the same.
    """
    found = frame(trajectories)
    texts = {
        title: [text(*row) for row in found[["status", name, f"{name}_lower", f"{name}_upper"]].values]
        for title, name in zip(("first detectable", "half-way up"), QUESTIONS, strict=True)
    }
    for name, number in (("difference", "{:+.3g}"), ("q", "{:.3f}")):
        texts[name] = ["" if np.isnan(value) else number.format(value) for value in found[name]]
    if (found.better == "lower").any():
        texts["better"] = found.better
    table = pd.DataFrame(texts, found.index)
    if order is None:
        return table
    if order not in found.index.names:
        raise SteerlibError(f"order: {order!r} is none of {', '.join(found.index.names)}")
    keys = found.index.to_frame(index=False).drop(columns=order)
    group = np.unique(["|".join(map(str, key)) for key in keys.values], return_inverse=True)[1]
    place = np.lexsort([found[QUESTIONS[0]], group])
    dated, group = trajectories.draws.sel(question=QUESTIONS[0]).values[place], group[place]
    looked = (trajectories.step.values[there] for there in trajectories.value.notnull().values[place])
    seen = np.array([seen_at(at, row) for at, row in zip(looked, dated, strict=True)])
    one, other = seen[:-1], seen[1:]
    known = ~np.isnan(dated).any(1)
    told = (group[:-1] == group[1:]) & known[:-1] & known[1:]
    table = table.iloc[place]
    for name, holds in (("before the next", one < other), ("tied with it", one == other)):
        table[name] = [f"{share:.2f}" if of else "" for share, of in zip(holds.mean(1), told, strict=True)] + [""]
    return table
