"""Forked kernels are warm, clean, mortal, and start even where Dask's workers run."""

from __future__ import annotations

import asyncio
import base64
import contextvars
import gc
import importlib
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from dask.distributed import Client, LocalCluster
from nbclient.exceptions import DeadKernelError

from helpers.notebooks import execute, report
from helpers.processes import PATIENCE
from steerlib.running import kernels
from steerlib.running.environment import THREADS
from steerlib.running.kernels import SHARED, WarmKernelProvisioner, share_server, use_warm_kernels
from steerlib.running.worker import LostKernel, execute_notebook

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux only"),
]


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    deadline = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds


def running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server that all tests share, or else one which this process's tests do, is told to those that are started."""
    monkeypatch.setenv(SHARED, os.environ.get(SHARED, ""))  # and as it was before, afterwards
    share_server()


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[forkserver.ForkServer]:
    """A server of this process alone, for as long as the test takes."""
    server = type(kernels._own)()
    server.set_forkserver_preload([kernels.__name__, "numpy"])
    monkeypatch.setattr(kernels, "_own", server)
    monkeypatch.setenv(SHARED, "")
    yield server
    server._stop()


@pytest.mark.parametrize("name", kernels.PRELOAD)
def test_all_that_is_preloaded_is_there(name: str) -> None:
    """The server goes on without, and every kernel would then die of it."""
    importlib.import_module(name)


def test_kernel_is_forked_with_torch_imported(warm: None, tmp_path: Path) -> None:
    doors = "len([c for c in __import__('psutil').Process().net_connections('inet') if c.status == 'LISTEN'])"
    expressions = ["'torch' in sys.modules", "os.getppid()", "os.getpgrp() == os.getpid()", doors]
    [(has_torch, parent, own_group, doors)] = execute(tmp_path, report(*expressions))
    assert has_torch and own_group
    assert doors == 5, "those that Jupyter asked for, here by TCP, and no other"
    assert parent != os.getpid() and "forkserver" in " ".join(psutil.Process(parent).cmdline())
    assert psutil.Process(parent).num_threads() == 1  # or forking it would be unsafe


def test_nothing_leaks_from_one_notebook_to_the_next(warm: None, tmp_path: Path) -> None:
    seen = [
        "os.environ.get('LEAK')",
        "'leak' in sys.modules",
        "os.getcwd()",
        "__import__('torch').get_num_threads()",
        "__import__('matplotlib').rcParams['lines.linewidth']",
    ]
    randoms = "[__import__('numpy').random.rand(), __import__('torch').rand(1).item()]"
    leak = """
        os.environ["LEAK"] = "1"
        sys.modules["leak"] = os
        os.chdir("/")
        import matplotlib, torch
        torch.set_num_threads(3)
        matplotlib.rcParams["lines.linewidth"] = 7
    """
    clean, _, dirty = execute(tmp_path, report(*seen, randoms), leak, report(*seen))
    [after] = execute(tmp_path, report(*seen, randoms))
    assert clean[:3] == [None, False, str(tmp_path)]
    assert all(value != leaked for value, leaked in zip(clean, dirty, strict=False))
    assert after[:-1] == clean[:-1]
    assert after[-1] != clean[-1]  # forked from one server, yet with random numbers of their own


def test_figures_are_shown_and_traces_run(warm: None, tmp_path: Path) -> None:
    (tmp_path / "traced.py").write_text(
        "import nnsight, torch\n"
        "from transformers import GPTNeoXConfig, GPTNeoXForCausalLM\n"
        "config = GPTNeoXConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1,\n"
        "                       num_attention_heads=2, intermediate_size=8)\n"
        "model = nnsight.NNsight(GPTNeoXForCausalLM(config))\n"
        "def hidden():\n"
        "    with model.trace(torch.tensor([[1, 2, 3]])):\n"
        "        hidden = model.gpt_neox.layers[0].mlp.output.save()\n"
        "    return list(hidden.shape)\n"
    )
    plot = "import matplotlib.pyplot as plt; plt.plot([1, 2]);"
    [shape], _ = execute(tmp_path, report("__import__('traced').hidden()"), plot)
    assert shape == [1, 3, 8]
    outputs = nbformat.read(tmp_path / "run.ipynb", as_version=4).cells[1].outputs
    assert "image/png" in outputs[-1].data  # matplotlib draws into the notebook


def test_figures_of_the_package_are_shown_once(warm: None, tmp_path: Path) -> None:
    draw = "figure, axis = plt.subplots(); axis.plot([1, 2]);"
    start = "import pathlib, matplotlib.pyplot as plt; from steerlib import figures; figures.style()"
    execute(tmp_path, start, f"{draw} figures.show(figure)", f"{draw} figures.save(figure, pathlib.Path(), 'kept')")
    _, shown, saved = nbformat.read(tmp_path / "run.ipynb", as_version=4).cells
    pages = ["".join(out.data["text/html"] for out in cell.outputs) for cell in (shown, saved)]
    [picture], [kept] = (re.findall('data:image/png;base64,([^"]+)', page) for page in pages)
    assert base64.b64decode(kept) == (tmp_path / "kept.png").read_bytes() == base64.b64decode(picture)
    assert (tmp_path / "kept.svg").exists()


def test_killed_kernel_raises_and_the_next_runs(warm: None, tmp_path: Path) -> None:
    with pytest.raises(DeadKernelError):
        execute(tmp_path, "import os; os.kill(os.getpid(), 9)")
    assert execute(tmp_path, report("1"))


def test_shutdown_runs_exit_handlers_and_does_not_hang(
    warm: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced = []  # what Jupyter does when its patience is at an end
    for name in ("terminate", "kill"):
        real = getattr(WarmKernelProvisioner, name)
        told = lambda *given, name=name, real=real, **more: forced.append(name) or real(*given, **more)  # noqa: E731
        monkeypatch.setattr(WarmKernelProvisioner, name, told)
    for i in range(5):  # the deadlock which this guards against came half the time
        cell = f"import atexit, pathlib, sys, tempfile; atexit.register(pathlib.Path('left{i}').touch)"
        cell += "; sys.kept = tempfile.TemporaryDirectory(dir='.', prefix='temporary-')"
        execute(tmp_path, cell)
        assert (tmp_path / f"left{i}").exists() and not [*tmp_path.glob("temporary-*")]
        assert not forced


WORKER = """
import pathlib, sys
from helpers.notebooks import execute
from steerlib.running import kernels
kernels.use_warm_kernels()
cell = "import os, pathlib, time; pathlib.Path('kernel').write_text(f'{os.getpid()} {os.getppid()} '); time.sleep(9999)"
execute(pathlib.Path(sys.argv[1]), cell)
"""


@contextmanager
def worker_at_work(folder: Path) -> Iterator[tuple[subprocess.Popen, int, int]]:
    """A process whose kernel is in the middle of a cell, and the ids of that kernel and of its server."""
    folder.mkdir(exist_ok=True)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    worker = subprocess.Popen([sys.executable, "-c", WORKER, folder], env=env)
    told = folder / "kernel"
    try:
        assert wait_until(lambda: told.exists() and told.read_text().endswith(" "))
        yield worker, *map(int, told.read_text().split())
    finally:
        worker.kill()
        worker.wait()


def test_workers_share_a_server_and_each_kernel_dies_with_its_own(shared: None, tmp_path: Path) -> None:
    with worker_at_work(tmp_path / "a") as (_, first, server), worker_at_work(tmp_path / "b") as (worker, second, same):
        assert server == same
        worker.kill()
        worker.wait()
        assert wait_until(lambda: not running(second))
        assert running(first) and running(server)
    assert wait_until(lambda: not running(first))


def test_a_server_of_our_own_that_has_died_is_started_anew_and_no_notebook_is_told_of_any(
    warm: None, own: forkserver.ForkServer, tmp_path: Path
) -> None:
    share_server()
    first = own._forkserver_pid
    assert psutil.Process(first).ppid() == os.getpid()
    os.kill(first, signal.SIGKILL)
    assert wait_until(lambda: not running(first))
    share_server()
    assert own._forkserver_pid != first and Path(os.environ[SHARED]).is_socket()
    [(has_torch, told)] = execute(tmp_path, report("'torch' in sys.modules", f"os.environ.get({SHARED!r})"))
    assert has_torch and told is None, "what it starts may be of another checkout, and the server has our code"


@pytest.mark.parametrize("told", [{}, {"OPENBLAS_NUM_THREADS": "2"}])
def test_kernels_compute_on_one_thread_each_unless_told_otherwise_which_no_notebook_is_told_of(
    warm: None, own: forkserver.ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: dict[str, str]
) -> None:
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    threads = "max(p['num_threads'] for p in __import__('threadpoolctl').threadpool_info() if p['user_api'] == 'blas')"
    environment = f"{{name: os.environ[name] for name in {[*THREADS]} if name in os.environ}}"
    [(count, seen)] = execute(tmp_path, report(threads, environment))
    assert count == (2 if told else 1) and seen == told
    assert not (THREADS.keys() - told.keys()) & os.environ.keys()


def test_a_forked_kernel_may_use_a_gpu(warm: None, own: forkserver.ForkServer, tmp_path: Path) -> None:
    """Asked by CUDA itself how many there are, the server would take them from all its kernels."""
    name = "PYTORCH_NVML_BASED_CUDA_CHECK"
    spoilt = "__import__('torch').cuda._is_in_bad_fork()"  # never in a build of PyTorch without CUDA
    assert execute(tmp_path, report(spoilt, f"os.environ.get({name!r})")) == [[False, None]]
    assert psutil.Process(own._forkserver_pid).environ()[name] == "1"


def test_server_that_is_gone_is_replaced_and_killed_worker_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(gone))  # nobody listens any more, yet the file lies there, as after a kill
    monkeypatch.setenv(SHARED, str(gone))
    with worker_at_work(tmp_path) as (worker, kernel, server):
        assert psutil.Process(server).ppid() == worker.pid
        family = [child.pid for child in psutil.Process(worker.pid).children(recursive=True)]
        assert {kernel, server} <= {*family}
    assert wait_until(lambda: not any(map(running, family)))


def in_dask_worker(folder: Path) -> tuple[bool, list[Any]]:
    use_warm_kernels()
    cell = report("'torch' in sys.modules", "os.getpid()")
    return multiprocessing.current_process().daemon, execute(folder, cell)[0]


def test_runs_in_dask_worker(shared: None, tmp_path: Path) -> None:
    local = {"n_workers": 1, "threads_per_worker": 1, "processes": True}
    with LocalCluster(**local, dashboard_address=":0") as cluster, Client(cluster) as client:
        daemonic, result = client.submit(in_dask_worker, tmp_path).result()
    has_torch, kernel = result
    assert daemonic and has_torch  # multiprocessing forbids daemonic processes to have children
    assert wait_until(lambda: not running(kernel))  # closing the cluster closed it


def test_sockets_lie_where_their_names_fit_and_what_was_killed_is_removed(monkeypatch, tmp_path: Path) -> None:
    def made(temporary: Path) -> Path:
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        monkeypatch.setitem(multiprocessing.current_process()._config, "tempdir", None)
        folder = Path(kernels.folder_of_sockets())
        assert len(os.fsencode(folder)) < 80 and folder.stat().st_mode & 0o77 == 0
        assert str(folder) == kernels.folder_of_sockets() == multiprocessing.util.get_temp_dir()
        return folder

    for name in ("long" * 20, "\udce9", "a\nb"):
        (tmp_path / name).mkdir()
        assert tmp_path not in made(tmp_path / name).parents
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        (Path(short) / "steerlib-left").mkdir()
        (Path(short) / "steerlib-left.lock").touch()
        folder = made(Path(short))
        assert {path.name for path in Path(short).iterdir()} == {folder.name, f"{folder.name}.lock"}
        made(Path(short))
        assert folder.exists(), "its process is alive"


@pytest.mark.parametrize(("code", "said"), [(-9, "memory"), (-11, "SIGSEGV"), (1, "died"), (255, "died")])
def test_want_of_memory_is_suspected_of_what_was_killed_alone(
    monkeypatch, tmp_path: Path, code: int, said: str
) -> None:
    last = type("Process", (), {"poll": lambda self: code})()
    monkeypatch.setattr(WarmKernelProvisioner, "last", last)
    told = kernels.died_of(DeadKernelError("Kernel died"), tmp_path)
    assert said in told and ("memory" in told) == ("--workers" in told) == (code == -9)
    (tmp_path / kernels.DIED_OF).write_text("ImportError: x")
    assert kernels.died_of(DeadKernelError("Kernel died"), tmp_path) == "ImportError: x"


def test_a_kernel_that_cannot_start_says_why(shared: None, warm: None, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "nonsense")
    with pytest.raises(LostKernel, match=r"^ValueError: .*nonsense"):
        execute_notebook("3_representation_similarity", tmp_path / "run.ipynb", {})
    monkeypatch.setattr(kernels._Kernel, "_tie", lambda *_: os.stat(tmp_path / "gone"))
    assert kernels._Kernel(["", "-f", str(tmp_path / "gone" / "kernel.json")], "", {})._bootstrap(0) == 1


def test_a_notebook_leaves_no_event_loop_to_the_garbage(warm: None, tmp_path: Path) -> None:
    """Whether it succeeds or fails; collected at a bad moment, one ends in a traceback. Nor anything else."""
    folder = tmp_path / "{study} {}[a]*?#%\né"
    sockets = Path(kernels.folder_of_sockets())

    def left() -> set[int]:
        # isinstance would ask each object for its __class__, which a proxy whose object is gone answers with an error.
        loops = (o for o in gc.get_objects() if issubclass(type(o), asyncio.BaseEventLoop))
        return {id(loop) for loop in loops if not loop.is_closed()}

    before = left()
    given = {"study": str(tmp_path / "nothing.yaml")}
    with pytest.raises(Exception, match=r"nothing\.yaml"):
        contextvars.copy_context().run(execute_notebook, "3_representation_similarity", folder / "run.ipynb", given)
    assert left() <= before and (folder / "run.ipynb").exists() and [*tmp_path.iterdir()] == [folder]
    assert all(path.name.startswith(("listener-", "dask-")) for path in sockets.iterdir()), "of what is at work"
