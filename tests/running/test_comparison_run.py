"""A comparison by the command: its variants and then what they have in common, redone where something changed."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from helpers.studies import call
from steerlib.files import datasets
from steerlib.running import pipeline
from steerlib.running.comparison import ComparisonRun


def written(outputs: Path) -> dict[str, int]:
    paths = [*outputs.glob("*/*.nc"), *outputs.glob("*/*/*.nc")]
    return {str(path.relative_to(outputs)): path.stat().st_mtime_ns for path in paths}


@pytest.mark.long
def test_two_seeds_end_to_end_then_again_and_with_one_variant_changed(home, calm, run, tmp_path):
    """The first seed is the study itself, which was run before."""
    outputs, path = tmp_path / "outputs", tmp_path / "seeds.yaml"
    shutil.copytree(calm, outputs / "tiny", ignore=shutil.ignore_patterns("study.json"))  # it is of other params
    shutil.copy(home / "tiny.yaml", tmp_path)
    comparison = {"name": "seeds", "study": "tiny.yaml", "variants": {"seed-0": {}, "seed-1": {"seed": 1}}}
    path.write_text(yaml.safe_dump(comparison))

    done = run(path, outputs)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "of 2" in done.stdout
    assert all(f"Steerability {answer}:" in done.stdout for answer in ("first detectable", "half way"))
    assert done.stdout.count("nothing to do") == 1, "of the first seed"
    found = datasets.read(outputs / "seeds" / "comparison.nc")
    assert found.variant.values.tolist() == ["seed-0", "seed-1"] and found.seed.values.tolist() == [0, 1]
    own = datasets.read(outputs / "seeds.seed-1" / "emergence" / "study.nc")
    assert np.array_equal(found.value.sel(variant="seed-1").transpose(*own.value.dims), own.value)
    assert not found.value.sel(variant="seed-0").equals(found.value.sel(variant="seed-1")), (
        "another seed is another draw"
    )
    assert not found.paired.any()
    for name in ("onsets", "order", "steerability", "steerability_difference_seed-1", "separability_difference_seed-1"):
        assert (outputs / "seeds" / "figures" / f"{name}.png").stat().st_size > 5_000
    assert (outputs / "seeds" / "notebooks" / "5_comparison.ipynb").exists()

    before = written(outputs)
    again = call("run", path, "--outputs", outputs)
    assert again.returncode == 0 and again.stdout.count("nothing to do") == 3
    assert written(outputs) == before

    stamp = (outputs / "seeds" / "comparison.stamp.json").rename(tmp_path / "stamp.json").read_bytes()
    for rubbish in (b"", b"[]", b"{}", b'{"key": 1}'):
        (outputs / "seeds" / "comparison.stamp.json").write_bytes(rubbish)
        told = call("status", path, "--outputs", outputs)
        assert told.returncode == 0 and "comparison: missing" in told.stdout, told.stdout + told.stderr
    (outputs / "seeds" / "comparison.stamp.json").write_bytes(stamp)

    # A variant that cannot be run does not keep the others from being compared; and the exit status says so.
    comparison["variants"]["seed-1"]["emergence"] = {"bootstrap": 120}
    path.write_text(yaml.safe_dump(comparison))
    assert "comparison: stale" in call("status", path, "--outputs", outputs).stdout
    comparison["variants"]["elsewhere"] = {"checkpoints": {"folder": "nowhere"}}
    path.write_text(yaml.safe_dump(comparison))
    partly = run(path, outputs)
    assert (
        partly.returncode == 1 and "failed elsewhere:" in partly.stdout and "nowhere: no such folder" in partly.stdout
    )
    assert "Traceback" not in partly.stdout + partly.stderr
    changed = {name for name, when in written(outputs).items() if when != before[name]}
    assert changed == {"seeds.seed-1/emergence/study.nc", "seeds/comparison.nc"}
    assert datasets.read(outputs / "seeds" / "comparison.nc").sizes["variant"] == 2


def test_a_comparison_is_of_the_params_that_it_began_with_and_done_anew_where_that_is_asked_for(
    home, tmp_path, monkeypatch
):
    shutil.copy(home / "tiny.yaml", tmp_path)
    path, seen = tmp_path / "seeds.yaml", []
    variants = {f"seed-{k}": {"seed": k} for k in range(2)}
    path.write_text(yaml.safe_dump({"name": "seeds", "study": "tiny.yaml", "variants": variants}))

    def run(study, *of, again):  # and meanwhile somebody edits
        path.write_text(yaml.safe_dump({"name": "seeds", "study": "tiny.yaml", "variants": variants | {"more": {}}}))
        seen.append((study.name, *again))
        return []

    monkeypatch.setattr(pipeline, "run", run)
    monkeypatch.setattr(ComparisonRun, "state", lambda self: "done")
    monkeypatch.setattr(ComparisonRun, "usable", lambda self: self.variants)
    monkeypatch.setattr(ComparisonRun, "compare", lambda self: seen.append((*self.variants,)))
    call("run", path, "--outputs", tmp_path, "--again", "comparison", "--again", "probes@10")
    assert seen == [("seeds.seed-0", "probes@10"), ("seeds.seed-1", "probes@10"), ("seed-0", "seed-1")]


def test_fewer_than_two_variants_with_results_are_told_by_name_and_no_notebook_is_run(home, tmp_path):
    names = [f"v{k}" for k in range(7)]  # of one fault, and yet each by its name
    variants = {name: {"checkpoints": {"folder": "nowhere"}, "seed": k} for k, name in enumerate(names)}
    shutil.copy(home / "tiny.yaml", tmp_path)
    path = tmp_path / "none.yaml"
    path.write_text(yaml.safe_dump({"name": "none", "study": "tiny.yaml", "variants": variants}))
    done = call("run", path, "--outputs", tmp_path / "outputs")
    assert done.returncode == 1 and all(f"failed {name}: " in done.stdout for name in names), done.stdout + done.stderr
    assert "failed none: a comparison needs two variants with results; found 0" in done.stdout
    assert not (tmp_path / "outputs" / "none" / "notebooks").exists()
