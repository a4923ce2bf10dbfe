"""`results.zarr` written a step at a time is what it would be from memory, is read as it is used, and whole."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
import zarr

from helpers.trees import dataset, write_tree
from steerlib import SteerlibError
from steerlib.files import datasets
from steerlib.results import tree
from steerlib.results.schema import describe
from steerlib.results.tree import Tree

STEPS = [1, 5, 9, 20, 40, 80, 81]


def part(step):
    """With a flag and a count as well, which files store in ways of their own."""
    more = {"paired": ("step", [step % 2 == 0]), "reached": (["step", "draw"], np.full((1, 300), step))}
    return describe(dataset(step).assign(more))


def beside(parts):
    return xr.concat(parts, "step", join="exact", data_vars="minimal", coords="minimal", compat="override")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.zarr"


@pytest.fixture
def three_in_a_shard(monkeypatch):
    one = part(1)
    along = sum(v.size * min(v.dtype.itemsize, 8) for v in one.variables.values() if "step" in v.dims)
    monkeypatch.setattr(tree, "SHARDS", int(3.5 * along))


def test_what_is_written_step_by_step_is_what_stands_side_by_side(path, three_in_a_shard):
    growing = Tree(path)
    growing.add("probes", map(part, STEPS), len(STEPS))
    growing.add("interventions", map(part, STEPS[2:]), len(STEPS) - 2)  # other steps have it
    growing.finish({"mark": "new"})
    whole = beside([part(step) for step in STEPS])
    with xr.open_datatree(path, engine="zarr", consolidated=False) as found:
        assert found.attrs == {"mark": "new"}
        probes = found["probes"].to_dataset().load()
        assert found["interventions"].step.values.tolist() == STEPS[2:]
    xr.testing.assert_equal(probes, whole)
    assert datasets.digest(probes) == datasets.digest(whole), "bit for bit"
    assert {n: v.dtype for n, v in probes.data_vars.items()} == {n: v.dtype for n, v in whole.data_vars.items()}
    assert all(probes[n].attrs == v.attrs for n, v in whole.data_vars.items())
    assert probes.revision.values.tolist() == [f"step={step:08d}" for step in STEPS]


def test_a_chunk_is_a_step_and_a_file_is_several(path, three_in_a_shard):
    growing = Tree(path)
    growing.add("probes", map(part, STEPS), len(STEPS))
    growing.finish({})
    log_odds = zarr.open_array(path / "probes" / "log_odds", mode="r")
    assert log_odds.chunks == (1, 1, 3, 40, 20) and log_odds.shards == (3, 2, 3, 40, 20)
    assert sum(file.is_file() for file in (path / "probes" / "log_odds" / "c").rglob("*")) == 3


def test_no_more_steps_than_a_shard_holds_are_taken_ahead(path, three_in_a_shard):
    """Taking them all before the first is written would be all of them in memory."""
    seen = []

    def taken():
        for step in STEPS:
            seen.append((step, len(list(path.parent.glob(".results.zarr.*/probes/log_odds/c/*")))))
            yield part(step)

    Tree(path).add("probes", taken(), len(STEPS))
    assert [shards for _, shards in seen[3:]] == [1, 1, 1, 2], "from the fourth on, what came before is on disk"


UNLIKE = {
    "values": ("alpha", lambda one: one.assign_coords(alpha=[-0.5, 0.0, 2.0])),
    "none": ("log_odds", lambda one: one.drop_vars("log_odds")),
    "type": ("log_odds", lambda one: one.assign(log_odds=one.log_odds.astype(np.float64))),
    "shape": ("null_direction", lambda one: one.isel(draw=slice(200))),
}


@pytest.mark.parametrize(("variable", "change"), UNLIKE.values(), ids=UNLIKE)
def test_a_step_that_other_params_made_is_named_and_nothing_is_filled_in(path, variable, change):
    growing = Tree(path)
    with pytest.raises(SteerlibError, match=rf"step 5 has other .* {variable} than step 1, or none"):
        growing.add("probes", [part(1), change(part(5))], 2)


@pytest.mark.parametrize("small", [False, True])
def test_groups_are_read_when_they_are_used_and_go_on_after_the_tree_has_its_name(path, monkeypatch, small):
    """But small ones, which are held in memory."""
    monkeypatch.setattr(tree, "HELD", 1 << 20 if small else 0)
    growing = Tree(path)
    growing.add("probes", map(part, STEPS), len(STEPS))
    group = growing["probes"]
    assert group.log_odds.variable._in_memory == small
    one = group.log_odds.isel(layer=1, alpha=2)
    assert one.variable._in_memory == small
    before = one.values
    growing.finish({})
    del growing
    gc.collect()
    assert os.listdir(path.parent) == ["results.zarr"]
    np.testing.assert_array_equal(group.log_odds.isel(layer=1, alpha=2), before)
    assert set(tree.read(path)) == {"probes"} and not tree.read(path.with_name("nowhere.zarr"))


def test_a_file_that_is_not_there_is_no_nan(path):
    write_tree({"probes": beside([part(1), part(5)])}, path, {})
    lost = next(file for file in (path / "probes" / "null_direction" / "c").rglob("*") if file.is_file())
    lost.unlink()
    group = tree.read(path)["probes"]
    with pytest.raises(SteerlibError, match=r"null_direction/c/.* is not there; delete .*results\.zarr and run again"):
        group.null_direction.load()
    assert group.log_odds.load().size


RUBBISH = {
    "a file": lambda path: (shutil.rmtree(path), path.write_bytes(b"rubbish")),
    "a file for a group": lambda path: (shutil.rmtree(path / "emergence"), (path / "emergence").write_bytes(b"")),
    "no metadata": lambda path: (path / "emergence" / "zarr.json").write_bytes(b""),
    "metadata of another kind": lambda path: (path / "probes" / "zarr.json").write_bytes(b"[]"),
    "half a chunk": lambda path: os.truncate(path / "emergence" / "step" / "c" / "0", 9),
}


@pytest.mark.parametrize("rubbish", RUBBISH)
def test_a_tree_that_cannot_be_read_counts_as_none_and_is_replaced(path, caplog, rubbish):
    groups = {"probes": part(1), "emergence": part(5)}
    written = SimpleNamespace(attrs={"data_sha256": datasets.digest(groups["emergence"])})
    workspace = SimpleNamespace(folder=path.parent, read=lambda stage: written)
    write_tree(groups, path, {})
    assert {*tree.read_results(workspace)} == {*groups}
    RUBBISH[rubbish](path)
    assert tree.read_results(workspace) == {} and len(caplog.messages) < 2
    write_tree(groups, path, {})
    assert {*tree.read_results(workspace)} == {*groups} and os.listdir(path.parent) == [path.name]


def test_a_bit_that_has_flipped_is_told_by_its_file_and_never_read_as_another_number(path):
    write_tree({"probes": beside([part(1), part(5)])}, path, {})
    whole = {name: group.load() for name, group in tree.read(path).items()}
    chunks = sorted(file for file in path.rglob("c/**/*") if file.is_file()) + sorted(path.glob("*/*/c"))
    files = [file for file in chunks if file.is_file()]
    assert {file.relative_to(path).parts[1] for file in files} == {*map(str, whole["probes"].variables)}
    for file in files:
        data = file.read_bytes()
        for place in range(0, len(data), max(1, len(data) // 5)):
            file.write_bytes(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
            with pytest.raises(SteerlibError, match=rf"{file.relative_to(path).parts[1]}.*is damaged .*delete {path}"):
                for group in tree.read(path).values():  # an index as it is opened
                    group.load()
        file.write_bytes(data)
    assert tree.read(path)["probes"].load().identical(whole["probes"])


def test_what_is_not_finished_is_gone_with_its_readers_and_leaves_what_was_there(path):
    write_tree({"probes": part(1)}, path, {"mark": "old"})
    growing = Tree(path)
    growing.add("probes", [part(5)], 1)
    group = growing["probes"]
    del growing
    gc.collect()
    assert int(group.chosen_layer) == 1, "somebody reads it"
    del group
    gc.collect()
    assert os.listdir(path.parent) == ["results.zarr"]
    with xr.open_datatree(path, engine="zarr", consolidated=False) as found:
        assert found.attrs == {"mark": "old"}


HOLD = """
import sys, time
from pathlib import Path
from steerlib.results.tree import Tree
tree = Tree(Path(sys.argv[1]))
print("made", flush=True)
time.sleep(60)
"""


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_makes_is_not(path):
    holding = [subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE) for _ in range(2)]
    try:
        assert all(process.stdout.readline() == b"made\n" for process in holding)
        write_tree({"probes": part(1)}, path, {})
        assert len([name for name in os.listdir(path.parent) if not name.endswith(".lock")]) == 3
        holding[0].send_signal(signal.SIGKILL)
        holding[0].wait()
        write_tree({"probes": part(5)}, path, {})
        assert len([name for name in os.listdir(path.parent) if not name.endswith(".lock")]) == 2
    finally:
        for process in holding:
            process.kill()
            process.wait()
    write_tree({"probes": part(5)}, path, {})
    assert os.listdir(path.parent) == ["results.zarr"]
