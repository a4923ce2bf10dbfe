"""Checkpoints from a hub: the whole command against a hub on this machine, with what can go wrong on the way."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import yaml

from helpers.hub import Hub, ask, tiny_checkpoints
from helpers.studies import STEERLIB, contents, steerlib
from steerlib import SteerlibError
from steerlib.checkpoints import downloads, listing
from steerlib.checkpoints.history import history
from steerlib.checkpoints.supply import Supply
from steerlib.files import store
from steerlib.model import load
from steerlib.results.freshness import Freshness
from steerlib.results.workspace import Job, Workspace
from steerlib.study import Study

REPO, STEPS = "EleutherAI/pythia-70m", [0, 1, 16, 512, 16000, 143000]
MIB = 1 << 20


@pytest.fixture(scope="module")
def histories(tmp_path_factory) -> dict[int, Path]:
    """Six tiny checkpoints, as folders."""
    return tiny_checkpoints(tmp_path_factory.mktemp("pythia"), STEPS, width=32)


@pytest.fixture
def hub(histories):
    with Hub() as hub:
        for step, folder in histories.items():
            hub.add(REPO, f"step{step}", folder)
        yield hub


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def study(home: Path, **checkpoints) -> Path:
    """A small study of these checkpoints, the repository's unless told otherwise."""
    params = {
        "name": "tiny",
        "checkpoints": {"repo": REPO, "steps": STEPS} | checkpoints,
        "concepts": ["happiness", "sadness"],
        "probes": {"methods": ["mean_difference"], "pairs": 24, "random": 20, "shuffled": 20},
        "sweep": {"alphas": [-0.5, 0, 0.5], "prompts": 6, "neutral_texts": 6, "bootstrap": 100},
        "similarity": {"texts": 16},
        "emergence": {"bootstrap": 100},
    }
    params["checkpoints"] = {key: value for key, value in params["checkpoints"].items() if value is not None}
    path = home / "tiny.yaml"
    path.write_text(yaml.safe_dump(params))
    return path


def environment(hub: Hub | None, home: Path) -> dict[str, str]:
    """Of a process that knows this hub only, with a cache of its own."""
    own = {"HF_ENDPOINT": hub.endpoint if hub else "http://127.0.0.1:9", "HF_HOME": str(home / "hf")}
    return os.environ | own | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_ETAG_TIMEOUT": "2"}


def run(hub: Hub | None, folder: Path, params: Path, *words: str, **more: str) -> subprocess.CompletedProcess:
    given = ("run", params, "--outputs", folder / "outputs", "--workers", 2) if not words else words
    return steerlib(*given, env=environment(hub, folder) | more)


class Peak(threading.Thread):
    """The most that a folder has held while a ``with`` block lasted."""

    def __init__(self, folder: Path):
        super().__init__(daemon=True)
        self.folder, self.bytes, self.over = folder, 0, threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()

    def run(self):
        while not self.over.wait(0.005):
            total = 0
            for place, _, names in os.walk(self.folder):
                for name in names:
                    with suppress(FileNotFoundError):
                        total += os.lstat(os.path.join(place, name)).st_size
            self.bytes = max(self.bytes, total)


@pytest.fixture(scope="module")
def of_folder(histories, tmp_path_factory) -> dict[str, str]:
    """What a run over the same checkpoints as folders gives."""
    home = tmp_path_factory.mktemp("folders")
    (home / "checkpoints").mkdir()
    for step, folder in histories.items():
        (home / "checkpoints" / f"step{step}").symlink_to(folder)
    done = run(None, home, study(home, repo=None, folder="checkpoints", tokens_per_step=2_097_152))
    assert done.returncode == 0, done.stdout + done.stderr
    return contents(home / "outputs" / "tiny")


@pytest.mark.slow
def test_a_repository_gives_what_folders_give_within_a_budget_of_two_checkpoints(hub, histories, of_folder, tmp_path):
    budget = 2 * max(map(size_of, histories.values()))
    ours = tmp_path / "outputs" / "tiny" / "downloads"
    with Peak(ours) as peak:
        done = run(hub, tmp_path, study(tmp_path, disk=budget))
    assert done.returncode == 0, done.stdout + done.stderr
    assert contents(tmp_path / "outputs" / "tiny") == of_folder, "values, revisions, tokens and hashes"
    assert 0 < peak.bytes <= budget + 0.1 * MIB, "what the client writes beside the files is small"
    assert len(list(ours.glob("step=*/"))) <= 2, "the others were removed"
    assert len(list(ours.glob("step=*.json"))) == len(STEPS), "and are known to have been there"
    again = run(hub, tmp_path, study(tmp_path, disk=budget))
    assert "nothing to do" in again.stdout, "done is done, though the weights are gone"


@pytest.mark.slow
def test_a_run_killed_while_it_downloads_goes_on_where_it_was(hub, histories, of_folder, tmp_path):
    params = study(tmp_path)
    hub.fault(REPO, "step512", "model.safetensors", "slow", seconds=0.3, chunk=4096, times=1)
    words = [*STEERLIB, "run", params, "--outputs", tmp_path / "outputs", "--workers", "1"]
    with subprocess.Popen(
        list(map(str, words)), env=environment(hub, tmp_path), stdout=subprocess.DEVNULL, start_new_session=True
    ) as driver:
        while hub.sent[REPO, "step512", "model.safetensors"] < 8192:
            assert driver.poll() is None
            time.sleep(0.05)
        os.killpg(driver.pid, signal.SIGKILL)
    before = {step: hub.sent[REPO, f"step{step}", "model.safetensors"] for step in STEPS}
    done = run(hub, tmp_path, params)
    assert done.returncode == 0, done.stdout + done.stderr
    after = {step: hub.sent[REPO, f"step{step}", "model.safetensors"] for step in STEPS}
    assert [after[step] for step in (0, 1, 16)] == [before[step] for step in (0, 1, 16)], "none is fetched twice"
    assert contents(tmp_path / "outputs" / "tiny") == of_folder


@pytest.mark.slow
def test_bad_revisions_are_told_by_name_and_the_others_are_analysed(hub, tmp_path):
    hub.fault(REPO, "step1", "model.safetensors", "short")
    hub.fault(REPO, "step16", "model.safetensors", "garbled")
    hub.fault(REPO, "step512", "model.safetensors", "forbidden")
    hub.fault(REPO, "step16000", None, "missing")
    done = run(hub, tmp_path, study(tmp_path))
    assert done.returncode == 1
    told = [line for line in done.stdout.splitlines() if line.startswith("failed")]
    for revision, why in {
        "step1": "is damaged",  # cut short where it was uploaded: the hub tells its size as it is
        "step16": "is damaged",
        "step512": "accept the terms",
        "step16000": "no such revision",
    }.items():
        assert sum(f"{REPO} {revision}:" in line and why in line for line in told) == 1, (revision, done.stdout)
    assert "Traceback" not in done.stdout + done.stderr
    analysed = {path.stem for path in (tmp_path / "outputs" / "tiny" / "probes").glob("*.nc")}
    assert analysed == {"step=00000000", "step=00143000"}
    assert (tmp_path / "outputs" / "tiny" / "results.zarr").is_dir(), "what there is was analysed to the end"


@pytest.mark.slow
def test_equal_checkpoints_are_told_by_name_fetched_once_and_drawn_once(hub, histories, tmp_path):
    hub.add(REPO, "step1", histories[0])
    done = run(hub, tmp_path, study(tmp_path, steps=[0, 1, 512]))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step 1 (step1) is left out: its weights are those of step 0 (step0)" in done.stdout
    assert not hub.sent[REPO, "step1", "model.safetensors"]
    assert store.read(tmp_path / "outputs" / "tiny" / "emergence" / "study.nc").step.values.tolist() == [0, 512]


@pytest.mark.slow
def test_equal_folders_are_told_by_name_too(histories, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for step, folder in {0: histories[0], 1: histories[0], 512: histories[512]}.items():
        shutil.copytree(folder, tmp_path / "checkpoints" / f"step{step}")
    done = run(None, tmp_path, study(tmp_path, repo=None, folder="checkpoints", steps=[0, 1, 512]))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step 1 (step1)" in done.stdout and "are those of step 0 (step0)" in done.stdout.replace("\n", " ")
    assert store.read(tmp_path / "outputs" / "tiny" / "emergence" / "study.nc").step.values.tolist() == [0, 512]


@pytest.mark.slow
def test_without_a_network_what_lies_here_is_analysed_and_the_rest_is_told(hub, tmp_path):
    params = study(tmp_path, steps=[0, 512])
    assert run(hub, tmp_path, params).returncode == 0
    params.write_text(params.read_text().replace("bootstrap: 100", "bootstrap: 120"))
    again = run(None, tmp_path, params, HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stdout + again.stderr
    shutil.rmtree(tmp_path / "outputs" / "tiny" / "downloads" / "step=00000512")
    params.write_text(params.read_text().replace("bootstrap: 120", "bootstrap: 140"))
    lost = run(None, tmp_path, params, HF_HUB_OFFLINE="1")
    assert lost.returncode == 1
    assert f"{REPO} step512: HF_HUB_OFFLINE forbids to fetch it" in lost.stdout.replace("\n", " ")


def test_listing_tells_sizes_and_fetches_no_weights(hub, histories, tmp_path):
    params = study(tmp_path, steps={"count": 3, "spacing": "log"}, disk="1 MB")
    told = run(hub, tmp_path, params, "checkpoints", params, "--outputs", tmp_path / "outputs")
    assert told.returncode == 0, told.stdout + told.stderr
    assert "step143000" in told.stdout and "300B" in told.stdout and "3 checkpoints" in told.stdout
    assert not hub.sent and not (tmp_path / "outputs").exists(), "looking leaves nothing behind"


def test_listing_without_a_network_follows_the_suites_pattern(tmp_path):
    params = study(tmp_path, steps={"percent": [0, 50, 100]})
    told = run(None, tmp_path, params, "checkpoints", params, HF_HUB_OFFLINE="1")
    assert told.returncode == 0, told.stdout + told.stderr
    assert "step71000" in told.stdout or "step72000" in told.stdout
    assert "could not be asked" in told.stdout


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"repo": "EleutherAI/pythia-71m"}, "EleutherAI/pythia-71m: there is no such repository"),
        ({"steps": [0, 2]}, "has no step 2; the nearest is"),
        ({"disk": 1000}, "checkpoints.disk (1.0 kB) is less than step"),
        ({"pattern": "ckpt_(?P<step>[0-9]+)"}, "step0"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_fetched(hub, tmp_path, change, said):
    done = run(hub, tmp_path, study(tmp_path, **change))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert said in done.stderr, done.stderr
    assert not hub.sent


# --- inside the process ----------------------------------------------------------------------------------------------


@pytest.fixture
def inside(hub, tmp_path, monkeypatch) -> Path:
    """This process asks the hub, too; a study's folder of results."""
    ask(hub, monkeypatch, tmp_path / "cache")
    return tmp_path / "outputs" / "tiny"


def test_only_what_loading_takes_is_fetched(hub, histories, inside, tmp_path):
    folder = shutil.copytree(histories[0], tmp_path / "copy")
    others = {"pytorch_model.bin", "optimizer.pt", "model.onnx", "consolidated.safetensors", "modeling_own.py"}
    for name in others:
        (folder / name).write_bytes(b"x" * 100)
    hub.add(REPO, "step0", folder)
    chosen = Study.load(study(tmp_path, steps=[0]))
    found = listing.take(chosen, inside)
    downloads.fetch(chosen, found, found.entries[0], inside)
    fetched = {path.name for path in downloads.place(inside, 0).iterdir()}
    assert "model.safetensors" in fetched and "tokenizer.json" in fetched
    assert not fetched & others


def test_what_lies_in_the_users_cache_is_used_and_left_there(hub, inside, tmp_path):
    from huggingface_hub import snapshot_download

    chosen = Study.load(study(tmp_path, steps=[0]))
    cached = Path(snapshot_download(REPO, revision="step0", endpoint=hub.endpoint, cache_dir=tmp_path / "cache"))
    sent = hub.sent.copy()
    found = listing.take(chosen, inside)
    downloads.fetch(chosen, found, found.entries[0], inside)
    assert hub.sent == sent, "nothing was fetched"
    assert Path(downloads.record(inside, found.entries[0]).path) == cached and cached.is_dir()


FETCH = """
import sys
from pathlib import Path
from huggingface_hub import constants
from steerlib.checkpoints import downloads, listing
from steerlib.study import Study
constants.DOWNLOAD_CHUNK_SIZE = 4096  # so that a small file arrives in parts
chosen, folder = Study.load(sys.argv[1]), Path(sys.argv[2])
found = listing.take(chosen, folder)
downloads.fetch(chosen, found, found.entries[0], folder)
"""


def test_a_file_cut_by_a_kill_goes_on_from_where_it_was(hub, histories, tmp_path):
    weights, folder = histories[0] / "model.safetensors", tmp_path / "outputs" / "tiny"
    params = study(tmp_path, steps=[0])
    hub.fault(REPO, "step0", "model.safetensors", "slow", seconds=0.05, chunk=4096, times=1)
    words = [sys.executable, "-c", FETCH, str(params), str(folder)]
    with subprocess.Popen(words, env=environment(hub, tmp_path)) as first:
        while hub.sent[REPO, "step0", "model.safetensors"] < 5 * 4096:
            assert first.poll() is None
            time.sleep(0.01)
        first.kill()
    (partial,) = downloads.place(folder, 0).glob("model.safetensors.*")
    arrived = partial.stat().st_size
    assert arrived >= 4096
    subprocess.run(words, env=environment(hub, tmp_path), check=True)
    (asked,) = {range_ for _, path, range_ in hub.requests if "model.safetensors" in path and range_}
    assert asked == f"bytes={arrived}-"
    assert (downloads.place(folder, 0) / "model.safetensors").read_bytes() == weights.read_bytes()
    assert not list(downloads.place(folder, 0).glob("*.part"))


def test_a_cut_connection_is_told_and_loses_nothing(hub, histories, inside, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 4096)
    hub.fault(REPO, "step0", "model.safetensors", "cut", after=10_000, reset=True, times=6)
    chosen = Study.load(study(tmp_path, steps=[0]))
    found = listing.take(chosen, inside)
    with pytest.raises(SteerlibError, match=f"{REPO} step0: the connection failed .*run again"):
        downloads.fetch(chosen, found, found.entries[0], inside)
    (partial,) = downloads.place(inside, 0).glob("model.safetensors.*")
    assert partial.stat().st_size > 0
    downloads.fetch(chosen, found, found.entries[0], inside)
    whole = (histories[0] / "model.safetensors").stat().st_size
    assert hub.sent[REPO, "step0", "model.safetensors"] < whole + 7 * 10_000, "what was lost is what each cut lost"


def test_a_revision_that_moved_is_fetched_anew(hub, histories, inside, tmp_path):
    chosen = Study.load(study(tmp_path, steps=[0]))
    before = listing.take(chosen, inside)
    downloads.fetch(chosen, before, before.entries[0], inside)
    hub.add(REPO, "step0", histories[512])
    after = listing.take(chosen, inside)
    assert downloads.record(inside, after.entries[0]) is None
    downloads.fetch(chosen, after, after.entries[0], inside)
    assert downloads.record(inside, after.entries[0]).weights_sha256 == after.entries[0].weights_sha256
    assert after.entries[0].weights_sha256 != before.entries[0].weights_sha256


def test_a_tokenizer_that_revisions_lack_is_that_of_main(hub, histories, inside, tmp_path):
    bare = shutil.copytree(histories[16], tmp_path / "bare")
    for path in bare.glob("*token*"):
        path.unlink()
    hub.add(REPO, "step16", bare)
    chosen = Study.load(study(tmp_path, steps=[16]))
    found = listing.take(chosen, inside)
    downloads.fetch(chosen, found, found.entries[0], inside)
    (checkpoint,) = history(chosen, inside)
    assert load(checkpoint).tokenizer("happy")["input_ids"]


@pytest.mark.parametrize("of_two", [True, False])
def test_forty_revisions_pass_through_a_budget_of_one_or_two(hub, histories, inside, tmp_path, of_two):
    grid = sorted({*range(1000, 40_000, 1000), 0})
    for step in grid:
        hub.add(REPO, f"step{step}", histories[0])
    # Their weights are to differ.
    for k, step in enumerate(grid):
        folder = shutil.copytree(histories[0], tmp_path / "all" / str(step))
        data = bytearray((folder / "model.safetensors").read_bytes())
        data[-4:] = np.float32(k).tobytes()
        (folder / "model.safetensors").write_bytes(data)
        hub.add(REPO, f"step{step}", folder)
    one = size_of(histories[0])
    chosen = Study.load(study(tmp_path, steps=grid, disk=one * (2 if of_two else 1)))
    found = listing.take(chosen, inside)
    arrived: list[int] = []
    waiting = threading.Semaphore(0)

    def tell(step: int, problem: str) -> None:
        assert not problem, problem
        arrived.append(step)
        waiting.release()

    with Peak(downloads.downloads(inside)) as peak:
        supply = Supply(chosen, found, inside, grid, tell)
        supply.start()
        for k in range(len(grid)):
            assert waiting.acquire(timeout=30)
            assert downloads.place(inside, grid[k]).is_dir(), "it stays until it is released"
            time.sleep(0.02)
            supply.release(grid[k])
        supply.join(timeout=60)
    assert len(grid) == 40 and arrived == grid
    assert one <= peak.bytes <= chosen.checkpoints.disk + 0.1 * MIB
    assert peak.bytes > 1.5 * one or not of_two, "the next is fetched ahead"


def test_a_fetch_that_fails_gives_its_room_back(hub, histories, inside, tmp_path):
    hub.fault(REPO, "step1", "model.safetensors", "garbled")
    chosen = Study.load(study(tmp_path, steps=[0, 1, 16], disk=size_of(histories[0]) + 1000))
    found, told = listing.take(chosen, inside), []
    supply = Supply(
        chosen,
        found,
        inside,
        [0, 1, 16],
        lambda step, problem: (told.append((step, bool(problem))), supply.release(step)),
    )
    supply.start()
    supply.join(timeout=60)
    assert told == [(0, False), (1, True), (16, False)]


def test_a_concept_may_be_a_file_of_a_data_set_on_the_hub(hub, inside, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    rows = [f"Thank you {k} times.,polite" for k in range(6)] + [f"No way {k}.,rude" for k in range(6)]
    (data / "manners.csv").write_text("\n".join(["text,label", *rows]))
    hub.add("someone/manners", "main", data)
    path = study(tmp_path, steps=[0])
    address = "hf://datasets/someone/manners/manners.csv"
    path.write_text(path.read_text().replace("- happiness", f"- {address}"))
    manners, _ = Study.load(path).load_concepts()
    assert manners.name == "manners" and manners.readout.targets == [" polite"]
    asked = len(hub.requests)
    assert Study.load(path).load_concepts()[0] == manners and len(hub.requests) == asked, "it is fetched once"
    path.write_text(path.read_text().replace("manners.csv", "lost.csv"))
    with pytest.raises(SteerlibError, match=r"hf://datasets/someone/manners main lost\.csv: there is no such file"):
        Study.load(path).load_concepts()


@pytest.mark.parametrize("kept", ["{", "[]", '{"repo": "x"}'])
def test_a_listing_that_is_none_is_taken_anew(hub, inside, tmp_path, kept):
    chosen = Study.load(study(tmp_path, steps=[0]))
    listing.take(chosen, inside)
    listing.path_of(inside).write_text(kept)
    assert listing.load(chosen, inside).entries[0].revision == "step0"
    assert json.loads(listing.path_of(inside).read_text())["repo"] == REPO


def test_half_a_folder_is_not_taken_for_a_whole_one(hub, histories, inside, tmp_path):
    chosen = Study.load(study(tmp_path, steps=[0]))
    found = listing.take(chosen, inside)
    downloads.fetch(chosen, found, found.entries[0], inside)
    assert downloads.here(inside, found.entries[0])
    (downloads.place(inside, 0) / "config.json").unlink()
    assert downloads.here(inside, found.entries[0]) is None
    sent = hub.sent[REPO, "step0", "model.safetensors"]
    downloads.fetch(chosen, found, found.entries[0], inside)
    assert downloads.here(inside, found.entries[0])
    assert hub.sent[REPO, "step0", "model.safetensors"] == sent, "only what was missing is fetched"


def test_files_of_a_revision_that_moved_while_it_was_fetched_are_not_mixed_in(hub, histories, inside, tmp_path):
    chosen = Study.load(study(tmp_path, steps=[0]))
    before = listing.take(chosen, inside)
    hub.fault(REPO, "step0", "model.safetensors", "forbidden", times=1)
    with pytest.raises(SteerlibError, match="accept the terms"):
        downloads.fetch(chosen, before, before.entries[0], inside)
    other = shutil.copytree(histories[512], tmp_path / "other")
    config = (other / "config.json").read_text()
    (other / "config.json").write_text(config.replace('"hidden_act": "gelu"', '"hidden_act": "relu"'))
    hub.add(REPO, "step0", other)
    after = listing.take(chosen, inside)
    downloads.fetch(chosen, after, after.entries[0], inside)
    assert (downloads.place(inside, 0) / "config.json").read_text() == (other / "config.json").read_text()


def test_a_fine_tuned_checkpoint_is_not_known_by_its_originals_hash(hub, inside, tmp_path):
    path = study(tmp_path, steps=[0])
    path.write_text(path.read_text() + "finetuning: {}\n")
    workspace = Workspace(Study.load(path), tmp_path / "outputs")
    assert workspace.checkpoints[0].weights_sha256
    with pytest.raises(SteerlibError, match="holds no weights"):
        workspace.analysed[0].weights_sha256  # noqa: B018


def test_shards_and_their_index_are_fetched_and_whole_only_together(hub, histories, inside, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    sharded = tmp_path / "sharded"
    AutoModelForCausalLM.from_pretrained(histories[0]).save_pretrained(sharded, max_shard_size="40KB")
    AutoTokenizer.from_pretrained(histories[0]).save_pretrained(sharded)
    shards = {path.name for path in sharded.glob("model-*-of-*.safetensors")}
    assert len(shards) > 1
    hub.add(REPO, "step0", sharded)
    chosen = Study.load(study(tmp_path, steps=[0]))
    found = listing.take(chosen, inside)
    downloads.fetch(chosen, found, found.entries[0], inside)
    assert shards | {"model.safetensors.index.json"} <= {path.name for path in downloads.place(inside, 0).iterdir()}
    (checkpoint,) = history(chosen, inside)
    assert load(checkpoint).n_layers == 2
    assert checkpoint.weights_sha256 == found.entries[0].weights_sha256


def test_a_supply_that_cannot_remove_tells_so_and_goes_on_to_the_end(hub, histories, inside, tmp_path):
    foreign = downloads.place(inside, 7)
    foreign.parent.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "big").write_bytes(b"x" * 10_000_000)
    foreign.symlink_to(tmp_path / "elsewhere")
    chosen, told = Study.load(study(tmp_path, steps=[0, 1], disk=2 * size_of(histories[0]) + 10_000)), []
    found = listing.take(chosen, inside)
    supply = Supply(chosen, found, inside, [0, 1], lambda step, problem: told.append((step, problem)))
    supply.run()
    assert told == [(0, ""), (1, "")]
    assert (tmp_path / "elsewhere" / "big").exists(), "a link is removed, not what it points to"


def test_what_lies_here_is_analysed_before_it_would_be_removed(hub, histories, inside, tmp_path):
    chosen = Study.load(study(tmp_path, steps=[0, 1, 16], disk=size_of(histories[0]) + 1000))
    found, told = listing.take(chosen, inside), []
    downloads.fetch(chosen, found, found.entries[2], inside)

    def tell(step: int, problem: str) -> None:
        told.append((step, problem))
        supply.release(step)

    supply = Supply(chosen, found, inside, [0, 1, 16], tell)
    supply.run()
    assert [step for step, _ in told] == [16, 0, 1]
    assert hub.sent[REPO, "step16", "model.safetensors"] == (histories[16] / "model.safetensors").stat().st_size


def test_a_tokenizer_from_elsewhere_counts_for_the_budget_and_for_what_is_done(hub, histories, inside, tmp_path):
    hub.add("someone/words", "main", histories[16])
    one = size_of(histories[0])
    with pytest.raises(SteerlibError, match=r"checkpoints\.disk .* is less than step"):
        chosen = Study.load(study(tmp_path, steps=[0], tokenizer="someone/words", disk=one + 100))
        Supply(chosen, listing.take(chosen, inside), inside, [0], lambda *_: None)
    keys = set()
    for name in ("someone/words", None):
        workspace = Workspace(Study.load(study(tmp_path, steps=[0], tokenizer=name)), tmp_path / "outputs")
        keys.add(Freshness(workspace).key(Job("probes", 0)))
    assert len(keys) == 2 and None not in keys


def test_one_revision_that_the_hub_will_not_tell_of_leaves_the_others(hub, inside, tmp_path):
    hub.fault(REPO, "step16", None, "error", times=99)
    found = listing.take(Study.load(study(tmp_path)), inside)
    assert [entry.step for entry in found.entries if entry.problem] == [16]
    assert all(entry.files for entry in found.entries if entry.step != 16)


@pytest.mark.slow
def test_a_notebook_run_by_hand_fetches_its_checkpoint(hub, tmp_path):
    """As JupyterLab would run it: nothing was run before."""
    code = (
        "from steerlib.model import load\nfrom steerlib.running.notebook import open_job\n"
        f"job = open_job('probes', {str(study(tmp_path, steps=[0, 512], disk='1 MB'))!r}, {str(tmp_path)!r}, 512)\n"
        "assert load(job.checkpoint).n_layers == 2"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(hub, tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_finetuning_and_a_budget_do_not_go_together(tmp_path):
    path = study(tmp_path, disk="1 GB")
    path.write_text(path.read_text() + "finetuning: {}\n")
    with pytest.raises(SteerlibError, match=r"checkpoints\.disk cannot hold with finetuning"):
        Study.load(path)
