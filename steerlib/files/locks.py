"""Who works where: one driver on a whole study, or several, each on checkpoints of its own.

Locks are the kernel's, on files in the study's folder: they end with their process, however that ends. On a file system
that several machines share they hold as far as that has them (NFS and Lustre do, unless mounted without).
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from steerlib import SteerlibError
from steerlib.files.layout import folder_name

MOMENT = 5  # seconds for which another run may look at a step of which it is not


def place(folder: Path) -> Path:
    return folder / ".locks"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The whole of a study. Raises SteerlibError while another run is at work in its folder, on whatever part of it."""
    folder.mkdir(parents=True, exist_ok=True)
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
    """A lock to be released, by whichever thread; None while somebody else has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        return None
    return lock


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
