"""Revisions of a repository on this disk: where they lie, whether they are whole, fetching and removing them."""

from __future__ import annotations

import shutil
from pathlib import Path

from pydantic import BaseModel, ValidationError

from steerlib import SteerlibError
from steerlib.checkpoints.listing import Entry, Listing, Tokenizer
from steerlib.files import hub, locks, store
from steerlib.files.hashes import file_sha256, weights_hash
from steerlib.files.layout import folder_name, weight_files


class Record(BaseModel):
    """What is known of a download: first of what it is to be, then that it has arrived and was found whole."""

    revision: str
    commit: str
    path: str = ""
    weights_sha256: str = ""


def downloads(folder: Path) -> Path:
    """Where a study's downloads lie; what lies in the user's own cache is used there."""
    return folder / "downloads"


def place_of_tokenizer(folder: Path, tokenizer: Tokenizer) -> Path:
    return downloads(folder) / f"tokenizer-{tokenizer.commit[:12]}"


def place(folder: Path, step: int) -> Path:
    return downloads(folder) / folder_name(step)


def _record_file(folder: Path, step: int) -> Path:
    return place(folder, step).with_suffix(".json")


def _read(folder: Path, step: int) -> Record | None:
    try:
        return Record.model_validate(store.read_json(_record_file(folder, step)))
    except ValidationError:
        return None


def record(folder: Path, entry: Entry) -> Record | None:
    """What was fetched of a revision and found whole, even if it was removed since; None when it is another by now."""
    kept = _read(folder, entry.step)
    whole = kept and kept.weights_sha256 and kept.revision == entry.revision and entry.commit in ("", kept.commit)
    return kept if whole else None


def whole(folder: Path, entry: Entry) -> Path | None:
    """Where a revision lies on this disk; None when it does not, or some of it is missing."""
    kept = record(folder, entry)
    path = Path(kept.path) if kept else None
    sizes = [(path / file.name, file.size) for file in entry.files] if path else []
    return path if path and path.is_dir() and all(p.is_file() and p.stat().st_size == n for p, n in sizes) else None


def fetch(listing: Listing, entry: Entry, folder: Path) -> None:
    """Bring a revision onto this disk, whole and with the hashes that the hub tells, and record it.

    Raises SteerlibError naming the revision, file and remedy; files that have arrived are kept for the next run.
    """
    if entry.problem:
        raise SteerlibError(entry.problem)
    if source := listing.tokenizer:
        with locks.turn(folder, "tokenizer"):  # one for all: runs would write to the same files
            hub.download(source.repo, source.commit, source.files, place_of_tokenizer(folder, source), "main")
    if whole(folder, entry):
        return
    revision, names = entry.commit or entry.revision, [file.name for file in entry.files]
    path = hub.in_cache(listing.repo, revision, names) if names else hub.snapshot_in_cache(listing.repo, revision)
    if path is None and not names:
        raise SteerlibError(
            f"{listing.repo} {entry.revision}: is not in your Hugging Face cache, and the hub could not be asked; "
            "fetch it where there is a network (`hf download`), or run again with one"
        )
    made, ours = Record(revision=entry.revision, commit=entry.commit), path is None
    if ours:
        path, kept = place(folder, entry.step), _read(folder, entry.step)
        if kept and kept.commit != entry.commit:  # the revision has moved: files of one size may be others
            shutil.rmtree(path, ignore_errors=True)
        store.write_json(_record_file(folder, entry.step), made.model_dump())
        hub.download(listing.repo, revision, entry.files, path, entry.revision)
    done = {"path": str(path), "weights_sha256": _checked(listing, entry, path, removable=ours)}
    store.write_json(_record_file(folder, entry.step), made.model_dump() | done)


def remove(path: Path) -> None:
    """A download, so that at no time half of it has its name. Raises SteerlibError when it cannot be."""
    aside = path.with_name(f".{path.name}.old")
    try:
        if path.is_symlink():
            path.unlink()
            return
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        shutil.rmtree(aside)
    except OSError as error:
        raise SteerlibError(f"{path}: cannot be removed to make room ({error.strerror}); remove it by hand") from error


def _checked(listing: Listing, entry: Entry, folder: Path, removable: bool) -> str:
    """Hash of the weights as they arrived. What is not what the hub tells is said, and removed if it is ours."""
    expected = {file.name: file for file in entry.files}
    hashes = []
    for path in weight_files(folder):
        sha256, file = file_sha256(path), expected.get(path.name)
        if file and file.sha256 not in (None, sha256):
            size = path.stat().st_size
            damage = "is cut short" if size < file.size else "is damaged"
            remedy = f"remove it from your cache ({path})"
            if removable:
                path.unlink()
                remedy = "it was removed"
            raise SteerlibError(
                f"{listing.repo} {entry.revision}: {path.name} {damage} ({size:,} bytes with SHA-256 {sha256[:12]}…; "
                f"the hub tells {file.size:,} and {file.sha256[:12]}…); {remedy}: run again, and if it stays so, the "
                "file on the hub is damaged"
            )
        hashes.append(sha256)
    return weights_hash(hashes)
