"""A frozen push tried on other texts and prompts: by the sweep and the criteria of the study itself, nothing chosen.

Directions, layers, alphas and strengths are as they were frozen; so all prompts are for testing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float

from steerlib.concepts import Concept, Item
from steerlib.model import Model
from steerlib.numerics import separability, statistics
from steerlib.numerics.statistics import FEW
from steerlib.pilot.choices import Frozen
from steerlib.stages import fitness, interventions, judges, readiness, tasks, verdicts, written
from steerlib.stages.bench import Bench
from steerlib.stages.classifiers import of_readouts
from steerlib.stages.criteria import CRITERIA, ENDS, Criterion
from steerlib.stages.probing import NULLS, ReadStimuli, deals, random_directions, seed_of
from steerlib.stages.pushes import Pushes
from steerlib.steering import Arm, Direction, Push, SideEffects, steer, write
from steerlib.steering.asking import matched
from steerlib.steering.operators import ALONG
from steerlib.study import Study

SEPARABLE = Criterion(
    "validate",
    "it tells texts with the concept from those without (AUROC {value} [{lower}, {upper}])",
    "it hardly tells texts with the concept from those without (AUROC {value} [{lower}, {upper}]; {threshold} is due)",
    f"there are fewer than {FEW} templates of texts: add texts",
    "more templates of texts would tell",
)
# Nothing lasts at one checkpoint; that, exploring has seen.
NUMBERS = [*ENDS, "threshold"]
ASKED = {"separable": SEPARABLE} | {name: one for name, one in CRITERIA.items() if name != "lasting"}


@dataclass(frozen=True, eq=False)
class Chosen:
    """One concept's push, as it was frozen."""

    frozen: Frozen
    direction: Direction

    def push(self, positions: str, operator: str, vector: Float[np.ndarray, " d"] | None = None) -> Push:
        """Along its direction, or another as strong."""
        along = ALONG[operator](torch.from_numpy(self.direction.vector if vector is None else vector))
        return Push(self.direction.layer, along, self.frozen.alpha * self.frozen.strength, positions)

    def arm(self, operator: str) -> tuple[int, Arm]:
        """The same for many texts at once, at alpha 1."""
        along = ALONG[operator](torch.from_numpy(self.direction.vector)[None])
        return self.direction.layer, Arm(along, torch.tensor([self.frozen.alpha * self.frozen.strength]))


@dataclass(frozen=True, eq=False)
class Tried:
    """What came out: of every concept its criteria, and where its texts lie along its direction."""

    cells: xr.Dataset  # criterion × concept: value, lower, upper, threshold, outcome
    along: dict[str, tuple[np.ndarray, np.ndarray]]  # projections of texts with the concept, and without


def tried(
    model: Model,
    study: Study,
    chosen: Mapping[str, Chosen],
    concepts: Sequence[Concept],
    others: Sequence[Concept] = (),
    passages: Sequence[str] | None = None,
) -> Tried:
    """Push along the directions of ``concepts``; ``others`` are read as well, to see whether they move.

    Without ``passages``, side effects are measured on those that the study has for testing.
    """
    study, every = _plan(study, chosen), [*concepts, *others]
    read = ReadStimuli(model, concepts, study.seed, study.probes.states or "float32")
    benches = [replace(one, split=np.full_like(one.split, "test")) for one in Bench.of(model, every, study)]
    passages = study.load_neutral() if passages is None else passages
    effects = SideEffects(model, passages, study.seed, study.sweep.positions == "all")
    parts = []
    for one in concepts:
        pushes = Pushes(model, study, every, _probes(study, chosen[one.name], one, read))
        pushes.effects = effects
        pushed = interventions.pushed(benches, pushes, interventions.local(benches, pushes))[[*readiness.READ]]
        parts.append(pushed.assign_coords(layer=[0]))  # each has its own
    names = [one.name for one in concepts]
    alpha = xr.DataArray(
        [[chosen[name].frozen.alpha for name in names]], {"probe": [study.emergence.method], "concept": names}
    )
    asked = _readouts(model, study, concepts, benches, read, chosen)
    texts = _texts(model, study, chosen, concepts, every)
    at, layer = xr.concat(parts, "concept"), xr.zeros_like(alpha, int)
    rule = _rule(at.isel(layer=0, drop=True), asked, layer, study)
    cells = readiness.numbers(at, asked, rule, layer, alpha, study, study.readiness, texts)
    along = {one.name: _along(chosen[one.name].direction, read, one.name) for one in concepts}
    separable = xr.concat([_separable(study, *along[name]) for name in names], cells.concept)
    cells = cells[NUMBERS].isel(probe=0, drop=True)
    cells = xr.concat([separable.expand_dims(criterion=["separable"]), cells], "criterion").sel(criterion=[*ASKED])
    told = [one.outcome(*(cells[end].sel(criterion=name).values for end in NUMBERS)) for name, one in ASKED.items()]
    cells["outcome"] = ("criterion", "concept"), np.stack(told).astype(object)
    return Tried(cells, {name: tuple(np.split(scores, 2)) for name, (scores, _) in along.items()})


def _plan(study: Study, chosen: Mapping[str, Chosen]) -> Study:
    """The study of nothing but what was chosen: its method, and alphas of the window and those that were frozen."""
    plan = study.sweep
    alphas = {alpha for alpha in plan.alphas if abs(alpha) <= plan.window}
    alphas = sorted(alphas | {one.frozen.alpha for one in chosen.values()})
    # What alpha counts is settled: every push, and every null, is as strong as the one that was frozen (`_probes`).
    sweep = plan.model_copy(update={"alphas": alphas, "scale": "raw"})
    methods = [one for one in study.probes.methods if study.emergence.method in (one, *one)]
    probes = study.probes.model_copy(update={"methods": methods})
    return study.model_copy(update={"sweep": sweep, "probes": probes})


def _probes(study: Study, chosen: Chosen, concept: Concept, read: ReadStimuli) -> xr.Dataset:
    """The frozen direction and its nulls: isotropic ones, and what its method finds on shuffled labels of new texts."""
    vector, layer = chosen.direction.vector, chosen.direction.layer
    random = random_directions(study, layer, len(vector))
    shuffled = deals(study, concept.name, read(concept.name, "fit"), layer).vector
    kinds = ["random"] * len(random) + ["shuffled"] * len(shuffled)
    each, strong = ["layer", "probe", "concept"], np.full((1, 3, 1), chosen.frozen.strength)
    drawn = np.repeat(strong[..., None], len(kinds), -1)
    cells = {
        "direction": ([*each, "hidden"], np.stack([vector, random[0], shuffled[0]])[None, :, None]),
        "length": (each, strong),
        "spread": (each, strong * np.nan),
        "null_direction": ([*each, "shuffle", "hidden"], np.broadcast_to(shuffled, (1, 3, 1, *shuffled.shape))),
        "null_length": ([*each, "draw"], drawn),
        "null_spread": ([*each, "draw"], drawn * np.nan),
        "residual_norm": ("layer", [chosen.direction.residual_norm]),
    }
    named = {"layer": [layer], "probe": [study.emergence.method, *NULLS], "concept": [concept.name]}
    return xr.Dataset(cells, named).astype(np.float32).assign_coords(null=("draw", kinds))


def _readouts(
    model: Model,
    study: Study,
    concepts: Sequence[Concept],
    benches: Sequence[Bench],
    read: ReadStimuli,
    chosen: Mapping[str, Chosen],
) -> xr.Dataset:
    """What of `/probes` the criteria ask: whether the readouts fit, and in what their log-odds are counted."""
    found = {}
    for one in benches:
        for name, tokens in zip(one.readouts.names, one.readouts.tokens, strict=True):
            found[name] = {"readout_tokens": tokens, "role": ""}
    trained = of_readouts(study, concepts)
    for one in concepts:
        alike, _ = matched(model.encoder, one)
        fit, test = (read(one.name, half) for half in ("fit", "test"))
        readouts = written.readouts(model, [alike], trained, study.seed)
        judge = trained.get(one.name)
        numbers = fitness.measured(readouts, alike, fit.stimuli, test.stimuli, test.final, study.seed, judge)
        found[one.name] |= {name: float(numbers[name]) for name in verdicts.NUMBERS} | {"role": one.role}
        found[one.name] |= {"residual_norm": chosen[one.name].direction.residual_norm}
    table = pd.DataFrame.from_dict(found, orient="index").rename_axis("concept").to_xarray()
    return table.set_coords("role").assign(residual_norm=table.residual_norm.expand_dims(layer=[0]))


def _rule(here: xr.Dataset, asked: xr.Dataset, layer: xr.DataArray, study: Study) -> xr.Dataset:
    """As the analysis has it, of directions that are not fitted again: what they do, and what their nulls do."""
    plan, mine = study.emergence, here.sel(probe=study.emergence.method, drop=True)
    null = mine.steerability_null.isel(draw=(here["null"] == "shuffled").values).transpose("concept", "draw")
    bar = null.quantile(plan.level, "draw", method="inverted_cdf", skipna=False).drop_vars("quantile")
    least = readiness.least(mine, asked.sel(concept=mine.concept), layer.isel(probe=0, drop=True), study)
    p_value = mine.steerability.copy(data=statistics.beyond(mine.steerability.values, null.values))
    ends = {"lower": mine.steerability_lower, "upper": mine.steerability_upper}
    return xr.Dataset({"value": mine.steerability, **ends, "bar": np.maximum(bar, least), "p_value": p_value})


def _texts(
    model: Model, study: Study, chosen: Mapping[str, Chosen], concepts: Sequence[Concept], every: Sequence[Concept]
) -> xr.Dataset:
    """What judges say of what is written after all prompts: unsteered, and under the push or a random one as strong.

    And what the push costs in right answers about the other concepts.
    """
    plan, judging = study.generation, judges.chosen(study, every)
    positions = "all" if study.sweep.positions == "all" else "generated"
    shape = 2, len(concepts), max(len(one.readout.cases) for one in concepts), len(judging)
    judged, unsteered = np.full(shape, np.nan), np.full(shape, np.nan)
    for c, concept in enumerate(concepts):
        cases, one = concept.readout.cases, chosen[concept.name]
        random = random_directions(study, one.direction.layer, model.hidden)[0].astype(np.float32)

        def said(values: np.ndarray, concept: Concept = concept, cases: Sequence[Item] = cases) -> None:
            texts = write(model, [case.prompt for case in cases], plan.tokens)
            values[: len(cases)] = np.stack([judge(concept, cases, texts) for judge in judging.values()], -1)

        said(unsteered[0, c])
        for m, vector in enumerate((one.direction.vector, random)):
            with steer(model, one.push(positions, study.sweep.operator, vector)):
                said(judged[m, c])
    unsteered[1] = unsteered[0]
    named = {
        "probe": [study.emergence.method, "random"],
        "concept": [one.name for one in concepts],
        "judge": [*judging],
    }
    dims = ["probe", "concept", "prompt", "judge"]
    pushed = {one.name: chosen[one.name].arm(study.sweep.operator) for one in concepts}
    found = xr.Dataset(
        {
            "judged": (["alpha", *dims], unsteered[None]),
            "judged_recommended": (dims, judged),
            "alpha_recommended": ("concept", [chosen[one.name].frozen.alpha for one in concepts]),
            "generation_layer": ("concept", [0] * len(concepts)),
        },
        {**named, "alpha": [0.0]},
    )
    return found.merge(tasks.answers(model, study, every, pushed, plan.prompts))


def _along(direction: Direction, read: ReadStimuli, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Projections of all texts with the concept, then of all without; and which template each pair is of."""
    halves = [read(name, "fit"), read(name, "test")]
    sides = zip(*(half.sides(direction.layer) for half in halves), strict=True)
    fold = [half.stimuli.fold for half in halves]
    fold = np.concatenate([fold[0], fold[1] + fold[0].max() + 1])
    return np.concatenate([states @ direction.vector for side in sides for states in side]), fold


def _separable(study: Study, scores: np.ndarray, fold: np.ndarray) -> xr.Dataset:
    """AUROC within templates, with its interval over these."""
    plan, auroc = study.emergence, xr.DataArray(separability.auroc_by_fold(scores, fold), dims="fold")
    seed, some = seed_of(study, "separable"), auroc.sizes["fold"] >= FEW
    ends = statistics.mean_interval(auroc, "fold", plan.bootstrap, seed, plan.level)
    lower, upper = (end.clip(0, 1).where(some) for end in ends)
    asked = 0.5 + plan.least.separability
    return xr.Dataset({"value": auroc.mean(), "lower": lower, "upper": upper, "threshold": asked})
