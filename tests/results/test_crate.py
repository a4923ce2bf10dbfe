"""`ro-crate-metadata.json` as RO-Crate 1.1 asks for it, and as an archive reads it; the same where results are."""

import json
from urllib.parse import unquote

import pytest
import yaml

from helpers.studies import PROJECT
from steerlib.files import store
from steerlib.results import crate
from steerlib.results.freshness import Freshness, Stamp
from steerlib.results.workspace import Job, Workspace
from steerlib.study import Study

FINISHED = "2026-01-02T03:04:05+00:00"


@pytest.fixture
def workspace(params, tmp_path) -> Workspace:
    """A folder with what a run leaves in it, and the stamps of two jobs; a name that is no URI is among them."""
    workspace = Workspace(Study.load(params), tmp_path)
    for name in (
        "run.json",
        "audit.jsonl",
        "figures/dose response 100%.png",
        "figures/order.svg",
        "params/1.kept.json",
    ):
        store.write_bytes(workspace.folder / name, b"")
    made = {"key": {}, "made": {"a": ["b", "c"]}, "checkpoints": {}, "data_sha256": "", "versions": {}}
    for step, finished in ((0, FINISHED), (10, "2025" + FINISHED[4:])):
        stamp = Stamp(**made, peak_rss_bytes=1, cpu_seconds=1, finished=finished, wall_seconds=1)
        store.write_json(workspace.stamp(Job("probes", step)), stamp.model_dump())
    return workspace


def checked(folder) -> dict[str, dict]:
    """Its entities by name. Fails where the profile is not kept."""
    told = json.loads((folder / crate.NAME).read_text())
    assert told["@context"] == "https://w3id.org/ro/crate/1.1/context"
    entities = {entity["@id"]: entity for entity in told["@graph"]}
    assert len(entities) == len(told["@graph"]), "each stands there once"
    descriptor, root = entities["ro-crate-metadata.json"], entities["./"]
    assert descriptor["@type"] == "CreativeWork" and descriptor["about"] == {"@id": "./"}
    assert descriptor["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.1"}
    assert root["@type"] == "Dataset" and all(root[key] for key in ("name", "description", "datePublished", "license"))
    data = {name for name, of in entities.items() if of["@type"] in ("File", "Dataset")} - {"./"}
    assert data == {part["@id"] for part in root["hasPart"]}
    for name in data:
        path = folder / unquote(name)
        assert path.is_dir() if name.endswith("/") else path.is_file(), name
        assert not {*" %\\"} & {*name.replace("%20", "").replace("%25", "")}, "a name is a URI"
    links = json.dumps(list(entities.values()), indent=0)
    for line in links.splitlines():
        name = line.partition('"@id": ')[2].strip('",')
        assert not name or name in entities or name.startswith("https://"), f"{name} is spoken of, but not there"
    return entities


def test_it_keeps_the_profile_and_tells_what_made_the_results(workspace):
    crate.write(workspace, Freshness(workspace))
    entities = checked(workspace.folder)
    (run,) = [entity for entity in entities.values() if entity["@type"] == "CreateAction"]
    assert entities["./"]["mentions"] == [{"@id": run["@id"]}] and entities["./"]["datePublished"] == FINISHED
    software = entities[run["instrument"]["@id"]]
    cited = yaml.safe_load((PROJECT / "CITATION.cff").read_text())
    assert software["@type"] == "SoftwareApplication" and software["softwareVersion"].startswith(cited["version"])
    authors = [entities[author["@id"]]["name"] for author in software["author"]]
    assert authors == [author["name"] for author in cited["authors"]]
    results, inputs = ({one["@id"] for one in run[key]} for key in ("result", "object"))
    assert {"probes/", "figures/order.svg", "figures/dose%20response%20100%25.png"} <= results
    assert inputs == {"params/", "#checkpoints"} and not inputs & results
    assert "sadness" in entities["./"]["description"] and "0 to 20" in entities["#checkpoints"]["name"]


def test_the_same_results_write_the_same_and_other_figures_are_told(workspace):
    path = workspace.folder / crate.NAME
    crate.write(workspace, Freshness(workspace))
    before = path.read_bytes()
    crate.write(workspace, Freshness(workspace))
    assert path.read_bytes() == before
    (workspace.folder / "figures" / "order.svg").rename(workspace.folder / "figures" / "rank.svg")
    crate.write(workspace, Freshness(workspace))
    assert "figures/rank.svg" in checked(workspace.folder)


def test_a_folder_in_which_nothing_is_done_is_none(params, tmp_path):
    workspace = Workspace(Study.load(params), tmp_path)
    crate.write(workspace, Freshness(workspace))
    assert not (workspace.folder / crate.NAME).exists()
