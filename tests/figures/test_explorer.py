"""The explorer's page: its JavaScript computes what PyTorch does on the same float16 weights, and a browser runs it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import steerlib
from helpers.browser import CHROMIUM, Page
from helpers.hub import tiny_checkpoints
from helpers.models import build, configured
from helpers.studies import call
from steerlib import SteerlibError
from steerlib.figures import explorer
from steerlib.model.encoder import load_tokenizer
from steerlib.running import pipeline
from steerlib.steering.by_hand import Push, Steerable
from steerlib.steering.operators import ALONG

NODE = shutil.which("node")
MODEL = (Path(explorer.__file__).parent / "page" / "model.js").read_text()
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH (Debian: apt install chromium)")
TEXTS = [
    "Anna felt",
    "She'd ran 12ab's  home \n\n  é日本 \u0301e 😀!?",
    "\ufeffAnna \x85felt\u3000a\xa0 ",
    "<|endoftext|>Anna<|endoftext|> felt",
    "‘sad’ it’s _x_ \t",
]


@pytest.fixture(scope="module")
def javascript(tmp_path_factory) -> Iterator[Callable]:
    """What a script returns that is given ``data``, with the model's file before it: in node, or else in a browser."""
    if NODE:
        read = 'JSON.parse(require("fs").readFileSync(0, "utf8"))'

        def run(script: str, data: object) -> object:
            source = f"{MODEL}\nconsole.log(JSON.stringify(((data) => {{ {script} }})({read})))"
            done = subprocess.run([NODE, "-e", source], input=json.dumps(data), capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout)

        yield run
    elif CHROMIUM:
        with Page(tmp_path_factory.mktemp("chromium")) as page:
            yield lambda script, data: page.run(f"{{ {MODEL}\n((data) => {{ {script} }})({json.dumps(data)}) }}")
    else:
        pytest.skip("neither node nor Chromium on PATH: nothing here runs JavaScript")


@pytest.fixture(scope="module")
def study(calm, params):
    return steerlib.open(params, calm.parent)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    (folder,) = tiny_checkpoints(tmp_path_factory.mktemp("words"), [1], width=8).values()
    return load_tokenizer(folder)


def rounded(hf: torch.nn.Module) -> torch.nn.Module:
    """With the weights that the page has."""
    with torch.no_grad():
        for weight in hf.parameters():
            weight.copy_(weight.half().float())
    return hf


def pushed(model: Steerable, prompt: str, push: dict | None, tokens: int) -> tuple[str, np.ndarray]:
    """What PyTorch writes under a push, and the logits after the prompt."""
    steered = nullcontext()
    if push:
        operator = ALONG[push["operator"]](torch.tensor(push["vector"]))
        steered = model.steer(Push(push["layer"], operator, push["alpha"]))
    with steered, torch.no_grad():
        return model.write(prompt, tokens), model.hf(**model.tokens(prompt).inputs).logits[0, -1].numpy()


WRITE = """
    return data.models.map(({config, shapes, tokenizer: told, weights, prompts, pushes}) => {
      const tokenizer = new Tokenizer(told);
      const model = new Model(config, shapes, halves(weights));
      let begun = null;
      return prompts.map((prompt) => {
        begun = model.begin(tokenizer.encode(prompt), begun);
        return pushes.map((push) => {
          const text = tokenizer.decode(model.write(begun, push, data.tokens));
          return {text, logits: [...model.first(begun, push)]};
        });
      });
    });
"""
ROPE = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}
PROMPTS = ["Anna ran home, happy", "Anna ran home, sad and gloomy that day. They were"]


def pushes_of(model: Steerable, seed: int) -> list[dict | None]:
    """None, and at every layer both operators, weak and strong."""
    vectors = np.random.default_rng(seed).normal(size=(model.n_layers, model.hidden)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    strengths = [("add", 0.3), ("add", 4.0), ("add", -2.0), ("ablate", 1.0), ("ablate", 2.0)]
    each = [(layer, *strength) for layer in range(model.n_layers) for strength in strengths]
    keys = ("layer", "operator", "alpha")
    return [None, *(dict(zip(keys, push, strict=True)) | {"vector": vectors[push[0]].tolist()} for push in each)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_parallel_residual": False, "tie_word_embeddings": True},
        {"attention_bias": False, "intermediate_size": 50, "rope_parameters": ROPE},
        {"hidden_size": 48, "num_attention_heads": 3, "max_position_embeddings": 24},
    ],
    ids=str,
)
def test_every_gpt_neox_is_run_as_pytorch_runs_it(javascript, tokenizer, changes):
    hf = rounded(configured("gpt_neox", vocab_size=len(tokenizer), **changes))
    check(javascript, [Steerable(hf, tokenizer)])


def test_the_studys_checkpoints_are_run_as_pytorch_runs_them(javascript, study):
    models = []
    for step in study.steps:
        models.append(study.model(step))
        rounded(models[-1].hf)
    study.models.clear()  # which are the unrounded ones of other tests
    check(javascript, models)


def check(javascript, models: list[Steerable], tokens: int = 8) -> None:
    """Over pushes: logits within 1e-4, and the same text."""
    data: dict = {"tokens": tokens, "models": []}
    for seed, model in enumerate(models):
        told = {"weights": explorer.in_halves(model.hf), "prompts": PROMPTS, "pushes": pushes_of(model, seed)}
        data["models"].append(explorer.told_of(model) | told)
    found = javascript(WRITE, data)
    for model, told, by_prompt in zip(models, data["models"], found, strict=True):
        for prompt, by_push in zip(PROMPTS, by_prompt, strict=True):
            room = told["config"]["context"] - len(model.tokenizer(prompt)["input_ids"])
            for push, got in zip(told["pushes"], by_push, strict=True):
                text, logits = pushed(model, prompt, push, min(tokens, room))
                np.testing.assert_allclose(got["logits"], logits, rtol=0, atol=1e-4)
                assert got["text"].startswith(text), push


def test_texts_are_the_same_tokens_and_tokens_the_same_text(javascript, tokenizer):
    data = {"tokenizer": explorer.tokenizer_of(tokenizer), "texts": TEXTS}
    script = """
        const words = new Tokenizer(data.tokenizer);
        return data.texts.map((text) => [words.encode(text), words.decode(words.encode(text))]);
    """
    for text, (ids, decoded) in zip(TEXTS, javascript(script, data), strict=True):
        assert ids == tokenizer(text)["input_ids"], text
        assert decoded == tokenizer.decode(ids, skip_special_tokens=True), text


def test_a_random_direction_is_one_and_the_same_each_time(javascript):
    drawn = np.array(javascript("return [1, 1, 2, 3].map((seed) => [...randomDirection(999, seed)])", None))
    assert (drawn[0] == drawn[1]).all()
    np.testing.assert_allclose(drawn[[0, 2, 3]] @ drawn[[0, 2, 3]].T, np.eye(3), atol=0.15)
    assert abs(drawn.mean()) < 0.005 and abs((drawn**4).mean() / (drawn**2).mean() ** 2 - 3) < 0.4  # normal


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(calm, params, tmp_path_factory) -> Path:
    folder = shutil.copytree(calm, tmp_path_factory.mktemp("outputs") / "tiny")
    done = call("explorer", params, "--outputs", folder.parent)
    assert done.returncode == 0, done.stderr
    assert f"{folder / 'explorer.html'}: written" in done.stdout
    return folder / "explorer.html"


def test_the_page_is_one_file_that_asks_for_nothing(written, study):
    text = written.read_text()
    assert "{{" not in text.split('id="study"')[0] and "http" not in text.replace("http://www.w3.org/2000/svg", "")
    told = json.loads(text.split('id="study">')[1].split("</script>")[0])
    assert told["steps"] == study.steps and [each["name"] for each in told["concepts"]] == study.concepts
    assert text.count('<script type="text/plain"') == len(study.steps)
    assert "explorer written" in written.with_name("audit.jsonl").read_text()


@needs_browser
def test_a_browser_runs_it(written, study, tmp_path):
    probes, strength = study.results["probes"], study.results["interventions"].strength
    with Page(tmp_path / "chromium") as page:
        page.open(f"{written.as_uri()}#step=10&concept=sadness&alpha=2&layer=1&prompt=Anna+ran")
        assert page.run("byId('said').hidden && !document.querySelector('main').hidden")
        model = Steerable(rounded(study.model(10).hf), study.model(10).tokenizer)
        study.models.clear()
        at = {"step": 10, "concept": "sadness", "layer": 1, "probe": "mean_difference"}
        length, vector = float(strength.sel(at)), probes.direction.sel(at).values.tolist()
        for operator, alpha in (("add", 2.0), ("ablate", 1.0)):
            asked = f"step=10&concept=sadness&alpha={alpha:g}&layer=1&prompt=Anna+ran&operator={operator}"
            page.run(f"location.hash = '{asked}'")
            page.settle()
            size = alpha * (length if operator == "add" else 1)
            push = {"layer": 1, "operator": operator, "alpha": size, "vector": vector}
            text, logits = pushed(model, "Anna ran", push, 18)
            plain, _ = pushed(model, "Anna ran", None, 18)
            assert page.run("[result.unsteered.text, result.pushed.text]") == [plain, text]
            shown = page.run("[...result.push && modelAt(10).first(beginning(10, 'Anna ran'), result.push)]")
            np.testing.assert_allclose(shown, logits, rtol=0, atol=1e-4)
            assert text.strip() in page.run("byId('texts').textContent")
        page.run("byId('step').focus()")  # by keyboard
        page.press("ArrowRight", 39)
        page.settle()
        assert page.run("state.step") == 20 and "step=20" in page.run("location.hash")
        assert "step 20" in page.run("byId('curve').textContent")
        page.run("byId('control').click()")
        page.run("byId('prompt').select()")
        page.type("Anna xyzzy felt")
        page.settle()
        assert "xyzzy" in page.run("byId('prompt-told').textContent")
        assert page.run("document.querySelectorAll('#texts .card').length") == 3
        named = "[...document.querySelectorAll('input, select, textarea')].filter((each) => !each.labels.length)"
        assert page.run(f"{named}.map((each) => each.id)") == []
        page.run("location.hash = 'step=11&concept=joy&alpha=x'")
        page.settle()
        said = page.run("byId('said').textContent")
        assert "no checkpoint at step 11" in said and "no concept “joy”" in said
        page.run("byId('prompt').select()")
        page.type("happy " * 200)
        page.settle()
        assert "Shorten it" in page.run("byId('said').textContent")
        page.run("change({prompt: 'Anna ran'})")
        page.settle()
        page.run("save()")
        assert page.run("byId('done').textContent") == "Saved."
        assert page.run("performance.getEntriesByType('resource').length") == 0
        page.picture(tmp_path / "explorer.png")  # to look at
        assert page.wrong == []


# --- what it is not made of -------------------------------------------------------------------------------------------


def test_what_a_page_does_not_bear_is_told_in_a_line_with_what_does(study, monkeypatch):
    monkeypatch.setattr(explorer, "LARGEST", 1000)
    with pytest.raises(SteerlibError, match=r"a browser bears 0; push .* steerlib\.explore\(.*tiny\.yaml") as told:
        explorer.page(study)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("architecture", "changes", "told"),
    [
        ("llama", {}, "this llama is another"),
        ("gpt_neox", {"hidden_act": "relu"}, "this gpt_neox is another"),
        ("gpt_neox", {"rope_parameters": ROPE | {"rope_type": "linear", "factor": 2.0}}, "this gpt_neox is another"),
        ("gpt_neox", {}, "this tokenizer is another one"),  # of whole words
    ],
)
def test_another_architecture_or_tokenizer_is_told(architecture, changes, told):
    with pytest.raises(explorer.Unfit, match=told):
        explorer.told_of(build(architecture, **changes))


def test_a_study_that_pretrains_its_own_model_is_run_first_unless_no_page_bears_it(params, tmp_path, monkeypatch):
    ran, path = [], tmp_path / "own.yaml"
    monkeypatch.setattr(pipeline, "run", lambda study, outputs, *_: ran.append((study.name, outputs)) or [])
    for hidden, told in ((16, "the study is run first, as by `steerlib run"), (4096, "a browser bears 64; push it")):
        own = {
            "name": "own",
            "pretraining": {"steps": 2, "model": {"hidden": hidden}},
            "checkpoints": {"steps": [1, 2]},
        }
        path.write_text(yaml.safe_dump(own | {"concepts": ["happiness"]}))
        done = call("explorer", path, "--outputs", tmp_path)
        assert done.returncode == 2 and told in done.stdout + done.stderr
    assert ran == [("own", tmp_path)]


def test_a_study_that_was_not_run_says_what_runs_it(params, tmp_path):
    told = call("explorer", params, "--outputs", tmp_path)
    assert told.returncode == 2 and "steerlib run" in told.stderr and len(told.stderr.splitlines()) == 1
