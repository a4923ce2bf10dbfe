"""The stages of a study, one row each: what runs it, what it reads, and what makes its result out of date.

A new stage is a row here and a notebook; what the emergence row names is collected into `results.zarr`.
"""

from dataclasses import dataclass
from typing import Literal

from steerlib.stages.source import source_hash


@dataclass(frozen=True)
class Need:
    """A result that a stage reads: of the same checkpoint, of the one before, of the last, or of every one.

    What is optional is read when it is there, and waited for; but a job is done without it, so that a checkpoint that
    failed takes along only what truly needs it.
    """

    stage: str
    at: Literal["same", "previous", "last", "every"] = "same"
    optional: bool = False
    reads: bool = True  # its dataset; else it is waited for because it makes the checkpoint
    shown: bool = True  # by the stage's notebook, which opened by hand has it made first; else it is only collected


@dataclass(frozen=True)
class Stage:
    """A kind of job. Its result is made from the notebook, its code, seed, needs, checkpoint, and what stands here."""

    name: str
    notebook: str
    needs: tuple[Need, ...] = ()
    params: tuple[str, ...] = ()  # as "probes" or "emergence.method"; a study has the stages all of whose params it has
    texts: tuple[Literal["concepts", "neutral"], ...] = ()
    planted: bool = False  # it reads the study's planted world itself, beside the texts that are made of it
    per_checkpoint: bool = True
    loads: bool = True  # its checkpoint, which must then lie on this disk
    leaves: tuple[str, ...] = ()  # what it writes beside its dataset, in the study's folder; {name} is the job's
    also: tuple[str, ...] = ()  # of the code, as `source_hash` takes it
    without: tuple[str, ...] = ()

    def source(self) -> str:
        """Hash of the code that computes it, as it is now."""
        return source_hash(self.notebook, self.also, self.without)


# Training again what has not changed would cost more than all the rest: only the code that trains counts for it.
UNTRAINED = ("concepts/concept", "concepts/repeats")
# The analyses read what was collected of all checkpoints.
COLLECTED = ("results/tree",)
# A comparison of studies is no job of any of them, and has no row among theirs.
COMPARISON = Stage(
    "comparison", "5_comparison", also=COLLECTED, per_checkpoint=False, loads=False, leaves=("figures/*",)
)

# How a checkpoint is loaded and run. Device and batch change no more than rounding.
HOW = ("loading.dtype", "loading.blocks", "loading.trust_remote_code", "threads")

# The one method that is fitted again and again: without some texts, and on shuffled labels.
REPEATED = ("emergence.method", "emergence.shuffled")


def _pushes(name: str, notebook: str, needs: tuple[Need, ...], params: tuple[str, ...], **more) -> Stage:
    """A stage that pushes a model along the probes, and looks at what it does to neutral text as well."""
    return Stage(name, notebook, needs, (*params, "probes", "sweep", *HOW), ("concepts", "neutral"), **more)


_ANALYSED = ("finetuning", "probes", "interventions", "generations", "similarity", "transfer", "instrument")
_JUDGED = ("probes", "interventions", "generations")
_SHOWN = ("probes", "interventions", "similarity")
_STAGES = (
    Stage(
        "pretraining",
        "0_pretraining",
        params=("pretraining",),
        per_checkpoint=False,
        loads=False,
        without=(*UNTRAINED, "model/loading"),
    ),
    Stage(
        "finetuning",
        "0_finetuning",
        needs=(Need("pretraining", reads=False),),
        params=("finetuning", *HOW),
        planted=True,
        without=UNTRAINED,
    ),
    Stage(
        "probes",
        "1_probe_extraction",
        needs=(Need("pretraining", reads=False), Need("finetuning", reads=False)),
        params=("layers", "probes", "similarity", *REPEATED, *HOW),
        texts=("concepts",),
    ),
    _pushes("interventions", "2_intervention_sweep", (Need("probes"),), REPEATED),
    _pushes(
        "generations",
        "2_generation",
        (Need("probes"), Need("interventions")),
        ("generation", "emergence.method"),
        planted=True,
    ),
    Stage(
        "similarity",
        "3_representation_similarity",
        needs=(Need("probes"), Need("probes", "previous", optional=True), Need("probes", "last", optional=True)),
        loads=False,
    ),
    _pushes(
        "transfer",
        "3_transfer",
        (Need("probes", "every"), Need("interventions"), Need("interventions", "last")),
        ("transfer", "emergence.method"),
    ),
    _pushes(
        "instrument",
        "6_instrument",
        (Need("probes"),),
        ("instrument", "layers", "emergence.method"),
        leaves=("figures/*.{name}.*",),
    ),
    Stage(
        "emergence",
        "4_emergence_analysis",
        needs=tuple(Need(stage, "every", optional=True, shown=stage in _SHOWN) for stage in _ANALYSED),
        params=("emergence", "sweep", "checkpoints.untrained"),
        per_checkpoint=False,
        loads=False,
        also=COLLECTED,
        leaves=("figures/*", "results.zarr", "findings.json"),
    ),
    Stage(
        "readiness",
        "7_readiness",
        needs=(Need("emergence"), *(Need(stage, "every", optional=True, shown=False) for stage in _JUDGED)),
        params=("readiness", "emergence", "probes", "sweep"),
        per_checkpoint=False,
        loads=False,
        also=COLLECTED,
        leaves=("figures/readiness.*",),
    ),
)
STAGES = {stage.name: stage for stage in _STAGES}
