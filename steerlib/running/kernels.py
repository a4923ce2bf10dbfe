"""Warm kernels: a notebook's process is forked with torch already imported, not started cold.

Each of a study's many notebooks would spend five seconds on the same imports. So there is one
*fork server* (`multiprocessing.forkserver`) for a driver and its workers on this machine, or else for
a worker: a process which has imported `PRELOAD` and forks a kernel whenever Jupyter asks
`WarmKernelProvisioner` for one. To Jupyter and the notebook
it is a kernel like any other: what one notebook does to its modules, environment or directory
never reaches the next. Kernels share only what their server had from its start: the hash seed, the
code of `steerlib` as it then was, and what a library reads from the environment when imported
(`OMP_NUM_THREADS`). The global random generators are seeded anew, as in any new process.

A kernel never outlives its worker, however that ends: it has asked Linux to be killed when the
worker's end of a pipe closes, and when the server ends. The server exits when who started it does.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import os
import pickle
import shutil
import signal
import sys
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, forkserver, popen_forkserver, process, resource_tracker, util
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner

from steerlib import SteerlibError
from steerlib.files import locks
from steerlib.running.environment import SERVER, environ

PROVISIONER = "steerlib-warm"  # the entry point's name in pyproject.toml
LESS = "run again with fewer --workers, or a smaller loading.batch"
SHARED = "STEERLIB_FORK_SERVER"  # an environment variable: the socket of a server that this process need not start

PACKAGE = Path(__file__).parents[1]
PRELOAD = (
    # What a notebook imports, all stages and figures by their files, brings torch, nnsight, transformers' model and
    # tokenizer, xarray, scikit-learn and matplotlib.
    # Not matplotlib_inline.backend_inline: it hooks itself into IPython when the kernel imports it.
    "steerlib.running.notebook",
    *(f"steerlib.{wing}.{module.name}" for wing in ("stages", "figures") for module in iter_modules([PACKAGE / wing])),
    # What these import on first use. xarray asks distributed for a lock.
    "dask.array",
    "distributed",
    "ipykernel.kernelapp",
    # What a kernel imports as it starts.
    "IPython.core.completerlib",
    "IPython.core.debugger",
    "IPython.extensions.storemagic",
    "tornado.platform.asyncio",
)

ROOM = 60  # bytes of the 104 that the path of a socket may have everywhere; the others are for names of ours
DIED_OF = "died-of"  # a file in which a kernel that cannot start says why

_CAN_FORK = sys.platform == "linux"  # elsewhere it is missing, or unsafe beside system libraries
_IMPORTED_IN = os.getpid()  # in a forked kernel: the server
_PR_SET_PDEATHSIG = 1

if "multiprocessing.forkserver" in sys.orig_argv[-1]:  # the server is importing us, before torch
    # The exit handler to run last, as it is the first: tearing torch down takes over a second.
    atexit.register(os._exit, 0)


class _Server(forkserver.ForkServer):
    """Its kernels are at work side by side: each of its libraries on one thread, unless told otherwise."""

    def ensure_running(self) -> None:
        with environ(SERVER):
            super().ensure_running()


# Our own server, not multiprocessing's global one, which other code may want without torch in it.
_own = _Server()
_own.set_forkserver_preload([__name__, "steerlib.running.preload"])


def _connect() -> tuple[int, int]:
    """The pipes from a new child and to it: of the server that another process shares, or where it is gone our own."""
    shared = forkserver.ForkServer()
    shared._forkserver_address = os.environ.get(SHARED, "")
    shared.ensure_running = lambda: None  # which it does, or else cannot be connected to
    with open(os.devnull) as nothing, suppress(OSError):
        shared._forkserver_alive_fd = nothing.fileno()  # each request hands it over, for nothing here
        return shared.connect_to_new_process([])
    folder_of_sockets()
    return _own.connect_to_new_process([])


@contextmanager
def left_alone() -> Iterator[None]:
    """What is started meanwhile, threads and what they start included, leaves Ctrl-C in a terminal to this process."""
    resource_tracker.ensure_running()  # where it has to be started, it lifts the mask
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def folder_of_sockets() -> str:
    """Where the sockets of this process lie, and of those it starts: a short name, for its user alone.

    It goes with the process; where that is killed, the next one removes it. Raises SteerlibError where there is none.
    """
    ours = process.current_process()._config  # where multiprocessing looks for such a folder, and hands it to children
    if not ours.get("tempdir"):
        for parent in (tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp", "/var/tmp", "/dev/shm"):
            if os.path.isabs(parent) and parent.isprintable() and len(os.fsencode(parent)) <= ROOM:
                with suppress(SteerlibError):
                    folder, remove = locks.own_folder(Path(parent), "steerlib-", 0o700)
                    util.Finalize(None, remove, exitpriority=-100)
                    ours["tempdir"] = str(folder)
                    break
        else:
            raise SteerlibError("no folder for sockets that can be written to; set TMPDIR to one with a short name")
    return ours["tempdir"]


def share_server() -> None:
    """Let all processes that this one starts from now on use its server, or the one that it was told of itself.

    Returns at once, as the server imports meanwhile.
    """
    told = os.environ.get(SHARED, "")
    others = Path(told).is_socket() and told != _own._forkserver_address  # the name may be from another machine
    if _CAN_FORK and not others:
        folder_of_sockets()
        with left_alone():
            _own.ensure_running()
        os.environ[SHARED] = _own._forkserver_address


def use_warm_kernels() -> None:
    """Let this process, from now on, start its Jupyter kernels warm, where it can."""
    if _CAN_FORK:
        KernelProvisionerFactory.instance().default_provisioner_name = PROVISIONER


class WarmKernelProvisioner(LocalProvisioner):
    """Jupyter's own provisioner, except that a Python kernel of this environment is forked."""

    last: _ForkedProcess | None = None

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        if cmd[0] != sys.executable or "ipykernel_launcher" not in cmd:
            return await super().launch_kernel(cmd, **kwargs)
        self.cwd = os.path.abspath(kwargs.get("cwd") or ".")
        env = {**kwargs["env"], "JPY_PARENT_PID": str(os.getpid())}
        env.pop(SHARED, None)  # it has our code; what a notebook starts may be of another checkout
        argv = cmd[cmd.index("ipykernel_launcher") :]
        type(self).last = None  # until there is one
        self.process = type(self).last = _ForkedProcess(_Kernel(argv, self.cwd, env))
        self.pid = self.pgid = self.process.pid
        return self.connection_info


def died_of(error: Exception, folder: Path) -> str:
    """Why the last kernel did not start or died, with its sockets in ``folder``; and what helps, if anything may."""
    if (told := folder / DIED_OF).exists():
        return told.read_text()
    code = WarmKernelProvisioner.last and WarmKernelProvisioner.last.poll()
    if code is None or not -signal.NSIG < code < 0 or "respond" in str(error):  # it was then killed by Jupyter
        return str(error) or type(error).__name__
    name = signal.Signals(-code).name
    return f"{name}, perhaps for want of memory; {LESS}" if code == -signal.SIGKILL else name


class _ForkedProcess(popen_forkserver.Popen):
    """A child of the server, as `LocalProvisioner` wants a process to be.

    It unpickles how to resemble the worker (not at all), then what to run. `multiprocessing.Process` would run the
    worker's __main__ again for the former, and refuse to start at all in a daemonic process, as Dask's workers are.
    """

    stdin = stdout = stderr = None  # those of the worker
    send_signal = popen_forkserver.Popen._send_signal

    def _launch(self, kernel: _Kernel) -> None:
        self.sentinel, request = _connect()  # the former tells its id, then its exit code
        self.finalizer = util.Finalize(self, util.close_fds, (self.sentinel, request))
        with open(request, "wb", closefd=False) as stream:  # when it closes, the kernel is killed
            stream.write(pickle.dumps({}) + pickle.dumps(kernel))
        self.pid = forkserver.read_signed(self.sentinel)


@dataclass
class _Kernel:
    """A kernel to be: pickled by the worker, and run by the fork server in a new child."""

    argv: list[str]
    cwd: str
    env: dict[str, str]

    def _bootstrap(self, parent_sentinel: int) -> int:
        """Run the kernel until it is told to stop; the name is the one the fork server calls."""
        try:
            self._tie(parent_sentinel)
            gc.freeze()  # or the first collection would walk, and so copy, all that we share
            gc.enable()
            self._look_like_new()
            return self._serve()
        except Exception as error:
            told = Path(self.argv[self.argv.index("-f") + 1]).with_name(DIED_OF)
            with suppress(OSError):  # who would read it is gone, with the folder
                told.write_text(f"{type(error).__name__}: {error}")
            return 1

    def _tie(self, pipe: int) -> None:
        """To the server, and to the worker at the pipe's other end: when either ends, so does the kernel."""
        os.setsid()  # Jupyter interrupts the kernel's process group, which must be its alone
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        server = os.getppid()
        if server != _IMPORTED_IN:
            raise RuntimeError("the fork server died before the kernel was tied to it")
        if len(os.listdir(f"/proc/{server}/task")) > 1:
            raise RuntimeError("the fork server runs threads, whose locks a fork may never release")
        # The server lives as long as anyone holds this pipe open. That must be who started it alone.
        os.close(forkserver._forkserver._forkserver_alive_fd)
        fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(pipe, fcntl.F_SETFL, os.O_ASYNC)  # a signal when the other end closes: nothing more is written
        if connection.wait([pipe], timeout=0):
            raise RuntimeError("the worker died before the kernel was tied to it")

    def _look_like_new(self) -> None:
        """Redo what the server did as it started, but for this notebook."""
        import matplotlib
        import numpy as np
        import torch

        os.chdir(self.cwd)
        os.environ.clear()
        os.environ.update(self.env)
        sys.argv = self.argv
        for inherited in weakref.finalize._registry:
            inherited.atexit = False  # what libraries would tidy up at exit is the server's, and takes torch 0.05 s
        atexit.unregister(shutil.rmtree)  # of matplotlib's folder, where home cannot be written to
        if sys.path[0] == "":  # ipykernel puts it elsewhere: behind the standard library
            del sys.path[0]
        np.random.seed()  # noqa: NPY002 -- the global generator is what siblings would share
        torch.default_generator.seed()
        # ipykernel sets this variable, but matplotlib looks at it only when it is imported.
        os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
        matplotlib.rcParams["backend"] = os.environ["MPLBACKEND"]

    def _serve(self) -> int:
        from ipykernel.iostream import IOPubThread
        from ipykernel.kernelapp import IPKernelApp

        # Nobody debugs what papermill runs, and importing pydevd costs as much as all the rest.
        sys.modules.setdefault("debugpy", None)  # type: ignore[arg-type]
        # Nor does it listen for what subprocesses print, at a port that any user of the machine can connect to.
        IOPubThread._setup_pipe_in = lambda thread: setattr(thread, "_pipe_flag", False)
        app = IPKernelApp.instance()
        options = [
            "--HistoryManager.enabled=False",  # one thread less, and nothing to save
            "--IPKernelApp.parent_handle=1",  # its word for: do not poll for orphanhood
            "--IPKernelApp.log_level=CRITICAL",  # it would tell of 127.0.0.1 and of a late, harmless SIGINT
        ]
        app.initialize(self.argv[1:] + options)
        app.start()
        # End the control thread first. ipykernel's exit handler stops the thread which that one, as
        # it ends, waits for to flush stdout: half of all kernels would hang until killed, 2.5 s on.
        app.control_thread.stop()
        app.control_thread.join()
        atexit._run_exitfuncs()  # which the server would skip
        return 0
