"""The house: imports run down its wings, in no circle; a wing says what it is; a file is read in one sitting.

The order of the wings, and what each may import, is the table of docs/architecture.md.
"""

import ast
import importlib
import os
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "steerlib").rglob("*.py"))
ROW = re.compile(r"^\| `(\w+)/?` \|.*\| ([^|]+) \|$", re.MULTILINE)  # wing, …, what it may import
TABLE = dict(ROW.findall((ROOT / "docs" / "architecture.md").read_text().split("## The wings")[1].split("\n## ")[0]))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def wing_of(module: str) -> str:
    """files of steerlib.files.store; nothing of the package itself, which holds no more than its kind of error."""
    return [*module.split("."), ""][1]


def imports(module: str) -> dict[str, int]:
    """Modules of the package that a module imports, wherever in it, with the line."""
    lines: dict[str, int] = {}
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "steerlib":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            lines |= {name if name in MODULES else node.module: node.lineno for name in names}
        elif isinstance(node, ast.Import):
            lines |= {alias.name: node.lineno for alias in node.names if alias.name in MODULES}
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{module}:{node.lineno}: a relative import"
    return lines


def allowed(wing: str) -> set[str]:
    """What a wing may import: those named, or with `all before` every wing that stands before it."""
    before = list(TABLE)[: list(TABLE).index(wing)]
    return set(before if TABLE[wing] == "all before" else re.findall(r"\w+", TABLE[wing]))


def test_the_table_names_the_wings_there_are_and_only_what_stands_above_each():
    folders = {path.name for path in (ROOT / "steerlib").iterdir() if (path / "__init__.py").exists()}
    assert {*folders, "__main__"} == TABLE.keys()
    for k, wing in enumerate(TABLE):
        assert allowed(wing) <= set(list(TABLE)[:k]), wing


def test_imports_run_down():
    wrong = [
        f"{module}:{line} imports {other}"
        for module in MODULES
        for other, line in imports(module).items()
        if wing_of(other) not in ("", wing_of(module)) and wing_of(other) not in allowed(wing_of(module))
    ]
    assert not wrong, wrong


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: imports(module).keys() - {module} for module in MODULES}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("wing", [wing for wing in TABLE if wing != "__main__"])
def test_a_wing_says_what_it_is_and_offers_its_face(wing):
    folder, face = ROOT / "steerlib" / wing, importlib.import_module(f"steerlib.{wing}")
    assert len([path for path in folder.rglob("*.py") if path.name != "__init__.py"]) > 1, "a wing of one file is none"
    assert 2 <= len(face.__doc__.strip().splitlines()) <= 6
    for name in face.__all__:  # a name, or a module that is imported when it is asked for
        assert hasattr(face, name) or importlib.import_module(f"steerlib.{wing}.{name}")


def test_a_file_is_read_in_one_sitting():
    assert not [path for path in FILES if len(path.read_text().splitlines()) > 300]


def test_what_is_no_python_is_installed_with_it():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["steerlib"]
    named = {path for pattern in patterns for path in (ROOT / "steerlib").glob(pattern)}
    others = [path for path in (ROOT / "steerlib").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    assert set(others) == named


@pytest.mark.parametrize(("told", "taken"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_that_wait_sleep_unless_somebody_says_otherwise(told, taken):
    """Which is said before PyTorch is there, as that reads it once."""
    told = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | told
    code = "import sys, os, steerlib; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=told, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == [taken, "False"], done.stderr
