"""When a measure emerged: is there an effect, does it matter, since when, and how sure is that?

A measure is a curve over training steps with resamples of it and with what it is where nothing is, whatever it
measures: so one rule serves a study's measures and anybody's table of values. Shapes: ``s`` steps, ``r`` resamples,
``n`` null draws. Steps are interpolated in log(1 + step).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int
from scipy.interpolate import PchipInterpolator
from scipy.stats import beta

from steerlib.numerics.statistics import FEW, beyond, family, interval

# Two answers to "when?": above what has to be cleared, and half of the way from the first value to the last.
QUESTIONS = ("first_detectable", "half_way")
STATUS = {
    "rises": "not there at first, and there to stay",
    "from the start": "there at the first checkpoint already",
    "falls": "there at the first checkpoint, and less of it at the last",
    "fades": "was there, and is no longer",
    "returns": "was there, went, and came back",
    "last only": "above what has to be cleared at the last checkpoint, but not for long enough yet",
    "not reached": "not found above what has to be cleared for long enough",
    "words alone": "found, but words alone tell as much, without any model",
    "as untrained": "found, but no more than in the model before it was trained",
    "present": "there, at the one checkpoint there is; since when cannot be told",
    "absent": "not there, at the one checkpoint there is",
    "too few": f"fewer than {FEW} distinct units: a value, but no interval and no onset",
    "unknown": "no null to hold it against (too few texts to shuffle, or none given), or no values",
}
EMERGED = ("rises", "from the start", "falls", "fades", "returns")


@dataclass(frozen=True, eq=False)
class Measured:
    """A measure over training, and what it is held against."""

    steps: Int[np.ndarray, " s"]
    value: Float[np.ndarray, " s"]
    resamples: Float[np.ndarray, "r s"]  # what the values may be as well, the same resample at all steps
    null: Float[np.ndarray, "s n"]  # what they are where nothing is; NaN draws are none
    units: int  # distinct ones, which the values are means of
    least: float | Float[np.ndarray, " s"] = -np.inf  # the least value that matters
    floor: float = -np.inf  # what is reached without anything having been learned
    chance: float = 0.0  # the value of no effect: a rise matters that is as far as the least value is above it
    untrained: bool = False  # whether the first checkpoint is of a model that has learned nothing: a floor of its own

    def __post_init__(self):
        if len(self.steps) < 1 or (np.diff(self.steps) <= 0).any():
            raise ValueError(f"steps must increase, each once; found {list(self.steps)}")

    @cached_property
    def p_value(self) -> Float[np.ndarray, " s"]:
        """One-sided, of every step: against the null draws, and that it is above the floors. NaN without null draws."""
        _, floors = self._floors
        below = (1 + (self.resamples <= floors).sum(0)) / (1 + len(floors))
        return np.where(np.isneginf(floors).all(0), 0, below).clip(beyond(self.value, self.null))

    @cached_property
    def _floors(self) -> tuple[float, Float[np.ndarray, "r 1"]]:
        """The highest floor, and that of every resample: what an untrained model does is measured as well."""
        if not self.untrained:
            return self.floor, np.full((len(self.resamples), 1), self.floor)
        return np.fmax(self.floor, self.value[0]), np.fmax(self.floor, self.resamples[:, :1])

    def bar(self, level: float, seed: int | Sequence[int]) -> tuple[Float[np.ndarray, " s"], Float[np.ndarray, "r s"]]:
        """What has to be cleared: the quantile of the null draws, the least effect and the floor, whichever is highest.

        And the same for every resample: of endless draws the quantile is only known as well as that many tell. How
        many of them lie below it is binomial, so its rank among them is a beta variable (Conover 1999), one for all
        steps of a resample, whose draws are of the same labels. A step without draws has the bar of the nearest that
        has any, the later of two; NaN where there are none at all.
        """
        share, places = np.random.default_rng(seed).random(len(self.resamples)), {}
        bars, drawn = np.full(len(self.steps), np.nan), np.full(self.resamples.shape, np.nan)
        for step, row in enumerate(self.null):
            if count := len(draws := np.sort(row[~np.isnan(row)])):
                rank = int(np.ceil(round(level * count, 9)))
                bars[step] = draws[rank - 1]
                if count not in places:  # most often all steps have as many
                    place = count * beta.ppf(share, rank, count - rank + 1)
                    places[count] = np.minimum(place.astype(int), count - 1)
                drawn[:, step] = draws[places[count]]
        if (there := np.flatnonzero(np.isfinite(bars))).size:
            apart = abs(np.arange(len(bars))[:, None] - there[::-1])
            nearest = there[::-1][apart.argmin(1)]
            bars, drawn = bars[nearest], drawn[:, nearest]
        floor, floors = self._floors
        return np.maximum(bars, np.maximum(self.least, floor)), np.maximum(drawn, np.maximum(self.least, floors))


def judge(
    measured: Measured, q: Float[np.ndarray, " s"], level: float, sustained: int, seed: int | Sequence[int] = 0
) -> tuple[xr.Dataset, Float[np.ndarray, "question r"]]:
    """The measure with its intervals, its `STATUS`, and since when it is there; and that of every resample.

    A stretch is above what has to be cleared for at least ``sustained`` checkpoints, and ends only where it is not for
    as many: a single dip does not erase a history. It counts where an effect is found in it: where q, the false
    discovery rate among all concepts, is at most 1 − level. ``onset`` has two answers (`QUESTIONS`), −∞ where it lies
    before the first checkpoint, where an effect has to be found then, ∞ where there is none, NaN where it cannot be
    told:

    * ``first_detectable``: where the first such stretch begins;
    * ``half_way``: where half the way from the first value to the last is done, or to the peak where that is surely
      higher; of a rise that is sure and matters.

    Their intervals hold all that the resamples vary, what the bar's own draws leave open, and the gap between the two
    checkpoints around the onset, in which nothing was seen.
    """
    bar, bars = measured.bar(level, seed)
    seen = np.isfinite(bar) & np.isfinite(measured.value) & np.isfinite(measured.resamples).all(0)
    steps, found, few = measured.steps[seen], (q <= round(1 - level, 9))[seen], measured.units < FEW
    value, resamples = measured.value[None, seen], measured.resamples[:, seen]
    gap, gaps, last = value - bar[seen], resamples - bars[:, seen], len(steps) - 1
    if last > 0 and not found[0]:  # above by chance it may be, and no stretch begins with it
        gap[:, 0], gaps[:, 0] = (np.minimum(of[:, 0], 0) for of in (gap, gaps))
    status = "unknown" if last < 0 else "too few" if few else _status(gap[0] > 0, found, sustained)
    if status in ("not reached", "absent") and np.isnan(q[seen][gap[0] > 0]).any():
        status = "unknown"  # whether what is above the bar is more than nothing cannot be told
    rise = resamples - resamples[:, :1]
    if status == "from the start" and interval(rise[:, -1], level)[1] < 0:
        status = "falls"
    if status in ("not reached", "absent") and np.isfinite(measured._floors[0]):
        alone = replace(measured, floor=-np.inf, untrained=False)
        learned, _ = judge(alone, family(alone.p_value[None])[0], level, sustained, seed)
        if learned.status in (*EMERGED, "last only", "present"):
            status = "words alone" if not measured.untrained or measured.floor >= measured.value[0] else "as untrained"
    absent = np.inf if status in ("not reached", "last only", "words alone", "as untrained", "absent") else np.nan
    onset, draws = np.full((2, 3), absent), np.full((2, len(resamples)), absent)
    faded = np.nan
    if status in EMERGED:
        onset[0], draws[0] = _dated(steps, gap, gaps, found, sustained, level)
        onset[1], draws[1] = np.nan, np.nan
        peak = int(value.argmax())
        higher = interval(resamples[:, last] - resamples[:, peak], level)[1] < 0
        top = peak if higher or gap[0, last] <= 0 else last
        matters = np.broadcast_to(measured.least - measured.chance, measured.value.shape)[seen][top]
        if interval(rise[:, top], level)[0] > 0 and value[0, top] - value[0, 0] >= matters:
            to_top = slice(top + 1)
            above_half = ((of - (of[:, :1] + of[:, [top]]) / 2)[:, to_top] for of in (value, resamples))
            onset[1], draws[1] = _dated(steps[to_top], *above_half, None, sustained, level)
        if status == "fades":
            there = np.flatnonzero(stretches(gap > 0, found, sustained)[0])[-1]
            ends = slice(there, there + 2)
            faded = np.expm1(np.interp(0, -gap[0, ends], np.log1p(steps[ends])))
    lower, upper = interval(measured.resamples, level)
    of_null = np.full((2, len(bar)), np.nan)
    some = ~np.isnan(measured.null).all(1)
    of_null[:, some] = np.nanquantile(measured.null[some], [1 - level, level], axis=1)
    curve = {
        "value": measured.value,
        "value_lower": np.where(few, np.nan, lower),
        "value_upper": np.where(few, np.nan, upper),
        "null_lower": of_null[0],
        "null_upper": of_null[1],
        "bar": bar,
        "p_value": measured.p_value,
        "q_value": q,
    }
    answers = {f"onset{end}": ("question", onset[:, k]) for k, end in enumerate(("", "_lower", "_upper"))}
    judged = {name: ("step", values) for name, values in curve.items()} | answers
    judged |= {"status": status, "units": measured.units, "faded": faded}
    judged["peak"] = float(steps[value.argmax()]) if last >= 0 else np.nan
    return xr.Dataset(judged, {"step": measured.steps, "question": list(QUESTIONS)}), draws


def lasting(above: Bool[np.ndarray, "r s"], sustained: int, stays: bool = False) -> Bool[np.ndarray, "r s"]:
    """Where a measure counts as above: a change counts only where it lasts for so many checkpoints.

    With ``stays``, what is above at the last checkpoint is taken to stay.
    """
    sustained = min(sustained, above.shape[1])
    going_on = np.pad(above, ((0, 0), (0, sustained - 1)), mode="edge") if stays else above
    state, before = np.zeros_like(above), np.zeros(len(above), bool)
    for step in range(above.shape[1]):
        window = going_on[:, step : step + sustained]
        whole = window.shape[1] == sustained
        before = state[:, step] = np.where(whole & window.all(1), True, np.where(whole & ~window.any(1), False, before))
    return state


def stretches(
    above: Bool[np.ndarray, "r s"], found: Bool[np.ndarray, " s"] | None, sustained: int
) -> Bool[np.ndarray, "r s"]:
    """The checkpoints of those stretches that last, and in which an effect is found (None: known to be there)."""
    if found is None:
        return lasting(above, sustained, stays=True)
    state = lasting(above, sustained)
    counts = state & found
    for step in range(1, above.shape[1]):  # to the end of each stretch
        counts[:, step] |= state[:, step] & counts[:, step - 1]
    for step in range(above.shape[1] - 2, -1, -1):  # and back to its beginning
        counts[:, step] |= state[:, step] & counts[:, step + 1]
    return counts


def crossings(
    steps: np.ndarray, gap: Float[np.ndarray, "r s"], found: Bool[np.ndarray, " s"] | None, sustained: int
) -> Float[np.ndarray, " r"]:
    """Where the first stretch that counts begins: between two checkpoints, where the gap's curve is 0.

    −∞ where it begins with the first checkpoint; ∞ where there is none.
    """
    counts = stretches(gap > 0, found, sustained)
    first, rows = counts.argmax(1), np.arange(len(gap))
    # A monotone cubic: straight between two checkpoints where the curve is, and bent where it jumps.
    curve = PchipInterpolator(np.log1p(steps), gap, axis=1)
    before = np.maximum(first - 1, 0)
    low, high = curve.x[before], curve.x[before + 1]
    coefficients = curve.c[:, before, rows]
    for _ in range(40):
        middle = (low + high) / 2
        past = np.polyval(coefficients, middle - curve.x[before]) > 0
        low, high = np.where(past, low, middle), np.where(past, middle, high)
    crossed = np.expm1(high).clip(steps[before], steps[before + 1])
    return np.where(counts.any(1), np.where(first == 0, -np.inf, crossed), np.inf)


def seen_at(steps: np.ndarray, onset: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """The checkpoint at which an onset is seen: of two between the same ones, neither is known to be first.

    −∞ where it was there from the start, ∞ where it is not reached, NaN where it cannot be told.
    """
    at = np.append(steps, np.inf)[np.searchsorted(steps, onset)]
    return np.where(np.isfinite(onset), at, onset)


def anywhere(steps: np.ndarray, onset: Float[np.ndarray, "..."], draw: np.random.Generator) -> Float[np.ndarray, "..."]:
    """Finite onsets at random places, in log(1 + step), between the two checkpoints around each."""
    after = np.searchsorted(steps, onset).clip(1, len(steps) - 1)
    low, high = np.log1p(steps[after - 1]), np.log1p(steps[after])
    return np.where(np.isfinite(onset), np.expm1(draw.uniform(low, high)), onset)


def text(status: str, onset: float, lower: float, upper: float) -> str:
    """An onset with its interval, or why there is none.

    As in ``3000 [1000–…]``, where some resamples never reach it, or ``12 [start–40]``, where some always have it.
    """
    if not np.isfinite(onset):
        return words(status, onset)
    form = ".0f" if max(onset, upper if np.isfinite(upper) else onset) > 1 else ".2g"  # between 0 and 1, 0.06 is not 0
    first, last = "start" if lower < 0 else f"{lower:{form}}", f"{upper:{form}}" if np.isfinite(upper) else "…"
    return ", ".join(filter(None, [f"{onset:{form}} [{first}–{last}]", words(status, onset)]))


def words(status: str, onset: float) -> str:
    """What is to be said in place of an onset, or beside it, in few words; nothing where it says all."""
    if np.isneginf(onset):
        return "from the start" + (f", {status}" if status != "from the start" else "")
    if np.isfinite(onset):
        return status if status in ("fades", "returns") else ""
    unsure = {"rises": "not sure"} | dict.fromkeys(EMERGED[1:], "does not rise")
    return unsure.get(status, status)


def _status(above: Bool[np.ndarray, " s"], found: Bool[np.ndarray, " s"], sustained: int) -> str:
    """How the curve goes, by those of its stretches that count."""
    if len(above) == 1:
        return "present" if above[0] and found[0] else "absent"
    counts = stretches(above[None], found, sustained)[0]
    if not counts.any():
        return "last only" if above[-1] and found[-1] else "not reached"
    if not counts[-1]:
        return "fades"
    if (np.diff(counts.astype(int)) == -1).any():
        return "returns"
    return "from the start" if counts[0] else "rises"


def _dated(
    steps: np.ndarray,
    gap: Float[np.ndarray, "1 s"],
    gaps: Float[np.ndarray, "r s"],
    found: Bool[np.ndarray, " s"] | None,
    sustained: int,
    level: float,
) -> tuple[tuple[float, float, float], Float[np.ndarray, " r"]]:
    """An onset with its interval, and that of every resample."""
    onset, draws = crossings(steps, gap, found, sustained)[0], crossings(steps, gaps, found, sustained)
    lower, upper = interval(draws, level)
    if np.isfinite(onset):
        after = int(np.searchsorted(steps, onset))
        lower, upper = min(lower, steps[max(after - 1, 0)]), max(upper, steps[after])
    return (onset, lower, upper), draws
