"""Reference pages made from the code: keys of params files, the files of params/, the faces of the wings."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from pydantic import BaseModel

from steerlib.concepts.reading import ConceptFile
from steerlib.numerics.methods import METHODS
from steerlib.steering.operators import OPERATORS
from steerlib.study import Study
from steerlib.study.comparison import Comparison

WINGS = re.compile(r"^\| `(\w+)/` \| (.*) \| [^|]+ \|$", re.MULTILINE)  # of docs/architecture.md
BOUNDS = {"ge": "{:,} or more", "gt": "more than {:,}", "lt": "less than {:,}", "most": "at most {:,}"}
KINDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false", "null": "nothing"}


class Undescribed(Exception):
    """A key of a params file that nothing is said of."""


# --- keys of params files ---------------------------------------------------------------------------------------------


def comments(model: type[BaseModel]) -> dict[str, str]:
    """What the source of a model says of each field: the comment above it, or the one behind it."""
    source = inspect.getsource(inspect.getmodule(model))
    (body,) = [node.body for node in ast.walk(ast.parse(source)) if getattr(node, "name", "") == model.__name__]
    tokens = tokenize.generate_tokens(iter(source.splitlines(keepends=True)).__next__)
    said = {token.start: token.string[1:].strip() for token in tokens if token.type == tokenize.COMMENT}
    alone = {line: text for (line, column), text in said.items() if column == body[0].col_offset}
    behind = {line: text for (line, column), text in said.items() if line not in alone}
    found = {}
    for node in body:
        if isinstance(node, ast.AnnAssign):
            above = list(takewhile_up(alone, node.lineno - 1))
            inside = [behind[line] for line in range(node.lineno, node.end_lineno + 1) if line in behind]
            found[node.target.id] = " ".join([*above[::-1], *inside])
    return found


def takewhile_up(lines: dict[int, str], line: int) -> Iterator[str]:
    while line in lines:
        yield lines[line]
        line -= 1


def models(kind: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """A model and those within it, each once, with the key that holds it."""
    yield path, kind
    for name, field in kind.model_fields.items():
        for inner in held(field.annotation):
            yield from models(inner, f"{path}{name}.")


def held(annotation: object) -> list[type[BaseModel]]:
    """Models within a type."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    inner = getattr(annotation, "__args__", ())
    return [model for part in inner for model in held(part)]


def kind_of(schema: dict) -> str:
    """A type of a JSON schema in words."""
    if parts := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(kind_of(part) for part in parts if part.get("type") != "null"))
    if "$ref" in schema:
        return "mapping with keys of its own"
    if "const" in schema or "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    bounds = ", ".join(words.format(schema[key]) for key, words in BOUNDS.items() if key in schema)
    if schema.get("type") == "array":
        return f"list of {kind_of(schema.get('items', {}))}"
    if schema.get("type") == "object":
        return f"mapping of names to {kind_of(schema.get('additionalProperties', {}))}"
    return KINDS.get(schema.get("type"), "anything") + (f", {bounds}" if bounds else "")


def keys(model: type[BaseModel], path: str = "", after: str = "") -> str:
    """Every key of a model: type, default, and what it is about. Raises Undescribed."""
    said, schema, entries = comments(model), model.model_json_schema(), []
    for name, field in model.model_fields.items():
        inner = held(field.annotation)
        about = said[name] or " ".join(inspect.getdoc(of).split("\n\n")[0] for of in inner[:1] if of.__doc__)
        if not about and model not in METHODS.values():  # whose docstring tells of its options
            raise Undescribed(f"{model.__module__}: {model.__name__}.{name}: nothing is said of this key of params")
        default = field.get_default(call_default_factory=True)
        shown = "required" if field.is_required() else "nothing" if default is None else f"`{plain(default)}`"
        if inner and isinstance(default, BaseModel):
            shown = "its keys' own"
        of = schema["properties"][name]
        entries.append(f"```{{confval}} {path}{name}{after}\n:type: {kind_of(of)}\n:default: {shown}\n\n{about}\n```\n")
    return "\n".join(entries)


def plain(value: object) -> str:
    return re.sub(r"'([\w.-]+)'", r"\1", str(value)).replace("True", "true").replace("False", "false")


def section(model: type[BaseModel], path: str, level: int = 2) -> str:
    about = inspect.getdoc(model) if model.__doc__ else ""
    return f"{'#' * level} {path.rstrip('.') or model.__name__}\n\n{about}\n\n{keys(model, path)}\n"


def study() -> str:
    """The page of all keys of a params file."""
    seen: dict[type[BaseModel], str] = {}
    for path, model in models(Study):
        seen.setdefault(model, path)
    seen.pop(ConceptFile, None)
    return "\n".join(
        [
            "# Keys of a params file\n",
            "Every key that a study may say, with its type and its default, as the code has them "
            "(`steerlib/study/`). What is not said has its default; an unknown key is an error that names the nearest "
            "one. An entry of `concepts` has [keys of its own](concepts.md).\n",
            *(section(model, path) for model, path in seen.items()),
            "## Methods\n\nFor `probes.methods`: a name, or a name with its options, as in `{k_sparse: {k: 8}}`.\n",
            *(of_method(name) for name in METHODS if METHODS[name].serious),
            "## Operators\n\nFor `sweep.operator`.\n",
            *(f"`{name}`\n: {first(operator)} ${operator.formula}$\n" for name, operator in OPERATORS.items()),
            "## A comparison\n",
            inspect.getdoc(Comparison) + "\n",
            keys(Comparison, "", " (comparison)"),
        ]
    )


def first(thing: object) -> str:
    return " ".join(inspect.getdoc(thing).split("\n\n")[0].split())


def of_method(name: str) -> str:
    method = METHODS[name]
    options = keys(method, f"{name}.") if method.model_fields else ""
    return f"### {name}\n\n{inspect.getdoc(method)}\n\n$${method.formula}$$\n\nSource: {method.source}\n\n{options}\n"


# --- files of params/ -------------------------------------------------------------------------------------------------

LANGUAGES = {".yaml": "yaml", ".csv": "text", ".jsonl": "json", ".txt": "text"}


def concepts(root: Path) -> str:
    """The page of an entry of `concepts`, and of the files that there are."""
    files = sorted(path for path in (root / "params" / "concepts").iterdir() if path.suffix in LANGUAGES)
    return "\n".join(
        [
            "# Keys of a concept\n",
            "What an entry of `concepts` may say of a file of texts; only the file is needed. How to write one: "
            "[your concept](../docs/concepts.md).\n",
            keys(ConceptFile, "concepts."),
            "## Concept files that there are\n\nIn `params/concepts/`, written for this project.\n",
            *(shown(path, root) for path in files),
        ]
    )


def studies(root: Path) -> str:
    files = sorted((root / "params").glob("*.yaml"))
    return "\n".join(
        [
            "# Params files that there are\n",
            "In `params/`; what came of them: [studies](../docs/studies.md). What each key means: "
            "[keys of a params file](study.md).\n",
            *(shown(path, root, "##") for path in files),
        ]
    )


def shown(path: Path, root: Path, level: str = "###", lines: int = 40) -> str:
    """A file's beginning, all of it if it is short."""
    text = path.read_text().splitlines()
    cut = text[:lines] if path.suffix == ".yaml" else text[:6]
    rest = f"\n… {len(text):,} lines in all.\n" if len(text) > len(cut) else ""
    fence = f"````{LANGUAGES[path.suffix]}\n" + "\n".join(cut) + "\n````\n"
    return f"{level} {path.relative_to(root / 'params').as_posix()}\n\n{fence}{rest}"


# --- the faces of the wings -------------------------------------------------------------------------------------------


def faces(root: Path) -> dict[str, str]:
    """A page a wing, and one that leads to them."""
    wings = dict(WINGS.findall((root / "docs" / "architecture.md").read_text()))
    pages = {f"api/{wing}.md": face(importlib.import_module(f"steerlib.{wing}")) for wing in wings}
    table = "\n".join(f"| [{wing}]({wing}.md) | {about} |" for wing, about in wings.items())
    tree = "\n".join(wings)
    index = (
        "# API: the faces of the wings\n\nWhat each wing offers to others, as its docstrings say. How wings hang "
        "together: [the house](../docs/architecture.md).\n\n"
        f"| wing | is about |\n|---|---|\n{table}\n\n```{{toctree}}\n:hidden:\n:titlesonly:\n\n{tree}\n```\n\n"
        "## The package itself\n\n`steerlib.open` is {py:func}`steerlib.results.opening.open_study`, "
        "`steerlib.explore` {py:func}`steerlib.running.explore.explore`, "
        "`steerlib.Monitor` {py:class}`steerlib.running.monitor.Monitor`.\n\n"
        + directive("autoclass", "steerlib.SteerlibError")
    )
    return {"api/index.md": index} | pages


def face(wing: ModuleType) -> str:
    name = wing.__name__
    parts = [f"# {name}\n", directive("automodule", name, ":no-members:")]
    for public in wing.__all__:
        thing = getattr(wing, public, None) or importlib.import_module(f"{name}.{public}")
        parts.append(f"## {public}\n")
        if inspect.ismodule(thing):
            parts.append(directive("automodule", f"{name}.{public}"))
        elif inspect.isclass(thing):
            parts.append(directive("autoclass", f"{name}.{public}"))
        elif callable(thing):
            parts.append(directive("autofunction", f"{name}.{public}"))
        else:
            parts.append(f"`{name}.{public}` = `{thing!r}`\n")
    return "\n".join(parts)


def directive(kind: str, name: str, *options: str) -> str:
    return "```{eval-rst}\n" + "\n   ".join([f".. {kind}:: {name}", *options]) + "\n```\n"
