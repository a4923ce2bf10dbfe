"""What a folder of results tells an archive: `ro-crate-metadata.json`, by RO-Crate 1.1 (https://w3id.org/ro/crate/1.1).

Who ran it is not told, as it is to be handed on; the audit has it.
"""

import mimetypes
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from steerlib.files import store
from steerlib.results.freshness import Freshness
from steerlib.results.provenance import PROJECT, git_commit
from steerlib.results.workspace import Workspace
from steerlib.stages.table import STAGES

NAME, PROFILE = "ro-crate-metadata.json", "https://w3id.org/ro/crate/1.1"
LICENSE = (
    "Nothing is said yet: whoever publishes these results decides, and names their authors. Texts and checkpoints \
keep their own licences."
)
TOLD = {  # of what has no stage
    "audit.jsonl": "What was done with this study, a line each, chained by hash",
    "figures": "What was found, as pictures",
    "findings.json": "What was found, in words",
    "notebooks": "Every notebook as it was executed",
    "params": "Params as they were when a run began",
    "results.zarr": "All results, collected by step, layer and concept (Zarr)",
    "run.json": "Params, versions, hashes of checkpoints, and what each run cost",
}
KINDS = {".ipynb": "application/x-ipynb+json", ".jsonl": "application/jsonl"}  # that mimetypes does not know


def write(workspace: Workspace, now: Freshness) -> None:
    """Of a study of which anything is done. The same results write the same. Raises SteerlibError when it cannot."""
    finished = [stamp.finished for job in workspace.jobs() if (stamp := now.stamp(job))]
    if finished:
        store.write_json(workspace.folder / NAME, of(workspace, max(finished)))


def of(workspace: Workspace, finished: str) -> dict[str, Any]:
    """The metadata of a folder as it is now, which was ``finished`` then."""
    study, folder = workspace.study, workspace.folder
    parts = [path for path in _shown(folder) if path.name != NAME]
    parts += _shown(folder / "figures") if (folder / "figures").is_dir() else []
    entities = [_entity(path, folder) for path in parts]
    made = [{"@id": entity["@id"]} for entity in entities if entity["@id"] != "params/"]
    concepts = ", ".join(concept.name for concept in workspace.concepts)
    software, authors = _software()
    origin = study.checkpoints.origin or "the model that this study has trained"
    steps = list(workspace.checkpoints)
    history = {
        "@id": "#checkpoints",
        "@type": "CreativeWork",
        "name": f"Checkpoints of {origin}, steps {steps[0]} to {steps[-1]}",
    }
    run = {
        "@id": "#run",
        "@type": "CreateAction",
        "name": f"steerlib run {study.path.name}",
        "endTime": finished,
        "instrument": {"@id": software["@id"]},
        "object": [{"@id": "params/"}, {"@id": history["@id"]}],
        "result": made,
    }
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": study.name,
        "description": f"When {concepts} became steerable over the training of a language model, as steerlib found",
        "datePublished": finished,
        "license": {"@id": "#license"},
        "hasPart": [{"@id": entity["@id"]} for entity in entities],
        "mentions": [{"@id": run["@id"]}],
    }
    descriptor = {
        "@id": NAME,
        "@type": "CreativeWork",
        "conformsTo": {"@id": PROFILE},
        "about": {"@id": root["@id"]},
    }
    license = {"@id": "#license", "@type": "CreativeWork", "name": "Not yet chosen", "description": LICENSE}
    graph = [descriptor, root, *entities, run, history, software, *authors, license]
    return {"@context": f"{PROFILE}/context", "@graph": graph}


def _shown(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _entity(path: Path, folder: Path) -> dict[str, Any]:
    """A file, or a folder as a whole."""
    place = quote(path.relative_to(folder).as_posix())
    if path.name in STAGES:
        told = {"description": f"What notebook {STAGES[path.name].notebook} has computed (netCDF)"}
    else:
        told = {"description": TOLD[place]} if place in TOLD else {}
    if path.is_dir():
        return {"@id": f"{place}/", "@type": "Dataset", "name": path.name, **told}
    kind = KINDS.get(path.suffix) or mimetypes.guess_type(path.name)[0]
    return {"@id": place, "@type": "File", "name": path.name, **({"encodingFormat": kind} if kind else {}), **told}


def _software() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """steerlib with its authors, as its citation has them."""
    cited = yaml.safe_load((PROJECT / "CITATION.cff").read_text("utf-8"))
    authors = [
        {"@id": f"#author-{number}", "@type": "Organization", "name": author["name"]}
        for number, author in enumerate(cited["authors"], 1)
    ]
    software = {
        "@id": "#steerlib",
        "@type": "SoftwareApplication",
        "name": cited["title"],
        "description": cited["abstract"],
        "softwareVersion": f"{cited['version']}, commit {git_commit()}",
        "license": {"@id": f"https://spdx.org/licenses/{cited['license']}"},
        "author": [{"@id": author["@id"]} for author in authors],
    }
    return software, authors
