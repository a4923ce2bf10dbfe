"""However many checkpoints a study has, the driver looks at each once, and collecting holds a few of them in memory.

By hand, at any size: ``python tests/running/test_scale.py --checkpoints 1000 --layers 24 --hidden 1024 --concepts 8``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import yaml
import zarr

from helpers.histories import FITTING
from steerlib.files import datasets, hashes
from steerlib.files.hashes import file_sha256
from steerlib.results import made, tree
from steerlib.results import workspace as jobs
from steerlib.results.freshness import Begun, Freshness, write_stamp
from steerlib.results.provenance import peak_rss
from steerlib.results.schema import describe
from steerlib.results.tree import WORKING, collect, read_results, write_results
from steerlib.results.workspace import Job, Workspace
from steerlib.stages import comparison, emergence
from steerlib.study import Study

METHODS, NULLS = ["mean_difference", "pca"], ["random", "shuffled"]
ALPHAS = [-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0]
GRID = ["step", "probe", "concept", "layer"]
SITE = ["step", "concept", "layer"]
NEAR = 8  # layers, of which all are pushed at


def results(step: int, concepts: int, layers: int, hidden: int, prompts: int, draws: int) -> dict[str, xr.Dataset]:
    """What the stages store of one checkpoint: the variables that a real study has, in their dims and types."""
    draw = np.random.default_rng(step)
    names = [f"concept {k}" for k in range(concepts)]
    sizes = {"step": 1, "probe": len(METHODS + NULLS), "concept": concepts, "layer": layers, "hidden": hidden}
    sizes |= {"alpha": len(ALPHAS), "readout_concept": concepts, "prompt": prompts, "draw": draws, "fold": 4}
    sizes |= {"variant": 3, "layer_b": layers, "concept_b": concepts, "refit": 5, "redraw": 6, "deal": 2 * draws}

    def of(*dims: str, dtype=np.float32) -> tuple:
        return dims, draw.standard_normal([sizes[dim] for dim in dims]).astype(dtype)

    coords = {
        "step": [step],
        "probe": METHODS + NULLS,
        "concept": names,
        "layer": range(layers),
        "role": ("concept", ["emotion"] * concepts),
        "planted_frequency": ("concept", np.linspace(0.4, 0.1, concepts)),
        "null": ("draw", ["random"] * (draws // 2) + ["shuffled"] * (draws - draws // 2)),
        "revision": ("step", [f"step-{step}"]),
        "tokens_seen": ("step", [-1]),
        "weights_sha256": ("step", [f"{step:064x}"]),
    }
    split = np.where(np.arange(prompts) % 3 == 0, "validation", "test")
    probes = {"direction": of(*GRID, "hidden"), "auroc": of(*GRID, "fold")}
    probes |= {"auroc_redrawn": of(*SITE, "fold", "redraw"), "auroc_shuffled": of(*SITE, "fold", "deal")}
    probes |= {name: of(*GRID) for name in ("length", "spread")} | {"probe_accuracy": of(*GRID, "fold")}
    probes |= {name: of(*GRID, "draw") for name in ("null_length", "null_spread")}
    probes |= {"id_score": of(*GRID, "variant"), "id_score_null": of(*GRID, "variant", "draw")}
    probes["p_id"] = (probes["id_score"][0], draw.random(probes["id_score"][1].shape))
    probes |= {name: of("step", "concept", "prompt") for name in ("expression", "expression_null")}
    probes |= {"auroc_words": of("step", "concept", "fold"), "residual_norm": of("step", "layer")}
    probes |= {name: of("step", "concept") for name in FITTING}
    gram = np.zeros((1, layers, 100, 100), np.float32)  # working data: not collected
    probes["gram"] = (["step", "layer", "stimulus", "stimulus_b"], gram)
    one = "steerability steerability_validation steerability_lower steerability_upper local_slope"
    one += " local_slope_validation anti_steerable monotonicity selectivity undo_error p_random p_shuffled"
    one += " strength chosen_alpha chosen_gain"
    swept = {name: of(*GRID, dtype=np.float64) for name in one.split()}
    # Pushed only near the layer that slopes choose.
    near = np.isin(np.arange(layers), range(layers // 2 - 1, layers // 2 + 2)) | (layers < NEAR)
    for name, dims in (("log_odds", ("readout_concept", "prompt")), ("margin", ("prompt",))):
        found = np.full([sizes[dim] for dim in (*GRID, "alpha", *dims)], np.nan, np.float32)
        found[:, :, :, near] = draw.standard_normal(found[:, :, :, near].shape)
        swept[name] = [*GRID, "alpha", *dims], found
    swept |= {name: of(*GRID, "alpha") for name in ("kl", "nll", "delta_nll", "kl_validation", "success_rate")}
    swept |= {name: of(*GRID, "draw") for name in ("steerability_null", "steerability_null_validation")}
    names_of_readouts = ("interference", "interference_lower", "interference_upper")
    swept |= {name: of(*GRID, "readout_concept") for name in names_of_readouts}
    swept["interference_null"] = of(*GRID, "readout_concept", "draw")
    swept |= {"slope": of(*SITE, "prompt", "refit"), "interference_local": of(*SITE, "readout_concept")}
    swept["slope"][1][:, :, layers // 2] += 9  # so that this layer is chosen
    swept["interference_shuffled"] = of(*SITE, "readout_concept", "deal")
    swept["steerability_shuffled_validation"] = of(*SITE, "deal")
    for name in ("p_random", "p_shuffled"):
        swept[name] = (swept[name][0], draw.random(swept[name][1].shape))
    swept["chosen_alpha"] = (GRID, draw.choice(ALPHAS, swept["chosen_alpha"][1].shape))
    swept |= {name: (swept["kl"][0], abs(swept["kl"][1])) for name in ("kl", "kl_lower", "kl_upper")}
    readouts = {"alpha": ("alpha", ALPHAS, {"units": "residual norm"}), "readout_concept": names}
    readouts |= {"prompt": range(prompts), "split": (["readout_concept", "prompt"], np.tile(split, (concepts, 1)))}
    entropy = {"id_entropy": of(*GRID[:3], "variant"), "id_entropy_null": of(*GRID[:3], "variant", "draw")}
    similar = {name: of(*GRID) for name in ("cosine_to_final", "cosine_to_previous")} | entropy
    similar |= {"cosine_layers": of(*GRID, "layer_b"), "cka": of("step", "layer", "layer_b")}
    similar |= {"cosine_concepts": of("step", "probe", "layer", "concept", "concept_b"), "id_entropy_uniform": ((), 1)}
    refitted = ("cosine_to_final", "id_entropy")
    similar |= {f"{name}_{end}": similar[name] for name in refitted for end in ("lower", "upper")}
    three = {"variant": ["raw", "projection", "cosine"]}
    return {
        "probes": describe(xr.Dataset(probes, coords | three)),
        "interventions": describe(xr.Dataset(swept, coords | readouts)),
        "similarity": describe(xr.Dataset(similar, coords | three | {"layer_b": range(layers)})),
    }


def make(folder: Path, checkpoints: int, **sizes: int) -> Path:
    """A study whose checkpoints were all analysed, by hand. Every third has no similarity."""
    for step in range(1, checkpoints + 1):
        history = folder / "history" / f"step-{step}"
        history.mkdir(parents=True)
        (history / "model.safetensors").write_bytes(step.to_bytes(4, "big"))
        for stage, dataset in results(step, **sizes).items():
            if stage != "similarity" or step % 3:
                datasets.write(dataset, folder / "outputs" / "scale" / stage / f"step={step:08d}.nc")
    params = {"name": "scale", "checkpoints": {"folder": "history"}, "concepts": ["happiness"]}
    params |= {"emergence": {"method": METHODS[0], "bootstrap": 200}}
    (folder / "scale.yaml").write_text(yaml.safe_dump(params))
    return folder


def analysed(folder: Path, figures: bool = False) -> dict[str, float]:
    """What notebook 4 does, and what it costs this process."""
    before, cpu = peak_rss(), time.process_time()
    workspace = Workspace(Study.load(folder / "scale.yaml"), folder / "outputs")
    groups = collect(workspace)
    told = {"before": before, "collected": peak_rss(), "collect_cpu_seconds": time.process_time() - cpu}
    found = emergence.analyse(groups["probes"], groups["interventions"], workspace.study)
    told |= {"analysed": peak_rss(), "analyse_cpu_seconds": time.process_time() - cpu - told["collect_cpu_seconds"]}
    if figures:
        told |= draw(groups, found, METHODS[0])
    workspace.save(Job("emergence"), found)
    write_results(workspace, groups, found)
    return told | {"peak": peak_rss(), "cpu_seconds": time.process_time() - cpu}


def draw(groups, found: xr.Dataset, method: str) -> dict[str, float]:
    """Every figure of notebook 4."""
    import matplotlib.pyplot as plt

    from steerlib.figures import onsets, training

    probes, swept, similarity = (groups[name] for name in ("probes", "interventions", "similarity"))
    layer, told = found.chosen_layer, {}
    for name, figure in {
        "emergence_curves": lambda: onsets.emergence_curves(found),
        "onset_summary": lambda: onsets.onset_summary(found),
        "order": lambda: onsets.order(found),
        "steerability_heatmap": lambda: training.steerability_heatmap(swept, method, found.q_shuffled),
        "with_and_without": lambda: onsets.with_and_without(found),
        "cosine_to_final": lambda: training.cosine_to_final(similarity, method, layer, probes.sizes["hidden"]),
        "id_heatmap": lambda: training.id_heatmap(probes, method, "projection"),
        "id_entropy": lambda: training.id_entropy(similarity, method),
        "interference": lambda: training.interference(swept, layer, found.interference_q),
        "side_effects": lambda: training.side_effects(swept, method, layer),
        "dose_response": lambda: training.dose_response(swept, method, found.layer_by_step),
    }.items():
        cpu = time.process_time()
        plt.close(figure())
        told |= {f"peak after {name}": peak_rss(), f"{name}_cpu_seconds": time.process_time() - cpu}
    return told


def measured(*words: str) -> dict[str, float]:
    """The same in a process of its own."""
    run = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


# --- collecting ---------------------------------------------------------------------------------------------------

SMALL = {"concepts": 3, "layers": 4, "hidden": 16, "prompts": 12, "draws": 10}


def in_memory(folder: Path) -> dict[str, xr.Dataset]:
    """Every step's dataset side by side, as they would be if memory had no end."""
    found = {}
    for stage in ("probes", "interventions", "similarity"):
        parts = [datasets.read(path, WORKING) for path in sorted((folder / "outputs" / "scale" / stage).glob("*.nc"))]
        found[stage] = xr.concat(parts, "step", data_vars="minimal", coords="minimal", compat="override")
    return found


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    folder = make(tmp_path_factory.mktemp("six"), 6, **SMALL)
    return folder, Workspace(Study.load(folder / "scale.yaml"), folder / "outputs")


@pytest.mark.parametrize(
    ("shards", "alone", "held"), [(tree.SHARDS, tree.ALONE, tree.HELD), (tree.SHARDS, tree.ALONE, 0), (40_000, 2000, 0)]
)
def test_what_is_collected_and_found_is_that_of_all_steps_in_memory(six, monkeypatch, shards, alone, held):
    """Also what is so large that it is read a few layers at a time."""
    monkeypatch.setattr(tree, "SHARDS", shards)
    monkeypatch.setattr(tree, "ALONE", alone)
    monkeypatch.setattr(tree, "HELD", held)
    folder, workspace = six
    groups, whole = collect(workspace), in_memory(folder)
    assert set(groups) == set(whole)
    for stage, dataset in whole.items():
        assert datasets.digest(groups[stage]) == datasets.digest(dataset), stage
        assert groups[stage].attrs == dataset.attrs and {*groups[stage].coords} == {*dataset.coords}
        assert all(groups[stage][name].attrs == dataset[name].attrs for name in dataset.variables)
    assert groups["similarity"].step.values.tolist() == [1, 2, 4, 5]
    found = [emergence.analyse(one["probes"], one["interventions"], workspace.study) for one in (groups, whole)]
    assert datasets.digest(found[0]) == datasets.digest(found[1])
    stimuli = {str(name): "" for name in found[0].concept.values}
    compared = [
        comparison.variant(found[1], one["probes"], one["interventions"], workspace.study, stimuli)
        for one in (groups, whole)
    ]
    assert datasets.digest(compared[0]) == datasets.digest(compared[1])


def test_results_are_read_again_while_they_are_those_of_the_analysis(six):
    _, workspace = six
    groups = collect(workspace)
    found = emergence.analyse(groups["probes"], groups["interventions"], workspace.study)
    workspace.save(Job("emergence"), found)
    write_results(workspace, groups, found)
    again = read_results(workspace)
    assert set(again) == {"probes", "interventions", "similarity", "emergence"}
    assert datasets.digest(again["probes"]) == datasets.digest(groups["probes"])
    workspace.save(Job("emergence"), found.assign(tau=0.5))  # and the results were not written anew
    assert read_results(workspace) == {}


@pytest.mark.long
def test_memory_does_not_grow_with_the_number_of_checkpoints(tmp_path, monkeypatch):
    """Nor does that of the analysis, which takes a concept at a time."""
    # Shards so small that a step fills one. From the third on memory is what it stays: an earlier one's goes only then.
    monkeypatch.setattr(tree, "SHARDS", 1 << 20)
    monkeypatch.setattr(tree, "HELD", 0)
    sizes = {"concepts": 2, "layers": 2, "hidden": 16384, "prompts": 48, "draws": 20}
    analysed(make(tmp_path / "before", 2, **sizes))  # what libraries import and keep when first used is no growth
    peaks = {}
    for count in (12, 4):
        folder = make(tmp_path / str(count), count, **sizes)
        tracemalloc.start()
        with zarr.config.set({"async.concurrency": 1}):  # how many parts are under way at once hangs on the machine
            analysed(folder)
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    one = sum(one.nbytes for one in results(1, **sizes).values())
    assert peaks[12] - peaks[4] < 0.25 * 8 * one, "all that were added were in memory"


# --- the driver ---------------------------------------------------------------------------------------------------


def finished(folder: Path, checkpoints: int) -> Workspace:
    """A study in which everything is done; its results hold next to nothing."""
    for step in range(1, checkpoints + 1):
        history = folder / "history" / f"step-{step}"
        history.mkdir(parents=True)
        (history / "model.safetensors").write_bytes(step.to_bytes(4, "big"))
    params = {"name": "scale", "checkpoints": {"folder": "history"}, "concepts": ["happiness"]}
    (folder / "scale.yaml").write_text(yaml.safe_dump(params))
    workspace = Workspace(Study.load(folder / "scale.yaml"), folder / "outputs")
    for job in workspace.jobs():
        begun = Begun.of(workspace, job)
        workspace.save(job, xr.Dataset({"loss": ("update", [0.0])}))
        write_stamp(workspace, job, begun, 0.0)
    return Workspace(workspace.study, folder / "outputs")


@pytest.fixture
def told_quickly(monkeypatch):
    monkeypatch.setattr(jobs, "provenance", lambda study: {})  # asks git, for every result


@pytest.mark.parametrize("settled", [False, True])
def test_a_result_is_read_once_at_most_to_know_what_there_is_to_do(tmp_path, told_quickly, monkeypatch, settled):
    monkeypatch.setattr(hashes, "TICK", -(10**9) if settled else 10**15)
    workspace, read = finished(tmp_path, 6), Counter()
    monkeypatch.setattr(made, "file_sha256", lambda path: read.update([path]) or file_sha256(path))
    assert Freshness(workspace).todo() == []
    assert read == Counter([] if settled else map(workspace.data, workspace.jobs())), "unless a glance is enough"
    workspace.data(Job("probes", 3)).write_bytes(b"altered")
    assert {str(job) for job in Freshness(workspace).todo()} >= {"probes step 3", "interventions step 3", "emergence"}


@pytest.mark.slow
def test_knowing_what_there_is_to_do_takes_no_more_for_each_checkpoint_when_there_are_many(tmp_path, told_quickly):
    def calls(workspace: Workspace) -> Counter:
        """How often each function is called, comparisons of jobs among them."""
        found = Counter()
        sys.setprofile(lambda frame, event, argument: event == "call" and found.update([frame.f_code.co_qualname]))
        try:
            Freshness(workspace).todo()
        finally:
            sys.setprofile(None)
        return found

    def grown() -> set[str]:
        """Functions called more than in proportion to the number of checkpoints, which is four times as large."""
        one, other = calls(few), calls(many)
        return {name for name, count in other.items() if count > 4.4 * one[name] + 20}

    few, many = (finished(tmp_path / str(n), n) for n in (8, 32))
    assert Freshness(few).todo() == Freshness(many).todo() == []
    assert not grown(), "all is done"
    for workspace in (few, many):
        for path in (workspace.folder / "probes").glob("*.nc"):
            path.write_bytes(b"altered")
    assert len(Freshness(many).todo()) == len(many.jobs())
    assert not grown(), "all depend on what is to be done again"


# --- by hand ------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, usual in (("checkpoints", 20), ("concepts", 8), ("layers", 24), ("hidden", 1024), ("prompts", 32)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--draws", type=int, default=40)
    parser.add_argument("--folder", type=Path, help="of a study made already")
    parser.add_argument("--figures", action="store_true")
    parser.add_argument("--shards", type=int, default=tree.SHARDS)
    given = vars(parser.parse_args())
    folder, figures, shards = (given.pop(name) for name in ("folder", "figures", "shards"))
    if folder:
        tree.SHARDS = shards
        print(json.dumps(analysed(folder, figures)))
        return
    with tempfile.TemporaryDirectory() as made:
        make(Path(made), **given)
        told = measured("--folder", made, *(["--figures"] if figures else []))
        outputs = Path(made) / "outputs" / "scale"
        sizes = {kind: list((outputs / kind).rglob("*")) for kind in ("probes", "interventions", "similarity")}
        written = [path for path in (outputs / "results.zarr").rglob("*") if path.is_file()]
        told["input_bytes"] = sum(path.stat().st_size for paths in sizes.values() for path in paths)
        told |= {"output_bytes": sum(path.stat().st_size for path in written), "output_files": len(written)}
        print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
