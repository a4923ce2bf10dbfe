"""YAML to validated models, with errors that name file, field, value and what is allowed."""

import codecs
import gzip
import lzma
import math
import re
import reprlib
import zlib
from collections.abc import Callable
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import core_schema

from steerlib import SteerlibError, nearest, printable
from steerlib.files import hub
from steerlib.files.layout import absent


class Strict(BaseModel):
    """Params are frozen, numbers are finite, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


M = TypeVar("M", bound=BaseModel)


def not_bool(value: Any) -> Any:
    if isinstance(value, bool):  # which Python counts as 1 or 0
        raise ValueError(f"{value} is not allowed: input should be a number")
    return value


def within(kind: type, most: float, why: str, **least: float) -> Any:
    """A number from ``least`` (as in ``ge=1``) to ``most``; ``why`` there is a most is what the message says."""

    def bounded(number):
        if number > most:
            raise ValueError(f"{number} is not allowed: at most {most:,}, {why}")
        return number

    return Annotated[
        kind, BeforeValidator(not_bool), Field(**least, json_schema_extra={"most": most}), AfterValidator(bounded)
    ]


def whole(most: int, why: str, least: int = 1) -> Any:
    """A whole number from ``least`` to ``most`` (`within`)."""
    return within(int, most, why, ge=least)


class Located(str):
    """The name of a file or folder as its params file has it; ``path`` is where that is.

    Relative names are relative to the folder of the params file, which validation tells by its context.
    """

    folder = Path()

    def __new__(cls, text: str, folder: Path = folder):
        located = super().__new__(cls, text)
        located.folder = folder
        return located

    @cached_property
    def path(self) -> Path:
        """The path; what an hf:// address names is fetched first, and package: is installed. Raises SteerlibError."""
        if self.startswith("hf://"):
            return hub.data_file(self)
        if self.startswith("package:"):
            return self._installed()
        try:
            path = self.folder / Path(self).expanduser()
            return path if self.folder == Path() else path.resolve()  # on the command line: as it was typed
        except (OSError, RuntimeError) as error:  # of a user that there is not, links in a circle
            raise SteerlibError(f"{self}: leads nowhere: {error}") from None

    def _installed(self) -> Path:
        """Of a file that a Python package brings, as ``package:NAME/FILE``; nothing of it is run."""
        name, _, file = self.removeprefix("package:").partition("/")
        found = find_spec(name) if name.isidentifier() else None
        if not (found and found.submodule_search_locations and file):
            told = f"there is no Python package {name!r} here" if file else "expected package:NAME/FILE"
            raise SteerlibError(f"{self}: {told}; install what brings it (`make reproduce STUDY=…` does so)")
        return Path(found.submodule_search_locations[0]) / file

    @classmethod
    def __get_pydantic_core_schema__(cls, source, handler):
        def locate(text, validate, info):
            if isinstance(text, str) and (not text.isprintable() or max(map(len, text.encode().split(b"/"))) > 255):
                raise ValueError(f"{SHORT.repr(text)} names no file")
            return text if isinstance(text, cls) else cls(validate(text), (info.context or {}).get("folder", Path()))

        return core_schema.with_info_wrap_validator_function(locate, core_schema.str_schema())


DEEPEST = 50  # levels of YAML in one another


class Loader(yaml.SafeLoader):
    """YAML with the plain words of its version 1.2, which are what people mean: ``yes`` and ``2024-02-30`` are text.

    Numbers of leading zeros, or of more digits than anything here has, are text as well. What a mapping says twice is
    refused, and what aliases or depth would make of a file that can be read.
    """

    yaml_implicit_resolvers = {}
    yaml_constructors = {
        f"tag:yaml.org,2002:{kind}": getattr(yaml.SafeLoader, f"construct_yaml_{kind}")
        for kind in ("null", "bool", "int", "float", "str", "seq", "map")
    } | {None: yaml.SafeLoader.construct_undefined}

    def __init__(self, text: str):
        super().__init__(text)
        self._room = len(text) + 1_000_000  # characters, once every alias is what it stands for

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        self._measure(node, {}) if node else None
        return node

    def _measure(self, node: yaml.Node, known: dict[yaml.Node, tuple[float, float]]) -> tuple[float, float]:
        """Characters and depth. Raises YAMLError for too much of them, and for keys that stand there twice."""
        if node not in known:
            known[node] = math.inf, math.inf  # found again within itself
            held = [] if isinstance(node, yaml.ScalarNode) else node.value
            if is_mapping := isinstance(node, yaml.MappingNode):
                held = [end for pair in held for end in pair]
            sizes, depths = zip((len(node.value) + 1, 0), *(self._measure(part, known) for part in held), strict=True)
            known[node] = sum(sizes), max(depths) + 1
            if known[node][0] > self._room or known[node][1] > DEEPEST:
                raise _wrong(node, "its aliases or its nesting make too much of it; write out what is meant")
            if is_mapping:
                self._refuse_twice(node)
                self.flatten_mapping(node)  # so that what is merged says itself what it has merged
        return known[node]

    def _refuse_twice(self, node: yaml.MappingNode) -> None:
        said: dict[Any, yaml.Node] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            name = key.value if key.tag.endswith(":merge") else self.construct_object(key)
            if (first := said.setdefault(name, key)) is not key:
                raise _wrong(key, f"key {key.value!r} stands in line {first.start_mark.line + 1} already; keep one")
        merged: dict[str, yaml.Node] = {}
        for key, sources in node.value if "<<" in said else ():
            for source in sources.value if key.value == "<<" and isinstance(sources, yaml.SequenceNode) else ():
                pairs = source.value if isinstance(source, yaml.MappingNode) else ()
                for name, value in {name.value: value for name, value in pairs}.items():
                    if name not in said and merged.setdefault(name, value).value != value.value:
                        raise _wrong(key, f"{name!r} is in several of what is merged; write it here as well")


for _kind, _plain, _first in (
    ("merge", "<<", "<"),
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", "[-+]?(?:0|[1-9](?:_?[0-9]){0,17})", "-+0123456789"),
    ("float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+."),
):
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_plain})$"), list(_first))


def _wrong(node: yaml.Node, what: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=what, problem_mark=node.start_mark, note="")


UNPACK = {".xz": lzma.decompress, ".gz": gzip.decompress}


def read_text(path: Path) -> str:
    """Text in UTF-8, or marked UTF-16, as .xz or .gz too. Raises SteerlibError if missing, cut short or other."""
    try:
        raw = UNPACK.get(path.suffix, bytes)(path.read_bytes())
        text = raw.decode("utf-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")
    except (lzma.LZMAError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SteerlibError(f"{path}: cannot be unpacked ({error}); copy or compress it again") from None
    except (FileNotFoundError, IsADirectoryError):
        raise SteerlibError(absent(path, file=True)) from None
    except OSError as error:
        raise SteerlibError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        *lines, begun = error.object[: error.start].split(b"\n")
        place = f"line {len(lines) + 1}: not UTF-8 text (byte {len(begun)} of the line)"
        raise SteerlibError(f"{path}: {place}; save it as UTF-8 (in Excel, as CSV UTF-8)") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise SteerlibError(f"{path}: line {line}: holds a zero byte, which no text has; save it as UTF-8 text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read(path: Path) -> dict:
    """The file's keys and values, not yet validated. Raises SteerlibError when it is not YAML of that kind."""
    try:
        data = yaml.load(read_text(path), Loader)
    except yaml.MarkedYAMLError as error:
        remedy = "; indent with spaces, and put texts into quotes" if error.note is None else ""
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        what = ", ".join(filter(None, [error.context, error.problem]))
        raise SteerlibError(f"{path}: {line}not valid YAML: {what}{remedy}") from None
    except (yaml.YAMLError, ValueError, LookupError) as error:  # what cannot be printed, or is not what its tag says
        raise SteerlibError(f"{path}: not valid YAML: {printable(str(error))}") from None
    except RecursionError:
        raise SteerlibError(f"{path}: not valid YAML: nested too deeply; write out what is meant") from None
    if not isinstance(data, dict):
        raise SteerlibError(f"{path}: expected 'key: value' lines, found {type(data).__name__}")
    return data


def table(path: Path) -> Any:
    """A table of ours beside its module: by libyaml where PyYAML has it, in a tenth of the time."""
    return yaml.load(path.read_text("utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def overlaid(data: dict, changes: dict) -> dict:
    """Changes over data: mappings key by key, anything else replaces what was there."""
    return data | {
        key: overlaid(data[key], value) if isinstance(data.get(key), dict) and isinstance(value, dict) else value
        for key, value in changes.items()
    }


def validate(data: dict, path: Path, model: type[M], folder: Path | None = None) -> M:
    """Keys and values as a model; ``path`` says where they are from. Raises SteerlibError, one line for every mistake.

    Names of files in it are relative to ``folder``, or to where ``path`` lies.
    """
    try:
        return model.model_validate(data, context={"folder": path.parent if folder is None else folder})
    except ValidationError as invalid:

        def place(loc: tuple) -> str:
            return f"{path}: {'.'.join(map(str, loc)) or '(whole file)'}"

        raise SteerlibError(*explain(invalid, model, place)) from None


TOLD = 20  # mistakes at most, in a line each
SHORT = reprlib.Repr()
SHORT.maxlevel, SHORT.maxstring, SHORT.maxother = 2, 80, 80


def explain(
    invalid: ValidationError, model: type[BaseModel], place: Callable[[tuple], str], unknown="unknown key; allowed here"
) -> list[str]:
    """What pydantic found wrong, a line each: the place, the value, and what is allowed."""
    lines = [f"{place(_stands(error))}: {_message(error, model, unknown)}" for error in invalid.errors()[:TOLD]]
    return lines + ([f"and {more} mistakes more"] if (more := invalid.error_count() - TOLD) > 0 else [])


def _stands(error: dict) -> tuple:
    """Where in the file. pydantic also names alternatives that it tried, as `list[int]`, and we do, as `[list]`."""
    loc, unknown = error["loc"], error["type"] == "extra_forbidden"  # a key, whatever it looks like
    return tuple(key for k, key in enumerate(loc, 1) if "[" not in str(key) or (unknown and k == len(loc)))


def _message(error: dict, model: type[BaseModel], unknown: str) -> str:
    message = error["msg"].removeprefix("Value error, ")
    match error["type"]:
        case "extra_forbidden":
            known = _fields(model, error["loc"][:-1])
            return f"{unknown}: {', '.join(known) or 'none'}{nearest(error['loc'][-1], known)}"
        case "missing":
            return "required, but missing"
        case "value_error" | "assertion_error":
            return message
        case "model_type" | "dict_type":
            keys = ", ".join(_fields(model, error["loc"]) if error["type"] == "model_type" else ())
            message = f"expected 'key: value' lines{keys and f', with keys of {keys}'}"
        case "literal_error":
            message += nearest(error["input"], re.findall("'([^']+)'", error["ctx"]["expected"]))
    message = message.replace(" after validation", "")
    return f"{SHORT.repr(error['input'])} is not allowed: {message[0].lower()}{message[1:]}"


def _fields(model: type[BaseModel], loc: tuple) -> list[str]:
    """Keys allowed at a place inside the model."""
    for key in loc:
        kinds = [model.model_fields[key].annotation] if key in model.model_fields else []
        while kinds:
            kind = kinds.pop()
            kinds += getattr(kind, "__args__", ())
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                model = kind
    return list(model.model_fields)
