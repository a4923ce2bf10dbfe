"""Notebook 1's computation: along which directions a checkpoint separates its concepts, and how well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from zlib import crc32

import numpy as np
import xarray as xr

from steerlib import directions
from steerlib.concepts import Concept, Stimuli
from steerlib.model import Model
from steerlib.readouts import Readouts
from steerlib.study import Study

NULLS = ("random", "shuffled")  # methods that know nothing of the concept, pushed like the real ones

# (stimuli, states of all layers, final states) of one concept's split
Half = tuple[Stimuli, np.ndarray, object]


def seed_of(study: Study, *purpose: str | int) -> list[int]:
    """A seed of its own for every purpose, the same in every notebook and at every checkpoint."""
    return [study.seed, *(crc32(str(word).encode()) for word in purpose)]


def random_directions(study: Study, layer: int, hidden: int) -> directions.Directions:
    """The study's isotropic null draws at a layer."""
    return directions.random_directions(study.probes.random, hidden, seed_of(study, "random", layer))


def extract(model: Model, study: Study, concepts: Sequence[Concept]) -> xr.Dataset:
    """Directions with their nulls, separability, ID score, expression and residual norm: schema `/probes`."""
    methods = [*study.probes.methods, *NULLS]
    half = read_stimuli(model, concepts, study.seed)
    cells = [
        [
            probe(study, k, concept.name, layer, half(concept.name, "fit"), half(concept.name, "test"))
            for layer in range(model.n_layers)
        ]
        for k, concept in enumerate(concepts)
    ]
    dims = {
        "direction": ["hidden"],
        "null_direction": ["shuffle", "hidden"],
        "auroc": ["fold"],
        "probe_accuracy": ["fold"],
        "auroc_null": ["draw"],
        "id_score": [],
        "id_score_null": ["draw"],
    }
    found = {
        name: (["concept", "layer", "method", *rest], _pad_last([[cell[name] for cell in row] for row in cells]))
        for name, rest in dims.items()
    }
    expressed = [express(model, concept, *half(concept.name, "test")) for concept in concepts]
    prompts = list(dict.fromkeys(prompt for concept in concepts for prompt in concept.readout.prompts))
    dataset = xr.Dataset(
        {
            **found,
            "expression": (["concept", "prompt"], _pad_last([with_evidence for with_evidence, _ in expressed])),
            "expression_null": (["concept", "prompt"], _pad_last([without for _, without in expressed])),
            "residual_norm": (["layer"], model.read(prompts).states.norm(dim=-1).mean(1).numpy()),
            "gram": (["layer", "stimulus", "stimulus_b"], grams(half, concepts, study.similarity.texts)),
        },
        {
            "method": methods,
            "concept": [concept.name for concept in concepts],
            "role": ("concept", [concept.role for concept in concepts]),
            "planted_frequency": ("concept", [concept.planted_frequency or np.nan for concept in concepts]),
            "layer": np.arange(model.n_layers),
            "null": ("draw", ["random"] * study.probes.random + ["shuffled"] * study.probes.shuffled),
        },
    )
    return dataset.transpose("method", "concept", "layer", ..., missing_dims="ignore")


def read_stimuli(model: Model, concepts: Sequence[Concept], seed: int) -> Callable[[str, str], Half]:
    """One pass over the union of all stimuli; returns a function (concept, split) -> its stimuli and states."""
    splits = {(c.name, split): c.stimuli(split, seed) for c in concepts for split in ("fit", "test")}
    texts = list(dict.fromkeys(text for stimuli in splits.values() for text in stimuli.texts))
    row = {text: i for i, text in enumerate(texts)}
    reading = model.read(texts)
    states = reading.states.numpy()

    def half(concept: str, split: str) -> Half:
        stimuli = splits[concept, split]
        rows = [row[text] for text in stimuli.texts]
        return stimuli, states[:, rows], reading.final[rows]

    return half


def probe(study: Study, index: int, concept: str, layer: int, fit: Half, test: Half) -> dict[str, np.ndarray]:
    """All methods and their nulls at one site: fitted on one half of the templates, tested on the other."""
    plan, (fitted, fit_states, _), (tested, test_states, _) = study.probes, fit, test
    seen, held_out = fit_states[layer].astype(np.float64), test_states[layer].astype(np.float64)
    m = len(fitted.positive)
    shuffles = directions.shuffled_labels(m, plan.shuffled, seed_of(study, concept, "shuffled"))
    labels = np.concatenate([directions.true_labels(m), shuffles])
    fits = np.stack([directions.fit(method, seen, labels, study.seed) for method in plan.methods])
    random = random_directions(study, layer, seen.shape[1])
    # The swept representatives of the nulls: one isotropic draw a concept, one shuffle of the first method.
    real, null = fits[:, 0], np.stack([random[index % len(random)], fits[0, 1]])
    vectors = np.concatenate([real, null])
    scores, on_fit = vectors @ held_out.T, vectors @ seen.T
    cut = (on_fit[:, :m].mean(-1) + on_fit[:, m:].mean(-1)) / 2
    sign = np.repeat([1.0, -1.0], len(tested.positive))
    null_scores = np.concatenate([np.broadcast_to(random, (len(fits), *random.shape)), fits[:, 1:]], 1) @ held_out.T

    # Separability's null has no concept in its test either: within each held-out template labels are dealt at random.
    # (Against the true labels even a random direction separates well, once the concept is what varies most.)
    dealt = directions.deal_within_folds(null_scores, tested.fold, seed_of(study, concept, "dealt"))

    def of_methods(values: np.ndarray) -> np.ndarray:
        """Null draws belong to real methods; the rows of the null methods themselves stay empty."""
        return np.concatenate([values, np.full((len(NULLS), *values.shape[1:]), np.nan)]).astype(np.float32)

    return {
        "direction": vectors.astype(np.float32),
        "null_direction": of_methods(fits[:, 1:]).astype(np.float16),
        "auroc": directions.auroc_by_fold(scores, tested.fold).astype(np.float32),
        "probe_accuracy": directions.accuracy_by_fold(scores, cut, tested.fold).astype(np.float32),
        "auroc_null": of_methods(directions.auroc_by_fold(dealt, tested.fold).mean(-1)),
        "id_score": (scores * sign).mean(-1).astype(np.float32),
        "id_score_null": of_methods((null_scores * sign).mean(-1)),
    }


def express(model: Model, concept: Concept, tested: Stimuli, _, final) -> tuple[np.ndarray, np.ndarray]:
    """The model's own ability, unsteered: is a target the top option after evidence for the concept, and after none?"""
    top = Readouts(model, [concept]).success(final)[:, 0].numpy().astype(np.float32)
    return top[: len(tested.positive)], top[len(tested.positive) :]


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
