"""A direction in the files of other tools: read again by each tool's own reader, and pushed by it as by us.

Where they are installed: pip install --no-deps steering-vectors==0.12.2 repeng==0.4.0 xllamacpp==2026.10.11549
"""

from __future__ import annotations

import ctypes as c
import json
import sys
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import pytest
import torch
from gguf import GGUFReader

from helpers import gguf_files
from helpers.models import SHAPES, build
from steerlib import SteerlibError
from steerlib.model import Model
from steerlib.numerics.directions import unit
from steerlib.steering import Direction, steer, write

ALPHA, NORM, LAYER = 0.7, 5.0, 1
TEXTS = ["Anna felt", "a b c d Anna ran home"]  # of two lengths: one is padded
STEP = (unit(np.random.default_rng(99).standard_normal(32)) * NORM).astype(np.float32)  # of alpha 1


@pytest.fixture
def joy() -> Direction:
    found = {"length": 1.5, "spread": 0.25, "residual_norm": NORM, "method": "pca", "concept": "joy", "layer": LAYER}
    return Direction(vector=STEP / np.float32(NORM), **found, model="my/model", weights_sha256="")


def pushed(model, push) -> tuple[torch.Tensor, list[str]]:
    """Logits and what is written while a push is on."""
    with push, torch.no_grad():
        return model.hf(**model.tokens(TEXTS).inputs).logits[:, -1], write(model, TEXTS, 5)


def alike(model, joy, theirs) -> None:
    """Another tool's push does what ours does, at all tokens, and is not the one of the layer before or behind."""
    logits, texts = pushed(model, theirs)
    ours, written = pushed(model, steer(model, joy, ALPHA, positions="all"))
    torch.testing.assert_close(logits, ours, rtol=0, atol=1e-5)
    assert texts == written
    for layer in (LAYER - 1, LAYER + 1):
        other, _ = pushed(model, steer(model, replace(joy, layer=layer), ALPHA, positions="all"))
        assert (other - ours).abs().max() > 1e-2


# --- control vectors ------------------------------------------------------------------------------------------------


def read_as_repeng_does(path) -> tuple[str, dict[int, np.ndarray]]:
    """`ControlVector.import_gguf` of repeng 0.4.0, which wants numpy < 2: model hint, and directions by layer."""
    reader = GGUFReader(path)
    assert str(bytes(reader.get_field("general.architecture").parts[-1]), "utf-8") == "controlvector"
    hint = str(bytes(reader.get_field("controlvector.model_hint").parts[-1]), "utf-8")
    named = [tensor for tensor in reader.tensors if tensor.name.startswith("direction.")]
    return hint, {int(tensor.name.split(".")[1]): tensor.data for tensor in named}


@pytest.mark.parametrize("tool", ["llama.cpp", "repeng"])
def test_a_control_vector_is_read_again_and_counts_what_the_scale_says(joy, tmp_path, tool):
    joy.export(tmp_path / "new" / "joy.gguf", tool)
    hint, directions = read_as_repeng_does(tmp_path / "new" / "joy.gguf")
    assert hint == "model" and [*directions] == [LAYER] and directions[LAYER].dtype == np.float32
    np.testing.assert_array_equal(directions[LAYER], (joy.vector * NORM).astype(np.float32))
    fields = GGUFReader(tmp_path / "new" / "joy.gguf").fields
    assert json.loads(fields["steerlib.about"].contents())["concept"] == "joy"
    assert json.loads(fields["steerlib.card"].contents()) == joy.card.model_dump(mode="json")
    joy.export(tmp_path / "raw.gguf", tool, scale="raw")
    np.testing.assert_array_equal(read_as_repeng_does(tmp_path / "raw.gguf")[1][LAYER], joy.vector * np.float32(1.5))


def test_what_a_format_cannot_say_is_refused_and_nothing_is_written(joy, tmp_path):
    first = replace(joy, layer=0)
    for found, to, how, why in (
        (first, "llama.cpp", {}, "of layer 0, which a control vector of llama.cpp cannot say"),
        (replace(joy, residual_norm=np.nan), "repeng", {}, "joy has no residual_norm; find it again"),
        (joy, "steering-vectors", {"scale": "iso_kl"}, "scale 'iso_kl': along a direction there are residual_norm"),
        (joy, "lama.cpp", {}, "to 'lama.cpp': there are llama.cpp, repeng, .* did you mean 'llama.cpp'"),
    ):
        with pytest.raises(SteerlibError, match=why):
            found.export(tmp_path / "other", to, **how)
    assert not (tmp_path / "other").exists()
    first.export(tmp_path / "first.gguf", "repeng")
    assert [*read_as_repeng_does(tmp_path / "first.gguf")[1]] == [0]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])  # of whose blocks repeng knows the place
def test_repeng_pushes_as_we_do(joy, tmp_path, monkeypatch, architecture):
    monkeypatch.setattr(np, "float_", np.float64, raising=False)  # all that keeps it from numpy 2: an annotation
    repeng = pytest.importorskip("repeng", reason="repeng is not installed")
    joy.export(tmp_path / "joy.gguf", "repeng")
    found = repeng.ControlVector.import_gguf(tmp_path / "joy.gguf")
    model = build(architecture)

    @contextmanager
    def theirs():
        control = repeng.ControlModel(model.hf, [LAYER])
        control.set_control(found, ALPHA)
        yield
        control.unwrap()

    alike(model, joy, theirs())


# --- steering-vectors -----------------------------------------------------------------------------------------------


def test_arguments_of_a_steering_vector_are_read_without_running_anything(joy, tmp_path):
    joy.export(tmp_path / "joy.pt", "steering-vectors")
    found = torch.load(tmp_path / "joy.pt", weights_only=True)
    assert found.keys() == {"layer_activations", "layer_type"} and found["layer_type"] == "decoder_block"
    assert [*found["layer_activations"]] == [LAYER]
    assert torch.equal(found["layer_activations"][LAYER], torch.from_numpy((joy.vector * NORM).astype(np.float32)))


@pytest.mark.parametrize("architecture", SHAPES)
def test_steering_vectors_pushes_as_we_do(joy, tmp_path, architecture):
    tool = pytest.importorskip("steering_vectors", reason="steering-vectors is not installed (make bench installs it)")
    joy.export(tmp_path / "joy.pt", "steering-vectors")
    found = tool.SteeringVector(**torch.load(tmp_path / "joy.pt", weights_only=True))
    model = build(architecture)
    alike(model, joy, found.apply(model.hf, multiplier=ALPHA))


# --- llama.cpp ------------------------------------------------------------------------------------------------------

TRIED = "2026.10.11549"  # of xllamacpp: where two fields of its context stand, and how its C++ calls a loader
LOADER = "_Z26common_control_vector_loadRKSt6vectorI31common_control_vector_load_infoSaIS0_EE"
TYPE_K, TYPE_V, FLASH = 26, 27, 13  # fields, counted in 4 bytes: keys and values in float16, and flash attention


class Params(c.Structure):  # of any kind: larger than they are, and handed on as they came
    _fields_ = [("word", c.c_int32 * 256)]


class Batch(c.Structure):
    _fields_ = [("n", c.c_int32), *((name, c.c_void_p) for name in "token embd pos n_seq_id seq_id logits".split())]


class Vector(c.Structure):  # std::vector
    _fields_ = [(name, c.c_void_p) for name in ("begin", "end", "room")]


class Info(c.Structure):
    _fields_ = [("strength", c.c_float), ("name", c.c_void_p)]


class Found(c.Structure):
    _fields_ = [("hidden", c.c_int32), ("data", Vector)]


class Llama:
    """llama.cpp's own C interface, in the library that xllamacpp brings."""

    def __init__(self, library: str, path, vocabulary: int):
        self.library, self.vocabulary = c.CDLL(library), vocabulary
        self.quiet = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)(lambda *_: None)
        self("llama_log_set", None, self.quiet, None)
        self("llama_backend_init", None)
        params = self("llama_model_default_params", Params)
        self.model = self("llama_model_load_from_file", c.c_void_p, str(path).encode(), params)
        how = self("llama_context_default_params", Params)
        assert (how.word[TYPE_K], how.word[TYPE_V], how.word[FLASH]) == (1, 1, -1)
        how.word[TYPE_K] = how.word[TYPE_V] = how.word[FLASH] = 0  # float32, without flash attention
        self.context = self("llama_init_from_model", c.c_void_p, self.model, how)
        self("llama_set_n_threads", None, self.context, 1, 1)

    def __call__(self, name: str, gives, *given):
        call = getattr(self.library, name)
        call.restype = gives
        return call(*(c.c_void_p(one) if isinstance(one, int) and one > 1 << 31 else one for one in given))

    def logits(self, ids: list[int]) -> torch.Tensor:
        self("llama_memory_clear", None, self("llama_get_memory", c.c_void_p, self.context), True)
        tokens = (c.c_int32 * len(ids))(*ids)
        assert self("llama_decode", c.c_int32, self.context, self("llama_batch_get_one", Batch, tokens, len(ids))) == 0
        found = self("llama_get_logits_ith", c.POINTER(c.c_float), self.context, -1)
        return torch.tensor(found[: self.vocabulary])

    def read(self, path, strength: float) -> np.ndarray | None:
        """A control vector as its loader reads it, from block 1 on; None where it refuses the file."""
        name = str(path).encode()
        text = c.create_string_buffer(np.array([len(name), len(name), 1], np.int64).tobytes() + name)  # std::string
        info = Info(strength, c.addressof(text) + 24)
        end = c.addressof(info) + c.sizeof(info)
        found = self(LOADER, Found, c.byref(Vector(c.addressof(info), end, end)))
        if found.hidden < 0:
            return None
        count = (found.data.end - found.data.begin) // 4
        values = c.cast(found.data.begin, c.POINTER(c.c_float))[:count]
        return np.array(values, np.float32).reshape(-1, found.hidden)

    def push(self, rows: np.ndarray) -> None:
        data, (layers, hidden) = np.ascontiguousarray(rows), rows.shape
        given = data.ctypes.data, c.c_size_t(data.size), hidden, 1, layers
        assert self("llama_set_adapter_cvec", c.c_int32, self.context, *given) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="structures are laid out as on Linux")
def test_llama_cpp_reads_a_control_vector_and_pushes_as_we_do(joy, tmp_path):
    tool = pytest.importorskip("xllamacpp", reason="xllamacpp, which brings llama.cpp, is not installed")
    if version("xllamacpp") != TRIED:
        pytest.skip(f"xllamacpp is not {TRIED}, whose structures are known here")
    model = Model(gguf_files.llama(), gguf_files.words())
    ids = model.encoder(TEXTS)[1]
    gguf_files.write(tmp_path / "model.gguf", model.hf)
    llama = Llama(tool.xllamacpp.__file__, tmp_path / "model.gguf", len(model.unembedding))

    def ours() -> torch.Tensor:
        with torch.no_grad():
            return model.hf(input_ids=torch.tensor([ids])).logits[0, -1]

    torch.testing.assert_close(llama.logits(ids), ours(), rtol=0, atol=1e-5)
    for layer in (1, 2):
        found = replace(joy, layer=layer)
        found.export(tmp_path / f"{layer}.gguf", "llama.cpp")
        rows = llama.read(tmp_path / f"{layer}.gguf", ALPHA)
        np.testing.assert_allclose(rows[layer - 1], ALPHA * NORM * joy.vector, rtol=1e-6)
        llama.push(np.concatenate([rows, np.zeros((3 - len(rows), 32), np.float32)]))
        theirs = llama.logits(ids)
        with steer(model, found, ALPHA, positions="all"):
            torch.testing.assert_close(theirs, ours(), rtol=0, atol=1e-5)
        assert (theirs - ours()).abs().max() > 1e-2
    replace(joy, layer=0).export(tmp_path / "0.gguf", "repeng")
    assert llama.read(tmp_path / "0.gguf", ALPHA) is None  # why we refuse to write one
