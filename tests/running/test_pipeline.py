"""The chain on the smoke study: papermill, Dask, resume, failures, refusals."""

import json
import os
import re
import shutil
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from rich.console import Console
from transformers import AutoModelForCausalLM

from helpers.hub import tiny_checkpoints
from helpers.studies import PROJECT, SMOKE, call, contents, tiny_study
from steerlib import SteerlibError
from steerlib.files import datasets
from steerlib.results.freshness import Freshness
from steerlib.results.workspace import Job, Workspace
from steerlib.running import pipeline
from steerlib.running.dispatch import Dispatch
from steerlib.running.worker import Outcome
from steerlib.stages.table import STAGES
from steerlib.study import Study


def write(folder: Path, **changes) -> Path:
    """The smoke study with some params changed."""
    params = yaml.safe_load(SMOKE.read_text()) | changes
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in params.items() if value is not None}))
    return path


def written(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in sorted(folder.glob("*/*.nc"))}


@pytest.fixture
def copied(smoke, tmp_path) -> Path:
    shutil.copytree(smoke, tmp_path / "outputs")
    return tmp_path / "outputs"


def test_results_have_the_groups_dims_and_names_of_the_design(smoke):
    expected = {
        "probes": {
            "direction": {"step", "probe", "concept", "layer", "hidden"},
            "auroc": {"step", "probe", "concept", "layer", "fold"},
            "auroc_redrawn": {"step", "concept", "layer", "fold", "redraw"},
            "auroc_shuffled": {"step", "concept", "layer", "fold", "deal"},
            "p_id": {"step", "probe", "concept", "layer", "variant"},
            "residual_norm": {"step", "layer"},
            "id_score": {"step", "probe", "concept", "layer", "variant"},
        },
        "interventions": {
            "log_odds": {"step", "probe", "concept", "layer", "alpha", "readout_concept", "prompt"},
            "steerability": {"step", "probe", "concept", "layer"},
            "steerability_null": {"step", "probe", "concept", "layer", "draw"},
            "slope": {"step", "concept", "layer", "prompt", "refit"},
            "interference_shuffled": {"step", "concept", "readout_concept", "layer", "deal"},
            "kl": {"step", "probe", "concept", "layer", "alpha"},
            "delta_nll_upper": {"step", "probe", "concept", "layer", "alpha"},
            "selectivity_lower": {"step", "probe", "concept", "layer"},
            "undo_error": {"step", "probe", "concept", "layer"},
        },
        "similarity": {
            "cosine_to_final": {"step", "probe", "concept", "layer"},
            "cosine_layers": {"step", "probe", "concept", "layer", "layer_b"},
            "cosine_concepts": {"step", "probe", "layer", "concept", "concept_b"},
            "cosine_concepts_lower": {"step", "probe", "layer", "concept", "concept_b"},
            "id_entropy_upper": {"step", "probe", "concept", "variant"},
            "cka": {"step", "layer", "layer_b"},
        },
        "generations": {},
        "instrument": {},
        "emergence": {
            "onset": {"question", "measure", "concept"},
            "value": {"measure", "concept", "step"},
            "status": {"measure", "concept"},
            "before": {"question", "concept", "concept_b"},
        },
    }
    with xr.open_datatree(smoke / "smoke" / "results.zarr", engine="zarr", consolidated=False) as tree:
        assert set(tree.children) == set(expected)
        for group, variables in expected.items():
            for name, dims in variables.items():
                assert set(tree[group][name].dims) == dims, name
            for name, variable in tree[group].data_vars.items():
                assert variable.attrs["long_name"] and variable.attrs["units"], name
        for group in ("probes", "interventions", "similarity"):
            assert {"tokens_seen", "revision", "weights_sha256"} <= set(tree[group].coords)
        assert tree["interventions"].log_odds.encoding["chunks"][:4] == (
            1,
            *tree["interventions"].log_odds.shape[1:3],
            1,
        )
        assert json.loads(tree.attrs["params"])["name"] == "smoke"


def test_the_data_mean_what_they_say(smoke):
    with xr.open_datatree(smoke / "smoke" / "results.zarr", engine="zarr", consolidated=False) as tree:
        probes, swept = tree["probes"].to_dataset(), tree["interventions"].to_dataset()
        assert np.allclose((probes.direction**2).sum("hidden"), 1, atol=1e-4)
        unsteered = swept.log_odds.sel(alpha=0)
        first = unsteered.isel(probe=0, concept=0, layer=0, drop=True)
        assert bool((unsteered == first).where(first.notnull(), True).all()), (
            "at alpha 0 nothing depends on the direction"
        )
        assert float(abs(swept.undo_error).max()) < 1e-4
        assert float(swept.kl.sel(alpha=0).max()) == 0 and float(swept.kl.min()) > -1e-6
        final = tree["similarity"].to_dataset().isel(step=-1)
        assert np.allclose(final.cosine_to_final, 1, atol=1e-4)
        assert np.allclose(np.diagonal(final.cka), 1, atol=1e-4)
        steered, local = swept.steerability.isel(step=-1), swept.local_slope.isel(step=-1)
        assert float(xr.corr(steered, local)) > 0.98, "the slope over the window agrees with the exact slope at 0"


def test_run_json_and_figures_tell_what_was_done(smoke):
    folder = smoke / "smoke"
    record = json.loads((folder / "run.json").read_text())
    assert record["study"]["name"] == "smoke" and record["versions"]["torch"].startswith("2.13")
    assert list(record["checkpoints"]) == ["0", "60", "120"]
    assert record["stages"]["probes"]["jobs"] == 3 and record["stages"]["probes"]["cpu_seconds"] > 0
    names = (
        "emergence_curves onset_summary order steerability_heatmap dose_response with_and_without cosine_to_final "
        "interference side_effects"
    )
    for name in names.split():
        assert (folder / "figures" / f"{name}.png").stat().st_size > 5_000
        assert "<svg" in (folder / "figures" / f"{name}.svg").read_text()
    assert len(list((folder / "notebooks").glob("*.ipynb"))) == 15


@pytest.mark.long
def test_a_study_of_other_methods_operator_scale_and_tokens_goes_through(smoke, run, tmp_path):
    """What is chosen by name: everything that the default does not use, on the same checkpoints."""
    made = str(smoke / "smoke" / "checkpoints")
    params = write(
        tmp_path,
        name="other",
        pretraining=None,
        checkpoints={"folder": made, "steps": [120]},
        probes={"methods": ["cluster_mean", {"k_sparse": {"k": 4}}], "pairs": 48, "random": 20, "shuffled": 20},
        sweep={"operator": "set", "scale": "iso_kl", "positions": "all", "prompts": 18, "neutral_texts": 16}
        | {"alphas": [-0.5, 0, 0.5, 1]},
        emergence={"bootstrap": 100, "shuffled": 100, "method": "cluster_mean"},
    )
    done = run(params, tmp_path / "outputs")
    assert done.returncode == 0, done.stdout + done.stderr
    swept = datasets.read(tmp_path / "outputs" / "other" / "interventions" / "step=00000120.nc").squeeze("step")
    assert swept.steerability.attrs["units"] == swept.alpha.attrs["units"].join(["nat per ", ""])
    real = swept.sel(probe=["cluster_mean", "k_sparse"])
    kl = real.kl_validation.sel(alpha=1)
    assert np.allclose(kl.where(real.strength.notnull(), 0.1), 0.1, rtol=0.02), "every push meets the budget"
    assert real.p_shuffled.sel(probe="cluster_mean").isnull().all() and real.strength.notnull().any()


def test_a_second_run_does_no_work(copied):
    told = copied / "smoke" / "ro-crate-metadata.json"
    before, written_at = written(copied / "smoke"), told.stat().st_mtime_ns
    again = call("run", SMOKE, "--outputs", copied)
    assert again.returncode == 0 and "nothing to do" in again.stdout
    assert written(copied / "smoke") == before and told.stat().st_mtime_ns == written_at
    assert call("audit", "verify", SMOKE, "--outputs", copied).returncode == 0


@pytest.mark.slow
def test_a_deleted_step_is_redone_with_what_depends_on_it_only(copied, run):
    folder = copied / "smoke"
    before, values = written(folder), contents(folder)
    (folder / "interventions" / "step=00000060.nc").unlink()
    assert "1 missing" in call("status", SMOKE, "--outputs", copied).stdout
    assert run(SMOKE, copied).returncode == 0
    changed = {name for name, when in written(folder).items() if when != before[name]}
    assert changed == {"interventions/step=00000060.nc", "generations/step=00000060.nc", "emergence/study.nc"}
    assert contents(folder) == values


def test_changed_analysis_params_redo_only_what_they_touch(copied, tmp_path):
    params = write(tmp_path, emergence={"bootstrap": 300})
    workspace = Workspace(Study.load(params), copied)
    assert Freshness(workspace).todo() == [Job("emergence")]
    params = write(tmp_path, sweep={"alphas": [-0.5, 0, 0.5], "prompts": 18, "neutral_texts": 8})
    assert {job.stage for job in Freshness(Workspace(Study.load(params), copied)).todo()} >= {
        "interventions",
        "emergence",
    }
    assert Job("pretraining") not in Freshness(Workspace(Study.load(params), copied)).todo()


def test_results_of_another_model_are_not_overwritten(copied, tmp_path):
    params = yaml.safe_load(SMOKE.read_text())
    other = write(tmp_path, pretraining=params["pretraining"] | {"steps": 150})
    refused = call("run", other, "--outputs", copied)
    assert refused.returncode != 0
    assert (
        "made by other params" in refused.stderr and "pretraining.steps" in refused.stderr and "150" in refused.stderr
    )
    assert "Traceback" not in refused.stderr


def test_an_altered_file_is_not_taken_for_a_whole_one(copied):
    path = copied / "smoke" / "probes" / "step=00000060.nc"
    path.write_bytes(path.read_bytes()[:-200])
    workspace = Workspace(Study.load(SMOKE), copied)
    assert Freshness(workspace).state(Job("probes", 60)) == "stale"
    stale_and_dependent = {
        "probes step 60",
        "interventions step 60",
        "generations step 60",
        "similarity step 60",
        "similarity step 120",
        "emergence",
    }
    assert {str(job) for job in Freshness(workspace).todo()} == stale_and_dependent


@pytest.mark.slow
def test_failing_checkpoints_are_reported_and_the_others_go_on(smoke, run, tmp_path):
    """Somebody's own folder of checkpoints: two are spoilt, and the last is of another model."""
    suite, made = tmp_path / "suite", smoke / "smoke" / "checkpoints"
    for name, step in {"70": 60, "80": 60, "120": 120}.items():
        original = made / f"step={step:08d}"
        shutil.copytree(original, suite / f"checkpoint-{name}", ignore=shutil.ignore_patterns("resume.pt"))
    (suite / "checkpoint-70" / "config.json").unlink()
    spoil(suite / "checkpoint-80" / "model.safetensors")
    other = AutoModelForCausalLM.from_pretrained(suite / "checkpoint-120", num_hidden_layers=1)
    shutil.copytree(suite / "checkpoint-120", suite / "checkpoint-130")
    other.save_pretrained(suite / "checkpoint-130")
    params = write(
        tmp_path, name="own", pretraining=None, generation=None, instrument=None, checkpoints={"folder": "suite"}
    )
    done = run(params, tmp_path / "outputs")
    assert done.returncode == 1
    before, _, after = done.stdout.partition("jobs to do")
    told = {70: "checkpoint-70: config.json is missing", 130: "step 130 has 1 blocks of width 64, but most of this his"}
    for step, fault in told.items():
        assert f"note: step {step} fails: " in after and after.count(fault) == 2 and fault not in before, done.stdout
        assert not [*(tmp_path / "outputs" / "own" / "notebooks").glob(f"*.step={step:08d}.ipynb")], "nothing was begun"
    last = datasets.read(tmp_path / "outputs" / "own" / "similarity" / "step=00000120.nc")
    assert last.cosine_to_final.isnull().all() and last.cka.isnull().all() and last.cosine_layers.notnull().all()
    executed = tmp_path / "outputs" / "own" / "notebooks"
    assert "probes step 130 is missing" in (executed / "3_representation_similarity.step=00000120.ipynb").read_text()
    assert "step 130 is left out" in (executed / "4_emergence_analysis.study.ipynb").read_text()
    assert "checkpoint-80" in done.stdout and "NaN" in done.stdout and "Traceback" not in done.stdout + done.stderr
    emergence = datasets.read(tmp_path / "outputs" / "own" / "emergence" / "study.nc")
    assert list(emergence.step.values) == [120]
    mine, theirs = (
        datasets.read(o / "probes" / "step=00000120.nc") for o in (tmp_path / "outputs" / "own", smoke / "smoke")
    )
    assert np.array_equal(mine.direction, theirs.direction), "the same weights give the same numbers, wherever they lie"


def test_what_files_tell_of_a_checkpoint_fails_its_own_jobs_before_any_is_begun(tmp_path):
    """Of three: one is of another model than the others, one is cut short; the last stages are done without."""
    study = Study.load(tiny_study(tmp_path, [0, 10, 20, 30]))
    tiny_checkpoints(tmp_path / "other", [30], width=16, layers=1)
    shutil.copytree(tmp_path / "other" / "step30", tmp_path / "history" / "step30", dirs_exist_ok=True)
    os.truncate(tmp_path / "history" / "step10" / "model.safetensors", 1000)
    workspace, begun = Workspace(study, tmp_path / "outputs"), []

    def submit(execute, common, job, **how) -> Future:
        begun.append(job)
        (future := Future()).set_result(Outcome(job, "done"))
        return future

    dispatch = Dispatch(None, workspace, workspace.jobs())
    assert dispatch.faults.keys() == {10, 30} and "model.safetensors: cannot be loaded" in dispatch.faults[10]
    assert "step 30 has 1 blocks of width 16, but most of this history have 2 blocks" in dispatch.faults[30]
    outcomes = dispatch.run(SimpleNamespace(submit=submit), lambda **_: None)
    assert {job.step for job in begun} == {0, 20, None} and Job("similarity", 20) in begun
    failed = {outcome.job: outcome for outcome in outcomes if outcome.state == "failed"}
    assert failed.keys() == {Job("probes", 10), Job("probes", 30)}
    assert all(one.message == dispatch.faults[job.step] and one.notebook is None for job, one in failed.items())


def test_a_folder_of_which_nothing_can_be_used_is_refused_before_any_worker_starts(tmp_path):
    """Each kind of fault is told once, with its reason; other trainers' checkpoints as what they are."""
    study = Study.load(tiny_study(tmp_path, [0, 10, 20, 30, 40]))
    for step in (0, 10):
        (tmp_path / "history" / f"step{step}" / "model.safetensors").unlink()
        (tmp_path / "history" / f"step{step}" / "lit_model.pth").touch()
    for file in (tmp_path / "history" / "step20").glob("tok*"):
        file.unlink()
    (tmp_path / "history" / "step30" / "config.json").unlink()
    other = tmp_path / "history" / "step40" / "config.json"
    other.write_text(other.read_text().replace("gpt_neox", "made_up"))
    with pytest.raises(SteerlibError) as refused:
        pipeline.run(study, tmp_path / "outputs", lambda *_: pytest.fail("workers were started"), Console(quiet=True))
    first, *others = str(refused.value).splitlines()
    assert re.search(
        r"step0: no Hugging Face checkpoint, but one of litgpt \(lit_model.pth\): .* \(step 0, and 1 more step",
        first,
    )
    said = (
        "step20: holds no tokenizer",
        "step30: config.json is missing",
        "step40: config.json: cannot be used .*made_up",
    )
    assert all(re.search(words, line) for words, line in zip(said, others, strict=True)), others
    assert "run again" not in str(refused.value) and "again" not in others[2]


@pytest.mark.slow
def test_a_failed_analysis_of_all_shows_no_earlier_table(copied, run, tmp_path):
    (copied / "smoke" / "study.json").unlink()  # of other params
    shutil.rmtree(copied / "smoke" / "figures")
    (copied / "smoke" / "figures").touch()  # a file where the folder of figures should be
    failed = run(write(tmp_path, emergence={"bootstrap": 300}), copied)
    assert failed.returncode == 1 and "failed emergence" in failed.stdout and "placebo" not in failed.stdout


@pytest.mark.slow
def test_a_study_can_finetune_every_checkpoint_first(smoke, run, tmp_path):
    """The same checkpoint with and without: only what is analysed differs, and each result says what it looked at."""
    given = {"checkpoints": {"folder": str(smoke / "smoke" / "checkpoints"), "steps": [60]}, "pretraining": None}
    given |= {"generation": None, "instrument": None}
    params = write(tmp_path, name="tuned", finetuning={"documents": 200, "steps": 4, "batch": 8}, **given)
    done = run(params, tmp_path / "outputs")
    assert done.returncode == 0, done.stdout + done.stderr
    folder, hashes = tmp_path / "outputs" / "tuned", {}
    with xr.open_datatree(folder / "results.zarr", engine="zarr", consolidated=False) as tree:
        assert tree["finetuning"].loss.sizes == {"step": 1, "update": 4}
        hashes["original"] = tree["finetuning"].original_weights_sha256.values.tolist()
        for group in ("finetuning", "probes", "interventions", "similarity"):
            hashes[group] = tree[group].weights_sha256.values.tolist()
    without = datasets.read(smoke / "smoke" / "probes" / "step=00000060.nc")
    assert hashes["original"][0] == without.weights_sha256.item() != hashes["probes"][0]
    assert hashes["finetuning"] == hashes["probes"] == hashes["interventions"] == hashes["similarity"]
    assert not np.allclose(
        datasets.read(folder / "probes" / "step=00000060.nc").direction, without.direction, atol=1e-3
    )
    recorded = json.loads((folder / "run.json").read_text())["checkpoints"]["60"]
    assert [recorded["weights_sha256"], recorded["finetuned_sha256"]] == [hashes["original"][0], hashes["probes"][0]]
    assert Freshness(Workspace(Study.load(SMOKE), smoke)).todo() == []


def spoil(file: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(file)
    name = next(iter(weights))
    weights[name] = weights[name].clone()
    weights[name].view(-1)[0] = torch.nan
    save_file(weights, file, metadata={"format": "pt"})


def test_two_drivers_on_one_folder_are_refused(copied):
    from filelock import FileLock

    with FileLock(copied / "smoke" / ".lock"):
        refused = call("run", SMOKE, "--outputs", copied)
    assert refused.returncode == 2 and "another steerlib run" in refused.stderr


def test_the_notebooks_are_short_stripped_and_complete():
    for name in (stage.notebook for stage in STAGES.values()):
        cells = json.loads((PROJECT / "notebooks" / f"{name}.ipynb").read_text())["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
        assert sum("parameters" in cell["metadata"].get("tags", []) for cell in code) == 1
        assert all("def " not in line for cell in code for line in cell["source"])
        assert "$" in "".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown") or name.startswith(
            "0"
        )


@pytest.mark.slow
def test_a_notebook_runs_alone(copied, tmp_path):
    """In a cold kernel, as by 'Run All': what a notebook needs and is not there, it makes first."""
    import papermill

    assert "STEERLIB_DRIVEN" not in os.environ
    made = [copied / "smoke" / stage / "step=00000120.nc" for stage in ("probes", "interventions")]
    for path in made:
        path.unlink()
    name = "2_intervention_sweep"
    papermill.execute_notebook(
        str(PROJECT / "notebooks" / f"{name}.ipynb"),
        str(tmp_path / f"{name}.ipynb"),
        {"study": "params/smoke.yaml", "step": 120, "outputs": str(copied)},
        kernel_name="python3",
        progress_bar=False,
        cwd=str(PROJECT / "notebooks"),
    )
    assert all(path.exists() for path in made)
