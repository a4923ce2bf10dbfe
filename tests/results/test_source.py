"""What a result hangs on is named by wing: what computes it counts, and what draws, runs or tells does not."""

from __future__ import annotations

import ast
import json
import re
import shutil
from pathlib import Path

import pytest

from steerlib.results.provenance import PROJECT, source_hash
from steerlib.stages.table import COMPARISON, STAGES

PACKAGE = PROJECT / "steerlib"
SOURCES = {name: stage.source for name, stage in STAGES.items()} | {"comparison": COMPARISON}
RUN = {"probes", "interventions", "generations", "instrument"}  # stages that run a model
COLLECT = {"emergence", "comparison"}

TOUCHED = {
    "__main__": set(),
    "running/pipeline": set(),
    "running/notebook": set(),
    "figures/training": set(),
    "results/schema": set(),
    "results/freshness": set(),
    "files/store": set(),
    "study/study": set(),
    "checkpoints/history": set(),
    "numerics/directions": RUN | COLLECT | {"similarity"},
    "numerics/methods/one_of_my_own": RUN | COLLECT | {"similarity"},
    "model/prefix": RUN,
    "model/devices": RUN | {"pretraining", "finetuning"},
    "concepts/concept": RUN,
    "concepts/repeats": RUN,
    "concepts/check": set(),  # texts count as they are read, not what reads or checks them
    "concepts/reading/formats": set(),
    "concepts/planted/world": {"pretraining", "finetuning"},
    "concepts/planted/vocabulary.yaml": {"pretraining", "finetuning", "generations"},
    "concepts/planted/parser": {"generations"},
    "steering/operators": RUN,
    "stages/probing": RUN,
    "stages/interventions": {"interventions", "instrument"},
    "stages/judges": {"generations"},
    "stages/similarity": {"similarity"},
    "stages/pretraining": {"pretraining", "finetuning"},
    "stages/emergence": COLLECT,
    "stages/comparison": {"comparison"},
    "results/tree": COLLECT,
}


def hashes(package: Path) -> dict[str, str]:
    return {stage: source_hash.__wrapped__(parts, package) for stage, parts in SOURCES.items()}


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("package") / "steerlib"
    return shutil.copytree(PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__"))


@pytest.mark.parametrize("module", TOUCHED)
def test_a_change_makes_stale_what_it_computes_and_nothing_else(package, module):
    before, path = hashes(package), package / (module if module.endswith(".yaml") else f"{module}.py")
    is_new = module == "numerics/methods/one_of_my_own"
    assert path.exists() != is_new
    with path.open("a") as stream:
        stream.write("# one line more\n")
    after = hashes(package)
    path.unlink() if is_new else shutil.copy(PACKAGE / path.relative_to(package), path)
    assert {stage for stage in before if before[stage] != after[stage]} == TOUCHED[module]


def test_the_hash_of_the_source_sees_subpackages_and_places(tmp_path):
    def hashed(*files: str) -> str:
        shutil.rmtree(tmp_path / "package", ignore_errors=True)
        for file in files:
            path = tmp_path / "package" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"# {path.name}")
        return source_hash.__wrapped__(package=tmp_path / "package")

    found = [hashed("a.py"), hashed("a.py", "methods/b.py"), hashed("a.py", "b.py"), hashed("a.py", "a.yaml")]
    assert len({*found}) == 4 and hashed("a.py", "c.txt") == found[0]


# --- nothing is forgotten -----------------------------------------------------------------------------------------

MODULES = {path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py")}
# What these bring counts as it was brought: params, texts and weights are in a result's key themselves.
BRINGING = ("__init__", "files", "study", "checkpoints", "concepts/__init__", "stages/__init__")
# For training only the code that trains counts: not the class of a concept and its repeats, nor how weights load.
_TEXTS = ("concepts/concept", "concepts/repeats")
APART = {"pretraining": _TEXTS, "finetuning": (*_TEXTS, "model")}


def within(module: str, parts: tuple[str, ...]) -> bool:
    return any(module == part or module.startswith(f"{part}/") for part in parts)


def imported(path: Path) -> set[str]:
    """The package's modules that one imports, as `stages/probing`; `model/__init__` for a name from a wing's face."""

    def module(*names: str) -> str:
        """The last of the names that is a module."""
        places = [name.removeprefix("steerlib").lstrip(".").replace(".", "/") for name in names]
        return next(m for place in places[::-1] for m in (place, f"{place}/__init__".lstrip("/")) if m in MODULES)

    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("steerlib"):
            found |= {module(node.module, f"{node.module}.{alias.name}") for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {module(alias.name) for alias in node.names if alias.name.startswith("steerlib")}
    return found


@pytest.mark.parametrize("stage", SOURCES)
def test_whatever_a_stage_s_code_imports_is_named(stage):
    parts = SOURCES[stage]
    assert all(part in MODULES or f"{part}/__init__" in MODULES for part in parts), "each names something"
    allowed = (*parts, *BRINGING, *APART.get(stage, ()))
    # What is collected is read by the analyses; how a study's results are found and named is not theirs.
    for module in (module for module in MODULES if within(module, parts) and not module.startswith("results/")):
        for other in imported(PACKAGE / f"{module}.py"):
            assert within(other, allowed), f"{module} imports {other}, on which {stage} does not hang"


def test_a_notebook_s_stage_is_among_what_its_result_hangs_on():
    notebooks = {stage: row.notebook for stage, row in STAGES.items()} | {"comparison": "5_comparison"}
    for stage, name in notebooks.items():
        cells = json.loads((PROJECT / "notebooks" / f"{name}.ipynb").read_text())["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        modules = ", ".join(re.findall("from steerlib.stages import (.*)", code)).split(", ")
        assert all(f"stages/{module}" in SOURCES[stage] for module in modules), name
