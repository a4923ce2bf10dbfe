"""Params of where checkpoints come from: pretrained here, a folder, a repository; and how they are loaded."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ByteSize, Discriminator, Field, Tag, field_validator, model_validator

from steerlib.files.params import Strict

Count = Annotated[int, Field(ge=1)]
Step = Annotated[int, Field(ge=0)]
Steps = Annotated[list[Step], Field(min_length=1)]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]  # auto: CUDA where there is, then MPS, then CPU


class Architecture(Strict):
    """A GPT-NeoX (Pythia's architecture)."""

    hidden: Count = 128
    layers: Count = 4
    heads: Count = 4
    context: Count = 64

    @model_validator(mode="after")
    def _divisible(self):
        if self.hidden % self.heads:
            raise ValueError(f"hidden ({self.hidden}) must be a multiple of heads ({self.heads})")
        return self

    def parameters(self, vocabulary: int) -> int:
        """Weights that multiply: all but the input embedding, which is only looked up."""
        h = self.hidden
        return self.layers * (12 * h * h + 13 * h) + 2 * h + vocabulary * h


class Pretraining(Strict):
    """How the study makes its own model."""

    corpus: str = "stories"  # the planted stories, or the path of any UTF-8 text file (a document a line; .xz as well)
    documents: Count = 16_000  # how many stories and claims to write
    vocabulary: Annotated[int, Field(ge=300)] = 1024
    model: Architecture = Architecture()
    # Exactly one of the two: how many updates, or the compute to spend in FLOP, by 6·N·D (Kaplan et al. 2020).
    steps: Count | None = None
    compute: Annotated[float, Field(gt=0)] | None = None
    batch: Count = 32
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    warmup: Annotated[int, Field(ge=0)] = 40
    device: Device = "cpu"  # all of these are part of the result, too
    precision: Literal["float32", "bfloat16"] = "float32"  # of products; weights and their updates stay float32
    compile: bool = False  # by torch.compile
    threads: Count = 2

    @model_validator(mode="after")
    def _length(self):
        if (self.steps is None) == (self.compute is None):
            raise ValueError("give either steps, or the compute to spend (in FLOP)")
        if self.compute and self.updates < 1:
            raise ValueError(f"compute ({self.compute:g} FLOP) does not pay for one step ({self.flops_per_step():.3g})")
        return self

    def flops_per_step(self, words: int | None = None) -> float:
        """By 6·N·D, N without the input embedding; ``words`` is the vocabulary where the corpus has no more."""
        return 6.0 * self.model.parameters(words or self.vocabulary) * self.batch * self.model.context

    @property
    def updates(self) -> int:
        """Steps of training in all."""
        return self.steps or int(self.compute // self.flops_per_step())


class Span(Strict):
    """Checkpoints from ``first`` to ``last``: all there are, or ``count`` of them spread evenly."""

    first: Step = 0
    last: Step | None = None  # the end of training
    count: Annotated[int, Field(ge=2)] | None = None
    spacing: Literal["log", "linear"] = "log"  # in log(1 + step), or in step

    @model_validator(mode="after")
    def _forwards(self):
        if self.last is not None and self.last < self.first:
            raise ValueError(f"last ({self.last}) comes before first ({self.first})")
        return self


class Percent(Strict):
    """The checkpoints nearest to these percentages of training."""

    percent: Annotated[list[Annotated[float, Field(ge=0, le=100)]], Field(min_length=1)]


def _kind(given: Any) -> str:
    if isinstance(given, BaseModel):
        return f"[{type(given).__name__.lower()}]"
    if isinstance(given, dict):
        return "[percent]" if "percent" in given else "[span]"
    return "[list]" if isinstance(given, list) else "[all]"


# The tags stand in brackets, as errors leave such words out of the place that they name.
Chosen = Annotated[
    Annotated[Steps, Tag("[list]")]
    | Annotated[Literal["all"], Tag("[all]")]
    | Annotated[Span, Tag("[span]")]
    | Annotated[Percent, Tag("[percent]")],
    Discriminator(_kind),
]


class Checkpoints(Strict):
    """Which checkpoints are studied, and where they are when the study does not make them."""

    folder: str | None = None  # Hugging Face checkpoints, one subfolder a step (`step-100`, `checkpoint-100`)
    repo: str | None = None  # or a repository with one revision a step, as EleutherAI/pythia-410m
    # Names of subfolders or revisions, where ours are not enough: a regular expression with a group `step`, and if
    # wanted `tokens` (in billions) and `stage`.
    pattern: str | None = None
    # Parts of training, such as stage1; the suite's main line when absent.
    stages: Annotated[list[str], Field(min_length=1)] | None = None
    tokens_per_step: Count | None = None  # where neither suite nor names tell
    tokenizer: str | None = None  # a folder or repository, where the checkpoints hold none
    steps: Chosen = "all"
    disk: ByteSize | None = None  # what downloads may take at a time, as 20GB; older ones are removed to make room

    @field_validator("steps")
    @classmethod
    def _increasing(cls, steps):
        if isinstance(steps, list) and steps != sorted(set(steps)):
            raise ValueError("steps must increase, each once")
        return steps

    @field_validator("pattern")
    @classmethod
    def _expression(cls, pattern):
        try:
            groups = re.compile(pattern).groupindex if pattern is not None else {"step": 1}
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        if "step" not in groups:
            raise ValueError(rf"{pattern!r} has no group named step; write one, as in 'iter_(?P<step>\d+)'")
        return pattern

    @field_validator("repo")
    @classmethod
    def _repository(cls, repo):
        if repo is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
            raise ValueError(f"{repo!r} is no repository; expected owner/name, as EleutherAI/pythia-410m")
        return repo

    @model_validator(mode="after")
    def _of_repo(self):
        if self.folder and self.repo:
            raise ValueError("name either a folder or a repo; found both")
        for name in ("stages", "disk"):
            if getattr(self, name) is not None and not self.repo:
                raise ValueError(f"{name}: only checkpoints from a repo have this")
        return self

    def choose(self, there: list[int], end: int | None = None) -> list[int]:
        """Of the steps that there are (increasing), those that are asked for; ``end`` is what percent counts from.

        Those that a list names and that are not there are in it as well: the caller knows how to say so.
        """
        if self.steps == "all":
            return list(there)
        if isinstance(self.steps, list):
            return list(self.steps)
        found = np.array(there)
        if isinstance(self.steps, Percent):
            wanted = np.array(self.steps.percent) / 100 * (there[-1] if end is None else end)
        else:
            last = there[-1] if self.steps.last is None else self.steps.last
            found = found[(found >= self.steps.first) & (found <= last)]
            if self.steps.count is None or len(found) <= self.steps.count:
                return found.tolist()
            return _spread(found, np.log1p if self.steps.spacing == "log" else np.asarray, self.steps.count)
        return sorted({int(found[np.argmin(abs(found - step))]) for step in wanted})


def _spread(found: np.ndarray, curve: Callable, count: int) -> list[int]:
    """``count`` of the steps, each the nearest left to an even grid on the curve, first and last among them."""
    left, kept = found.astype(float), []
    for wanted in np.linspace(curve(left[0]), curve(left[-1]), count):
        at = np.nanargmin(abs(curve(left) - wanted))
        kept.append(int(left[at]))
        left[at] = np.nan
    return sorted(kept)


class Loading(Strict):
    """How a checkpoint is loaded and run."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # of weights and states; readouts are float32 always
    device: Device = "auto"
    device_map: Literal["auto"] | dict[str, int | str] | None = None  # spread over GPUs, memory and disk (accelerate's)
    batch: Count | Literal["auto"] = "auto"  # texts at a time; auto: 256, halved for as long as memory is short
    trust_remote_code: bool = False  # run code that comes with the checkpoint; a study has to say so
    # Where an architecture that steerlib does not know keeps its blocks, from the base model on, as `decoder.layers`.
    blocks: str | None = None


class Finetuning(Strict):
    """A short training of every checkpoint before it is looked at, as the paper does; off unless asked for."""

    # Planted stories as questions and answers, or the path of any UTF-8 text file (a document a line).
    corpus: str = "instructions"
    documents: Count = 2_000  # how many instructions to write
    context: Annotated[int, Field(ge=2)] = 64  # tokens a row, or as many as the model can take
    steps: Count = 40
    batch: Count = 16
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    warmup: Annotated[int, Field(ge=0)] = 4

    @property
    def updates(self) -> int:
        """Steps of training in all."""
        return self.steps
