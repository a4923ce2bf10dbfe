"""What folders of steps and files of weights are called, in a repository and on disk."""

import fnmatch
import re
from collections.abc import Iterable
from pathlib import Path

from steerlib import SteerlibError

# In the order in which they are preferred. Optimizer states and copies for other programs have other names.
WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "pytorch_model.bin", "pytorch_model-*-of-*.bin")
# Config, templates and tokenizer, whatever its files are called; and what training writes beside them.
READ = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.spm", "*.bpe", "*.codes", "*.vocab", "*.tokenizer")
UNREAD = ("trainer_state.json", "*_results.json", "*.index.json", ".*", "README*", "LICENSE*", "requirements*")


def folder_name(step: int) -> str:
    return f"step={step:08d}"


def weight_names(names: Iterable[str]) -> list[str]:
    """Of names of files, those of weights of the kind that is loaded, in order; empty when there are none."""
    names = sorted(names)
    return next(filter(None, (fnmatch.filter(names, pattern) for pattern in WEIGHTS)), [])


def loaded_names(names: Iterable[str], code: bool = False) -> list[str]:
    """Of names of files, those that loading reads, in order: config, tokenizer, weights once, and if asked code."""
    names = sorted(names)
    weights = weight_names(names)
    indexes = {re.sub(r"-\d+-of-\d+", "", name) + ".index.json" for name in weights}
    like = lambda name, patterns: any(fnmatch.fnmatch(name, pattern) for pattern in patterns)  # noqa: E731
    small = {name for name in names if like(name, READ) and not like(name, UNREAD)}
    return sorted({*small, *weights, *(indexes & {*names}), *(name for name in names if code and name.endswith(".py"))})


def weight_files(folder: Path) -> list[Path]:
    """Weight files of a checkpoint, the kind that is loaded. Raises SteerlibError when there are none."""
    if names := weight_names(path.name for path in folder.glob("*")):
        return [folder / name for name in names]
    raise SteerlibError(f"{folder}: holds no weights ({' or '.join(WEIGHTS)})")
