"""A table of scores, as people have it: read, and what is wrong with it told by line and column."""

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from steerlib import SteerlibError
from steerlib.concepts.reading import records
from steerlib.files.params import SHORT

NUMBERS = {
    "step": ("a whole number, 0 or more", lambda x: (x >= 0) & (x % 1 == 0) & (x < 2**53)),
    "value": ("a finite number", np.isfinite),
    "stderr": ("a finite number, 0 or more", lambda x: (x >= 0) & np.isfinite(x)),
}
# Numbers with marks between thousands, and those that may have one: 12.345,6 and 1,000.
GROUPED = r"[-+]?[1-9]\d{0,2}(?:(?:['’\s]\d{3})+(?:[.,]\d+)?|(?:[.,]\d{3})+[.,]\d+)"
EITHER = r"[-+]?[1-9]\d{0,2}[.,]\d{3}"


def read(path: str | Path, by: Sequence[str] | None = None) -> pd.DataFrame:
    """A table from CSV, JSON or parquet, compressed or not, checked; its index counts the file's lines.

    Columns may be parted by commas, semicolons or tabs; of the latter two a decimal comma is read as well. ``by``: the
    columns that, with run, make a trajectory; all others if not given.
    """
    path, rows = Path(path), records.read(Path(path))
    for row in rows:
        for name, value in row.fields.items():
            if isinstance(value, list | dict | bytes | bool):
                raise row.error(f"{name} is {SHORT.repr(value)}, expected a number or a word")
        if "run" in row.fields:
            row.cell("run")
    cells = [{name: v.strip() if isinstance(v, str) else v for name, v in row.fields.items()} for row in rows]
    table = pd.DataFrame(cells, index=[int(row.where.split()[-1]) for row in rows])
    if {".csv", ".tsv"} & {*path.suffixes}:
        table = with_points(table, records.parting(records.read_lines(path)), str(path))
    for name in table.columns.difference([*NUMBERS]):  # shots, say: a number where every row has one
        with suppress(ValueError, TypeError):
            table[name] = pd.to_numeric(table[name])
    return check(table, by, str(path))[0]


def with_points(table: pd.DataFrame, parted: str, where: str) -> pd.DataFrame:
    """The table, as text, with a point for every decimal comma; refused where a mark may as well part thousands."""
    numbers = table.columns.intersection([*NUMBERS])
    cells = [(line, name, cell) for name in numbers for line, cell in table[name].items()]
    commas, points = ([cell for cell in cells if mark in cell[2]] for mark in ",.")

    def refuse(cells: list[tuple[int, str, str]], why: str) -> None:
        for line, name, cell in cells[:1]:
            raise SteerlibError(f"{where}: line {line}: column {name!r}: {cell!r} {why}")

    whole = [cell for cell in cells if cell[1] == "step" and re.fullmatch(EITHER, cell[2])]
    grouped = [cell for cell in cells if re.fullmatch(GROUPED, cell[2])]
    refuse(whole + grouped, "has marks between thousands; write it without")
    if parted == ",":
        refuse(commas, "has a comma, which parts columns here; write a point, or part columns with semicolons")
    if points:
        refuse(commas, f"has a decimal comma, but line {points[0][0]} a point; write one of them throughout")
    for marked in (commas, points if parted == ";" else []):
        if all(re.fullmatch(EITHER, cell) for *_, cell in marked):
            refuse(marked, "may have a decimal mark or one between thousands; write points, and part columns with tabs")
    return table.assign(**{name: table[name].str.replace(",", ".") for name in numbers})


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
            line, written = table.index[~right][0], table[name][~right].iloc[0]
            empty = written is None or str(written).strip() == ""
            wrong = f"{SHORT.repr(str(written))} is not {wanted}"
            if empty:
                wrong = f"is empty; write {wanted}, or leave the line out"
            raise SteerlibError(f"{where}: line {line}: column {name!r}: {wrong}")
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
