"""A direction keeps itself: through a file bit for bit, and what is no direction is refused."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from helpers.models import build
from steerlib import SteerlibError
from steerlib.model.encoder import Encoder, load_tokenizer
from steerlib.numerics.directions import unit
from steerlib.steering import Direction, direction, steer
from steerlib.steering.card import Card, Pushed, Texts, Told

TRUTH = unit(np.random.default_rng(99).standard_normal(12))


@pytest.fixture
def joy() -> Direction:
    about = {
        "method": "pca",
        "concept": "joy",
        "layer": 3,
        "model": "my/model",
        "weights_sha256": "ab12",
        "residual_norm": 20.5,
    }
    return Direction(vector=TRUTH, length=1.5, spread=0.1 + 0.2, **about)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_direction_comes_back_from_its_file_bit_for_bit(joy, tmp_path, dtype):
    joy = replace(joy, vector=TRUTH.astype(dtype)[::-1])  # not contiguous
    joy.save(tmp_path / "new" / "joy.safetensors")
    back = Direction.load(str(tmp_path / "new" / "joy.safetensors"))
    assert (back.vector == joy.vector).all() and back.vector.dtype == dtype
    assert {**vars(back), "vector": 0} == {**vars(joy), "vector": 0}
    assert (back.site, back.token) == ("resid_post", "last")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["joy.safetensors"]  # nothing temporary is left


def test_what_a_card_tells_comes_back_and_what_it_does_not_is_said(joy, tmp_path):
    joy.save(tmp_path / "joy")
    assert Direction.load(tmp_path / "joy").card == Card()
    told = {name: text for name, text in Card().rows().items() if text != "not told"}
    assert not told and "not told" in joy._repr_html_()
    criterion = Told(outcome="pass", said="<does> more than chance", value=1, lower=0.5, upper=2, threshold=0)
    push = {"verdict": "validate", "held_back": "gain", "alpha": 0.5, "alpha_lower": 0.25, "alpha_upper": 0.5}
    push |= {"operator": "add", "scale": "raw", "strength": 1.5, "positions": "all", "level": 0.95, "null_upper": None}
    texts = Texts(sha256="a" * 64, pairs=3, frame="{} She felt", licence="CC0-1.0")
    card = Card(step=810, texts=texts, pushed=Pushed(**push, criteria={"size": criterion}), versions={"torch": "2.0"})
    joy = replace(joy, card=card)
    joy.save(tmp_path / "joy")
    back = Direction.load(tmp_path / "joy")
    assert back.card == card and "alpha 0.5 (validate)" in repr(back)
    shown = back._repr_html_()
    for words in ("CC0-1.0", "{} She felt", "torch 2.0", "810", "&lt;does&gt; more than chance", "0.25"):
        assert words in shown
    with safe_open(tmp_path / "joy", "numpy") as stored:  # as anybody reads it, without steerlib
        assert json.loads(stored.metadata()["card"])["pushed"]["alpha"] == 0.5
        assert "NaN" not in str(stored.metadata()) and json.loads(stored.metadata()["about"])["layer"] == 3
    none = replace(joy, card=card.model_copy(update={"pushed": card.pushed.model_copy(update={"alpha": None})}))
    assert none.card.rows()["alpha"] == "none is recommended" and "alpha" not in repr(none)


@pytest.mark.parametrize(
    ("other", "transfer", "told"),
    [
        ({}, False, ""),
        ({"weights_sha256": "x"}, False, r"joy was found in other weights \(my/model\); find it again"),
        ({"tokenizer_sha256": "x"}, False, "found with another tokenizer .* say that you mean it: transfer=True"),
        ({"weights_sha256": "x", "tokenizer_sha256": "x"}, False, "in other weights and with another tokenizer"),
        ({"weights_sha256": "x", "tokenizer_sha256": "x"}, True, ""),
        ({"weights_sha256": "", "tokenizer_sha256": ""}, False, ""),  # of no file: on trust
        ({"vector": TRUTH}, True, "12 dimensions does not fit a model of 32; this one, of joy, was found in my/model"),
    ],
)
def test_a_direction_of_other_weights_another_tokenizer_or_width_is_refused(joy, other, transfer, told):
    model = build("llama")
    model.weights_sha256 = "ab12"
    fitting = {"vector": np.ones(32), "layer": 1, "tokenizer_sha256": model.encoder.sha256}
    found = replace(joy, **{**fitting, **other})
    with pytest.raises(SteerlibError, match=told) if told else nullcontext():
        steer(model, found, transfer=transfer)


def test_a_tokenizer_is_known_by_what_it_does_whatever_it_has_padded(tmp_path):
    model = build("llama")
    before = model.encoder.sha256
    model.tokenizer.pad_token = "<unk>"
    model.tokenizer(["a", "a b"], padding=True, truncation=True, max_length=1)
    model.tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert Encoder(model.tokenizer, 1, 1).sha256 == Encoder(again, 1, 1).sha256 == before
    again.add_tokens(["more"])
    assert Encoder(again, 1, 1).sha256 != before


def test_a_file_that_is_no_direction_is_refused(joy, tmp_path):
    path = tmp_path / "joy.safetensors"
    joy.save(path)
    whole, tensors = path.read_bytes(), load_file(path)
    about = json.loads(joy.metadata["about"])

    def told(**more):
        return {"about": json.dumps(about | more)}

    def written(metadata, tensors=tensors):
        save_file(tensors, path, metadata)

    ours = {"format": direction.FORMAT}
    for damage, message in [
        (lambda: path.unlink(), "no such file; a direction is saved with"),
        (lambda: path.write_bytes(b""), "cannot be read"),
        (lambda: path.write_bytes(whole[:-5]), "cannot be read"),
        (lambda: written(None), "holds no direction"),
        (lambda: written({"format": "steerlib operator"}), "holds no direction"),
        (lambda: written(ours, {"v": TRUTH}), "holds no direction"),
        (lambda: written({**ours, "card": "{}"}), "cannot be read"),
        (lambda: written({**ours, "card": "{}", "about": "{"}), "cannot be read"),
        (lambda: written({**ours, "card": "{}", "about": "3"}), "cannot be read"),
        (lambda: written(ours | {"about": json.dumps(about)}), "has no card, as an older steerlib saved it"),
        (lambda: written(ours | joy.metadata | {"about": json.dumps({"layer": 3})}), r"is damaged \(concept, "),
        (lambda: written(ours | joy.metadata | told(colour=1)), r"is damaged \(colour\)"),
        (lambda: written(ours | joy.metadata | told(layer="first")), r"is damaged \(layer\)"),
        (lambda: written(ours | joy.metadata | {"card": '{"steps": 3}'}), r"is damaged \(card.steps\)"),
        (lambda: written(ours | joy.metadata, {"vector": TRUTH * np.nan}), r"is damaged \(vector: not finite\)"),
        (lambda: written(ours | joy.metadata, {"vector": TRUTH[None]}), r"is damaged \(vector\)"),
        (lambda: written(ours | joy.metadata, {"vector": TRUTH * 0}), r"is damaged \(vector: of length 0, not 1\)"),
        (lambda: written(ours | joy.metadata, {"vector": TRUTH * 7}), r"is damaged \(vector: of length 7, not 1\)"),
        (lambda: written(ours | joy.metadata | told(layer=-3)), r"is damaged \(layer: -3\)"),
        (lambda: written(ours | joy.metadata | told(site="mlp_out")), r"is damaged \(site: 'mlp_out', and only"),
    ]:
        damage()
        with pytest.raises(SteerlibError, match=f"joy.safetensors: .*{message}"):
            Direction.load(path)


def test_what_could_not_be_pushed_along_is_not_saved(joy, tmp_path):
    for change, message in [({"vector": TRUTH * 0}, "of length 0, not 1"), ({"site": "mlp_out"}, "'mlp_out'")]:
        with pytest.raises(SteerlibError, match=f"direction of joy at layer .*{message}.*; not saved"):
            replace(joy, **change).save(tmp_path / "joy.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_direction_that_does_not_fit_on_the_disk_is_an_error_and_leaves_the_old_one(joy, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SteerlibError, match="cannot be written"):
        joy.save(tmp_path / "file" / "joy.safetensors")
