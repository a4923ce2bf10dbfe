"""Files of many texts (CSV, JSON lines, JSON) as records that know where they stand, for errors that name the line.

The parsers are the standard library's: those of pandas tell no lines, fill rows that are cut short, take the surplus of
a row as its index, and turn a label 1 into 1.0 where another row has none.
"""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from steerlib import SteerlibError
from steerlib.files import params

LONGEST = 100_000  # characters of a line or a text; no context of a model studied here holds as much


class Record(NamedTuple):
    """Named fields (names in lower case) and where they stand: 'line 12' of a file, or 'entry 12' of a JSON list."""

    path: Path
    where: str
    fields: dict[str, Any]

    def error(self, message: str) -> SteerlibError:
        return SteerlibError(f"{self.path}: {self.where}: {message}")

    def cell(self, column: str) -> Any:
        """What stands there. Raises SteerlibError when nothing does."""
        value = self.fields.get(column)
        if value is None or (isinstance(value, str) and not value.strip()):
            raise self.error(f"{column} is missing or empty")
        return value

    def text(self, column: str) -> str:
        """The text that stands there. Raises SteerlibError when none does, or one beyond all measure."""
        value = self.cell(column)
        if not isinstance(value, str):
            raise self.error(f"{column} is {value!r}, expected text")
        _refuse_long(self.path, self.where, value)
        if re.search(r"[\ud800-\udfff]", value):  # JSON can spell it, nothing can write it
            raise self.error(f"{column} holds half a character (a lone surrogate); mend its escape \\u…")
        return value.strip()

    def group(self, column: str | None) -> str | None:
        """The group that stands there; None when the file has no column of groups."""
        return str(self.cell(column)).strip() if column else None


def read(path: Path) -> list[Record]:
    """The records of a .csv, .jsonl or .json file; a JSON list of strings has the one field ``text``.

    Raises SteerlibError, with file and line, for a file that is missing, empty, not UTF-8 or not well-formed.
    """
    records = []
    for where, entry in {".csv": _csv, ".jsonl": _jsonl, ".json": _json}[path.suffix.lower()](path):
        if not isinstance(entry, dict):
            kind = type(entry).__name__
            raise SteerlibError(f'{path}: {where}: expected fields, as in {{"text": …, "label": …}}, found {kind}')
        records.append(Record(path, where, {str(name).strip().lower(): value for name, value in entry.items()}))
    if not records:
        raise SteerlibError(f"{path}: holds no texts; expected one a line below the column names, or one JSON a line")
    return records


def read_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 file. Raises SteerlibError naming one that is no text, or of more than LONGEST characters."""
    lines = params.read_text(path).split("\n")
    for number, line in enumerate(lines, 1):
        _refuse_long(path, f"line {number}", line)
    return lines


def _refuse_long(path: Path, where: str, text: str) -> None:
    if len(text) > LONGEST:
        raise SteerlibError(
            f"{path}: {where}: {len(text):,} characters, the limit is {LONGEST:,}; is a line break or a quote missing?"
        )


def _csv(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    reader = csv.reader((f"{line}\n" for line in read_lines(path)), strict=True, skipinitialspace=True)
    header, start = [], 1
    try:
        for cells in reader:
            where, start = f"line {start}", reader.line_num + 1  # a quoted cell may go on over several lines
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = [cell.strip().lower() for cell in cells]
                if twice := {name for name in header if header.count(name) > 1}:
                    raise SteerlibError(f"{path}: {where}: column {min(twice)!r} stands there twice")
                continue
            if len(cells) != len(header):
                raise SteerlibError(
                    f"{path}: {where}: {len(cells)} cells, but {len(header)} columns ({', '.join(header)}); "
                    'put a text with commas into "quotes"'
                )
            yield where, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise SteerlibError(f"{path}: line {start}: not valid CSV: {error}; is a quote missing?") from None


def _jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            yield f"line {number}", _parsed(path, f"line {number}", line)


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    text = params.read_text(path)  # a whole list may well stand on one line
    entries = _parsed(path, "", text) if text.strip() else []
    if not isinstance(entries, list):
        raise SteerlibError(
            f"{path}: expected a list of entries, found {type(entries).__name__}; "
            "a concept with its readout is written as YAML, in a .yaml file"
        )
    for number, entry in enumerate(entries, 1):
        yield f"entry {number}", {"text": entry} if isinstance(entry, str) else entry


def _parsed(path: Path, where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = where or f"line {error.lineno}"
        raise SteerlibError(f"{path}: {where}: not valid JSON: {error.msg} (column {error.colno})") from None
    except RecursionError:
        raise SteerlibError(f"{path}: {where or 'whole file'}: JSON nested too deeply to be a list of texts") from None
