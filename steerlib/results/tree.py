"""`results.zarr`: a study's results as one DataTree in Zarr, written a checkpoint at a time and read piece by piece.

However many checkpoints there are, writing holds a few of them in memory, and reading what is asked for.
"""

from __future__ import annotations

import json
import math
import shutil
import uuid
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path

import numpy as np
import xarray as xr
import zarr
from filelock import FileLock, Timeout
from zarr.storage import LocalStore

from steerlib import SteerlibError
from steerlib.files import store

# A chunk is 1 step × 1 layer. At 24 layers and 8 concepts, though, most variables then have chunks of some hundred
# bytes, and each costs 0.1 ms whatever its size (measured: 25 times slower to write and to read): below this many bytes
# a chunk takes all layers.
LEAST = 8192
# Chunks lie in shards, a file each, of all layers and as many steps as make a group's shards together this large. As
# files of their own they would be a million at 1,000 steps. It is also what is held in memory to be written: a shard
# written in two goes is read, and written, twice.
SHARDS = 32 << 20


class Tree(Mapping[str, xr.Dataset]):
    """`results.zarr` in the making: groups are written into a folder beside it, and read from there when they are used.

    Nothing has the name before `finish`. What is not finished is removed once nobody can read it any more, and what a
    killed process left by the next that makes one.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_left(path)
            folder = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
            lock = FileLock(f"{folder}.lock")
            lock.acquire()
            folder.mkdir()
        except OSError as error:
            raise store.explain(path, error) from error
        self._store, self._groups = Files(folder, read_only=True), {}
        self.close = weakref.finalize(self._store, _discard, folder, lock)

    def __getitem__(self, name: str) -> xr.Dataset:
        return self._groups[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)

    def add(self, name: str, parts: Iterable[xr.Dataset], steps: int | None = None) -> None:
        """Write a group: a dataset, or one a step, as many as ``steps`` says, taken one after the other.

        Raises SteerlibError when they do not fit one another, or do not fit on the disk.
        """
        parts = iter(parts)
        try:
            _write(self._store.root / name, next(parts), parts, steps)
        except OSError as error:
            raise store.explain(self.path, error) from error
        self._groups[name] = _open(self._store, name)

    def finish(self, attrs: Mapping) -> None:
        """All of it takes its name; the groups can be read as before. Raises SteerlibError when the disk refuses."""
        plain = {k: v if isinstance(v, str | int | float) else json.dumps(v) for k, v in attrs.items()}
        try:
            zarr.open_group(self._store.root, mode="a", zarr_format=3).update_attributes(plain)
            store.take_name(self._store.root, self.path)
        except OSError as error:
            raise store.explain(self.path, error) from error
        self._store.root = self.path
        self.close()


class Files(LocalStore):
    """Files of which none may be missing: Zarr would take NaN, or 0, for what an absent file holds."""

    async def get(self, key, *args, **kwargs):
        found = await super().get(key, *args, **kwargs)
        if found is None and "c" in key.split("/"):
            raise SteerlibError(f"{self.root / key}: is not there; delete {self.root} and run again")
        return found


def read(path: Path) -> dict[str, xr.Dataset]:
    """The groups of a finished tree, read from disk when they are used; none where there is no tree."""
    groups = sorted(found.parent.name for found in path.glob("*/zarr.json"))
    files = Files(path, read_only=True) if groups else None
    return {name: _open(files, name) for name in groups}


def _open(files: Files, name: str) -> xr.Dataset:
    # Not kept in memory once read; and no Dask, whose graph of a million chunks would be larger than what is asked for.
    return xr.open_dataset(files, engine="zarr", group=name, chunks=None, cache=False, consolidated=False)


def _write(folder: Path, first: xr.Dataset, others: Iterator[xr.Dataset], steps: int | None) -> None:
    """A group. Arrays are made with all steps and then filled, shard by shard, by this one writer."""
    first, there = _plain(first), first.sizes.get("step", 1)
    along = [name for name, variable in first.variables.items() if "step" in variable.dims]
    count = steps or there
    size = sum(first[name].nbytes for name in along)
    in_shard = min(count, max(1, SHARDS * there // max(1, size)))
    first.to_zarr(
        folder,
        mode="w",
        encoding={name: _layout(name, v, in_shard, count) for name, v in first.variables.items() if v.size and v.ndim},
        zarr_format=3,
        consolidated=False,
        write_empty_chunks=True,
    )
    if steps is None:
        return
    parts = chain([first], (_like(first, _plain(part), along) for part in others))
    with zarr.config.set({"array.write_empty_chunks": True}):
        group = zarr.open_group(folder, mode="r+")
        arrays = {name: group[name] for name in along}
        for array in arrays.values():
            array.resize((steps, *array.shape[1:]))
        for start in range(0, steps, in_shard):
            rows = list(islice(parts, in_shard))
            for name, array in arrays.items():
                if array.size:
                    array[start : start + len(rows)] = np.concatenate([row[name].values for row in rows])


def _plain(dataset: xr.Dataset) -> xr.Dataset:
    """Without what its file was encoded with; strings of any length, as Zarr has no standard for those of one."""
    text = {name: v.astype(object) for name, v in dataset.variables.items() if v.dtype.kind == "U"}
    return dataset.assign(text).drop_encoding()


def _layout(name: str, variable: xr.Variable, in_shard: int, steps: int) -> dict:
    whole = {**variable.sizes, **({"step": in_shard} if "step" in variable.dims else {})}
    if name in variable.dims:  # an index, read as a whole
        return {"chunks": (steps if name == "step" else variable.size,)}
    chunk = {dim: 1 if dim in ("step", "layer") else size for dim, size in variable.sizes.items()}
    if "layer" in chunk and math.prod(chunk.values()) * variable.dtype.itemsize < LEAST:
        chunk["layer"] = variable.sizes["layer"]
    return {"chunks": tuple(chunk.values()), "shards": tuple(whole.values())}


def _like(first: xr.Dataset, part: xr.Dataset, along: list[str]) -> xr.Dataset:
    """The part, if it can stand beside the first. Raises SteerlibError saying what differs."""
    for name in along:
        if name not in part.variables:
            what = "has no"
        elif part[name].sizes != first[name].sizes or part[name].dtype != first[name].dtype:
            what = "has another shape or type of"
        else:
            continue
        raise SteerlibError(_unlike(first, part, what, name))
    for dim, index in first.indexes.items():
        if dim != "step" and not index.equals(part.indexes.get(dim)):
            raise SteerlibError(_unlike(first, part, "has other values of", dim))
    return part


def _unlike(first: xr.Dataset, part: xr.Dataset, what: str, name: str) -> str:
    one, other = (int(dataset.step[0]) for dataset in (part, first))
    return f"step {one} {what} {name} than step {other}: other params made it; delete its results and run again"


def _remove_left(path: Path) -> None:
    """What killed processes left. A process that is alive holds its lock."""
    for lock in path.parent.glob(f".{path.name}.*.lock"):
        with suppress(Timeout), FileLock(lock, timeout=0) as held:
            _discard(lock.with_suffix(""), held)


def _discard(folder: Path, lock: FileLock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()
