"""YAML to validated models, with errors that name file, field, value and what is allowed."""

from __future__ import annotations

import lzma
import re
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from steerlib import SteerlibError


class Strict(BaseModel):
    """Params are frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


M = TypeVar("M", bound=BaseModel)


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
        if path.suffix == ".xz":
            with lzma.open(path, "rt", encoding="utf-8") as stream:
                return stream.read()
        return path.read_text(encoding="utf-8")
    except (lzma.LZMAError, EOFError) as error:
        raise SteerlibError(f"{path}: cannot be unpacked ({error}); copy or compress it again") from None
    except FileNotFoundError:
        raise SteerlibError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise SteerlibError(f"{path}: is a folder, expected a file") from None
    except UnicodeDecodeError as error:
        raise SteerlibError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def load(path: Path, model: type[M]) -> M:
    """The file as a model. Raises SteerlibError with one line for every mistake in it."""
    return validate(read(path), path, model)


def read(path: Path) -> dict:
    """The file's keys and values, not yet validated. Raises SteerlibError when it is not YAML of that kind."""
    try:
        data = yaml.load(read_text(path), Loader)
    except yaml.YAMLError as error:
        raise SteerlibError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise SteerlibError(f"{path}: expected 'key: value' lines, found {type(data).__name__}")
    return data


def validate(data: dict, path: Path, model: type[M]) -> M:
    """Keys and values as a model; ``path`` says in errors where they are from. Raises SteerlibError likewise."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise SteerlibError("\n".join(_explain(path, model, one) for one in _told_once(error.errors()))) from None


def _told_once(errors: list[dict]) -> list[dict]:
    """Where a list or a word is allowed and a list was given, what is wrong with the list is all there is to say."""
    return [one for one in errors if not (one["type"] == "literal_error" and isinstance(one["input"], list))] or errors


def _explain(path: Path, model: type[BaseModel], error: dict) -> str:
    # pydantic also names the alternatives that it tried, as `list[int]` and `literal['all']`; they stand in no file.
    where = ".".join(str(key) for key in error["loc"] if "[" not in str(key)) or "(whole file)"
    message = error["msg"].removeprefix("Value error, ")
    match error["type"]:
        case "extra_forbidden":
            return f"{path}: {where}: unknown key; allowed here: {', '.join(_fields(model, error['loc'][:-1]))}"
        case "missing":
            return f"{path}: {where}: required, but missing"
        case "value_error" | "assertion_error":
            return f"{path}: {where}: {message}"
    return f"{path}: {where}: {error['input']!r} is not allowed: {message[0].lower()}{message[1:]}"


def _fields(model: type[BaseModel], loc: tuple) -> list[str]:
    """Keys allowed at a place inside the model."""
    for key in loc:
        if not isinstance(key, str) or key not in model.model_fields:
            continue
        kinds = [model.model_fields[key].annotation]
        while kinds:
            kind = kinds.pop()
            kinds += getattr(kind, "__args__", ())
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                model = kind
    return list(model.model_fields)
