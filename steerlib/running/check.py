"""`steerlib concepts check`: a concept's file, or every file that a study names, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steerlib import SteerlibError
from steerlib.concepts.check import Report, examine
from steerlib.concepts.reading import YAML, ConceptFile, Draft, load, opposites
from steerlib.concepts.reading.records import read_yaml
from steerlib.files import params
from steerlib.study import Study


def check(file: Path, options: dict[str, Any], model: Path | None = None) -> list[Report]:
    """Reports on a concept's file, read with these options of a study's entry, or on all files that a study names.

    With the folder of a checkpoint as ``model``, they also tell how it splits targets and foils. Raises SteerlibError.
    """
    tokenizer = None if model is None else load_tokenizer(model)
    if file.suffix.lower() not in YAML or "concepts" not in read_yaml(file):
        entry = params.validate({"file": str(file), **options}, file, ConceptFile, folder=Path())
        return [examine(load(entry), (), tokenizer)]
    if options:
        raise SteerlibError(f"{file}: {', '.join(options)}: a study's own entries say it")
    study = Study.load(file)
    concepts = study.read_concepts()
    drafts = [concept for concept in concepts if isinstance(concept, Draft)]
    if not drafts:
        raise SteerlibError(f"{file}: concepts: names planted concepts only, which need no check")
    return [examine(draft, opposites(concepts), tokenizer, study.seed) for draft in drafts]


def load_tokenizer(folder: Path):
    """The tokenizer of a checkpoint's folder. Raises SteerlibError when there is none."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True) if folder.is_dir() else None
    except Exception as error:  # transformers and tokenizers each raise their own kinds
        raise SteerlibError(f"{folder}: its tokenizer cannot be loaded ({type(error).__name__})") from error
    if tokenizer is None or not tokenizer("a")["input_ids"]:
        raise SteerlibError(f"{folder}: holds no tokenizer; name the folder of a Hugging Face checkpoint")
    return tokenizer
