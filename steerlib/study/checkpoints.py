"""Params of a training history: where its checkpoints are, which of them are studied, and how they are loaded."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ByteSize, Discriminator, Field, Tag, model_validator

from steerlib.concepts.planted.world import World
from steerlib.files.params import SHORT, Located, Strict, whole, within

Step = whole(10**12, "as no training is longer", least=0)
Steps = Annotated[list[Step], Field(min_length=1, max_length=100_000)]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]


class Span(Strict):
    """Checkpoints from ``first`` to ``last``: all there are, or ``count`` of them spread evenly."""

    first: Step = 0  # nothing before it
    last: Step | None = None  # the end of training
    # How many of them, spread evenly; all when absent.
    count: whole(100_000, "as no study has more", least=2) | None = None
    spacing: Literal["log", "linear"] = "log"  # in log(1 + step), or in step

    @model_validator(mode="after")
    def _forwards(self):
        if self.last is not None and self.last < self.first:
            raise ValueError(f"last ({self.last}) comes before first ({self.first})")
        return self


class Percent(Strict):
    """The checkpoints nearest to these percentages of training."""

    # Each from 0 to 100, the end.
    percent: Annotated[list[within(float, 100, "which is the end", ge=0)], Field(min_length=1, max_length=100_000)]


def _kind(given: Any) -> str:
    if isinstance(given, dict):
        return "[percent]" if "percent" in given else "[span]"
    return {list: "[list]", Span: "[span]", Percent: "[percent]"}.get(type(given), "[all]")


# The tags stand in brackets, as errors leave such words out of the place that they name.
Chosen = Annotated[
    Annotated[Steps, Tag("[list]")]
    | Annotated[Literal["all"], Tag("[all]")]
    | Annotated[Span, Tag("[span]")]
    | Annotated[Percent, Tag("[percent]")],
    Discriminator(_kind),
]


def _increasing(steps: Any) -> Any:
    if isinstance(steps, list) and steps != sorted(set(steps)):
        raise ValueError("steps must increase, each once")
    return steps


def _expression(pattern: Any) -> re.Pattern[str]:
    if not isinstance(pattern, str):
        raise ValueError(f"{SHORT.repr(pattern)} is no regular expression; write a text")
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    if "step" not in compiled.groupindex:
        raise ValueError(rf"{pattern!r} has no group named step; write one, as in 'iter_(?P<step>\d+)'")
    return compiled


def _repository(name: str) -> str:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ValueError(f"{name!r} is no repository; expected owner/name, as EleutherAI/pythia-410m")
    return name


def _size(given: Any) -> Any:
    if isinstance(given, str) and not re.fullmatch(
        r"\s*\d*\.?\d+\s*[A-Za-z]*\s*", given
    ):  # of which pydantic reads a part
        raise ValueError(f"{given[:80]!r} is no size; expected one as 20 GB")
    return given


class Checkpoints(Strict):
    """Which checkpoints are studied, and where they are when the study does not make them."""

    folder: Located | None = None  # Hugging Face checkpoints, one subfolder a step (`step-100`, `checkpoint-100`)
    # Or a repository with one revision a step, as EleutherAI/pythia-410m.
    repo: Annotated[str, AfterValidator(_repository)] | None = None
    # Or one model as llama.cpp keeps it, a GGUF file: it is dequantised, once, and is step 1.
    gguf: Located | None = None
    # Names of subfolders or revisions, where ours are not enough: a regular expression with a group `step`, and if
    # wanted `tokens` (in billions) and `stage`.
    pattern: Annotated[re.Pattern[str], BeforeValidator(_expression)] | None = None
    # Parts of training, such as stage1; the suite's main line when absent.
    stages: Annotated[list[str], Field(min_length=1)] | None = None
    tokens_per_step: whole(10**12, "as no step sees more") | None = None  # where neither suite nor names tell
    tokenizer: Located | None = None  # a folder or repository, where the checkpoints hold none
    # Is step 0 a model that was never pretrained? Known of pretraining, and of the suites that say so (suites.yaml).
    # Beside a GGUF file it is made: the same architecture, its weights drawn by the study's seed.
    untrained: bool | None = None
    # The model that was fine-tuned, a folder or a repository (owner/name, or owner/name@revision): step 0 of a history
    # that has none, and what its adapters (LoRA and the like, of peft) are merged into. Where adapters in a folder name
    # a folder that is there, it need not be told.
    base: Located | None = None
    steps: Annotated[Chosen, AfterValidator(_increasing)] = "all"
    # What is planted in what the model has read, where another study made it by its `pretraining.world`.
    world: World | None = None
    # What downloads may take at a time, as 20GB; older ones are removed to make room.
    disk: Annotated[within(ByteSize, 10**18, "as no disk holds more", ge=1), BeforeValidator(_size)] | None = None

    @property
    def origin(self) -> str | None:
        """Whose they are, to a reader: a repository, or a folder's or file's name; None of those that a study makes."""
        given = self.folder or self.gguf
        return self.repo or (given.path.name if given else None)

    @model_validator(mode="after")
    def _fit_together(self):
        for name in ("stages", "disk"):
            if getattr(self, name) is not None and not self.repo:
                raise ValueError(f"{name}: only checkpoints from a repo have this")
        if self.world and not (self.folder or self.repo or self.gguf):
            raise ValueError("world: is of checkpoints that another study made; of this one's say pretraining.world")
        if self.base is not None and not (self.folder or self.repo):
            raise ValueError(f"base ({self.base}): only checkpoints from a folder or a repo have this")
        return self


class Loading(Strict):
    """How a checkpoint is loaded and run."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # of weights and states; readouts are float32 always
    device: Device = "auto"  # cpu, cuda, cuda:1 …, mps; auto: CUDA where there is, then MPS, then CPU
    # Spread over GPUs, memory and disk (accelerate's).
    device_map: Literal["auto"] | dict[str, whole(1024, "as no machine has more", least=0) | str] | None = None
    # Texts at a time; auto: 256, halved for as long as memory is short.
    batch: whole(1_000_000, "as no memory holds more") | Literal["auto"] = "auto"
    trust_remote_code: bool = False  # run code that comes with the checkpoint; a study has to say so
    # Where an architecture that steerlib does not know keeps its blocks, from the base model on, as `decoder.layers`.
    blocks: str | None = None
