"""`steerlib.explore`: widgets without a browser answer as anybody would who pushes by hand, and say what is wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import weakref
from types import SimpleNamespace

import nbformat
import pytest
import torch
import yaml
from IPython.display import IFrame

import steerlib
from helpers.notebooks import execute
from steerlib import SteerlibError
from steerlib.model import state_of, with_state
from steerlib.results import opening
from steerlib.running import explore, telling
from steerlib.running.answers import Pushing, at_random, shares
from steerlib.running.explore import STILL, Explorer
from steerlib.steering.by_hand import Push, steer
from steerlib.steering.operators import ALONG

PROMPT = "Anna ran home, happy and"


@pytest.fixture(scope="module")
def study(calm, params):
    return steerlib.open(params, calm.parent)


@pytest.fixture
def explorer(study):
    made = Explorer(study)
    yield made
    made.close()


@pytest.fixture
def shown(monkeypatch):
    """What would be displayed to somebody who has a notebook open."""
    displayed = []
    monkeypatch.setattr(explore, "get_ipython", lambda: SimpleNamespace(kernel=True, user_ns={}))
    monkeypatch.setattr(explore, "display", lambda *what, **_: displayed.extend(what))
    monkeypatch.setenv("JPY_SESSION_NAME", "mine.ipynb")
    yield displayed
    while explore._open:
        explore._open.popitem()[1].close()


def settle(explorer: Explorer) -> str:
    """Until all is answered; what is said then."""
    explorer._pool.submit(lambda: None).result()
    return re.sub("<[^>]+>", " ", explorer.said.value)


@pytest.mark.parametrize("operator", ALONG)
def test_numbers_and_texts_are_those_of_a_push_by_hand(study, explorer, operator):
    asked = explorer.asked._replace(step=10, concept="sadness", layer=1, operator=operator, alpha=0.7, prompt=PROMPT)
    answer = Pushing(explorer.study).answer(asked._replace(random=3))
    model, direction = study.model(10), study.direction("sadness", 10, layer=1)

    def next_words(text: str) -> torch.Tensor:
        with torch.no_grad():
            return model.hf(**model.tokens(text).inputs).logits[0, -1].double().log_softmax(-1)

    still = next_words(asked.neutral)
    for kind, one in {"unsteered": None, "pushed": direction, "random": at_random(direction, 3)}.items():
        with model.steer(direction if one is None else one, 0 if one is None else 0.7, operator=operator):
            assert answer.written[kind].text == model.write(PROMPT, 18), kind
            assert answer.written[kind].neutral == model.write(asked.neutral, 18)
            now, other = map(next_words, (PROMPT, asked.neutral))
        kl = float((still.exp() * (still - other)).sum())
        assert answer.written[kind].kl == pytest.approx(kl, abs=1e-6) and (kl > 1e-4) == (one is not None)
        single = {
            k: ids[0]
            for k, ids in enumerate(model.encoder.after([PROMPT] * len(answer.words), answer.words))
            if len(ids) == 1
        }
        assert single
        for k, id in single.items():
            assert answer.written[kind].shares[k] == pytest.approx(float(now[id].exp()), rel=1e-4)


def test_a_word_of_several_tokens_is_as_likely_as_all_of_them_one_after_the_other(model):
    words, layer, vector = [" happy", " glad joyful", " a b c"], 1, torch.randn(model.hidden)
    found = {}
    with steer(model, Push(layer, ALONG["add"](vector), 0.5)):
        found["pushed"] = shares(model, "Anna felt", words)
    found["unsteered"] = shares(model, "Anna felt", words)
    [start] = model.encoder(["Anna felt"])
    for kind, by in (("pushed", 0.5), ("unsteered", 0.0)):

        def push(block, inputs, output, by=by):  # from the prompt's last token on
            state = state_of(output).clone()
            state[:, len(start) - 1 :] += by * vector
            return with_state(output, state)

        for word, share in zip(model.encoder.after(["Anna felt"] * len(words), words), found[kind], strict=True):
            handle = model.blocks[layer].register_forward_hook(push)
            with torch.no_grad():
                logits = model.hf(torch.tensor([[*start, *word]])).logits[0, len(start) - 1 :].log_softmax(-1)
            handle.remove()
            told = sum(logits[k, id] for k, id in enumerate(word)).exp()
            assert share == pytest.approx(float(told), rel=1e-4), kind


def test_whatever_is_moved_is_answered_and_shown(explorer):
    explorer.update()
    assert len(explorer.layer.options) == 3 and explorer.bar.layout.display == "none"
    seen = {explorer.shown.value}
    for name, value in {"alpha": 1.5, "step": 10, "layer": 0, "operator": "ablate", "prompt": PROMPT}.items():
        getattr(explorer, name).value = value
        settle(explorer)
        assert explorer.shown.value not in seen, name
        seen.add(explorer.shown.value)
    assert "step 10, layer 0, mean_difference, ablate, α 1.5" in explorer.shown.value
    explorer.example.value = explorer.example.options[1][1]
    explorer.concept.value = "sadness"
    settle(explorer)
    assert explorer.prompt.value == explorer.example.options[1][1], (
        "the prompt of another concept's readout goes with it"
    )
    assert "Steerability of sadness" in explorer.curve.value and "Dashed line: step 10" in explorer.curve.value
    assert explorer.shown.value.count('<div class="random">') == 0 and "Random direction</th>" in explorer.shown.value
    explorer.random.value = True
    settle(explorer)
    first = explorer.shown.value
    assert first.count('<div class="random">') == 2
    explorer.another.click()
    settle(explorer)
    assert explorer.shown.value != first


def test_the_mark_stands_where_the_step_does(study):
    _, at, words = telling.drawn(study.results["emergence"].load(), "happiness")
    places = [left for left, _, _ in at.values()]
    assert list(at) == [0, 10, 20] and 5 < places[0] < places[1] < places[2] < 100
    assert "first detectable" in words


def test_never_more_than_two_models_are_in_memory(study, explorer, monkeypatch):
    alive, seen, load = [], [], opening.load

    def counted(*args):
        seen.append(1 + sum(ref() is not None for ref in alive))
        model = load(*args)
        alive.append(weakref.ref(model))
        return model

    monkeypatch.setattr(opening, "load", counted)
    for step in (20, 10, 0, 20, 10, 10):
        explorer.step.value = step
        settle(explorer)
    assert max(seen) == 2 and len(seen) == 4
    before = study.model()
    assert explorer.study is not study and before is not explorer.study.model(20), "its pushes are on no other's model"


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("", "Write a prompt"),
        ("happy " * 200, "the model's context is 128; shorten it"),
        ("Anna xyzzy felt", "does not know: “xyzzy” (read as x·y·z·z·y)"),
    ],
)
def test_what_is_wrong_with_a_prompt_is_a_line(explorer, prompt, said):
    explorer.prompt.value = prompt
    assert said in settle(explorer).replace("&#x27;", "'")


def test_whatever_fails_is_a_line_and_the_next_answer_comes_all_the_same(explorer, monkeypatch, capfd):
    monkeypatch.setattr(Pushing, "answer", lambda *_: 1 / 0)
    explorer.update()
    assert "ZeroDivisionError: division by zero" in settle(explorer)
    monkeypatch.undo()
    explorer.alpha.value = 0.5
    assert "Error" not in settle(explorer) and "α 0.5" in explorer.shown.value
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_study_without_results_is_pushed_all_the_same_and_says_what_runs_it(params, tmp_path):
    explorer = Explorer(steerlib.open(params, tmp_path))
    explorer.update()
    assert "No analysis has chosen a layer for happiness at step 20 yet: layer 1" in settle(explorer)
    assert f"steerlib run {params}" in explorer.curve.value and "Pushed" in explorer.shown.value


def test_checkpoints_that_are_not_there_are_not_offered_and_broken_ones_are_told(home, calm, tmp_path, shown):
    history = shutil.copytree(home / "history", tmp_path / "history")
    path = tmp_path / "tiny.yaml"
    told = yaml.safe_load((home / "tiny.yaml").read_text())
    path.write_text(yaml.safe_dump(told | {"checkpoints": told["checkpoints"] | {"folder": str(history)}}))
    study = steerlib.open(path, calm.parent)
    assert study.steps == [0, 10, 20]
    shutil.rmtree(history / "step10")
    weights = history / "step20" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-64])
    explorer = Explorer(study)
    assert [step for _, step in explorer.step.options] == [0, 20]
    explorer.update()
    assert re.search(r"step20/model.safetensors: cannot be loaded .*; if a file was cut short, copy", settle(explorer))
    assert "Not here of 3 checkpoints: steps 10; `steerlib run" in settle(explorer)
    shutil.rmtree(history / "step0")
    shutil.rmtree(history / "step20")
    with pytest.raises(SteerlibError, match="none of its checkpoints is here yet; `steerlib run"):
        steerlib.explore(study)


# --- in a notebook ----------------------------------------------------------------------------------------------------


def test_the_page_is_shown_where_it_is_there_and_widgets_where_it_is_not_or_older(calm, params, shown, tmp_path):
    outputs = tmp_path / "outputs"
    shutil.copytree(calm, outputs / "tiny")
    page = outputs / "tiny" / "explorer.html"
    steerlib.explore(params, outputs)
    assert "steerlib-live" in shown[0]._dom_classes
    page.write_text("<p>")
    shown.clear()
    steerlib.explore(params, outputs)
    assert isinstance(shown[0], IFrame) and page.samefile(shown[0].src)
    shown.clear()
    steerlib.explore(params, outputs, page=False)
    assert "steerlib-live" in shown[0]._dom_classes and len(explore._open) == 1, "one at a time of a study"
    os.utime(page, (0, 0))
    shown.clear()
    steerlib.explore(params, outputs)
    assert "steerlib-live" in shown[0]._dom_classes


def test_outside_of_a_notebook_it_says_where_it_is_shown(study):
    with pytest.raises(SteerlibError, match="in a notebook; open one in JupyterLab"):
        steerlib.explore(study)
    assert "explore" in dir(steerlib)


def test_an_executed_notebook_holds_a_picture_and_a_sentence(params, calm, tmp_path, warm, monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    execute(tmp_path, f"import steerlib\nsteerlib.explore({str(params)!r}, {str(calm.parent)!r})")
    run = nbformat.read(tmp_path / "run.ipynb", 4)
    assert "application/vnd.jupyter.widget" not in json.dumps(run)
    (output,) = run.cells[0].outputs
    html = output["data"]["text/html"]
    assert STILL in html and "Unsteered" in html and "data:image/png" in html and "Traceback" not in html
    from nbconvert import HTMLExporter

    page, _ = HTMLExporter(template_name="basic").from_notebook_node(run)
    assert STILL in page and "data:image/png" in page and "widget" not in page.split("</style>")[-1]
