"""What the real client makes of a hub that works and of one that does not: what downloads must be ready for.

The client is asked as a user of it would ask, with everything that it keeps under the test's own folder.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import huggingface_hub
import pytest
from huggingface_hub import HfApi, constants, errors

from helpers.hub import PYTHIA, Hub, tiny_checkpoints

WEIGHTS, REPO = "model.safetensors", "lab/history"
MB = 1_000_000


@pytest.fixture
def folder(tmp_path):
    """A revision's files: weights, which LFS keeps, and small ones, one of them in a folder."""
    path = tmp_path / "checkpoint"
    (path / "extra").mkdir(parents=True)
    (path / WEIGHTS).write_bytes(os.urandom(3 * MB))
    (path / "config.json").write_text('{"model_type": "gpt_neox"}')
    (path / "extra" / "notes.txt").write_text("a note")
    return path


@pytest.fixture
def hub(folder, monkeypatch):
    with Hub() as running:
        running.add(REPO, "step1", folder)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)  # for which it asks huggingface.co
        monkeypatch.setattr(time, "sleep", lambda seconds, sleep=time.sleep: sleep(min(seconds, 0.01)))
        yield running


def download(hub, into, revision="step1", **options):
    """A snapshot in a folder; the reference to its commit, too, is kept in this and not in the user's cache."""
    places = {"local_dir": into, "cache_dir": into.parent / "cache", "endpoint": hub.endpoint}
    return Path(huggingface_hub.snapshot_download(REPO, revision=revision, **(places | options)))


def files(path: Path) -> dict[str, bytes]:
    found = [file for file in path.rglob("*") if file.is_file() and ".cache" not in file.relative_to(path).parts]
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in found}


def ranges(hub, file=WEIGHTS, method="GET"):
    return [ranged for used, path, ranged in hub.requests if used == method and path.endswith(f"/{file}")]


def partial(path: Path) -> list[Path]:
    """Unlike rglob, os.walk bears that the client removes a folder meanwhile."""
    found = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
    return [file for file in found if file.suffix == ".incomplete"]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_revisions_are_listed_and_the_first_is_main(hub, folder):
    first = hub.repos[REPO]["step1"].commit
    (folder / "config.json").write_text("{}")
    second = hub.add(REPO, "step2", folder)
    refs = HfApi(endpoint=hub.endpoint).list_repo_refs(REPO)
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": first, "step1": first, "step2": second}
    third = hub.add(REPO, "main", folder)
    assert len({first, second, third}) == 3 and HfApi(endpoint=hub.endpoint).model_info(REPO).sha == third


def test_every_listing_tells_sizes_and_hashes(hub, folder):
    api, sizes = HfApi(endpoint=hub.endpoint), {name: len(data) for name, data in files(folder).items()}
    info = api.model_info(REPO, revision="step1", files_metadata=True)
    assert {file.rfilename: file.size for file in info.siblings} == sizes
    tree = {e.path: e for e in api.list_repo_tree(REPO, revision=info.sha, recursive=True) if hasattr(e, "size")}
    assert {name: entry.size for name, entry in tree.items()} == sizes
    (alone,) = api.get_paths_info(REPO, [WEIGHTS, "no such file"], revision="step1")
    (listed,) = [file for file in info.siblings if file.rfilename == WEIGHTS]
    for entry in (alone, listed, tree[WEIGHTS]):
        assert entry.lfs.sha256 == sha256(folder / WEIGHTS) and entry.lfs.size == 3 * MB
    git = subprocess.run(["git", "hash-object", folder / "config.json"], capture_output=True, text=True, check=True)
    assert tree["config.json"].blob_id == git.stdout.strip() and tree["config.json"].lfs is None
    assert {entry.path for entry in api.list_repo_tree(REPO)} == {WEIGHTS, "config.json", "extra"}
    assert [entry.path for entry in api.list_repo_tree(REPO, "extra")] == ["extra/notes.txt"]


@pytest.mark.parametrize("place", ["local_dir", "cache_dir"])
def test_a_snapshot_of_some_files_is_those_files(hub, folder, tmp_path, place):
    options = {} if place == "local_dir" else {"local_dir": None}
    found = download(hub, tmp_path / "here", allow_patterns=["*.json", "extra/*"], **options)
    assert files(found) == {name: data for name, data in files(folder).items() if name != WEIGHTS}
    assert not ranges(hub) and files(download(hub, tmp_path / "here", **options)) == files(folder)
    assert hub.sent == {(REPO, "step1", name): len(data) for name, data in files(folder).items()}, "nothing twice"


def test_a_connection_cut_again_and_again_is_an_error_of_the_http_library_after_six_attempts(hub, tmp_path):
    hub.fault(REPO, "step1", WEIGHTS, "cut", after=10, times=100)
    with pytest.raises(httpx2.RemoteProtocolError, match="peer closed connection without sending complete message"):
        download(hub, tmp_path / "here")
    assert len(ranges(hub)) == 6 and not partial(tmp_path) and WEIGHTS not in files(tmp_path / "here")


def test_a_connection_reset_is_an_error_of_the_http_library_at_once(hub, tmp_path):
    hub.fault(REPO, "step1", WEIGHTS, "cut", after=MB, reset=True)
    with pytest.raises(httpx2.ReadError):
        download(hub, tmp_path / "here")
    assert len(ranges(hub)) == 1 and not partial(tmp_path)


def test_what_there_is_not_is_named_by_the_clients_own_errors(hub, tmp_path):
    with pytest.raises(errors.RevisionNotFoundError):
        download(hub, tmp_path / "here", "step3")
    with pytest.raises(errors.RepositoryNotFoundError):
        HfApi(endpoint=hub.endpoint).list_repo_refs("lab/nothing")
    with pytest.raises(errors.RemoteEntryNotFoundError):
        huggingface_hub.hf_hub_download(REPO, "no.txt", cache_dir=tmp_path / "cache", endpoint=hub.endpoint)
    hub.fault(REPO, "step1", "config.json", "missing")
    assert "config.json" not in files(download(hub, tmp_path / "here")), "nobody asked for it: it is not listed"
    hub.fault(REPO, "step1", None, "missing")
    with pytest.raises(errors.RevisionNotFoundError):
        download(hub, tmp_path / "there")


@pytest.mark.parametrize("file", ["*", None])
def test_a_gated_repository_is_named_by_the_clients_own_error(hub, tmp_path, file):
    hub.fault(REPO, "step1", file, "forbidden")
    with pytest.raises(errors.GatedRepoError, match="restricted"):
        download(hub, tmp_path / "here")
    assert not files(tmp_path / "here")


@pytest.mark.parametrize("kind", ["garbled", "short"])
def test_the_client_believes_a_file_that_has_the_wrong_hash(hub, folder, tmp_path, kind):
    """It compares sizes with those announced for the answer. Only a new download, asked for by force, mends it."""
    hub.fault(REPO, "step1", WEIGHTS, kind, times=1)
    path = download(hub, tmp_path / "here") / WEIGHTS
    told = HfApi(endpoint=hub.endpoint).get_paths_info(REPO, WEIGHTS, revision="step1")[0].lfs.sha256
    assert told == sha256(folder / WEIGHTS) != sha256(path)
    assert path.stat().st_size == (3 * MB if kind == "garbled" else 1.5 * MB)
    wrong = sha256(path)
    assert sha256(download(hub, tmp_path / "here") / WEIGHTS) == wrong
    assert sha256(download(hub, tmp_path / "here", force_download=True) / WEIGHTS) == told


def test_a_file_spoilt_on_disk_is_taken_for_what_was_downloaded(hub, tmp_path):
    path = download(hub, tmp_path / "here") / WEIGHTS
    path.write_bytes(b"spoilt")
    assert (download(hub, tmp_path / "here") / WEIGHTS).read_bytes() == b"spoilt"


def test_a_busy_hub_is_asked_again_about_a_file_but_not_for_its_bytes_nor_for_refs(hub, folder, tmp_path):
    hub.fault(REPO, "step1", WEIGHTS, "error", method="HEAD")
    assert files(download(hub, tmp_path / "about")) == files(folder)
    hub.fault(REPO, "step1", WEIGHTS, "error", method="GET", status=429, headers={"Retry-After": "1"})
    assert files(download(hub, tmp_path / "limit")) == files(folder)
    hub.fault(REPO, "step1", WEIGHTS, "error", method="GET")
    with pytest.raises(errors.HfHubHTTPError, match="503"):
        download(hub, tmp_path / "bytes")
    hub.fault(REPO, None, None, "error", status=500)
    with pytest.raises(errors.HfHubHTTPError, match="500"):
        HfApi(endpoint=hub.endpoint).list_repo_refs(REPO)
    hub.fault(REPO, None, None, "error")
    with pytest.raises(errors.LocalEntryNotFoundError, match="503"):  # of the revision, whose files it then looks for
        download(hub, tmp_path / "revision")


def test_a_hub_that_is_not_there_is_told_in_two_ways(folder, tmp_path):
    with Hub() as hub:
        hub.add(REPO, "step1", folder)
        HfApi(endpoint=hub.endpoint).list_repo_refs(REPO)  # over a connection that is kept
    with pytest.raises((httpx2.ConnectError, httpx2.RemoteProtocolError, httpx2.ReadError)):
        HfApi(endpoint=hub.endpoint).list_repo_refs(REPO)
    with pytest.raises(errors.LocalEntryNotFoundError, match="Connection refused"):
        download(hub, tmp_path / "here")


def test_without_the_hub_any_folder_with_something_in_it_passes_for_the_snapshot(hub, tmp_path, monkeypatch):
    """So that a download must not be trusted because it returned."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "other.txt").write_text("not from the hub")
    hub.fault(REPO, None, None, "error", times=100)
    assert list(files(download(hub, tmp_path / "here"))) == ["other.txt"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert list(files(download(hub, tmp_path / "here"))) == ["other.txt"]
    with pytest.raises(errors.LocalEntryNotFoundError, match="HF_HUB_OFFLINE=0"):
        download(hub, tmp_path / "there")
    with pytest.raises(errors.OfflineModeIsEnabled):
        HfApi(endpoint=hub.endpoint).list_repo_refs(REPO)


DOWNLOAD = """
import resource, sys
from huggingface_hub import constants, snapshot_download
constants.DOWNLOAD_CHUNK_SIZE = 100_000
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
print(snapshot_download(sys.argv[1], revision="step1", local_dir=sys.argv[3]))
"""


def start(hub, into, largest=1 << 30):
    """The client in a process of its own, pointed at the hub by its environment."""
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(into.parent / "home")}
    command = [sys.executable, "-c", DOWNLOAD, REPO, str(largest), str(into)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_after_a_kill_a_file_is_begun_anew_and_its_part_stays_behind(hub, folder, tmp_path):
    hub.fault(REPO, "step1", WEIGHTS, "slow", seconds=0.01, chunk=10_000)
    run = start(hub, tmp_path / "here")
    name, deadline = sha256(folder / WEIGHTS), time.monotonic() + 60
    while not any(name in part.name and part.stat().st_size for part in partial(tmp_path)):
        assert time.monotonic() < deadline and run.poll() is None
    run.kill()
    run.communicate()
    (part,) = partial(tmp_path)
    assert part.parent.as_posix().endswith(".cache/huggingface/download") and 0 < part.stat().st_size < 3 * MB
    hub.faults.clear()
    hub.requests.clear()
    run = start(hub, tmp_path / "here")
    found, problem = run.communicate()
    assert run.returncode == 0, problem
    assert files(Path(found.strip())) == files(folder)
    assert ranges(hub) == [None] and partial(tmp_path) == [part]
    assert not ranges(hub, "config.json"), "a whole file is not fetched again"


def test_a_full_disk_is_an_error_of_the_system_that_names_no_file(hub, tmp_path):
    """A limit on the size of files stands in for the disk; of a full one the error is ENOSPC, and as nameless."""
    run = start(hub, tmp_path / "here", 2 * MB)
    _, problem = run.communicate()
    assert problem.strip().endswith("OSError: [Errno 27] File too large")
    assert not partial(tmp_path) and sorted(files(tmp_path / "here")) == ["config.json", "extra/notes.txt"]


@pytest.mark.parametrize("architecture", ["gpt_neox", "llama", "gpt2", "olmo2"])
def test_tiny_checkpoints_are_loaded_from_the_hub_and_differ_a_little_from_step_to_step(tmp_path, architecture):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    logits = []
    paths = tiny_checkpoints(tmp_path / "made", [0, 1, 1000], architecture, width=16, layers=1)
    with Hub() as hub:
        for step, path in paths.items():
            hub.add(REPO, f"step{step}", path)
        for step in paths:
            found = download(hub, tmp_path / f"{step}", f"step{step}")
            words, model = AutoTokenizer.from_pretrained(found), AutoModelForCausalLM.from_pretrained(found)
            assert model.config.model_type == architecture and model.config.max_position_embeddings == 128
            text = "Anna ran home — ünïcode too."
            assert words.decode(words(text)["input_ids"]) == text
            with torch.no_grad():
                logits.append(model(**words(text, return_tensors="pt", return_token_type_ids=False)).logits.flatten())
    same = torch.corrcoef(torch.stack(logits))
    assert 0.9 < same[0, 1] < 1 and same[0, 2] < same[0, 1] and logits[0].std() > 0.1
    again = tiny_checkpoints(tmp_path / "again", [1], architecture, width=16, layers=1)
    assert files(again[1]) == files(paths[1])


@pytest.mark.skipif(not PYTHIA.exists(), reason="Pythia's tokenizer is not on this machine")
def test_tiny_checkpoints_may_have_pythias_tokenizer(tmp_path):
    from transformers import AutoTokenizer

    (path,) = tiny_checkpoints(tmp_path, [5], tokenizer="pythia", width=8).values()
    words = AutoTokenizer.from_pretrained(path)
    assert len(words) == 50277 and len(words(" happiness")["input_ids"]) == 1
