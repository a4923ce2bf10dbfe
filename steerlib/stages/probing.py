"""Notebook 1's computation: along which directions a checkpoint separates its concepts, and how well."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Literal, NamedTuple
from zlib import crc32

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from steerlib import SteerlibError
from steerlib.concepts import Concept, Stimuli
from steerlib.model import Model
from steerlib.numerics import directions, separability, statistics
from steerlib.numerics.directions import Directions
from steerlib.numerics.labels import positives, shuffled_labels, true_labels
from steerlib.numerics.methods import Method
from steerlib.stages import fitness, written
from steerlib.stages.classifiers import of_readouts
from steerlib.steering import Direction
from steerlib.steering.asking import check_distinct, texts_of
from steerlib.study import Study

NULLS = ("random", "shuffled")  # methods that know nothing of the concept, pushed like the real ones
# The paper's ID score aligns direction and state; how is not known to us, so all three readings are kept: ⟨h, v⟩ with
# the direction as found, ⟨h, v̂⟩ with the unit direction, and their cosine.
ID_VARIANTS = ("raw", "projection", "cosine")
DISTINCT = 20  # shuffled labellings, without which there is no null of them
REDRAWN = 50  # bootstrap resamples of the fitting texts; more tell little more of how far a direction wanders
FITTED = 100  # labellings or resamples are fitted at a time, as a method may hold all their pairs' states


def seed_of(study: Study, *purpose: str | int) -> tuple[int, ...]:
    """A seed of its own for every purpose, the same in every notebook and at every checkpoint."""
    return study.seed, *(crc32(str(word).encode()) for word in purpose)


def random_directions(study: Study, layer: int, hidden: int) -> Float[np.ndarray, "r d"]:
    """The study's isotropic null draws at a layer."""
    return directions.random_directions(study.probes.random, hidden, seed_of(study, "random", layer))


def residual_norm(model: Model, concepts: Sequence[Concept]) -> Float[np.ndarray, " l"]:
    """Mean norm of every layer's states at the end of all readout prompts."""
    prompts = dict.fromkeys(case.prompt for concept in concepts for case in concept.readout.cases)
    return model.read(list(prompts)).states.norm(dim=-1).mean(1).numpy()


# --- stimuli, read once -------------------------------------------------------------------------------------------


class Half(NamedTuple):
    """One concept's stimuli of one split."""

    stimuli: Stimuli
    states: Float[np.ndarray, "l s d"]
    final: Float[Tensor, "s d"] | None

    def sides(self, layer: int) -> tuple[Float[np.ndarray, "m d"], Float[np.ndarray, "m d"]]:
        """States of the positives and of the negatives."""
        return tuple(np.split(self.states[layer], [len(self.stimuli.positive)]))


class ReadStimuli:
    """Stimuli of some concepts, each distinct text read once; called as (concept, split) -> its `Half`.

    Raises SteerlibError when their states do not fit the dtype, and when texts of a concept are the same to the model.
    """

    texts: list[str]
    states: Float[np.ndarray, "l s d"]

    def __init__(
        self,
        model: Model,
        concepts: Sequence[Concept],
        seed: int,
        dtype: Literal["float32", "float16"] = "float32",
        splits: Sequence[Literal["fit", "test"]] = ("fit", "test"),
        probes: xr.Dataset | None = None,
    ):
        """Read by the model; or as ``probes`` kept them (`probes.states`), at their layers and without final states."""
        self._splits = {(c.name, split): c.stimuli(split, seed) for c in concepts for split in splits}
        if probes is not None and "state" in probes:
            self.texts, layers, self._final = probes.text.values.tolist(), probes.layer.values, None
            self.states = np.full((layers[-1] + 1, *probes.state.shape[1:]), np.nan, probes.state.dtype)
            self.states[layers] = probes.state
            return
        self.texts = list(dict.fromkeys(text for stimuli in self._splits.values() for text in stimuli.texts))
        for concept in concepts:
            check_distinct(model.encoder, texts_of(concept), concept.name)
        reading = model.read(self.texts, getattr(torch, dtype), together=True)
        if dtype == "float16" and reading.states.isinf().any():
            raise SteerlibError(
                "states are infinite in float16, whose largest number is 65504; set probes.states: float32"
            )
        self.states, self._final = reading.states.numpy(), reading.final

    def __call__(self, concept: str, split: str) -> Half:
        stimuli, row = self._splits[concept, split], {text: i for i, text in enumerate(self.texts)}
        rows = [row[text] for text in stimuli.texts]
        return Half(stimuli, self.states[:, rows], None if self._final is None else self._final[rows])


# --- probes -------------------------------------------------------------------------------------------------------


def extract(model: Model, study: Study, concepts: Sequence[Concept]) -> xr.Dataset:
    """Directions with their nulls, separability, ID score, expression and residual norm: schema `/probes`.

    With `probes.states`, also the states themselves in that dtype, of every distinct stimulus.
    """
    methods, plan, parts = study.probes.load_methods(), study.probes, []
    layers, judges = study.layers_of(model.n_layers), of_readouts(study, concepts)
    read = ReadStimuli(model, concepts, study.seed, plan.states or "float32")
    shared = written.by_prompts(model, concepts, judges, study.seed)
    asking = {concept.name: (readouts.only(concept.name), concept) for group, readouts in shared for concept in group}
    for index, concept in enumerate(concepts):
        fit, test = read(concept.name, "fit"), read(concept.name, "test")
        sites = [probe(study, methods, index, concept.name, k, fit, test) for k in layers]
        by_layer = {n: (["layer", *dims], np.stack([s[n][1] for s in sites])) for n, (dims, _) in sites[0].items()}
        words = separability.auroc_of_words(fit.stimuli.texts, test.stimuli.texts, test.stimuli.fold)
        sides = fit.stimuli, test.stimuli, test.final
        asked = fitness.measured(*asking[concept.name], *sides, study.seed, judges.get(concept.name))
        of_readout = {name: (["prompt"][: np.ndim(value)], value) for name, value in asked.items()}
        numbers = {"fold": np.unique(test.stimuli.fold), "prompt": np.arange(len(asked["expression"]))}
        part = xr.Dataset({**by_layer, "auroc_words": ("fold", words), **of_readout}, numbers)
        parts.append(part.astype(np.float32))
    # Concepts may have templates and prompts in different number: those that one lacks are NaN.
    dataset = xr.concat(parts, "concept", join="outer").drop_vars(["fold", "prompt"])
    dataset["probe"] = [*plan.names, *NULLS]
    dataset["null_of"] = plan.names
    dataset.coords["null"] = "draw", ["random"] * plan.random + ["shuffled"] * plan.shuffled
    # A method that finds the same axis whatever the labels has no draws on shuffled ones, and nulls have no nulls.
    supervised = xr.DataArray([method.supervised for method in methods], dims="null_of")
    for name in ("null_direction", "null_length", "null_spread", "id_score_null"):
        kept = supervised if name == "null_direction" else supervised | (dataset["null"] == "random")
        of_methods = dataset[name].where(kept).rename(null_of="probe")
        dataset[name] = of_methods.reindex(probe=dataset["probe"])
    # The analysed method has more draws on shuffled labels than its vectors are kept of; others have these.
    analysed, size = dataset["probe"] == study.emergence.method, abs(dataset.id_score)
    for kind in NULLS[::-1]:
        null = abs(dataset.id_score_null).where(dataset["null"] == kind)
        p = statistics.against(size, null)
        dataset["p_id"] = dataset.p_id.where(analysed).fillna(p) if kind == "shuffled" else dataset.p_id.fillna(p)
    dataset["direction_redrawn"] = dataset.direction_redrawn.astype(np.float16)
    dataset.direction_redrawn.attrs["method"] = study.emergence.method
    dataset["fitted_units"] = dataset.fitted_units.isel(layer=0, drop=True)
    dataset["null_direction"] = dataset.null_direction.astype(np.float16)
    dataset["residual_norm"] = "layer", residual_norm(model, concepts)[layers]
    dataset["gram"] = ["layer", "stimulus", "stimulus_b"], grams(read, concepts, layers, study.similarity.texts)
    dataset = dataset.drop_vars("null_of").assign_coords(
        variant=list(ID_VARIANTS),
        concept=[concept.name for concept in concepts],
        role=("concept", [concept.role for concept in concepts]),
        planted_frequency=("concept", [concept.planted_frequency or np.nan for concept in concepts]),
        layer=layers,
    )
    if plan.states:
        dataset["state"] = ["layer", "text", "hidden"], read.states[layers]
        dataset["text"] = read.texts
    return dataset.transpose("probe", "concept", "layer", "fold", ..., missing_dims="ignore")


def probe(
    study: Study, methods: Sequence[Method], index: int, concept: str, layer: int, fit: Half, test: Half
) -> dict[str, tuple[list[str], np.ndarray]]:
    """All methods and their nulls at one site: fitted on one half of the templates, tested on the other."""
    fold, pairs = test.stimuli.fold, len(fit.stimuli.positive)
    fitted, held_out = fit.states[layer].astype(np.float64), test.states[layer].astype(np.float64)
    shuffles = shuffled_labels(pairs, study.probes.shuffled, seed_of(study, concept, "shuffled"))
    labels = np.concatenate([true_labels(pairs), shuffles])
    fits = [directions.fit(method, fitted, labels, study.seed, layer) for method in methods]
    by_labelling = np.stack([result.vector for result in fits])
    random = random_directions(study, layer, fitted.shape[1])
    # The swept representatives of the nulls: one isotropic draw a concept, one shuffle of the first method.
    vectors = np.concatenate([by_labelling[:, 0], random[[index % len(random)]], by_labelling[:1, 1]])
    scores, on_fit = vectors @ held_out.T, vectors @ fitted.T
    cut = (on_fit[:, :pairs].mean(-1) + on_fit[:, pairs:].mean(-1)) / 2
    nulls = np.concatenate([np.broadcast_to(random, (len(fits), *random.shape)), by_labelling[:, 1:]], 1)
    null_scores = nulls @ held_out.T
    # An isotropic draw has no length of its own: it is as long as the direction that it is the null of.
    length = np.stack([result.length for result in fits])
    null_length = np.concatenate([np.repeat(length[:, :1], len(random), 1), length[:, 1:]], 1)
    lengths = np.concatenate([length[:, 0], [length[0, 0], length[0, 1]]])
    # Separability's null has no concept in its test either: within each held-out template labels are dealt at random.
    # (Against the true labels even a random direction separates well, once the concept is what varies most.)
    drawn = fit.stimuli.redraws(REDRAWN, seed_of(study, concept, "redrawn"))
    again, null_of_labels = fitted_on(study, fit, layer, drawn), deals(study, concept, fit, layer)
    redrawn, unlabelled = again.vector @ held_out.T, null_of_labels.vector @ held_out.T
    dealt = separability.deal_within_folds(unlabelled, fold, seed_of(study, concept, "dealt"))

    def id_scores(scores: np.ndarray, length: np.ndarray) -> np.ndarray:
        """Label-signed means in the order of `ID_VARIANTS`, next to the first axis."""
        sign, norm = np.repeat([1.0, -1.0], len(fold)), np.linalg.norm(held_out, axis=-1)
        signed, cosine = (scores * sign).mean(-1), (scores / norm * sign).mean(-1)
        return np.stack([signed * length, signed, cosine], 1)

    scored_again = id_scores(redrawn, again.length)  # the first of them is of all texts
    by_chance = abs(id_scores(unlabelled, null_of_labels.length)).T
    return {
        "direction": (["probe", "hidden"], vectors),
        "direction_redrawn": (["redraw", "hidden"], again.vector),
        "length": (["probe"], lengths),
        "spread": (["probe"], directions.spread(vectors, fitted, pairs)),
        "auroc": (["probe", "fold"], separability.auroc_by_fold(scores, fold)),
        "auroc_redrawn": (["redraw", "fold"], separability.auroc_by_fold(redrawn, fold)),
        "auroc_shuffled": (["deal", "fold"], separability.auroc_by_fold(dealt, fold)),
        "probe_accuracy": (["probe", "fold"], separability.accuracy_by_fold(scores, cut, fold)),
        "id_score": (["probe", "variant"], id_scores(scores, lengths)),
        "id_score_redrawn": (["redraw", "variant"], scored_again),
        "p_id": (["variant"], statistics.exceedance(abs(scored_again[0]), by_chance)),
        "fitted_units": ([], np.array(len(np.unique(fit.stimuli.units)))),
        "null_direction": (["null_of", "shuffle", "hidden"], by_labelling[:, 1:]),
        "null_length": (["null_of", "draw"], null_length),
        "null_spread": (["null_of", "draw"], directions.spread(nulls, fitted, pairs)),
        "id_score_null": (["null_of", "variant", "draw"], id_scores(null_scores, null_length)),
    }


def fitted_on(study: Study, fit: Half, layer: int, chosen: Sequence[Int[np.ndarray, " kept"]]) -> Directions:
    """What the analysis' method finds on some of the fitting pairs, again and again: a draw each."""
    method, states, pairs = _analysed(study), fit.states[layer], len(fit.stimuli.positive)
    order, ordered = zip(*sorted(enumerate(chosen), key=lambda each: len(each[1])), strict=True)
    if method.of_pairs:  # draws of as many pairs are found at once, as those of one labelling are
        fits = ((states, true_labels(pairs)[0, np.stack([*alike])]) for _, alike in groupby(ordered, len))
    else:
        fits = ((states[[*kept, *kept + pairs]], true_labels(len(kept))) for kept in ordered)
    found = Directions.side_by_side([directions.fit(method, *each, study.seed, layer) for each in fits])
    return found[np.argsort(order)]


def deals(study: Study, concept: str, fit: Half, layer: int) -> Directions:
    """What the analysis' method finds on shuffled labels: a draw a deal; their spread is that within true classes.

    NaN where these tell nothing: of fewer than `DISTINCT` labellings there is no 95th percentile, and to a method that
    takes only its sign from the labels all are the same.
    """
    method, states, pairs = _analysed(study), fit.states[layer].astype(np.float64), len(fit.stimuli.positive)
    labels = shuffled_labels(pairs, study.emergence.shuffled, seed_of(study, concept, "shuffled"))
    different = {positive.tobytes() for positive in positives(labels, len(states)).T}
    if not method.supervised or len(different) < DISTINCT:
        absent = np.full((len(labels), states.shape[1]), np.nan)
        return Directions(method.name, absent, *[absent[:, 0]] * 3)
    parts = np.split(labels, range(FITTED, len(labels), FITTED))
    found = Directions.side_by_side([directions.fit(method, states, part, study.seed, layer) for part in parts])
    return replace(found, spread=directions.spread(found.vector, states, pairs))


def _analysed(study: Study) -> Method:
    """The method that the emergence analysis goes by."""
    return study.probes.load_method(study.emergence.method)


def grams(
    read: ReadStimuli, concepts: Sequence[Concept], layers: Sequence[int], texts: int
) -> Float[np.ndarray, "l n n"]:
    """Centred Gram matrices of stimuli spread evenly over the concepts: all that linear CKA needs."""
    states = np.concatenate([read(concept.name, "test").states[layers] for concept in concepts], 1).astype(np.float64)
    chosen = states[:, np.linspace(0, states.shape[1] - 1, min(texts, states.shape[1])).astype(int)]
    centred = chosen - chosen.mean(1, keepdims=True)
    return (centred @ centred.transpose(0, 2, 1)).astype(np.float32)


# --- one direction ------------------------------------------------------------------------------------------------


def find(
    model: Model,
    concept: Concept,
    layer: int,
    method: str | dict | Method = "mean_difference",
    seed: int = 0,
    norm: float | None = None,
) -> Direction:
    """One concept's direction at one layer, for use at hand: fitted on the fitting half of its templates.

    ``norm`` is what a residual norm is at that layer (`residual_norm`); that of the concept's own prompts when absent.
    Raises ValueError for an unknown method, SteerlibError for a layer that the model does not have.
    """
    model.check_layer(layer)
    stimuli = concept.stimuli("fit", seed)
    states = model.read(stimuli.texts).states[layer].numpy()
    fitted = directions.fit(method, states, true_labels(len(stimuli.positive)), seed, layer)
    return Direction(
        vector=fitted.vector[0].astype(np.float32),
        length=float(fitted.length[0]),
        spread=float(fitted.spread[0]),
        method=fitted.method,
        concept=concept.name,
        layer=layer,
        model=model.name,
        weights_sha256=model.weights_sha256,
        tokenizer_sha256=model.encoder.sha256,
        residual_norm=float(residual_norm(model, [concept])[layer] if norm is None else norm),
    )
