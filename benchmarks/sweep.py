"""The sweep against loops that one would otherwise write, and against arithmetic that no exact method can avoid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from nnsight import NNsight
from torch import Tensor
from torch.nn.functional import linear

from benchmarks.loops import Forward, by_nnsight, loops
from benchmarks.measure import Row, interleaved
from benchmarks.models import ALPHAS, LARGE, MIDDLE, TOY, Size
from steerlib.model import Model, Prefix
from steerlib.numerics.products import product
from steerlib.steering.arms import Arm, dose_response
from steerlib.steering.readouts import Readouts

TARGETS = {TOY: ("≥ 50", "≤ 1.7"), MIDDLE: ("≥ 50", "≤ 1.12"), LARGE: ("≥ 50", "≤ 1.08")}
OWN = "what PyTorch asks"  # MKL on a CPU, as ours did when the targets were set
SAMPLED = 4  # cells of a loop that are run a repeat; each costs the same


def measure(repeats: int, device: str) -> Iterator[Row]:
    for size in TARGETS:
        yield from of_size(size, repeats, device)


def of_size(size: Size, repeats: int, device: str) -> list[Row]:
    """Loops over ours, ours over the floor, and the largest difference of any value compared."""
    model, world, arms = size.model(device), size.world(), size.arms()
    prompts = [case.prompt for case in world[0].readout.cases]
    readouts, swept, worst = Readouts.of(model, world), {}, []
    cells = np.random.default_rng(0).permutation(size.cells)

    def ours() -> None:
        swept["all"] = sweep(model, prompts, readouts, arms)

    def loop(forward: Forward, compared: bool = True) -> Callable[[], None]:
        def some() -> None:
            for layer, row, alpha in sampled(size, cells):
                push = arms[layer].operator.step[row] * size.length * ALPHAS[alpha]
                found = readouts_of(readouts, forward(layer, push))
                if compared:
                    worst.append(float((found - swept["all"][layer, :, alpha, row]).abs().max()))

        return some

    tokens = model.tokens(prompts)
    others = {name: loop(forward) for name, forward in loops(size, tokens, device).items()}
    half = {}
    if has_bfloat16(device):
        narrow, bare_narrow = size.model(device, torch.bfloat16), size.hf(device, torch.bfloat16)
        read = Readouts.of(narrow, world)
        half = {"bfloat16": lambda: swept.update(narrow=sweep(narrow, prompts, read, arms))}
        half["nnsight in bfloat16"] = loop(partial(by_nnsight, NNsight(bare_narrow), tokens), compared=False)
    rows = len(prompts) * model.variant_tokens(len(prompts))
    rates = {OWN: multiplying(model, rows, linear)}
    if device == "cpu":  # elsewhere ours are these
        rates["oneDNN"] = multiplying(model, rows, product)
    costs = interleaved({"ours": ours, **others, **half, **rates}, repeats, device)
    floors = {by: flops(size) / (run.flops / costs[by]) for by, run in rates.items()}
    whole = {name: costs[name] * size.cells / SAMPLED for name in others}
    gain, least = TARGETS.get(size, ("", ""))
    gains = {name: "" if "cache" in name else gain for name in others}  # it does as we do, but one push at a time
    narrower = []
    if half:
        of_loop = costs["nnsight in bfloat16"] * size.cells / SAMPLED
        difference = float((swept["narrow"] - swept["all"]).abs().max())
        narrower = [
            Row.of(size.name, "ours in bfloat16 over float32", costs["bfloat16"] / costs["ours"]),
            Row.of(size.name, "loop of nnsight over ours, both in bfloat16", of_loop / costs["bfloat16"]),
            Row.of(size.name, "largest difference in bfloat16", [difference]),
        ]
    return [
        *(Row.of(size.name, f"loop of {name} over ours", whole[name] / costs["ours"], gains[name]) for name in others),
        *narrower,
        *(
            Row.of(size.name, f"ours over the arithmetic floor, by {by}", costs["ours"] / floor, least * (by == OWN))
            for by, floor in floors.items()
        ),
        Row.of(size.name, "largest difference of log-odds", [max(worst)], "≤ 1e-5"),
    ]


def sweep(
    model: Model, prompts: Sequence[str], readouts: Readouts, arms: Sequence[Arm], alphas: Sequence[float] = ALPHAS
) -> Float[Tensor, "l p alpha k readout"]:
    """The whole grid as notebook 2 computes it, its prefix included."""
    prefix = Prefix(model, prompts, readouts.branches)
    return torch.stack([dose_response(prefix, readouts.log_odds, layer, arm, alphas) for layer, arm in enumerate(arms)])


def sampled(size: Size, cells: np.ndarray) -> list[tuple[int, int, int]]:
    """Some cells of the grid: layer, direction, index of alpha. Others each time."""
    pushed = [k for k, alpha in enumerate(ALPHAS) if alpha]
    chosen, cells[:] = cells[:SAMPLED].copy(), np.roll(cells, -SAMPLED)
    return [
        (c // len(pushed) // size.directions, c // len(pushed) % size.directions, pushed[c % len(pushed)])
        for c in chosen
    ]


def has_bfloat16(device: str) -> bool:
    """In its own numbers: without such instructions it is emulated, and says nothing."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return device != "cpu" or any(flag in flags for flag in ("amx_bf16", "avx512_bf16"))


def readouts_of(readouts: Readouts, logits: Float[Tensor, "p v"]) -> Float[Tensor, "p readout"]:
    """Log-odds of every readout, of targets and foils of one token, from all logits."""
    found = []
    for prompt, options in enumerate(readouts.options):
        score = logits[prompt, [token for (token,) in options.tokens]]
        sides = [[score[list(side)].logsumexp(-1) for side in pair] for pair in options.sides]
        found.append(torch.stack([targets - foils for targets, foils in sides]))
    return torch.stack(found).cpu()


def flops(size: Size) -> int:
    """What cannot be avoided: the prompts once, and of each push the blocks above it, for one token a prompt."""
    above = size.layers * (size.layers - 1) // 2
    pushes = size.directions * (len(ALPHAS) - 1)
    prompt = size.layers * size.flops(size.tokens, size.tokens // 2)
    read_out = 2 * size.hidden * size.concepts * size.layers
    return size.prompts * (prompt + pushes * (above * size.flops(1, size.tokens) + read_out))


def multiplying(model: Model, rows: int, by: Callable[[Tensor, Tensor], Tensor], times: int = 8) -> Callable[[], None]:
    """The matrices of a block, as wide as the sweep has them, and nothing else: the machine's own rate."""
    d = model.hidden
    shapes = [(3 * d, d), (d, d), (4 * d, d), (d, 4 * d)]
    weights = [torch.randn(shape, device=model.device, dtype=model.dtype) for shape in shapes]
    states = {width: torch.randn(rows, width, device=model.device, dtype=model.dtype) for width in (d, 4 * d)}

    def run() -> None:
        for _ in range(times):
            for weight in weights:
                by(states[weight.shape[1]], weight)

    run.flops = times * sum(2 * rows * out * into for out, into in shapes)
    return run
