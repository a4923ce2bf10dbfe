"""Whole commands on a published history, against a hub on this machine."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.hub import Hub
from helpers.repositories import REPO, Peak, environment, run, size_of, study
from helpers.studies import STEERLIB, call, contents
from steerlib import SteerlibError
from steerlib.checkpoints import listing
from steerlib.files import datasets
from steerlib.study import Study

STUDIED = [0, 1, 512, 143000]  # of which step 1 is step 0 again
MIB = 1 << 20


@pytest.fixture(scope="module")
def as_folders(histories, scheduler, tmp_path_factory) -> tuple[Path, str]:
    """Results of one of the checkpoints as folders, and what the run told."""
    home = tmp_path_factory.mktemp("folders")
    (home / "checkpoints").mkdir()
    for step in STUDIED:
        (home / "checkpoints" / f"step{step}").symlink_to(histories[0 if step == 1 else step])
    # The suite tells that step 0 is untrained, of folders the study has to.
    told = {"tokens_per_step": 2_097_152, "untrained": True}
    params = study(home, repo=None, folder="checkpoints", steps=STUDIED, **told)
    done = call("run", params, "--outputs", home / "outputs", "--scheduler", scheduler, "--only", "step=512")
    assert done.returncode == 0, done.stdout + done.stderr
    return home / "outputs" / "tiny", done.stdout.replace("\n", " ")


class Published:
    """The same from a hub: killed while it downloads, then run to its end within a budget of two checkpoints."""

    def __init__(self, hub: Hub, histories: dict[int, Path], home: Path, scheduler: str):
        self.home, self.results = home, home / "outputs" / "tiny"
        self.budget = 2 * max(map(size_of, histories.values()))
        self.params = study(home, steps=STUDIED, disk=self.budget)
        hub.add(REPO, "step1", histories[0])
        hub.fault(REPO, "step512", "model.safetensors", "slow", seconds=0.3, chunk=4096, times=1)
        words = [*STEERLIB, "run", self.params, "--outputs", home / "outputs", "--workers", "1"]
        with subprocess.Popen(
            list(map(str, words)), env=environment(hub, home), stdout=subprocess.DEVNULL, start_new_session=True
        ) as driver:
            while hub.sent[REPO, "step512", "model.safetensors"] < 8192:
                assert driver.poll() is None
                time.sleep(0.05)
            os.killpg(driver.pid, signal.SIGKILL)
        self.before = hub.sent.copy()
        with Peak(self.results / "downloads") as peak:
            self.done = run(hub, home, self.params, scheduler)
        assert self.done.returncode == 0, self.done.stdout + self.done.stderr
        self.peak, self.sent = peak.bytes, hub.sent.copy()
        self.again = run(hub, home, self.params, scheduler)


@pytest.fixture(scope="module")
def published(histories, scheduler, tmp_path_factory) -> Published:
    with Hub() as hub:
        for step, folder in histories.items():
            hub.add(REPO, f"step{step}", folder)
        return Published(hub, histories, tmp_path_factory.mktemp("published"), scheduler)


@pytest.mark.long
def test_a_repository_gives_what_folders_give_also_after_a_kill_while_it_downloads(published, as_folders):
    results, of_folders = contents(published.results), contents(as_folders[0])
    assert len(of_folders) == 2 and of_folders.items() <= results.items()
    assert published.sent[REPO, "step0", "model.safetensors"] == published.before[REPO, "step0", "model.safetensors"]
    assert "nothing to do" in published.again.stdout, "done is done, though weights are gone"


@pytest.mark.long
def test_what_is_downloaded_stays_within_a_budget_of_two_checkpoints(published):
    assert 0 < published.peak <= published.budget + 0.1 * MIB, "what the client writes beside the files is small"
    assert len(list(published.results.glob("downloads/step=*/"))) <= 2, "the others were removed"
    assert len(list(published.results.glob("fetched/step=*.json"))) == 3, "and are known to have been there"


@pytest.mark.long
def test_equal_checkpoints_are_told_by_name_fetched_once_and_drawn_once(published, as_folders):
    assert "step 1 (step1) is left out: its weights are those of step 0 (step0)" in published.done.stdout
    assert not published.sent[REPO, "step1", "model.safetensors"]
    assert "step 1 (step1)" in as_folders[1] and "are those of step 0 (step0)" in as_folders[1]
    assert datasets.read(published.results / "emergence" / "study.nc").step.values.tolist() == [0, 512, 143000]
    assert not list(published.results.glob("*/step=00000001.nc"))


@pytest.mark.long
def test_without_a_network_what_lies_here_is_analysed_and_the_rest_is_told(published, scheduler, tmp_path):
    home = shutil.copytree(published.home, tmp_path / "home")
    here = {path.name for path in home.glob("outputs/tiny/downloads/step=*/")}
    assert 0 < len(here) < 3
    # Records name the place that this was copied from.
    for record in home.glob("outputs/tiny/downloads/*.json"):
        record.write_text(record.read_text().replace(str(published.home), str(home)))
    params = home / "tiny.yaml"
    params.write_text(params.read_text().replace("bootstrap: 100", "bootstrap: 120"))
    done = run(None, home, params, scheduler, HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    for step in (0, 512, 143000):
        name = f"step={step:08d}"
        message = f"{REPO} step{step}: HF_HUB_OFFLINE forbids to fetch it"
        assert (message in done.stdout.replace("\n", " ")) == (name not in here)
        swept = datasets.read(home / "outputs" / "tiny" / "interventions" / f"{name}.nc")
        assert ('"bootstrap":120' in swept.attrs["params"]) == (name in here)


@pytest.mark.long
def test_bad_revisions_are_told_by_name_and_the_others_are_analysed(hub, scheduler, tmp_path):
    hub.fault(REPO, "step1", "model.safetensors", "short")
    hub.fault(REPO, "step16", "model.safetensors", "garbled")
    hub.fault(REPO, "step512", "model.safetensors", "forbidden")
    hub.fault(REPO, "step16000", None, "missing")
    done = run(hub, tmp_path, study(tmp_path), scheduler)
    assert done.returncode == 1
    failures = [line for line in done.stdout.splitlines() if line.startswith("failed")]
    for revision, why in {
        "step1": "is damaged",  # cut short where it was uploaded: the hub tells its size as it is
        "step16": "is damaged",
        "step512": "accept the terms",
        "step16000": "no such revision",
    }.items():
        assert sum(f"{REPO} {revision}:" in line and why in line for line in failures) == 1, (revision, done.stdout)
    assert "Traceback" not in done.stdout + done.stderr
    analysed = {path.stem for path in (tmp_path / "outputs" / "tiny" / "probes").glob("*.nc")}
    assert analysed == {"step=00000000", "step=00143000"}
    assert (tmp_path / "outputs" / "tiny" / "results.zarr").is_dir(), "what there is was analysed to the end"


@pytest.mark.long
def test_a_notebook_run_by_hand_fetches_its_checkpoint(hub, tmp_path):
    """As JupyterLab would run it: nothing was run before."""
    code = (
        "from steerlib.model import load\nfrom steerlib.running.notebook import open_job\n"
        f"job = open_job('probes', {str(study(tmp_path, steps=[0, 512], disk='1 MB'))!r}, {str(tmp_path)!r}, 512)\n"
        "assert load(job.checkpoint).n_layers == 2"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(hub, tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_listing_tells_sizes_and_fetches_no_weights(hub, inside, tmp_path):
    params = study(tmp_path, steps={"count": 3, "spacing": "log"}, disk="1 MB")
    shown = call("checkpoints", params, "--outputs", tmp_path / "outputs")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "step143000" in shown.stdout and "300B" in shown.stdout and "3 checkpoints" in shown.stdout
    assert not hub.sent and not (tmp_path / "outputs").exists(), "looking leaves nothing behind"


def test_listing_without_a_network_follows_the_suites_pattern(inside, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    shown = call("checkpoints", study(tmp_path, steps={"percent": [0, 50, 100]}), "--outputs", tmp_path / "outputs")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "step71000" in shown.stdout or "step72000" in shown.stdout
    assert "could not be asked" in shown.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repo": "EleutherAI/pythia-71m"}, "EleutherAI/pythia-71m: there is no such repository"),
        ({"steps": [0, 2]}, "has no step 2; the nearest is"),
        ({"pattern": "ckpt_(?P<step>[0-9]+)"}, "step0"),
    ],
)
def test_what_there_is_not_is_told_before_anything_is_fetched(hub, inside, tmp_path, change, message):
    with pytest.raises(SteerlibError) as refused:
        listing.take(Study.load(study(tmp_path, **change)), inside)
    assert message in str(refused.value) and not hub.sent


def test_a_budget_that_cannot_be_kept_is_told_before_anything_is_fetched(hub, scheduler, tmp_path):
    done = run(hub, tmp_path, study(tmp_path, disk=1000), scheduler)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "checkpoints.disk (1.0 kB) is less than step" in done.stderr, done.stderr
    assert not hub.sent
