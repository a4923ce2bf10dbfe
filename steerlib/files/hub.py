"""The Hugging Face hub, as far as studies need it: which revisions there are, what they hold, and fetching that.

The only file that knows `huggingface_hub`, which does every transfer: it resumes, retries, and reads HF_ENDPOINT,
HF_TOKEN, HF_HUB_OFFLINE and HF_HOME.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterable
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from pydantic import BaseModel

from steerlib import SteerlibError
from steerlib.files.layout import WEIGHTS, weight_files

PARTIAL = ".part"
SCHEME = "hf://"
DATA = re.compile(r"hf://datasets/(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?/(?P<path>.+)")
TRIES = 4  # of a file, as long as something arrives
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

    with told(repo):
        refs = HfApi().list_repo_refs(repo)
    return {ref.name: ref.target_commit for ref in [*refs.tags, *refs.branches]}


def files(repo: str, revision: str) -> list[RemoteFile]:
    """All files at the top of a revision. Raises SteerlibError; Unreachable without an answer."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    with told(repo, revision):
        found = [entry for entry in HfApi().list_repo_tree(repo, revision=revision) if isinstance(entry, RepoFile)]
    return [RemoteFile(name=f.path, size=f.size, sha256=f.lfs.sha256 if f.lfs else None) for f in found]


def needed(there: Iterable[RemoteFile], code: bool = False) -> list[RemoteFile]:
    """Of the files that there are, those that loading takes: config, tokenizer, weights once, and if asked code."""
    there = list(there)
    weights = weights_of(there)
    shards = {f"{shards_of(file.name)}.index.json" for file in weights}
    small = [f for f in there if f.name in {*CONFIG, *TOKENIZER, *shards} or (code and f.name.endswith(".py"))]
    return small + weights


def weights_of(there: Iterable[RemoteFile]) -> list[RemoteFile]:
    """The weight files that are loaded, by name; empty where there are none."""
    there = list(there)
    of_kind = ([f for f in there if fnmatch(f.name, pattern)] for pattern in WEIGHTS)
    return sorted(next((found for found in of_kind if found), []), key=lambda f: f.name)


def in_cache(repo: str, revision: str, names: Iterable[str]) -> Path | None:
    """The revision in the user's own cache, when all of these files lie there already; we only ever read it."""
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(repo, name, revision=revision) for name in names]
    return Path(found[0]).parent if found and all(isinstance(path, str) for path in found) else None


def snapshot_in_cache(repo: str, revision: str) -> Path | None:
    """The revision in the user's own cache when its config and all of its weights lie there; for want of a listing."""
    found = in_cache(repo, revision, ["config.json"])
    try:
        weights = weight_files(found) if found else []
    except SteerlibError:
        return None
    indexes = [found / f"{shards_of(file.name)}.index.json" for file in weights]
    shards = {
        name for index in indexes if index.exists() for name in json.loads(index.read_text())["weight_map"].values()
    }
    return found if weights and all((found / name).exists() for name in shards) else None


def shards_of(name: str) -> str:
    """What a file of weights is a shard of, or itself."""
    return re.sub(r"-\d+-of-\d+", "", name)


def download(repo: str, revision: str, files: Iterable[RemoteFile], folder: Path, called: str = "") -> None:
    """Fetch these files into a folder, going on where an earlier call was cut off or killed. Raises SteerlibError.

    By the client's `http_get` and not its `snapshot_download`, whose partial files no later process finds again.
    ``called`` names the revision in messages, where it is asked for by its commit.
    """
    with told(repo, called or revision):
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:  # one at a time: a pool of threads would outlive an interrupted run until it has them all
            _fetch(repo, revision, file, folder)


def _fetch(repo: str, revision: str, file: RemoteFile, folder: Path) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers, disable_progress_bars

    whole = folder / file.name
    if whole.exists() and whole.stat().st_size == file.size:
        return
    disable_progress_bars()  # ours tells the checkpoint
    # Named by what it is to become: of a revision that has moved meanwhile, nothing is mixed in.
    partial = folder / f"{file.name}.{file.sha256 or revision}{PARTIAL}"
    for other in folder.glob(f"{file.name}.*{PARTIAL}"):
        if other != partial or other.stat().st_size > file.size:
            other.unlink()
    url = hf_hub_url(repo, file.name, revision=revision)
    with partial.open("ab", buffering=0) as stream:
        for tries_left in reversed(range(TRIES)):
            try:
                arrived = stream.tell()
                http_get(url, stream, resume_size=arrived, headers=build_hf_headers(), expected_size=file.size)
                break
            except Exception as error:  # the client itself tries again after some errors, but not after a reset
                if not _of_client(error) or not tries_left or stream.tell() == arrived:
                    raise
        os.fsync(stream.fileno())
    os.replace(partial, whole)


def data_file(address: str) -> Path:
    """A file of a data set, as hf://datasets/OWNER/NAME/PATH or …/NAME@REVISION/PATH; fetched once, into the cache.

    Raises SteerlibError for an address of another form, and for a file that cannot be had.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    parts = DATA.fullmatch(address)
    if parts is None:
        raise SteerlibError(f"{address}: expected hf://datasets/OWNER/NAME/PATH, or …/NAME@REVISION/PATH")
    repo, revision, name = parts["repo"], parts["revision"] or "main", parts["path"]
    here = try_to_load_from_cache(repo, name, revision=revision, repo_type="dataset")
    if isinstance(here, str):
        return Path(here)
    with told(f"hf://datasets/{repo}", f"{revision} {name}"):
        return Path(hf_hub_download(repo, name, revision=revision, repo_type="dataset"))


@contextmanager
def told(repo: str, revision: str = ""):
    """What the client raises, as one sentence with what to do."""
    from huggingface_hub import errors

    place = f"{repo} {revision}".strip()
    try:
        yield
    except errors.HFValidationError as error:
        raise SteerlibError(f"{place}: is neither a repository nor a folder that is there; check the name") from error
    except errors.GatedRepoError as error:
        raise SteerlibError(
            f"{place}: its owner wants to know who downloads it; accept the terms on its page, then log in "
            "(`hf auth login`, or HF_TOKEN)"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise SteerlibError(
            f"{place}: there is no such repository, or it is private; check the name, or log in (`hf auth login`, or "
            "HF_TOKEN)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise SteerlibError(f"{place}: there is no such revision; `steerlib checkpoints` lists them") from error
    except errors.RemoteEntryNotFoundError as error:
        raise SteerlibError(f"{place}: there is no such file (any more); check its name, and run again") from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        raise Unreachable(f"{place}: {_unreachable(error)}") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status == 429 or status >= 500:
            raise Unreachable(f"{place}: the hub answers with an error ({status}); run again later") from error
        raise SteerlibError(f"{place}: the hub refuses ({status}); check the name, or log in") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise SteerlibError(
                f"{place}: the disk is full; free some, or give the study a smaller checkpoints.disk, and run again"
            ) from error
        if error.filename:
            raise SteerlibError(f"{error.filename}: cannot be written ({error.strerror}); check the folder") from error
        raise Unreachable(f"{place}: {_unreachable(error)}") from error
    except Exception as error:
        if not _of_client(error):
            raise
        raise Unreachable(f"{place}: {_unreachable(error)}") from error


def _of_client(error: Exception) -> bool:
    """Whether the transfer failed, not we."""
    return type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "huggingface_hub")


def _unreachable(error: Exception) -> str:
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE forbids to fetch it; unset it, or fetch it where there is a network"
    reason = (str(error).strip().splitlines() or [""])[0]
    return (
        f"the connection failed ({type(error).__name__}: {reason}); run again: what has arrived is kept, and the rest "
        "is fetched"
    )
