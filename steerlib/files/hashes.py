"""Hashes of large files, taken once a study and machine: driver, workers and every notebook ask for the same."""

import hashlib
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from steerlib import SteerlibError
from steerlib.files import store

TICK = 2 * 10**9  # nanoseconds between times that the coarsest file system tells apart


def file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def git_id(path: Path) -> str:
    """What git, and so the hub, calls a file of this content."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def is_still(path: Path, sha256: str) -> bool:
    """Whether a file is there, can be read, and holds what has this hash."""
    try:
        return file_sha256(path) == sha256
    except OSError:
        return False


def weights_hash(hashes: Iterable[str]) -> str:
    """One hash of the hashes of all weight files, in the order of their names."""
    return hashlib.sha256(b"".join(map(bytes.fromhex, hashes))).hexdigest()


def sha256_of(files: list[Path], study: Path | None) -> list[str]:
    """SHA-256 of each of a folder's files; what was read is noted in the study's results, where there are any.

    A file is known again by name, size, inode, and the times of its last change. Not noticed is one that was changed
    in place and had its times, the kernel's own among them, set back. Notes that cannot be read or written are done
    without, and of two that are written at once either is right.
    """
    if study is None or not study.is_dir():
        return [file_sha256(file) for file in files]
    folder = os.path.relpath(files[0].parent.resolve(), study.resolve())
    notes = study / "weights" / f"{files[0].parent.name}.{hashlib.sha256(folder.encode()).hexdigest()[:8]}.json"
    noted = store.read_json(notes, dict[str, store.Sha256]) or {}
    keys = [_key(file) for file in files]  # before they are read: they may change meanwhile
    hashes = {key: noted.get(key) or file_sha256(file) for key, file in zip(keys, files, strict=True)}
    # One that was changed just now could change once more, and its times stay as they are.
    latest = max(max(file.stat().st_mtime_ns, file.stat().st_ctime_ns) for file in files)
    if hashes != noted and latest < time.time_ns() - TICK:
        with suppress(SteerlibError):
            store.write_json(notes, hashes)
    return list(hashes.values())


def _key(file: Path) -> str:
    status = file.stat()
    return f"{file.name} {status.st_size} {status.st_ino} {status.st_mtime_ns} {status.st_ctime_ns}"
