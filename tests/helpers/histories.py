"""Results of a whole history, made up."""

from __future__ import annotations

import numpy as np
import xarray as xr

from steerlib.study import Study

STEPS = np.array([0, 16, 64, 128, 160, 192, 224, 256, 288, 320, 352, 384, 448, 512, 576, 704, 850])


def study_of(seed=0, bootstrap=200) -> Study:
    """A study whose results they might be."""
    params = {"name": "made-up", "seed": seed, "checkpoints": {"folder": "history"}, "concepts": ["happiness"]}
    return Study.model_validate(params | {"emergence": {"bootstrap": bootstrap}})


STUDY = study_of()
CONCEPTS = {"early": 128, "late": 320, "never": np.inf}  # steps from which they can be steered
LAYERS = {"early": 1, "late": 2, "never": 0}  # where best, if anywhere
METHODS, ALPHAS, DRAWS, PROMPTS = ["pca", "mean_difference"], [-1.0, -0.5, 0.0, 0.5, 1.0, 2.0], 60, 30


def collected(seed=0):
    """Probes and interventions as collected from all checkpoints, with planted onsets; separability comes first.

    Log-odds bend outside of the linear window, and the other method has numbers of its own.
    """
    draw, (s, c, k) = np.random.default_rng(seed), (len(STEPS), len(CONCEPTS), 3)
    split = np.where(np.arange(PROMPTS) % 3 == 0, "validation", "test")
    null = ["random"] * (DRAWS // 2) + ["shuffled"] * (DRAWS // 2)
    there = np.array([STEPS >= onset for onset in CONCEPTS.values()]).T
    before = np.array([np.append(row[1:], row[-1]) for row in there.T]).T  # one checkpoint sooner
    best = np.eye(3)[list(LAYERS.values())] * 1.5 + 0.5  # concept, layer
    own = there[:, :, None] * best  # step, concept, layer
    slopes = draw.normal(0, 0.1, (s, 2, c, k, c, PROMPTS))  # step, method, concept, layer, readout, prompt
    slopes[:, 1, range(c), :, range(c)] += own.transpose(1, 0, 2)[..., None]
    bent = np.array([a + (abs(a) > 0.5) * a**3 for a in ALPHAS])
    axes = ["step", "method", "concept", "layer"]
    coords = {
        "step": STEPS,
        "method": METHODS,
        "concept": list(CONCEPTS),
        "layer": range(k),
        "role": ("concept", ["emotion"] * c),
        "planted_frequency": ("concept", [0.4, 0.1, 0.03]),
        "null": ("draw", null),
    }
    diagonal = slopes[:, :, range(c), :, range(c)].transpose(1, 2, 0, 3, 4)
    nulls = draw.normal(0, 0.2, (2, s, 2, c, k, DRAWS))
    interventions = xr.Dataset(
        {
            "log_odds": ([*axes, "alpha", "readout_concept", "prompt"], slopes[..., None, :, :] * bent[:, None, None]),
            "interference": ([*axes, "readout_concept"], slopes[..., split == "test"].mean(-1)),
            "steerability_validation": (axes, diagonal[..., split == "validation"].mean(-1)),
            "steerability_null": ([*axes, "draw"], nulls[0]),
            **{f"p_{kind}": (axes, np.where(diagonal.mean(-1) > 1, 1 / 200, 0.5)) for kind in ("random", "shuffled")},
            "steerability_null_validation": ([*axes, "draw"], nulls[1]),
            "split": (["readout_concept", "prompt"], np.tile(split, (c, 1))),
        },
        {**coords, "alpha": ALPHAS, "readout_concept": list(CONCEPTS), "prompt": range(PROMPTS)},
    )
    auroc = 0.5 + 0.45 * before[:, None, :, None, None] + draw.normal(0, 0.02, (s, 2, c, k, 8))
    auroc[:, 0] = 0.5
    knows = there[:, :, None] & (draw.random((s, c, 20)) < 0.9)
    probes = xr.Dataset(
        {
            "auroc": ([*axes, "fold"], auroc),
            "auroc_words": (["step", "concept", "fold"], np.full((s, c, 8), 0.55)),
            "auroc_null": ([*axes, "draw"], 0.5 + draw.normal(0, 0.05, (s, 2, c, k, DRAWS))),
            "expression": (["step", "concept", "prompt"], knows.astype(float)),
            "expression_null": (["step", "concept", "prompt"], (draw.random((s, c, 20)) < 0.05).astype(float)),
        },
        coords,
    )
    return probes, interventions
