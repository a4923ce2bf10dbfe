"""What dies, is cut off or runs full: the study tells of it, loses nothing, and ends equal to a calm run."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from helpers.models import REMOTE
from helpers.processes import ended, family, soak, start, wait_for
from helpers.studies import PROJECT, STEPS, contents, half_files, tiny_study
from steerlib.files import store
from steerlib.results.freshness import Freshness
from steerlib.results.workspace import Workspace
from steerlib.study import Study

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are told apart by their commands on Linux")


def at_work(driver: subprocess.Popen) -> dict | None:
    """The processes of a run, once every worker is at a notebook."""
    found = family(driver.pid)
    return found if len(found["kernel"]) == 2 else None


@pytest.mark.slow
def test_a_killed_driver_takes_all_along_and_a_killed_worker_is_replaced(params, calm, tmp_path):
    driver = start(params, tmp_path)
    stamps = lambda: list(tmp_path.glob("tiny/probes/*.stamp.json"))  # noqa: E731
    wait_for(stamps, driver)
    there = wait_for(lambda: at_work(driver), driver)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    assert ended([process for kind in there.values() for process in kind]), "workers, servers and kernels end too"
    kept = {path: path.stat().st_mtime_ns for path in stamps()}
    driver = start(params, tmp_path)
    first = wait_for(lambda: at_work(driver), driver)
    first["worker"][0].kill()
    out, err = driver.communicate()
    assert driver.returncode == 0, out + err
    assert "done before" in out and kept.items() <= {path: path.stat().st_mtime_ns for path in stamps()}.items()
    assert contents(tmp_path / "tiny") == contents(calm)
    assert ended([process for kind in first.values() for process in kind])


DEADLY = """
import os
attempts = {attempts!r}
with open(attempts, "a") as stream:
    stream.write("x")
if os.path.getsize(attempts) <= {deaths}:
    os.kill(os.getpid(), 9)
"""


def deadly(home: Path, deaths: int) -> Path:
    """A study of three checkpoints, of which one kills the process that loads it, as often as told.

    As the system does when memory is short. Its code comes with it, with blocks where those of the others are.
    """
    import torch

    tiny_study(home, STEPS)
    folder, module = home / "history" / "step10", {}
    code = REMOTE.replace("self.h ", "self.layers ").replace("self.h:", "self.layers:")
    exec(code, module)
    config = json.loads((folder / "config.json").read_text())
    shape = {name: config[name] for name in ("hidden_size", "vocab_size", "num_hidden_layers")}
    torch.manual_seed(0)
    (folder / "model.safetensors").unlink()
    module["TinyForCausalLM"](module["TinyConfig"](heads=2, **shape)).save_pretrained(folder)
    (folder / "deadly.py").write_text(DEADLY.format(attempts=str(home / "attempts"), deaths=deaths) + code)
    autos = {"AutoConfig": "TinyConfig", "AutoModelForCausalLM": "TinyForCausalLM"}
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {auto: f"deadly.{name}" for auto, name in autos.items()}
    (folder / "config.json").write_text(json.dumps(config))
    return tiny_study(home, STEPS, "deadly", loading={"trust_remote_code": True, "blocks": "layers"})


@pytest.mark.slow
@pytest.mark.parametrize(("deaths", "tried"), [(1, 3), (99, 2)])
def test_a_killed_kernel_is_tried_once_more_and_then_told_with_its_checkpoint(deaths, tried, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    out, err = (driver := start(deadly(tmp_path, deaths), tmp_path)).communicate()
    assert (tmp_path / "attempts").stat().st_size == tried, out + err
    assert driver.returncode == (1 if deaths > 1 else 0), out + err
    analysed = {path.stem for path in (tmp_path / "deadly" / "interventions").glob("*.nc")}
    assert analysed >= {"step=00000000", "step=00000020"} and (tmp_path / "deadly" / "results.zarr").is_dir()
    if deaths > 1:
        (line,) = [line for line in out.splitlines() if line.startswith("failed")]
        assert line.startswith("failed probes step 10: its kernel died twice") and "memory" in line
        assert "--workers" in line and "loading.batch" in line and "Traceback" not in out + err


@pytest.mark.slow
def test_a_scheduler_that_goes_is_told_in_a_line_and_what_is_done_is_kept(params, calm, tmp_path):
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard", "--host"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    file = tmp_path / "scheduler.json"
    scheduler = subprocess.Popen([*dask, "127.0.0.1", "--scheduler-file", str(file)], **quiet)
    wait_for(lambda: store.read_json(file), scheduler)
    address = json.loads(file.read_text())["address"]
    worker = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"], **quiet
    )
    try:
        driver = start(params, tmp_path, "--scheduler", address)
        wait_for(lambda: list(tmp_path.glob("tiny/probes/*.stamp.json")), driver)
        scheduler.kill()
        out, err = driver.communicate(timeout=60)
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait()
    assert driver.returncode == 2, out + err
    told = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(told) == 1 and "scheduler is gone" in told[0] and "Traceback" not in err, err
    again = start(params, tmp_path)
    out, err = again.communicate()
    assert again.returncode == 0 and "done before" in out, out + err
    assert contents(tmp_path / "tiny") == contents(calm)


@pytest.mark.slow
def test_a_disk_that_runs_full_is_told_and_the_rest_is_done_when_there_is_room(params, calm, tmp_path):
    """Files may not grow beyond a limit; that of results.zarr in itself is another test's."""
    import resource

    shutil.copytree(calm.parent, tmp_path / "outputs")
    folder = tmp_path / "outputs" / "tiny"
    before = xr.open_datatree(folder / "results.zarr", engine="zarr", consolidated=False).load()
    for path in folder.glob("emergence/*"):
        path.unlink()
    full = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))  # noqa: E731
    out, err = (driver := start(params, tmp_path / "outputs", preexec_fn=full)).communicate()
    assert driver.returncode in (1, 2) and "Traceback" not in out + err, out + err
    told = [line for line in (out + err).splitlines() if line.startswith(("failed emergence", "error:"))]
    assert len(told) == 1 and "cannot be written (File too large); free some space" in told[0], out + err
    with xr.open_datatree(folder / "results.zarr", engine="zarr", consolidated=False) as after:
        assert after.load().equals(before), "there is a whole one, whether the old or the new"
    again = start(params, tmp_path / "outputs")
    out, err = again.communicate()
    assert again.returncode == 0, out + err
    assert contents(folder) == contents(calm) and not half_files(folder)


READER = """
import sys
from pathlib import Path
from steerlib.files import store
path, over = Path(sys.argv[1]), Path(sys.argv[2])
seen = set()
print("ready", flush=True)
while not over.exists():
    values = store.read(path).loss.values
    assert (values == values[0]).all(), values
    seen.add(float(values[0]))
assert len(seen) > 3, seen
"""


def test_a_file_that_is_replaced_again_and_again_is_always_read_whole(tmp_path):
    """By another process, as jobs read what others write."""
    path, over = tmp_path / "some.nc", tmp_path / "over"
    version = lambda k: xr.Dataset({"loss": ("update", np.full(2000 + k % 7, float(k)))})  # noqa: E731
    store.write(version(0), path)
    words = [sys.executable, "-c", READER, str(path), str(over)]
    with subprocess.Popen(words, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as reader:
        assert reader.stdout.readline() == "ready\n"
        for k in range(150):
            store.write(version(k), path)
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
    for k in range(300):
        store.replace_folder(path, fill(k))
    over.set()
    reader.join()
    assert not torn and len(seen) > 3


@pytest.mark.slow
def test_kills_at_random_lose_nothing(params, calm, tmp_path):
    """The short version of `make soak`."""
    killed = soak(tmp_path, params, pause=4, chance=random.Random(1), tell=lambda *_, **__: None)
    assert killed.total() >= 2
    assert contents(tmp_path / "outputs" / "tiny") == contents(calm)
    assert Freshness(Workspace(Study.load(params), tmp_path / "outputs")).todo() == [] and not half_files(tmp_path)
