"""Params of training: a model of the study's own, and the short one of every checkpoint before it is looked at."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from steerlib.files.params import Count, Located, Strict
from steerlib.study.checkpoints import Device


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


class Pretraining(Strict):
    """How the study makes its own model."""

    # The planted stories, or the path of any UTF-8 text file (a document a line; .xz as well).
    corpus: Located = Located("stories")
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
        """By 6·N·D; ``words`` is the vocabulary where the corpus has no more."""
        h = self.model.hidden
        # Those that multiply: all but the input embedding, which is only looked up.
        weights = self.model.layers * (12 * h * h + 13 * h) + 2 * h + (words or self.vocabulary) * h
        return 6.0 * weights * self.batch * self.model.context

    @property
    def updates(self) -> int:
        """Steps of training in all."""
        return self.steps or int(self.compute // self.flops_per_step())


class Finetuning(Strict):
    """A short training of every checkpoint before it is looked at, as the paper does; off unless asked for."""

    # Planted stories as questions and answers, or the path of any UTF-8 text file (a document a line).
    corpus: Located = Located("instructions")
    documents: Count = 2_000  # how many instructions to write
    context: Annotated[int, Field(ge=2)] = 64  # tokens a row, or as many as the model can take
    steps: Count = 40
    batch: Count = 16
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    warmup: Annotated[int, Field(ge=0)] = 4
    seed: Annotated[int, Field(ge=0)] = 0  # added to the study's, of instructions and their order alone: a second try

    @property
    def updates(self) -> int:
        """Steps of training in all."""
        return self.steps
