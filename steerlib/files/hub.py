"""The Hugging Face hub, as far as studies need it: which revisions there are, what they hold, and fetching that.

The only file that knows `huggingface_hub`, which does every transfer: it retries, and reads HF_ENDPOINT, HF_TOKEN,
HF_HUB_OFFLINE and HF_HOME.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from steerlib import SteerlibError
from steerlib.files import store
from steerlib.files.hashes import file_sha256, git_id
from steerlib.files.layout import loaded_names, weight_names

DATA = re.compile(r"hf://datasets/(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?/(?P<path>.+)")
REPO = re.compile(r"(?P<repo>\w[\w.-]*(/[\w.-]+)?)(@(?P<revision>\w[\w./-]*))?")  # one, or a revision of it
CONFIG = ("config.json", "generation_config.json")
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model"),
    *("vocab.json", "merges.txt", "vocab.txt", "spiece.model"),
)
MESSAGES = {  # of the client's errors, by the name of the class
    "HFValidationError": "is neither a repository nor a folder that is there; check the name",
    "GatedRepoError": "its owner wants to know who downloads it; accept the terms on its page, then log in "
    "(`hf auth login`, or HF_TOKEN)",
    "RepositoryNotFoundError": "there is no such repository, or it is private; check the name, or log in "
    "(`hf auth login`, or HF_TOKEN)",
    "RevisionNotFoundError": "there is no such revision; check its name (`steerlib checkpoints` lists a study's)",
    "RemoteEntryNotFoundError": "there is no such file (any more); check its name, and run again",
}


class Unreachable(SteerlibError):
    """The hub does not answer, or is not to be asked (HF_HUB_OFFLINE)."""


class RemoteFile(BaseModel):
    """A file of a revision; SHA-256 is known of large files alone, git's own hash of the others."""

    name: Annotated[str, Field(pattern="^[^/]+$")]  # of its own folder
    size: Annotated[int, Field(ge=0)]
    oid: str
    sha256: store.Sha256 | None = None

    def sha256_at(self, path: Path) -> str | None:
        """SHA-256 of what lies there; None where it is not this file."""
        try:
            if path.stat().st_size != self.size or (self.sha256 is None and git_id(path) != self.oid):
                return None
            sha256 = file_sha256(path)
        except OSError:
            return None
        return sha256 if self.sha256 in (None, sha256) else None


class Files(BaseModel):
    """What is fetched of a revision. Nothing, when the hub could not be asked."""

    commit: Annotated[str, Field(pattern=r"^\w*$")] = ""
    files: list[RemoteFile] = []

    @property
    def size(self) -> int:
        """Bytes to fetch; 0 when not known."""
        return sum(file.size for file in self.files)


def revisions(repo: str) -> dict[str, str]:
    """Branches and tags of a repository, and their commits. Raises SteerlibError; Unreachable without an answer."""
    from huggingface_hub import HfApi

    with _explained(repo):
        refs = HfApi().list_repo_refs(repo)
    return {ref.name: ref.target_commit for ref in [*refs.tags, *refs.branches]}


def list_files(repo: str, revision: str) -> list[RemoteFile]:
    """All files at the top of a revision. Raises SteerlibError; Unreachable without an answer."""
    from huggingface_hub import HfApi, RepoFile

    with _explained(repo, revision):
        entries = HfApi().list_repo_tree(repo, revision=revision)
        files = [entry for entry in entries if isinstance(entry, RepoFile) and "/" not in entry.path]
    known = [{"oid": file.blob_id, "sha256": file.lfs.sha256 if file.lfs else None} for file in files]
    return [RemoteFile(name=file.path, size=file.size, **more) for file, more in zip(files, known, strict=True)]


def needed(files: list[RemoteFile], code: bool = False) -> list[RemoteFile]:
    """Those of a revision's files that loading takes; the weights last."""
    names, weights = loaded_names((file.name for file in files), code), weights_of(files)
    return [file for file in files if file.name in names and file not in weights] + weights


def weights_of(files: list[RemoteFile]) -> list[RemoteFile]:
    """The weight files that are loaded, by name; empty where there are none."""
    by_name = {file.name: file for file in files}
    return [by_name[name] for name in weight_names(by_name)]


def in_cache(repo: str, revision: str, names: list[str]) -> Path | None:
    """The revision in the user's own cache, when all of these files lie there already; we only ever read it.

    Where no names are known, for want of a listing: when its config and all of its weights do.
    """
    from huggingface_hub import try_to_load_from_cache

    with _explained(repo, revision):
        paths = [try_to_load_from_cache(repo, name, revision=revision) for name in names or CONFIG[:1]]
    if not all(isinstance(path, str) for path in paths):
        return None
    folder = Path(paths[0]).parent
    weights = weight_names(os.listdir(folder))
    shards = re.search(r"-of-(\d+)", "".join(weights))
    return folder if names or len(weights) == (int(shards[1]) if shards else 1) else None


def model(name: str, fetch: bool = True) -> Path | None:
    """A model, OWNER/NAME or OWNER/NAME@REVISION, as it is on the hub now, or was when it was first asked for.

    It is fetched once, into the user's cache; None where it is not there and not to be fetched. Raises SteerlibError
    when it cannot be had.
    """
    from huggingface_hub import hf_hub_download

    if (parts := REPO.fullmatch(name)) is None:
        raise SteerlibError(f"{name}: {MESSAGES['HFValidationError']}")
    repo, revision = parts["repo"], parts["revision"] or "main"
    if (folder := in_cache(repo, revision, [])) or not fetch:
        return folder
    with _explained(repo, parts["revision"] or ""):
        files = needed(list_files(repo, revision))
        places = [hf_hub_download(repo, file.name, revision=revision) for file in files]
    if not places:
        raise SteerlibError(f"{name}: holds no model")
    return Path(places[0]).parent


def download(repo: str, revision: str, files: list[RemoteFile], folder: Path, name: str = "") -> dict[str, str]:
    """Fetch those of the files that do not lie in the folder yet, and remove all else; returns the SHA-256 of each.

    ``name`` is the revision's in messages, where it is asked for by its commit. One process at a time may do so.
    Raises SteerlibError when one cannot be had, or is not what the hub tells.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()  # ours tells the checkpoint
    name, expected, hashes = name or revision, {file.name for file in files}, {}

    def tidy() -> None:
        """Also the client's notes: parts of files from a run that was killed, and what nobody asks for again."""
        for path in folder.glob("*"):
            if path.name not in expected:
                store.remove(path)

    with _explained(repo, name):
        tidy()
        for file in files:  # one at a time: a pool of threads would outlive an interrupted run until it has them all
            path = folder / file.name
            if (sha256 := file.sha256_at(path)) is None:
                if os.path.lexists(path):
                    store.tell(f"{path}: is not what the hub tells; fetched anew")
                    store.remove(path)
                hf_hub_download(repo, file.name, revision=revision, local_dir=folder)
                sha256 = checked(file, path, f"{repo} {name}")
            hashes[file.name] = sha256
        tidy()
    return hashes


def checked(file: RemoteFile, path: Path, place: str, ours: bool = True) -> str:
    """SHA-256 of a file that has arrived. Raises SteerlibError when it is not what the hub tells; ours is removed."""
    if sha256 := file.sha256_at(path):
        return sha256
    size, remedy = path.stat().st_size, "it was removed" if ours else f"remove it from your cache ({path})"
    if ours:
        store.remove(path)
    raise SteerlibError(
        f"{place}: {file.name} is damaged ({size:,} bytes; the hub tells {file.size:,}, and the hash "
        f"{(file.sha256 or file.oid)[:12]}…); {remedy}: run again, and if it stays so, the file on the hub is damaged"
    )


def data_file(address: str) -> Path:
    """A file of a data set, as hf://datasets/OWNER/NAME/PATH or …/NAME@REVISION/PATH; fetched once, into the cache.

    Raises SteerlibError for an address of another form, and for a file that cannot be had.
    """
    from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache

    parts = DATA.fullmatch(address)
    if parts is None:
        raise SteerlibError(
            f"{address}: expected hf://datasets/OWNER/NAME/PATH, or …/NAME@REVISION/PATH; a model is OWNER/NAME, or "
            "OWNER/NAME@REVISION, without hf://"
        )
    repo, revision, name = parts["repo"], parts["revision"] or "main", parts["path"]
    cached = try_to_load_from_cache(repo, name, revision=revision, repo_type="dataset")
    if isinstance(cached, str):
        return Path(cached)
    with _explained(f"hf://datasets/{repo}", f"{revision} {name}"):
        HfApi().file_exists(repo, name, revision=revision, repo_type="dataset")  # asked once: without a network at once
        return Path(hf_hub_download(repo, name, revision=revision, repo_type="dataset"))


@contextmanager
def _explained(repo: str, revision: str = "") -> Iterator[None]:
    """What the client raises, as one sentence with what to do."""
    from huggingface_hub import errors

    try:
        yield
    except (OSError, errors.HTTPError, errors.HFValidationError, errors.XetDownloadError) as error:
        raise _explain(f"{repo} {revision}".strip(), error) from error


def _explain(place: str, error: Exception) -> SteerlibError:
    from huggingface_hub import constants, errors

    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__:
        error = error.__cause__  # it was not to be had, and not here either
    kinds = [kind.__name__ for kind in type(error).__mro__]
    if message := next((MESSAGES[kind] for kind in kinds if kind in MESSAGES), ""):
        return SteerlibError(f"{place}: {message}")
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status == 429 or status >= 500:
            return Unreachable(f"{place}: the hub answers with an error ({status}); run again later")
        return SteerlibError(f"{place}: the hub refuses ({status}); check the name, or log in")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        remedy = "free some, or give the study a smaller checkpoints.disk, and run again"
        return SteerlibError(f"{place}: the disk is full; {remedy}")
    if isinstance(error, OSError) and error.filename:
        return SteerlibError(f"{error.filename}: cannot be written ({error.strerror}); check the folder")
    if constants.is_offline_mode():
        return Unreachable(
            f"{place}: HF_HUB_OFFLINE forbids to fetch it; unset it, or fetch it where there is a network"
        )
    reason = str(error).strip().partition("\n")[0]
    return Unreachable(
        f"{place}: the connection failed ({type(error).__name__}: {reason}); run again: files that have arrived are "
        "kept, and the rest is fetched"
    )
