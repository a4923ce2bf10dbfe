"""What a result hangs on is named by wing: what computes it counts, and what draws, runs or tells does not."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

import pytest

from steerlib import SteerlibError
from steerlib.results.provenance import package_hash
from steerlib.stages import source
from steerlib.stages.source import PACKAGE, notebook_code, source_hash
from steerlib.stages.table import COMPARISON, STAGES

ROWS = {**STAGES, "comparison": COMPARISON}
RUN = {"probes", "interventions", "generations", "transfer", "instrument"}  # stages that run a model
PUSH = RUN - {"probes"}
COLLECT = {"emergence", "readiness", "comparison"}
TRAIN = {"pretraining", "finetuning"}

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
    "numerics/directions": RUN,
    "numerics/methods/one_of_my_own": RUN,
    "numerics/onsets": COLLECT - {"readiness"},
    "numerics/statistics": RUN | COLLECT | {"similarity"},
    "numerics/erasure": PUSH,
    "numerics/replicates": {"comparison"},
    "steering/by_hand": {"generations"},
    "steering/direction": set(),  # what one is kept as
    "steering/exports": set(),
    "steering/readouts": RUN,
    "steering/side_effects": PUSH,
    "model/prefix": RUN | {"finetuning"},
    "numerics/products": RUN | {"finetuning"},
    "model/loading": RUN | {"finetuning"},
    "numerics/devices": RUN | {"pretraining", "finetuning"},
    "concepts/concept": RUN,
    "concepts/stimuli": RUN,
    "concepts/repeats": RUN,
    "concepts/check": set(),  # texts count as they are read, not what reads or checks them
    "concepts/reading/formats": set(),
    "concepts/planted/world": {"pretraining", "finetuning", "generations"},
    "concepts/planted/stories": {"pretraining", "finetuning"},
    "concepts/planted/vocabulary.yaml": {"pretraining", "finetuning", "generations"},
    "concepts/planted/parser": {"generations"},
    "steering/operators": PUSH,
    "stages/probing": RUN,
    "stages/fitness": RUN,
    "stages/verdicts": COLLECT,
    "stages/interventions": {"interventions", "instrument", "transfer"},
    "stages/judges": {"generations"},
    "stages/classifiers": RUN,
    "stages/written": RUN,
    "stages/bench": {"interventions", "instrument", "transfer"},
    "model/writing": RUN,
    "stages/similarity": {"similarity", "transfer"},
    "stages/transfer": {"transfer"},
    "stages/source": set(),
    "stages/table": set(),
    "stages/pushes": PUSH,
    "stages/pretraining": {"pretraining"},
    "stages/training": {"pretraining", "finetuning"},
    "stages/emergence": COLLECT - {"readiness"},
    "stages/readiness": {"readiness"},
    "stages/effects": {"interventions", "generations", "instrument", "readiness", "transfer"},
    "stages/comparison": {"comparison"},
    "results/tree": COLLECT,
}


def hashes(package: Path) -> dict[str, str]:
    return {name: source_hash(row.notebook, row.also, row.without, package) for name, row in ROWS.items()}


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


NOTEBOOKS = {  # and the modules that they import, or what is said of them
    '{"cells": [{"cell_type": "code", "source": "from steerlib.model import load"}]}': 10,
    '{"cells": [{"cell_type": "code", "source": ["%matplotlib inline\\n", "from steerlib.model import load"]}]}': 10,
    '{"cells": [{"cell_type": "code", "source": "import numpy.linalg, steerlib.model.loading as own"}]}': 10,
    '{"cells": [{"cell_type": "markdown", "source": "%"}, {"cell_type": "code", "source": "%%time\\n!ls"}]}': 0,
    '{"cells": [{"cell_type": "code", "source": "def ("}]}': "its code is no Python (invalid syntax",
    '{"cells": [{"cell_type": "code"}]}': "is no notebook (cells.0.source: Field required)",
    "{}": "is no notebook (cells: Field required)",
    "[]": "is no notebook (Input should be ",
    "": "is no notebook (",
}


@pytest.mark.parametrize("content", NOTEBOOKS)
def test_a_notebook_may_hold_magic_and_what_is_none_is_told_in_a_line(tmp_path, monkeypatch, content):
    monkeypatch.setattr(source, "NOTEBOOKS", tmp_path)
    (tmp_path / "own.ipynb").write_text(content)
    if isinstance(expected := NOTEBOOKS[content], int):
        assert len(source.modules("own")) == expected
    else:
        with pytest.raises(SteerlibError, match=re.escape(f"own.ipynb: {expected}")):
            source.modules("own")


@pytest.mark.parametrize(
    "text",
    [
        "from steerlib.model import load",
        "def f():\n    from steerlib.model.loading import load  # here",
        "import steerlib.model.loading as own",
        "import os, steerlib.model.loading",
        "import os, \\\n    steerlib.model.loading",
        "from steerlib.model \\\n    import load",
        "from steerlib.model import (  # (this)\n    load,\n)",
        "x = 1; from steerlib.model import load",
        "try: import steerlib.model.loading\nexcept ImportError: pass",
        '"""\nfrom here on: import nothing\n"""\nfrom steerlib.model import load',
        "from steerlib.model import load\nif load: from steerlib.model import load",
    ],
)
def test_an_import_counts_wherever_and_however_it_stands(text):
    assert {*source._imported(source._imports(text.encode()), PACKAGE)} == {PACKAGE / "model" / "loading.py"}


def test_what_a_module_imports_is_what_python_finds_in_it():
    for path in PACKAGE.rglob("*.py"):
        found = [source._imported(read(path.read_bytes()), PACKAGE) for read in (source._imports, ast.parse)]
        assert {*found[0]} == {*found[1]}, path


def test_the_hash_of_the_source_sees_subpackages_and_places(tmp_path):
    def hashed(*files: str) -> str:
        shutil.rmtree(tmp_path / "package", ignore_errors=True)
        for file in files:
            path = tmp_path / "package" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"# {path.name}")
        return package_hash(tmp_path / "package")

    found = [hashed("a.py"), hashed("a.py", "methods/b.py"), hashed("a.py", "b.py"), hashed("a.py", "a.yaml")]
    assert len({*found}) == 4 and hashed("a.py", "c.txt") == found[0]


def test_no_name_stands_for_nothing():
    for row in ROWS.values():
        assert all((PACKAGE / f"{module}.py").exists() for module in (*row.also, *row.without))
    assert all((PACKAGE / folder / "__init__.py").exists() for folder in source.DISCOVERED)


@pytest.mark.parametrize("stage", STAGES)
def test_every_param_that_its_code_reads_is_named(stage):
    """As `study.sweep` stands in a module: the part is among those that the stage's result is made from."""
    row, read = STAGES[stage], set()
    own = {*re.findall(r"\w+", "".join(re.findall("from steerlib.stages import (.*)", notebook_code(row.notebook))))}
    for path in (PACKAGE / "stages" / f"{name}.py" for name in (own | {"pushes"} if stage in PUSH else own)):
        read |= {*re.findall(r"(?<!steerlib\.)\bstudy\.([a-z]\w*)", path.read_text())}
    named = {part.split(".")[0] for part in row.params} | {"seed", "path", "checkpoints"}
    named |= {"load_neutral"} if "neutral" in row.texts else set()
    named |= {"layers_of"} if "layers" in row.params else set()
    named |= {"world"} if row.planted or stage == "pretraining" else set()
    others = {"pretraining", "finetuning"} if stage in TRAIN else set()  # they share a module
    told = {"model_copy", "model_dump_json"}  # what is told of the study beside a result, and saved with any
    assert read - others - told <= named
