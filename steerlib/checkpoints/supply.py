"""Checkpoints of a repository brought onto this disk ahead of the analysis, and removed behind it.

While one checkpoint is analysed the next is fetched, and what lies here never takes more than the study's budget: also
when several runs share it, each at work on steps of its own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from filelock import FileLock
from rich.filesize import decimal

from steerlib import SteerlibError
from steerlib.checkpoints import downloads
from steerlib.checkpoints.listing import Entry, Listing
from steerlib.files import hub, locks
from steerlib.study import Study

GLANCE = 2  # seconds between looks at what other runs have let go of
Arrived = Callable[[int, str], None]  # (step, what went wrong or nothing)


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
        self.wanted = sorted(entries, key=lambda entry: downloads.whole(folder, entry) is None)
        self._held: dict[int, FileLock] = {}  # steps fetched or being fetched, and not released yet
        self._changed = threading.Condition()
        self._stopped = False
        self._tokenizer = listing.tokenizer.size if listing.tokenizer else 0
        self.budget = study.checkpoints.disk
        if self.budget is not None and self.wanted:
            largest = max(self.wanted, key=self._size)
            if (least := self._size(largest) + self._tokenizer) > self.budget:
                raise SteerlibError(
                    f"{study.path}: checkpoints.disk ({decimal(self.budget)}) is less than step {largest.step} "
                    f"({largest.revision}) alone takes, {decimal(least)}; allow twice that, so that the next is "
                    "fetched while one is analysed"
                )

    def _size(self, entry: Entry) -> int:
        """Bytes in our folder; none when it lies in the user's cache."""
        names = [file.name for file in entry.files]
        return 0 if names and hub.in_cache(self.listing.repo, entry.commit, names) else entry.size

    def run(self) -> None:
        for entry in self.wanted:
            problem = ""
            try:
                if not self._room(entry):
                    return
                downloads.fetch(self.listing, entry, self.folder)
            except Exception as error:  # whatever a disk or network may do: the other checkpoints go on
                self.release(entry.step)
                problem = str(error) if isinstance(error, SteerlibError) else f"{type(error).__name__}: {error}"
            self.arrived(entry.step, problem)

    def release(self, step: int) -> None:
        """The analysis of a step is over: it may be removed when room is needed."""
        with self._changed:
            if lock := self._held.pop(step, None):
                lock.release()
            self._changed.notify_all()

    def stop(self) -> None:
        """Fetch no more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _room(self, entry: Entry) -> bool:
        """Wait until the budget has room, removing what is not needed any more; False when stopped."""
        size, place = self._size(entry), downloads.place(self.folder, entry.step)
        with self._changed:
            while not self._stopped:
                # In turn with other runs, so that what is seen to be free stays so until it is removed or taken.
                with locks.turn(self.folder, "room"):
                    # What lies here takes no more room.
                    if downloads.whole(self.folder, entry) or self._evict(size, place):
                        # None while an earlier fetch of it, of this very process, has not ended yet.
                        if lock := locks.hold(self._lock(place)):
                            self._held[entry.step] = lock
                            if size:  # from now on others see that it will take its room
                                place.mkdir(parents=True, exist_ok=True)
                            return True
                self._changed.wait(GLANCE)
        return False

    def _evict(self, size: int, place: Path) -> bool:
        """Remove downloads that no run holds, those not wanted first, until this one has room within the budget."""
        if self.budget is None:
            return True
        allowed = self.budget - size - self._tokenizer
        entries = {downloads.place(self.folder, entry.step): entry for entry in self.listing.entries}
        wanted = [downloads.place(self.folder, entry.step) for entry in self.wanted]
        held = [downloads.place(self.folder, step) for step in self._held]
        taken, free = {}, []
        for other in downloads.downloads(self.folder).glob("step=*/"):
            if other == place:  # what has arrived of it is part of it
                continue
            taken[other] = _bytes(other)
            if other not in held and (lock := locks.hold(self._lock(other))):
                lock.release()
                free.append(other)
            elif other in entries:  # more of it may be on its way
                taken[other] = max(taken[other], self._size(entries[other]))
        for other in sorted(free, key=lambda other: (other in wanted, other)):
            if sum(taken.values()) <= allowed:
                break
            downloads.remove(other)
            del taken[other]
        return sum(taken.values()) <= allowed

    def _lock(self, place: Path) -> Path:
        """Held from when a download gets its room until its analysis is over; `step=…` is that of who analyses."""
        return locks.place(self.folder) / f"download-{place.name}"


def _bytes(folder: Path) -> int:
    """Bytes of all files; one may vanish while it is fetched to its place."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total
