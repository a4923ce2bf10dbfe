"""Tiny models of every architecture, in memory and as checkpoint folders; studies run once for many tests."""

from __future__ import annotations

import atexit
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from helpers.models import SHAPES, build
from helpers.studies import SMOKE, STEPS, call, once, steerlib, tiny_study
from steerlib.files.locks import own_folder

CACHE, discard = own_folder(Path(tempfile.gettempdir()), "steerlib-tests-")  # with what killed ones left
atexit.register(discard)
os.environ["HF_HOME"] = str(CACHE)  # nothing is kept in the user's own; code of checkpoints neither
os.environ["COLUMNS"] = "300"  # folders of tests have long names, and messages are looked for in one line


# --- who runs what ------------------------------------------------------------------------------------------------

# Files whose tests go to whichever worker is free, as all that they share is made once for all of them (`once`).
APART = {f"tests/running/test_{name}.py" for name in ("cluster", "faults", "pipeline", "steps")}


def pytest_collection_modifyitems(items):
    """What takes long comes first, so that all workers end together: whole studies, other slow ones, the rest."""
    whole = ("test_first.py", "test_toy.py")
    items.sort(key=lambda item: (item.path.name not in whole, item.get_closest_marker("slow") is None))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With ``--dist loadfile`` a file at a time, but those `APART`, in the order above."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = super()._split_scope(nodeid)
            return nodeid if path in APART else path

    config.option.loadscopereorder = False
    return Scheduling(config, log) if config.option.dist == "loadfile" else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config, specs):
    """All workers' kernels, and those of runs that they start, are forked by one server: this process's own.

    It imports while the workers do, and outlives them.
    """
    from steerlib.running import kernels

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # which libraries read when they are imported
    kernels.share_server()


@pytest.fixture(autouse=True)
def not_driven(monkeypatch):
    """What a worker sets for good, a test sets for itself alone."""
    monkeypatch.setenv("STEERLIB_DRIVEN", "1")
    monkeypatch.delenv("STEERLIB_DRIVEN")
    logging.getLogger("steerlib").setLevel(logging.NOTSET)


@pytest.fixture(scope="session", autouse=True)
def multiplied():
    """Tiny models multiply as large ones do, but in processes of their own."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("steerlib.numerics.products.LEAST", 0)
        yield


@pytest.fixture(scope="session", params=SHAPES)
def model(request):
    """A tiny model of every architecture, in float32."""
    return build(request.param)


@pytest.fixture(scope="session", params=SHAPES)
def exact_model(request):
    """The same in float64, for derivatives."""
    return build(request.param, "float64")


@pytest.fixture
def checkpoint(tmp_path) -> Callable[..., Path]:
    """Makes ``history/step-N``, an ordinary Hugging Face checkpoint folder of a tiny model."""

    def save(step: int = 1, architecture: str = "gpt_neox", **changes) -> Path:
        folder = tmp_path / "history" / f"step-{step}"
        tiny = build(architecture, **changes)
        tiny.hf.save_pretrained(folder)
        tiny.tokenizer.save_pretrained(folder)
        return folder

    return save


# --- studies that were run ------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def scheduler() -> str:
    """The address of a scheduler with a worker on this machine, for all studies that this process runs.

    Neither they nor the server of their kernels is then started anew for each. Commands in processes of their own use
    that server too.
    """
    import dask
    from distributed import LocalCluster

    from steerlib.running import cluster, kernels

    with pytest.MonkeyPatch.context() as patch, dask.config.set(cluster.DASK):
        for variable, value in ({kernels.SHARED: os.environ.get(kernels.SHARED, "")} | cluster.THREADS).items():
            patch.setenv(variable, value)
        kernels.share_server()  # unless it was told of one
        options = {"n_workers": 1, "threads_per_worker": 1, "memory_limit": 0, "dashboard_address": "127.0.0.1:0"}
        # No client of ours: while a process has one, xarray locks files by way of the scheduler.
        with LocalCluster(processes=True, **options) as machine:
            yield machine.scheduler_address


@pytest.fixture
def warm():
    """This process is a worker with warm kernels. The fork server outlives the test."""
    from jupyter_client.provisioning import KernelProvisionerFactory

    from steerlib.running import kernels

    factory = KernelProvisionerFactory.instance()
    before = factory.default_provisioner_name
    kernels.use_warm_kernels()
    yield
    factory.default_provisioner_name = before


@pytest.fixture
def run(scheduler) -> Callable[..., CompletedProcess]:
    """`steerlib run` on this process's worker."""
    return lambda params, outputs, *words: call("run", params, "--outputs", outputs, "--scheduler", scheduler, *words)


@pytest.fixture(scope="session")
def home(tmp_path_factory) -> Path:
    """A tiny study of three checkpoints, for what is done to studies."""
    return once(tmp_path_factory, "home", lambda folder: tiny_study(folder, STEPS))


@pytest.fixture(scope="session")
def params(home) -> Path:
    return home / "tiny.yaml"


@pytest.fixture(scope="session")
def calm(tmp_path_factory, params, scheduler) -> Path:
    """That study's folder after a run in which nothing happened."""

    def make(folder: Path) -> None:
        done = call("run", params, "--outputs", folder, "--scheduler", scheduler)
        assert done.returncode == 0, done.stdout + done.stderr

    return once(tmp_path_factory, "calm", make) / "tiny"


@pytest.fixture(scope="session")
def smoke(tmp_path_factory, scheduler) -> Path:
    """Outputs of a calm run of the smoke study, by the very command, on workers of its own."""

    def make(folder: Path) -> None:
        done = steerlib("run", SMOKE, "--outputs", folder, "--workers", 2)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "not reached" in done.stdout and "placebo" in done.stdout, "the table of onsets is printed"

    return once(tmp_path_factory, "smoke", make)
