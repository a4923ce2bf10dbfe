"""A GGUF file as a source of checkpoints, and as a model that training goes on from."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from transformers import AutoModelForCausalLM

from helpers import gguf_files
from helpers.studies import command, tiny_study
from steerlib import SteerlibError
from steerlib.checkpoints import dequantised
from steerlib.files.params import Located
from steerlib.model import load
from steerlib.model.gguf import dequantise
from steerlib.results import keys
from steerlib.results.workspace import Workspace
from steerlib.running.claims import claim
from steerlib.running.pipeline import run
from steerlib.stages import pretraining
from steerlib.study import Study

TEXTS = ["Anna was glad in the morning", "Anna went home"]


def study(folder: Path, file: Path, seed: int = 0, **checkpoints) -> Study:
    path = folder / "own.yaml"
    given = {"gguf": str(file), **checkpoints}
    path.write_text(yaml.safe_dump({"name": "own", "seed": seed, "checkpoints": given, "concepts": ["happiness"]}))
    return Study.load(path)


def opened(study: Study, outputs: Path) -> Workspace:
    dequantise(study, outputs / study.name)
    return Workspace(study, outputs)


@pytest.fixture(scope="module")
def original():
    return gguf_files.llama()


@pytest.fixture(scope="module")
def file(tmp_path_factory, original) -> Path:
    return gguf_files.write(tmp_path_factory.mktemp("gguf") / "tiny.gguf", original)


def test_what_is_computed_is_what_the_file_holds(tmp_path, file, original):
    checkpoint = opened(study(tmp_path, file), tmp_path).checkpoints[1]
    model = load(checkpoint)
    assert [model.encoder(TEXTS)] == [gguf_files.words()(TEXTS)["input_ids"]], "its tokenizer comes with it"
    ids = torch.tensor(model.encoder(TEXTS[:1]))
    with torch.no_grad():
        torch.testing.assert_close(model.hf(ids).logits, original(ids).logits, atol=1e-5, rtol=1e-5)
    assert checkpoint.revision == "tiny.gguf, dequantised from F32"


def test_codes_become_the_numbers_that_they_stand_for_and_the_result_says_so(tmp_path, original):
    file = gguf_files.write(tmp_path / "tiny-q8.gguf", original)
    workspace = opened(study(tmp_path, file), tmp_path)
    assert workspace.checkpoints[1].revision == "tiny-q8.gguf, dequantised from Q8_0"
    mlp = AutoModelForCausalLM.from_pretrained(workspace.checkpoints[1].path).model.layers[1].mlp.up_proj.weight
    stored = next(t for t in gguf.GGUFReader(file).tensors if t.name == "blk.1.ffn_up.weight")
    assert np.array_equal(mlp.detach().numpy(), gguf.dequantize(stored.data, stored.tensor_type))
    assert 0 < (mlp - original.model.layers[1].mlp.up_proj.weight).abs().max() < 0.02, "which are not the original's"


def test_step_0_is_the_same_architecture_untrained_and_hangs_on_the_seed(tmp_path, file):
    def weights(seed):
        one = opened(study(tmp_path, file, seed, untrained=True), tmp_path / f"{seed}").checkpoints
        hf = load(one[0]).hf
        return list(one), keys.identity_of(one[0]), hf.model.embed_tokens.weight, hf.config.num_hidden_layers

    (steps, identity, once, layers), (_, same, again, _), (_, others, other, _) = map(weights, (0, 0, 1))
    assert steps == [0, 1] and layers == 3
    assert torch.equal(once, again) and identity == same
    assert not torch.equal(once, other) and identity != others
    assert once.std().item() == pytest.approx(0.02, rel=0.1), "as transformers draws them, not as they are trained"


def test_it_is_made_once_and_anew_where_the_file_is_another(tmp_path, file):
    mine = shutil.copy(file, tmp_path / "mine.gguf")
    asked = study(tmp_path, mine)
    place = opened(asked, tmp_path).checkpoints[1].path
    before, identity = place.stat().st_ino, keys.identity_of(Workspace(asked, tmp_path).checkpoints[1])
    opened(asked, tmp_path)
    assert place.stat().st_ino == before
    gguf_files.write(mine, gguf_files.llama(rms_norm_eps=1e-3))
    assert dequantised.missing(asked, tmp_path / "own")
    assert keys.identity_of(opened(asked, tmp_path).checkpoints[1]) != identity


def test_the_folder_of_another_study_is_left_as_it_is(tmp_path, file):
    place = opened(study(tmp_path, file, untrained=True), tmp_path).checkpoints[0].path
    claim(Workspace(study(tmp_path, file, untrained=True), tmp_path))
    before = (place / dequantised.NAME).read_text()
    with pytest.raises(SteerlibError, match="seed is 0 there, 1 in"):
        run(study(tmp_path, file, seed=1, untrained=True), tmp_path, None, Console())
    assert (place / dequantised.NAME).read_text() == before


def cut(path: Path, hf) -> None:
    whole = gguf_files.write(path, hf).read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])


BAD = {
    "cut short": (cut, ["cannot be read as GGUF", "cut short"]),
    "something else": (lambda path, hf: path.write_text("not a model"), ["cannot be read as GGUF"]),
    "an architecture that nobody knows": (
        lambda path, hf: gguf_files.write(path, hf, architecture="zebra"),
        ["'zebra'", "take the checkpoint"],
    ),
    "no tokenizer": (
        lambda path, hf: gguf_files.write(path, hf, tokens=False),
        ["no tokenizer", "checkpoints.tokenizer"],
    ),
    "one of two parts": (lambda path, hf: gguf_files.write(path, hf, split_count=2), ["one of 2 parts", "--merge"]),
    "a tensor too many": (
        lambda path, hf: gguf_files.write(path, hf, more={"rope_freqs.weight": np.float32}),
        ["numbers, but its model has places for"],
    ),
    "a type that nobody dequantises": (
        lambda path, hf: gguf_files.write(path, hf, more={"blk.0.codes": np.int8}),
        ["blk.0.codes is of type I8", "another quantisation"],
    ),
    "a tokenizer that cannot be read": (
        lambda path, hf: gguf_files.write(path, hf, merges=["zebra quagga"]),
        ["its tokenizer cannot be read", "checkpoints.tokenizer"],
    ),
    "weights of another shape": (
        lambda path, hf: gguf_files.write(path, hf, feed_forward=48),
        ["of another shape", "take the checkpoint"],
    ),
    "not there": (lambda path, hf: None, ["checkpoints.gguf", "no such file"]),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_file_that_will_not_do_is_told_in_a_line_and_nothing_is_made(tmp_path, original, fault):
    make, told = BAD[fault]
    make(file := tmp_path / "bad.gguf", original)
    with pytest.raises(SteerlibError) as error:
        dequantise(study(tmp_path, file), tmp_path / "own")
    assert all(part in str(error.value) for part in ("bad.gguf", *told)) and "\n" not in str(error.value)
    assert not list((tmp_path / "own").glob("dequantised/*"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tokenizer": "nowhere"}, "checkpoints.tokenizer.*nowhere"),
        ({"steps": [7]}, "7"),
        ({"layers": [5]}, "layer 5 is asked for, and the model has"),
    ],
)
def test_what_the_study_asks_in_vain_is_told_before_anything_is_made(tmp_path, file, changes, told):
    path, data = tmp_path / "own.yaml", {"name": "own", "checkpoints": {"gguf": str(file)}, "concepts": ["happiness"]}
    of = data if "layers" in changes else data["checkpoints"]
    of |= changes
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(SteerlibError, match=told) as error:
        dequantise(Study.load(path), tmp_path / "own")
    assert "\n" not in str(error.value) and not list((tmp_path / "own").glob("dequantised/*"))


def test_a_tokenizer_that_is_named_takes_the_place_of_one_that_is_not_there(tmp_path, original):
    gguf_files.words().save_pretrained(tmp_path / "words")
    file = gguf_files.write(tmp_path / "bare.gguf", original, tokens=False)
    one = opened(study(tmp_path, file, tokenizer=str(tmp_path / "words")), tmp_path).checkpoints[1]
    assert load(one).encoder(TEXTS)


def test_a_file_of_an_installed_package_goes_by_its_name(tmp_path):
    assert Located("package:gguf/quants.py").path == Path(gguf.__file__).with_name("quants.py")
    for wrong, told in (("package:no_such/model.gguf", "no Python package 'no_such'"), ("package:gguf", "NAME/FILE")):
        with pytest.raises(SteerlibError, match=told):
            _ = Located(wrong).path


def continued(folder: Path, start: Path, **more) -> Study:
    """A study that trains on from a model."""
    (folder / "corpus.txt").write_text("\n".join(gguf_files.SENTENCES * 20))
    plan = {"start": str(start), "corpus": "corpus.txt", "model": {"context": 16}, "steps": 6, "batch": 4, "warmup": 1}
    params = {
        "name": "tuned",
        "pretraining": plan | more,
        "checkpoints": {"steps": [0, 3, 6]},
        "concepts": ["happiness"],
    }
    (folder / "tuned.yaml").write_text(yaml.safe_dump(params))
    return Study.load(folder / "tuned.yaml")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_training_goes_on_from_a_model_and_step_0_is_that_model(tmp_path, file, kind):
    start = file if kind == "file" else opened(study(tmp_path, file), tmp_path).checkpoints[1].path
    tuned = continued(tmp_path, start)
    folder = tmp_path / "outputs" / tuned.name
    dequantise(tuned, folder)
    loss = pretraining.pretrain(tuned, folder).loss
    history = Workspace(tuned, tmp_path / "outputs").checkpoints
    before, after = (load(history[step]).hf.state_dict() for step in (0, 6))
    original = AutoModelForCausalLM.from_pretrained(dequantised.start(tuned, folder)).state_dict()
    assert all(torch.equal(before[name], original[name]) for name in original)
    assert not torch.equal(before["lm_head.weight"], after["lm_head.weight"]) and loss[-1] < loss[0]
    trained, _ = folder / "checkpoints", shutil.rmtree(folder / "checkpoints" / "step=00000006")
    pretraining.pretrain(tuned, folder)
    again = AutoModelForCausalLM.from_pretrained(trained / "step=00000006").state_dict()
    assert all(torch.equal(after[name], again[name]) for name in again), "as after a kill"


def test_another_start_is_another_training(tmp_path, file):
    def key(start):
        return keys.of_stage(Workspace(continued(tmp_path, start), tmp_path), "pretraining")

    mine = Path(shutil.copy(file, tmp_path / "mine.gguf"))
    folder = Path(shutil.copytree(opened(study(tmp_path, file), tmp_path).checkpoints[1].path, tmp_path / "start"))
    before = key(mine), key(folder)
    gguf_files.write(mine, gguf_files.llama(rms_norm_eps=1e-3))
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert keys.changed(before[0], key(mine)) == ["pretraining.start.mine.gguf (mine.gguf)"]
    assert keys.changed(before[1], key(folder)) == ["pretraining.start.config.json (config.json)"]


@pytest.mark.parametrize("own", [{"vocabulary": 500}, {"model": {"hidden": 64}}, {"compute": 1e9, "steps": None}])
def test_a_model_that_training_goes_on_from_brings_its_own_shape(tmp_path, file, own):
    with pytest.raises(SteerlibError, match=r"is for a model of the study's own, but start names another"):
        continued(tmp_path, file, **own)


@pytest.mark.long
def test_a_study_of_one_runs_from_the_command(tmp_path, file):
    tiny = tiny_study(tmp_path, [0])
    params = yaml.safe_load(tiny.read_text()) | {
        "checkpoints": {"gguf": str(file), "untrained": True},
        "emergence": {"bootstrap": 100, "sustained": 1},
    }
    tiny.write_text(yaml.safe_dump(params))
    ran = subprocess.run(command(tiny, tmp_path), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "dequantised from F32" in ran.stderr + ran.stdout
    found = Workspace(Study.load(tiny), tmp_path).read("interventions", 1)
    assert str(found.revision.item()) == "tiny.gguf, dequantised from F32"
