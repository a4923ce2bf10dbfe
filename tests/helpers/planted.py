"""States with a planted direction."""

from __future__ import annotations

import numpy as np
from safetensors.numpy import save_file

from steerlib.numerics.directions import unit
from steerlib.numerics.labels import shuffled_labels, true_labels

PAIRS, HIDDEN = 200, 12
DENSE = unit(np.random.default_rng(99).standard_normal(HIDDEN))


SPARSE = unit(np.array([0.0, 0, 3, 0, 0, 0, -2, 0, 0, 0, 0, 0]))  # for methods to which single dimensions matter


def decoder(folder, name="W_dec", turned=False) -> str:
    rows = np.random.default_rng(7).standard_normal((30, HIDDEN)).astype(np.float32)
    rows[17] = 3 * SPARSE
    path = folder / "sae.safetensors"
    save_file({name: np.ascontiguousarray(rows.T) if turned else rows, "b_dec": np.zeros(HIDDEN, np.float32)}, path)
    return str(path)


def planted(seed, along, pairs=PAIRS, gap=4.0):
    """Noisy states, all positives and then all negatives, ``gap`` standard deviations apart along a direction.

    Partners share half of their variance, as a pair of stimuli does.
    """
    rng = np.random.default_rng(seed)
    own, shared = rng.standard_normal((2, pairs, HIDDEN)), rng.standard_normal((pairs, HIDDEN))
    noise = (own + shared) / np.sqrt(2)
    return np.concatenate([noise[0] + gap * along, noise[1]])


def with_nulls(draws, pairs=PAIRS):
    return np.concatenate([true_labels(pairs), shuffled_labels(pairs, draws, 0)])
