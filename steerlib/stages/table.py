"""The stages of a study, one row each: what runs it, what it reads, and what makes its result out of date.

A new stage is a row here and a notebook; what the emergence row names is collected into `results.zarr`.
"""

from __future__ import annotations

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
    needs: tuple[Need, ...] = ()
    params: tuple[str, ...] = ()  # parts of the study's params, such as "probes" or "emergence.method"
    texts: tuple[Literal["concepts", "neutral"], ...] = ()
    asked_by: str | None = None  # the part of the params that asks for it; None: every study has it
    per_checkpoint: bool = True
    loads: bool = True  # its checkpoint, which must then lie on this disk
    # The package's files that make it; None: any may. Training again what has not changed would cost more than all
    # the rest: only the code that trains counts for it.
    source: tuple[str, ...] | None = None


# How a checkpoint is loaded. Device and batch change no more than rounding.
HOW = ("loading.dtype", "loading.blocks", "checkpoints.tokenizer")

_ROWS = (
    Stage(
        "pretraining",
        "0_pretraining",
        params=("pretraining",),
        asked_by="pretraining",
        per_checkpoint=False,
        loads=False,
        source=("stages/pretraining.py", "concepts/planted/world.py", "model/devices.py"),
    ),
    Stage(
        "finetuning",
        "0_finetuning",
        needs=(Need("pretraining"),),
        params=("finetuning", *HOW),
        asked_by="finetuning",
        source=("stages/finetuning.py", "stages/pretraining.py", "concepts/planted/world.py", "model/devices.py"),
    ),
    Stage(
        "probes",
        "1_probe_extraction",
        needs=(Need("pretraining"), Need("finetuning")),
        params=("probes", "similarity", *HOW),
        texts=("concepts",),
    ),
    Stage(
        "interventions",
        "2_intervention_sweep",
        needs=(Need("probes"),),
        params=("probes", "sweep", *HOW),
        texts=("concepts", "neutral"),
    ),
    Stage(
        "generations",
        "2_generation",
        needs=(Need("probes"), Need("interventions")),
        params=("generation", "probes", "sweep", "emergence.method", *HOW),
        texts=("concepts", "neutral"),
        asked_by="generation",
    ),
    Stage(
        "similarity",
        "3_representation_similarity",
        needs=(Need("probes"), Need("probes", "previous", optional=True), Need("probes", "last")),
        loads=False,
    ),
    Stage(
        "instrument",
        "6_instrument",
        needs=(Need("probes"),),
        params=("instrument", "probes", "sweep", "emergence.method", *HOW),
        texts=("concepts", "neutral"),
        asked_by="instrument",
    ),
    Stage(
        "emergence",
        "4_emergence_analysis",
        needs=tuple(
            Need(stage, "every", optional=True)
            for stage in ("finetuning", "probes", "interventions", "generations", "similarity", "instrument")
        ),
        params=("emergence", "sweep"),
        per_checkpoint=False,
        loads=False,
    ),
)
STAGES = {row.name: row for row in _ROWS}
