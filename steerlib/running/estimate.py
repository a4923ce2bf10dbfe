"""About how long it takes to do what is left of a study, told before it is begun: counted, and not tried.

Two things are counted. Passes of the model, in floating-point operations, over the rates at which this machine trains
and reads the wider half of one of its blocks; and what surrounds a model whatever its size (kernels, fits, hooks,
files), in the seconds that it took where these numbers were measured, over how fast Python is here. All rates are of a
fraction of a second now, the best of many: of the machine when nobody else is at work on it. The numbers are of the toy
and of the first study.
"""

from __future__ import annotations

import timeit
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil

import numpy as np
import torch
from dask.system import cpu_count
from torch import nn
from torch.utils.benchmark import Timer

from steerlib import SteerlibError
from steerlib.checkpoints import dequantised
from steerlib.numerics import devices
from steerlib.numerics.products import Linear
from steerlib.results.workspace import Job, Workspace

# Of these rates, what training and passes reach: the toy, and of 135 M weights two at a time on two threads of a core.
TRAINED, READ = 0.6, 0.55
TOKENS = 1024  # that it is tried on
LOOP = 0.00365  # seconds that `_loop` took where the seconds below did
START = 8.0  # driver, workers and fork server
JOB = 0.95  # a notebook: its kernel, papermill, loading a model
SITE, ASKED = 0.012, 0.08  # a method at a layer of a concept: fits, their nulls, AUROC; and the concept's readout
PUSHED, SLOPES = 0.05, 0.012  # a concept in a sweep: bootstraps; and at each layer: refits, deals, null draws
TEXTS, TOKEN = 128, 0.0034  # that are written side by side, and a token of them all, a layer
SOLVED = 0.004  # a null draw of the instrument, whose strength is solved for
ANALYSED, POINT, JUDGED = 5.0, 0.1, 0.12  # the analysis, with each concept at a checkpoint, and each method's readiness
DOCUMENT, SAVED = 0.0007, 0.2  # a story told and cut into tokens; a checkpoint saved
WORD = 1.3  # tokens


def _loop() -> int:
    return sum(k * k for k in range(100_000))


def rate(hidden: int, device: torch.device, read: bool = False) -> float:
    """FLOP a second of the wider half of a block, on one thread: the best of as many as fit into a quarter of a second.

    As it is trained, or ``read``. Not of a product alone: on a processor that multiplied twice as fast, the toy was
    trained no faster.
    """
    linear = Linear if read else nn.Linear
    wider = nn.Sequential(nn.LayerNorm(hidden), linear(hidden, 4 * hidden), nn.GELU(), linear(4 * hidden, hidden))
    names = {"wider": wider.to(device).requires_grad_(False), "states": torch.randn(TOKENS, hidden, device=device)}
    timer = Timer("wider(states)", globals=names, num_threads=1)
    # What stays lets memory below it be used again, as in a pass of a model, and not be handed back each time.
    names["stays"] = [names["wider"](names["states"]) for _ in range(3)]
    return 16.0 * hidden**2 * TOKENS / min(timer.blocked_autorange(min_run_time=0.25).times)


@dataclass(frozen=True)
class Sizes:
    """Of a model: width of its states, blocks, words."""

    hidden: int
    layers: int
    words: int

    @property
    def block(self) -> float:
        """FLOP of a token through a block: two for each weight, of which there are 12 hidden²."""
        return 24.0 * self.hidden**2

    @property
    def head(self) -> float:
        """FLOP of a token's logits."""
        return 2.0 * self.hidden * self.words

    @property
    def whole(self) -> float:
        return self.layers * self.block + self.head


class Estimate:
    """Seconds that jobs of a study take here. Raises SteerlibError where the model's size cannot be known."""

    def __init__(self, workspace: Workspace):
        self.workspace, self.study = workspace, workspace.study
        self.sizes = sizes_of(workspace)
        where = self.sizes.hidden, devices.find(self.study.loading.device)
        self.rates = {TRAINED: rate(*where), READ: rate(*where, read=True)}
        self.pace = min(timeit.repeat(_loop, number=1, repeat=40)) / LOOP

    def seconds(self, jobs: Sequence[Job]) -> float:
        """Until all of these are done, by as many workers as a run starts."""
        of_steps = [self.of(job) for job in jobs if job.step is not None]
        alone = [self.of(job) for job in jobs if job.step is None]
        workers = max(1, min(cpu_count(), 8, len({job.step for job in jobs})))
        return START * self.pace + sum(of_steps) / workers + sum(alone)

    def of(self, job: Job) -> float:
        """One job's, on one core."""
        surrounding, flop, share = getattr(self, f"_{job.stage}")()
        return self.pace * (JOB + surrounding) + flop / (share * self.rates[share])

    # --- each stage: seconds beside the model, FLOP, and the share of the rate that it reaches ---

    def _pretraining(self):
        plan = self.study.pretraining
        threads = max(1.0, plan.threads / 2)  # a model so small is hardly faster on two
        flop = 3 * self.sizes.whole * plan.batch * plan.model.context * plan.updates / threads
        return plan.documents * DOCUMENT + SAVED * len(self.workspace.checkpoints), flop, TRAINED

    def _finetuning(self):
        plan = self.study.finetuning
        flop = 3 * self.sizes.whole * plan.batch * plan.context * plan.updates
        return plan.documents * DOCUMENT, flop, TRAINED

    def _probes(self):
        sites = len(self._concepts) * len(self.study.probes.names) * self._looked
        return (
            ASKED * len(self._concepts) + SITE * sites * max(1, self.sizes.hidden / 512),
            self._stimuli * self.sizes.layers * self.sizes.block,
            READ,
        )

    def _interventions(self):
        plan, of, concepts, methods = self.study.sweep, self.sizes, len(self._concepts), len(self.study.probes.names)
        near = self._looked if plan.neighbours == "all" else min(self._looked, 1 + 2 * plan.neighbours)
        # Random directions also at the layers of others, of which about every second is another one.
        beside = min(self._looked - near, methods * concepts) / 2
        pushes, above = concepts * (methods + 2) * near, of.block * of.layers / 2
        run, told = self._pushed
        flop = (run * above + told * of.head) * (pushes + concepts * beside)
        flop += plan.neutral_texts * (above + of.head) * pushes
        read = 0.0 if self.study.probes.states else self._stimuli / 2 * of.layers * of.block
        surrounding = concepts * (PUSHED + SLOPES * self._looked)
        return surrounding, flop * (len(plan.alphas) - 1) + read, READ

    def _generations(self):
        plan = self.study.generation
        concepts, texts = len(self._concepts), (1 + 2 * (len(plan.alphas) + 1)) * plan.prompts
        surrounding = concepts * (ASKED + ceil(texts / TEXTS) * plan.tokens * TOKEN * self.sizes.layers)
        return surrounding, concepts * texts * plan.tokens * self.sizes.whole, READ

    def _transfer(self):
        return 0.1 * len(self._concepts), 3 * self._pushed[0] * self.sizes.whole, READ

    def _similarity(self):
        return 0.0, 0.0, READ

    def _instrument(self):
        plan, sweep, of = self.study.instrument, self.study.sweep, self.sizes
        tried = plan.draws * len(self._concepts) * 9  # of nine methods; each some eight times until it meets the budget
        flop = tried * 8 * sweep.neutral_texts / 3 * (of.block * of.layers / 2 + of.head)
        return SOLVED * tried, flop, READ

    def _emergence(self):
        return ANALYSED + POINT * len(self._concepts) * len(self.workspace.checkpoints), 0.0, READ

    def _readiness(self):
        return 1 + JUDGED * len(self.study.probes.names) * len(self.workspace.checkpoints), 0.0, READ

    # --- what there is to read ---

    @property
    def _looked(self) -> int:
        """Layers."""
        return len(self.study.layers_of(self.sizes.layers))

    @cached_property
    def _concepts(self):
        return self.workspace.concepts

    @cached_property
    def _stimuli(self) -> float:
        """Tokens of all stimuli."""
        sides = (side for concept in self._concepts for t in concept.templates for side in (t.positive, t.negative))
        return WORD * sum(len(text.split()) for side in sides for text in side)

    @cached_property
    def _pushed(self) -> tuple[float, float]:
        """Tokens that each push runs, of prompts that concepts share once; and those of them that take all words'
        logits, as what an option has beyond its first token does, and of whole texts each token."""
        count = {}
        for concept in self._concepts:
            cases, whole = concept.readout.cases, bool(concept.readout.texts)
            options = [text for case in cases[:1] for text in (*case.targets, *case.foils)]
            more = sum(max(0, round(WORD * len(text.split())) - (not whole)) for text in options)
            written = 16 * 12 * concept.readout.judged
            count[tuple(case.prompt for case in cases)] = np.array([1 + more + written, more]) * len(cases)
        return tuple(sum(count.values()))


def sizes_of(workspace: Workspace) -> Sizes:
    """By the params of a model that is pretrained, or the config of the first checkpoint. Raises SteerlibError."""
    study = workspace.study
    if (plan := study.pretraining) and not plan.start:
        return Sizes(plan.model.hidden, plan.model.layers, plan.vocabulary)
    from transformers import AutoConfig  # a second's import, and where a model is trained there is none

    first = dequantised.start(study, workspace.folder) if plan else next(iter(workspace.checkpoints.values())).whole
    try:
        config = AutoConfig.from_pretrained(first, local_files_only=True).get_text_config()
        return Sizes(config.hidden_size, config.num_hidden_layers, config.vocab_size)
    except Exception as error:  # not fetched yet, or code of its own: transformers has many kinds of errors
        raise SteerlibError(f"{first}: its size cannot be told ({error})") from None


def about(workspace: Workspace, todo: Sequence[Job]) -> str:
    """ " (about 4 minutes here)", of what is left to do; nothing where that cannot be told."""
    try:
        return f" (about {worded(Estimate(workspace).seconds(todo))} here)"
    except SteerlibError:
        return ""


def worded(seconds: float) -> str:
    """To two figures at most: no estimate is better."""
    for unit, size in (("hour", 3600), ("minute", 60)):
        if seconds >= 1.5 * size:
            return f"{float(f'{seconds / size:.2g}'):g} {unit}s"
    return f"{max(10, round(seconds, -1)):.0f} seconds"
