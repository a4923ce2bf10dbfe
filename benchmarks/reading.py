"""What is read of a model beside the sweep: states of all stimuli, and exact slopes of many directions."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from benchmarks.measure import Row, interleaved
from benchmarks.models import LARGE, MIDDLE, TOY, Size
from benchmarks.sweep import sweep
from steerlib.model import LARGEST, Model, Prefix
from steerlib.stages.probing import ReadStimuli
from steerlib.steering.arms import dose_response, local_slopes
from steerlib.steering.readouts import Readouts

DIRECTIONS = 1000
SMALL = 2e-3  # of alpha, for the slope by finite difference: where rounding and curvature are both small


def measure(repeats: int, device: str) -> list[Row]:
    sizes = (TOY, MIDDLE, LARGE)
    return [row for size in sizes for row in (extraction(size, repeats, device), *slopes(size, repeats, device))]


def extraction(size: Size, repeats: int, device: str) -> Row:
    """States of all layers, of every stimulus of every concept, over a bare forward pass of the very same tokens."""
    model, world = size.model(device), size.world(per_concept=32)
    texts = list(ReadStimuli(model, world, seed=0).texts)
    order = np.argsort([len(text) for text in texts], kind="stable")
    batches = [model.tokens([texts[k] for k in order[i : i + LARGEST]]) for i in range(0, len(order), LARGEST)]

    def bare() -> None:
        for tokens in batches:
            with torch.no_grad():
                model.hf.base_model(**tokens.inputs, use_cache=False)

    costs = interleaved({"ours": partial(ReadStimuli, model, world, seed=0), "bare": bare}, repeats, device)
    name = "reading all layers over a bare forward"
    return Row.of(size.name, name, costs["ours"] / costs["bare"], "≤ 1.15")


def slopes(size: Size, repeats: int, device: str) -> list[Row]:
    """The exact slope of 1,000 directions at all layers on all readouts over one sweep; and whether it is the slope."""
    model, world = size.model(device), size.world()
    prompts, many = [case.prompt for case in world[0].readout.cases], size.arms(DIRECTIONS)
    readouts, found = Readouts.of(model, world), {}

    def exact() -> None:
        prefix = Prefix(model, prompts, readouts.branches)
        gradients, states = prefix.gradients(readouts.log_odds)
        found["exact"] = torch.stack(
            [local_slopes(gradients[:, k], states[k], arm).mean(1) for k, arm in enumerate(many)]
        )

    swept = partial(sweep, model, prompts, readouts, size.arms())
    costs = interleaved({"slopes": exact, "sweep": swept}, repeats, device)
    wide, few = Model(model.hf.double(), model.tokenizer), size.arms()
    prefix, log_odds = Prefix(wide, prompts, readouts.branches), Readouts.of(wide, world).log_odds
    ends = [dose_response(prefix, log_odds, k, arm, [-SMALL, SMALL]) for k, arm in enumerate(few)]
    finite = torch.stack([((up[:, 1] - up[:, 0]) / (2 * SMALL)).mean(0).T for up in ends])
    off = (found["exact"][..., : size.directions] - finite).abs().max() / finite.abs().max()
    name = f"{DIRECTIONS:,} exact slopes over one sweep"
    return [
        Row.of(size.name, name, costs["slopes"] / costs["sweep"], "≤ 1.5"),
        Row.of(size.name, "relative difference from finite slopes", [float(off)], "≤ 1e-3"),
    ]
