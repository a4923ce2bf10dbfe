"""`Study`: everything that a params file may say, validated before anything runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Discriminator, Field, PrivateAttr, Tag, field_validator, model_validator

from steerlib import SteerlibError
from steerlib.concepts import Concept, reading
from steerlib.concepts.planted import stories
from steerlib.concepts.planted.world import World
from steerlib.concepts.reading import ConceptFile, Draft, opposites
from steerlib.files import hub, params
from steerlib.files.layout import loaded_names
from steerlib.files.params import Located, Strict
from steerlib.study import comparison, sources
from steerlib.study.analysis import Emergence, Generation, Instrument, Probes, Readiness, Similarity, Sweep, Transfer
from steerlib.study.checkpoints import Checkpoints, Loading
from steerlib.study.layers import Layers, chosen
from steerlib.study.sources import Kept, with_shared_concepts
from steerlib.study.training import Finetuning, Pretraining, Seed, Threads

# The tags stand in brackets, as errors leave such words out of the place that they name.
Entry = Annotated[
    Annotated[Located, Tag("[name]")] | Annotated[ConceptFile, Tag("[file]")],
    Discriminator(lambda entry: "[file]" if isinstance(entry, dict | ConceptFile) else "[name]"),
]
PRESETS = params.table(Path(__file__).with_name("presets.yaml"))


class Study(Strict):
    # Of the study and of the folder of its results.
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=160)
    preset: Literal[*PRESETS] | None = None  # of steerlib/study/presets.yaml: its settings are then the defaults
    seed: Seed = 0  # of all that is drawn: texts, weights, splits, nulls
    threads: Threads = 1  # of an analysis job; part of the result, as sums split over threads round differently
    pretraining: Pretraining | None = None
    checkpoints: Checkpoints = Checkpoints()
    loading: Loading = Loading()
    # Which layers are looked at, by probes, pushes and all that follows, and from which nulls choose theirs as well:
    # all, a list of numbers from 0, {every: 3} or {count: 8}, the latter from the first to the last.
    layers: Layers = "all"
    # Names of planted concepts, paths of concept files, or a mapping: the path as file, and what is to be told of it.
    # Or the path of a YAML file with such a list, which several studies share; paths in it are relative to it.
    concepts: Annotated[list[Entry], Field(min_length=1)]
    finetuning: Finetuning | None = None
    probes: Probes = Probes()
    sweep: Sweep = Sweep()
    generation: Generation | None = None
    transfer: Transfer | None = None
    instrument: Instrument | None = None
    similarity: Similarity = Similarity()
    emergence: Emergence = Emergence()
    readiness: Readiness | None = None  # off unless asked for: `readiness: {}` asks with these defaults

    _path: Path = PrivateAttr(default=Path("params.yaml"))
    _file: Path = PrivateAttr(default=Path("params.yaml"))  # to whose folder relative names belong

    @classmethod
    def load(cls, path: str | Path) -> Study:
        """The study of a params file, or a variant of a comparison (`FILE#VARIANT`).

        Raises SteerlibError, one line a mistake.
        """
        if copy := sources.read(Path(path)):
            return cls.of(copy.study, Path(copy.path), Path(copy.file))
        data, file = comparison.merged(path)
        if file != Path(path):
            base = cls.load(file)  # a mistake that is not the variant's is told as the study's own
            if data["name"] == base.name:  # it changes nothing, and is the study itself
                return base
        defaults = PRESETS.get(str(data.get("preset")), {})
        data = params.overlaid(defaults, with_shared_concepts(data, file))
        return cls.of(data, Path(path), file.resolve())

    @classmethod
    def of(cls, data: dict, path: Path, file: Path) -> Study:
        study = params.validate(data, path, cls, file.parent)
        study._path, study._file = path.resolve(), file
        return study

    def keep(self, folder: Path) -> Path:
        """A copy in a folder of results, which `load` takes as well."""
        given = self.model_dump(mode="json", exclude_unset=True)
        return Kept(path=str(self._path), file=str(self._file), study=given).write(folder)

    def __repr__(self) -> str:
        return f"<params of {self.name}: {self.path}>"

    __str__ = __repr__

    @property
    def path(self) -> Path:
        """Where it was loaded from, to be named in messages."""
        return self._path

    @property
    def home(self) -> Path:
        """The folder to which relative names of files belong."""
        return self._file.parent

    @property
    def world(self) -> World:
        """What is planted in the texts that the model has read; the default world where nobody says."""
        return sources.world_of(self.pretraining, self.checkpoints)

    @field_validator("concepts")
    @classmethod
    def _known(cls, entries, others):
        if {"pretraining", "checkpoints"} <= others.data.keys():  # else they have mistakes: their world is not known
            sources.refuse_unknown(entries, sources.world_of(*map(others.data.get, ("pretraining", "checkpoints"))))
        return entries

    @field_validator("layers")
    @classmethod
    def _there(cls, layers, others):
        if (made := others.data.get("pretraining")) and not made.start:
            chosen(layers, made.model.layers)
        return layers

    @model_validator(mode="after")
    def _model_somewhere(self):
        made, given = self.pretraining, self.checkpoints
        if [made, given.folder, given.repo, given.gguf].count(None) != 3:
            raise ValueError("name one origin of checkpoints: pretraining, or of checkpoints folder, repo or gguf")
        if made and given.steps == "all":
            raise ValueError("checkpoints.steps must say at which steps pretraining saves the model")
        asked = given.steps[-1] if isinstance(given.steps, list) else getattr(given.steps, "first", 0)
        if made and asked > made.updates:
            raise ValueError(f"checkpoints.steps asks for step {asked}, but pretraining ends at {made.updates}")
        if self.finetuning and given.disk is not None:
            raise ValueError("checkpoints.disk cannot hold with finetuning, which keeps a copy of every checkpoint")
        if self.emergence.method not in self.probes.names:
            raise ValueError(
                f"emergence.method {self.emergence.method!r} is not among probes.methods {self.probes.names}"
            )
        for name in ("kl", "nll") if self.readiness else ():
            allowed, budget = getattr(self.readiness, name), getattr(self.sweep, f"{name}_budget")
            if allowed < budget:
                raise ValueError(
                    f"readiness.{name} ({allowed:g}) is less than sweep.{name}_budget ({budget:g}), within which "
                    "alphas are chosen: none would be ready; lower the budget as well"
                )
        return self

    def layers_of(self, there: int) -> list[int]:
        """The numbers of those looked at of a model of so many layers. Raises SteerlibError where it has too few."""
        try:
            return chosen(self.layers, there)
        except ValueError as error:
            raise SteerlibError(f"{self.path}: layers: {error}") from None

    def named_files(self, stage: str) -> dict[str, Path]:
        """Files that the params name and a stage reads: their content is part of what its result is made from.

        Files of concepts and of neutral passages are not among them: what they hold is, once loaded.
        """
        corpora = {"pretraining": (self.pretraining, "stories"), "finetuning": (self.finetuning, "instructions")}
        training, planted = corpora.get(stage, (None, None))
        if training:
            files = {f"{stage}.corpus": training.corpus.path} if training.corpus != planted else {}
            if start := getattr(training, "start", None):
                names = loaded_names(os.listdir(start.path)) if start.path.is_dir() else None
                paths = [start.path] if names is None else [start.path / name for name in names]
                files |= {f"pretraining.start.{path.name}": path for path in paths}
            return files
        if stage == "generations" and self.generation and self.generation.classifier:
            named = self.generation.classifier
            folder = named.path if named.path.is_dir() else hub.in_cache(named, "main", [])  # once it is asked
            files = sorted(path for path in folder.glob("*") if path.is_file()) if folder else []
            return {f"generation.classifier.{path.name}": path for path in files}
        if stage not in ("probes", "interventions", "instrument"):
            return {}
        return {f"probes.methods.{m.name}.{file.name}": file for m in self.probes.load_methods() for file in m.files()}

    def read_concepts(self) -> list[Concept | Draft]:
        """Planted concepts are made; of others, what their files tell. Raises SteerlibError."""
        return [
            stories.concept(self.world, entry, self.probes.pairs, self.sweep.prompts, self.seed)
            if self._is_planted(entry)
            else self._read(entry)
            for entry in self.concepts
        ]

    def read_files(self) -> list[Concept | Draft]:
        """Of the concepts that are not planted, what their files tell. Raises SteerlibError."""
        return [self._read(entry) for entry in self.concepts if not self._is_planted(entry)]

    def _is_planted(self, entry: Located | ConceptFile) -> bool:
        return isinstance(entry, str) and entry in self.world.planted

    def _read(self, entry: Located | ConceptFile) -> Concept | Draft:
        return reading.load(ConceptFile(file=entry) if isinstance(entry, str) else entry, self.seed)

    def load_concepts(self) -> list[Concept]:
        """All concepts; one without foils stands against the others. Raises SteerlibError."""
        sources = self.read_concepts()
        others = opposites(sources)
        concepts = [source if isinstance(source, Concept) else source.concept(others) for source in sources]
        names = [concept.name for concept in concepts]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise SteerlibError(f"{self.path}: concepts: {twice[0]!r} stands there twice")
        return concepts

    def load_neutral(self) -> list[str]:
        """Passages on which side effects are measured. Raises SteerlibError when the file has too few."""
        if (path := sources.neutral_file(self)) is None:
            return stories.neutral(self.world, self.seed, self.sweep.neutral_texts)
        passages = sources.passages(path)
        if len(passages) < self.sweep.neutral_texts:
            raise SteerlibError(
                f"{path}: {len(passages)} distinct passages of six words or more, but sweep.neutral_texts asks for "
                f"{self.sweep.neutral_texts}"
            )
        return passages[: self.sweep.neutral_texts]
