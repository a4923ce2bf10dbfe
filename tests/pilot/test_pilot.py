"""A pilot: what is frozen is what is used, what was seen is refused, and what was altered is not relied on."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import yaml

import steerlib
from helpers.studies import call
from steerlib import SteerlibError
from steerlib.pilot import deployment, freeze, sealed, trial, unseen, validation, watching
from steerlib.pilot.choices import Told
from steerlib.pilot.seen import marks, of_study, prompts_of, texts_of
from steerlib.pilot.trial import ASKED, Chosen
from steerlib.pilot.validation import Along
from steerlib.results import judged
from steerlib.stages.criteria import CRITERIA
from steerlib.study import Study

SEEN = 'Anna said "so it is" - and felt calm'
AGAIN = {
    "as it is": SEEN,
    "quotes and dashes": "Anna said “so it is” – and felt calm",
    "white space": ' Anna said  "so it is" -\u00a0and felt calm',
    "capitals": SEEN.upper(),
    "what is not seen": SEEN.replace("felt", "fe\u200blt"),
    "Unicode's spellings": SEEN.replace("A", "\uff21", 1),
}


@pytest.fixture(scope="module")
def explored(tmp_path_factory, calm, params):
    """A study that was run, of its own folder."""
    outputs = tmp_path_factory.mktemp("pilot")
    shutil.copytree(calm, outputs / "tiny")
    return steerlib.open(params, outputs)


@pytest.fixture(scope="module")
def frozen(explored):
    """Of a study in which nothing emerges: what is not ready counts as ready to be validated."""
    found = judged.cells(explored, None, None, None)
    found = found.assign(verdict=found.verdict.copy(data=["validate"] * 2), recommended_alpha=found.lower[0] * 0 + 0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judged, "cells", lambda *_: found)
        return freeze.new(explored)


@pytest.fixture(scope="module")
def tried(explored, frozen):
    """Happiness along what raises its words in the last layer, sadness along nothing in particular."""
    _, _, then = freeze.load(explored)
    model, (happiness, _) = then.model(frozen.step), then.workspace.concepts
    words = [
        [model.tokenizer(word)["input_ids"][0] for word in getattr(happiness.readout, side)]
        for side in ("targets", "foils")
    ]
    raised, lowered = (model.unembedding[rows].mean(0) for rows in words)
    planted = (raised - lowered).detach().numpy()
    vectors = {"happiness": planted, "sadness": np.random.default_rng(0).standard_normal(model.hidden)}
    chosen = {}
    for name, one in frozen.concepts.items():
        of = then.direction(name, layer=1)
        vector = (vectors[name] / np.linalg.norm(vectors[name])).astype(np.float32)
        push = one.model_copy(update={"layer": 1, "strength": of.residual_norm})
        chosen[name] = Chosen(push, replace(of, vector=vector))
    new = unseen.told(then.params, [*frozen.concepts], set(), fresh=5)
    return trial.tried(model, then.params, chosen, new.concepts, new.others, new.passages)


# --- freezing -------------------------------------------------------------------------------------------------------


def test_what_is_frozen_is_what_was_explored_whatever_the_params_say_later(explored, frozen, tmp_path):
    found, directions, _ = freeze.load(explored)
    assert found == frozen and {*found.concepts} == {"happiness", "sadness"}
    stored = explored.results["probes"].sel(step=20, probe="mean_difference", concept="sadness")
    one, direction = found.concepts["sadness"], directions["sadness"]
    np.testing.assert_array_equal(direction.vector, stored.direction.sel(layer=one.layer).values)
    swept = explored.results["interventions"].strength.sel(step=20, probe="mean_difference", concept="sadness")
    assert one.strength == float(swept.sel(layer=one.layer)) and one.alpha == 0.5
    assert one.explored["size"].value == float(judged.cells(explored, None, None, None).value.sel(criterion="size")[1])
    loose = tmp_path / "tiny.yaml"
    loose.write_text(explored.params.path.read_text() + "readiness: {kl: 9, off_target: 9}\n")
    *_, then = freeze.load(steerlib.open(loose, explored.workspace.folder.parent))
    assert then.params.readiness.kl == 0.2 and then.params.path == loose
    assert SEEN not in (text := (freeze.folder_of(explored) / freeze.NAME).read_text()) and "felt" not in text


def test_a_concept_that_is_not_ready_is_not_frozen(calm, params):
    ended = call("pilot", "new", params, "--outputs", calm.parent, "--concept", "sadness")
    assert ended.returncode == 2 and "sadness is not ready at step 20, held back by effect" in ended.stderr
    assert not (calm / "pilot" / freeze.NAME).exists()


def test_a_study_that_was_not_run_and_one_without_a_freeze_say_what_to_do(tmp_path, calm, params):
    for words, outputs, told in (
        (["new"], tmp_path, "steerlib run"),
        (["validate"], calm.parent, "steerlib pilot new"),
    ):
        ended = call("pilot", *words, params, "--outputs", outputs)
        assert ended.returncode == 2 and told in ended.stderr and len(ended.stderr.splitlines()) == 1


def test_a_freeze_is_not_overwritten_unasked(explored, frozen):
    with pytest.raises(SteerlibError, match="--overwrite"):
        freeze.new(explored)


@pytest.mark.parametrize(
    "name, change, told",
    [
        (freeze.NAME, lambda data: data.replace(b"kl: 0.2", b"kl: 0.9"), "was altered since it was written"),
        (freeze.NAME, lambda data: data.replace(b"alpha: 0.5", b"alpha: 0.4", 1), "was altered since it was written"),
        (freeze.NAME, lambda data: data[:200], "freeze.yaml: "),
        ("sadness.safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1]), "is not the direction that was frozen"),
    ],
)
def test_an_altered_freeze_or_direction_is_refused(explored, frozen, name, change, told):
    path = freeze.folder_of(explored) / name
    whole = path.read_bytes()
    try:
        path.write_bytes(change(whole))
        assert path.read_bytes() != whole
        with pytest.raises(SteerlibError, match=told):
            freeze.load(explored)
    finally:
        path.write_bytes(whole)


# --- what was seen ----------------------------------------------------------------------------------------------------


def concept_file(folder, text: str, prompt: str = "Later on it was"):
    """New texts of happiness, one of them given."""
    sides = lambda k: {"positive": [f"joy {k}", f"glad {k}"], "negative": [f"stone {k}", f"wood {k}"]}  # noqa: E731
    templates = [{"name": f"t{k}"} | sides(k) for k in range(3)]
    templates[1]["positive"].append(text)
    templates[1]["negative"].append("a plain text")
    readout = {"prompts": [prompt, "Then it seemed", "It was"], "targets": [" happy"], "foils": [" sad"]}
    path = folder / "happiness.yaml"
    path.write_text(yaml.safe_dump({"name": "happiness", "templates": templates, "readout": readout}))
    return path


@pytest.mark.parametrize("text", AGAIN.values(), ids=AGAIN)
def test_what_was_seen_is_refused_however_it_is_written(explored, tmp_path, text):
    for what, words in (("template 't1'", [text]), ("prompt", ["new", text])):
        file = concept_file(tmp_path, *words)
        with pytest.raises(SteerlibError, match=f"happiness.yaml: {what}: .*was seen in exploring"):
            unseen.told(explored.params, ["happiness"], marks([SEEN]), [str(file)])


def test_new_texts_are_read_as_they_are_and_a_repeated_one_counts_once(explored, tmp_path):
    new = unseen.told(explored.params, ["happiness"], marks([SEEN]), [str(concept_file(tmp_path, "joy 1"))])
    assert [one.name for one in new.concepts] == ["happiness"] and [one.name for one in new.others] == ["sadness"]
    assert sum(len(template.positive) for template in new.concepts[0].templates) == 7 and new.passages is None
    with pytest.raises(SteerlibError, match="'joy' was not frozen"):
        unseen.told(explored.params, ["happiness"], marks([]), [f"joy={tmp_path / 'happiness.yaml'}"])


def test_what_the_planted_world_tells_anew_was_never_seen(params):
    study = Study.load(params)
    names, seen = study.concepts, frozenset().union(*(one for pair in of_study(study).values() for one in pair))

    def drawn(seen):
        new = unseen.told(study, names, seen, fresh=1)
        return [text for one in new.concepts for text in texts_of(one, one) + prompts_of(one)]

    first = drawn(seen)
    seen |= marks(first[::7])
    assert len(first) > 40 and seen.isdisjoint(marks(again := drawn(seen))) and len(again) > 40
    more = {"prompts": unseen.MORE * study.sweep.prompts}
    many = study.model_copy(update={"sweep": study.sweep.model_copy(update=more)})
    asked = marks(prompt for one in many.load_concepts() for prompt in prompts_of(one))
    with pytest.raises(SteerlibError, match="that is the study's own seed"):
        unseen.told(study, names, asked, fresh=study.seed)


# --- trying, deploying, watching --------------------------------------------------------------------------------------


def test_a_planted_effect_is_found_again_and_nothing_is_not(tried):
    planted, nothing = (tried.cells.outcome.sel(concept=name) for name in ("happiness", "sadness"))
    assert {*tried.cells.criterion.values} == {*ASKED} == {"separable", *CRITERIA} - {"lasting"}
    for name in ("effect", "size", "undo"):
        assert planted.sel(criterion=name) == "pass", name
    assert tried.cells.value.sel(concept="happiness", criterion="one sign") == 0, "of so few prompts it is not sure"
    assert nothing.sel(criterion=["effect", "size"]).isin(["fail", "unknown"]).all()
    assert nothing.sel(criterion="separable") != "pass", "texts are not told apart along no direction"


@pytest.fixture(scope="module")
def card(explored, frozen):
    """Of happiness, deployed on a validation that is made to hold."""
    words = [explored.params.path, "--outputs", explored.workspace.folder.parent]
    ended = call("pilot", "validate", *words)
    assert ended.returncode == 1 and "happiness does not hold on" in ended.stdout, ended.stderr
    path = freeze.folder_of(explored) / validation.NAME
    found = sealed.read(path, validation.Validation, "")
    assert found.freeze == frozen.hash and found.tries == 1 and not found.new_passages and not found.holds
    ended = call("pilot", "deploy", *words)
    assert ended.returncode == 2 and "its validation does not hold: " in ended.stderr
    good = {name: one.model_copy(update={"holds": name == "happiness"}) for name, one in found.concepts.items()}
    sealed.write(path, found.model_copy(update={"concepts": good}))
    ended = call("pilot", "deploy", *words)
    assert ended.returncode == 2 and "validation.json: was altered" in ended.stderr
    sealed.write(path, found.model_copy(update={"concepts": good}).sealed())
    ended = call("pilot", "deploy", *words)
    assert ended.returncode == 0, ended.stderr
    return freeze.folder_of(explored) / "deployed" / "happiness.card.json"


def test_a_card_tells_what_was_validated_and_is_refused_once_it_is_altered(card):
    found, chosen = deployment.load(card)
    assert found.undone == 0 and found.having.n == found.validated.pairs and found.concept == chosen.direction.concept
    assert found.having.mean == pytest.approx(np.mean(found.validated.along.having))
    assert not (card.parent / "sadness.card.json").exists()
    whole = card.read_text()
    for changed in (re.sub(r'"mean": [-\d.e]+', '"mean": 0.5', whole, count=1), whole[:-40]):
        card.write_text(changed)
        ended = call("monitor", card)
        assert ended.returncode == 2 and re.search("was altered|cannot be read", ended.stderr)
        assert len(ended.stderr.splitlines()) == 1
    card.write_text(whole)


def test_the_same_checkpoint_is_calm_and_another_is_told(card, explored):
    ended = call("monitor", card, "--json")
    found = json.loads(ended.stdout)
    assert {*found["criteria"]} == {"effect", "texts", *watching.AGAIN} and found["checkpoint"] == "step20"
    assert found["criteria"]["effect"]["outcome"] == found["criteria"]["texts"]["outcome"] == "pass"
    assert (ended.returncode == 0) == (found["verdict"] == "holds")
    other = explored.workspace.checkpoints[0].path
    ended = call("monitor", card, "--checkpoint", other)
    assert ended.returncode == 1 and "step0" in ended.stdout and ": drifted." in ended.stdout
    assert call("monitor", card, "--checkpoint", other.parent / "step99").returncode == 2


def told(value, wide):
    return Told(outcome="pass", said="", value=value, lower=value - wide, upper=value + wide, threshold=1.0)


def test_a_drift_of_texts_or_effect_is_found_and_the_same_is_calm():
    draw = np.random.default_rng(0)
    then = Along(having=draw.normal(2, 1, 60).tolist(), lacking=draw.normal(0, 1, 60).tolist())
    same = [watching.drift(then, [draw.normal(2, 1, 40), draw.normal(0, 1, 40)], 0.05) for _ in range(100)]
    assert sum(one.outcome == "fail" for one in same) <= 8
    moved = [watching.drift(then, [draw.normal(2, 1, 24), draw.normal(1, 1, 24)], 0.05) for _ in range(50)]
    assert sum(one.outcome == "fail" for one in moved) >= 40 and "without the concept lie elsewhere" in moved[0].said
    few = watching.drift(then, [np.full(23, 9.0), np.full(24, 9.0)], 0.05)
    assert few.outcome == "unknown" and "add some" in few.said
    now = {"value": 8.0, "lower": 7.5, "upper": 8.5}
    assert (
        watching.within(told(8.4, 0.3), now).outcome == "pass"
        and watching.within(told(9.0, 0.3), now).outcome == "fail"
    )
    assert watching.within(told(8.4, 0.3), now | {"lower": None}).outcome == "unknown"
