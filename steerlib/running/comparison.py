"""A family: the variants of a comparison with their folders, the comparison's own folder, and running it all."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import xarray as xr
from rich.console import Console

from steerlib import SteerlibError
from steerlib.files import store
from steerlib.files.hashes import file_sha256
from steerlib.results.collection import collect, read_results
from steerlib.results.freshness import DRIVEN, Freshness
from steerlib.results.provenance import notebook_code, provenance, source_hash
from steerlib.results.schema import describe
from steerlib.results.workspace import Job, Workspace
from steerlib.running import pipeline
from steerlib.running.worker import Outcome, execute_notebook, explain
from steerlib.stages import comparison
from steerlib.stages.emergence import Plan
from steerlib.stages.table import COMPARISON
from steerlib.study import Study
from steerlib.study.comparison import Comparison

NOTEBOOK = "5_comparison"
LAST = Job("emergence")  # what a variant has to have finished


class Family:
    """A comparison, the workspaces of its variants, and its folder of results, `outputs/<comparison>`."""

    def __init__(self, params: str | Path, outputs: str | Path = "outputs"):
        """Raises SteerlibError when the comparison, or the params of any variant, are wrong."""
        self.comparison = Comparison.load(params)
        self.addresses = self.comparison.addresses(params)
        self.members = {name: Workspace(Study.load(address), outputs) for name, address in self.addresses.items()}
        self.folder = Path(outputs).resolve() / self.comparison.name
        self.figures = self.folder / "figures"
        self.data = self.folder / "comparison.nc"
        self.stamp = self.folder / "comparison.stamp.json"
        self.notebook = self.folder / "notebooks" / f"{NOTEBOOK}.ipynb"

    @property
    def plan(self) -> Plan:
        """Level, resamples and seed are those of the first variant."""
        return Plan.of(next(iter(self.members.values())).study)

    def finished(self) -> list[str]:
        """Variants whose emergence analysis is done."""
        return [name for name, workspace in self.members.items() if _holds(Freshness(workspace).state, "done")]

    def variants(self) -> dict[str, xr.Dataset]:
        """What `comparison.compare` takes. A variant without results is left out, with a warning."""
        scales = {name: workspace.study.sweep.scale for name, workspace in self.members.items()}
        if len(set(scales.values())) > 1:
            told = ", ".join(f"{name} {scale}" for name, scale in scales.items())
            print(f"warning: steerabilities differ in unit and cannot be subtracted, as sweep.scale does ({told})")
        found = {}
        for name, workspace in self.members.items():
            if not _holds(Freshness(workspace).usable, True):
                print(f"warning: {name} is left out; its emergence analysis is not there or out of date")
                continue
            study, groups = workspace.study, read_results(workspace) or collect(workspace)
            stimuli = {
                concept.name: hashlib.sha256(f"{study.seed} {concept.model_dump_json()}".encode()).hexdigest()
                for concept in workspace.concepts
            }
            found[name] = comparison.variant(
                workspace.read("emergence"),
                groups["probes"],
                groups["interventions"],
                Plan.of(study),
                stimuli,
                seed=study.seed,
                finetuned=study.finetuning is not None,
            )
        return found

    def save(self, dataset: xr.Dataset) -> None:
        """Write the comparison. It is unproven until the driver stamps it."""
        self.stamp.unlink(missing_ok=True)
        dataset = describe(dataset)
        studies = {name: workspace.study.model_dump(mode="json") for name, workspace in self.members.items()}
        dataset.attrs = {**provenance(self.comparison), "studies": json.dumps(studies)}
        store.write(dataset, self.data)

    def state(self) -> str:
        """'done', 'stale' or 'missing', as of a job."""
        stamp = store.read_json(self.stamp)
        if stamp is None or not self.data.exists():
            return "missing"
        whole = stamp.get("file_sha256") == file_sha256(self.data)
        return "done" if whole and stamp.get("key") == self.key() else "stale"

    def key(self) -> str:
        """Hash of everything the comparison is made from."""
        stamps = {name: Freshness(self.members[name]).stamp(LAST) for name in self.finished()}
        made_from = {
            "notebook": notebook_code(NOTEBOOK),
            "source": source_hash(COMPARISON),
            "params": self.comparison.model_dump(mode="json"),
            "seed and level": str(self.plan),
            # An emergence analysis' key covers the probes and interventions that it was made from.
            "variants": {name: [stamp["key"], stamp["data_sha256"]] for name, stamp in stamps.items()},
        }
        return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()

    def write_stamp(self) -> None:
        """Last of all: from now on the comparison is done. Raises SteerlibError when its notebook saved nothing."""
        store.read(self.data)
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        store.write_json(self.stamp, {"key": self.key(), "file_sha256": file_sha256(self.data), "finished": finished})


def _holds(asked, wanted) -> bool:
    """Whether a workspace says so of its emergence analysis; not when the checkpoints are not even there."""
    try:
        return asked(LAST) == wanted
    except SteerlibError:
        return False


def run(
    params: Path,
    outputs: Path,
    workers: int | None = None,
    scheduler: str | None = None,
    console: Console | None = None,
) -> tuple[dict[str, list[Outcome]], dict[str, str]]:
    """Every variant in turn, then the comparison of those that have results; what is done is not done again.

    Returns the outcomes of the jobs that were run, by variant; and why a variant, or the comparison (by its own name),
    could not be run at all. Raises SteerlibError when the comparison, or the params of any variant, are wrong.
    """
    console = console or Console()
    family = Family(params, outputs)
    outcomes: dict[str, list[Outcome]] = {}
    refused: dict[str, str] = {}
    for name, address in family.addresses.items():
        try:
            outcomes[name] = pipeline.run(Path(address), outputs, workers, scheduler, console)
        except SteerlibError as error:
            refused[name] = str(error)
    family = Family(params, outputs)  # its workspaces may have learnt of weights that were not there
    with pipeline.locked(family.folder):
        if family.state() == "done":
            console.print(f"{family.folder}: the comparison is done; nothing to do")
        elif len(family.finished()) < 2:
            refused[family.comparison.name] = f"{len(family.finished())} of its variants have results; it needs two"
        elif failure := _compare(family, params, outputs):
            refused[family.comparison.name] = f"{failure}\nnotebook: {family.notebook}"
    return outcomes, refused


def _compare(family: Family, params: Path, outputs: Path) -> str | None:
    """Notebook 5, then its stamp. What went wrong is told, not raised."""
    given = {"study": str(Path(params).resolve()), "outputs": str(Path(outputs).resolve())}
    before = os.environ.get(DRIVEN)
    os.environ[DRIVEN] = "1"
    try:
        execute_notebook(NOTEBOOK, family.notebook, given)
        family.write_stamp()
    except Exception as error:  # whatever a notebook, a kernel or a disk may do
        return explain(error)
    finally:
        if before is None:
            del os.environ[DRIVEN]
    return None
