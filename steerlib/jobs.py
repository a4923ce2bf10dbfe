"""Jobs: one stage at one checkpoint, what it needs, where its result lies, and whether that is still true."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path

import xarray as xr

from steerlib import store
from steerlib.checkpoints import Checkpoint, folder_name, history
from steerlib.errors import SteerlibError
from steerlib.study import Study

PROJECT = Path(__file__).resolve().parents[1]
NOTEBOOKS = {
    "pretraining": "0_pretraining",
    "probes": "1_probe_extraction",
    "interventions": "2_intervention_sweep",
    "similarity": "3_representation_similarity",
    "emergence": "4_emergence_analysis",
}
PER_CHECKPOINT = ("probes", "interventions", "similarity")
# What of the study a stage's result depends on, beside its seed and its concepts.
PARAMS = {
    "pretraining": ("pretraining",),
    "probes": ("probes", "similarity", "sweep"),
    "interventions": ("probes", "sweep"),
    "similarity": (),
    "emergence": ("emergence", "sweep"),
}
# Read by the next stage only; not collected.
WORKING = ("null_direction", "gram")
# Training again what has not changed would cost more than all the rest: only the code that trains counts for it.
SOURCES = {"pretraining": ("pretraining.py", "stories.py")}


@dataclass(frozen=True)
class Job:
    """One stage, at one checkpoint (step) or over the whole study (step None)."""

    stage: str
    step: int | None = None

    def __str__(self) -> str:
        return self.stage if self.step is None else f"{self.stage} step {self.step}"

    @property
    def name(self) -> str:
        return "study" if self.step is None else folder_name(self.step)


class Workspace:
    """A study and its folder of results, `outputs/<study>`."""

    def __init__(self, study: Study, outputs: str | Path = "outputs"):
        self.study, self.folder = study, Path(outputs).resolve() / study.name

    @cached_property
    def checkpoints(self) -> dict[int, Checkpoint]:
        return {checkpoint.step: checkpoint for checkpoint in history(self.study, self.folder)}

    @cached_property
    def concepts(self):
        return self.study.load_concepts()

    # --- what there is to do -----------------------------------------------------------------------------

    def needs(self, job: Job) -> list[Job]:
        """The jobs whose results this one reads."""
        steps = list(self.checkpoints)
        match job.stage:
            case "pretraining":
                return []
            case "probes":
                return [Job("pretraining")] if self.study.pretraining else []
            case "interventions":
                return [Job("probes", job.step)]
            case "similarity":
                previous = steps[max(0, steps.index(job.step) - 1)]
                return [Job("probes", step) for step in dict.fromkeys([job.step, previous, steps[-1]])]
            case "emergence":
                return [Job(stage, step) for stage in PER_CHECKPOINT for step in steps]
        raise KeyError(job.stage)

    def requires(self, job: Job) -> list[Job]:
        """Those of its needs without which a job cannot be done.

        Similarity does without a previous checkpoint that failed, and emergence with whatever checkpoints there are.
        """
        if job.stage == "emergence":
            return []
        last = list(self.checkpoints)[-1]
        return [need for need in self.needs(job) if job.stage != "similarity" or need.step in (job.step, last)]

    def jobs(self) -> list[Job]:
        """All jobs of the study, each after those it needs."""
        first = [Job("pretraining")] if self.study.pretraining else []
        return [*first, *(Job(stage, step) for stage in PER_CHECKPOINT for step in self.checkpoints), Job("emergence")]

    def todo(self) -> list[Job]:
        """Jobs not done, and all that depend on them."""
        waiting: list[Job] = []
        for job in self.jobs():
            if self.state(job) != "done" or any(need in waiting for need in self.needs(job)):
                waiting.append(job)
        return waiting

    # --- where results lie, and whether they still hold ----------------------------------------------------

    def data(self, job: Job) -> Path:
        return self.folder / job.stage / f"{job.name}.nc"

    def stamp(self, job: Job) -> Path:
        return self.folder / job.stage / f"{job.name}.stamp.json"

    def notebook(self, job: Job) -> Path:
        return self.folder / "notebooks" / f"{NOTEBOOKS[job.stage]}.{job.name}.ipynb"

    def read_stamp(self, job: Job) -> dict | None:
        return store.read_json(self.stamp(job))

    def state(self, job: Job) -> str:
        """'done', 'stale' (made from other params, code, weights or inputs, or altered since) or 'missing'."""
        stamp = self.read_stamp(job)
        if stamp is None or not self.data(job).exists():
            return "missing"
        if job.stage == "pretraining" and not all(c.path.is_dir() for c in self.checkpoints.values()):
            return "missing"
        whole = stamp.get("file_sha256") == hashlib.sha256(self.data(job).read_bytes()).hexdigest()
        return "done" if whole and stamp.get("key") == self.key(job) else "stale"

    def key(self, job: Job) -> str | None:
        """Hash of everything the result is made from; None while an input is not there."""
        inputs = {}
        for need in self.needs(job):
            if (stamp := self.read_stamp(need)) is None:
                return None
            inputs[str(need)] = stamp.get("data_sha256")
        weights = None
        if job.step is not None:
            try:
                weights = self.checkpoints[job.step].weights_sha256
            except SteerlibError:  # not there or unreadable: the job itself will say so
                return None
        study = self.study
        made_from = {
            "notebook": notebook_code(NOTEBOOKS[job.stage]),
            "source": source_hash(SOURCES.get(job.stage)),
            "seed": study.seed,
            "params": {name: json.loads(getattr(study, name).model_dump_json()) for name in PARAMS[job.stage]},
            "steps": list(self.checkpoints) if job.stage in ("pretraining", "emergence") else None,
            "concepts": None if job.stage == "pretraining" else self._concepts_sha256,
            "neutral": self._neutral_sha256 if job.stage == "interventions" else None,
            "corpus": self._corpus() if job.stage == "pretraining" else None,
            "weights": weights,
            "inputs": inputs,
        }
        return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()

    def write_stamp(self, job: Job, seconds: dict) -> None:
        """Last of all: from now on the job is done. Raises SteerlibError when its notebook saved nothing."""
        dataset = store.read(self.data(job))
        stamp = {
            "key": self.key(job),
            "data_sha256": dataset.attrs["data_sha256"],
            "file_sha256": hashlib.sha256(self.data(job).read_bytes()).hexdigest(),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            **seconds,
        }
        store.write_json(self.stamp(job), stamp)

    @cached_property
    def _concepts_sha256(self) -> str:
        return hashlib.sha256("".join(concept.model_dump_json() for concept in self.concepts).encode()).hexdigest()

    @cached_property
    def _neutral_sha256(self) -> str:
        return hashlib.sha256("\n".join(self.study.load_neutral()).encode()).hexdigest()

    def _corpus(self) -> str | None:
        corpus = self.study.pretraining.corpus
        return None if corpus == "stories" else hashlib.sha256(self.study.resolve(corpus).read_bytes()).hexdigest()

    # --- reading and writing results -----------------------------------------------------------------------

    def read(self, stage: str, step: int | None = None) -> xr.Dataset:
        return store.read(self.data(Job(stage, step)))

    def save(self, job: Job, dataset: xr.Dataset) -> None:
        """Write a job's result, keyed by step. It is unproven until the driver stamps it."""
        self.stamp(job).unlink(missing_ok=True)
        dataset = store.describe(dataset)
        if job.step is not None:
            checkpoint = self.checkpoints[job.step]
            dataset = dataset.expand_dims(step=[job.step]).assign_coords(
                revision=("step", [checkpoint.revision]),
                tokens_seen=("step", [checkpoint.tokens_seen]),
                weights_sha256=("step", [checkpoint.weights_sha256]),
            )
        dataset.attrs = {
            **provenance(self.study),
            "data_sha256": store.digest(dataset),
            "cpu_seconds": time.process_time(),
        }
        store.write(dataset, self.data(job))

    def collect(self) -> dict[str, xr.Dataset]:
        """The per-checkpoint stages, each side by side along `step`, of all checkpoints that were probed and pushed.

        Similarity is left out where it is missing: without the final checkpoint there is nothing to compare with.
        Two checkpoints with equal weights are one point: the later is left out, with a warning. Raises SteerlibError
        when there is no checkpoint at all.
        """
        found: dict[str, list[xr.Dataset]] = {}
        seen: dict[str, int] = {}
        for step, checkpoint in self.checkpoints.items():
            usable = [stage for stage in PER_CHECKPOINT if self.usable(Job(stage, step))]
            if not {"probes", "interventions"} <= {*usable}:
                print(f"warning: step {step} is left out; it was not analysed in full")
            elif (twin := seen.setdefault(checkpoint.weights_sha256, step)) != step:
                print(f"warning: step {step} is left out; its weights are those of step {twin}")
            else:
                for stage in usable:
                    found.setdefault(stage, []).append(self.read(stage, step).drop_vars(WORKING, errors="ignore"))
        if not found:
            raise SteerlibError(f"{self.folder}: no checkpoint has been analysed in full; run the study first")
        return {stage: store.combine(datasets) for stage, datasets in found.items()}

    def write_results(self, groups: dict[str, xr.Dataset]) -> None:
        """`results.zarr`, all of a study in one DataTree."""
        store.write_tree(
            {name: store.describe(group) for name, group in groups.items()},
            self.folder / "results.zarr",
            provenance(self.study),
        )

    def usable(self, job: Job) -> bool:
        """Done; or saved by hand from a notebook, and so without a stamp."""
        return self.data(job).exists() and (self.read_stamp(job) is None or self.state(job) == "done")


def provenance(study: Study) -> dict[str, str]:
    """What made a result: params, versions, commit, machine, time."""
    return {
        "params": study.model_dump_json(),
        "steerlib": version("steerlib"),
        "git_commit": git_commit(),
        "machine": " ".join(
            [platform.system(), platform.machine(), f"{os.cpu_count()} cores, Python", platform.python_version()]
        ),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def git_commit() -> str:
    """The commit of the source, marked when it has uncommitted changes; 'unknown' outside a repository."""
    import subprocess

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(PROJECT), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (
            " (modified)" if git("status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@cache
def source_hash(files: tuple[str, ...] | None = None) -> str:
    """Hash of the package's source, or of some of its files."""
    package = Path(__file__).parent
    chosen = sorted(package.glob("*.py")) if files is None else [package / name for name in files]
    return hashlib.sha256(b"".join(path.read_bytes() for path in chosen)).hexdigest()


@cache
def notebook_code(name: str) -> str:
    """The code cells of a notebook: its text and outputs may change without changing the result."""
    cells = json.loads((PROJECT / "notebooks" / f"{name}.ipynb").read_text())["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
