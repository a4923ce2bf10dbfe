"""Files of many texts (CSV, JSON lines, JSON) as records that know where they stand, for errors that name the line."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerlib import SteerlibError
from steerlib.files import params

LONGEST = 100_000  # characters of a line or a text; no context of a model studied here holds as much


@dataclass(frozen=True)
class Record:
    """Named fields (names in lower case), and their place in the file: 'line 12', or 'entry 12' of a JSON list."""

    where: str
    fields: dict[str, Any]


def read(path: Path) -> list[Record]:
    """The records of a .csv, .jsonl or .json file; a JSON list of strings has the one field ``text``.

    Raises SteerlibError, with file and line, for a file that is missing, empty, not UTF-8 or not well-formed.
    """
    records = {".csv": _csv, ".jsonl": _jsonl, ".json": _json}[path.suffix.lower()](path)
    if not records:
        raise SteerlibError(f"{path}: holds no texts; expected one a line below the column names, or one JSON a line")
    return records


def read_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 file, without their ends. Raises SteerlibError naming a line that is none, or too long."""
    if not path.is_file():
        raise SteerlibError(f"{path}: {'is a folder, expected a file' if path.is_dir() else 'no such file'}")
    lines = []
    for number, raw in enumerate(path.read_bytes().split(b"\n"), 1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            message = f"{path}: line {number}: not UTF-8 text (byte {error.start} of the line); save it as UTF-8"
            raise SteerlibError(message) from None
        lines.append(line.removesuffix("\r"))
    return lines


def read_yaml(path: Path) -> dict[str, Any]:
    """Keys and values of a YAML file. Raises SteerlibError, likewise naming a line."""
    refuse_long_lines(path, read_lines(path))
    return params.read(path)


def refuse_long_lines(path: Path, lines: list[str]) -> None:
    """Raises SteerlibError naming the first line of more than LONGEST characters."""
    for number, line in enumerate(lines, 1):
        refuse_long(path, f"line {number}", line)


def refuse_long(path: Path, where: str, text: str) -> None:
    """Raises SteerlibError for a text of more than LONGEST characters."""
    if len(text) > LONGEST:
        raise SteerlibError(
            f"{path}: {where}: {len(text):,} characters, the limit is {LONGEST:,}; is a line break or a quote missing?"
        )


def _csv(path: Path) -> list[Record]:
    lines = read_lines(path)
    refuse_long_lines(path, lines)
    reader = csv.reader((line + "\n" for line in lines), strict=True, skipinitialspace=True)
    header, records, start = [], [], 1
    try:
        for cells in reader:
            here, start = start, reader.line_num + 1  # a quoted cell may go on over several lines
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = [cell.strip().lower() for cell in cells]
                if twice := {name for name in header if header.count(name) > 1}:
                    raise SteerlibError(f"{path}: line {here}: column {min(twice)!r} stands there twice")
                continue
            if len(cells) != len(header):
                raise SteerlibError(
                    f"{path}: line {here}: {len(cells)} cells, but {len(header)} columns ({', '.join(header)}); "
                    'put a text with commas into "quotes"'
                )
            records.append(Record(f"line {here}", dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        raise SteerlibError(f"{path}: line {start}: not valid CSV: {error}; is a quote missing?") from None
    return records


def _jsonl(path: Path) -> list[Record]:
    lines = read_lines(path)
    refuse_long_lines(path, lines)
    return [
        _record(path, f"line {number}", _parsed(path, f"line {number}", line))
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]


def _json(path: Path) -> list[Record]:
    text = "\n".join(read_lines(path))  # a whole list may well stand on one line
    entries = _parsed(path, "", text) if text.strip() else []
    if not isinstance(entries, list):
        raise SteerlibError(
            f"{path}: expected a list of entries, found {type(entries).__name__}; "
            "a concept with its readout is written as YAML, in a .yaml file"
        )
    return [
        _record(path, f"entry {number}", {"text": entry} if isinstance(entry, str) else entry)
        for number, entry in enumerate(entries, 1)
    ]


def _parsed(path: Path, where: str, text: str):
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = where or f"line {error.lineno}"
        raise SteerlibError(f"{path}: {where}: not valid JSON: {error.msg} (column {error.colno})") from None
    except RecursionError:
        raise SteerlibError(f"{path}: {where or 'whole file'}: JSON nested too deeply to be a list of texts") from None


def _record(path: Path, where: str, entry: Any) -> Record:
    if not isinstance(entry, dict):
        kind = type(entry).__name__
        raise SteerlibError(f'{path}: {where}: expected fields, as in {{"text": …, "label": …}}, found {kind}')
    return Record(where, {str(name).strip().lower(): value for name, value in entry.items()})
