"""`make gpu-bundle`: what travels with the checkout to a GPU machine without a network, for benchmarks/gpu.sh.

Wheels of what a run needs and that machine lacks, a corpus cut by whole books, and what pip would tell of steerlib.
"""

from __future__ import annotations

import json
import lzma
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from steerlib import SteerlibError
from steerlib.files import store
from steerlib.files.params import read_text
from steerlib.results.provenance import PROJECT, git_commit, now
from steerlib.running.console import guarded

PLAN = yaml.safe_load((PROJECT / "benchmarks" / "gpu.yaml").read_text())
WHEELS, CORPUS = "wheels", "corpus.txt.xz"
# Of the C library that a wheel is built for: pip takes those that it is told of alone.
PLATFORMS = [f"manylinux_2_{version}_x86_64" for version in (39, 35, 34, 31, 28, 27, 26, 24, 17)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux1_x86_64"]
MB = 1e6
SPARE = MB  # of what may travel, for what is changed in the checkout until then


def wheels(plan: dict = PLAN["bundle"]) -> tuple[dict[str, str], set[str]]:
    """Versions, as locked, of what has to travel; and what is needed and said to be there.

    All that steerlib asks for, and what that asks for in turn, of which the machine has some with all that they need.
    """
    # As the machine's Python sees it: what is asked for may differ by version.
    marks = {"python_version": plan["python"], "python_full_version": f"{plan['python']}.0", "extra": ""}
    left, there, found, met = {*plan["unneeded"]}, {*plan["there"]}, {}, set()
    todo = list(tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["dependencies"])
    while todo:
        asked = Requirement(todo.pop())
        name = canonicalize_name(asked.name)
        if name in left or name in found or (asked.marker and not asked.marker.evaluate(marks)):
            continue
        if name in there:
            met.add(name)
            continue
        package = distribution(name)
        found[name] = package.version
        todo += package.requires or ()
    return found, met


def fetch(folder: Path, python: str, versions: dict[str, str]) -> int:
    """Wheels for that Python on Linux; returns their bytes. Raises SteerlibError with pip's own words."""
    names = [f"{name}=={version}" for name, version in sorted(versions.items())]
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    options = ["--only-binary=:all:", "--no-deps", "--implementation", "cp", "--python-version", python, *platforms]
    command = [sys.executable, "-m", "pip", "download", "-qq", *options, "-d", folder, *names]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SteerlibError(f"wheels cannot be had: {done.stderr.strip().splitlines()[-1]}")
    return size_of(folder)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def describe(folder: Path) -> None:
    """What pip would know of steerlib, whose checkout is run as it stands: its version, its entry points."""
    code = "import sys; from setuptools.build_meta import *; prepare_metadata_for_build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, folder.resolve()], cwd=PROJECT, capture_output=True, check=True)
    for made in folder.glob("*.egg-info"):
        store.remove(made)


def checkout() -> int:
    """Bytes of all that git does not ignore."""
    command = ["git", "-C", PROJECT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    return sum(path.stat().st_size for name in names if name and (path := PROJECT / name).is_file())


def cut(books: Sequence[str], most: int, share: float = 1 / 3, seed: int = 0) -> tuple[bytes, int]:
    """Whole books that fit packed into ``most`` bytes, drawn at random and left in order; and how many they are.

    ``share``: what packing leaves of a text, about. Raises SteerlibError when not one of them fits.
    """
    order = np.random.default_rng(seed).permutation(len(books))
    count = int((share * np.cumsum([len(books[k].encode()) for k in order]) <= most).sum())
    while count:
        packed = lzma.compress("\n\n".join(books[k] for k in sorted(order[:count])).encode(), preset=9)
        if len(packed) <= most:
            return packed, count
        count = min(count - 1, int(count * most / len(packed)))
    raise SteerlibError("corpus: not one of its books fits; part them by a blank line")


def main(
    corpus: Annotated[Path, typer.Argument(help="A text, a paragraph a line, a blank line between books; .xz too.")],
    folder: Annotated[Path, typer.Argument(help="Where the bundle goes.")] = Path("outputs/gpu-bundle"),
) -> None:
    """Write the bundle, and say what travels. Exits with 1 when it cannot be, or would be too large."""
    plan, room, text = PLAN["bundle"], PLAN["bundle"]["most"] - checkout(), read_text(corpus)

    def fill(made: Path) -> None:
        versions, _ = wheels(plan)
        wheel_bytes = fetch(made / WHEELS, plan["python"], versions)
        describe(made)
        books = [book for book in text.split("\n\n") if book.strip()]
        share = 1.02 * corpus.stat().st_size / len(text) if corpus.suffix == ".xz" else 1 / 3
        packed, count = cut(books, int(min(plan["corpus"], room - size_of(made) - SPARE)), share)
        (made / CORPUS).write_bytes(packed)
        told = {"created": now(), "commit": git_commit(), "python": plan["python"], "wheels": versions}
        told |= {"wheel_bytes": wheel_bytes, "books": count, "books_given": len(books), "corpus_bytes": len(packed)}
        store.write_json(made / "bundle.json", told)
        if size_of(made) > room:
            raise SteerlibError(f"{size_of(made) / MB:.1f} MB and the checkout are more than may travel")

    store.replace_folder(folder, fill)
    told, travels = json.loads((folder / "bundle.json").read_text()), plan["most"] - room + size_of(folder)
    print(
        f"{folder}: {len(told['wheels'])} wheels ({told['wheel_bytes'] / MB:.1f} MB), {told['books']} of "
        f"{told['books_given']} books ({told['corpus_bytes'] / MB:.1f} MB). With the checkout {travels / MB:.1f} MB "
        f"travel, of at most {plan['most'] / MB:.1f}. There: benchmarks/gpu.sh"
    )


if __name__ == "__main__":
    guarded(lambda: typer.run(main))
