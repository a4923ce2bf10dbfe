"""Checkpoints fetched ahead of the analysis and removed behind it, within a budget."""

import io
import re
import shutil
import threading
import time

import numpy as np
import peft
import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

from helpers.processes import PATIENCE
from helpers.repositories import REPO, Peak, size_of, study
from steerlib import SteerlibError
from steerlib.checkpoints import contents, fetching, listing
from steerlib.checkpoints.fetching import Supply
from steerlib.checkpoints.history import Checkpoint, history
from steerlib.checkpoints.suites import Revision
from steerlib.model import load, loading
from steerlib.results.freshness import Freshness
from steerlib.results.workspace import Job, Workspace
from steerlib.running.tables import show_checkpoints
from steerlib.study import Study

MIB = 1 << 20


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

    with Peak(inside / "downloads") as peak:
        supply = Supply(chosen, found, inside, grid, tell)
        supply.start()
        for k in range(len(grid)):
            assert waiting.acquire(timeout=PATIENCE)
            assert fetching.place(inside, grid[k]).is_dir(), "it stays until it is released"
            time.sleep(0.02)
            supply.release(grid[k])
        supply.join(timeout=PATIENCE)
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
    supply.join(timeout=PATIENCE)
    assert told == [(0, False), (1, True), (16, False)]


def test_a_supply_that_cannot_remove_tells_so_and_goes_on_to_the_end(hub, histories, inside, tmp_path):
    foreign = fetching.place(inside, 7)
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
    fetching.fetch(found, found.entries[2], inside)

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
        workspace = Workspace(Study.load(study(tmp_path, steps=[0], tokenizer=name)), inside.parent)
        found = listing.take(workspace.study, inside)
        fetching.fetch(found, found.entries[0], inside)
        keys.add(str(Freshness(workspace).key(Job("probes", 0))))
    assert len(keys) == 2 and "None" not in keys


@pytest.mark.parametrize(
    "content", ["[1]", '"x"', "3", "{}", '{"revision": "step0"}', '{"revision": "step0", "commit": "c", "path": null}']
)
@pytest.mark.parametrize("commit", ["", "c"])
def test_a_record_that_is_none_is_as_if_there_were_none(tmp_path, content, commit):
    revision = Revision(revision="step0", step=0, tokens_seen=0, commit=commit)
    path = fetching.note(tmp_path, 0)
    path.parent.mkdir()
    path.write_text(content)
    assert fetching.record(tmp_path, revision) is None and fetching.whole(tmp_path, revision) is None


def test_a_base_in_a_repository_is_fetched_into_the_users_cache_and_is_step_0(hub, histories, inside, tmp_path):
    for step in (16, 512):
        shutil.copytree(histories[step], tmp_path / "run" / f"checkpoint-{step}")
    asked = Study.load(study(tmp_path, repo=None, folder="run", steps="all", base=REPO))
    assert not history(asked, inside)[0].path.exists() and not hub.sent, "whoever only looks fetches nothing"
    show_checkpoints(asked, tmp_path, console := Console(file=io.StringIO(), width=99))
    assert re.findall("to fetch|here", console.file.getvalue()) == ["to fetch", "here", "here"]
    found = fetching.base(asked, inside, fetch=True)
    assert [(one.step, one.path) for one in history(asked, inside)][::2] == [
        (0, found),
        (512, tmp_path / "run" / "checkpoint-512"),
    ]
    assert (found / "model.safetensors").read_bytes() == (histories[0] / "model.safetensors").read_bytes()
    sent = dict(hub.sent)
    assert fetching.base(asked, inside, fetch=True) == found and dict(hub.sent) == sent
    with pytest.raises(SteerlibError, match=r"checkpoints.base: .*/run/base: no such folder$"):
        fetching.base(Study.load(study(tmp_path, repo=None, folder="run", base="run/base")), inside)  # no repository's
    nowhere = Study.load(study(tmp_path, repo=None, folder="run", steps="all", base="owner/none"))
    with pytest.raises(
        SteerlibError, match=r"checkpoints.base: .* nor can it be had as a repository: owner/none.*no such"
    ):
        fetching.base(nowhere, inside, fetch=True)


def test_adapters_and_their_base_may_be_revisions_of_repositories(hub, histories, inside, tmp_path):
    for step in (0, 16):
        hub.add("owner/base", f"v{step}", histories[step])
        plan = peft.LoraConfig(r=2, init_lora_weights=False)
        model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(histories[16]), plan).eval()
        model.save_pretrained(tmp_path / "lora")
        hub.add("owner/lora", f"checkpoint-{step + 5}", tmp_path / "lora")
    asked = Study.load(study(tmp_path, repo="owner/lora", steps="all", base="owner/base@v16"))
    fetching.base(asked, inside, fetch=True)
    listed = listing.load(asked, inside)
    for entry in listed.entries:
        fetching.fetch(listed, entry, inside)
    first, *rest = history(asked, inside)
    assert [(one.step, one.base, one.tokenizer) for one in rest] == [(k, first.path, first.path) for k in (5, 21)]
    assert not contents.faults((first, *rest), {}, loading.check) and not listed.tokenizer
    assert (first.path / "model.safetensors").read_bytes() == (histories[16] / "model.safetensors").read_bytes()
    folder = Checkpoint(5, rest[0].path, -1, tokenizer=first.path, base=first.path)
    assert rest[0].weights_sha256 == folder.weights_sha256 and len({one.identity for one in (first, *rest)}) == 3
    ids = torch.tensor([[1, 2, 3]])
    assert torch.allclose(load(rest[1]).hf(ids).logits, model(ids).logits, atol=1e-5)
    with pytest.raises(
        SteerlibError, match=r"owner/lora checkpoint-5: is an adapter .*; name that, .*checkpoints.base"
    ):
        history(Study.load(study(tmp_path, repo="owner/lora", steps="all")), inside)
