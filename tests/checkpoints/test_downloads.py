"""Revisions brought onto this disk from a hub on this machine, with what can go wrong on the way."""

import shutil
from pathlib import Path

import pytest

from helpers.repositories import REPO, study
from steerlib import SteerlibError
from steerlib.checkpoints import fetching, listing
from steerlib.checkpoints.history import history
from steerlib.model import load
from steerlib.results.workspace import Workspace
from steerlib.running.check import check
from steerlib.stages import judges
from steerlib.study import Study


def test_only_what_loading_takes_is_fetched(hub, histories, inside, tmp_path):
    folder = shutil.copytree(histories[0], tmp_path / "copy")
    others = {"pytorch_model.bin", "optimizer.pt", "model.onnx", "consolidated.safetensors", "modeling_own.py"}
    for name in others:
        (folder / name).write_bytes(b"x" * 100)
    hub.add(REPO, "step0", folder)
    chosen = Study.load(study(tmp_path, steps=[0]))
    found = listing.take(chosen, inside)
    fetching.fetch(found, found.entries[0], inside)
    fetched = {path.name for path in fetching.place(inside, 0).iterdir()}
    assert "model.safetensors" in fetched and "tokenizer.json" in fetched
    assert not fetched & others


def test_what_lies_in_the_users_cache_is_used_and_left_there(hub, inside, tmp_path):
    from huggingface_hub import snapshot_download

    chosen = Study.load(study(tmp_path, steps=[0]))
    cached = Path(snapshot_download(REPO, revision="step0", endpoint=hub.endpoint, cache_dir=tmp_path / "cache"))
    sent = hub.sent.copy()
    found = listing.take(chosen, inside)
    fetching.fetch(found, found.entries[0], inside)
    assert hub.sent == sent, "nothing was fetched"
    assert Path(fetching.record(inside, found.entries[0]).path) == cached and cached.is_dir()


def test_a_cut_connection_is_told_and_files_that_have_arrived_are_kept(hub, inside, tmp_path):
    hub.fault(REPO, "step0", "model.safetensors", "cut", after=10_000, reset=True)
    chosen = Study.load(study(tmp_path, steps=[0]))
    found = listing.take(chosen, inside)
    with pytest.raises(SteerlibError, match=f"{REPO} step0: the connection failed .*run again"):
        fetching.fetch(found, found.entries[0], inside)
    assert fetching.whole(inside, found.entries[0]) is None
    arrived = {name: sent for (*_, name), sent in hub.sent.items() if name != "model.safetensors"}
    # As a kill leaves it behind.
    part = fetching.place(inside, 0) / ".cache" / "huggingface" / "download" / "model.safetensors.incomplete"
    part.write_bytes(b"half")
    fetching.fetch(found, found.entries[0], inside)
    assert fetching.whole(inside, found.entries[0]) and not part.exists()
    assert arrived == {name: sent for (*_, name), sent in hub.sent.items() if name != "model.safetensors"}


FETCHED = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]


def flip(path: Path) -> None:
    """One bit of a file, whose length stays."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", FETCHED)
def test_a_file_garbled_on_the_hub_is_refused_whatever_it_holds(hub, inside, tmp_path, name):
    """Git's hash tells of small files what SHA-256 tells of large ones."""
    found = listing.take(Study.load(study(tmp_path, steps=[0])), inside)
    hub.fault(REPO, "step0", name, "garbled")
    with pytest.raises(SteerlibError, match=f"{REPO} step0: {name} is damaged .*it was removed: run again"):
        fetching.fetch(found, found.entries[0], inside)
    assert not fetching.whole(inside, found.entries[0])
    hub.faults.clear()
    fetching.fetch(found, found.entries[0], inside)
    assert fetching.whole(inside, found.entries[0])


@pytest.mark.parametrize("name", FETCHED)
def test_a_file_garbled_after_it_was_fetched_is_fetched_again_and_in_the_users_cache_refused(
    hub, histories, inside, tmp_path, caplog, name
):
    from huggingface_hub import snapshot_download

    found = listing.take(Study.load(study(tmp_path, steps=[0, 512])), inside)
    snapshot_download(REPO, revision="step512", endpoint=hub.endpoint, cache_dir=tmp_path / "cache")
    for entry in found.entries:
        fetching.fetch(found, entry, inside)
        path = fetching.whole(inside, entry) / name
        flip(path)
        assert fetching.whole(inside, entry) is None
    with pytest.raises(SteerlibError, match=f"step512: {name} is damaged .*remove it from your cache"):
        fetching.fetch(found, found.entries[1], inside)
    fetching.fetch(found, found.entries[0], inside)
    assert fetching.whole(inside, found.entries[0]).joinpath(name).read_bytes() == (histories[0] / name).read_bytes()
    assert [message for message in caplog.messages if "is not what the hub tells; fetched anew" in message]


def test_a_tokenizer_from_elsewhere_is_held_against_the_hub_each_time(hub, histories, inside, tmp_path):
    hub.add("someone/words", "main", histories[16])
    found = listing.take(Study.load(study(tmp_path, steps=[0], tokenizer="someone/words")), inside)
    hub.fault("someone/words", "main", "tokenizer.json", "garbled", times=1)
    with pytest.raises(SteerlibError, match=r"someone/words main: tokenizer\.json is damaged"):
        fetching.fetch(found, found.entries[0], inside)
    fetching.fetch(found, found.entries[0], inside)
    flip(path := fetching.place_of_tokenizer(inside, found.tokenizer) / "tokenizer.json")
    fetching.fetch(found, found.entries[0], inside)
    assert path.read_bytes() == (histories[16] / "tokenizer.json").read_bytes()


def test_half_a_folder_is_not_taken_for_a_whole_one(hub, histories, inside, tmp_path):
    chosen = Study.load(study(tmp_path, steps=[0]))
    found = listing.take(chosen, inside)
    fetching.fetch(found, found.entries[0], inside)
    assert fetching.whole(inside, found.entries[0])
    sent = hub.sent[REPO, "step0", "model.safetensors"]
    config = fetching.place(inside, 0) / "config.json"
    for damage in (config.unlink, lambda: config.write_text("{")):
        damage()
        assert fetching.whole(inside, found.entries[0]) is None
        fetching.fetch(found, found.entries[0], inside)
        assert fetching.whole(inside, found.entries[0])
    assert hub.sent[REPO, "step0", "model.safetensors"] == sent, "only what was missing is fetched"


def test_a_revision_that_moved_is_fetched_anew(hub, histories, inside, tmp_path):
    chosen = Study.load(study(tmp_path, steps=[0]))
    before = listing.take(chosen, inside)
    fetching.fetch(before, before.entries[0], inside)
    hub.add(REPO, "step0", histories[512])
    after = listing.take(chosen, inside)
    assert not fetching.record(inside, after.entries[0])
    fetching.fetch(after, after.entries[0], inside)
    assert fetching.record(inside, after.entries[0]).weights_sha256 == after.entries[0].weights_sha256
    assert after.entries[0].weights_sha256 != before.entries[0].weights_sha256


def test_files_of_a_revision_that_moved_while_it_was_fetched_are_not_mixed_in(hub, histories, inside, tmp_path):
    chosen = Study.load(study(tmp_path, steps=[0]))
    before = listing.take(chosen, inside)
    hub.fault(REPO, "step0", "model.safetensors", "forbidden", times=1)
    with pytest.raises(SteerlibError, match="accept the terms"):
        fetching.fetch(before, before.entries[0], inside)
    other = shutil.copytree(histories[512], tmp_path / "other")
    config = (other / "config.json").read_text()
    (other / "config.json").write_text(config.replace('"hidden_act": "gelu"', '"hidden_act": "relu"'))
    hub.add(REPO, "step0", other)
    after = listing.take(chosen, inside)
    fetching.fetch(after, after.entries[0], inside)
    assert (fetching.place(inside, 0) / "config.json").read_text() == (other / "config.json").read_text()


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
    fetching.fetch(found, found.entries[0], inside)
    assert shards | {"model.safetensors.index.json"} <= {path.name for path in fetching.place(inside, 0).iterdir()}
    (checkpoint,) = history(chosen, inside)
    assert load(checkpoint).n_layers == 2
    assert checkpoint.weights_sha256 == found.entries[0].weights_sha256


def test_a_tokenizer_that_revisions_lack_is_that_of_main(hub, histories, inside, tmp_path):
    bare = shutil.copytree(histories[16], tmp_path / "bare")
    for path in bare.glob("*token*"):
        path.unlink()
    hub.add(REPO, "step16", bare)
    chosen = Study.load(study(tmp_path, steps=[16]))
    found = listing.take(chosen, inside)
    fetching.fetch(found, found.entries[0], inside)
    (checkpoint,) = history(chosen, inside)
    assert load(checkpoint).tokenizer("happy")["input_ids"]


@pytest.mark.parametrize("words", [None, "words", "someone/words"])
def test_a_checkpoint_of_a_repository_is_what_it_is_as_a_folder(hub, histories, inside, tmp_path, words):
    """Also once it was removed. Before it is fetched no more is known of it than what the hub tells."""
    hub.add("someone/words", "main", shutil.copytree(histories[16], tmp_path / "words"))
    folders = study(tmp_path, repo=None, folder="history", steps=[0], tokenizer=words and str(tmp_path / "words"))
    (tmp_path / "history").mkdir()
    (tmp_path / "history" / "step0").symlink_to(histories[0])
    (folder,) = history(Study.load(folders), inside)
    chosen = Study.load(study(tmp_path, steps=[0], tokenizer=str(tmp_path / "words") if words == "words" else words))
    found = listing.take(chosen, inside)
    (told,) = history(chosen, inside)
    assert told.weights_sha256 == folder.weights_sha256 and told.path == fetching.place(inside, 0)
    with pytest.raises(SteerlibError, match="holds no weights"):
        told.identity  # noqa: B018
    fetching.fetch(found, found.entries[0], inside)
    (fetched,) = history(chosen, inside)
    shutil.rmtree(fetched.path)
    assert fetched.study == folder.study == inside and fetched.weights_sha256 == folder.weights_sha256
    if words == "someone/words":  # whose small files the hub calls otherwise
        assert fetched.tokenizer == fetching.place_of_tokenizer(inside, found.tokenizer)
        named = {f"tokenizer {file.name}": file.sha256 or file.oid for file in found.tokenizer.files}
        assert named and all(named.values()) and named.items() <= fetched.known.items()
    else:
        assert fetched.identity == folder.identity and fetched.tokenizer == folder.tokenizer


def test_a_fine_tuned_checkpoint_is_not_known_by_its_originals_hash(hub, inside, tmp_path):
    path = study(tmp_path, steps=[0])
    path.write_text(path.read_text() + "finetuning: {}\n")
    workspace = Workspace(Study.load(path), tmp_path / "outputs")
    assert workspace.checkpoints[0].weights_sha256
    with pytest.raises(SteerlibError, match="holds no weights"):
        workspace.analysed[0].weights_sha256  # noqa: B018


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
    assert check(address, {})[0].concept.readout.targets == [" polite"]
    path.write_text(path.read_text().replace("manners.csv", "lost.csv"))
    with pytest.raises(SteerlibError, match=r"hf://datasets/someone/manners main lost\.csv: there is no such file"):
        Study.load(path).load_concepts()
    hub.fault("someone/manners", "main", "*", "error", status=503, times=9)
    asked = len(hub.requests)
    with pytest.raises(SteerlibError, match=r"lost\.csv: the hub answers with an error \(503\); run again later"):
        Study.load(path).load_concepts()
    assert len(hub.requests) == asked + 1, "a hub that does not answer is not asked again and again"


def test_a_classifier_on_the_hub_is_what_it_was_when_it_was_first_asked_and_counts_by_its_files(
    hub, histories, inside, tmp_path
):
    hub.add("someone/judge", "main", histories[0])
    path = study(tmp_path, steps=[0])
    path.write_text(path.read_text() + "generation: {classifier: someone/judge, labels: {happiness: joy}}\n")
    mine = Study.load(path)
    assert not mine.named_files("generations")
    source = judges.chosen(mine, mine.load_concepts())["classifier"].source
    files = mine.named_files("generations")
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= {file.name for file in files.values()}
    assert all(file.read_bytes() == (histories[0] / file.name).read_bytes() for file in files.values())
    hub.add("someone/judge", "main", histories[16])
    assert judges.chosen(mine, mine.load_concepts())["classifier"].source == source == str(files.popitem()[1].parent)
    path.write_text(path.read_text().replace("someone/judge", "some/judge/else"))
    with pytest.raises(SteerlibError, match="else main: is neither a repository nor a folder that is there"):
        Study.load(path).named_files("generations")


@pytest.mark.parametrize(
    "change",
    [
        *(lambda text: "{", lambda text: "[]", lambda text: '{"repo": "x"}'),
        lambda text: text.replace('"name": "config.json"', '"name": "../../config.json"'),
        lambda text: text.replace('"commit": "', '"commit": "../'),
        lambda text: text.replace('"size": ', '"size": -'),
        lambda text: text.replace('"sha256": "', '"sha256": "x'),
        lambda text: text.replace('"oid": ', '"older": '),
    ],
)
def test_a_listing_that_is_none_is_taken_anew(hub, inside, tmp_path, change):
    chosen = Study.load(study(tmp_path, steps=[0]))
    listing.take(chosen, inside)
    before = (inside / listing.NAME).read_text()
    (inside / listing.NAME).write_text(change(before))
    assert change(before) != before
    assert listing.load(chosen, inside).entries[0].revision == "step0"
    assert (inside / listing.NAME).read_text() == before


def test_one_revision_that_the_hub_will_not_tell_of_leaves_the_others(hub, inside, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's tries
    hub.fault(REPO, "step16", None, "error", times=99)
    found = listing.take(Study.load(study(tmp_path)), inside)
    assert [entry.step for entry in found.entries if entry.problem] == [16]
    assert all(entry.files for entry in found.entries if entry.step != 16)


@pytest.mark.parametrize("fault", ["error", "forbidden", "missing"])
def test_what_the_hub_would_not_tell_is_asked_again_by_the_next_run_and_that_alone(
    hub, inside, tmp_path, monkeypatch, fault
):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    workspace = Workspace(Study.load(study(tmp_path)), tmp_path / "outputs")
    hub.fault(REPO, "step16", None, fault, times=99)
    workspace.steps()
    hub.faults.clear()
    assert [entry.step for entry in listing.load(workspace.study, inside).entries if entry.problem] == [16]
    before = len(hub.requests)
    workspace.steps()  # as a run of some steps begins; one of all asks in any case
    found = listing.load(workspace.study, inside)
    assert all(entry.files and not entry.problem for entry in found.entries)
    commit = hub.repos[REPO]["step16"].commit
    assert [commit in path for _, path, _ in hub.requests[before:]] == [False, True], "the refs, and this revision"
    hub.fault(REPO, None, None, "error", times=99)
    assert listing.take(workspace.study, inside) == found, "and what was told stays known"


def test_a_revision_without_weights_is_known_to_have_none(hub, histories, inside, tmp_path):
    bare = shutil.copytree(histories[16], tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    hub.add(REPO, "step16", bare)
    workspace = Workspace(Study.load(study(tmp_path, steps=[0, 16])), tmp_path / "outputs")
    workspace.steps()
    before = len(hub.requests)
    workspace.steps()
    assert len(hub.requests) == before
    found = listing.load(workspace.study, inside)
    with pytest.raises(SteerlibError, match=f"{REPO} step16: holds no weights"):
        fetching.fetch(found, found.entries[1], inside)


def test_finetuning_and_a_budget_do_not_go_together(tmp_path):
    path = study(tmp_path, disk="1 GB")
    path.write_text(path.read_text() + "finetuning: {}\n")
    with pytest.raises(SteerlibError, match=r"checkpoints\.disk cannot hold with finetuning"):
        Study.load(path)
