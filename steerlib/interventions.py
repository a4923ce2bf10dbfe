"""Pushing along directions, and sweeping all of them: method × concept × layer × alpha, on every readout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from steerlib.concepts import Concept, prompt_split
from steerlib.model import Model, Prefix
from steerlib.probing import random_directions
from steerlib.readouts import Readouts, SideEffects
from steerlib.statistics import slope
from steerlib.study import Study

# Final states in, one or more numbers a prompt and variant out.
Measure = Callable[[Float[Tensor, "p n d"]], Float[Tensor, "p n m"]]


def push(
    state: Float[Tensor, "*b d"], step: Float[Tensor, "*b d"], alpha: float | Tensor = 1.0
) -> Float[Tensor, "*b d"]:
    """h + α·(s·v̂), out of place. At α = 0 the state comes back bit for bit."""
    return state + alpha * step


def finish(prefix: Prefix, measure: Measure, layer: int, states: Float[Tensor, "p n d"]) -> Float[Tensor, "p n m"]:
    """Run the rest of the model from states after block ``layer``, and measure the outcome."""
    return torch.cat([measure(final) for _, final in prefix.finish(layer, states)], 1)


def dose_response(
    prefix: Prefix, measure: Measure, layer: int, steps: Float[Tensor, "k d"], alphas: Sequence[float]
) -> Float[Tensor, "p alpha k m"]:
    """Measures after pushing each step by each alpha, all as variants of one pass over the blocks above.

    At alpha = 0 nothing is run: the unsteered model is what it is.
    """
    clean = measure(prefix.final)[:, :, None]
    doses = [alpha for alpha in alphas if alpha]
    variants = push(prefix.states[layer][:, :, None], steps, torch.tensor(doses)[:, None, None])
    found = finish(prefix, measure, layer, variants.flatten(1, 2)).unflatten(1, variants.shape[1:3])
    pushed = dict(zip(doses, found.unbind(1), strict=True))
    unsteered = clean[:, 0].expand(-1, len(steps), -1)
    return torch.stack([pushed.get(alpha, unsteered) for alpha in alphas], 1)


@dataclass
class Bench:
    """Concepts whose readouts share their prompts, and these prompts run once up to where they are pushed."""

    concepts: Sequence[Concept]
    readouts: Readouts
    prefix: Prefix

    @classmethod
    def of(cls, model: Model, concepts: Sequence[Concept]) -> list[Bench]:
        """As few benches as there are different sets of prompts."""
        by_prompts: dict[tuple[str, ...], list[Concept]] = {}
        for concept in concepts:
            by_prompts.setdefault(tuple(concept.readout.prompts), []).append(concept)
        return [cls(group, Readouts(model, group), Prefix(model, prompts)) for prompts, group in by_prompts.items()]

    def gradients(self) -> Float[Tensor, "r l p d"]:
        """Gradient of every readout with respect to the state after every block."""
        readout = [lambda final, k=k: self.readouts.log_odds(final[:, 0])[:, k] for k in range(len(self.concepts))]
        return self.prefix.gradients(readout)

    def measure(self, final: Float[Tensor, "p n d"]) -> Float[Tensor, "p n m"]:
        """Log-odds of every readout, then success of every readout."""
        return torch.cat([self.readouts.log_odds(final), self.readouts.success(final).float()], -1)


def sweep(model: Model, study: Study, concepts: Sequence[Concept], probes: xr.Dataset) -> xr.Dataset:
    """All that pushing does at one checkpoint: schema `/interventions`."""
    # Steps of one residual norm along each direction.
    steps = (probes.direction * probes.residual_norm).transpose("layer", "method", "concept", "hidden")
    null_steps = _null_steps(study, probes)
    parts = []
    for bench in Bench.of(model, concepts):
        part = _swept(bench, steps, study.sweep.alphas)
        parts.append(part.merge(_local(bench, steps, null_steps, study)))
    whole = xr.concat(parts, "readout_concept", join="outer").sel(readout_concept=probes.concept.values)
    return (
        _summarise(whole, study)
        .merge(_side_effects(model, study, steps))
        .assign_coords(role=probes.role, planted_frequency=probes.planted_frequency, null=probes.null)
    )


def _swept(bench: Bench, steps: xr.DataArray, alphas: Sequence[float]) -> xr.Dataset:
    """Log-odds, success and undo error at every cell of the grid."""
    r, shape = len(bench.concepts), steps.shape[1:3]
    doses, undone = [], []
    unsteered = bench.readouts.log_odds(bench.prefix.final)
    for layer, block in enumerate(torch.from_numpy(steps.values).flatten(1, 2)):
        found = dose_response(bench.prefix, bench.measure, layer, block, alphas)
        doses.append(found.unflatten(2, shape))
        there = push(bench.prefix.states[layer], block, max(alphas))
        back = finish(bench.prefix, bench.readouts.log_odds, layer, push(there, -block, max(alphas)))
        undone.append((back - unsteered).abs().amax((0, 2)).unflatten(0, shape))
    dims = ["layer", "prompt", "alpha", "method", "concept", "readout_concept"]
    values = torch.stack(doses).numpy()
    return xr.Dataset(
        {
            "log_odds": (dims, values[..., :r]),
            "success": (dims, values[..., r:]),
            "undo_error": (["readout_concept", *steps.dims[:3]], np.repeat(torch.stack(undone).numpy()[None], r, 0)),
        },
        {
            "prompt": np.arange(values.shape[1]),
            "alpha": list(alphas),
            "layer": steps.layer,
            "method": steps.method,
            "concept": steps.concept,
            "readout_concept": [concept.name for concept in bench.concepts],
        },
    )


def _local(bench: Bench, steps: xr.DataArray, null_steps: xr.DataArray, study: Study) -> xr.Dataset:
    """Exact slopes at alpha = 0, of the directions and of all null draws, from one backward pass a readout."""
    gradients = bench.gradients().numpy()
    prompts = gradients.shape[2]
    dims = ["readout_concept", "layer", "hidden"]
    mean = {
        split: xr.DataArray(gradients[:, :, prompt_split(prompts, study.seed) == split].mean(2), dims=dims)
        for split in ("test", "validation")
    }
    return xr.Dataset(
        {
            "local_slope": xr.dot(steps, mean["test"], dim="hidden"),
            "interference_null": xr.dot(null_steps, mean["test"], dim="hidden"),
            "interference_null_validation": xr.dot(null_steps, mean["validation"], dim="hidden"),
            "split": (["readout_concept", "prompt"], np.tile(prompt_split(prompts, study.seed), (len(gradients), 1))),
        },
        {"readout_concept": [concept.name for concept in bench.concepts], "prompt": np.arange(prompts)},
    )


def _null_steps(study: Study, probes: xr.Dataset) -> xr.DataArray:
    """Steps of one residual norm along every null draw: isotropic directions, then each method on shuffled labels."""
    random = np.stack([random_directions(study, layer, probes.sizes["hidden"]) for layer in probes.layer.values])
    shuffled = probes.null_direction.astype(np.float32).rename(shuffle="draw")
    isotropic = xr.DataArray(random.astype(np.float32), dims=["layer", "draw", "hidden"])
    real = shuffled.sel(method=list(study.probes.methods))
    draws = xr.concat([isotropic.broadcast_like(real.isel(draw=0)), real], "draw")
    return (draws * probes.residual_norm).astype(np.float32)


def _own(values: xr.DataArray) -> xr.DataArray:
    """Each concept on its own readout: the diagonal of concept × readout_concept."""
    own = xr.DataArray(values.concept.values, dims="concept")
    return (
        values.sel(concept=own, readout_concept=own).drop_vars("readout_concept").assign_coords(concept=values.concept)
    )


def _summarise(whole: xr.Dataset, study: Study) -> xr.Dataset:
    """Slopes over the linear window; validation prompts are there to choose by, test prompts to report."""
    slopes = slope(whole.log_odds, study.sweep.window)
    test, validation = whole.split == "test", whole.split == "validation"
    interference = slopes.where(test).mean("prompt")
    return xr.Dataset(
        {
            "log_odds": whole.log_odds,
            "steerability": _own(interference),
            "steerability_validation": _own(slopes.where(validation).mean("prompt")),
            "steerability_null": _own(whole.interference_null),
            "steerability_null_validation": _own(whole.interference_null_validation),
            "local_slope": _own(whole.local_slope),
            "interference": interference,
            "interference_null": whole.interference_null,
            "success_rate": _own(whole.success.where(test).mean("prompt")),
            "undo_error": whole.undo_error.max("readout_concept"),
        },
        {"split": whole.split},
    ).transpose("method", "concept", "layer", "alpha", "readout_concept", "prompt", "draw", missing_dims="ignore")


def _side_effects(model: Model, study: Study, steps: xr.DataArray) -> xr.Dataset:
    """KL and NLL of the next token of neutral passages, at every cell of the grid."""
    effects = SideEffects(model, study.load_neutral())
    prefix = Prefix(model, effects.prompts)
    cells = [
        dose_response(prefix, effects.measure_against(prefix.final), layer, block, study.sweep.alphas).mean(0)
        for layer, block in enumerate(torch.from_numpy(steps.values).flatten(1, 2))
    ]
    values = torch.stack(cells).unflatten(2, steps.shape[1:3]).numpy()
    dims = ["layer", "alpha", "method", "concept"]
    return xr.Dataset({"kl": (dims, values[..., 0]), "nll": (dims, values[..., 1])}).transpose(
        "method", "concept", "layer", "alpha"
    )
