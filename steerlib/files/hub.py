"""The Hugging Face hub, as far as studies need it: which revisions there are, what they hold, and fetching that.

The only file that knows `huggingface_hub`, which does every transfer: it retries, and reads HF_ENDPOINT, HF_TOKEN,
HF_HUB_OFFLINE and HF_HOME.
"""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from pydantic import BaseModel

from steerlib import SteerlibError
from steerlib.files.layout import WEIGHTS, weight_files

CLIENT = ("httpx", "httpx2", "httpcore", "huggingface_hub")  # whose errors are of the transfer
SCHEME = "hf://"
DATA = re.compile(r"hf://datasets/(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?/(?P<path>.+)")
CONFIG = ("config.json", "generation_config.json")
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model"),
    *("vocab.json", "merges.txt", "vocab.txt", "spiece.model"),
)


class Unreachable(SteerlibError):
    """The hub does not answer, or is not to be asked (HF_HUB_OFFLINE)."""


class RemoteFile(BaseModel):
    """A file of a revision; the hash is known of large files alone."""

    name: str
    size: int
    sha256: str | None = None


def revisions(repo: str) -> dict[str, str]:
    """Branches and tags of a repository, and their commits. Raises SteerlibError; Unreachable without an answer."""
    from huggingface_hub import HfApi

    with _explained(repo):
        refs = HfApi().list_repo_refs(repo)
    return {ref.name: ref.target_commit for ref in [*refs.tags, *refs.branches]}


def list_files(repo: str, revision: str) -> list[RemoteFile]:
    """All files at the top of a revision. Raises SteerlibError; Unreachable without an answer."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    with _explained(repo, revision):
        files = [entry for entry in HfApi().list_repo_tree(repo, revision=revision) if isinstance(entry, RepoFile)]
    return [RemoteFile(name=f.path, size=f.size, sha256=f.lfs.sha256 if f.lfs else None) for f in files]


def needed(files: list[RemoteFile], code: bool = False) -> list[RemoteFile]:
    """Those of a revision's files that loading takes: config, tokenizer, weights once, and if asked code."""
    weights = weights_of(files)
    indexes = {re.sub(r"-\d+-of-\d+", "", file.name) + ".index.json" for file in weights}
    small = [f for f in files if f.name in {*CONFIG, *TOKENIZER, *indexes} or (code and f.name.endswith(".py"))]
    return small + weights


def weights_of(files: list[RemoteFile]) -> list[RemoteFile]:
    """The weight files that are loaded, by name; empty where there are none."""
    of_kind = ([file for file in files if fnmatch(file.name, pattern)] for pattern in WEIGHTS)
    return sorted(next(filter(None, of_kind), []), key=lambda file: file.name)


def in_cache(repo: str, revision: str, names: Iterable[str]) -> Path | None:
    """The revision in the user's own cache, when all of these files lie there already; we only ever read it."""
    from huggingface_hub import try_to_load_from_cache

    paths = [try_to_load_from_cache(repo, name, revision=revision) for name in names]
    return Path(paths[0]).parent if paths and all(isinstance(path, str) for path in paths) else None


def snapshot_in_cache(repo: str, revision: str) -> Path | None:
    """The revision in the user's own cache when its config and all of its weights lie there; for want of a listing."""
    folder = in_cache(repo, revision, ["config.json"])
    try:
        weights = weight_files(folder) if folder else []
    except SteerlibError:
        return None
    shards = re.search(r"-of-(\d+)", weights[0].name) if weights else None
    return folder if len(weights) == (int(shards[1]) if shards else 1) else None


def download(repo: str, revision: str, files: list[RemoteFile], folder: Path, name: str = "") -> None:
    """Fetch those of the files that do not lie in the folder yet. Raises SteerlibError.

    ``name`` is the revision's in messages, where it is asked for by its commit. One process at a time may do so.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()  # ours tells the checkpoint
    notes = folder / ".cache"  # the client's: parts of files from a run that was killed, and what nobody asks for again
    shutil.rmtree(notes, ignore_errors=True)
    with _explained(repo, name or revision):
        for file in files:  # one at a time: a pool of threads would outlive an interrupted run until it has them all
            path = folder / file.name
            if path.is_file() and path.stat().st_size != file.size:
                path.unlink()
            if not path.is_file():
                hf_hub_download(repo, file.name, revision=revision, local_dir=folder)
    shutil.rmtree(notes, ignore_errors=True)


def data_file(address: str) -> Path:
    """A file of a data set, as hf://datasets/OWNER/NAME/PATH or …/NAME@REVISION/PATH; fetched once, into the cache.

    Raises SteerlibError for an address of another form, and for a file that cannot be had.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    parts = DATA.fullmatch(address)
    if parts is None:
        raise SteerlibError(f"{address}: expected hf://datasets/OWNER/NAME/PATH, or …/NAME@REVISION/PATH")
    repo, revision, name = parts["repo"], parts["revision"] or "main", parts["path"]
    cached = try_to_load_from_cache(repo, name, revision=revision, repo_type="dataset")
    if isinstance(cached, str):
        return Path(cached)
    with _explained(f"hf://datasets/{repo}", f"{revision} {name}"):
        return Path(hf_hub_download(repo, name, revision=revision, repo_type="dataset"))


@contextmanager
def _explained(repo: str, revision: str = "") -> Iterator[None]:
    """What the client raises, as one sentence with what to do."""
    try:
        yield
    except Exception as error:
        if explanation := _explain(f"{repo} {revision}".strip(), error):
            raise explanation from error
        raise


def _explain(place: str, error: Exception) -> SteerlibError | None:
    """None for what is none of the client's errors."""
    from huggingface_hub import errors

    match error:
        case errors.LocalEntryNotFoundError(__cause__=Exception() as cause):
            return _explain(place, cause)  # it was not to be had, and not here either
        case errors.HFValidationError():
            message = "is neither a repository nor a folder that is there; check the name"
        case errors.GatedRepoError():
            message = (
                "its owner wants to know who downloads it; accept the terms on its page, then log in (`hf auth login`, "
                "or HF_TOKEN)"
            )
        case errors.RepositoryNotFoundError():
            message = (
                "there is no such repository, or it is private; check the name, or log in (`hf auth login`, or "
                "HF_TOKEN)"
            )
        case errors.RevisionNotFoundError():
            message = "there is no such revision; `steerlib checkpoints` lists them"
        case errors.RemoteEntryNotFoundError():
            message = "there is no such file (any more); check its name, and run again"
        case errors.HfHubHTTPError(response=response) if response.status_code == 429 or response.status_code >= 500:
            return Unreachable(f"{place}: the hub answers with an error ({response.status_code}); run again later")
        case errors.HfHubHTTPError():
            message = f"the hub refuses ({error.response.status_code}); check the name, or log in"
        case OSError(errno=errno.ENOSPC | errno.EDQUOT | errno.EFBIG):
            message = "the disk is full; free some, or give the study a smaller checkpoints.disk, and run again"
        case OSError(filename=str() as file):
            return SteerlibError(f"{file}: cannot be written ({error.strerror}); check the folder")
        case _ if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in CLIENT:
            return Unreachable(f"{place}: {_unreachable(error)}")
        case _:
            return None
    return SteerlibError(f"{place}: {message}")


def _unreachable(error: Exception) -> str:
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE forbids to fetch it; unset it, or fetch it where there is a network"
    reason = (str(error).strip().splitlines() or [""])[0]
    return (
        f"the connection failed ({type(error).__name__}: {reason}); run again: files that have arrived are kept, and "
        "the rest is fetched"
    )
