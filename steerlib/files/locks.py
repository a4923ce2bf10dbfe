"""Who works where: one driver on a whole study, or several, each on checkpoints of its own.

Locks are the kernel's, on files in the study's folder: they end with their process, however that ends. On a file system
that several machines share they hold as far as that has them (NFS and Lustre do, unless mounted without).
"""

import errno
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from steerlib import SteerlibError
from steerlib.files import store
from steerlib.files.layout import folder_name

MOMENT = 5  # seconds for which another run may look at a step of which it is not


def place(folder: Path) -> Path:
    return folder / ".locks"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The whole of a study. Raises SteerlibError while another run is at work in its folder, on whatever part of it."""
    with _held(folder / ".lock", f"{folder}: another steerlib run is at work here"):
        for step in sorted(place(folder).glob("step=*")):
            with _held(step, f"{folder}: another steerlib run is at work on {step.name}"):
                pass
        yield


@contextmanager
def locked_steps(folder: Path, steps: Iterable[int]) -> Iterator[None]:
    """Some checkpoints of a study. Raises SteerlibError while another run has the whole of it, or one of these."""
    whole = f"{folder}: a steerlib run is at work on the whole study"
    with ExitStack() as held:
        # In turn: two runs that look at the folder's lock at once would each take the other for one of the whole.
        with turn(folder, "entry"), _held(folder / ".lock", whole, MOMENT):
            for step in steps:
                busy = f"{folder}: another steerlib run is at work on step {step}"
                held.enter_context(_held(place(folder) / folder_name(step), busy, MOMENT))
        yield


def hold(path: Path, timeout: float = 0) -> FileLock | None:
    """A lock to be released, by whichever thread; None while somebody else has it. Raises SteerlibError."""
    with store.making(path):
        lock = FileLock(path, thread_local=False)
        try:
            lock.acquire(timeout=timeout)
        except Timeout:
            return None
        except NotImplementedError:
            raise OSError(errno.ENOLCK, "this file system has no locks") from None
        return lock


def own_folder(parent: Path, prefix: str, mode: int = 0o777) -> tuple[Path, Callable[[], None]]:
    """A new folder, and what removes it, which its process is to call in the end.

    What killed processes left of them is removed: a process that is alive holds its lock. Raises SteerlibError.
    """
    for path in parent.glob(f"{prefix}*.lock"):
        with suppress(SteerlibError):  # another user's
            if left := hold(path):
                _discard(path.with_suffix(""), left)
    folder = parent / f"{prefix}{uuid.uuid4().hex[:8]}"
    lock = hold(Path(f"{folder}.lock"), timeout=-1)
    with store.making(folder):
        folder.mkdir(mode)
    return folder, partial(_discard, folder, lock)


def _discard(folder: Path, lock: FileLock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


@contextmanager
def turn(folder: Path, what: str) -> Iterator[None]:
    """Wait for one's turn at something that takes a moment, such as writing `run.json`."""
    with _held(place(folder) / f"turn-{what}", timeout=-1):
        yield


@contextmanager
def _held(path: Path, busy: str = "", timeout: float = 0) -> Iterator[None]:
    if (lock := hold(path, timeout)) is None:
        raise SteerlibError(f"{busy}; wait for it, or stop it")
    try:
        yield
    finally:
        lock.release()
