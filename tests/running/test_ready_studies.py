"""The studies of published suites in params/: valid, and run through on tiny stand-ins with the suites' own names."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from helpers.hub import Hub, ask, tiny_checkpoints
from helpers.models import write_remote
from steerlib.checkpoints import fetching, listing, suites
from steerlib.checkpoints.history import history
from steerlib.model import load
from steerlib.stages import interventions, probing
from steerlib.study import Study

PARAMS = Path(__file__).parents[2] / "params"
# study -> how many checkpoints it looks at
STUDIES = {
    "pythia-70m.yaml": 14,
    "pythia-160m.yaml": 12,
    "polypythias-160m.yaml#seed-1": 12,
    "pythia-410m.yaml": 20,
    "olmo-2-1b.yaml": 12,
    "amber.yaml": 12,
    "crystal.yaml": 4,
    "smollm2-135m.yaml": 10,
}
# Revisions of suites whose list is not known, by architecture: their names, at steps like theirs.
NAMES = {
    "crystalcoder": [f"CrystalCoder_phase2_checkpoint_{step:06}" for step in range(91_500, 214_388, 1500)],
    "olmo2": [f"stage1-step{step}-tokens{-(-step * 2_097_152 // 10**9)}B" for step in range(0, 1_910_000, 10_000)],
    "llama": [f"step-{step}" for step in range(240_000, 2_000_001, 40_000)],
}


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """A hub that this process asks, and a cache of its own."""
    with Hub() as hub:
        ask(hub, monkeypatch, tmp_path / "cache")
        yield hub


def stand_ins(hub: Hub, repo: str, folder: Path) -> suites.Suite:
    """All revisions of a suite's repository as tiny checkpoints of its architecture, no two alike."""
    suite = suites.suite_of(repo)
    architecture = "gpt2" if suite.needs else suite.architecture
    (original,) = tiny_checkpoints(folder / "tiny", [0], architecture, width=16).values()
    if suite.needs:
        original = write_remote(folder / "original", AutoTokenizer.from_pretrained(original))
    for k, revision in enumerate(suite.grid or NAMES[suite.architecture]):
        copy = shutil.copytree(original, folder / "revisions" / revision)
        data = bytearray((copy / "model.safetensors").read_bytes())
        data[-4:] = np.float32(k / 1000).tobytes()
        (copy / "model.safetensors").write_bytes(data)
        hub.add(repo, revision, copy)
    return suite


def small(study: Study) -> Study:
    """The same study of fewer stimuli, prompts and draws."""
    named = {"anger", "fear", "truth"}
    chosen = [e for e in study.concepts if not isinstance(e, str) and {e.positive, Path(e.file).stem} & named]
    some = [
        entry.model_copy(update={"limit": 24, "prompts": [f"{who} felt" for who in ("She", "He", "Anna", "It")]})
        for entry in chosen
    ]
    plan = study.probes.model_copy(update={"random": 20, "shuffled": 20})
    sweep = study.sweep.model_copy(update={"neutral_texts": 8, "bootstrap": 100, "alphas": [-0.5, 0.0, 0.5]})
    sweep = sweep.model_copy(update={"neighbours": "all"})
    return study.model_copy(update={"concepts": some, "probes": plan, "sweep": sweep})


def test_these_are_the_studies_of_repositories_in_params():
    found = {path.name for path in PARAMS.glob("*.yaml") if re.search(r"^  repo:", path.read_text(), re.MULTILINE)}
    assert found == {name for name in STUDIES if "#" not in name}


@pytest.mark.parametrize("name", STUDIES)
def test_a_ready_study_runs_through_on_a_stand_in_of_its_suite(name, inside, tmp_path):
    study = Study.load(PARAMS / name)
    text = (PARAMS / name.partition("#")[0]).read_text()
    assert all(re.search(what, text, re.IGNORECASE) for what in ("download", "disk", "memory", "time")), (
        "says its needs"
    )
    suite = stand_ins(inside, study.checkpoints.repo, tmp_path)
    study.load_neutral()
    assert {concept.name for concept in study.load_concepts()} >= {"happiness", "disgust", "truth", "commonsense"}
    found = listing.take(study, tmp_path / "results")
    assert len(found.studied) == STUDIES[name] and not found.twins
    assert study.loading.trust_remote_code == bool(suite.needs)
    weights = (suite.bytes(study.checkpoints.repo) or 0) * 2
    assert study.checkpoints.disk >= weights, "two checkpoints, one of which is fetched while the other is analysed"
    checked = small(study)
    concepts = checked.load_concepts()
    for entry in (found.studied[0], found.studied[-1]):
        fetching.fetch(found, entry, tmp_path / "results")
    first, *_, last = history(study, tmp_path / "results")
    for checkpoint in (first, last):
        assert checkpoint.tokens_seen >= 0
        model = load(checkpoint)
        probes = probing.extract(model, checked, concepts)
        swept = interventions.sweep(model, checked, concepts, probes)
        assert np.isfinite(swept.steerability.sel(probe="mean_difference")).all()
        assert float(swept.undo_error.max()) < (1e-3 if study.loading.dtype == "float32" else 0.5)


def test_crystals_percentages_are_the_published_revisions(inside, tmp_path):
    study = Study.load(PARAMS / "crystal.yaml")
    stand_ins(inside, study.checkpoints.repo, tmp_path)
    names = [entry.revision for entry in listing.take(study, tmp_path / "results").studied]
    assert [int(name[-6:]) for name in names] == [105_000, 120_000, 150_000, 195_000]
