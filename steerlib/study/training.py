"""Params of training: a model of the study's own, and the short one of every checkpoint before it is looked at."""

from typing import Literal

from pydantic import model_validator

from steerlib.concepts.planted.world import World
from steerlib.files.params import Located, Strict, whole, within
from steerlib.study.checkpoints import Device

Seed = whole(2**31 - 1, "as some libraries take no larger", least=0)
Threads = whole(1024, "as no machine has more")
Documents = whole(10_000_000, "as all of them are kept in memory")
Updates = whole(100_000_000, "as no training is longer")
Rows = whole(1_000_000, "as a step sees all of them")
Warmup = whole(100_000_000, "as no training is longer", least=0)
Rate = within(float, 10, "as no model learns by it", gt=0)
LARGEST = 4e12  # bytes


class Architecture(Strict):
    """Of a model that the study makes itself."""

    # Pythia's; Llama's (RMS norms, a gated MLP of 8/3 hidden, no biases); or GPT-2's (learnt positions, and one matrix
    # for the words that are read and those that are written).
    architecture: Literal["gpt_neox", "llama", "gpt2"] = "gpt_neox"
    hidden: whole(65_536, "as no model has more") = 128  # width of the residual stream
    layers: whole(1_000, "as no model has more") = 4  # blocks
    heads: whole(1_024, "as no model has more") = 4  # of attention, a block
    context: whole(1_000_000, "as no model has more") = 64  # tokens it can read at a time

    @model_validator(mode="after")
    def _divisible(self):
        if self.hidden % self.heads:
            raise ValueError(f"hidden ({self.hidden}) must be a multiple of heads ({self.heads})")
        return self

    @property
    def wider(self) -> int:
        """Width of an MLP: of three matrices, where it is gated, as many weights as of two."""
        return 8 * round(self.hidden / 3) if self.architecture == "llama" else 4 * self.hidden

    @property
    def weights(self) -> int:
        """Of all blocks and the last norm, biases included."""
        h = self.hidden
        if self.architecture == "llama":
            return self.layers * (4 * h * h + 3 * h * self.wider + 2 * h) + h
        return self.layers * (12 * h * h + 13 * h) + 2 * h


class Pretraining(Strict):
    """How the study makes its own model."""

    # The planted stories, or the path of any UTF-8 text file (a document a line; .xz as well).
    corpus: Located = Located("stories")
    world: World = World()  # what is planted in the stories; what it does not say is as in the default world
    documents: Documents = 16_000  # how many stories and claims to write
    # A model that is trained on instead of one of ours, with its tokenizer: a checkpoint's folder, or a GGUF file. Of
    # what follows it has its own, but for model.context, here the tokens of a row.
    start: Located | None = None
    vocabulary: whole(1_000_000, "as no model has more", least=300) = 1024  # tokens of the tokenizer trained on it
    model: Architecture = Architecture()
    # How many updates; either this or compute.
    steps: Updates | None = None
    # What to spend in FLOP, by 6·N·D (Kaplan et al. 2020); either this or steps.
    compute: within(float, 1e30, "as no machine has as much", gt=0) | None = None
    batch: Rows = 32  # rows of `context` tokens an update
    learning_rate: Rate = 2e-3  # the highest, of AdamW
    warmup: Warmup = 40  # updates until it is reached; from there it falls along a cosine
    device: Device = "cpu"  # all of these are part of the result, too
    precision: Literal["float32", "bfloat16"] = "float32"  # of products; weights and their updates stay float32
    compile: bool = False  # by torch.compile
    threads: Threads = 2  # of PyTorch

    @model_validator(mode="after")
    def _told(self):
        if "world" in self.model_fields_set and self.corpus != "stories":
            raise ValueError(f"world is told in the planted stories, but corpus is {self.corpus!r}; leave one out")
        return self

    @model_validator(mode="after")
    def _started(self):
        own = [f"model.{name}" for name in sorted(self.model.model_fields_set - {"context"})]
        own += [name for name in ("vocabulary", "compute") if name in self.model_fields_set]
        if self.start and own:
            raise ValueError(f"{own[0]} is for a model of the study's own, but start names another; leave one out")
        return self

    @model_validator(mode="after")
    def _length(self):
        if (self.steps is None) == (self.compute is None):
            raise ValueError("give either steps, or the compute to spend (in FLOP)")
        if self.compute and self.updates < 1:
            raise ValueError(f"compute ({self.compute:g} FLOP) does not pay for one step ({self.flops_per_step():.3g})")
        if self.updates > 100_000_000:
            raise ValueError(f"compute ({self.compute:g} FLOP) makes {self.updates:.3g} steps; at most 100,000,000")
        states = self.batch * self.model.context * (self.vocabulary + self.model.layers * self.model.hidden)
        if (
            not self.start and (needed := 16.0 * self.weights() + 4.0 * states) > LARGEST
        ):  # with gradients and the optimizer's moments
            raise ValueError(
                f"takes {needed / 1e12:,.0f} TB of memory or more, at most {LARGEST / 1e12:.0f}; lower model.hidden, "
                "model.layers, model.context, vocabulary or batch"
            )
        return self

    def weights(self, words: int | None = None) -> int:
        """Those that multiply: all but the input embedding, which is only looked up."""
        return self.model.weights + (words or self.vocabulary) * self.model.hidden

    def flops_per_step(self, words: int | None = None) -> float:
        """By 6·N·D; ``words`` is the vocabulary where the corpus has no more."""
        return 6.0 * self.weights(words) * self.batch * self.model.context

    @property
    def updates(self) -> int:
        """Steps of training in all."""
        return self.steps or int(self.compute // self.flops_per_step())


class Finetuning(Strict):
    """A short training of every checkpoint before it is looked at, as the paper does; off unless asked for."""

    # Planted stories as questions and answers, or the path of any UTF-8 text file (a document a line).
    corpus: Located = Located("instructions")
    documents: Documents = 2_000  # how many instructions to write
    context: whole(1_000_000, "as no model has more", least=2) = 64  # tokens a row, or as many as the model can take
    steps: Updates = 40  # how many updates
    batch: Rows = 16  # rows an update
    learning_rate: Rate = 5e-4  # the highest, of AdamW
    warmup: Warmup = 4  # updates until it is reached; from there it falls along a cosine
    seed: Seed = 0  # added to the study's, of instructions and their order alone: a second try

    @property
    def updates(self) -> int:
        """Steps of training in all."""
        return self.steps
