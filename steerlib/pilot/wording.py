"""Numbers as a report writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from steerlib.stages.criteria import CRITERIA

RAISED = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def when(since: tuple[float, float, float], words: Mapping) -> str:
    """An onset with its interval, or why there is none."""
    onset, lower, upper = since
    if not np.isfinite(onset):
        return words["unknown" if np.isnan(onset) else "never" if onset > 0 else "start"]
    first, last = words["start"] if lower < 0 else f"{lower:.0f}", f"{upper:.0f}" if np.isfinite(upper) else "…"
    return f"{onset:.0f} [{first}–{last}]"


def listed(said: Mapping, names: Iterable[str]) -> str:
    return said["join"].join(names)


def number(criterion: str, value: float | None) -> str:
    """As that criterion's own sentences have it."""
    if value is None:
        return "–"
    told = f"{value:{CRITERIA[criterion].form}}".replace("%", " %")
    return signed(told if any(digit in told for digit in "123456789") else told.lstrip("-+"))  # no −0.000


def spread(criterion: str, told: Mapping[str, float | None]) -> str:
    """A criterion's value with its interval."""
    value, lower, upper = (number(criterion, told[end]) for end in ("value", "lower", "upper"))
    return value if "–" in (value, lower, upper) else f"{value} [{lower}, {upper}]"


def between(ends: tuple[float, float], form: Callable[[float], str]) -> str:
    """From the least to the most; one of them where they read alike."""
    if np.isnan(ends[0]):
        return "–"
    least, most = (signed(form(end)) for end in ends)
    return least if least == most else f"{least} – {most}"


def signed(told: str) -> str:
    return told.replace("-", "−")


def power(value: float) -> str:
    """With its power of ten, as in 1.2·10¹⁰."""
    if not value or np.isnan(value):
        return "0" if value == 0 else "–"
    exponent = int(np.floor(np.log10(value)))
    return f"{value / 10**exponent:.1f}·10{str(exponent).translate(RAISED)}"
