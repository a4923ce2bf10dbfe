"""`results.zarr`: the results of all checkpoints as one DataTree in Zarr, collected for the emergence analysis.

However many checkpoints there are, writing holds a few of them in memory, and reading what is asked for, or all of a
small group.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.codec_pipeline import BatchedCodecPipeline
from zarr.registry import register_pipeline
from zarr.storage import LocalStore, StorePath

from steerlib import SteerlibError
from steerlib.files import datasets, store
from steerlib.files.locks import own_folder
from steerlib.results.freshness import Freshness
from steerlib.results.provenance import provenance
from steerlib.results.schema import describe
from steerlib.results.workspace import Job, Workspace

NAME = "results.zarr"
WORKING = (
    "null_direction",
    "direction_redrawn",
    "gram",
    "state",
    "text",
    "text_recommended",
)  # read by the next stage only; not collected
# A chunk is 1 step × 1 layer. At 24 layers and 8 concepts, though, most variables then have chunks of some hundred
# bytes, and each costs 0.1 ms whatever its size (measured: 25 times slower to write and to read): below this many bytes
# a chunk takes all layers.
LEAST = 8192
# Chunks lie in shards, a file each, of all layers and as many steps as make a group's shards together this large. As
# files of their own they would be a million at 1,000 steps. It is also what is held in memory to be written: a shard
# written in two goes is read, and written, twice.
SHARDS = 32 << 20
# Of a group that is larger at each step, what takes more than this is read and written by itself, a shard at a time.
ALONE = SHARDS // 8
# A group no larger than this is held in memory: the analysis and its figures ask for small parts of it hundreds of
# times, and each costs Zarr some milliseconds.
HELD = 4 * SHARDS
# As Zarr does by default, and a checksum: a bit that has flipped would be read back as another number.
CODECS = (ZstdCodec(level=0), Crc32cCodec())


def collect(workspace: Workspace) -> Tree:
    """The per-checkpoint stages, each side by side along `step`, of all checkpoints that were probed and pushed.

    They are copied one at a time into what `write_results` makes `results.zarr` of, and read from there. Other
    stages are left out where they are missing. Two checkpoints of the history that are equal, file by file, are one
    point: the later is left out, with a warning. Raises SteerlibError when there is no checkpoint at all.
    """
    freshness = Freshness(workspace)
    stages: dict[str, list[Job]] = {}
    seen: dict[str, int] = {}
    for step, checkpoint in workspace.checkpoints.items():
        jobs = [job for job in workspace.jobs() if job.step == step and freshness.usable(job)]
        if not {"probes", "interventions"} <= {job.stage for job in jobs}:
            print(f"warning: step {step} is left out; it was not analysed in full")
        elif (twin := seen.setdefault(checkpoint.identity, step)) != step:
            print(f"warning: step {step} is left out; its weights are those of step {twin}")
        else:
            for job in jobs:
                stages.setdefault(job.stage, []).append(job)
    if not stages:
        raise SteerlibError(f"{workspace.folder}: no checkpoint has been analysed in full; run the study first")
    results = Tree(workspace.folder / NAME)
    for stage, jobs in stages.items():
        results.add(stage, (_point(workspace, job) for job in jobs), len(jobs))
    return results


def _point(workspace: Workspace, job: Job) -> xr.Dataset:
    """What is collected of a job. Revision and tokens are those of its checkpoint as the params tell them now."""
    checkpoint = workspace.checkpoints[job.step]
    coords = {"revision": checkpoint.revision, "tokens_seen": checkpoint.tokens_seen}
    dataset = datasets.read(workspace.data(job), without=WORKING, later=ALONE)
    return dataset.assign_coords({name: ("step", [value]) for name, value in coords.items()})


def write_results(workspace: Workspace, results: Tree, emergence: xr.Dataset) -> None:
    """What was collected, with the emergence analysis beside it, becomes `results.zarr`."""
    results.add("emergence", [describe(emergence)])
    results.finish(provenance(workspace.study))


def read_results(workspace: Workspace) -> dict[str, xr.Dataset]:
    """`results.zarr`, large groups read when they are used; nothing where it is not that of the emergence analysis."""
    analysed = workspace.read("emergence").attrs["data_sha256"]
    try:
        groups = {name: _held(group) for name, group in read(workspace.folder / NAME).items()}
        return groups if "emergence" in groups and datasets.digest(groups["emergence"]) == analysed else {}
    except Exception as error:  # Zarr and its codecs have kinds of their own
        store.tell(f"{workspace.folder / NAME}: cannot be read ({store.reason(error)}); collected anew from the steps")
        return {}


class Tree(dict[str, xr.Dataset]):
    """`results.zarr` in the making: groups are written into a folder beside it, and read from there when they are used.

    Nothing has the name before `finish`. What is not finished is removed once nobody can read it any more, and what a
    killed process left by the next that makes one.
    """

    def __init__(self, path: Path):
        with store.making(path) as self.path:
            folder, discard = own_folder(self.path.parent, f".{self.path.name}.")
        self._store = Files(folder, read_only=True)
        self.close = weakref.finalize(self._store, discard)

    def add(self, name: str, parts: Iterable[xr.Dataset], steps: int | None = None) -> None:
        """Write a group: a dataset, or one a step, as many as ``steps`` says, taken one after the other.

        Raises SteerlibError when they do not fit one another, or do not fit on the disk.
        """
        with store.making(self.path):
            _write(self._store.root / name, iter(parts), steps)
        self[name] = _held(_open(self._store, name))

    def finish(self, attrs: dict[str, str]) -> None:
        """All of it takes its name; the groups can be read as before. Raises SteerlibError when the disk refuses."""
        with store.making(self.path):
            zarr.open_group(self._store.root, mode="a", zarr_format=3).update_attributes(attrs)
            store.take_name(self._store.root, self.path)
        self._store.root = self.path
        self.close()


class Checked(BatchedCodecPipeline):
    """Chunks as Zarr reads them, but that what is damaged is told by its file and with the remedy."""

    async def read(self, batch_info, out, drop_axes=()):
        batch = list(batch_info)
        try:
            await super().read(batch, out, drop_axes)
        except SteerlibError:
            raise
        except Exception as error:  # a checksum that does not hold; where that itself is hit, whatever codecs raise
            place = batch[0][0]
            if not isinstance(place, StorePath):  # within a shard, whose file is known outside
                raise
            raise SteerlibError(
                f"{place.store.root / place.path}: is damaged ({error}); delete {place.store.root} and run again"
            ) from error


register_pipeline(Checked)
zarr.config.set({"codec_pipeline.path": f"{__name__}.{Checked.__qualname__}"})


class Files(LocalStore):
    """Files of which none may be missing: Zarr would take NaN, or 0, for what an absent file holds."""

    async def get(self, key, *args, **kwargs):
        content = await super().get(key, *args, **kwargs)
        if content is None and "c" in key.split("/"):
            raise SteerlibError(f"{self.root / key}: is not there; delete {self.root} and run again")
        return content


def read(path: Path) -> dict[str, xr.Dataset]:
    """The groups of a finished tree, read from disk when they are used; none where there is no tree."""
    files, groups = Files(path, read_only=True), sorted(path.glob("*/zarr.json"))
    return {group.parent.name: _open(files, group.parent.name) for group in groups}


def _open(files: Files, name: str) -> xr.Dataset:
    # Not kept in memory once read; and no Dask, whose graph of a million chunks would be larger than what is asked for.
    return xr.open_dataset(files, engine="zarr", group=name, chunks=None, cache=False, consolidated=False)


def _held(group: xr.Dataset) -> xr.Dataset:
    """A small one in memory."""
    return group.load() if group.nbytes <= HELD else group


def _write(folder: Path, parts: Iterator[xr.Dataset], steps: int | None) -> None:
    """A group, by one writer. What is appended are whole shards, so that each is written once."""
    parts = map(_plain, parts)
    first = next(parts)
    sizes = {name: variable.nbytes for name, variable in first.variables.items() if "step" in variable.dims}
    alone = [name for name, size in sizes.items() if size > ALONE] if steps and sum(sizes.values()) > SHARDS else []
    in_shard = min(steps or 1, max(1, SHARDS // max(1, sum(sizes.values()) - sum(sizes[name] for name in alone))))
    parts = chain([first], (_like(first, part) for part in parts))
    options: dict = {"mode": "w", "zarr_format": 3}
    done, large = 0, {}
    while batch := list(islice(parts, in_shard)):
        few = [part.drop_vars(alone) for part in batch]
        rows = xr.concat(few, "step", data_vars="minimal", coords="minimal", compat="override") if steps else first
        if options["mode"] == "w":
            options["encoding"] = _layout(rows, steps)
        rows.assign_attrs(first.attrs).to_zarr(folder, **options, consolidated=False, write_empty_chunks=True)
        options = {"mode": "a-", "append_dim": "step"}
        large = large or {name: _create(folder, name, first.variables[name], steps) for name in alone}
        for part in batch:
            for name, array in large.items():
                _fill(array, part.variables[name], done)
            done += 1


def _create(folder: Path, name: str, variable: xr.Variable, steps: int) -> zarr.Array:
    """A place for a variable of all steps, in shards of one step and as many layers as fit."""
    chunk, shard = _chunk(variable), {**variable.sizes}
    if chunk.get("layer") == 1:
        shard["layer"] = min(shard["layer"], max(1, SHARDS * shard["layer"] // variable.nbytes))
    return zarr.open_group(folder, mode="a").create_array(
        name,
        shape=tuple((variable.sizes | {"step": steps}).values()),
        dtype=variable.dtype,
        chunks=tuple(chunk.values()),
        shards=tuple(shard.values()),
        compressors=CODECS,
        dimension_names=variable.dims,
        attributes={key: np.asarray(value).tolist() for key, value in variable.attrs.items()},
        config={"write_empty_chunks": True},
    )


def _fill(array: zarr.Array, variable: xr.Variable, step: int) -> None:
    """The step of that number, a shard at a time."""
    at = {dim: slice(None) for dim in variable.dims} | {"step": slice(step, step + 1)}
    wide = array.shards[variable.dims.index("layer")] if "layer" in at else 1
    for start in range(0, variable.sizes.get("layer", 1), wide):
        some = {"layer": slice(start, start + wide)} if "layer" in at else {}
        array[tuple((at | some).values())] = variable.isel(some).values


def _plain(dataset: xr.Dataset) -> xr.Dataset:
    """Without what its file was encoded with; strings of any length, as Zarr has no standard for those of one."""
    text = {name: v.astype(object) for name, v in dataset.variables.items() if v.dtype.kind == "U"}
    return dataset.assign(text).drop_encoding()


def _layout(rows: xr.Dataset, steps: int | None) -> dict[str, dict]:
    """Chunks and shards of every variable, ``rows`` being what the first shards hold."""
    encoding = {}
    for name, variable in rows.variables.items():
        encoding[name] = {"compressors": CODECS}
        if name in variable.dims:  # an index, read as a whole
            encoding[name] |= {"chunks": (steps if steps and name == "step" else variable.size,)}
        elif variable.size and variable.ndim:
            encoding[name] |= {"chunks": tuple(_chunk(variable).values()), "shards": variable.shape}
    return encoding


def _chunk(variable: xr.Variable) -> dict[str, int]:
    chunk = {dim: 1 if dim in ("step", "layer") else size for dim, size in variable.sizes.items()}
    if "layer" in chunk and math.prod(chunk.values()) * variable.dtype.itemsize < LEAST:
        chunk["layer"] = variable.sizes["layer"]
    return chunk


def _like(first: xr.Dataset, part: xr.Dataset) -> xr.Dataset:
    """What the first has of a part, if it can stand beside it. Raises SteerlibError saying what differs."""
    expected, present = _forms(first), _forms(part)
    if unlike := [name for name in expected if present.get(name) != expected[name]]:
        raise SteerlibError(
            f"step {int(part.step[0])} has other values, another shape or type of {unlike[0]} than step "
            f"{int(first.step[0])}, or none: other params made it; delete its results and run again"
        )
    return part.drop_vars(part.variables.keys() - first.variables.keys())


def _forms(dataset: xr.Dataset) -> dict[str, tuple]:
    """What every variable has in common over steps; of what the others lie along, that is its values."""
    values = {name: index.tolist() for name, index in dataset.indexes.items() if name != "step"}
    return {name: (v.sizes, v.dtype, values.get(name)) for name, v in dataset.variables.items()}
