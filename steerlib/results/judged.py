"""Readiness of one checkpoint of a study that was run: as it was stored, or judged now from what was collected."""

from collections.abc import Sequence

import xarray as xr

from steerlib import SteerlibError, nearest
from steerlib.files import datasets, store
from steerlib.results.freshness import Freshness
from steerlib.results.opening import NotRun, OpenStudy
from steerlib.results.workspace import Job
from steerlib.stages import readiness


def cells(study: OpenStudy, step: int | None, concepts: Sequence[str] | None, method: str | None) -> xr.Dataset:
    """Readiness of one checkpoint and method, by concept; by default of the last, and of the analysis' method.

    Raises SteerlibError where the study was not run, and for a step, concept or method that it does not have.
    """
    found = whole(study)
    asked = {
        "step": int(found.step[-1]) if step is None else step,
        "probe": method or study.params.emergence.method,
    }
    for dim, values in (*((dim, [value]) for dim, value in asked.items()), ("concept", concepts or [])):
        known = found[dim].values.tolist()
        if unknown := [value for value in values if value not in known]:
            name = {"probe": "method"}.get(dim, dim)
            there = ", ".join(map(str, known))
            raise SteerlibError(
                f"{study.params.path}: has no {name} {unknown[0]!r}; there are {there}{nearest(unknown[0], known)}"
            )
    found = found.sel(asked)
    return found.sel(concept=list(dict.fromkeys(concepts))) if concepts else found


def whole(study: OpenStudy) -> xr.Dataset:
    """Of all checkpoints, concepts and methods. Raises SteerlibError where the study was not run."""
    job, workspace = Job("readiness"), study.workspace
    if job in workspace.jobs() and Freshness(workspace).usable(job):
        return datasets.read(workspace.data(job))
    return _judged(study)


def _judged(study: OpenStudy) -> xr.Dataset:
    """By what was collected. Raises NotRun where that is of other params or of a steerlib that kept less."""
    of, folder, path = study.results, study.workspace.folder, study.params.path
    lacking = [name for name in readiness.READ if name not in of["interventions"]]
    if lacking or study.changed(of["emergence"]):
        why = f"have no {lacking[0]}, as an older steerlib made them" if lacking else "are of other params"
        raise NotRun(f"{folder}: readiness cannot be told by these results, which {why}; steerlib run {path}")
    if Freshness(study.workspace).state(Job("emergence")) != "done":
        store.tell(f"{folder}: judged by results that are out of date; steerlib run {path} makes them anew")
    return readiness.judge(of["probes"], of["interventions"], of["emergence"], study.params, of.get("generations"))
