"""What `make bench` compares is equal, and its table can tell a miss."""

from __future__ import annotations

import ast
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from benchmarks import measure, mutants, readiness, reading, scale, sweep
from benchmarks.models import LARGE, MIDDLE, TOY
from steerlib.model import Prefix

TINY = replace(TOY, layers=3, hidden=32, vocabulary=60, prompts=3, tokens=5, concepts=2, directions=3)


def test_the_sweep_equals_loops_of_nnsight_and_where_it_is_installed_of_steering_vectors():
    """Every push felt, so that there was something to get right."""
    *ratios, difference = sweep.of_size(TINY, 2, "cpu")
    assert difference.met and all(row.value > 0 for row in ratios)
    model = TINY.model()
    prompts = [case.prompt for case in TINY.world()[0].readout.cases]
    swept = sweep.sweep(model, prompts, sweep.Readouts.of(model, TINY.world()), TINY.arms())
    unsteered = swept[:, :, 3:4]
    assert (swept[:, :, [0, 1, 2, 4, 5, 6]] - unsteered).abs().amax((1, 4)).min() > 1e-4


def test_a_sweep_that_is_wrong_is_found(monkeypatch):
    right = Prefix.push
    too_far = lambda self, state, change, positions: right(self, state, lambda h: 1.01 * change(h), positions)  # noqa: E731
    monkeypatch.setattr(Prefix, "push", too_far)
    *_, difference = sweep.of_size(TINY, 1, "cpu")
    assert difference.met is False


def test_exact_slopes_are_those_of_finite_pushes(monkeypatch):
    monkeypatch.setattr(reading, "DIRECTIONS", 5)
    _, difference = reading.slopes(TINY, 1, "cpu")
    assert difference.met


def test_the_floor_counts_what_a_sweep_has_to_multiply():
    """A prompt token passes every block; a push passes those above it. Twice the pushes, twice their share."""
    assert TINY.flops(1, 0) == 24 * 32**2
    alone = replace(TINY, directions=0)
    share = [sweep.flops(replace(TINY, directions=k)) - sweep.flops(alone) for k in (3, 6)]
    assert share[1] == 2 * share[0] and share[0] >= 3 * 3 * 6 * 3 * TINY.flops(1, 5)
    assert all(size.vocabulary == 50304 for size in (MIDDLE, LARGE))


def test_rows_know_whether_they_keep_their_target():
    low, high, free = (measure.Row.of("a", "b", [1, 2, 9], target) for target in ("≤ 1.5", "≥ 1.5", ""))
    assert (low.met, high.met, free.met) == (False, True, None) and (low.value, low.low, low.high) == (2, 1, 9)


@pytest.mark.parametrize("k", [0.0, 1.0, 2.0])
def test_an_exponent_is_found(k):
    sizes = np.array([2, 4, 16])
    assert measure.exponent(sizes, 3 * sizes**k) == pytest.approx(k)


def test_cases_are_measured_in_turn():
    seen = []
    costs = measure.interleaved({name: lambda name=name: seen.append(name) for name in "ab"}, 2)
    assert seen == list("ab" * 3) and costs["a"].shape == (2,)


def test_every_mutant_is_other_code_and_no_two_are_the_same():
    lines = ["def f(a: int, b=1):", "    if a < b and not b:", "        raise ValueError(a + 1)", "    g(a)"]
    source = "\n".join([*lines, "    return {'x': -a, 'y': b}"])
    words, codes = zip(*((name, code()) for name, code in mutants.mutants(source).items()), strict=True)
    assert len({*codes, ast.unparse(ast.parse(source))}) == len(codes) + 1 == len({*words}) + 1 == 10
    assert all(compile(code, "mutant", "exec") for code in codes)
    assert words[0] == "1 -> 2: def f(a: int, b=1):", "by line; what is raised, and types, are left alone"


def test_alarms_of_readiness_are_of_cells_whose_answer_is_known():
    names = ["happiness", "truth", "place", "placebo", "flipped-happiness-0", "split-3", "inert-1"]
    roles = ["emotion", "truth", "inert", "null", "emotion", "null", "inert"]
    dims = {"step": readiness.STEPS, "concept": names, "probe": ["pca"]}
    ready = xr.DataArray(np.full((4, 7, 1), "not ready", object), dims)
    ready.loc[{"step": 810, "concept": ["happiness", "flipped-happiness-0"]}] = "validate"
    ready.loc[{"step": 640}] = "deploy"  # neither late nor untrained
    outcome = xr.full_like(ready, "pass").expand_dims(criterion=[*readiness.CRITERIA]).copy()
    outcome.loc[{"criterion": "text"}] = "unknown"
    outcome.loc[{"criterion": "one sign", "concept": "placebo"}] = "fail"
    found = xr.Dataset({"verdict": ready, "held_back": ready, "outcome": outcome}).assign_coords(
        role=("concept", roles)
    )
    cells = readiness.kinds(found).assign(model="toy-0")
    table = readiness.shares(cells)
    assert table.cells.to_dict() == {"untrained": 7} | {kind: 1 for kind in readiness.KINDS if kind != "untrained"}
    assert table.ready[table.ready > 0].to_dict() == {"flipped": 1, "planted": 1}
    decided = readiness.deciding(cells)
    assert decided.loc["text", "untrained"] == "7 (6)" and decided.loc["one sign", "placebo"] == "1 (0)"


def test_growth_is_measured_of_what_is_asked_for(monkeypatch):
    monkeypatch.setattr(scale, "TOY", TINY)
    for what, sizes, of in (("METHODS", (1, 2), scale.of_methods), ("LAYERS", (2, 3), scale.of_layers)):
        monkeypatch.setattr(scale, what, sizes)
        row = of(1, "cpu")
        assert np.isfinite(row.value) and f"({sizes[0]} … {sizes[1]})" in row.quantity
    monkeypatch.setattr(scale, "peak", lambda size: 10e9 + 2e9 * size.layers)
    assert scale.of_blocks(TINY, 32).value == pytest.approx(10 + 2 * 32)
