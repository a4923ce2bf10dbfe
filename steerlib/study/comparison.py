"""`Comparison`: one study, and what each of its variants changes in it.

A params file with a `variants:` key is a comparison. Wherever the path of a study is taken, `FILE#VARIANT` names one
of its variants; no file is written for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from steerlib import SteerlibError, nearest
from steerlib.files import params
from steerlib.files.params import Located, Strict

VariantName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=60)]


class Comparison(Strict):
    """Studies side by side that differ in what is named here, and in nothing else.

    A variant's changes are laid over the study's params, key by key; null removes a key. The variant that changes
    nothing (`{}`) is the study itself, with its own folder of results, so that nothing is computed twice. The others
    are studies of their own, named `<comparison>.<variant>`. The first variant is what the others are compared with.
    """

    # Of the comparison and of the folder of its results.
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=80)
    study: Located  # params file of the study, relative to this file
    # Name of a variant -> what it changes.
    variants: Annotated[dict[VariantName, dict[str, Any]], Field(min_length=2)]
    # Whether every variant is a draw of the same thing, as models published with several seeds are. Where each has a
    # `seed` of its own in its study they are anyway.
    replicates: bool = False
    # Two variants that differ by nothing but a seed: what chance alone makes, which a difference has to exceed.
    chance: tuple[()] | tuple[VariantName, VariantName] = ()

    @field_validator("variants")
    @classmethod
    def _distinct(cls, variants):
        for name, changes in variants.items():
            if own := next((key for key in ("name", "study", "variants") if key in changes), None):
                raise ValueError(f"{name}: {own}: belongs to the comparison; a variant changes params of the study")
            if twin := next((other for other in variants if other != name and variants[other] == changes), None):
                raise ValueError(f"{name} and {twin} are the same; remove one")
        return variants

    @field_validator("chance")
    @classmethod
    def _known(cls, chance, others):
        variants = others.data.get("variants", {})
        if variants and (unknown := [name for name in chance if name not in variants]):
            near = nearest(unknown[0], variants)
            raise ValueError(f"there is no variant {unknown[0]!r}; there are {', '.join(variants)}{near}")
        return chance

    @classmethod
    def load(cls, path: str | Path) -> Comparison:
        """The comparison of a params file. Raises SteerlibError, one line a mistake."""
        path = Path(path)
        comparison = params.validate(params.read(path), path, cls)
        base = path.parent / comparison.study
        if not base.is_file():
            raise SteerlibError(f"{path}: study: there is no file {base}")
        study = params.read(base)
        if "variants" in study:
            raise SteerlibError(f"{path}: study: {comparison.study} is itself a comparison; name a study's params file")
        if study.get("name") == comparison.name:
            raise SteerlibError(
                f"{path}: name: {comparison.name!r} is that of {comparison.study}; the two would share a folder"
            )
        if pair := comparison.chance:
            once, again = (_unseeded(params.overlaid(study, comparison.variants[name])) for name in pair)
            if len(set(pair)) < 2 or once != again:
                raise SteerlibError(f"{path}: chance: {' and '.join(pair)} have to be two that differ by a seed alone")
        return comparison


def split(path: str | Path) -> tuple[Path, str | None]:
    """The file and the variant of `FILE#VARIANT`; no variant when the path names a file as it stands."""
    path = Path(path)
    if path.exists() or "#" not in path.name[1:]:
        return path, None
    file, _, variant = path.name.rpartition("#")
    return path.with_name(file), variant


def is_comparison(path: str | Path) -> bool:
    """Whether the params file is a comparison, not a study. Raises SteerlibError when it cannot be read."""
    file, variant = split(path)
    return variant is None and "variants" in params.read(file)


def merged(path: str | Path) -> tuple[dict, Path]:
    """Params of a study or variant, and the file to whose folder its relative paths belong.

    Raises SteerlibError for a file that is not there, and for a variant that the file does not have.
    """
    file, variant = split(path)
    data = params.read(file)
    if variant is None:
        if "variants" in data:
            named = ", ".join(f"{file}#{name}" for name in Comparison.load(file).variants)
            raise SteerlibError(f"{file}: is a comparison, not a study; name one of its variants: {named}")
        return data, file
    if "variants" not in data:
        raise SteerlibError(f"{path}: {file.name} is a study and has no variants; leave out #{variant}")
    comparison = Comparison.load(file)
    if variant not in comparison.variants:
        near = nearest(variant, comparison.variants)
        raise SteerlibError(f"{path}: no such variant; {file.name} has {', '.join(comparison.variants)}{near}")
    base, changes = file.parent / comparison.study, comparison.variants[variant]
    own, study = {"name": f"{comparison.name}.{variant}"} if changes else {}, params.read(base)
    if idle := _idle(changes, study):
        raise SteerlibError(f"{path}: {idle}: null removes a key of {base.name}, which has none of that name")
    return _without_nulls(params.overlaid(study, changes)) | own, base


def _idle(changes: dict, data: Any) -> str | None:
    """The first null among changes that removes nothing."""
    for key, value in changes.items():
        within = data.get(key) if isinstance(data, dict) else None
        if value is None and within is None:
            return key
        if isinstance(value, dict) and (idle := _idle(value, within)):
            return f"{key}.{idle}"
    return None


def _unseeded(data: dict) -> dict:
    return {k: _unseeded(v) if isinstance(v, dict) else v for k, v in data.items() if k != "seed"}


def _without_nulls(data: dict) -> dict:
    return {k: _without_nulls(v) if isinstance(v, dict) else v for k, v in data.items() if v is not None}
