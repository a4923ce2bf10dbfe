"""Checkpoints of a repository brought onto this disk ahead of the analysis, and removed behind it.

While one checkpoint is analysed the next is fetched, and what lies here never takes more than the study's budget: also
when several runs share it, each at work on steps of its own.
"""

import os
import shutil
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Annotated

from filelock import FileLock
from pydantic import BaseModel, Field
from rich.filesize import decimal

from steerlib import SteerlibError
from steerlib.checkpoints.listing import Listing, Tokenizer
from steerlib.checkpoints.suites import Revision
from steerlib.files import hub, locks, store
from steerlib.files.hashes import file_sha256, sha256_of, weights_hash
from steerlib.files.layout import absent, folder_name, loaded_names, weight_names
from steerlib.files.params import Located
from steerlib.study import Study

GLANCE = 2  # seconds between looks at what other runs have let go of
Arrived = Callable[[int, str], None]  # (step, what went wrong or nothing)


def place(folder: Path, step: int) -> Path:
    """Where a study's download lies; what lies in the user's own cache is used there."""
    return folder / "downloads" / folder_name(step)


def place_of_tokenizer(folder: Path, tokenizer: Tokenizer) -> Path:
    return folder / "downloads" / f"tokenizer-{tokenizer.commit[:12]}"


def model(named: Located, where: str, fetch: bool = True) -> Path | None:
    """Where a model lies: in its folder, or in the user's cache, into which it may be fetched; None where it is not.

    Raises SteerlibError, telling ``where`` it is named, when it cannot be had.
    """
    if named.path.is_dir():
        return named.path
    missing = f"{where}: {absent(named.path)}"
    if not hub.REPO.fullmatch(named) or ("/" in named and named.path.parent.is_dir()):
        raise SteerlibError(missing)
    try:
        return hub.model(named, fetch)
    except SteerlibError as error:
        raise SteerlibError(f"{missing}; nor can it be had as a repository: {error}") from None


def base(study: Study, folder: Path, fetch: bool = False) -> Path | None:
    """Where the model lies, or is going to, that was fine-tuned. Raises SteerlibError when it cannot be had."""
    if (named := study.checkpoints.base) is None:
        return None
    return model(named, f"{study.path}: checkpoints.base", fetch) or folder / "downloads" / "base"


def note(folder: Path, step: int) -> Path:
    """Where a download is noted: not beside it, as whoever removes downloads for their room still wants the results."""
    return folder / "fetched" / f"{folder_name(step)}.json"


class Download(BaseModel):
    """What is noted of a download."""

    revision: str
    commit: str
    path: str
    files: Annotated[dict[str, store.Sha256], Field(min_length=1)]  # by name, as they arrived

    @property
    def weights_sha256(self) -> str:
        return weights_hash(self.files[name] for name in weight_names(self.files))


def record(folder: Path, entry: Revision) -> Download | None:
    """What was noted of a download, even if it was removed since; none when the revision is another by now."""
    kept = store.read_json(note(folder, entry.step), Download)
    return kept if kept and kept.revision == entry.revision and entry.commit in ("", kept.commit) else None


def whole(folder: Path, entry: Revision) -> Path | None:
    """Where a revision lies on this disk; None when it does not, or some of it is missing or not what had arrived."""
    kept = record(folder, entry)
    if kept is None or not all(f.name in kept.files and f.sha256 in (None, kept.files[f.name]) for f in entry.files):
        return None
    try:
        hashes = sha256_of([Path(kept.path) / name for name in kept.files], folder)
    except OSError:
        return None
    return Path(kept.path) if hashes == [*kept.files.values()] else None


def cached(listing: Listing, entry: Revision) -> Path | None:
    """Where a revision lies in the user's own cache, if it does."""
    return hub.in_cache(listing.repo, entry.commit or entry.revision, [file.name for file in entry.files])


def fetch(listing: Listing, entry: Revision, folder: Path) -> None:
    """Bring a revision onto this disk, whole and with the hashes that the hub tells, and record it.

    Raises SteerlibError naming the revision, file and remedy; files that have arrived are kept for the next run.
    """
    if source := listing.tokenizer:
        with locks.turn(folder, "tokenizer"):  # one for all: runs would write to the same files
            hub.download(source.repo, source.commit, source.files, place_of_tokenizer(folder, source), "main")
    if whole(folder, entry):
        return
    path, ours = cached(listing, entry), place(folder, entry.step)
    if entry.problem and (path is None or entry.files):  # not where it was told once the hub was silent, and is here
        raise SteerlibError(entry.problem)
    if path is None and not entry.files:
        raise SteerlibError(
            f"{listing.repo} {entry.revision}: is not in your Hugging Face cache, and the hub could not be asked; "
            "fetch it where there is a network (`hf download`), or run again with one"
        )
    if path is None:
        files = hub.download(listing.repo, entry.commit, entry.files, ours, entry.revision)
    else:
        where = f"{listing.repo} {entry.revision}"
        files = {file.name: hub.checked(file, path / file.name, where, ours=False) for file in entry.files}
        # Where the hub was not asked, it is at least seen when they change.
        code = listing.asked["trust_remote_code"]
        files = files or {name: file_sha256(path / name) for name in loaded_names(os.listdir(path), code)}
    made = Download(revision=entry.revision, commit=entry.commit, path=str(path or ours), files=files)
    store.write_json(note(folder, entry.step), made.model_dump())


class Supply(threading.Thread):
    """Fetches the steps in order and tells of each. The steps told of are kept until they are released.

    What another run holds is left alone; what one only waits to fetch, or has let go of, may be removed. Raises
    SteerlibError when a single checkpoint is more than the budget allows.
    """

    def __init__(self, study: Study, listing: Listing, folder: Path, steps: Sequence[int], arrived: Arrived):
        super().__init__(name="supply", daemon=True)
        self.listing, self.folder, self.arrived = listing, folder, arrived
        entries = [entry for entry in listing.entries if entry.step in set(steps)]
        # First what lies here already: it would only be removed to make room for the others, and fetched again.
        self.wanted = sorted(entries, key=lambda entry: whole(folder, entry) is None)
        self._held: dict[int, FileLock] = {}  # steps fetched or being fetched, and not released yet
        self._changed = threading.Event()  # something was released, or all is to end
        self._stopped = False
        disk, tokenizer = study.checkpoints.disk, listing.tokenizer.size if listing.tokenizer else 0
        self.budget = inf if disk is None else disk - tokenizer  # of the steps alone
        largest = max(self.wanted, key=self._size, default=None)
        if largest and self._size(largest) > self.budget:
            least = self._size(largest) + tokenizer
            raise SteerlibError(
                f"{study.path}: checkpoints.disk ({decimal(disk)}) is less than step {largest.step} "
                f"({largest.revision}) alone takes, {decimal(least)}; allow twice that, so that the next is fetched "
                "while one is analysed"
            )

    def _size(self, entry: Revision) -> int:
        """Bytes in our folder; none when it lies in the user's cache."""
        return 0 if cached(self.listing, entry) else entry.size

    def run(self) -> None:
        for entry in self.wanted:
            problem = ""
            try:
                if not self._room(entry):
                    return
                fetch(self.listing, entry, self.folder)
            except Exception as error:  # whatever a disk or network may do: the other checkpoints go on
                self.release(entry.step)
                problem = str(error) if isinstance(error, SteerlibError) else f"{type(error).__name__}: {error}"
            self.arrived(entry.step, problem)

    def release(self, step: int) -> None:
        """The analysis of a step is over: it may be removed when room is needed."""
        if lock := self._held.pop(step, None):
            lock.release()
        self._changed.set()

    def stop(self) -> None:
        """Fetch no more."""
        self._stopped = True
        self._changed.set()

    def _room(self, entry: Revision) -> bool:
        """Wait until the budget has room, removing what is not needed any more; False when stopped."""
        size, path = self._size(entry), place(self.folder, entry.step)
        while not self._stopped:
            self._changed.clear()
            # In turn with other runs, so that what is seen to be free stays so until it is removed or taken.
            with locks.turn(self.folder, "room"):
                fits = whole(self.folder, entry) or self._evict(size, path)  # what lies here takes no more room
                # No lock while an earlier fetch of it, of this very process, has not ended yet.
                if fits and (lock := locks.hold(self._lock(path))):
                    self._held[entry.step] = lock
                    if size:  # from now on others see that it will take its room
                        path.mkdir(parents=True, exist_ok=True)
                    return True
            self._changed.wait(GLANCE)
        return False

    def _evict(self, size: int, path: Path) -> bool:
        """Remove downloads that no run holds, those not wanted first, until this one has room within the budget."""
        allowed = self.budget - size
        entries = {place(self.folder, entry.step): entry for entry in self.listing.entries}
        wanted = [place(self.folder, entry.step) for entry in self.wanted]
        taken, free = {}, []
        for other in {*path.parent.glob("step=*/")} - {path}:  # what has arrived of it is part of it
            taken[other] = _bytes(other)
            if lock := locks.hold(self._lock(other)):
                lock.release()
                free.append(other)
            elif other in entries:  # more of it may be on its way
                taken[other] = max(taken[other], self._size(entries[other]))
        for other in sorted(free, key=lambda other: (other in wanted, other)):
            if sum(taken.values()) <= allowed:
                break
            try:
                other.unlink() if other.is_symlink() else shutil.rmtree(other)
            except OSError as error:
                remedy = f"cannot be removed to make room ({error.strerror}); remove it by hand"
                raise SteerlibError(f"{other}: {remedy}") from error
            del taken[other]
        return sum(taken.values()) <= allowed

    def _lock(self, path: Path) -> Path:
        """Held from when a download gets its room until its analysis is over; `step=…` is that of who analyses."""
        return locks.place(self.folder) / f"download-{path.name}"


def _bytes(folder: Path) -> int:
    """Bytes of all files; one may vanish while it is fetched to its place."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total
