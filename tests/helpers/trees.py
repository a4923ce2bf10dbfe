"""Whole datasets as a study's tree of results."""

from contextlib import closing
from pathlib import Path

import numpy as np
import xarray as xr

from steerlib.results.schema import describe
from steerlib.results.tree import Tree


def write_tree(groups: dict[str, xr.Dataset], path: Path, attrs: dict) -> None:
    with closing(Tree(path)) as tree:
        for name, dataset in groups.items():
            tree.add(name, [dataset])
        tree.finish(attrs)


def dataset(step=1, seed=0):
    """One checkpoint's result, with every kind of value and coordinate that the stages store."""
    draw = np.random.default_rng([step, seed])
    log_odds = draw.standard_normal((1, 2, 3, 40, 20)).astype(np.float32)
    log_odds[..., 4] = np.nan
    return describe(
        xr.Dataset(
            {
                "log_odds": (["step", "layer", "alpha", "prompt", "readout_concept"], log_odds),
                "null_direction": (["step", "layer", "draw"], draw.standard_normal((1, 2, 300)).astype(np.float16)),
                "chosen_layer": ((), 1),
                "onset_upper": (["step"], [np.inf]),
            },
            {
                "step": [step],
                "alpha": [-0.5, 0.0, 1.0],
                "layer": [0, 1],
                "revision": ("step", [f"step={step:08d}"]),
                "split": (["readout_concept", "prompt"], draw.choice(["test", "validation"], (20, 40))),
                "null": ("draw", ["random"] * 200 + ["shuffled"] * 100),
            },
            {"params": '{"a": null}', "cpu_seconds": 1.5},
        )
    )
