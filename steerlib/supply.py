"""Checkpoints of a repository brought onto this disk ahead of the analysis, and removed behind it.

While one checkpoint is analysed the next is fetched, and what lies here never takes more than the study's budget.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from rich.filesize import decimal

from steerlib import listing as listings
from steerlib.errors import SteerlibError
from steerlib.listing import Entry, Listing
from steerlib.study import Study

Arrived = Callable[[int, str], None]  # (step, what went wrong or nothing)


class Supply(threading.Thread):
    """Fetches the steps in order and tells of each. The steps told of are kept until they are released.

    Raises SteerlibError when a single checkpoint is more than the budget allows.
    """

    def __init__(self, study: Study, listing: Listing, folder: Path, steps: Sequence[int], arrived: Arrived):
        super().__init__(name="supply", daemon=True)
        self.study, self.listing, self.folder, self.arrived = study, listing, folder, arrived
        entries = {entry.step: entry for entry in listing.entries}
        self.wanted = [entries[step] for step in steps]
        self.budget = study.checkpoints.disk
        self._held: set[int] = set()  # fetched or being fetched, and not released yet
        self._changed = threading.Condition()
        self._stopped = False
        if self.budget is not None and self.wanted:
            largest = max(self.wanted, key=lambda entry: entry.size)
            if largest.size > self.budget:
                raise SteerlibError(
                    f"{study._path}: checkpoints.disk ({decimal(self.budget)}) is less than step {largest.step} "
                    f"({largest.revision}) alone takes, {decimal(largest.size)}; allow twice that, so that the next "
                    "is fetched while one is analysed"
                )

    def run(self) -> None:
        for entry in self.wanted:
            if not self._room(entry):
                return
            try:
                listings.fetch(self.study, self.listing, entry, self.folder)
            except Exception as error:  # whatever a disk or network may do: the other checkpoints go on
                self.release(entry.step)
                message = str(error) if isinstance(error, SteerlibError) else f"{type(error).__name__}: {error}"
                self.arrived(entry.step, message)
            else:
                self.arrived(entry.step, "")

    def release(self, step: int) -> None:
        """The analysis of a step is over: it may be removed when room is needed."""
        with self._changed:
            self._held.discard(step)
            self._changed.notify_all()

    def stop(self) -> None:
        """Fetch no more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _room(self, entry: Entry) -> bool:
        """Wait until the budget has room, removing what is not needed any more; False when stopped."""
        with self._changed:
            while not self._stopped:
                if self.budget is None or self._evict(self.budget - entry.size, entry):
                    self._held.add(entry.step)
                    return True
                self._changed.wait()
        return False

    def _evict(self, allowed: int, entry: Entry) -> bool:
        """Remove downloads that are not held, oldest step first, until the rest is within what is allowed."""
        sizes = {place: _size(place) for place in sorted(listings.downloads(self.folder).glob("step=*/"))}
        reserved = {listings.place(self.folder, e.step): e.size for e in self.wanted if e.step in self._held}
        mine = listings.place(self.folder, entry.step)  # what has arrived of it is part of it
        taken = {place: size for place, size in (sizes | reserved).items() if place != mine}
        allowed -= _size(listings.downloads(self.folder) / listings.TOKENIZER)
        for place in sizes:
            if sum(taken.values()) <= allowed:
                break
            if place not in reserved and place != mine:
                shutil.rmtree(place)
                del taken[place]
        return sum(taken.values()) <= allowed


def _size(folder: Path) -> int:
    """Bytes of all files; one may vanish while it is fetched to its place."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total
