"""Checkpoints of a repository brought onto this disk ahead of the analysis, and removed behind it.

While one checkpoint is analysed the next is fetched, and what lies here never takes more than the study's budget: also
when several runs share it, each at work on steps of its own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

from rich.filesize import decimal

from steerlib import downloads, hub, locks
from steerlib.errors import SteerlibError
from steerlib.listing import Entry, Listing
from steerlib.study import Study

GLANCE = 2  # seconds between looks at what other runs have let go of
Arrived = Callable[[int, str], None]  # (step, what went wrong or nothing)


class Supply(threading.Thread):
    """Fetches the steps in order and tells of each. The steps told of are kept until they are released.

    ``own`` are the steps that this run has locked; None when it has the whole study. What other runs have locked is
    left alone. Raises SteerlibError when a single checkpoint is more than the budget allows.
    """

    def __init__(
        self,
        study: Study,
        listing: Listing,
        folder: Path,
        steps: Sequence[int],
        arrived: Arrived,
        own: Collection[int] | None = None,
    ):
        super().__init__(name="supply", daemon=True)
        self.study, self.listing, self.folder, self.arrived = study, listing, folder, arrived
        entries = [entry for entry in listing.entries if entry.step in set(steps)]
        # First what lies here already: it would only be removed to make room for the others, and fetched again.
        self.wanted = sorted(entries, key=lambda entry: downloads.here(folder, entry) is None)
        self.budget = study.checkpoints.disk
        self._own = None if own is None else {downloads.place(folder, step) for step in own}
        self._held: set[int] = set()  # fetched or being fetched, and not released yet
        self._changed = threading.Condition()
        self._stopped = False
        if self.budget is not None and self.wanted:
            largest = max(self.wanted, key=self._takes)
            if (least := self._takes(largest) + self._tokenizer) > self.budget:
                raise SteerlibError(
                    f"{study._path}: checkpoints.disk ({decimal(self.budget)}) is less than step {largest.step} "
                    f"({largest.revision}) alone takes, {decimal(least)}; allow twice that, so that the next is "
                    "fetched while one is analysed"
                )

    @property
    def _tokenizer(self) -> int:
        return self.listing.tokenizer.size if self.listing.tokenizer else 0

    def _takes(self, entry: Entry) -> int:
        """Bytes in our folder; none when it lies in the user's cache."""
        names = [file.name for file in entry.files]
        return 0 if names and hub.in_cache(self.listing.repo, entry.commit, names) else entry.size

    def run(self) -> None:
        for entry in self.wanted:
            try:
                if not self._room(entry):
                    return
                self._fetch_tokenizer()
                downloads.fetch(self.study, self.listing, entry, self.folder)
            except Exception as error:  # whatever a disk or network may do: the other checkpoints go on
                self.release(entry.step)
                message = str(error) if isinstance(error, SteerlibError) else f"{type(error).__name__}: {error}"
                self.arrived(entry.step, message)
            else:
                self.arrived(entry.step, "")

    def _fetch_tokenizer(self) -> None:
        """Where it is one for all, runs would write to the same files."""
        if (source := self.listing.tokenizer) and self._own is not None:
            with self._turn("tokenizer"):
                place = downloads.place_of_tokenizer(self.folder, source)
                hub.download(source.repo, source.commit, source.files, place, "main")

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
        takes = self._takes(entry)
        with self._changed:
            while not self._stopped:
                with self._turn("room"):
                    here = downloads.here(self.folder, entry) is not None  # it takes no more room
                    if self.budget is None or here or self._evict(self.budget - takes - self._tokenizer, entry):
                        self._held.add(entry.step)
                        if self._own is not None and takes:  # from now on others see that it will take its room
                            downloads.place(self.folder, entry.step).mkdir(parents=True, exist_ok=True)
                        return True
                self._changed.wait(None if self._own is None else GLANCE)
        return False

    def _turn(self, what: str):
        """Alone among runs, where there may be others."""
        return nullcontext() if self._own is None else locks.turn(self.folder, what)

    def _unused(self, place: Path):
        """Whether no other run is at work on what lies there, nor will be while a ``with`` block lasts."""
        mine = self._own is None or place in self._own
        return nullcontext(True) if mine else locks.unused(self.folder, place.name)

    def _foreign(self, place: Path) -> int:
        """Bytes that a download of another run will take at least; 0 for one that nobody is at work on."""
        with self._unused(place) as unused:
            if unused:
                return 0
        entries = (e for e in self.listing.entries if downloads.place(self.folder, e.step) == place)
        return max((self._takes(entry) for entry in entries), default=0)

    def _evict(self, allowed: int, entry: Entry) -> bool:
        """Remove downloads that are not held, those not wanted first, until the rest is within what is allowed."""
        sizes = {place: _size(place) for place in sorted(downloads.downloads(self.folder).glob("step=*/"))}
        reserved = {downloads.place(self.folder, e.step): self._takes(e) for e in self.wanted if e.step in self._held}
        mine = downloads.place(self.folder, entry.step)  # what has arrived of it is part of it
        wanted = [downloads.place(self.folder, e.step) for e in self.wanted]
        sizes = {place: max(size, self._foreign(place)) for place, size in sizes.items()}
        taken = {place: size for place, size in (sizes | reserved).items() if place != mine}
        for place in sorted(sizes, key=lambda place: place in wanted):
            if sum(taken.values()) <= allowed:
                break
            if place not in reserved and place != mine:
                with self._unused(place) as unused:
                    if unused:
                        downloads.remove(place)
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
