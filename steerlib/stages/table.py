"""The stages of a study, one row each: what runs it, what it reads, and what makes its result out of date.

A new stage is a row here and a notebook; what the emergence row names is collected into `results.zarr`.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Need:
    """A result that a stage reads: of the same checkpoint, of the one before, of the last, or of every one.

    What is optional is read when it is there, and waited for; but a job is done without it, so that a checkpoint that
    failed takes along only what truly needs it.
    """

    stage: str
    at: Literal["same", "previous", "last", "every"] = "same"
    optional: bool = False


@dataclass(frozen=True)
class Stage:
    """A kind of job. Its result is made from the notebook, seed, needs, checkpoint, and what stands here."""

    name: str
    notebook: str
    source: tuple[str, ...]  # wings and modules that compute it, as "numerics" or "stages/probing"
    needs: tuple[Need, ...] = ()
    params: tuple[str, ...] = ()  # as "probes" or "emergence.method"; a study has the stages all of whose params it has
    texts: tuple[Literal["concepts", "neutral"], ...] = ()
    per_checkpoint: bool = True
    loads: bool = True  # its checkpoint, which must then lie on this disk


# What the stages that run a model are computed by, beside their own modules. Not `files`, `study`, `checkpoints` and
# what reads concepts: a result hangs on what these bring as it was brought (params, texts, weights), not on how. Nor
# what is above the stages.
MODEL = ("concepts/concept", "concepts/repeats", "numerics", "model", "steering", "stages/probing")
# Training again what has not changed would cost more than all the rest: only the code that trains counts for it.
TRAINING = ("stages/pretraining", "concepts/planted/vocabulary", "concepts/planted/world", "model/devices")
# The analyses read what was collected of all checkpoints.
COLLECTED = ("numerics", "stages/emergence", "results/tree")
# A comparison of studies is no job of any of them, and has no row.
COMPARISON = (*COLLECTED, "stages/comparison", "stages/summary")

# How a checkpoint is loaded. Device and batch change no more than rounding.
HOW = ("loading.dtype", "loading.blocks", "checkpoints.tokenizer")

# The one method that is fitted again and again: without some texts, and on shuffled labels.
REPEATED = ("emergence.method", "emergence.shuffled")


def _pushes(
    name: str, notebook: str, source: tuple[str, ...], needs: tuple[Need, ...], params: tuple[str, ...]
) -> Stage:
    """A stage that pushes a model along the probes, and looks at what it does to neutral text as well."""
    source, params = (*MODEL, "stages/pushes", *source), (*params, "probes", "sweep", *HOW)
    return Stage(name, notebook, source, needs, params, texts=("concepts", "neutral"))


_PARSER = ("concepts/planted/parser", "concepts/planted/vocabulary")
_ANALYSED = ("finetuning", "probes", "interventions", "generations", "similarity", "instrument")
_STAGES = (
    Stage("pretraining", "0_pretraining", TRAINING, params=("pretraining",), per_checkpoint=False, loads=False),
    Stage(
        "finetuning",
        "0_finetuning",
        source=(*TRAINING, "stages/finetuning"),
        needs=(Need("pretraining"),),
        params=("finetuning", *HOW),
    ),
    Stage(
        "probes",
        "1_probe_extraction",
        source=MODEL,
        needs=(Need("pretraining"), Need("finetuning")),
        params=("probes", "similarity", *REPEATED, *HOW),
        texts=("concepts",),
    ),
    _pushes("interventions", "2_intervention_sweep", ("stages/interventions",), (Need("probes"),), REPEATED),
    _pushes(
        "generations",
        "2_generation",
        source=("stages/generation", "stages/judges", *_PARSER),
        needs=(Need("probes"), Need("interventions")),
        params=("generation", "emergence.method"),
    ),
    Stage(
        "similarity",
        "3_representation_similarity",
        source=("numerics", "stages/similarity"),
        needs=(Need("probes"), Need("probes", "previous", optional=True), Need("probes", "last", optional=True)),
        loads=False,
    ),
    _pushes(
        "instrument",
        "6_instrument",
        source=("stages/instrument", "stages/interventions"),
        needs=(Need("probes"),),
        params=("instrument", "emergence.method"),
    ),
    Stage(
        "emergence",
        "4_emergence_analysis",
        source=COLLECTED,
        needs=tuple(Need(stage, "every", optional=True) for stage in _ANALYSED),
        params=("emergence", "sweep"),
        per_checkpoint=False,
        loads=False,
    ),
)
STAGES = {stage.name: stage for stage in _STAGES}
