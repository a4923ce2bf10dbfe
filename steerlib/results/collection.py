"""The results of all checkpoints together: collected for the emergence analysis, and kept as `results.zarr`."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from steerlib import SteerlibError
from steerlib.files import store
from steerlib.results import tree
from steerlib.results.freshness import Freshness
from steerlib.results.provenance import provenance
from steerlib.results.schema import describe
from steerlib.results.tree import Tree
from steerlib.results.workspace import Job, Workspace

WORKING = ("null_direction", "gram", "state", "text")  # read by the next stage only; not collected


def collect(workspace: Workspace) -> Tree:
    """The per-checkpoint stages, each side by side along `step`, of all checkpoints that were probed and pushed.

    They are copied one at a time into what `write_results` makes `results.zarr` of, and read from there. Other
    stages are left out where they are missing. Two checkpoints of the history with equal weights are one point: the
    later is left out, with a warning. Raises SteerlibError when there is no checkpoint at all.
    """
    freshness = Freshness(workspace)
    usable: dict[int, list[Job]] = {step: [] for step in workspace.checkpoints}
    for job in workspace.jobs():
        if job.step is not None and freshness.usable(job):
            usable[job.step].append(job)
    groups: dict[str, list[Job]] = {}
    seen: dict[str, int] = {}
    for step, jobs in usable.items():
        if not {"probes", "interventions"} <= {job.stage for job in jobs}:
            print(f"warning: step {step} is left out; it was not analysed in full")
        elif (twin := seen.setdefault(workspace.checkpoints[step].weights_sha256, step)) != step:
            print(f"warning: step {step} is left out; its weights are those of step {twin}")
        else:
            for job in jobs:
                groups.setdefault(job.stage, []).append(job)
    if not groups:
        raise SteerlibError(f"{workspace.folder}: no checkpoint has been analysed in full; run the study first")
    results = Tree(_path(workspace))
    for stage, jobs in groups.items():
        results.add(stage, (_point(workspace, job) for job in jobs), len(jobs))
    return results


def _point(workspace: Workspace, job: Job) -> xr.Dataset:
    """What is collected of a job. Revision and tokens are those of its checkpoint as the params tell them now."""
    checkpoint = workspace.checkpoints[job.step]
    coords = {"revision": checkpoint.revision, "tokens_seen": checkpoint.tokens_seen}
    dataset = store.read(workspace.data(job), without=WORKING)
    return dataset.assign_coords({name: ("step", [value]) for name, value in coords.items()})


def write_results(workspace: Workspace, results: Tree, emergence: xr.Dataset) -> None:
    """What was collected, with the emergence analysis beside it, becomes `results.zarr`."""
    results.add("emergence", [describe(emergence)])
    results.finish(provenance(workspace.study))


def read_results(workspace: Workspace) -> dict[str, xr.Dataset]:
    """`results.zarr`, read from disk when it is used; nothing where it is not that of the emergence analysis."""
    groups = tree.read(_path(workspace))
    analysed = workspace.read("emergence").attrs["data_sha256"]
    return groups if "emergence" in groups and store.digest(groups["emergence"]) == analysed else {}


def _path(workspace: Workspace) -> Path:
    return workspace.folder / "results.zarr"
