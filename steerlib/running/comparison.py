"""A comparison at work: its variants with their folders, its own folder, and running it all."""

import hashlib
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import xarray as xr
from rich.console import Console

from steerlib import SteerlibError
from steerlib.files import store
from steerlib.files.hashes import file_sha256
from steerlib.files.locks import locked
from steerlib.results.freshness import DRIVEN, Freshness
from steerlib.results.provenance import notebook_code, provenance, source_hash
from steerlib.results.schema import describe
from steerlib.results.tree import collect, read_results
from steerlib.results.workspace import Job, Workspace
from steerlib.running import pipeline
from steerlib.running.worker import Outcome, execute_notebook, explain
from steerlib.stages import comparison
from steerlib.stages.table import COMPARISON
from steerlib.study import Study
from steerlib.study.comparison import Comparison

NOTEBOOK = "5_comparison"
LAST = Job("emergence")  # what a variant has to have finished


class ComparisonRun:
    """A comparison, the workspaces of its variants, and its folder of results, `outputs/<comparison>`."""

    def __init__(self, params: str | Path, outputs: str | Path = "outputs"):
        """Raises SteerlibError when the comparison, or the params of any variant, are wrong."""
        self.params, self.path = Comparison.load(params), Path(params).resolve()
        studies = {name: Study.load(f"{params}#{name}") for name in self.params.variants}
        self.variants = {name: Workspace(study, outputs) for name, study in studies.items()}
        self.folder = Path(outputs).resolve() / self.params.name
        self.figures = self.folder / "figures"
        self.data = self.folder / "comparison.nc"
        self.stamp = self.folder / "comparison.stamp.json"
        self.notebook = self.folder / "notebooks" / f"{NOTEBOOK}.ipynb"

    @property
    def first(self) -> Study:
        """The study that others are compared with; level, resamples and seed are its own."""
        return next(iter(self.variants.values())).study

    def finished(self) -> list[str]:
        """Variants whose emergence analysis is done."""
        return [name for name, workspace in self.variants.items() if _holds(Freshness(workspace).state, "done")]

    def read_variants(self) -> dict[str, xr.Dataset]:
        """What `comparison.compare` takes. A variant without results is left out, with a warning."""
        scales = {name: workspace.study.sweep.scale for name, workspace in self.variants.items()}
        if len(set(scales.values())) > 1:
            units = ", ".join(f"{name} {scale}" for name, scale in scales.items())
            print(f"warning: steerabilities differ in unit and cannot be subtracted, as sweep.scale does ({units})")
        datasets = {}
        for name, workspace in self.variants.items():
            if not _holds(Freshness(workspace).usable, True):
                print(f"warning: {name} is left out; its emergence analysis is not there or out of date")
                continue
            study, groups = workspace.study, read_results(workspace) or collect(workspace)
            stimuli = {
                concept.name: hashlib.sha256(f"{study.seed} {concept.model_dump_json()}".encode()).hexdigest()
                for concept in workspace.concepts
            }
            result = workspace.read(LAST.stage)
            datasets[name] = comparison.variant(result, groups["probes"], groups["interventions"], study, stimuli)
        return datasets

    def save(self, dataset: xr.Dataset) -> None:
        """Write the comparison. It is unproven until the driver stamps it."""
        self.stamp.unlink(missing_ok=True)
        dataset = describe(dataset)
        studies = {name: workspace.study.model_dump(mode="json") for name, workspace in self.variants.items()}
        dataset.attrs = {**provenance(self.params), "studies": json.dumps(studies)}
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
        stamps = {name: Freshness(self.variants[name]).stamp(LAST) for name in self.finished()}
        made_from = {
            "notebook": notebook_code(NOTEBOOK),
            "source": source_hash(COMPARISON),
            "params": self.params.model_dump(mode="json"),
            "seed and level": f"{self.first.seed} {self.first.emergence}",
            # An emergence analysis' key covers the probes and interventions that it was made from.
            "variants": {name: [stamp["key"], stamp["data_sha256"]] for name, stamp in stamps.items()},
        }
        return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()

    def compare(self) -> None:
        """Notebook 5, then the stamp: from now on the comparison is done. Raises whatever goes wrong."""
        os.environ[DRIVEN] = "1"
        execute_notebook(NOTEBOOK, self.notebook, {"study": str(self.path), "outputs": str(self.folder.parent)})
        store.read(self.data)  # an error when the notebook saved nothing
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        store.write_json(self.stamp, {"key": self.key(), "file_sha256": file_sha256(self.data), "finished": finished})


def _holds(question: Callable[[Job], object], answer: object) -> bool:
    """What `Freshness` says of a variant's emergence analysis; no when not even its checkpoints are there."""
    try:
        return question(LAST) == answer
    except SteerlibError:
        return False


def run(
    params: Path, outputs: Path, workers: int | None, scheduler: str | None, console: Console
) -> tuple[ComparisonRun, dict[str, list[Outcome]], dict[str, str]]:
    """Every variant in turn, then the comparison of those that have results; what is done is not done again.

    Returns the comparison; the outcomes of the jobs that were run, by variant; and why a variant, or the comparison (by
    its own name), could not be run at all. Raises SteerlibError when the params of any are wrong.
    """
    outcomes: dict[str, list[Outcome]] = {}
    refused: dict[str, str] = {}
    for name, workspace in ComparisonRun(params, outputs).variants.items():
        try:
            outcomes[name] = pipeline.run(workspace.study, outputs, workers, scheduler, console)
        except SteerlibError as error:
            refused[name] = str(error)
    whole = ComparisonRun(params, outputs)  # anew: there may be weights by now that were not there
    with locked(whole.folder):
        if whole.state() == "done":
            console.print(f"{whole.folder}: the comparison is done; nothing to do")
        elif (count := len(whole.finished())) < 2:
            refused[whole.params.name] = f"{count} of its variants have results; it needs two"
        else:
            try:
                whole.compare()
            except Exception as error:  # whatever a notebook, a kernel or a disk may do
                refused[whole.params.name] = f"{explain(error)}\nnotebook: {whole.notebook}"
    return whole, outcomes, refused
