"""What is looked at of a model that is still training: separability and exact slopes, by the rules of a study.

A measurement is as much of notebooks 1 and 2 as the curves of notebook 4 are made from. Of all texts and prompts it is
the study's own; of few it costs little, and its direction is fitted to few. Nothing is pushed, and what the model says
by itself (expression) is not asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import TypeVar

import numpy as np
import xarray as xr

from steerlib.concepts import Concept, prompt_split
from steerlib.model import Model, Prefix
from steerlib.numerics import separability
from steerlib.numerics.directions import Directions
from steerlib.numerics.onsets import Measured
from steerlib.numerics.statistics import best
from steerlib.stages import emergence, written
from steerlib.stages.bench import Bench
from steerlib.stages.classifiers import of_readouts
from steerlib.stages.interventions import alpha_unit, nat
from steerlib.stages.probing import REDRAWN, ReadStimuli, deals, fitted_on, seed_of
from steerlib.stages.pushes import Pushes
from steerlib.steering.asking import check_distinct
from steerlib.study import Study

T = TypeVar("T")
MEASURES = ("separability", "steerability")
DRAWS = 100  # null draws: the least of which there is a tail (`numerics.statistics.beyond`)
PAIRS, PROMPTS = 8, 12  # of a concept, where texts are few: no fewer pairs, no more prompts
DIMS = {  # of what is measured of every concept at every layer
    "slope": ["prompt", "refit"],
    "strength": [],
    "interference_shuffled": ["deal"],
    "steerability_shuffled_validation": ["deal"],
    "auroc_redrawn": ["redraw", "fold"],
    "auroc_shuffled": ["deal", "fold"],
}


class Live:
    """Concepts as they are looked at, set up once: called with a model, it measures that."""

    def __init__(self, study: Study, concepts: Sequence[Concept], texts: int | None):
        """Of about so many ``texts`` in all, and `PROMPTS` a concept; or of all there are."""
        pairs = texts and max(PAIRS, texts // (2 * len(concepts)))
        self.concepts = [few(concept, pairs, study.seed) for concept in concepts] if pairs else [*concepts]
        plan = study.emergence.model_copy(update={"shuffled": min(DRAWS, study.emergence.shuffled)})
        self.study = study.model_copy(update={"emergence": plan})
        self._ids: dict[str, list[int]] = {}  # of every text
        self._groups: list = []  # concepts that share their prompts, with their readouts
        halves = [[concept.stimuli(half, study.seed) for half in ("fit", "test")] for concept in self.concepts]
        words = [separability.auroc_of_words(fit.texts, test.texts, test.fold) for fit, test in halves]
        self._words = xr.DataArray(padded(words), dims=["concept", "fold"])

    def __call__(self, model: Model) -> xr.Dataset:
        """All that `curves` are made from, at one step: named as in `/probes` and `/interventions`.

        Raises SteerlibError for texts that do not fit the tokenizer, and when memory is short.
        """
        looked = Looked(model, self.study, self.concepts, self._benches(model), self._reading(model))
        return looked.measured().assign(auroc_words=self._words)

    def _reading(self, model: Model) -> ReadStimuli:
        """As `ReadStimuli` reads; what tokens the texts are is asked once."""
        for concept in () if self._ids else self.concepts:
            texts = [text for half in ("fit", "test") for text in concept.stimuli(half, self.study.seed).texts]
            self._ids |= zip(texts, check_distinct(model.encoder, texts, concept.name), strict=True)
        states, texts = model.read_ids([*self._ids.values()], together=True).states.numpy(), [*self._ids]
        read = xr.Dataset({"state": (["layer", "text", "d"], states)}, {"layer": range(len(states)), "text": texts})
        return ReadStimuli(model, self.concepts, self.study.seed, probes=read)

    def _benches(self, model: Model) -> list[Bench]:
        """As `Bench.of` makes them; what tokens the words are is asked once."""
        study, positions, benches = self.study, self.study.sweep.positions, []
        if not self._groups or any(concept.readout.judged for concept in self.concepts):  # which is judged each time
            judges = of_readouts(study, self.concepts)
            groups = written.by_prompts(model, self.concepts, judges, study.seed)
            self._groups = [(group, replace(readouts, model=None)) for group, readouts in groups]  # no model is kept
        for group, readouts in self._groups:
            prompts = tuple(case.prompt for case in group[0].readout.cases)
            split = prompt_split(prompts, study.seed)
            prefix = Prefix(model, prompts, readouts.branches, positions == "all")
            benches.append(Bench(prompts, replace(readouts, model=model), prefix, split, positions))
        return benches


class Looked(Pushes):
    """One model, its texts and prompts read: directions by the analysis' method, all of a layer along one arm."""

    def __init__(
        self, model: Model, study: Study, concepts: Sequence[Concept], benches: Sequence[Bench], read: ReadStimuli
    ):
        self.benches, self.read, layers = benches, read, study.layers_of(model.n_layers)
        self.halves = {c.name: (read(c.name, "fit"), read(c.name, "test")) for c in concepts}
        self.kept = {  # of the fitted pairs: those of each refit, and of each redraw
            name: (fit.stimuli.refits, fit.stimuli.redraws(REDRAWN, seed_of(study, name, "redrawn")))
            for name, (fit, _) in self.halves.items()
        }
        norms: dict[str, np.ndarray] = {}  # as `probing.residual_norm`, of prompts that were run already
        for bench in benches:
            ends = bench.gradients[1][:, :, bench.prefix.root].float().norm(dim=-1)
            norms |= zip(bench.prompts, ends.T.numpy(), strict=True)
        coords = {"layer": layers, "probe": [study.emergence.method], "concept": [*self.halves]}
        norm = np.mean([*norms.values()], axis=0)[layers]
        super().__init__(model, study, concepts, xr.Dataset({"residual_norm": ("layer", norm)}, coords))

    @property
    def _read(self) -> ReadStimuli:
        return self.read

    def measured(self) -> xr.Dataset:
        """Every concept at all layers. Of what concepts have in different number, that which one lacks is NaN."""
        sites = [[*self.at(layer)] for layer in self.probes.layer.values.tolist()]
        found = {name: [np.stack([site[k][name] for site in sites]) for k in range(len(self.halves))] for name in DIMS}
        folds = [test.stimuli.fold for _, test in self.halves.values()]
        for name in ("auroc_redrawn", "auroc_shuffled"):  # so far projections
            found[name] = [*map(separability.auroc_by_fold, found[name], folds)]
        asked = [Bench.by_readout(self.benches)[name] for name in self.halves]
        splits = [bench.split for bench, _ in asked]
        split = np.stack([np.pad(one, (0, max(map(len, splits)) - len(one)), constant_values="") for one in splits])
        values = {
            name: (["concept", "layer", *DIMS[name]], padded(of).astype(np.float32)) for name, of in found.items()
        }
        values |= {
            "readout_tokens": ("concept", [bench.readouts.tokens[row] for bench, row in asked]),
            "residual_norm": self.probes.residual_norm,
        }
        planted = [concept.planted_frequency or np.nan for concept in self.concepts]
        coords = {
            "concept": [*self.halves],
            "layer": self.probes.layer.values,
            "role": ("concept", [concept.role for concept in self.concepts]),
            "planted_frequency": ("concept", planted),
            "split": (["concept", "prompt"], split),
        }
        whole = xr.Dataset(values, coords)
        whole.slope.attrs["units"] = f"{nat(self.concepts)} per {alpha_unit(self.study)}"
        return whole

    def at(self, layer: int) -> Iterator[dict[str, np.ndarray]]:
        """Every concept at one layer: slopes at every prompt, and projections of its held-out texts."""
        study, by_readout, names = self.study, Bench.by_readout(self.benches), [*self.halves]
        refits, dealt, redrawn = [], [], []
        for name, (fit, _) in self.halves.items():
            count = len(self.kept[name][0])
            again = fitted_on(study, fit, layer, [*chain(*self.kept[name])])
            refits.append(again[:count])
            redrawn.append(again[count:].vector)
            dealt.append(deals(study, name, fit, layer))
        found = [Directions.side_by_side(pair) for pair in zip(refits, dealt, strict=True)]
        kinds = ([getattr(one, kind) for one in found] for kind in ("vector", "length", "spread"))
        arm = self._arm(layer, self.concepts, *(padded(values)[None] for values in kinds))
        along = {}
        for bench in self.benches:
            slopes = bench.slopes(layer, arm)
            along |= zip(bench.readouts.names, slopes.unflatten(-1, (len(names), -1)).numpy(), strict=True)
        strength = arm.strength.unflatten(0, (len(names), -1))[:, 0].numpy()
        for k, (name, (_, test)) in enumerate(self.halves.items()):
            split, count, held_out = by_readout[name][0].split, len(refits[k].vector), test.states[layer].astype(float)
            null = along[name][:, k, count : len(found[k].vector)]
            scores, seed = dealt[k].vector @ held_out.T, seed_of(study, name, "dealt")
            yield {
                "slope": along[name][:, k, :count],
                "strength": strength[k],
                "interference_shuffled": null[split == "test"].mean(0),
                "steerability_shuffled_validation": null[split == "validation"].mean(0),
                "auroc_redrawn": redrawn[k] @ held_out.T,
                "auroc_shuffled": separability.deal_within_folds(scores, test.stimuli.fold, seed),
            }


def padded(values: Sequence[np.ndarray]) -> np.ndarray:
    """Beside one another, with NaN where one is smaller."""
    shape = np.max([value.shape for value in values], axis=0)
    whole = np.full((len(values), *shape), np.nan)
    for place, value in zip(whole, values, strict=True):
        place[tuple(map(slice, value.shape))] = value
    return whole


# --- few texts --------------------------------------------------------------------------------------------------------


def few(concept: Concept, pairs: int, seed: int) -> Concept:
    """At most so many pairs, half of them fitted on, and `PROMPTS`: evenly from all there are, each on its own side.

    Of as many templates as there are pairs: these are what means are taken over.
    """
    halves, kept, count = concept.halves(seed), [], pairs // 2
    for half in ("fit", "test"):
        of = evenly([template for template, side in zip(concept.templates, halves, strict=True) if side == half], count)
        for template in of:
            sides = {side: evenly(getattr(template, side), count // len(of)) for side in ("positive", "negative")}
            kept.append(template.model_copy(update={"split": half, **sides}))
    asked = "items" if concept.readout.items else "prompts"
    readout = concept.readout.model_copy(update={asked: evenly(getattr(concept.readout, asked), PROMPTS)})
    return concept.model_copy(update={"templates": kept, "readout": readout})


def evenly(values: Sequence[T], count: int) -> list[T]:
    """So many of them, or all, from the first to the last."""
    return [values[k] for k in np.unique(np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int))]


# --- over training ----------------------------------------------------------------------------------------------------


def told(measured: xr.Dataset, study: Study) -> dict[str, float]:
    """What is to be said of one step: each measure and what its null reaches, as `curves` have them."""
    found, level = {}, study.emergence.level
    asked = ("split", "slope", "interference_shuffled", "steerability_shuffled_validation")
    asked += ("auroc_redrawn", "auroc_shuffled")
    arrays = [measured[name].isel(step=0, missing_dims="ignore").transpose("concept", ...).values for name in asked]
    for name, split, slope, *own in zip(measured.concept.values, *arrays, strict=True):
        null, null_validation, folds, dealt = (each.astype(float) for each in own)
        of = {kind: np.nanmean(slope[:, split == kind, 0].astype(float), 1) for kind in ("validation", "test")}
        null_layer = best(null_validation, 0)
        null = np.take_along_axis(null, null_layer[None], 0)[0]
        found[name, "steerability"] = of["test"][best(of["validation"], 0)], null
        folds, dealt = folds[:, 0], np.moveaxis(dealt, 2, 1)
        folds, dealt = (each[:, np.isfinite(folds).all(0)] for each in (folds, dealt))
        dealt = emergence.at_layers_of_others(dealt[None], draws=True)[0]
        found[name, "separability"] = emergence.at_layers_of_others(folds[None, ..., None])[0].mean(), dealt.mean(0)
    values = {f"{name}/{measure}": float(value) for (name, measure), (value, _) in found.items()}
    nulls = {f"{name}/{measure}_null": float(np.quantile(null, level)) for (name, measure), (_, null) in found.items()}
    return dict(sorted((values | nulls).items()))


def beside(steps: Sequence[xr.Dataset]) -> xr.Dataset:
    """Measurements of several steps, in their order. Prompts are of the same split at each."""
    return xr.concat(steps, "step", coords="minimal", compat="override", combine_attrs="override")


def curves(measured: xr.Dataset, study: Study) -> xr.Dataset:
    """As notebook 4 has them (schema `/emergence`), of the `MEASURES` that there are, with onsets so far."""
    seen = {name: of_concept(measured, name, study) for name in measured.concept.values}
    whole, _ = emergence.curves(seen, measured.concept, measured.slope.attrs["units"], study, MEASURES)
    return whole.assign_attrs(measured.attrs)


def of_concept(measured: xr.Dataset, name: str, study: Study) -> dict[str, tuple[Measured, dict]]:
    """Measures of a concept (`emergence.measures`); expression has no value."""
    own = measured.sel(concept=name)
    silent = xr.DataArray(np.full((own.sizes["step"], 1), np.nan), dims=["step", "prompt"])
    probes = own.drop_dims("prompt").assign(expression=silent, expression_null=silent)
    return emergence.measures(probes, own, study)
