"""Files that carry a hash over all that they say: whatever is changed in one afterwards, by hand or by a fault, shows.

It is a seal against mistakes, and no signature: who means to deceive can make another.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self, TypeVar

from steerlib import SteerlibError
from steerlib.files import store
from steerlib.files.params import Strict
from steerlib.files.store import Sha256
from steerlib.results.keys import hashed


class Sealed(Strict):
    """What has a hash over its content."""

    hash: Sha256 | None = None

    @property
    def content(self) -> str:
        """The hash as it ought to be."""
        return hashed(self.model_dump(mode="json", exclude={"hash"}))

    def sealed(self) -> Self:
        return self.model_copy(update={"hash": self.content})

    def check(self, path: Path, remedy: str) -> Self:
        """Itself. Raises SteerlibError where it was altered."""
        if self.hash != self.content:
            raise SteerlibError(f"{path}: was altered since it was written; take it from a copy, or {remedy}")
        return self


Kind = TypeVar("Kind", bound=Sealed)


def write(path: Path, sealed: Sealed) -> None:
    store.write_json(path, sealed.model_dump(mode="json"))


def read(path: Path, kind: type[Kind], remedy: str) -> Kind:
    """A file of ours, JSON. Raises SteerlibError for one that is not there, not whole, not of this kind, or altered."""
    if not path.is_file():
        raise SteerlibError(f"{path}: is not there; {remedy}")
    try:
        return store.parse_json(path.read_bytes(), kind).check(path, remedy)
    except store.NO_JSON as error:
        raise SteerlibError(f"{path}: cannot be read ({store.reason(error)}); {remedy}") from None
