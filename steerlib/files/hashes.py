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


def weights_hash(hashes: Iterable[str]) -> str:
    """One hash of the hashes of all weight files, in the order of their names."""
    return hashlib.sha256(b"".join(map(bytes.fromhex, hashes))).hexdigest()


def sha256_of(files: list[Path], study: Path | None) -> list[str]:
    """SHA-256 of each of a folder's files; what was read is noted in the study's results, where there are any.

    A file is known again by name, size, inode, and the times of its last change. Not noticed is one that was changed
    in place and had its times, the kernel's own among them, set back. Notes that cannot be read or written are done
    without, and of two that are written at once either is right.
    """
    if study is None or not study.is_dir() or not files:
        return [file_sha256(file) for file in files]
    folder = os.path.relpath(files[0].parent.resolve(), study.resolve())
    notes = study / "weights" / f"{files[0].parent.name}.{hashlib.sha256(folder.encode()).hexdigest()[:8]}.json"
    noted = store.read_json(notes, dict[str, store.Sha256]) or {}
    keys = [f"{file.name} {seen(file)}" for file in files]  # before they are read: they may change meanwhile
    hashes = {key: noted.get(key) or file_sha256(file) for key, file in zip(keys, files, strict=True)}
    if hashes != noted and all(map(settled, files)):
        with suppress(SteerlibError):
            store.write_json(notes, hashes)
    return list(hashes.values())


def seen(file: Path) -> str:
    """What tells a file from another of the same name."""
    status = file.stat()
    return f"{status.st_size} {status.st_ino} {status.st_mtime_ns} {status.st_ctime_ns}"


def settled(file: Path) -> bool:
    """Whether it would be seen if it changed once more: within a tick of the last time, its times stay as they are."""
    latest = max(file.stat().st_mtime_ns, file.stat().st_ctime_ns)
    return latest < time.time_ns() - (TICK if latest % 10**6 == 0 else TICK // 20)  # whose clock tells less than that
