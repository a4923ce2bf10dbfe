"""What the same would cost another way: no push, the concept's texts before a prompt, a short fine-tuning, the push.

All four at one checkpoint, on the same prompts and the same neutral passages. What can be chosen of a way (how many
texts, how many updates) is chosen as the strength of the push is: the greatest gain on validation prompts that surely
keeps to the KL budget on validation passages. All that is reported is of test ones. The comparison is ours.

Texts before a prompt are examples, not an instruction: a model that was only pretrained follows none.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from steerlib import SteerlibError
from steerlib.concepts import Concept
from steerlib.model import Model, Prefix
from steerlib.model.encoder import as_texts
from steerlib.numerics import statistics
from steerlib.stages import probing, training
from steerlib.stages.bench import Bench
from steerlib.stages.fitness import whole_sentences
from steerlib.stages.probing import seed_of
from steerlib.stages.pushes import Pushes
from steerlib.steering.arms import Arm, dose_response
from steerlib.steering.side_effects import SideEffects
from steerlib.study import Study
from steerlib.study.training import Finetuning

NOTHING, BEFORE, TUNED, PUSHED = WAYS = ("no push", "texts before the prompt", "fine-tuning", "push")
SHOWN = (1, 2, 4, 8, 16)  # texts that are put before a prompt, as far as the context holds them
UPDATES = (1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64)  # after which a fine-tuning may be stopped
RATE = 1e-4  # of its AdamW, from the first update on, falling along a cosine
DOSE = ["prompt", "draw"]


class Tried(NamedTuple):
    """A way with one choice made: what it did, and what it took."""

    amount: float  # what is chosen: texts, updates, alpha
    measured: xr.Dataset
    texts: int = 0  # of the concept, that somebody has to write
    flop: float = 0.0  # to make it, once
    cpu_seconds: float = 0.0  # the same, as measured in this process
    tokens: float = 0.0  # more to be read at every use


class Prompted(Model):
    """A model before whose every text stands the same context."""

    def __init__(self, model: Model, context: str):
        self.__dict__.update(vars(model), context=context)

    def tokens(self, texts, more=0):
        return super().tokens([f"{self.context} {text}" for text in as_texts(texts)], more)


def compare(
    model: Model, study: Study, concept: Concept, probes: xr.Dataset, method: str, layer: int, alpha: float
) -> xr.Dataset:
    """Effect, side effects and cost of every way, by `WAYS`: schema `/other_ways`.

    ``probes`` are the checkpoint's; ``method``, ``layer`` and ``alpha`` say which push. A way that cannot be tried, as
    where no text fits into the context, is NaN, and ``why`` says why. Beside them ``effect_null``: of directions that
    are isotropic or from shuffled labels, pushed as far; and ``advantage``: what the push gains more than each way,
    paired over prompts. Raises SteerlibError for a readout that cannot be read.
    """
    at = Look(model, study, concept)
    texts = examples(concept, study.seed)
    ways = [
        lambda: [Tried(0.0, at.unsteered)],
        lambda: before(at, texts),
        lambda: tuned(at, texts),
        lambda: [pushed(at, probes, method, layer, alpha)],
    ]
    parts = []
    for tries in ways:
        try:
            parts.append(at.chosen(list(tries())).assign(why=""))
        except SteerlibError as error:
            parts.append(xr.full_like(parts[0], np.nan, dtype=float).assign(within=False, why=str(error)))
    found = xr.concat(parts, xr.DataArray([*WAYS], dims="way", name="way"), coords="minimal", compat="override")
    more = [at.mean(found.log_odds.sel(way=PUSHED) - found.log_odds.sel(way=way), "prompt", "test") for way in WAYS]
    for name, values in zip(("", "_lower", "_upper"), zip(*more, strict=True), strict=True):
        found[f"advantage{name}"] = "way", np.array(values)
    found["effect_null"] = null(at, probes, method, layer, alpha)
    return found.assign_coords(split=("prompt", at.bench.split), concept=concept.name)


class Look:
    """One concept at one checkpoint, to be looked at as it is and as each way changes it."""

    def __init__(self, model: Model, study: Study, concept: Concept):
        self.model, self.study, self.concept = model, study, concept
        [self.bench] = Bench.of(model, [concept], study)
        self.effects = SideEffects(model, study.load_neutral(), study.seed, self.bench.positions == "all")
        self.said = _log_probabilities(self.effects)
        self.unsteered = self.of(model)

    def of(self, model: Model) -> xr.Dataset:
        """What another model (with other weights, or a context) says on the same prompts and passages."""
        readouts = replace(self.bench.readouts, model=model)
        final = Prefix(model, self.bench.prompts, readouts.branches).final[:, None]
        effects = SideEffects(model, self.study.load_neutral(), self.study.seed)
        said = _log_probabilities(effects)
        kl = (self.said.exp() * (self.said - said)).sum(-1)
        nll = -said.gather(-1, self.effects.following.to(said.device)[:, None])[:, 0]
        return self.told(readouts.measure(final)[:, 0], torch.stack([kl, nll], -1))

    def told(self, answers: Float[Tensor, "p 3"], effects: Float[Tensor, "passage 2"]) -> xr.Dataset:
        """As a dataset."""
        values = {
            "log_odds": ("prompt", answers[:, 0]),
            "first": ("prompt", answers[:, 1] > 0),
            "kl": ("passage", effects[:, 0]),
            "nll": ("passage", effects[:, 1]),
        }
        return xr.Dataset({name: (dim, of.detach().cpu().double().numpy()) for name, (dim, of) in values.items()})

    def chosen(self, tries: list[Tried]) -> xr.Dataset:
        """The try of greatest gain on validation prompts of those within the budget; without one, of least KL."""
        costs = [self.mean(tried.measured.kl, "passage", "validation")[2] for tried in tries]
        gains = [self.mean(self._gained(tried).log_odds, "prompt", "validation")[0] for tried in tries]
        within = [cost <= self.study.sweep.kl_budget for cost in costs]
        best = max(range(len(tries)), key=lambda k: (within[k], gains[k] if within[k] else -costs[k]))
        return self._reported(tries[best]).assign(within=within[best])

    def _reported(self, tried: Tried) -> xr.Dataset:
        """Means over test prompts and passages with their intervals, and what it took."""
        gained, measured = self._gained(tried), tried.measured
        found = {name: getattr(tried, name) for name in ("amount", "texts", "flop", "cpu_seconds", "tokens")}
        found |= {"log_odds": measured.log_odds, "kl_passage": measured.kl}
        means = {"effect": (gained.log_odds, "prompt"), "first": (measured["first"], "prompt")}
        means |= {"kl": (measured.kl, "passage"), "delta_nll": (gained.nll, "passage")}
        for name, (values, dim) in means.items():
            mean, lower, upper = self.mean(values, dim, "test")
            found |= {name: mean, f"{name}_lower": lower, f"{name}_upper": upper}
        return xr.Dataset(found)

    def _gained(self, tried: Tried) -> xr.Dataset:
        return tried.measured - self.unsteered

    def mean(self, values: xr.DataArray, dim: str, split: str) -> tuple[float, float, float]:
        """Over one split's prompts or passages, with the interval of the sweep: its resamples and its seeds."""
        splits = {"prompt": self.bench.split, "passage": self.effects.split}
        of = values.isel({dim: splits[dim] == split})
        seed = seed_of(self.study, *(["passages"] if dim == "passage" else ["interference", self.concept.name]))
        ends = statistics.mean_interval(of, dim, self.study.sweep.bootstrap, seed)
        return float(of.mean()), *map(float, ends)


def examples(concept: Concept, seed: int) -> list[str]:
    """The concept's own texts of the fitting half, in an order of their own.

    Where they end before a word that is due, as "Anna kissed her dog. Anna felt", a target stands there, each in turn.
    """
    texts, targets = concept.stimuli("fit", seed).positive, concept.readout.targets
    order = np.random.default_rng(seed).permutation(len(texts))
    if whole_sentences(texts) or not targets:
        return [texts[k] for k in order]
    return [f"{texts[k]}{targets[i % len(targets)]}." for i, k in enumerate(order)]


# --- the ways ---------------------------------------------------------------------------------------------------------


def before(at: Look, texts: list[str]) -> Iterator[Tried]:
    """The first texts before every prompt, more and more of them while the context holds them."""
    plain = at.model.tokens(at.bench.prompts).mask.sum()
    for count in (count for count in SHOWN if count <= len(texts)):
        asked = Prompted(at.model, " ".join(texts[:count]))
        try:
            tokens = float(asked.tokens(at.bench.prompts).mask.sum() - plain) / len(at.bench.prompts)
            yield Tried(count, at.of(asked), texts=count, tokens=tokens)
        except SteerlibError:  # too long for the context, or for its attention
            if count == SHOWN[0]:
                raise
            return


def tuned(at: Look, texts: list[str]) -> Iterator[Tried]:
    """All weights trained on the texts for a few updates, stopped after each of `UPDATES`; 6·N FLOP a token."""
    if any(weight.is_meta for weight in at.model.hf.parameters()):
        raise SteerlibError("fine-tuning needs all weights in memory; take loading.device_map away")
    of = at.model
    model = Model(copy.deepcopy(of.hf).float(), of.tokenizer, of.name, loading=of.loading)
    plan = Finetuning(steps=UPDATES[-1], learning_rate=RATE, warmup=0)
    ids = sum(map(len, of.encoder.split(texts)))
    context = min(plan.context, ids, of.encoder.context or ids)
    rows = training.windows(texts * plan.batch, of.tokenizer, context)
    optimizer, seconds = training.optimizer_of(model.hf), 0.0
    for update in range(plan.steps):
        started = time.process_time()
        training.update(model.hf, optimizer, rows, plan, update, at.study.seed, f"{of.name}: finetuning")
        seconds += time.process_time() - started
        if (done := update + 1) in UPDATES:
            flop = 6.0 * training.weights(of.hf) * done * plan.batch * context
            model.__dict__.pop("unembedding", None)  # it has been trained as well
            yield Tried(done, at.of(model), len(texts), flop, seconds)


def pushed(at: Look, probes: xr.Dataset, method: str, layer: int, alpha: float) -> Tried:
    """The push as the sweep makes it. It takes one reading of the texts of both sides: 2·N FLOP a token."""
    texts = at.concept.stimuli("fit", at.study.seed).texts
    started = time.process_time()
    probing.find(at.model, at.concept, layer, at.study.probes.load_method(method), at.study.seed)
    seconds = time.process_time() - started
    flop = 2.0 * training.weights(at.model.hf) * float(at.model.tokens(texts).mask.sum())
    answers, effects = _doses(at, _arm(at, probes, layer, method), layer, alpha)
    return Tried(alpha, at.told(answers[:, 0], effects[:, 0]), len(texts), flop, seconds)


def null(at: Look, probes: xr.Dataset, method: str, layer: int, alpha: float) -> xr.DataArray:
    """The same of every null draw of the method: isotropic directions, and those from shuffled labels."""
    answers, _ = _doses(at, _arm(at, probes, layer, method, null=True), layer, alpha)
    gained = xr.DataArray(answers[..., 0].double().numpy(), dims=DOSE) - at.unsteered.log_odds
    return gained.isel(prompt=at.bench.split == "test").mean("prompt").assign_coords(null=probes["null"])


def _arm(at: Look, probes: xr.Dataset, layer: int, method: str, null: bool = False) -> Arm:
    """This concept's variant of one method, or all of its null draws."""
    pushes = Pushes(at.model, at.study, [at.concept], probes.sel(concept=[at.concept.name]))
    arm, names = (pushes.null(layer), at.study.probes.names) if null else (pushes.real(layer), [*probes.probe.values])
    draws = len(arm.strength) // len(names)
    return arm.pick(names.index(method) * draws + np.arange(draws))


def _doses(at: Look, arm: Arm, layer: int, alpha: float) -> tuple[Tensor, Tensor]:
    """Of every variant at one alpha: what is answered (prompt, draw, 3), and the side effects (passage, draw, 2)."""
    places = [(at.bench.prefix, at.bench.readouts.measure), (at.effects.prefix, at.effects.measure)]
    return tuple(dose_response(*place, layer, arm, [alpha], at.bench.positions)[:, 0] for place in places)


def _log_probabilities(effects: SideEffects) -> Float[Tensor, "passage v"]:
    """Of the next word of every neutral passage."""
    return effects.prior[:, 0] + effects.model.logits(torch.zeros_like(effects.prefix.final[:, 0]))
