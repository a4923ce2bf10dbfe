"""What is replaced again and again while others read it is always found whole."""

import os
import subprocess
import sys
import threading
from itertools import count

import numpy as np
import xarray as xr

from helpers.studies import PROJECT, half_files
from steerlib.files import datasets, store

READER = """
import sys
from pathlib import Path
from steerlib.files import datasets, store
path, over, enough = map(Path, sys.argv[1:])
seen = set()
print("ready", flush=True)
while not over.exists():
    values = datasets.read(path).loss.values
    assert (values == values[0]).all(), values
    seen.add(float(values[0]))
    if len(seen) > 3:
        enough.touch()
"""


def test_a_file_that_is_replaced_again_and_again_is_always_read_whole(tmp_path):
    """By another process, as jobs read what others write."""
    path, over, enough = tmp_path / "some.nc", tmp_path / "over", tmp_path / "enough"
    version = lambda k: xr.Dataset({"loss": ("update", np.full(2000 + k % 7, float(k)))})  # noqa: E731
    datasets.write(version(0), path)
    words = [sys.executable, "-c", READER, str(path), str(over), str(enough)]
    with subprocess.Popen(words, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as reader:
        assert reader.stdout.readline() == "ready\n"
        for k in count(1):
            datasets.write(version(k), path)
            if (k > 100 and enough.exists()) or reader.poll() is not None:
                break
        over.touch()
        _, err = reader.communicate()
    assert reader.returncode == 0, err
    assert not half_files(tmp_path)


def test_results_that_are_replaced_again_and_again_are_always_read_whole(tmp_path):
    """At no time has the folder no name, and what a reader finds under it is of one version."""
    path, over, torn, seen = tmp_path / "results", threading.Event(), [], set()

    def fill(k: int):
        return lambda folder: [(folder / name).write_text(str(k)) for name in "abc"]

    def read():
        while not over.is_set():
            try:
                where = os.open(path, os.O_RDONLY | os.O_DIRECTORY)  # as one opens a folder, and then what is in it
            except FileNotFoundError:
                torn.append("no name")
                continue
            try:
                names = {open(os.open(name, os.O_RDONLY, dir_fd=where)).read() for name in "abc"}
                seen.update(names)
                if len(names) > 1:
                    torn.append(str(names))
            except FileNotFoundError:
                pass  # that version was removed while it was read; it said so
            finally:
                os.close(where)

    store.replace_folder(path, fill(0))
    reader = threading.Thread(target=read)
    reader.start()
    for k in count(1):
        store.replace_folder(path, fill(k))
        if torn or (k > 300 and len(seen) > 3):
            break
    over.set()
    reader.join()
    assert not torn
