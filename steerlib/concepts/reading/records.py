"""Files of many texts (CSV, JSON lines, JSON, parquet) as records that know where they stand, which errors name.

The parsers of text are the standard library's: those of pandas tell no lines, fill rows that are cut short, take the
surplus of a row as its index, and turn a label 1 into 1.0 where another row has none.
"""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from steerlib import SteerlibError
from steerlib.concepts.concept import LONGEST, usable
from steerlib.concepts.repeats import normalised
from steerlib.files import params

# What programs write where nothing is: as a label it would be one side of a concept.
NOTHING = re.compile(
    r"[<([]?(-?nan|nat|none|nil|null|undefined|empty|na|n/a)[])>]?|n\.a\.|\\n|[?.]+|[-+]?inf(inity)?"
    r"|#(n/a|null!|value!|ref!|name\?|num!|div/0!)"
)


def as_label(value: Any) -> str:
    """Labels are compared as words: 1, 1.0, '1,00' and ' 1 ' are the same, and so are True and 'true'.

    Raises ValueError for what is no word, or only says that there is none.
    """
    word = as_word(value)
    if isinstance(value, list | dict | bytes) or not word or NOTHING.fullmatch(word):
        raise ValueError(f"{params.SHORT.repr(value)} is no label; write a word, or leave the text out")
    return usable(word)


def as_word(value: Any) -> str:
    """What spellings of a label or of a group have in common."""
    return re.sub(r"^\+?(-?\d+)([.,]0*)?(e[-+]?0+)?$", r"\1", normalised(str(value)).lower())


class Record(NamedTuple):
    """Named fields (their names by `_name`) and where they stand: 'line 12' of a file, or 'entry 12' of a JSON list."""

    path: Path
    where: str
    fields: dict[str, Any]

    def error(self, message: str) -> SteerlibError:
        return SteerlibError(f"{self.path}: {self.where}: {message}")

    def cell(self, column: str) -> Any:
        """What stands there. Raises SteerlibError when nothing does."""
        value = self.fields.get(column)
        if value is None or value != value or (isinstance(value, str) and not normalised(value)):  # or not a number
            raise self.error(f"{column} is missing or empty")
        return value

    def text(self, column: str) -> str:
        """The text that stands there. Raises SteerlibError when none does, or one beyond all measure."""
        return self.readable(column, self.cell(column))

    def readable(self, what: str, value: Any) -> str:
        """The value as text. Raises SteerlibError when it is none."""
        if not isinstance(value, str):
            raise self.error(f"{what} is {params.SHORT.repr(value)}, expected text")
        try:
            return usable(value).strip()
        except ValueError as error:
            raise self.error(f"{what} {error}") from None

    def label(self, column: str) -> str:
        """The label that stands there (`as_label`). Raises SteerlibError when none does."""
        try:
            return as_label(self.cell(column))
        except ValueError as error:
            raise self.error(f"{column}: {error}") from None


def read(path: Path) -> list[Record]:
    """The records of a file that is no YAML; a JSON list of strings has the one field ``text``.

    Raises SteerlibError, with file and line, for a file that is missing, empty, not UTF-8 or not well-formed.
    """
    records, parsers = [], {".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl, ".json": _json, ".parquet": _parquet}
    kind = Path(path.stem if path.suffix in params.UNPACK else path).suffix.lower()
    if kind not in parsers:
        raise SteerlibError(f"{path}: expected a table as {', '.join(parsers)}, compressed (.csv.xz) or not")
    for where, entry in parsers[kind](path):
        if not isinstance(entry, dict):
            kind = type(entry).__name__
            raise SteerlibError(f'{path}: {where}: expected fields, as in {{"text": …, "label": …}}, found {kind}')
        fields = {_name(name): value for name, value in entry.items()}
        if len(fields) < len(entry):
            raise SteerlibError(f"{path}: {where}: two names are the same but for capitals and spaces; keep one")
        records.append(Record(path, where, fields))
    if not records:
        raise SteerlibError(f"{path}: holds no texts or values; expected one a line below the names, or a JSON a line")
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


SEP = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
LOOKED_AT = 1000  # rows that tell what parts columns


def _name(name: object) -> str:
    """A column's name, however it is written: Best Answer is best_answer."""
    return normalised(str(name)).lower().replace(" ", "_")


def parting(lines: Sequence[str]) -> str:
    """What parts columns: a first line ``sep=;`` says it, or else that by which most rows have as many as the names.

    Among equals a comma comes last, as it may well stand in names and texts.
    """
    if told := SEP.fullmatch(lines[0]):
        return told[1]

    def fit(mark: str) -> tuple[bool, float]:
        reader = csv.reader(lines, delimiter=mark, skipinitialspace=True)
        rows = [row for row in islice(reader, LOOKED_AT) if any(map(normalised, row))]
        names = len(_cells(rows[0])) if rows else 0
        return names > 1, sum(len(_cells(row, names)) == names for row in rows) / max(len(rows), 1)

    return max("\t;,", key=fit)


def _cells(row: list[str], least: int = 0) -> list[str]:
    """Without a spreadsheet's empty columns at the end."""
    while len(row) > least and not normalised(row[-1]):
        row = row[:-1]
    return row


def _csv(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """As programs and spreadsheets write it."""
    lines, where = read_lines(path), "line 1"
    try:
        mark, names = parting(lines), []
        lines[0] = "" if SEP.fullmatch(lines[0]) else lines[0]
        reader = csv.reader((f"{line}\n" for line in lines), delimiter=mark, strict=True, skipinitialspace=True)
        for cells in reader:
            cells = _cells(cells, len(names))
            if not names:
                names = [_name(cell) for cell in cells]
                if twice := {name for name in names if names.count(name) > 1}:
                    raise SteerlibError(f"{path}: {where}: column {min(twice)!r} stands there twice")
            elif any(map(normalised, cells)):
                if len(cells) != len(names):
                    raise SteerlibError(
                        f"{path}: {where}: {len(cells)} cells, but {len(names)} columns ({', '.join(names)}); "
                        f'put what holds {mark!r} into "quotes", or part columns by tabs'
                    )
                fields = dict(zip(names, cells, strict=True))
                if not (index := fields.pop("", "0")).strip().isdecimal():  # as pandas leaves it
                    raise SteerlibError(f"{path}: {where}: {index!r} stands in a column without a name")
                yield where, fields
            where = f"line {reader.line_num + 1}"  # a quoted cell may go on over several lines
    except csv.Error as error:
        raise SteerlibError(f"{path}: {where}: not valid CSV: {error}; is a quote missing?") from None


def _jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            yield f"line {number}", _parsed(path, f"line {number}", line)


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    text = params.read_text(path)  # a whole list may well stand on one line
    if re.match(r"\s*\{.*\}[ \t]*\n\s*\{", text):  # JSON lines by another name
        yield from _jsonl(path)
        return
    entries = _parsed(path, "", text) if text.strip() else []
    if not isinstance(entries, list):
        raise SteerlibError(
            f"{path}: expected a list of entries, found {type(entries).__name__}; "
            "a concept with its readout is written as YAML, in a .yaml file"
        )
    for number, entry in enumerate(entries, 1):
        yield f"entry {number}", {"text": entry} if isinstance(entry, str) else entry


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import duckdb  # only here: it takes a while to load

    try:
        with path.open("rb"), duckdb.connect() as database:
            table = database.read_parquet(str(path))
            for number, row in enumerate(table.fetchall(), 1):
                yield f"row {number}", dict(zip(table.columns, row, strict=True))
    except OSError as error:
        raise SteerlibError(f"{path}: cannot be read ({error.strerror})") from None
    except duckdb.Error as error:
        raise SteerlibError(f"{path}: not valid parquet: {str(error).splitlines()[0]}; copy it again") from None


def _parsed(path: Path, where: str, text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{twice[0][:80]!r} stands twice in one entry; keep one")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        where = where or f"line {error.lineno}"
        raise SteerlibError(f"{path}: {where}: not valid JSON: {error.msg} (column {error.colno})") from None
    except ValueError as error:  # a name twice, a number of thousands of digits
        raise SteerlibError(f"{path}: {where or 'whole file'}: {error}") from None
    except RecursionError:
        raise SteerlibError(f"{path}: {where or 'whole file'}: JSON nested too deeply to be a list of texts") from None
