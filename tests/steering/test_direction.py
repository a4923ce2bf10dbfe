"""A direction keeps itself: through a file bit for bit, and what is no direction is refused."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from gguf import GGUFReader
from safetensors.numpy import load_file, save_file

from steerlib import SteerlibError
from steerlib.numerics.directions import unit
from steerlib.steering import Direction, direction

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


def test_a_control_vector_is_read_by_its_own_reader_and_counts_in_residual_norms(joy, tmp_path):
    joy.export_gguf(tmp_path / "new" / "joy.gguf")
    found = GGUFReader(tmp_path / "new" / "joy.gguf")
    told = {name: found.fields[name].contents() for name in ("general.architecture", "controlvector.model_hint")}
    assert told == {"general.architecture": "controlvector", "controlvector.model_hint": "model"}
    [tensor] = found.tensors
    assert tensor.name == "direction.3" and tensor.data.dtype == np.float32
    np.testing.assert_array_equal(tensor.data, (joy.vector * 20.5).astype(np.float32))
    for other, why in (({"layer": 0}, "which a control vector cannot say"), ({"residual_norm": np.nan}, "no residual")):
        with pytest.raises(SteerlibError, match=why):
            replace(joy, **other).export_gguf(tmp_path / "other.gguf")
    assert not (tmp_path / "other.gguf").exists()


def test_a_file_that_is_no_direction_is_refused(joy, tmp_path):
    path = tmp_path / "joy.safetensors"
    joy.save(path)
    whole, tensors = path.read_bytes(), load_file(path)
    about = asdict(joy)
    del about["vector"]

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
        (lambda: written(ours), "cannot be read"),
        (lambda: written({**ours, "about": "{"}), "cannot be read"),
        (lambda: written({**ours, "about": "3"}), "cannot be read"),
        (lambda: written({**ours, "about": json.dumps({"layer": 3})}), r"is damaged \(concept, "),
        (lambda: written({**ours, "about": json.dumps({**about, "colour": 1})}), r"is damaged \(colour\)"),
        (lambda: written({**ours, "about": json.dumps(about)}, {"vector": TRUTH * np.nan}), "no finite vector"),
        (lambda: written({**ours, "about": json.dumps(about)}, {"vector": TRUTH[None]}), "no finite vector"),
    ]:
        damage()
        with pytest.raises(SteerlibError, match=f"joy.safetensors: .*{message}"):
            Direction.load(path)


def test_a_direction_that_does_not_fit_on_the_disk_is_an_error_and_leaves_the_old_one(joy, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SteerlibError, match="cannot be written"):
        joy.save(tmp_path / "file" / "joy.safetensors")
