"""Frozen choices tried on what was not seen before, and what came out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from steerlib import SteerlibError
from steerlib.files.params import Strict
from steerlib.files.store import Sha256
from steerlib.pilot import freeze, sealed, seen, trial, unseen
from steerlib.pilot.choices import Told
from steerlib.pilot.sealed import Sealed
from steerlib.pilot.seen import Marks
from steerlib.results import audit
from steerlib.results.opening import OpenStudy
from steerlib.results.provenance import git_commit, now
from steerlib.stages.criteria import PASS, plain

NAME = "validation.json"


class Along(Strict):
    """Where texts lie along a direction: their projections, in units of activation."""

    having: list[float]  # texts with the concept
    lacking: list[float]


class Validated(Strict):
    """One concept."""

    holds: bool  # whether every criterion passes
    pairs: int  # of texts
    prompts: int
    criteria: dict[str, Told]
    along: Along


class Source(Strict):
    """Where new texts came from."""

    files: dict[str, str] = {}  # by concept
    prompts: str | None = None
    neutral: str | None = None
    fresh: int | None = None  # the seed, where the planted world told them


class Validation(Sealed):
    """Of a freeze, which `freeze` has the hash of."""

    freeze: Sha256
    made: str
    commit: str
    source: Source
    new_passages: bool  # whether side effects were measured on passages that were new, too
    tries: int  # validations of this freeze, this one among them: of many, one may pass by chance
    concepts: dict[str, Validated]
    texts: Marks

    @property
    def holds(self) -> bool:
        return all(one.holds for one in self.concepts.values())


def validate(
    study: OpenStudy,
    files: Sequence[str] = (),
    prompts: Path | None = None,
    neutral: Path | None = None,
    fresh: int | None = None,
) -> Validation:
    """Try what was frozen on new texts of ``files``, or of the planted world. Written beside the freeze.

    Raises SteerlibError for what was seen in exploring, and for a freeze, direction or checkpoint that is another.
    """
    frozen, directions, then = freeze.load(study)
    known = frozen.neutral.union(*((one.texts | one.prompts) for one in frozen.concepts.values()))
    if files and fresh is not None:
        raise SteerlibError("--fresh: new texts come from the planted world or from files; leave out one of the two")
    fresh = None if files else then.params.seed + 1 if fresh is None else fresh
    new = unseen.told(then.params, [*frozen.concepts], known, files, prompts, neutral, fresh)
    chosen = {name: trial.Chosen(one, directions[name]) for name, one in frozen.concepts.items()}
    model = then.model(frozen.step)
    tried = trial.tried(model, then.params, chosen, new.concepts, new.others, new.passages)
    concepts = {one.name: _validated(tried, one.name, len(one.readout.cases)) for one in new.concepts}
    path = freeze.folder_of(study) / NAME
    texts = [text for one in new.concepts for text in seen.texts_of(one, one) + seen.prompts_of(one)]
    paths = [one and os.path.abspath(one) for one in (prompts, neutral)]
    pairs = zip(new.concepts, files, strict=True) if files else ()
    named = {one.name: os.path.abspath(file.removeprefix(f"{one.name}=")) for one, file in pairs}
    found = Validation(
        freeze=frozen.content,
        made=now(),
        commit=git_commit(),
        source=Source(files=named, prompts=paths[0], neutral=paths[1], fresh=fresh),
        new_passages=new.passages is not None,
        tries=_tries(path, frozen.content) + 1,
        concepts=concepts,
        texts=seen.marks(texts),
    ).sealed()
    sealed.write(path, found)
    holds = {name: one.holds for name, one in concepts.items()}
    audit.log(study.workspace.folder, "pilot validated", freeze=found.freeze, validation=found.hash, holds=holds)
    return found


def _validated(tried: trial.Tried, name: str, prompts: int) -> Validated:
    criteria = plain(tried.cells.sel(concept=name), trial.ASKED)
    having, lacking = (values.astype(float).tolist() for values in tried.along[name])
    holds = all(one["outcome"] == PASS for one in criteria.values())
    along = Along(having=having, lacking=lacking)
    return Validated(holds=holds, pairs=len(having), prompts=prompts, criteria=criteria, along=along)


def _tries(path: Path, content: str) -> int:
    """Earlier validations of the same freeze, as far as they are known."""
    with suppress(SteerlibError):
        earlier = sealed.read(path, Validation, "")
        return earlier.tries if earlier.freeze == content else 0
    return 0


def load(study: OpenStudy, content: str) -> Validation:
    """The validation of this freeze. Raises SteerlibError where there is none, or of another, or an altered one."""
    path, again = freeze.folder_of(study) / NAME, f"steerlib pilot validate {study.params.path}"
    found = sealed.read(path, Validation, again)
    if found.freeze != content:
        raise SteerlibError(f"{path}: is of another freeze than {freeze.NAME} is now; {again}")
    return found
