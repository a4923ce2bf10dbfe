"""What folders of steps and files of weights are called, in a repository and on disk."""

import fnmatch
import re
from collections.abc import Iterable
from pathlib import Path

from steerlib import SteerlibError, nearest

# In the order in which they are preferred. Optimizer states and copies for other programs have other names.
WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "pytorch_model.bin", "pytorch_model-*-of-*.bin")
ADAPTER = ("adapter_model.safetensors", "adapter_model.bin")  # of peft: what is loaded where there is nothing whole
# Config, templates and tokenizer, whatever its files are called; and what training writes beside them.
READ = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.spm", "*.bpe", "*.codes", "*.vocab", "*.tokenizer")
STATES = ("training_args.*", "optimizer*", "scheduler*")  # of a training, beside its weights
UNREAD = ("trainer_state.json", "*_results.json", "*.index.json", ".*", "README*", "LICENSE*", "requirements*")


def folder_name(step: int) -> str:
    return f"step={step:08d}"


def weight_names(names: Iterable[str]) -> list[str]:
    """Of names of files, those of weights of the kind that is loaded, in order; empty when there are none.

    Where none is called as they are, it is the one file of safetensors, whatever its name.
    """
    names = sorted(names)
    apart = like(names, (*STATES, "*-of-*"))
    others = [name for name in fnmatch.filter(names, "*.safetensors") if name not in apart]
    kinds = [*(fnmatch.filter(names, pattern) for pattern in (*WEIGHTS, *ADAPTER)), others if len(others) == 1 else []]
    return next(filter(None, kinds), [])


def is_adapter(names: Iterable[str]) -> bool:
    """Whether these files of a checkpoint are what another model is changed by."""
    return not {*weight_names(names)}.isdisjoint(ADAPTER)


def loaded_names(names: Iterable[str], code: bool = False) -> list[str]:
    """Of names of files, those that loading reads, in order: config, tokenizer, weights once, and if asked code."""
    names = sorted(names)
    weights = weight_names(names)
    indexes = {re.sub(r"-\d+-of-\d+", "", name) + ".index.json" for name in weights}
    small = {*like(names, READ)} - {*like(names, UNREAD)}
    return sorted({*small, *weights, *(indexes & {*names}), *(name for name in names if code and name.endswith(".py"))})


def weight_files(folder: Path) -> list[Path]:
    """Weight files of a checkpoint, the kind that is loaded. Raises SteerlibError when there are none."""
    if names := weight_names(path.name for path in folder.glob("*")):
        return [folder / name for name in names]
    others = [path.name for path in sorted(folder.glob("*.safetensors"))]
    remedy = f"; {', '.join(others[:3])} are called otherwise: rename those of this model" if others else ""
    raise SteerlibError(f"{folder}: holds no weights ({' or '.join(WEIGHTS)}){remedy}")


def like(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """Of names, those that fit any of the patterns, in their order."""
    return [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]


def absent(path: Path, file: bool = False) -> str:
    """That a folder, or a file, does not exist, and the nearest name that does."""
    if path.exists():
        own = "; of a GGUF file write a study (checkpoints.gguf)" if path.suffix.lower() == ".gguf" and not file else ""
        return f"{path}: is a {'folder, expected a file' if file else 'file, expected a folder'}{own}"
    parent = next(parent for parent in path.parents if parent.is_dir())
    name = path.relative_to(parent).parts[0]
    near = nearest(name, (other.name for other in parent.iterdir() if other.name != name and (file or other.is_dir())))
    there = near or f"; {parent} exists" * (parent != path.parent)
    return f"{path}: no such {'file' if file else 'folder'}{there}"
