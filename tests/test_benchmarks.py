"""What `make bench` compares is equal, and its table can tell a miss."""

from __future__ import annotations

import ast
import json
import lzma
import time
from dataclasses import replace
from importlib.metadata import distribution

import numpy as np
import psutil
import pytest
import xarray as xr
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks import bundle, gpu, measure, mutants, readiness, reading, scale, sweep
from benchmarks.models import LARGE, MIDDLE, SIZES, TOY
from helpers.processes import running
from steerlib import SteerlibError
from steerlib.checkpoints.steps import saved_steps
from steerlib.concepts.planted import stories
from steerlib.concepts.planted.world import DEFAULT
from steerlib.files.params import overlaid
from steerlib.model import Prefix
from steerlib.results.provenance import PROJECT
from steerlib.results.workspace import LAST, Job, Workspace
from steerlib.study import Study

TINY = replace(TOY, layers=3, hidden=32, vocabulary=60, prompts=3, tokens=5, concepts=2, directions=3)


def test_the_sweep_equals_loops_of_nnsight_and_of_other_libraries_where_they_are_installed():
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


# --- the GPU run --------------------------------------------------------------------------------------------------


def test_the_bundle_brings_what_the_lock_names_and_the_machine_lacks_and_nothing_else():
    plan = bundle.PLAN["bundle"]
    lines = [line for line in (PROJECT / "requirements.lock").read_text().splitlines() if "==" in line]
    lock = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    versions, met = bundle.wheels()
    assert versions and all(lock[name] == version for name, version in versions.items())
    there, unneeded = {*plan["there"]}, {*plan["unneeded"]}
    assert met == there, "each of them is asked for"
    assert unneeded < lock.keys() and not unneeded & (there | versions.keys())
    asked = [Requirement(one) for name in versions for one in distribution(name).requires or ()]
    marks = {"python_version": "3.12", "python_full_version": "3.12.0", "extra": ""}
    needed = {canonicalize_name(one.name) for one in asked if not one.marker or one.marker.evaluate(marks)}
    assert needed <= versions.keys() | there | unneeded


def test_a_corpus_is_cut_by_whole_books():
    draw = np.random.default_rng(0)
    books = [f"book {k}\n" + " ".join(map(str, draw.integers(0, 9999, 300))) for k in range(9)]
    packed, count = bundle.cut(books, 2600)
    kept = lzma.decompress(packed).decode().split("\n\n")
    assert len(packed) <= 2600 and 0 < count < 9 and kept == [book for book in books if book in kept]
    assert bundle.cut(books, 10**6)[1] == 9
    with pytest.raises(SteerlibError, match="not one of its books fits"):
        bundle.cut(books, 100)


def test_a_part_of_the_gpu_run_is_ended_at_its_limit_with_all_that_it_started(tmp_path, monkeypatch):
    """Other parts are tried, one that fails tells why, and none is begun without time."""
    (tmp_path / "endless.py").write_text(
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    parts = gpu.Parts(time.time(), 600, tmp_path)
    assert not parts.run("long", 3, "endless")
    assert not parts.run("wrong", 60, "there_is_no_such_module")
    assert not parts.run("late", 0, "this")
    assert parts.run("right", 60, "this")
    assert [one["state"] for one in parts.told.values()] == ["cut", "failed (1)", "left out: no time", "done"]
    child = int((tmp_path / "long.log").read_text())
    assert not psutil.pid_exists(child) or not running(psutil.Process(child))


@pytest.mark.parametrize(("rehearse", "checkpoints"), [(False, 12), (True, 3)])
def test_the_study_of_the_gpu_run_is_one(tmp_path, rehearse, checkpoints):
    """Of the profile that is published, on the bundle's corpus, with texts that travel with the checkout."""
    plan = overlaid(gpu.PLAN, gpu.PLAN["rehearsal"]) if rehearse else gpu.PLAN
    corpus, file = tmp_path / "some.txt", tmp_path / "study.yaml"
    corpus.write_text("Once upon a time.")
    file.write_text(yaml.safe_dump(gpu.study_of(plan, corpus, "cpu", steps=1000)))
    study = Study.load(file)
    assert study.pretraining.corpus.path == corpus and len(saved_steps(study)) == checkpoints
    assert all(file.path.is_relative_to(PROJECT) for file in (study.concepts[0].file, study.sweep.neutral))
    assert study.load_concepts() and study.load_neutral()
    assert {*plan["sizes"]} <= SIZES.keys()


def test_of_the_gpu_run_few_files_are_left_and_none_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "LARGEST", 1000)
    folder = tmp_path / "outputs" / "x"
    (folder / "figures").mkdir(parents=True)
    (folder / "run.json").write_text('{"pretraining": {"mfu": 0.25}}')
    (folder / "findings.json").write_text("0" * 2000)
    (folder / "figures" / "order.png").write_bytes(b"picture")
    params = {"name": "x", "pretraining": {"steps": 1}, "checkpoints": {"steps": [0, 1]}, "concepts": ["happiness"]}
    workspace = Workspace(Study.of(params, *[tmp_path / "x.yaml"] * 2), tmp_path / "outputs")
    out, parts = tmp_path / "out", gpu.Parts(0, 0, tmp_path)
    out.mkdir()
    (out / "mine.txt").write_text("nobody's business")
    (out / "bench.json").write_text("of an earlier run")
    left_out = gpu.keep(out, parts, workspace, {"rehearsal": True})
    assert left_out == ["findings.json is left out: 0.0 MB"]
    assert {path.name for path in out.iterdir()} == {"summary.json", "run.json", "figures.zip", "log.txt", "mine.txt"}
    told = json.loads((out / "summary.json").read_text())
    assert told["pretraining"] == {"mfu": 0.25} and told["left_out"] == left_out and told["checkpoints_analysed"] == 0


@pytest.mark.long
def test_the_gpu_run_rehearsed(tmp_path, monkeypatch):
    """From end to end on the CPU, from this environment: benchmarks/gpu.sh takes its packages from the bundle."""
    monkeypatch.setattr(gpu, "need", lambda device: "processor")
    for folder in ("bundle", "work"):
        (tmp_path / folder).mkdir()
    corpus = "\n".join(stories.corpus(DEFAULT, 0, 4000))
    (tmp_path / "bundle" / bundle.CORPUS).write_bytes(lzma.compress(corpus.encode()))
    gpu.main(time.time(), *map(tmp_path.joinpath, ("bundle", "work", "out")), budget=1200, device="cpu", rehearse=True)
    told = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {one["state"] for one in told["parts"].values()} == {"done"} and told["checkpoints_analysed"] == 3
    a_token = [one["flop_per_second"] / one["tokens_per_second"] for one in (told["speed"], told["pretraining"])]
    assert a_token[0] == pytest.approx(a_token[1]) and told["rehearsal"]
    assert len([*(tmp_path / "out").iterdir()]) == 8
    # As if it had been cut before the last checkpoint was done.
    workspace = Workspace(Study.load(tmp_path / "work" / "study.yaml"), tmp_path / "work" / "outputs")
    last = Job("interventions", [*workspace.checkpoints][-1])
    for path in (workspace.data(LAST), workspace.stamp(LAST), workspace.data(last), workspace.stamp(last)):
        path.unlink()
    parts = gpu.Parts(time.time(), 1200, tmp_path / "work")
    assert parts.run(
        "analyse", 600, "benchmarks.gpu_parts", "analyse", workspace.study.path, tmp_path / "work" / "outputs"
    )
    assert workspace.read("emergence").step.values.tolist() == [*workspace.checkpoints][:2]
