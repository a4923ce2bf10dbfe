"""Where a result comes from: hashes of source, notebooks and files, and the record kept with every result."""

import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from steerlib.files.hashes import file_sha256
from steerlib.stages.source import PACKAGE
from steerlib.study import Study, comparison

PROJECT = PACKAGE.parent


def now() -> str:
    """The time as our files tell it: UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def in_project(params: str | Path) -> Path:
    """A params file, or a variant of one (`FILE#VARIANT`): from the current folder, or else from the project's.

    One of the project's own goes by its name alone, as in ``toy``.
    """
    file, variant = comparison.split(params)
    places = [file, PROJECT / file]
    if len(file.parts) == 1:
        places.append(PROJECT / "params" / f"{file.name.removesuffix('.yaml')}.yaml")
    there = (place for exists in (Path.is_file, Path.exists) for place in places if exists(place))
    found = next(there, places[-1])
    return found if variant is None else found.with_name(f"{found.name}#{variant}")


def provenance(study: Study) -> dict[str, str]:
    """What made a result: params, versions, commit, machine, time."""
    machine = f"{platform.system()} {platform.machine()} {os.cpu_count()} cores, Python {platform.python_version()}"
    return {
        "params": study.model_dump_json(),
        "steerlib": version("steerlib"),
        "git_commit": git_commit(),
        "machine": machine,
        "created": now(),
    }


def git_commit() -> str:
    """The commit of the source, marked when it has uncommitted changes; 'unknown' outside a repository."""
    words = ("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty= (modified)")
    try:
        run = subprocess.run(["git", "-C", str(PROJECT), *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return run.stdout.strip()


def package_hash(package: Path = PACKAGE) -> str:
    """Hash of all of the package's source and its places."""
    source = sorted(path for path in package.rglob("*") if path.suffix in (".py", ".yaml"))
    hashes = {path.relative_to(package).as_posix(): file_sha256(path) for path in source}
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()


def peak_rss() -> int:
    """The most memory that this process has held at a time, in bytes; what it shares with others is counted in full."""
    # Not what getrusage says on Linux: a process started by a large one begins with that one's peak.
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
