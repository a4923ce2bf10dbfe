"""Results as files that are either whole or absent.

Each job writes one dataset, `<stage>/step=NNNNNNNN.nc`, to a temporary name and then renames it. A stamp beside it,
written last, holds the hash of all that the dataset was made from: it alone proves that the job was done.
"""

import ctypes
import errno
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from steerlib import SteerlibError, printable

T = TypeVar("T")
_adapter = cache(TypeAdapter)  # of few kinds, each of many files
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
tell = cache(logging.getLogger("steerlib").warning)  # a line on standard error, once
_told: list[tuple] = []  # of files alike
NO_JSON = (OSError, ValueError, RecursionError)  # what reading may raise: not UTF-8, not JSON, not of that kind


def write_json(path: Path, data: Any) -> None:
    """Raises SteerlibError for what JSON cannot hold, such as NaN."""
    try:
        text = json.dumps(data, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SteerlibError(f"{path}: not written, as it would not be JSON ({error})") from error
    write_bytes(path, text.encode())


def read_json(path: Path, kind: type[T]) -> T | None:
    """A file of ours, as a model or another type; None where there is none.

    What is not of that kind (cut off, of an older version, a folder, somebody's) counts as none as well: that is said,
    of those alike in a folder once, and it is overwritten when the file is next written.
    """
    try:
        loaded = json.loads(path.read_bytes(), object_pairs_hook=_once)
        json.dumps(loaded, ensure_ascii=False, allow_nan=False).encode()  # NaN and half characters Python would take
        return _adapter(kind).validate_python(loaded, strict=True)
    except FileNotFoundError:
        return None
    except NO_JSON as error:
        if (alike := (path.parent, path.suffix, reason(error))) not in _told:
            _told.append(alike)
            tell(f"{path}: counts as not there ({reason(error)})")
        return None


def parse_json(data: bytes, kind: type[T]) -> T:
    """What matters here of others' JSON, which may hold what it should not elsewhere. Raises some of `NO_JSON`."""
    return _adapter(kind).validate_python(json.loads(data, object_pairs_hook=_once))


def _once(pairs: list[tuple[str, Any]]) -> dict:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice in it")
    return found


def reason(error: Exception) -> str:
    """Why something was not read, in a few words: never more than a line of what was in it."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        words = f"{place}: {first['msg']}" if place else first["msg"]
    else:
        words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return printable(words.strip().partition("\n")[0][:120])


def write_bytes(path: Path, data: bytes) -> None:
    """To another name, to disk, then renamed. Raises SteerlibError when it does not fit."""
    with _beside(path) as (temporary, place):
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        take_name(temporary, place)


def replace_folder(path: Path, fill) -> None:
    """Make a folder whole or not at all: ``fill(temporary)`` writes it, then it takes the name."""
    with _beside(path) as (temporary, place):
        temporary.mkdir()
        fill(temporary)
        take_name(temporary, place)


@contextmanager
def making(path: Path) -> Iterator[Path]:
    """Something of that name, in a folder that is there from now on. Raises SteerlibError when the disk refuses.

    A link is followed, such as one to a larger disk: it stays, and what is made gets the name that it gives.
    """
    try:
        place = Path(os.path.realpath(path))
        place.parent.mkdir(parents=True, exist_ok=True)
        yield place
    except OSError as error:
        raise explain(path, error) from error


@contextmanager
def _beside(path: Path) -> Iterator[tuple[Path, Path]]:
    """A name on the same disk for what is to be renamed, and to what; what is left is removed. Raises SteerlibError."""
    with making(path) as place:
        with tempfile.TemporaryDirectory("", f".{place.name}.", place.parent, ignore_cleanup_errors=True) as folder:
            yield Path(folder) / "temporary", place


def take_name(temporary: Path, path: Path) -> None:
    """What is finished takes its name, and what had it is removed: never is there half of either. Raises OSError."""
    if os.path.lexists(path) and (path.is_dir() or temporary.is_dir()):
        _exchange(temporary, path)
        with suppress(OSError):  # what is left of it goes with the temporary folder, or by the next that makes one
            remove(temporary)
    else:
        os.replace(temporary, path)


def remove(path: Path) -> None:
    """Whatever has that name, if anything has. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _exchange(first: Path, second: Path) -> None:
    """Two names change places at one moment; where there is no such call, for a moment nothing has the second."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    working_folder, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
    paths = (working_folder, os.fsencode(first), working_folder, os.fsencode(second))
    if renameat2 is None or renameat2(*paths, exchange) != 0:
        aside = first.with_name(f"{first.name}.old")
        os.replace(second, aside)
        os.replace(first, second)
        os.replace(aside, first)


def explain(path: Path, error: OSError) -> SteerlibError:
    """Why a path could not be written, and the remedy."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "free some space and run again; what is already done is kept" if full else "check the folder and run again"
    above = error.filename and Path(os.fsdecode(error.filename)) in Path(path).parents  # what is in the way
    why = f"{error.filename}: {error.strerror}" if above else error.strerror or error
    return SteerlibError(f"{path}: cannot be written ({why}); {remedy}")
