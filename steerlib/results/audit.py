"""The audit of a study: a line for whatever was done with it, each chained to the one before by its hash.

`audit.jsonl` is only ever added to. That a line was removed, altered or moved is seen by the chain; that the last ones
were cut off, by `audit.head.json` beside it. Who can write both can write another story: its head is to be noted where
they cannot (docs/trust.md).
"""

import errno
import hashlib
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from getpass import getuser
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from steerlib import SteerlibError
from steerlib.files import locks, store
from steerlib.results import keys, provenance
from steerlib.results.freshness import Freshness
from steerlib.results.workspace import Job

NAME, HEAD = "audit.jsonl", "audit.head.json"
USER = "STEERLIB_USER"  # who is told to have done it, instead of the name on this machine
FIRST = "0" * 64  # what the first line is chained to
OURS = "steerlib", "__main__.py"  # programs whose arguments are told: those of others are their own business
commit = cache(provenance.git_commit)  # of the code that this process has loaded


class Head(BaseModel):
    """How far an audit went when it was last written."""

    line: int
    sha256: store.Sha256


class Line(NamedTuple):
    """One as it stands in the file. What cannot be read tells nothing, and has the number that it should have."""

    number: int
    sha256: str
    told: dict[str, Any] | None


class Verified(NamedTuple):
    head: Head
    wrong: list[str]  # what was removed, altered, moved or cut
    remarks: list[str]


def log(folder: Path, event: str, /, **facts: Any) -> None:
    """Add a line of what JSON can tell, of paths their names. Raises SteerlibError when it cannot be written.

    Several processes may at once. A piece of a line, which a kill may leave, is kept and chained like a line.
    """
    with locks.turn(folder, "audit"), store.making(folder / NAME) as path:
        data = path.read_bytes() if path.exists() else b""
        before = _lines(data)
        last = before[-1] if before else Line(0, FIRST, None)
        ours = {"line": last.number + 1, "time": provenance.now(), "event": event}
        ours |= {"who": who(), "command": command(), "commit": commit(), "previous": last.sha256}
        head = store.read_json(folder / HEAD, Head)
        if head and head.sha256 not in {line.sha256 for line in before}:
            ours["lost"] = head.line
        try:
            line = json.dumps(ours | facts | ours, default=str, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise SteerlibError(f"{path}: not written, as it would not be JSON ({error})") from error
        _append(path, b"\n" * (data[-1:] not in (b"", b"\n")) + line + b"\n")
        with (folder / HEAD).open("r+b" if (folder / HEAD).exists() else "wb") as stream:  # in place: of one length
            stream.write(b'{"line": %12d, "sha256": "%s"}\n' % (last.number + 1, _sha256(line).encode()))


def note(folder: Path, event: str, /, **facts: Any) -> None:
    """The same for who only reads results: where it cannot be written, that is told; where there are none, nothing."""
    if folder.is_dir():
        try:
            log(folder, event, **facts)
        except SteerlibError as error:
            store.tell(f"not noted in the audit: {error}")


@contextmanager
def during(folder: Path, params: BaseModel, what: str, **asked: Any) -> Iterator[dict[str, Any]]:
    """A line when it begins, and one when it ends, with what is put into what this gives, and what stopped it.

    Raises SteerlibError where the first cannot be written.
    """
    log(folder, f"{what} begins", params=keys.of_params(params), **{key: of for key, of in asked.items() if of})
    came_to: dict[str, Any] = {}
    try:
        yield came_to
    except BaseException as error:
        came_to["stopped"] = store.reason(error)
        raise
    finally:
        note(folder, f"{what} ends", **came_to)


def of_results(now: Freshness, jobs: Iterable[Job]) -> dict[str, dict[str, str]]:
    """Of those that hold, what they were made from, a hash a term, and what they are, a hash a stage.

    A term that has several, such as the checkpoint, has one of them all.
    """
    inputs, results = defaultdict[str, dict[str, None]](dict), defaultdict[str, list[str]](list)
    for job in (job for job in jobs if now.state(job) == "done"):
        for term, sha256 in now.stamp(job).key.items():
            if not term.startswith("the result of "):
                inputs[term][sha256] = None
        results[job.stage].append(now.stamp(job).data_sha256)
    one = lambda hashes: hashes[0] if len(hashes) == 1 else keys.hashed(hashes)  # noqa: E731
    return {"inputs": {k: one([*v]) for k, v in inputs.items()}, "results": {k: one(v) for k, v in results.items()}}


def who() -> str:
    """As `STEERLIB_USER` says, or the name on this machine."""
    with suppress(OSError, KeyError, ImportError):  # in a container nobody may have a name
        return os.environ.get(USER) or getuser()
    return "unknown"


def command() -> list[str]:
    program = Path(sys.argv[0]).name
    return ["steerlib", *sys.argv[1:]] if program in OURS else [program]


def read(path: Path) -> list[Line]:
    """Raises SteerlibError where there is no audit."""
    try:
        return _lines(path.read_bytes())
    except OSError as error:
        raise SteerlibError(f"{path}: cannot be read ({error.strerror}); `steerlib run` writes it") from None


def verify(path: Path, noted: str = "") -> Verified:
    """What speaks against an audit. ``noted``: the hash of a line, kept elsewhere, that has to be in it.

    Raises SteerlibError where there is none.
    """
    head = store.read_json(path.with_name(HEAD), Head)  # before the lines: who writes meanwhile writes it after them
    lines = read(path)
    hashes = {line.sha256 for line in lines}
    wrong, remarks = [], []
    for before, number in pairwise(sorted({0, *(line.number for line in lines)})):
        if number > before + 1:
            wrong.append(f"{_lines_from(before + 1, number - 1)} removed")
    for before, line in pairwise([Line(0, FIRST, None), *lines]):
        if line.number <= before.number:
            wrong.append(f"line {line.number} stands behind line {before.number}: moved, or put in")
        elif line.told and line.number == before.number + 1 and line.told["previous"] != before.sha256:
            wrong.append(f"line {before.number or 1} was altered, or what line {line.number} tells of it")
        if line.told and "lost" in line.told:
            wrong.append(f"line {line.told['lost']}, the last before line {line.number}, was cut off or altered")
    for line, after in zip(lines, [*lines, None][1:], strict=True):
        if line.told is None and after and after.told and after.told["previous"] == line.sha256:
            remarks.append(f"line {line.number} broke off when it was written: by a kill, or a full disk")
        elif line.told is None:
            wrong.append(f"line {line.number} cannot be read: it was altered, or broke off when it was written")
    if head is None:
        remarks.append(f"there is no {HEAD}: whether its last lines were cut off is not known")
    elif head.sha256 not in hashes:
        at = max((line.number for line in lines), default=0)
        gone = _lines_from(at + 1, head.line)
        wrong.append(f"{gone} cut off" if at < head.line else f"line {head.line} was altered")
    if noted and noted not in hashes:
        wrong.append(f"no line has the hash {noted}: lines were cut off, or the audit is another")
    last = lines[-1] if lines else Line(0, FIRST, None)
    return Verified(Head(line=last.number, sha256=last.sha256), list(dict.fromkeys(wrong)), remarks)


def _lines_from(first: int, last: int) -> str:
    return f"line {first} was" if first == last else f"lines {first} to {last} were"


def _append(path: Path, data: bytes) -> None:
    """All of it on disk, or nothing. Raises OSError."""
    with path.open("ab", buffering=0) as stream:
        size = stream.tell()
        try:
            if stream.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(stream.fileno())
        except OSError:
            stream.truncate(size)
            raise


def _lines(data: bytes) -> list[Line]:
    found: list[Line] = []
    for piece in data.removesuffix(b"\n").split(b"\n") if data else ():
        told = _told(piece)
        found.append(Line(told["line"] if told else (found[-1].number if found else 0) + 1, _sha256(piece), told))
    if found and not data.endswith(b"\n"):
        found[-1] = found[-1]._replace(told=None)
    return found


def _told(piece: bytes) -> dict[str, Any] | None:
    with suppress(ValueError, RecursionError):
        told = json.loads(piece)
        if isinstance(told, dict) and isinstance(told.get("line"), int) and isinstance(told.get("previous"), str):
            return told
    return None


def _sha256(piece: bytes) -> str:
    return hashlib.sha256(piece).hexdigest()
