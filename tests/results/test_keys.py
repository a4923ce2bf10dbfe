"""What a result hangs on, a term at a time: what changes alone makes exactly the right jobs stale, and nothing else."""

import json
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import yaml

from steerlib import SteerlibError
from steerlib.checkpoints.history import Checkpoint
from steerlib.files.hashes import file_sha256
from steerlib.files.params import overlaid
from steerlib.results import freshness, keys, made
from steerlib.results.freshness import Begun, Freshness, write_stamp
from steerlib.results.workspace import Job, Workspace
from steerlib.running import worker
from steerlib.running.claims import NAME, claim
from steerlib.stages import source, table
from steerlib.study import Study

PASSAGES = "one two three four five six\nsix five four three two one\n"
PARAMS = {
    "name": "keys",
    "checkpoints": {"folder": "history", "tokens_per_step": 10},
    "concepts": ["happiness"],
    "probes": {"pairs": 12},
    "sweep": {"prompts": 6, "neutral": "neutral.txt", "neutral_texts": 2},
    "generation": {},
    "instrument": {"steps": [2]},
}
OWN = {"pretraining": {"corpus": "corpus.txt", "steps": 3}, "generation": None, "instrument": None}
KINDS = {
    "given": {},
    "tuned": {"finetuning": {"corpus": "corpus.txt"}},
    "made": OWN | {"checkpoints": {"steps": [1, 2, 3], "folder": None}},
}


def write(folder: Path, changes: dict) -> Study:
    data = overlaid(PARAMS, changes)
    data["checkpoints"] = {key: value for key, value in data["checkpoints"].items() if value is not None}
    (folder / "keys.yaml").write_text(yaml.safe_dump({key: value for key, value in data.items() if value is not None}))
    return Study.load(folder / "keys.yaml")


def checkpoint(folder: Path, content: bytes) -> None:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(content)
    (folder / "config.json").write_text(json.dumps({"rope_theta": 10000}))
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0, "b": 1}}}))
    (folder / "own.py").write_text("one = 1\n")
    (folder / "README.md").write_text("one\n")


@pytest.fixture(scope="module", params=KINDS)
def finished(request, tmp_path_factory) -> tuple[str, Path]:
    """A study of each kind in which everything is done, as far as files and stamps tell."""
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("steerlib.results.workspace.provenance", lambda study: {})  # asks git, for every result
        for step in (1, 2, 3):
            checkpoint(folder / "history" / f"step-{step}", bytes([step]))
        for name in ("neutral", "corpus"):
            (folder / f"{name}.txt").write_text(PASSAGES)
        study = write(folder, KINDS[request.param])
        for job in Workspace(study, folder / "outputs").jobs():
            workspace = Workspace(study, folder / "outputs")
            begun = Begun.of(workspace, job)
            made = {"pretraining": workspace.checkpoints, "finetuning": workspace.analysed}.get(job.stage, {})
            for step in made if job.step is None else made.keys() & {job.step}:
                checkpoint(made[step].path, bytes([step, 7]))
            if job.stage in ("instrument", "emergence"):
                (workspace.folder / "figures").mkdir(exist_ok=True)
                (workspace.folder / "figures" / f"{job.stage}.{job.name}.png").write_bytes(b"drawn")
            if job.stage == "emergence":
                (workspace.folder / "results.zarr" / "probes").mkdir(parents=True)
                (workspace.folder / "results.zarr" / "probes" / "0").write_bytes(b"chunk")
            workspace.save(job, xr.Dataset({"loss": ("update", np.array([0.0]))}))
            write_stamp(workspace, job, begun, 0.0)
    return request.param, folder


@pytest.fixture
def study(finished, tmp_path) -> Path:
    """A copy elsewhere, in which all holds as well."""
    return shutil.copytree(finished[1], tmp_path / "copy")


def check(folder: Path, changes: dict, *direct: str, written: str = "", why: object = "") -> None:
    """Just these jobs, told as STAGE or STAGE@STEP, have another key; and they, and what needs them, do not hold.

    Of one job what it has ``written`` is not there any more.
    """
    workspace = Workspace(write(folder, changes), folder / "outputs")
    found, jobs = Freshness(workspace), workspace.jobs()
    results = {f"the result of {job}" for job in jobs}
    keyed: set[Job] = set()
    expected: set[Job] = set()
    for job in jobs:
        stamp, key = found.stamp(job), found.key(job)
        if stamp is None or key is None or {*keys.changed(stamp.key, key)} - results:
            keyed.add(job)
        names = {job.stage, f"{job.stage}@{job.step}"}
        if names & {*direct, written} or expected & workspace.needs(job).keys():
            expected.add(job)
    assert keyed == {job for job in jobs if {job.stage, f"{job.stage}@{job.step}"} & {*direct}}, why or direct
    assert {*found.todo()} == expected, why or direct


RUN = {"probes", "interventions", "generations", "instrument"}
PUSH = RUN - {"probes"}
AT = {"probes@2", "interventions@2", "generations@2", "instrument"}
ALL = RUN | {"similarity", "emergence"}
TUNED, MADE = {"finetuning"}, {"pretraining"}

RARER = {"emotions": {"disgust": {"frequency": 0.01}, "surprise": {"frequency": 0.08}}}

# What changes in the params -> what does not hold any more, of a study of given checkpoints, or of another kind.
OF_PARAMS = [
    ({}, set()),
    ({"seed": 1}, ALL),
    ({"threads": 2}, RUN),
    ({"loading": {"dtype": "bfloat16"}}, RUN),
    ({"loading": {"blocks": "layers"}}, RUN),
    ({"loading": {"trust_remote_code": True}}, RUN),
    ({"loading": {"batch": 8, "device": "cpu"}}, set()),
    ({"checkpoints": {"tokens_per_step": 20}}, {"emergence"}),
    ({"checkpoints": {"untrained": True}}, {"emergence"}),
    ({"checkpoints": {"steps": [1, 2]}}, {"similarity", "emergence"}),
    ({"concepts": ["sadness"]}, RUN),
    ({"checkpoints": {"world": RARER}}, {"generations"}),  # where the parser judges; happiness is as it was
    ({"checkpoints": {"world": {"emotions": {"happiness": {"feelings": ["merry", "jolly"]}}}}}, RUN),
    ({"probes": {"random": 30}}, RUN),
    ({"layers": [1]}, {"probes", "instrument"}),  # what pushes goes by the probes' layers
    ({"sweep": {"kl_budget": 0.2}}, PUSH | {"emergence"}),
    ({"generation": {"tokens": 5}}, {"generations"}),
    ({"instrument": {"draws": 50}}, {"instrument"}),
    ({"instrument": {"steps": [2, 3]}}, {"instrument@3"}),
    ({"similarity": {"texts": 64}}, {"probes"}),
    ({"emergence": {"bootstrap": 300}}, {"emergence"}),
    ({"emergence": {"shuffled": 300}}, {"probes", "interventions", "emergence"}),
    ({"emergence": {"method": "pca"}}, RUN | {"emergence"}),
]
OF_TUNED = [
    ({}, set()),
    ({"checkpoints": {"world": RARER}}, {"generations"}),  # its instructions are of a file
    ({"seed": 1}, ALL | TUNED),
    ({"finetuning": {"steps": 3}}, TUNED),
    ({"loading": {"dtype": "bfloat16"}}, RUN | TUNED),
]
OF_MADE = [
    ({}, set()),
    ({"seed": 1}, ALL | MADE),
    ({"pretraining": {"batch": 8}}, MADE | {"emergence"}),  # which counts tokens
    ({"threads": 2}, RUN),
    ({"checkpoints": {"steps": [1, 3]}}, {"similarity@3", "emergence"}),  # it has another one before it
    ({"checkpoints": {"steps": [1, 2]}}, {"similarity", "emergence"} | MADE),  # it ends earlier
]
CHANGES = {"given": OF_PARAMS, "tuned": OF_TUNED, "made": OF_MADE}


def test_params_that_change_alone(finished, study):
    kind = finished[0]
    for change, expected in CHANGES[kind]:
        check(study, overlaid(KINDS[kind], change), *expected, why=change)


def test_a_world_that_changes_alone(tmp_path):
    """Of a study that makes its model, and the instructions of its fine-tuning."""
    (tmp_path / "neutral.txt").write_text(PASSAGES)
    made = {"pretraining": {"corpus": "stories", "steps": 3}, "finetuning": {"corpus": "instructions"}}
    made |= {"checkpoints": {"steps": [1, 3], "folder": None, "tokens_per_step": None}, "instrument": None}
    found = [
        {stage: keys.of_stage(Workspace(write(tmp_path, overlaid(made, change)), tmp_path), stage) for stage in TERMS}
        for change in ({}, {"pretraining": {"world": {}}}, {"pretraining": {"world": RARER}})
    ]
    assert found[0] == found[1], "the default, said or not"
    assert {stage: keys.changed(found[0][stage], found[2][stage]) for stage in TERMS} == TERMS


TERMS = {
    "pretraining": ["pretraining"],
    "finetuning": ["the planted world"],
    "probes": [],
    "interventions": [],
    "generations": ["the planted world"],
    "emergence": [],
}
CONFIG = lambda folder: (folder / "config.json").write_text(json.dumps({"rope_theta": 500000}))  # noqa: E731
WORDS = json.dumps({"model": {"vocab": {"a": 1, "b": 0}}})
FILES = {
    "a number of the config": CONFIG,
    "two ids of the tokenizer": lambda folder: (folder / "tokenizer.json").write_text(WORDS),
    "weights": lambda folder: (folder / "model.safetensors").write_bytes(b"other"),
    "one file more that is read": lambda folder: (folder / "generation_config.json").write_text("{}"),
    "a tokenizer's file of another name": lambda folder: (folder / "own.tiktoken").write_text("a 1"),
    "merges of another name": lambda folder: (folder / "bpe.codes").write_text("a b 1"),
}
UNREAD = ("README.md", "optimizer.pt", "trainer_state.json", "pytorch_model.bin", "own.py", ".gitattributes")


def test_files_of_a_checkpoint_that_change_alone(finished, study):
    kind, place = finished[0], study / "history" / "step-2"
    expected = {"given": AT, "tuned": {"finetuning@2"}, "made": AT}[kind]
    written = "pretraining" if kind == "made" else ""
    found = Workspace(write(study, KINDS[kind]), study / "outputs").checkpoints.values()
    assert {checkpoint.study for checkpoint in found} == {study / "outputs" / "keys"}, "what was read is noted there"
    if kind == "made":
        place = study / "outputs" / "keys" / "checkpoints" / "step=00000002"
        assert [checkpoint.tokens_seen for checkpoint in found] == [step * 32 * 64 for step in (1, 2, 3)]
    kept = shutil.copytree(place, study / "kept")
    for what, change in FILES.items():
        change(place)
        check(study, KINDS[kind], *expected, written=written, why=what)
        shutil.copytree(shutil.rmtree(place) or kept, place)
    for name in UNREAD:
        (place / name).write_text("{}")
    check(study, KINDS[kind])
    shutil.rmtree(place)
    if kind == "made":
        check(study, KINDS[kind], *expected, written=written, why="gone")


@pytest.mark.parametrize("finished", ["made", "tuned"], indirect=True)
def test_weights_in_the_place_of_those_that_the_study_made_give_no_result(finished, study):
    place = study / "outputs" / "keys" / {"made": "checkpoints", "tuned": "finetuned"}[finished[0]]
    (place / "step=00000002" / "model.safetensors").write_bytes(b"others")
    found = Freshness(Workspace(write(study, KINDS[finished[0]]), study / "outputs"))
    assert [found.key(Job("interventions", step)) is None for step in (1, 2, 3)] == [False, True, False]


def test_what_code_runs_with_the_checkpoint_counts_where_it_is_trusted(finished, study):
    trusted = overlaid(KINDS[finished[0]], {"loading": {"trust_remote_code": True}})
    checkpoint(study / "words", b"others")
    elsewhere = overlaid(trusted, {"checkpoints": {"tokenizer": "words"}})
    for params, place in ((trusted, "history/step-2"), (elsewhere, "words")):
        identities = set()
        for code in ("one = 1\n", "one = 2\n"):
            (study / place / "own.py").write_text(code)
            identities.add(Workspace(write(study, params), study / "outputs").checkpoints[2].identity)
        assert len(identities) == (1 if finished[0] == "made" else 2), place


def test_files_of_texts_that_change_alone(finished, study):
    kind = finished[0]
    (study / "corpus.txt").write_text("other words for all of it\n")
    trained = {"given": set(), "tuned": TUNED, "made": MADE}[kind]
    check(study, KINDS[kind], *trained)
    (study / "neutral.txt").write_text(PASSAGES.replace("one", "none"))
    check(study, KINDS[kind], *trained, *PUSH)


def test_code_and_libraries_that_change_alone(finished, study, monkeypatch):
    kind = finished[0]
    there = {job.stage for job in Workspace(write(study, KINDS[kind]), study / "outputs").jobs()}
    models = RUN | TUNED | MADE
    for stage in there:
        notebook = table.STAGES[stage].notebook
        with monkeypatch.context() as patch:
            patch.setattr(
                keys, "notebook_code", lambda name, notebook=notebook: "" if name == notebook else _code(name)
            )
            check(study, KINDS[kind], stage)
        with monkeypatch.context() as patch:
            other = lambda name, *more, notebook=notebook: "" if name == notebook else _source(name, *more)  # noqa: E731
            patch.setattr(table, "source_hash", other)
            check(study, KINDS[kind], stage)
    for library in ("torch", "transformers", "tokenizers"):
        with monkeypatch.context() as patch:
            patch.setattr(keys, "libraries", lambda library=library: _libraries() | {library: "99.0"})
            check(study, KINDS[kind], *models, why=library)


_code, _source, _libraries = keys.notebook_code, table.source_hash, keys.libraries


def test_a_patch_of_a_library_is_told_and_no_more(finished, study, monkeypatch):
    kind = finished[0]
    patched = {library: ".".join([*told.split(".")[:2], "99"]) for library, told in freshness.versions().items()}
    for place in (freshness, source):
        monkeypatch.setattr(place, "versions", lambda: patched)
    check(study, KINDS[kind])
    told = Freshness(Workspace(write(study, KINDS[kind]), study / "outputs")).remarks()
    assert len(told) == 3 and told[0].startswith(f"torch is {patched['torch']} now; there are results made with ")


@pytest.mark.parametrize("finished", ["tuned", "made"], indirect=True)
def test_what_is_waited_for_and_not_read_is_no_term(finished, study):
    workspace = Workspace(write(study, KINDS[finished[0]]), study / "outputs")
    assert workspace.needs(Job("probes", 2)) and not workspace.needs(Job("probes", 2), read=True)
    assert not [term for term in Freshness(workspace).key(Job("probes", 2)) if term.startswith("the result of")]


@pytest.mark.parametrize("finished", ["given"], indirect=True)
def test_values_of_a_result_that_is_read_count(finished, study):
    workspace = Workspace(write(study, {}), study / "outputs")
    begun = Begun.of(workspace, Job("probes", 2))
    workspace.save(Job("probes", 2), xr.Dataset({"loss": ("update", np.array([1.0]))}))
    write_stamp(workspace, Job("probes", 2), begun, 0.0)
    workspace = Workspace(workspace.study, study / "outputs")
    others = {
        "interventions step 2",
        "generations step 2",
        "similarity step 2",
        "similarity step 3",
        "instrument step 2",
    }
    assert {str(job) for job in Freshness(workspace).todo()} == others | {"similarity step 3", "emergence"}


def test_the_order_in_which_something_is_told_changes_nothing_and_a_term_may_come_or_go():
    one, two = {"a": {"b": 1, "c": 2}, "d": 3}, {"d": 3, "a": {"c": 2, "b": 1}}
    assert keys.hashed(one) == keys.hashed(two) != keys.hashed(one | {"d": 4})
    known = [
        Checkpoint(1, Path(), -1, known=of)
        for of in ({"a": "1", "model.safetensors": "2"}, {"model.safetensors": "2", "a": "1"})
    ]
    assert known[0].identity == known[1].identity
    assert keys.changed({"a": "1", "b": "1", "c": "1"}, {"b": "2", "c": "1", "d": "1"}) == ["a", "b", "d"]


# --- what a job has written ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("finished", ["given"], indirect=True)
def test_all_that_a_job_has_written_counts(finished, study):
    folder = study / "outputs" / "keys"
    (folder / "figures" / "mine.png").write_bytes(b"of nobody")
    for place, job in {
        "results.zarr/probes/0": "emergence",
        "results.zarr": "emergence",
        "figures/emergence.study.png": "emergence",
        "figures/instrument.step=00000002.png": "instrument",
        "probes/step=00000002.nc": "probes@2",
    }.items():
        path = folder / place
        kept = path.with_name("kept")
        path.rename(kept)
        check(study, {}, written=job, why=f"{place} is gone")
        kept.rename(path)
        check(study, {}, why=f"{place} is back")
        if path.is_file():
            data = path.read_bytes()
            path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
            check(study, {}, written=job, why=f"{place} has changed")
            path.write_bytes(data)
    (folder / "figures" / "mine.png").unlink()
    check(study, {})
    stamp = folder / "emergence" / "study.stamp.json"
    told = json.loads(stamp.read_text())
    others = {"missing": [{}, *({"a.nc": ["one", "two", "three"][:k]} for k in (0, 1, 3))]}  # as if there were no stamp
    others["stale"] = [{name: ["one", "two"]} for name in ("a\0.nc", "a" * 300)]
    for state in others:
        for one in others[state]:
            stamp.write_text(json.dumps(told | {"made": one}))
            assert Freshness(Workspace(write(study, {}), study / "outputs")).state(Job("emergence")) == state, one


@pytest.mark.parametrize("settled", [True, False])
def test_what_would_be_seen_to_change_is_not_read_again(tmp_path, monkeypatch, settled):
    (tmp_path / "results.zarr" / "probes").mkdir(parents=True)
    for name in ("study.nc", "results.zarr/probes/0"):
        (tmp_path / name).write_bytes(b"one")
    monkeypatch.setattr(made, "settled", lambda file: settled)
    told = made.of(tmp_path, tmp_path / "study.nc", {"results.zarr": "now"}, {"results.zarr": "before"}, {})
    read = []
    monkeypatch.setattr(made, "file_sha256", lambda path: read.append(path.name) or file_sha256(path))
    assert made.holds(tmp_path, told) and read == ([] if settled else ["study.nc", "0"])


@pytest.mark.parametrize("finished", ["given"], indirect=True)
def test_what_a_job_does_not_write_any_more_is_removed_and_what_is_not_its_own_stays(finished, study):
    job, workspace = Job("emergence"), Workspace(write(study, {}), study / "outputs")
    figures = workspace.folder / "figures"
    (figures / "mine.png").write_bytes(b"of nobody")
    begun = Begun.of(workspace, job)
    (figures / "new.png").write_bytes(b"drawn")
    workspace.save(job, xr.Dataset({"loss": ("update", np.array([0.0]))}))
    write_stamp(workspace, job, begun, 0.0)
    assert {path.name for path in figures.iterdir()} == {"mine.png", "new.png", "instrument.step=00000002.png"}
    assert Freshness(workspace).stamp(job).made.keys() == {"emergence/study.nc", "figures/new.png"}


@pytest.mark.parametrize("finished", ["given"], indirect=True)
def test_what_was_edited_while_a_job_ran_is_named_and_not_stamped_as_used(finished, study):
    job = Job("interventions", 2)
    workspace = Workspace(write(study, {}), study / "outputs")
    begun = Begun.of(workspace, job)
    (study / "neutral.txt").write_text(PASSAGES.replace("one", "none"))
    CONFIG(study / "history" / "step-2")
    workspace.save(job, xr.Dataset({"loss": ("update", np.array([0.0]))}))
    workspace.data(Job("probes", 2)).write_bytes(workspace.data(Job("probes", 3)).read_bytes())
    several = "neutral texts, the result of probes step 2, the checkpoint"
    with pytest.raises(SteerlibError, match=rf"^{several} changed while it ran, .*run again$"):
        write_stamp(workspace, job, begun, 0.0)
    assert Freshness(workspace).state(job) == "missing"


@pytest.mark.parametrize("finished", ["given"], indirect=True)
def test_texts_that_were_edited_since_the_run_began_reach_no_job_of_it(finished, study, monkeypatch):
    monkeypatch.setenv("STEERLIB_DRIVEN", "1")  # as `execute` does, for good
    workspace = Workspace(write(study, {}), study / "outputs")
    terms = {stage: keys.of_stage(workspace, stage) for stage in ("probes", "interventions", "emergence")}
    run = worker.Run(workspace.study.keep(workspace.folder), workspace.folder.parent, study, of_stages=terms)
    monkeypatch.setattr(worker, "run_notebook", lambda *of: pytest.fail("it ran"))
    (study / "neutral.txt").write_text(PASSAGES.replace("one", "none"))
    told = worker.execute(run, Job("interventions", 2)).message
    assert told.startswith("neutral texts changed since this run began, or differ on ") and "run again" in told
    checkpoint(study / "history" / "step-4", b"more")  # of a model in training
    for job in (Job("probes", 2), Job("emergence")):
        with pytest.raises(pytest.fail.Exception):
            worker.execute(run, job)


# --- whose folder it is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("finished", ["given"], indirect=True)
def test_a_folder_of_results_is_of_one_study(finished, study, tmp_path):
    def take(home: Path, **changes) -> None:
        claim(Workspace(write(home, changes), study / "outputs"))

    take(study)
    take(study, emergence={"bootstrap": 300})
    other = tmp_path / "other"
    for step in (1, 2, 3):
        checkpoint(other / "history" / f"step-{step}", b"others")
    (other / "neutral.txt").write_text(PASSAGES)
    with pytest.raises(SteerlibError, match=r"folder is '.*copy/history' there.* another `name:`.*--outputs"):
        take(other)
    with pytest.raises(SteerlibError, match=r"holds the results of .*copy/keys\.yaml; give that of .*--outputs"):
        take(other, checkpoints={"folder": str(study / "history")})
    for theirs in ({"params": []}, {"params": ["", ""], "model": {"checkpoints.folder": []}}):
        (study / "outputs" / "keys" / NAME).write_text(json.dumps({"model": {}} | theirs))
        with suppress(SteerlibError):  # or it is as if there were none
            take(study)
    (study / "outputs" / "keys" / NAME).unlink()
    moved = shutil.move(study, tmp_path / "moved")
    claim(Workspace(write(Path(moved), {}), Path(moved) / "outputs"))


def test_a_run_works_on_the_params_as_they_were_when_it_began(tmp_path):
    own = {"file": "own.csv", "words": {"joy": ["a\x85b", "a\u2028b", "a\x7fb"]}}
    (tmp_path / "shared.yaml").write_text(yaml.safe_dump({"concepts": ["happiness", own]}))
    study = write(tmp_path, {"concepts": "shared.yaml", "preset": "id"})
    kept = study.keep(tmp_path / "outputs" / "keys")
    write(tmp_path, {"seed": 1})
    (tmp_path / "shared.yaml").write_text("concepts: [sadness]\n")
    again = Study.load(kept)
    assert again == study and (again.path, again.sweep.neutral.path) == (study.path, tmp_path / "neutral.txt")
    assert Study.load(tmp_path / "keys.yaml").seed == 1 and study.keep(tmp_path / "outputs" / "keys") == kept
