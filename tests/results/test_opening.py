"""A study opened by hand: by name to its models, directions and results, and wrong names answered."""

import inspect
import math

import numpy as np
import pytest
import torch
import yaml

import steerlib
from steerlib import SteerlibError
from steerlib.files import datasets
from steerlib.stages.summary import summary


@pytest.fixture(scope="module")
def study(calm, params):
    return steerlib.open(params, calm.parent)


def pushed(study, what=None, **options):
    return study.model().steer(study.direction("sadness", layer=0) if what is None else what, **options)


def test_a_push_by_hand_moves_what_is_written_and_leaves_no_trace(study):
    model, direction = study.model(step=20), study.direction("sadness", step=20, layer=1)
    before = model.write("Anna felt", tokens=4)
    with model.steer(direction, alpha=50):
        pushed = model.write("Anna felt", tokens=4)
    assert model.write(["Anna felt"], tokens=4) == [before] != [pushed]
    assert study.model(step=20) is model, "asked again, it is not loaded again"


def test_unless_told_otherwise_it_is_the_last_checkpoint_the_analysis_method_and_the_layer_chosen_there(study, calm):
    found = study.direction("sadness")
    chosen = datasets.read(calm / "emergence" / "study.nc").layer_by_step.sel(step=20, concept="sadness")
    assert (found.layer, found.method, found.model) == (int(chosen), "mean_difference", "step20")
    stored = datasets.read(calm / "probes" / "step=00000020.nc").direction.squeeze("step")
    torch.testing.assert_close(
        torch.tensor(found.vector),
        torch.tensor(stored.sel(concept="sadness", layer=found.layer).sel(probe=found.method).values),
    )


def test_a_single_text_is_a_list_of_one(study):
    model = study.model()
    assert torch.equal(model.read("Anna felt").states, model.read(["Anna felt"]).states)
    assert torch.equal(model.tokens("Anna felt").ids, model.tokens(["Anna felt"]).ids)


def test_results_are_read_by_name_and_tell_what_was_found(study):
    results = study.results
    assert {"probes", "interventions", "similarity", "emergence"} <= results.keys()
    assert results.summary.equals(summary(results["emergence"]))
    html = results._repr_html_()
    assert "sadness" in html and "half-way up" in html and "<script" not in html and "became steerable" in html
    assert all(column in repr(results.summary) for column in summary(results["emergence"]))


@pytest.mark.parametrize("ask", ["study", "model", "direction", "results", "params"])
def test_each_tells_in_a_line_what_it_is(study, ask):
    told = {
        "study": lambda: study,
        "model": study.model,
        "direction": lambda: study.direction("sadness"),
        "results": lambda: study.results,
        "params": lambda: study.params,
    }[ask]()
    assert 20 < len(repr(told)) < 250 and "\n" not in repr(told) and str(told) == repr(told)
    assert ask in ("model", "params") or "<table" in told._repr_html_()


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda study: study.model(step=11), "no checkpoint at step 11; there are 0, 10, 20"),
        (lambda study: study.model(step="10"), "no checkpoint at step '10'; there are 0, 10, 20; did you mean 10?"),
        (lambda study: study.model(step=False), "no checkpoint at step False"),
        (lambda study: study.model(step=np.array([10])), "no checkpoint at step array([10])"),
        (lambda study: study.direction("Sadness"), "there are happiness, sadness; did you mean 'sadness'?"),
        (lambda study: study.direction(np.array(["sadness"])), "did you mean 'sadness'?"),
        (lambda study: study.direction("sadness", layer=9), "this model has no layer 9; there are 0, 1"),
        (lambda study: study.direction("sadness", layer=-1), "this model has no layer -1; there are 0, 1"),
        (lambda study: study.direction("sadness", layer=True), "this model has no layer True; there are 0, 1"),
        (lambda study: study.direction("sadness", method="pcaa"), "unknown method 'pcaa'; allowed: sae"),
        (lambda study: study.direction("sadness", method=""), "unknown method ''"),
        (lambda study: pushed(study, alpha=math.nan), "alpha=nan: "),
        (lambda study: pushed(study, alpha="1"), "alpha='1': "),
        (lambda study: pushed(study, alpha=[1]), "alpha=[1]: "),
        (lambda study: pushed(study, alpha=True), "alpha=True: "),
        (lambda study: pushed(study, alpha=10**400), "alpha=1000000"),
        (lambda study: pushed(study, alpha=torch.ones(2)), "alpha=tensor([1., 1.]): "),
        (lambda study: pushed(study, "sadness"), "'sadness' is no push; give a direction"),
        (lambda study: pushed(study, [study.direction("sadness", layer=0), None]), "None is no push"),
        (lambda study: pushed(study, study.direction("sadness", layer=0).vector), "is no push"),
        (lambda study: pushed(study, []), "[] is no push"),
        (lambda study: pushed(study, operator="abblate"), "did you mean 'ablate'?"),
        (lambda study: pushed(study, scale=["raw"]), "scale ['raw']: along a direction there are residual_norm"),
        (lambda study: study.results["probe"], "no group 'probe'; there are emergence, interventions, probes"),
        (lambda study: study.model().write(""), "text '': this model's tokenizer has no token"),
        (lambda study: study.model().write(["She felt", None]), "None is no text; give one, or a list of them"),
        (lambda study: study.model().read(3), "3 is no text"),
        (lambda study: study.model().write("She felt", tokens=0), "tokens=0"),
        (lambda study: study.model().write("She felt", tokens=True), "tokens=True"),
        (lambda study: steerlib.open("params/tuy.yaml"), "tuy.yaml: no such file; did you mean 'toy.yaml'?"),
        (lambda study: steerlib.open("tuy"), "tuy.yaml: no such file; did you mean 'toy.yaml'?"),
        (lambda study: steerlib.open("toy-seeds"), "name one of its variants: "),
        (lambda study: steerlib.open("toy-seeds#sed-1"), "did you mean 'seed-1'?"),
        (lambda study: steerlib.open("toy-seeds#"), "toy-seeds.yaml#: no such variant"),
        (lambda study: steerlib.open("#toy"), "#toy.yaml: no such file; did you mean 'toy.yaml'?"),
        (lambda study: steerlib.open(None), "None names no study"),
    ],
)
def test_what_there_is_not_is_told_with_what_there_is(study, ask, told):
    with pytest.raises(SteerlibError) as error:
        ask(study)
    assert told in str(error.value) and "\n" not in str(error.value)


def test_a_study_that_was_not_run_says_how_to_have_results_and_takes_a_layer(params, tmp_path):
    study = steerlib.open(params, tmp_path)
    with pytest.raises(SteerlibError, match="holds no results yet; make them: steerlib run"):
        _ = study.results
    with pytest.raises(SteerlibError, match="say layer=, 0 to 1, or run the study"):
        study.direction("sadness", step=20)
    assert study.direction("sadness", step=20, layer=0).layer == 0


def test_results_that_other_params_made_are_told(study, params, calm, caplog):
    assert study.results and not caplog.messages
    path = params.with_name("other.yaml")
    path.write_text(yaml.safe_dump(yaml.safe_load(params.read_text()) | {"seed": 5}))
    assert steerlib.open(path, calm.parent).results
    (told,) = caplog.messages
    assert told.startswith(f"{calm}: these results are of other params (seed) than {path}")


def test_numbers_are_those_that_they_equal_whatever_made_them(study):
    assert study.model(step=np.int64(20)) is study.model(step=20.0) is study.model(step=20)
    assert study.direction("sadness", layer=1.0).layer == study.direction("sadness", layer=np.int64(1)).layer == 1
    assert study.model().write("Anna felt", tokens=np.int64(2)) == study.model().write("Anna felt", tokens=2)


def test_who_asks_what_there_is_is_shown_it(study):
    assert "open" in dir(steerlib) and "open" in steerlib.__all__
    assert {"operator", "scale", "positions", "transfer"} <= inspect.signature(study.model().steer).parameters.keys()
    pushes = pushed(study)
    assert "inside a `with` block" in repr(pushes)
    with pushes:
        assert repr(pushes) == "<pushes: 1, on>"


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("toy", "toy"),
        ("toy.yaml", "toy"),
        ("toy-seeds#seed-1", "toy-seeds.seed-1"),
        ("params/toy-seeds.yaml#seed-1", "toy-seeds.seed-1"),
    ],
)
def test_what_is_in_the_project_is_found_from_anywhere(said, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy").mkdir()  # as in outputs/
    assert steerlib.open(said).params.name == name
