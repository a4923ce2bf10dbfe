"""Commands that look and tell, wherever to; and what a study may share with others."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import yaml

from helpers.studies import PROJECT, SMOKE, STEERLIB, call
from steerlib import SteerlibError
from steerlib import __main__ as program
from steerlib.checkpoints import suites
from steerlib.files import datasets
from steerlib.numerics.onsets import STATUS
from steerlib.results.freshness import Freshness
from steerlib.results.workspace import Job, Workspace
from steerlib.running import cluster as clusters
from steerlib.running import tables
from steerlib.running.console import STEERING, Plain
from steerlib.running.worker import Outcome
from steerlib.stages import summary
from steerlib.study import Study


def test_the_command_itself_imports_no_wing_but_its_console():
    code = (
        "import sys; from steerlib import __main__; print(*(name for name in sys.modules if name[:9] == 'steerlib.'))"
    )
    asked = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    parts = "audit", "console", "environment", "options", "pilot"
    names = ["running", *(f"running.{name}" for name in parts), "__main__"]
    assert sorted(asked.stdout.split()) == sorted(f"steerlib.{name}" for name in names), asked.stderr


COMPUTE = {"dask", "distributed", "h5py", "jaxtyping", "matplotlib", "pandas", "papermill"}
COMPUTE |= {"scipy", "sklearn", "torch", "transformers", "xarray", "zarr"}
WAITED = f"""
import sys
from steerlib import __main__ as program
try:
    program.main()
finally:
    print({COMPUTE} & sys.modules.keys())
"""


TOLD = """
import sys
from pathlib import Path
from steerlib.results.workspace import Workspace
from steerlib.running import work
from steerlib.study import Study
workspace = Workspace(Study.load(Path(sys.argv[1])), Path(sys.argv[2]))
print(work.about(workspace, workspace.jobs()), {"transformers", "nnsight", "sklearn"} & sys.modules.keys())
"""


def test_a_run_that_pretrains_tells_how_long_it_takes_before_it_imports_what_knows_models(tmp_path):
    words = [sys.executable, "-c", TOLD, SMOKE, tmp_path]
    asked = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True)
    assert asked.stdout.startswith(" (about ") and asked.stdout.endswith(" here) set()\n"), asked.stderr


@pytest.mark.parametrize(
    "words", [["suites"], ["status", SMOKE], ["checkpoints", SMOKE], ["checkpoints", SMOKE, "--steps"], ["run"]]
)
def test_a_command_that_only_looks_waits_for_no_library_that_computes(tmp_path, words):
    outputs = ["--outputs", tmp_path] if SMOKE in words else []
    if words == ["run"]:  # of what cannot be used
        (tmp_path / "run" / "checkpoint-5").mkdir(parents=True)
        (tmp_path / "run" / "checkpoint-5" / "lit_model.pth").touch()
        words = ["run", tmp_path / "own.yaml"]
        words[1].write_text("name: own\ncheckpoints: {folder: run}\nconcepts: [happiness]")
    done = subprocess.run([sys.executable, "-c", WAITED, *words, *outputs], cwd=PROJECT, capture_output=True, text=True)
    assert "Traceback" not in done.stderr and done.stdout.splitlines()[-1] == "set()", done.stdout + done.stderr
    assert ("one of litgpt" in done.stderr) == (words[0] == "run")


@pytest.mark.parametrize(("word", "told"), [("status", "0 stale, 0 missing"), ("run", "nothing to do")])
def test_nor_does_one_that_finds_all_of_a_study_done_and_tells_what_was_found(calm, params, tmp_path, word, told):
    folder = shutil.copytree(calm, tmp_path / "tiny")
    words = [sys.executable, "-c", WAITED, word, params, "--outputs", tmp_path]
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True)
    assert told in done.stdout and done.stdout.splitlines()[-1] == "set()", done.stdout + done.stderr
    found = summary.findings(datasets.read(folder / "emergence" / "study.nc"))
    assert json.loads((folder / "findings.json").read_text()) == found
    for line in found["legend"] + found["conclusions"]:
        assert (line in done.stdout) == (word == "run"), line
    cells = [line.split() for line in done.stdout.splitlines()]
    told = [" ".join([name, *row.values()]).split() in cells for name, row in found["summary"].items()]
    assert all(told) if word == "run" else not any(told)
    (folder / "findings.json").write_text(json.dumps(found | {"conclusions": ["altered"]}))
    workspace = Workspace(Study.load(params), tmp_path)
    assert [job.stage for job in Freshness(workspace).todo()] == ["emergence"], "what was altered is told anew"


# --- where it is told, and when one has seen enough -------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_an_output_has_no_letter_for_is_told_in_other_letters(monkeypatch, encoding):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding, write_through=True))
    monkeypatch.setattr(sys, "argv", ["steerlib", "suites"])
    with pytest.raises(SystemExit) as end:
        program.main()
    assert end.value.code in (0, None) and b"EleutherAI/pythia-70m" in written.getvalue()
    assert written.getvalue().decode(encoding)


def test_an_output_that_is_closed_or_full_ends_a_command_without_a_traceback(tmp_path):
    closed, full = os.pipe(), os.open("/dev/full", os.O_WRONLY)
    os.close(closed[0])
    for out in (closed[1], full):
        done = subprocess.run([*STEERLIB, "suites"], stdout=out, stderr=subprocess.PIPE, text=True, cwd=PROJECT)
        os.close(out)
        assert "Traceback" not in done.stderr and "Exception" not in done.stderr and len(done.stderr.splitlines()) < 2
    code = (
        "import os, sys; from steerlib import __main__; from steerlib.running import tables\n"
        "tables.show_suites = lambda _: print(*(os.readlink(f'/proc/self/fd/{k}') for k in (0, 1)), file=sys.stderr)\n"
        "__main__.main()"
    )
    closed = ["sh", "-c", 'exec "$@" <&- >&-', "sh", sys.executable, "-c", code, "suites"]
    done = subprocess.run(closed, stderr=subprocess.PIPE, text=True, cwd=PROJECT)
    assert done.stderr == "/dev/null /dev/null\n", "no socket comes to be the output"


@pytest.mark.parametrize(
    "name", ["[red]a[/]", "[/]", ":smile:", "a\x1b[2J", "a\nb", "%s {x}", "é 日本", "-#", "\udce9"]
)
def test_a_path_is_shown_as_it_is_and_what_steers_a_terminal_is_spelled_out(tmp_path, name):
    told = call("status", SMOKE, "--outputs", tmp_path / name)
    shown = f"{tmp_path / name / 'smoke'}".translate(STEERING)
    assert told.returncode == 0 and shown in told.stdout and "0 done, 0 stale" in told.stdout, told.stdout + told.stderr
    wrong = call("status", tmp_path / name / "no.yaml")
    assert wrong.returncode == 2 and "\x1b" not in wrong.stderr and len(wrong.stderr.splitlines()) == 1


def test_of_several_mistakes_each_is_told_in_a_line(tmp_path):
    (tmp_path / "no.yaml").write_text('name: 1\n"a\\nb": 1\n')
    name, concepts, unknown = call("status", tmp_path / "no.yaml").stderr.splitlines()
    assert name.startswith("error: ") and "concepts: required" in concepts and r"a\nb: unknown key" in unknown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("comes_out_as", [SystemExit, ImportError("half imported")])
def test_who_stops_a_command_is_answered_in_a_line(monkeypatch, number, comes_out_as):
    def stopped(_):
        try:
            signal.raise_signal(number)
        except SystemExit:
            raise comes_out_as from None

    monkeypatch.setattr(tables, "show_suites", stopped)
    before = signal.signal(number, signal.SIG_DFL)  # whoever runs the tests may ignore it, as nohup does
    told = call("suites")
    assert told.returncode == 128 + number and signal.signal(number, before) == signal.SIG_DFL
    assert told.stderr == "error: interrupted; what is done is kept: run again\n"


def test_ctrl_c_is_no_end_of_its_own_where_dask_jobqueue_answers_it(monkeypatch):
    monkeypatch.setattr(tables, "show_suites", lambda _: sys.exit())
    told = call("suites")
    assert told.returncode == 130 and "interrupted" in told.stderr


def test_failures_alike_are_told_once_with_their_steps_and_counts_add_up():
    gone = "a/b step{}: is not in your Hugging Face cache, and the hub could not be asked"
    outcomes = [Outcome(Job("checkpoint", step), "failed", gone.format(step)) for step in range(14)]
    outcomes += [Outcome(Job(stage, step), "skipped") for step in range(14) for stage in ("probes", "interventions")]
    outcomes += [Outcome(Job("emergence"), "skipped"), Outcome(Job("probes", 20), "done")]
    outcomes += [Outcome(Job("probes", 21 + k), "failed", why) for k, why in enumerate("abc")]
    console = Plain(file=io.StringIO(), width=80)
    assert tables.failures(outcomes, console)
    first, more, *others, last = console.file.getvalue().splitlines()
    assert first == f"failed checkpoint step 0: {gone.format(0)}"
    assert more == "failed 13 more in the same way: checkpoint step 1, 2, 3 … 13"
    assert others == [f"failed probes step {21 + k}: {why}" for k, why in enumerate("abc")]
    assert last.startswith("Of 33 jobs 1 are done, 3 failed, 29 were skipped")
    assert not tables.failures([Outcome(Job("probes", 1), "done")], console)


# --- commands ---------------------------------------------------------------------------------------------------------


def test_suites_are_listed_with_every_repository_that_stands_for_others():
    told = call("suites")
    assert told.returncode == 0, told.stderr
    for name, suite in suites.known().items():
        assert f"{name}: revisions as {suite.like[0]}" in told.stdout
        for repo in suite.examples:
            assert len(next(line for line in told.stdout.splitlines() if f"  {repo} " in line)) <= 80
    assert "crystal needs loading: {trust_remote_code: true" in told.stdout


@pytest.mark.parametrize("words", [[], ["run"], ["new"], ["onsets"], ["concepts", "check"]])
def test_every_option_is_explained_and_the_command_shows_examples_and_its_version(words):
    told = call(*words, "--help")
    assert told.returncode == 0 and "--help" in told.stdout
    if not words:
        assert all(
            f"steerlib {example}" in told.stdout for example in ("run params/toy.yaml", "new ", "concepts check")
        )
        assert re.fullmatch(r"steerlib \d+\.\d+\.\d+\n", call("--version").stdout)


def test_a_study_that_trains_its_own_model_tells_its_checkpoints_before_and_after(tmp_path):
    told = call("checkpoints", SMOKE, "--outputs", tmp_path)
    assert told.returncode == 0, told.stderr
    assert told.stdout.count("not trained yet") == 3
    made = tmp_path / "smoke" / "checkpoints" / "step=00000060"
    made.mkdir(parents=True)
    (made / "model.safetensors").write_bytes(b"x" * 2000)
    told = call("checkpoints", SMOKE, "--outputs", tmp_path)
    assert told.stdout.count("not trained yet") == 2 and "2.0 kB" in told.stdout


def test_onsets_of_a_table_are_told_and_a_table_that_is_none_is_refused(tmp_path):
    steps = [0, 10, 100, 1000, 10_000]
    rows = [("early", k, s, v) for k, s, v in zip([0] * 5, steps, [0.5, 0.5, 0.9, 0.9, 0.9], strict=True)]
    rows += [("never", 0, s, 0.5) for s in steps]
    lines = ["task,run,step,value,stderr", *(f"{task},{run},{step},{value},0.01" for task, run, step, value in rows)]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    told = call("onsets", tmp_path / "table.csv")
    assert told.returncode == 0, told.stderr
    (early,) = (line for line in told.stdout.splitlines() if " early " in line)
    (never,) = (line for line in told.stdout.splitlines() if " never " in line)
    assert re.search(r" \d\d \[\d+–100\] ", early) and never.count("not reached") == 2
    assert f"not reached: {STATUS['not reached']}" in told.stdout
    ordered = call("onsets", tmp_path / "table.csv", "--order", "task", "--least", "0.5")
    assert (
        "tied" in ordered.stdout and "…" not in ordered.stdout and ordered.stdout.count("not reached") == 5
    )  # 0.4 does not matter
    (tmp_path / "bad.csv").write_text("step,value\n0,1\n")
    refused = call("onsets", tmp_path / "bad.csv")
    assert refused.returncode == 2 and "bad.csv: line 1: no column 'run'" in refused.stderr
    assert "Traceback" not in refused.stderr


def shared(folder, concepts, **more) -> Study:
    """A study that names a list of concepts, in a folder beside it."""
    (folder / "lists").mkdir()
    (folder / "lists" / "some.yaml").write_text(yaml.safe_dump({"concepts": concepts, **more}))
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({"name": "s", "checkpoints": {"folder": "."}, "concepts": "lists/some.yaml"}))
    return Study.load(path)


def test_a_shared_list_of_concepts_is_as_if_it_stood_in_the_study(tmp_path):
    study = shared(tmp_path, ["happiness", "own.csv", {"file": "../other.csv", "test": "own.csv", "prompts": "p.txt"}])
    planted, own, other = study.concepts
    assert (planted, own) == ("happiness", "lists/own.csv")
    assert (other.file, other.test, other.prompts) == ("other.csv", "lists/own.csv", "lists/p.txt")
    assert own.path == tmp_path / "lists" / "own.csv"


def test_what_is_no_list_of_concepts_is_refused(tmp_path):
    with pytest.raises(SteerlibError, match=r"some\.yaml: .* no list of them"):
        shared(tmp_path, "happiness")


def test_our_own_english_concepts_are_the_same_wherever_they_are_named():
    for name in ("pythia-70m", "amber"):
        study = Study.load(PROJECT / "params" / f"{name}.yaml")
        assert [concept.name for concept in study.load_concepts()] == [
            *("happiness", "sadness", "anger", "fear", "surprise", "disgust", "truth", "commonsense")
        ]
        assert {concept.licence for concept in study.load_concepts()} == {"Apache-2.0"}, "as this project"
        for concept in study.load_concepts()[:6]:
            assert len(concept.readout.targets) == 5 and len(concept.readout.foils) == 25
            assert not set(concept.stimuli("fit", 0).texts) & set(concept.stimuli("test", 0).texts)
            assert all(text.endswith(" felt") for text in concept.stimuli("fit", 0).texts)


def begun(monkeypatch, *given, error: Exception | None = None) -> int:
    """With how many workers a local cluster begins, or with what it fails."""

    def machine(n_workers, **_):
        raise error or Begun(n_workers)

    class Begun(BaseException):
        pass

    monkeypatch.setattr(clusters.kernels, "share_server", lambda: None)
    monkeypatch.setattr(clusters, "LocalCluster", machine)
    for variable in clusters.THREADS:
        monkeypatch.setenv(variable, "1")
    with pytest.raises(Begun) as begun, clusters.local(*given):
        pass
    return begun.value.args[0]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes have no cores of their own here")
def test_workers_are_as_many_as_cores_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    allowed = os.sched_getaffinity(0)
    try:
        for cores in ([*allowed][:1], [*allowed][:2]):
            os.sched_setaffinity(0, cores)
            assert begun(monkeypatch, None, []) == len(cores)
    finally:
        os.sched_setaffinity(0, allowed)
    assert begun(monkeypatch, 3, []) == 3


@pytest.mark.parametrize(("reason", "memory"), [("No module named 'x'", False), ("Nanny failed to start", True)])
def test_workers_that_do_not_start_say_why_and_memory_is_named_only_where_it_may_be_that(monkeypatch, reason, memory):
    error = RuntimeError("Nanny failed to start.")
    error.__cause__ = ImportError(reason)
    with pytest.raises(SteerlibError) as told:
        begun(monkeypatch, None, [], error=error)
    assert reason in str(told.value) and ("memory" in str(told.value)) == memory


def test_workers_of_a_local_cluster_share_out_the_gpus(monkeypatch):
    monkeypatch.setattr(clusters.kernels, "share_server", lambda: None)
    for variable in clusters.THREADS:
        monkeypatch.setenv(variable, "1")
    with clusters.local(4, ["3", "5"]) as client:
        visible = client.run(os.getenv, "CUDA_VISIBLE_DEVICES")
    assert np.unique([*visible.values()], return_counts=True)[1].tolist() == [2, 2]
