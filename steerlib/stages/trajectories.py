"""Onsets in any table of values by training step (a benchmark's scores, say), by the rule of `numerics.onsets`.

Columns run, step, value and stderr; others (model, task, metric, …) say whose value it is.
"""

from collections.abc import Collection, Sequence
from contextlib import suppress
from lzma import LZMAError
from pathlib import Path
from zlib import crc32

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from steerlib import SteerlibError
from steerlib.numerics.onsets import text, trajectory

LOWER = "ppl perplexity word_perplexity byte_perplexity loss nll log_ppl cross_entropy bits_per_byte bpb brier error"
HIGHER = "acc acc_norm accuracy f1 em exact_match auroc auc mcc mc1 mc2 bleu log_odds margin"
BETTER = {name: "lower" for name in LOWER.split()} | {name: "higher" for name in HIGHER.split()}
SCALARS = ("onset_step", "onset_lower", "onset_upper", "midpoint", "change_point", "first_step", "items", "better")
TURNED = {"value_lower": "value_upper", "value_upper": "value_lower"}  # when less is better
TURNED |= {"null_lower": "null_upper", "null_upper": "null_lower"}
NUMBERS = {
    "step": ("a whole number, 0 or more", lambda x: (x >= 0) & (x % 1 == 0)),
    "value": ("a finite number", np.isfinite),
    "stderr": ("a finite number, 0 or more", lambda x: (x >= 0) & np.isfinite(x)),
}


def read(path: str | Path, by: Sequence[str] | None = None) -> pd.DataFrame:
    """A table from CSV or JSON lines, compressed or not, checked; its index counts the file's lines.
    ``by``: the columns that, with run, make a trajectory; all others if not given."""
    try:
        if ".csv" in Path(path).suffixes:
            table = pd.read_csv(path, dtype=str, keep_default_na=False, skip_blank_lines=False).fillna("")
            table = table.rename(lambda row: row + 2)[(table != "").any(axis=1).values]  # below the line of names
        elif ".jsonl" in Path(path).suffixes:
            table = pd.read_json(path, lines=True, dtype=False).rename(lambda row: row + 1)
        else:
            raise SteerlibError(f"{path}: expected a table as .csv or .jsonl, compressed (.csv.xz) or not")
    except (ValueError, OSError, EOFError, LZMAError) as error:
        raise SteerlibError(f"{path}: {getattr(error, 'strerror', None) or str(error).strip()}") from None
    for name in table.columns.difference([*NUMBERS]):  # shots, say: a number where every row has one
        with suppress(ValueError, TypeError):
            table[name] = pd.to_numeric(table[name])
    return check(table, by, str(path))[0]


def check(table: pd.DataFrame, by: Sequence[str] | None, where: str = "table") -> tuple[pd.DataFrame, list[str]]:
    """The table with numbers as numbers, and what makes a trajectory: the columns ``by``, or all others, and run.

    The first thing that is wrong with it is told by line and column.
    """
    if missing := [name for name in ("run", *NUMBERS, *(by or ())) if name not in table.columns]:
        raise SteerlibError(
            f"{where}: line 1: no column {missing[0]!r}; there are {', '.join(map(str, table.columns))}"
        )
    if table.empty:
        raise SteerlibError(f"{where}: has column names but no rows")
    table = table.copy()
    for name, (wanted, holds) in NUMBERS.items():
        numbers = pd.to_numeric(table[name], errors="coerce").astype(float)
        if not (right := holds(numbers)).all():
            line, written = table.index[~right][0], str(table[name][~right].iloc[0])
            raise SteerlibError(f"{where}: line {line}: column {name!r}: {written!r} is not {wanted}")
        table[name] = numbers.astype(int) if name == "step" else numbers
    given = table.columns.difference([*NUMBERS], sort=False) if by is None else by
    keys = [*(name for name in given if name != "run"), "run"]
    few = table.groupby(keys, dropna=False).step.transform("size") < 3
    if (wrong := (few | table.duplicated([*keys, "step"])).values).any():
        row = table[wrong].iloc[0]
        which = ", ".join(f"{name} {row[name]}" for name in keys)
        rule = f"three steps or more, each once; by= names what tells trajectories apart (here {', '.join(keys)})"
        raise SteerlibError(f"{where}: line {row.name}: {which}: step {row.step}: expected {rule}")
    return table, keys


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


def resample(value: np.ndarray, stderr: np.ndarray, noise: Float[np.ndarray, "draw step"]) -> np.ndarray:
    """What the values may be, given standard normal noise. Shares of right answers go by their angle, where the error
    is the same everywhere (Anscombe 1948): 0 of 5,153 is not certainly nothing. Anything else is normal."""
    if np.isnan(items := items_of(value, stderr)):
        return value + stderr * noise
    angle = np.arcsin(np.sqrt((value * items + 0.375) / (items + 0.75))) + noise / np.sqrt(4 * items + 2)
    return np.sin(np.clip(angle, 0, np.pi / 2)) ** 2


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
) -> xr.Dataset:
    """Onset of every trajectory, with the curve, interval and threshold it was found with.

    The first step from which the interval's lower bound stays above the null to the end (for ``sustained`` steps at
    least); infinite when there is none. The null is the trajectory's own untrained level (step 0) with its error.
    ``pool`` names columns (model, say) over which untrained levels are draws of one thing: then a value has to clear
    what any of them might have scored as well. ``chance`` replaces both. Without any of them, as where the first step
    is 3,000, there is no null and the onset is NaN. ``paired``: correlation of a trajectory's errors, as all steps
    answer the same questions: a table does not say, and intervals depend on it.
    """
    table, keys = check(table, by)
    if unknown := [name for name in pool if name not in keys]:
        raise SteerlibError(f"pool: {unknown[0]!r} is none of {', '.join(keys)}")
    curves, untrained = [], {}
    for key, rows in table.sort_values("step").groupby(keys, dropna=False):
        up = better(rows["metric"].iloc[0] if "metric" in rows else None, lower_is_better)
        sign, value, stderr = -1 if up == "lower" else 1, rows.value.to_numpy(), rows.stderr.to_numpy()
        draw = np.random.default_rng([seed, crc32("|".join(map(str, key)).encode())])
        noise = (1 - paired) ** 0.5 * draw.standard_normal((draws, len(rows)))
        noise += paired**0.5 * draw.standard_normal((draws, 1))
        resamples = sign * resample(value, stderr, sign * noise)
        kin = tuple(part for name, part in zip(keys, key, strict=True) if name not in pool)
        if rows.step.iloc[0] == 0:  # equal starts, as of models with one initialisation, are one draw
            untrained.setdefault(kin, {})[value[0], stderr[0]] = resamples[:, 0]
        curves.append((key, kin, rows, up, sign, resamples))
    trajectories = []
    for key, kin, rows, up, sign, resamples in curves:
        own, value = rows.step.to_numpy(), rows.value.to_numpy()
        if chance is not None:
            nulls = {"chance": np.array([sign * chance])}
        elif own[0] == 0:
            nulls = {"own": resamples[:, 0], "pool": np.concatenate([*untrained[kin].values()])}
        else:
            nulls = {"none": np.array([np.nan])}
        nulls = {kind: np.tile(null, (len(own), 1)) for kind, null in nulls.items()}
        judged, _ = trajectory(own, sign * value, resamples, nulls, level, sustained)
        if "none" in nulls:
            judged = judged.assign(dict.fromkeys(SCALARS[:3], np.nan))
        if sign < 0:  # back to the table's own units
            judged = judged.assign(-judged[["value", "null_threshold", *TURNED]].rename(TURNED))
        judged = judged.assign(better=up, items=items_of(value, rows.stderr.to_numpy()), first_step=own[0])
        trajectories.append(judged.assign_coords(dict(zip(keys, key, strict=True))))
    whole = xr.concat(trajectories, "trajectory", coords=keys, compat="equals", join="outer")
    return whole.assign_attrs(by=keys, level=level, sustained=sustained, draws=draws, pool=list(pool), paired=paired)


def frame(trajectories: xr.Dataset) -> pd.DataFrame:
    """A row a trajectory: its onset, interval, cross-checks, and which way is up."""
    return trajectories[list(SCALARS)].to_dataframe().set_index(trajectories.attrs["by"])


def summary(trajectories: xr.Dataset) -> pd.DataFrame:
    """Onsets with their intervals as text, a row a trajectory; beside an onset, its cross-checks."""
    table = frame(trajectories)
    checks = table[["midpoint", "change_point"]].where(np.isfinite(table.onset_step), np.nan)
    rounded = checks.map(lambda step: f"{step:.0f}" if np.isfinite(step) else "")
    return pd.concat([table.apply(onset_text, axis=1).rename("onset"), rounded, table.better], axis=1)


def onset_text(row: pd.Series) -> str:
    """The onset of a row of `frame` with its interval; ``≤`` where it is above its null from the first step on."""
    onset, lower, upper = row.onset_step, row.onset_lower, row.onset_upper
    if np.isinf(onset) and np.isfinite(lower):
        return f"not reached [{lower:.0f}–…]"
    return ("≤" if 0 < onset == row.first_step else "") + (text(onset, lower, upper) or "no null")
