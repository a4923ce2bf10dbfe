"""A comparison at work: its variants with their folders, its own folder, and whether what lies there still holds."""

import hashlib
import json
import os
from contextlib import suppress
from datetime import UTC, datetime
from multiprocessing.pool import ThreadPool
from pathlib import Path

import xarray as xr
from pydantic import BaseModel

from steerlib import SteerlibError
from steerlib.files import datasets, store
from steerlib.results import made
from steerlib.results.freshness import Freshness, check_unchanged
from steerlib.results.keys import Key, code_of, hashed
from steerlib.results.made import Made
from steerlib.results.provenance import provenance
from steerlib.results.schema import describe
from steerlib.results.tree import collect, read_results
from steerlib.results.workspace import LAST, Workspace
from steerlib.running.worker import execute_notebook
from steerlib.stages import comparison
from steerlib.stages.table import COMPARISON
from steerlib.study import Study
from steerlib.study.comparison import Comparison

NOTEBOOK = COMPARISON.notebook


class Stamp(BaseModel):
    """What is written when the comparison is done."""

    key: Key
    made: Made
    finished: str


class ComparisonRun:
    """A comparison, the workspaces of its variants, and its folder of results, `outputs/<comparison>`."""

    def __init__(self, params: str | Path, outputs: str | Path = "outputs"):
        """Raises SteerlibError when the comparison, or the params of any variant, are wrong."""
        self.params, self.path = Comparison.load(params), Path(params).resolve()
        self.variants = {name: Workspace(Study.load(f"{params}#{name}"), outputs) for name in self.params.variants}
        try:
            comparison.check_units({name: workspace.study for name, workspace in self.variants.items()})
        except SteerlibError as error:
            raise SteerlibError(f"{params}: {error}") from None
        # The study that others are compared with: level, resamples and seed are its own.
        self.first = next(iter(self.variants.values())).study
        self.folder = Path(os.path.realpath(outputs)) / self.params.name
        self.figures = self.folder / "figures"
        self.data = self.folder / "comparison.nc"
        self.stamp = self.folder / "comparison.stamp.json"
        self.notebook = self.folder / "notebooks" / f"{NOTEBOOK}.ipynb"

    def usable(self) -> dict[str, Workspace]:
        """Variants whose emergence analysis may be read; of one that could not be run, checkpoints may be missing."""
        usable = {}
        for name, workspace in self.variants.items():
            with suppress(SteerlibError):
                if Freshness(workspace).usable(LAST):
                    usable[name] = workspace
        return usable

    def read_variants(self) -> dict[str, xr.Dataset]:
        """What `comparison.compare` takes. A variant without results is left out, with a warning."""
        datasets, usable = {}, self.usable()
        for name in (name for name in self.variants if name not in usable):
            print(f"warning: {name} is left out; its emergence analysis is not there or out of date")
        for name, workspace in usable.items():
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
        store.remove(self.stamp)
        dataset = describe(dataset)
        dataset.attrs = {**provenance(self.params), "studies": self._studies()}
        datasets.write(dataset, self.data)

    def _studies(self) -> str:
        return json.dumps({name: workspace.study.model_dump(mode="json") for name, workspace in self.variants.items()})

    def state(self) -> str:
        """'done', 'stale' or 'missing', as of a job."""
        stamp = self._stamp()
        if stamp is None or not self.data.is_file():
            return "missing"
        return "done" if stamp.key == self.key() and made.holds(self.folder, stamp.made) else "stale"

    def _stamp(self) -> Stamp | None:
        return store.read_json(self.stamp, Stamp)

    def key(self) -> Key:
        """Everything the comparison is made from."""
        stamps = {name: Freshness(workspace).stamp(LAST) for name, workspace in self.usable().items()}
        terms = {
            "params": self.params.model_dump(mode="json"),
            "seed and level": f"{self.first.seed} {self.first.emergence}",
            # An emergence analysis' key covers the probes and interventions that it was made from.
            **{name: [stamp.key, stamp.data_sha256] for name, stamp in stamps.items() if stamp},
        }
        return code_of(COMPARISON) | {term: hashed(value) for term, value in terms.items()}

    def compare(self) -> None:
        """Notebook 5, then the stamp: from now on the comparison is done. Raises whatever goes wrong.

        Also a SteerlibError when what it is made from has changed while it ran.
        """
        key, before, earlier = self.key(), made.left(self.folder, COMPARISON, ""), self._stamp()
        parameters = {"study": str(self.path), "outputs": str(self.folder.parent)}
        with ThreadPool(1) as thread:  # in the main one its client would have what stops us for itself
            thread.apply(execute_notebook, (NOTEBOOK, self.notebook, parameters))
        told, now = datasets.attrs(self.data), self.key()  # an error when the notebook saved nothing
        asked = {"params": self.params.model_dump_json(), "studies": self._studies()}
        for name in asked:
            check_unchanged({name: json.loads(asked[name])}, {name: json.loads(told[name])})
        check_unchanged(key, now)
        left, had = made.left(self.folder, COMPARISON, ""), earlier.made if earlier else {}
        written = made.of(self.folder, self.data, left, before, had)
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        store.write_json(self.stamp, Stamp(key=now, made=written, finished=finished).model_dump())
