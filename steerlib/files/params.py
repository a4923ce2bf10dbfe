"""YAML to validated models, with errors that name file, field, value and what is allowed."""

import lzma
import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Annotated, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import core_schema

from steerlib import SteerlibError
from steerlib.files import hub


class Strict(BaseModel):
    """Params are frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


M = TypeVar("M", bound=BaseModel)
Count = Annotated[int, Field(ge=1)]


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
        """The path; what an hf:// address names is fetched first. Raises SteerlibError when it cannot be."""
        if self.startswith("hf://"):
            return hub.data_file(self)
        path = self.folder / Path(self).expanduser()
        return path if self.folder == Path() else path.resolve()  # on the command line: as it was typed

    @classmethod
    def __get_pydantic_core_schema__(cls, source, handler):
        def locate(text, validate, info):
            return text if isinstance(text, cls) else cls(validate(text), (info.context or {}).get("folder", Path()))

        return core_schema.with_info_wrap_validator_function(locate, core_schema.str_schema())


class Loader(yaml.SafeLoader):
    """YAML 1.1 reads ``1e-3`` as a string; numbers are read here as YAML 1.2 and everybody else does."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?$"),
    list("-+0123456789."),
)


def read_text(path: Path) -> str:
    """A UTF-8 text file, or one compressed as .xz. Raises SteerlibError when it is missing, cut short or not UTF-8."""
    try:
        raw = path.read_bytes()
        return (lzma.decompress(raw) if path.suffix == ".xz" else raw).decode("utf-8-sig").replace("\r\n", "\n")
    except lzma.LZMAError as error:
        raise SteerlibError(f"{path}: cannot be unpacked ({error}); copy or compress it again") from None
    except FileNotFoundError:
        raise SteerlibError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise SteerlibError(f"{path}: is a folder, expected a file") from None
    except UnicodeDecodeError as error:
        *lines, begun = error.object[: error.start].split(b"\n")
        place = f"line {len(lines) + 1}: not UTF-8 text (byte {len(begun)} of the line)"
        raise SteerlibError(f"{path}: {place}; save it as UTF-8") from None


def read(path: Path) -> dict:
    """The file's keys and values, not yet validated. Raises SteerlibError when it is not YAML of that kind."""
    try:
        data = yaml.load(read_text(path), Loader)
    except yaml.YAMLError as error:
        raise SteerlibError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise SteerlibError(f"{path}: expected 'key: value' lines, found {type(data).__name__}")
    return data


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
        # pydantic also names the alternatives that it tried, as `list[int]`, and we do, as `[list]`: they stand in no
        # file.
        def place(loc: tuple) -> str:
            return f"{path}: {'.'.join(str(key) for key in loc if '[' not in str(key)) or '(whole file)'}"

        raise SteerlibError("\n".join(explain(invalid, model, place))) from None


def explain(
    invalid: ValidationError, model: type[BaseModel], place: Callable[[tuple], str], unknown="unknown key; allowed here"
) -> list[str]:
    """What pydantic found wrong, a line each: the place, the value, and what is allowed."""
    return [f"{place(error['loc'])}: {_message(error, model, unknown)}" for error in invalid.errors()]


def _message(error: dict, model: type[BaseModel], unknown: str) -> str:
    message = error["msg"].removeprefix("Value error, ")
    match error["type"]:
        case "extra_forbidden":
            return f"{unknown}: {', '.join(_fields(model, error['loc'][:-1])) or 'none'}"
        case "missing":
            return "required, but missing"
        case "value_error" | "assertion_error":
            return message
    return f"{error['input']!r} is not allowed: {message[0].lower()}{message[1:]}"


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
