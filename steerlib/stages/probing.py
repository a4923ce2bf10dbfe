"""Notebook 1's computation: along which directions a checkpoint separates its concepts, and how well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal
from zlib import crc32

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from steerlib import SteerlibError
from steerlib.concepts import Concept, Stimuli
from steerlib.model import Model
from steerlib.model.prefix import Prefix
from steerlib.numerics import directions, separability
from steerlib.numerics.covariance import Moments
from steerlib.numerics.methods import Method
from steerlib.steering import Direction
from steerlib.steering.readouts import Readouts
from steerlib.study import Study

NULLS = ("random", "shuffled")  # methods that know nothing of the concept, pushed like the real ones
# The paper's ID score aligns direction and state; how is not known to us, so all three readings are kept: ⟨h, v⟩ with
# the direction as found, ⟨h, v̂⟩ with the unit direction, and their cosine.
ID_VARIANTS = ("raw", "projection", "cosine")

# (stimuli, states of all layers, final states) of one concept's split
Half = tuple[Stimuli, np.ndarray, object]


def seed_of(study: Study, *purpose: str | int) -> list[int]:
    """A seed of its own for every purpose, the same in every notebook and at every checkpoint."""
    return [study.seed, *(crc32(str(word).encode()) for word in purpose)]


def random_directions(study: Study, layer: int, hidden: int) -> directions.Directions:
    """The study's isotropic null draws at a layer."""
    return directions.random_directions(study.probes.random, hidden, seed_of(study, "random", layer))


def extract(model: Model, study: Study, concepts: Sequence[Concept]) -> xr.Dataset:
    """Directions with their nulls, separability, ID score, expression and residual norm: schema `/probes`.

    With `probes.states`, also the states themselves in that dtype, of every distinct stimulus.
    """
    methods, kept = study.load_methods(), study.probes.states
    half = read_stimuli(model, concepts, study.seed, kept or "float32")
    cells = [
        [
            probe(study, methods, k, concept.name, layer, half(concept.name, "fit"), half(concept.name, "test"))
            for layer in range(model.n_layers)
        ]
        for k, concept in enumerate(concepts)
    ]
    dims = {
        "direction": ["hidden"],
        "length": [],
        "spread": [],
        "null_direction": ["shuffle", "hidden"],
        "null_length": ["draw"],
        "null_spread": ["draw"],
        "auroc": ["fold"],
        "probe_accuracy": ["fold"],
        "auroc_null": ["draw"],
        "id_score": ["variant"],
        "id_score_null": ["variant", "draw"],
    }
    found = {
        name: (["concept", "layer", "method", *rest], _pad_last([[cell[name] for cell in row] for row in cells]))
        for name, rest in dims.items()
    }
    splits = [(half(concept.name, "fit")[0], half(concept.name, "test")[0]) for concept in concepts]
    words = [separability.auroc_of_words(fitted.texts, tested.texts, tested.fold) for fitted, tested in splits]
    expressed = [express(model, concept, *half(concept.name, "test")) for concept in concepts]
    prompts = list(dict.fromkeys(case.prompt for concept in concepts for case in concept.readout.cases))
    dataset = xr.Dataset(
        {
            **found,
            "auroc_words": (["concept", "fold"], _pad_last(words).astype(np.float32)),
            "expression": (["concept", "prompt"], _pad_last([with_evidence for with_evidence, _ in expressed])),
            "expression_null": (["concept", "prompt"], _pad_last([without for _, without in expressed])),
            "residual_norm": (["layer"], model.read(prompts).states.norm(dim=-1).mean(1).numpy()),
            "gram": (["layer", "stimulus", "stimulus_b"], grams(half, concepts, study.similarity.texts)),
        },
        {
            "method": [*(method.name for method in methods), *NULLS],
            "variant": list(ID_VARIANTS),
            "concept": [concept.name for concept in concepts],
            "role": ("concept", [concept.role for concept in concepts]),
            "planted_frequency": ("concept", [concept.planted_frequency or np.nan for concept in concepts]),
            "layer": np.arange(model.n_layers),
            "null": ("draw", ["random"] * study.probes.random + ["shuffled"] * study.probes.shuffled),
        },
    )
    if kept:
        dataset["state"] = ["layer", "text", "hidden"], half.states
        dataset["text"] = half.texts
    return dataset.transpose("method", "concept", "layer", ..., missing_dims="ignore")


def find(
    model: Model,
    concept: Concept,
    layer: int,
    method: str | dict | Method = "mean_difference",
    seed: int = 0,
    chunk: int | None = None,
) -> Direction:
    """One concept's direction at one layer, for use at hand: fitted on the fitting half of its templates.

    With ``chunk``, so many pairs are read at a time and only the moments of their states kept, which may then be more
    than memory holds. Raises ValueError for an unknown method, SteerlibError for one that needs all states at once.
    """
    stimuli = concept.stimuli("fit", seed)
    if chunk is None:
        states = model.read(stimuli.texts).states[layer].numpy()
        found = directions.fit(method, states, directions.true_labels(len(stimuli.positive)), seed, layer)
    else:
        moments = Moments.start(model.hidden, seed)
        for start in range(0, len(stimuli.positive), chunk):
            pairs = (side[start : start + chunk] for side in (stimuli.positive, stimuli.negative))
            moments = moments.update(*(model.read(texts).states[layer].numpy() for texts in pairs))
        found = directions.fit_moments(method, moments)
    prompts = [case.prompt for case in concept.readout.cases]
    return Direction(
        vector=found.vector[0].astype(np.float32),
        length=float(found.length[0]),
        spread=float(found.spread[0]),
        method=found.method,
        concept=concept.name,
        layer=layer,
        model=model.name,
        weights_sha256=model.weights_sha256,
        residual_norm=float(model.read(prompts).states[layer].norm(dim=-1).mean()),
    )


@dataclass(frozen=True)
class Read:
    """All stimuli of some concepts, each distinct text read once; called as (concept, split) -> its `Half`."""

    splits: dict[tuple[str, str], Stimuli]  # by concept and split
    texts: list[str]
    states: Float[np.ndarray, "l s d"]
    final: Float[Tensor, "s d"]

    def __call__(self, concept: str, split: str) -> Half:
        stimuli = self.splits[concept, split]
        rows = [self._row[text] for text in stimuli.texts]
        return stimuli, self.states[:, rows], self.final[rows]

    @cached_property
    def _row(self) -> dict[str, int]:
        return {text: i for i, text in enumerate(self.texts)}


def read_stimuli(
    model: Model, concepts: Sequence[Concept], seed: int, dtype: Literal["float32", "float16"] = "float32"
) -> Read:
    """One pass over the union of all stimuli. Raises SteerlibError when their states do not fit the dtype."""
    splits = {(c.name, split): c.stimuli(split, seed) for c in concepts for split in ("fit", "test")}
    texts = list(dict.fromkeys(text for stimuli in splits.values() for text in stimuli.texts))
    reading = model.read(texts, states=getattr(torch, dtype))
    if dtype == "float16" and reading.states.isinf().any():
        raise SteerlibError("states are infinite in float16, whose largest number is 65504; set probes.states: float32")
    return Read(splits, texts, reading.states.numpy(), reading.final)


def probe(
    study: Study, methods: Sequence[Method], index: int, concept: str, layer: int, fit: Half, test: Half
) -> dict[str, np.ndarray]:
    """All methods and their nulls at one site: fitted on one half of the templates, tested on the other."""
    plan, (fitted, fit_states, _), (tested, test_states, _) = study.probes, fit, test
    seen, held_out = fit_states[layer].astype(np.float64), test_states[layer].astype(np.float64)
    m = len(fitted.positive)
    shuffles = directions.shuffled_labels(m, plan.shuffled, seed_of(study, concept, "shuffled"))
    labels = np.concatenate([directions.true_labels(m), shuffles])
    fits = [directions.fit(method, seen, labels, study.seed, layer) for method in methods]
    found = np.stack([one.vector for one in fits])
    random = random_directions(study, layer, seen.shape[1])
    # The swept representatives of the nulls: one isotropic draw a concept, one shuffle of the first method.
    vectors = np.concatenate([found[:, 0], random[[index % len(random)]], found[:1, 1]])
    scores, on_fit = vectors @ held_out.T, vectors @ seen.T
    cut = (on_fit[:, :m].mean(-1) + on_fit[:, m:].mean(-1)) / 2
    sign = np.repeat([1.0, -1.0], len(tested.positive))
    nulls = np.concatenate([np.broadcast_to(random, (len(fits), *random.shape)), found[:, 1:]], 1)
    null_scores = nulls @ held_out.T
    # An isotropic draw has no length of its own: it is as long as the direction that it is the null of.
    length = np.stack([one.length for one in fits])
    null_length = np.concatenate([np.repeat(length[:, :1], len(random), 1), length[:, 1:]], 1)
    lengths = np.concatenate([length[:, 0], [length[0, 0], length[0, 1]]])
    norm = np.linalg.norm(held_out, axis=-1)

    # Separability's null has no concept in its test either: within each held-out template labels are dealt at random.
    # (Against the true labels even a random direction separates well, once the concept is what varies most.)
    dealt = separability.deal_within_folds(null_scores, tested.fold, seed_of(study, concept, "dealt"))

    unsupervised = np.array([not method.supervised for method in methods])

    def of_methods(values: np.ndarray, isotropic: int = len(random)) -> np.ndarray:
        """Null draws (the last axis but that of null directions) belong to real methods: the rows of the null methods
        stay empty, and so do shuffled draws of methods that find the same axis whatever the labels."""
        values = np.concatenate([values, np.full((len(NULLS), *values.shape[1:]), np.nan)]).astype(np.float32)
        rows = np.flatnonzero(unsupervised)
        if isotropic:
            values[rows, ..., isotropic:] = np.nan
        else:
            values[rows] = np.nan
        return values

    def id_scores(scores: np.ndarray, length: np.ndarray) -> np.ndarray:
        """Label-signed means in the order of `ID_VARIANTS`, next to the first axis."""
        signed, cosine = (scores * sign).mean(-1), (scores / norm * sign).mean(-1)
        return np.stack([signed * length, signed, cosine], 1).astype(np.float32)

    return {
        "direction": vectors.astype(np.float32),
        "length": lengths.astype(np.float32),
        "spread": directions.spread(vectors, seen, m).astype(np.float32),
        "null_direction": of_methods(found[:, 1:], isotropic=0).astype(np.float16),
        "null_length": of_methods(null_length),
        "null_spread": of_methods(directions.spread(nulls, seen, m)),
        "auroc": separability.auroc_by_fold(scores, tested.fold).astype(np.float32),
        "probe_accuracy": separability.accuracy_by_fold(scores, cut, tested.fold).astype(np.float32),
        "auroc_null": of_methods(separability.auroc_by_fold(dealt, tested.fold).mean(-1)),
        "id_score": id_scores(scores, lengths),
        "id_score_null": of_methods(id_scores(null_scores, null_length)),
    }


def express(model: Model, concept: Concept, tested: Stimuli, _, final) -> tuple[np.ndarray, np.ndarray]:
    """The model's own ability, unsteered: is a target the top option where there is evidence for it, and where none?

    With targets of the concept's own: after its positive and its negative stimuli. With items: after each question, and
    after the next one (its options without what they answer).
    """
    readouts = Readouts.of(model, [concept])
    if concept.readout.items:
        asked = [item.prompt for item in concept.readout.items]
        texts, readouts = asked + asked[1:] + asked[:1], readouts.repeated(2)
    else:
        texts, readouts = tested.texts, readouts.of_first().repeated(len(tested.texts))
    if concept.readout.items or not readouts.single:
        final = Prefix(model, texts, readouts.branches).final
    else:
        final = final[:, None]  # read already, with the stimuli's states
    top = readouts.success(final[:, None])[:, 0, 0].cpu().numpy().astype(np.float32)
    return top[: len(top) // 2], top[len(top) // 2 :]


def grams(half: Callable[[str, str], Half], concepts: Sequence[Concept], texts: int) -> np.ndarray:
    """Centred Gram matrices (layer, n, n) of stimuli spread evenly over the concepts: all that linear CKA needs."""
    states = np.concatenate([half(concept.name, "test")[1] for concept in concepts], 1).astype(np.float64)
    chosen = states[:, np.linspace(0, states.shape[1] - 1, min(texts, states.shape[1])).astype(int)]
    centred = chosen - chosen.mean(1, keepdims=True)
    return (centred @ centred.transpose(0, 2, 1)).astype(np.float32)


def _pad_last(values: list) -> np.ndarray:
    """Nested lists of arrays as one array; where the last dimension differs in length, padded with NaN."""
    flat = [array for row in values for array in (row if isinstance(row, list) else [row])]
    longest = max(array.shape[-1] for array in flat if array.ndim) if flat[0].ndim else 0

    def pad(array: np.ndarray) -> np.ndarray:
        short = longest - array.shape[-1]
        return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, short)], constant_values=np.nan) if short else array

    return np.array([[pad(a) for a in row] if isinstance(row, list) else pad(row) for row in values])
