"""Files are whole or absent, say what is wrong with them, and hold what was put there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
import zarr
from pydantic import BaseModel

from helpers.trees import dataset, write_tree
from steerlib import SteerlibError
from steerlib.files import datasets, store
from steerlib.results.schema import SCHEMA, describe


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_what_is_written_is_what_is_read(tmp_path):
    path = tmp_path / "new" / "folder" / "step=00000001.nc"
    datasets.write(dataset(), path)
    found = datasets.read(path)
    path.unlink()  # what was read is in memory, and the file is closed
    xr.testing.assert_identical(found, dataset())
    assert {name: found[name].dtype for name in found.data_vars} == {n: v.dtype for n, v in dataset().data_vars.items()}
    datasets.write(xr.Dataset({"layer": ("step", [1, 2])}, {"step": [0, 10]}), path)
    lacking = datasets.read(path).reindex(step=[0, 5])  # as beside a variant of other steps
    datasets.write(lacking, path)
    xr.testing.assert_identical(datasets.read(path), lacking)
    datasets.write(xr.Dataset(attrs={"seconds": 1.5, "steps": 3}), path)
    assert [type(value) for value in datasets.attrs(path).values()] == [float, int]
    datasets.write(dataset(2), path)
    datasets.write(dataset(3), path)
    assert int(datasets.read(path).step[0]) == 3
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    assert os.listdir(path.parent) == [path.name] and path.stat().st_mode == ordinary.stat().st_mode


def test_reading_quickly_gives_what_xarrays_own_engine_gives(tmp_path):
    """Strings, missing values, one value, an empty axis, dimensions with and without values, names along others."""
    whole = dataset().assign(
        scalar=((), np.int16(3), {"units": "1"}),
        flag=("bare", np.array([True, False])),
        missing=(("bare", "step"), np.array([[np.nan], [1.5]])),
        text=("bare", np.array(["a", "größer"])),
        single=((), "one"),
        empty=(("bare", "nothing"), np.zeros((2, 0), np.float32)),
        half=("bare", np.zeros(2, np.float16)),
    )
    whole = whole.assign_coords(label=("bare", ["x", "y"])).assign_attrs(several=[1, 2], one="1", number=0.5)
    datasets.write(whole, path := tmp_path / "step=00000001.nc")
    with xr.open_dataset(path, engine="h5netcdf") as plain:
        quick = datasets.read(path)
        xr.testing.assert_identical(quick, plain.load())
        assert all(quick[name].dtype == variable.dtype for name, variable in plain.variables.items())
        without = datasets.read(path, without=["half", "text", "nowhere"])
        xr.testing.assert_identical(without, plain.drop_vars(["half", "text"]))


def test_what_is_not_such_a_file_is_named_with_a_remedy_whatever_it_is(tmp_path):
    """A folder of HDF5's in it, and a file damaged in one place after another."""
    path = tmp_path / "step=00000001.nc"
    with h5py.File(path, "w") as file:
        file.create_group("probes")
    with pytest.raises(SteerlibError, match=r"cannot be read .*delete it and run again"):
        datasets.read(path)
    datasets.write(dataset(), path)
    whole, draw = path.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole)
        at = draw.integers(len(whole) - 48)
        damaged[at : at + 8] = draw.bytes(8)
        path.write_bytes(damaged)
        with pytest.raises(SteerlibError, match=r"cannot be read .*checksum"):
            datasets.read(path)


TESTS = Path(__file__).parents[1]
FULL_DISK = """
import resource, sys
from pathlib import Path
from steerlib.files import datasets, store
from steerlib import SteerlibError
from steerlib.results.tree import Tree
from helpers.trees import write_tree
import numpy as np, xarray as xr

resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
values = xr.Dataset({"loss": ("prompt", np.random.default_rng(0).standard_normal(20_000))})
path = Path(sys.argv[1])
for write in (
    lambda: datasets.write(values, path / "result.nc"),
    lambda: store.write_json(path / "stamp.json", {"key": "x" * 30_000}),
    lambda: write_tree({"probes": values}, path / "results.zarr", {}),
    lambda: Tree(path / "results.zarr").add("probes", [values.expand_dims(step=[k]) for k in (1, 2)], 2),
):
    try:
        write()
    except SteerlibError as error:
        print(error)
"""


def test_a_full_disk_is_said_and_leaves_what_was_there(tmp_path):
    """A limit on the size of files stands in for the disk; the kernel refuses the write in the same way."""
    datasets.write(dataset(), tmp_path / "result.nc")
    store.write_json(tmp_path / "stamp.json", {"done": True})
    write_tree({"probes": dataset()}, tmp_path / "results.zarr", {"mark": "old"})
    before = contents(tmp_path)
    run = subprocess.run([sys.executable, "-c", FULL_DISK, tmp_path], cwd=TESTS, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    for name, line in zip(
        ["result.nc", "stamp.json", "results.zarr", "results.zarr"], run.stdout.splitlines(), strict=True
    ):
        assert f"{tmp_path / name}: cannot be written" in line and "free some space" in line
    assert contents(tmp_path) == before
    assert sorted(os.listdir(tmp_path)) == ["result.nc", "results.zarr", "stamp.json"]
    assert xr.open_datatree(tmp_path / "results.zarr", engine="zarr", consolidated=False).attrs == {"mark": "old"}


@pytest.mark.parametrize("there", [True, False])
def test_a_link_to_a_larger_disk_is_kept_and_written_through(tmp_path, there):
    """Whatever it stands for: a file, a folder, results.zarr, the folder that they are in. Nothing else is left."""

    def folder(path):
        store.replace_folder(path, lambda temporary: (temporary / "new").write_text("new"))

    disk, here = tmp_path / "disk", tmp_path / "here"
    here.mkdir()
    makes = {"a.nc": lambda path: datasets.write(dataset(), path), "step": folder}
    makes |= {"results.zarr": lambda path: write_tree({"probes": dataset()}, path, {}), "in/b.nc": makes["a.nc"]}
    for name, make in makes.items():
        target, link = disk / name, here / name.partition("/")[0]
        if there:
            make(target)
        elif "/" in name:
            target.parent.mkdir()
        link.symlink_to(disk / link.name)
        make(here / name)
        assert link.is_symlink() and target.exists() and not target.is_symlink()
    assert sorted(os.listdir(here)) == sorted(os.listdir(disk)) == ["a.nc", "in", "results.zarr", "step"]
    assert datasets.read(here / "a.nc").equals(dataset()) and os.listdir(disk / "in") == ["b.nc"]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_file_cut_short_is_named_with_a_remedy(tmp_path, share):
    path = tmp_path / "step=00000001.nc"
    datasets.write(dataset(), path)
    os.truncate(path, int(share * path.stat().st_size))
    with pytest.raises(SteerlibError, match=r"step=00000001\.nc: cannot be read .*delete it and run again"):
        datasets.read(path)


def test_a_file_not_there_is_named_with_a_remedy(tmp_path):
    with pytest.raises(SteerlibError, match=r"nowhere\.nc: not there yet; `steerlib run` makes it"):
        datasets.read(tmp_path / "nowhere.nc")


class State(BaseModel):
    number: float
    words: list[str] = []


RUBBISH = {  # of a state file
    "empty": b"",
    "cut off": b'{"number": 1',
    "not UTF-8": b"\xff\xfe\x00\xd8",
    "zeros": bytes(4096),
    "a list": b"[]",
    "null": b"null",
    "of another version": b"{}",
    "another type": b'{"number": "1"}',
    "NaN": b'{"number": NaN}',
    "more than any number": b'{"number": 1e999}',
    "a huge integer": b'{"number": ' + b"9" * 5000 + b"}",
    "a key twice": b'{"number": 1, "number": 2}',
    "nested without end": b"[" * 100_000,
    "half a character": b'{"number": 1, "words": ["\\ud800"]}',
}


@pytest.mark.parametrize("rubbish", [*RUBBISH, "a folder"])
def test_what_is_no_state_file_of_ours_counts_as_none_is_told_in_a_line_and_overwritten(tmp_path, caplog, rubbish):
    path = tmp_path / "stamp.json"
    assert store.read_json(path, State) is None and not caplog.records, "what is not there needs no word"
    if rubbish == "a folder":
        (path / "inside").mkdir(parents=True)
    else:
        path.write_bytes(RUBBISH[rubbish])
    assert store.read_json(path, State) is None and store.read_json(path, State) is None
    (told,) = caplog.messages
    assert told.startswith(f"{path}: counts as not there (") and len(told) < len(str(path)) + 160 and "\n" not in told
    store.write_json(path, {"number": 1, "words": ["é"]})
    assert store.read_json(path, State) == State(number=1, words=["é"])


@pytest.mark.parametrize("value", [np.nan, float("-inf"), [1.0, np.inf], np.float32(1), {1, 2}])
def test_what_json_cannot_hold_is_refused_and_what_was_there_stays(tmp_path, value):
    store.write_json(path := tmp_path / "run.json", {"number": 1})
    with pytest.raises(SteerlibError, match=r"run\.json: not written, as it would not be JSON \("):
        store.write_json(path, {"number": value})
    assert store.read_json(path, State) == State(number=1)


@pytest.mark.parametrize(
    "value", [np.nan, np.float32(np.inf), [1.0, -np.inf], None, True, {"a": 1}, [[1], [2, 3]], 10**30]
)
@pytest.mark.parametrize("of", ["the dataset", "a variable"])
def test_an_attribute_that_no_file_would_hold_is_refused_and_what_was_there_stays(tmp_path, of, value):
    datasets.write(xr.Dataset({"loss": ("update", [np.nan, 1.0])}), path := tmp_path / "study.nc")
    worse = xr.Dataset({"loss": ("update", [2.0])})
    (worse if of == "the dataset" else worse.loss).attrs["speed"] = value
    with pytest.raises(SteerlibError, match=r"study\.nc: not written, as no file would hold it \("):
        datasets.write(worse, path)
    assert np.isnan(datasets.read(path).loss[0])


@pytest.mark.parametrize(
    "values",
    [np.array([1j]), np.array(["a\0b"]), np.array(["\ud800"]), np.array([{}], object), np.array([1, "a"], object)],
    ids=repr,
)
def test_values_that_no_file_would_hold_are_refused(tmp_path, values):
    with pytest.raises(SteerlibError, match=r"study\.nc: not written, as no file would hold it \("):
        datasets.write(xr.Dataset({"text": ("update", values)}), tmp_path / "study.nc")
    assert not list(tmp_path.iterdir())


def test_every_variable_is_described_and_nothing_outside_the_schema_is():
    found = dataset()
    assert all((v.attrs["long_name"], v.attrs["units"]) == SCHEMA[n] for n, v in found.data_vars.items())
    assert all(long_name and units for long_name, units in SCHEMA.values())
    with pytest.raises(KeyError, match="log_oods"):
        describe(found.rename(log_odds="log_oods"))


def test_equal_data_have_equal_digests_whatever_file_they_come_from(tmp_path):
    datasets.write(dataset(), tmp_path / "a.nc")
    write_tree({"probes": dataset()}, tmp_path / "a.zarr", {})
    tree = xr.open_datatree(tmp_path / "a.zarr", engine="zarr", consolidated=False)
    again = dataset().assign_attrs(created="later")
    found = {
        datasets.digest(d) for d in (dataset(), again, datasets.read(tmp_path / "a.nc"), tree["probes"].to_dataset())
    }
    assert len(found) == 1


def _one_value(data):
    data.log_odds.values[0, 1, 2, 3, 0] += 1e-6
    return data


CHANGES = {
    "a value": _one_value,
    "a coordinate": lambda data: data.assign_coords(alpha=[-0.5, 0.0, 1.5]),
    "a label": lambda data: data.assign_coords(revision=("step", ["step=00000002"])),
    "a name": lambda data: data.rename(log_odds="value"),
    "a dimension's name": lambda data: data.rename_dims(draw="shuffle"),
    "a variable more": lambda data: data.assign(loss=0.0),
    "a variable fewer": lambda data: data.drop_vars("chosen_layer"),
    "a precision": lambda data: data.astype(np.float64),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_other_data_have_other_digests(change):
    assert datasets.digest(change(dataset())) != datasets.digest(dataset())


def test_a_tree_comes_back_whole_in_chunks_of_one_step_and_one_layer_and_replaces_the_old(tmp_path):
    path = tmp_path / "results.zarr"
    write_tree({"probes": dataset(), "leftover": dataset()}, path, {})
    both = xr.concat([dataset(1), dataset(5)], "step", data_vars="minimal", coords="minimal", compat="override")
    groups = {"probes": both, "interventions": dataset(1, seed=1)}
    write_tree(groups, path, {"name": "toy"})
    tree = xr.open_datatree(path, engine="zarr", consolidated=False)
    assert tree.attrs == {"name": "toy"}
    assert set(tree.children) == set(groups)
    for name, group in groups.items():
        found = tree[name].to_dataset().load()
        xr.testing.assert_equal(found, group)
        assert all(found[n].attrs == v.attrs for n, v in group.data_vars.items())
    assert zarr.open_array(path / "probes" / "log_odds", mode="r").chunks == (1, 1, 3, 40, 20)
    assert zarr.open_array(path / "probes" / "null_direction", mode="r").chunks == (1, 2, 300), "too small to be parted"
    assert os.listdir(tmp_path) == ["results.zarr"]


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (OSError(5, "Input/output error"), SteerlibError),
        (ValueError("bug"), ValueError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path, raised, seen):
    path = tmp_path / "checkpoints" / "step=00000001"

    def fill(text, error=None):
        def write(folder):
            (folder / text).write_text(text)
            if error:
                raise error

        return write

    store.replace_folder(path, fill("old"))
    with pytest.raises(seen):
        store.replace_folder(path, fill("half", raised))
    assert contents(path) == {"old": b"old"} and os.listdir(path.parent) == [path.name]
    store.replace_folder(path, fill("new"))
    assert contents(path) == {"new": b"new"} and os.listdir(path.parent) == [path.name]
