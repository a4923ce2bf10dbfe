"""Results of a whole history, made up."""

from __future__ import annotations

import numpy as np
import xarray as xr

from steerlib.study import Study

STEPS = np.array([0, 16, 64, 128, 160, 192, 224, 256, 288, 320, 352, 384, 448, 512, 576, 704, 850])


def study_of(seed=0, bootstrap=200, **emergence) -> Study:
    """A study whose results they might be."""
    params = {"name": "made-up", "seed": seed, "concepts": ["happiness"]}
    params["checkpoints"] = {"folder": "history", "untrained": True}
    return Study.model_validate(params | {"emergence": {"bootstrap": bootstrap, **emergence}})


STUDY = study_of()
CONCEPTS = {"early": 128, "late": 320, "never": np.inf}  # steps from which they can be steered
LAYERS = {"early": 1, "late": 2, "never": 0}  # where best, if anywhere
METHODS, ALPHAS, DEALS, PROMPTS, FOLDS, REFITS = (
    ["pca", "mean_difference", "random"],
    [-0.5, 0.0, 0.5, 1.0],
    120,
    30,
    8,
    7,
)
# Of a readout that fits.
FITTING = {
    "readout_share": 0.3,
    "readout_rank": 2.0,
    "readout_tokens": 1.0,
    "readout_auroc": 0.9,
    "readout_auroc_lower": 0.8,
}


def collected(seed=0):
    """Probes and interventions as collected from all checkpoints, with planted onsets; separability comes first."""
    draw, (s, c, k) = np.random.default_rng(seed), (len(STEPS), len(CONCEPTS), 3)
    split = np.where(np.arange(PROMPTS) % 3 == 0, "validation", "test")
    there = np.array([STEPS >= onset for onset in CONCEPTS.values()]).T
    before = np.array([np.append(row[1:], row[-1]) for row in there.T]).T  # one checkpoint sooner
    best = np.eye(3)[list(LAYERS.values())] * 1.5 + 1.5  # concept, layer
    own = (there[:, :, None] * best)[..., None, None]  # step, concept, layer, prompt, refit
    refitted = 1 + np.append(0, draw.normal(0, 0.01, REFITS - 1))
    slopes = own * refitted + draw.normal(0, 0.1, (s, c, k, PROMPTS, 1))
    local = draw.normal(0, 0.1, (s, c, k, c))
    steered = slopes[..., split == "test", 0].mean(-1)
    local[:, range(c), :, range(c)] = steered.transpose(1, 0, 2)
    axes = ["step", "concept", "layer"]
    coords = {
        "step": STEPS,
        "tokens_seen": ("step", 8 * STEPS),
        "probe": METHODS,
        "concept": list(CONCEPTS),
        "layer": range(k),
        "role": ("concept", ["emotion"] * c),
        "planted_frequency": ("concept", [0.4, 0.1, 0.03]),
    }
    margins = np.where(there[:, :, None, None, None], 1.0, -1.0) * np.array([-1, -1, 1, 1.0])[:, None]
    interventions = xr.Dataset(
        {
            "slope": ([*axes, "prompt", "refit"], slopes),
            "strength": ([*axes], np.full((s, c, k), 7.0)),
            "interference_local": ([*axes, "readout_concept"], local),
            "interference_shuffled": ([*axes, "readout_concept", "deal"], draw.normal(0, 0.2, (s, c, k, c, DEALS))),
            "steerability_shuffled_validation": ([*axes, "deal"], draw.normal(0, 0.2, (s, c, k, DEALS))),
            "p_shuffled": ([*axes], np.where(steered > 1, 1 / 121, 0.5)),
            "margin": ([*axes, "alpha", "prompt"], np.broadcast_to(margins, (s, c, k, len(ALPHAS), PROMPTS))),
            "chosen_alpha": ([*axes], np.full((s, c, k), 0.5)),
            "split": (["readout_concept", "prompt"], np.tile(split, (c, 1))),
        },
        {**coords, "alpha": ALPHAS, "readout_concept": list(CONCEPTS), "prompt": range(PROMPTS)},
    )
    by_method = {
        name: interventions[name].expand_dims(probe=METHODS) for name in ("p_shuffled", "margin", "chosen_alpha")
    }
    unsteered = by_method["margin"].sel(alpha=0)
    by_method["margin"] = by_method["margin"].where(interventions["probe"] != "random", unsteered)  # it does nothing
    interventions = interventions.assign(by_method)
    auroc = 0.5 + 0.45 * before[:, :, None, None, None] * refitted + draw.normal(0, 0.02, (s, c, k, FOLDS, 1))
    knows = there[:, :, None] & (draw.random((s, c, 20)) < 0.9)
    probes = xr.Dataset(
        {
            "residual_norm": (["step", "layer"], np.full((s, k), 7.0)),
            "auroc_redrawn": ([*axes, "fold", "redraw"], auroc),
            "auroc_words": (["step", "concept", "fold"], np.full((s, c, FOLDS), 0.55)),
            "auroc_shuffled": ([*axes, "fold", "deal"], 0.5 + draw.normal(0, 0.1, (s, c, k, FOLDS, DEALS))),
            "expression": (["step", "concept", "prompt"], knows.astype(float)),
            "expression_null": (["step", "concept", "prompt"], (draw.random((s, c, 20)) < 0.05).astype(float)),
            **{name: (["step", "concept"], np.full((s, c), value)) for name, value in FITTING.items()},
        },
        coords,
    )
    return probes, interventions
