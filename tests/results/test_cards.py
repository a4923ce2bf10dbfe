"""What a direction's card tells: what the study found of this very push, and nothing where it found nothing."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
import yaml

import steerlib
from helpers.studies import SMOKE
from steerlib.concepts import reading
from steerlib.concepts.reading import ConceptFile
from steerlib.files import datasets
from steerlib.results import cards, judged
from steerlib.results.freshness import Begun, write_stamp
from steerlib.results.workspace import Job
from steerlib.steering import Direction
from steerlib.study import Study

TEXTS = {"positive": ["Would you kindly sit?", "Thank you, no."] * 3, "negative": ["Sit.", "No."] * 3}
ALPHAS = [-0.5, 0.0, 0.5, 1.0]


@pytest.fixture(scope="module")
def study(tmp_path_factory, calm, params):
    """One that was judged, as its notebook does."""
    outputs, job = tmp_path_factory.mktemp("cards"), Job("readiness")
    shutil.copytree(calm, outputs / "tiny")
    path = outputs / "tiny.yaml"
    path.write_text(params.read_text() + "readiness: {}\n")
    study = steerlib.open(path, outputs)
    begun = Begun.of(study.workspace, job)
    study.workspace.save(job, judged.whole(study))
    write_stamp(study.workspace, job, begun, wall_seconds=0.0)
    return study


@pytest.fixture(scope="module")
def found(study):
    return study.direction("sadness")


def test_a_card_tells_where_a_direction_comes_from_and_what_a_push_along_it_did(study, found, tmp_path):
    card, cell = found.card, datasets.read(study.workspace.folder / "readiness" / "study.nc").sel(step=20)
    cell = cell.sel(concept="sadness", probe="mean_difference")
    assert (card.study, card.step, card.seed, card.source) == ("tiny", 20, 0, "history")
    assert card.texts.pairs == len(study.workspace.concepts[1].stimuli("fit", 0).positive)
    assert card.texts.licence is None and card.texts.frame == "{}" and len(card.versions) == 4
    for name in ("size", "kl", "effect"):
        told = {end: getattr(card.pushed.criteria[name], end) for end in ("value", "lower", "upper")}
        stored = {end: float(cell[end].sel(criterion=name)) for end in told}
        assert told == {end: value if np.isfinite(value) else None for end, value in stored.items()}
    assert card.pushed.verdict == cell.verdict.item() and card.pushed.alpha is None
    emergence = datasets.read(study.workspace.folder / "emergence" / "study.nc").sel(step=20, concept="sadness")
    assert card.pushed.null_upper == float(emergence.null_upper.sel(measure="steerability"))
    found.save(tmp_path / "sadness")
    assert Direction.load(tmp_path / "sadness").card == card == study.load(tmp_path / "sadness").card


def test_alpha_counts_by_hand_what_it_counts_in_the_results(study, found):
    probes = datasets.read(study.workspace.folder / "probes" / "step=00000020.nc").squeeze("step")
    for layer in range(2):
        one = study.direction("sadness", layer=layer, card=False)
        assert one.residual_norm == pytest.approx(float(probes.residual_norm.sel(layer=layer)), rel=1e-5)
    assert found.card.pushed.strength == pytest.approx(found.residual_norm, rel=1e-5)


def test_of_a_push_that_was_not_tried_or_does_not_hold_any_more_nothing_is_told(study, found, tmp_path):
    assert study.direction("sadness", layer=1 - found.layer).card.pushed is None
    assert study.direction("sadness", layer=found.layer, method="pca").card.pushed is None
    found.save(tmp_path / "sadness")
    for change in ("weights_sha256", "concept"):
        other = replace(
            Direction(**{key: of for key, of in vars(found).items() if key != "folder"}), **{change: "other"}
        )
        assert cards.cell_of(study._ready, study.results, other, 20) is None
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(study.params.path.read_text()) | {"emergence": {"bootstrap": 120}}))
    again = steerlib.open(path, study.workspace.folder.parent).direction("sadness").card
    assert again.pushed is None and again.texts == found.card.texts


def test_texts_are_told_as_they_were_put_to_the_model_with_frame_and_licence(tmp_path):
    file = tmp_path / "polite.jsonl"
    pairs = [(f"{a} {k}", f"{b} {k}") for k in "abcdef" for a, b in zip(*TEXTS.values(), strict=True)]
    file.write_text("\n".join(json.dumps({"positive": a, "negative": b}) for a, b in pairs))
    options = {"file": str(file), "targets": [" kind"], "foils": [" rude"]}
    study = Study.load(SMOKE)

    def texts(**more):
        concept = reading.load(ConceptFile(**options | more)).concept()
        return cards.of(type("Workspace", (), {"study": study}), concept, 0, None).texts

    plain, framed = texts(), texts(frame="The {concept} one: {}", licence="CC-BY-4.0")
    assert (plain.frame, plain.licence) == ("{}", None) and plain.sha256 == texts(licence="CC0-1.0").sha256
    assert (framed.frame, framed.licence) == ("The polite one: {}", "CC-BY-4.0")
    assert framed.sha256 != plain.sha256 and framed.pairs == plain.pairs
    own = tmp_path / "own.yaml"
    readout = {"prompts": ["It was", "She is", "He was"], "targets": [" kind"], "foils": [" rude"]}
    templates = [{"name": k, "positive": [f"{k} yes", f"{k} oh"], "negative": [f"{k} no", f"{k} ah"]} for k in "ab"]
    own.write_text(yaml.safe_dump({"name": "own", "licence": "MIT", "templates": templates, "readout": readout}))
    concept = reading.load(ConceptFile(file=str(own))).concept()
    assert concept.licence == "MIT" and "licence" not in concept.model_dump(), "no result hangs on it"


# --- the interval of alpha --------------------------------------------------------------------------------------------


def swept(best: np.ndarray, testing: float = 0.0) -> xr.Dataset:
    """Validation prompts that each gain most at one alpha, and test prompts beside them."""
    gains = np.concatenate([np.equal.outer(best, ALPHAS).astype(float), np.full((5, len(ALPHAS)), testing)])
    split = np.array(["validation"] * len(best) + ["test"] * 5)
    dims = ("concept", "readout_concept", "prompt", "alpha")
    values = {"log_odds": (dims, gains[None, None]), "split": (dims[1:3], split[None])}
    for name in ("kl_validation_upper", "delta_nll_validation_upper"):
        values[name] = (("concept", "alpha"), np.zeros((1, len(ALPHAS))))
    return xr.Dataset(values, {"concept": ["joy"], "readout_concept": ["joy"], "alpha": ALPHAS}).set_coords("split")


def test_alpha_lies_between_what_other_validation_prompts_would_have_chosen():
    study = Study.load(SMOKE)
    assert cards.alphas(swept(np.full(12, 0.5)), study) == (0.5, 0.5)
    torn = np.where(np.arange(12) < 6, 0.5, 1.0)
    assert cards.alphas(swept(torn), study) == cards.alphas(swept(torn, testing=9.0), study) == (0.5, 1.0)
    dear = swept(torn)
    dear.kl_validation_upper[:, 3] = 1.0
    assert cards.alphas(dear, study) == (0.5, 0.5), "what is not allowed is never chosen"
    dear.kl_validation_upper[:] = 1.0
    assert cards.alphas(dear, study) == cards.alphas(swept(torn[:3]), study) == (None, None)
