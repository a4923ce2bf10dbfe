"""The code that a stage's result hangs on: what its notebook imports of steerlib, and all that these modules import."""

import ast
import hashlib
import json
import re
from collections.abc import Iterable
from contextlib import suppress
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel

from steerlib import SteerlibError
from steerlib.files import store

PACKAGE = Path(__file__).resolve().parents[1]
NOTEBOOKS = PACKAGE.parent / "notebooks"
# A result hangs on what these bring as it was brought (params, texts, checkpoints, other results), not on how; nor on
# what draws, runs and keeps account.
BRINGING = ("__init__", "files", "study", "checkpoints", "concepts/reading", "results", "figures", "running")
BRINGING += ("stages/source", "stages/table", "steering/direction")
# Of a new major or minor version of these it is not known that it computes the same; a patch is only told.
LIBRARIES = ("torch", "transformers", "tokenizers")
# An import in lines of its own, as nearly all are.
IMPORT = re.compile(rb"^[ \t]*((?:from[ \t]+[\w.]+[ \t]+)?import[ \t](?:[^(\\\n]*\([^)]*\)|[^(\\\n]*$))", re.MULTILINE)
DISCOVERED = ("numerics/methods",)  # folders whose modules are found there, and imported by nobody


_version = cache(version)  # of what a process has imported, which stays as it is


def versions() -> dict[str, str]:
    return {library: _version(library) for library in LIBRARIES}


def libraries(*more: str) -> dict[str, str]:
    """Of the versions, and of those of ``more`` libraries, what has to be the same."""
    told = versions() | {library: _version(library) for library in more}
    return {library: ".".join(told.split(".")[:2]) for library, told in told.items()}


class Cell(BaseModel):
    cell_type: str
    source: str | list[str]


class Notebook(BaseModel):
    cells: list[Cell]


def notebook_code(name: str) -> str:
    """The code cells of a notebook: its text and outputs may change without changing the result.

    Raises SteerlibError for what is no notebook.
    """
    path = NOTEBOOKS / f"{name}.ipynb"
    try:
        cells = store.parse_json(path.read_bytes(), Notebook).cells
    except store.NO_JSON as error:
        raise SteerlibError(f"{path}: is no notebook ({store.reason(error)}); take it from the project anew") from None
    return "\n".join("".join(cell.source) for cell in cells if cell.cell_type == "code")


def _parsed(name: str) -> ast.Module:
    """The code cells of a notebook, which may hold IPython's magic. Raises SteerlibError for what is no Python."""
    code = notebook_code(name)
    with suppress(SyntaxError, ValueError):  # Python as it stands, which IPython leaves as it is
        return ast.parse(code)
    from IPython.core.inputtransformer2 import TransformerManager

    try:
        return ast.parse(TransformerManager().transform_cell(code))
    except (SyntaxError, ValueError) as error:
        raise SteerlibError(f"{NOTEBOOKS / name}.ipynb: its code is no Python ({store.reason(error)})") from None


def source_hash(notebook: str, also: Iterable[str] = (), without: Iterable[str] = (), package: Path = PACKAGE) -> str:
    """Hash of a notebook's `modules` with the tables beside them, as they are on disk now."""
    found = modules(notebook, also, without, package)
    hashes = {path.relative_to(package).as_posix(): found[path] for path in sorted(found)}
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()


def modules(
    notebook: str, also: Iterable[str] = (), without: Iterable[str] = (), package: Path = PACKAGE
) -> dict[Path, str]:
    """The modules that a notebook's stage is computed by, each with its hash.

    ``also`` are modules (`results/tree`) that count though their wing only brings, ``without`` those that only bring
    here.
    """
    found, seen = dict[Path, str](), set[Path]()
    waiting = [*_imported(_parsed(notebook), package), *(package / f"{name}.py" for name in also)]
    while waiting:
        if (path := waiting.pop()) in seen:
            continue
        seen.add(path)
        name = path.relative_to(package).with_suffix("").as_posix()
        if name in also or not _within(name, (*BRINGING, *without)):
            found[path], imported = _module(path, package, _seen(path))
            waiting += imported
            waiting += [
                other for part in DISCOVERED if _within(name, (part,)) for other in (package / part).rglob("*.py")
            ]
    return found


def _within(name: str, parts: Iterable[str]) -> bool:
    return any(name == part or name.startswith(f"{part}/") for part in parts)


def _seen(path: Path) -> tuple:
    """What tells that neither module nor table has been written since."""
    files = [file for file in (path, path.with_suffix(".yaml")) if file.exists()]
    return tuple((file.stat().st_size, file.stat().st_ino, file.stat().st_mtime_ns) for file in files)


@lru_cache(maxsize=1024)
def _module(path: Path, package: Path, seen: tuple) -> tuple[str, list[Path]]:
    """Hash of a module and the table of its name beside it, and the modules that it imports."""
    files = [path.read_bytes(), *(table.read_bytes() for table in [path.with_suffix(".yaml")] if table.exists())]
    return hashlib.sha256(b"\0".join(files)).hexdigest(), _imported(_imports(files[0]), package)


def _imports(source: bytes) -> ast.Module:
    """The imports of a module; all of it where one may stand in an unusual place. Parsing that takes 20 × as long."""
    found = IMPORT.findall(source)
    with suppress(SyntaxError):
        if len(found) == len(re.findall(rb"\bimport\b", source)) and b"\\\n" not in source:
            return ast.parse(b"\n".join(found))
    return ast.parse(source)


def _imported(code: ast.Module, package: Path) -> list[Path]:
    """Modules of the package that code imports; for a name from a wing's face, the one that it comes from."""
    found = []
    for node in ast.walk(code):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == package.name:
            found += [_origin(node.module, alias.name, package) for alias in node.names]
        elif isinstance(node, ast.Import):
            ours = [alias.name for alias in node.names if alias.name.partition(".")[0] == package.name]
            found += [_origin(*name.rpartition(".")[::2], package) for name in ours]
    return found


def _origin(module: str, name: str, package: Path) -> Path:
    """The module that a name is, or that it is defined in."""
    place = package.joinpath(*module.split(".")[1:])
    for path in (place.with_suffix(".py"), place / f"{name}.py", place / name / "__init__.py"):
        if path.exists():
            return path
    face = place / "__init__.py"
    taken = _taken(face, _seen(face))
    return _origin(*taken[name], package) if name in taken else face


@lru_cache(maxsize=64)
def _taken(face: Path, seen: tuple) -> dict[str, tuple[str, str]]:
    """Names that a wing's face takes from elsewhere: the module, and what it is called there."""
    nodes = (node for node in ast.parse(face.read_bytes()).body if isinstance(node, ast.ImportFrom))
    return {alias.asname or alias.name: (node.module, alias.name) for node in nodes for alias in node.names}
