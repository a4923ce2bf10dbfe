"""Published training histories (`suites.yaml`, a row each), and what the names of revisions and folders tell."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import field_validator

from steerlib import SteerlibError
from steerlib.files import hub, params
from steerlib.files.hashes import weights_hash
from steerlib.files.params import Strict
from steerlib.study import Study

# Names of folders and revisions that no suite and no user's pattern tells.
GENERIC = re.compile(r"(?:^|[^0-9a-z])?(?:global_)?(?:step|checkpoint|ckpt)[-_=]?(?P<step>\d+)$", re.IGNORECASE)


class Revision(hub.Files):
    """A checkpoint as its repository calls it, and what it holds once the hub was asked."""

    revision: str  # its name
    step: int  # global: over all stages
    tokens_seen: int  # -1 when not known
    stage: str = ""
    note: str = ""  # what is wrong with it, as far as others have reported
    problem: str = ""  # why it cannot be had
    base: bool = False  # the model that was fine-tuned, and no part of the history itself

    @property
    def weights_sha256(self) -> str | None:
        """As `Checkpoint.weights_sha256` will be; None when the hub does not tell."""
        hashes = [file.sha256 for file in hub.weights_of(self.files)]
        return weights_hash(hashes) if hashes and None not in hashes else None

    @property
    def identity(self) -> str | None:
        """Equal for two whose every file is, as the hub tells them; None when it does not."""
        hashes = [f"{file.name} {file.sha256 or file.oid}" for file in self.files]
        return "\n".join(hashes) if self.weights_sha256 and all(f.sha256 or f.oid for f in self.files) else None


class Suite(Strict):
    """A family of repositories whose revisions are called alike."""

    pattern: re.Pattern  # of revisions: groups `step` and, if names tell them, `tokens` (as 4B) and `stage`
    repos: str = ""  # a regular expression of whole names, owner/name
    examples: list[str] = []  # repositories
    like: list[str] = []  # revisions
    architecture: str = ""  # transformers' model_type
    source: str = ""
    order: list[str] = []  # stages in order of training, as regular expressions; one can stand for parallel ones
    main: list[str] = []  # the stages studied unless others are asked for
    before: dict[str, int] = {}  # steps before a stage of `order`; else the listing tells
    tokens_per_step: int | dict[str, int] | None = None  # the dict is by stage
    untrained: bool = False  # is step 0 the model before its first update?
    offset: int = 0  # steps done at the name's step 0
    end: int | None = None  # steps that are 100 % of training
    # All revisions, where they are known exactly; a range of them as (name with braces, first, last, every).
    grid: list[str | tuple[str, int, int, int]] = []
    sizes: dict[str, int] = {}  # part of the repository's name -> parameters
    own: dict[str, dict[str, Any]] = {}  # part of the repository's name -> what differs there
    dtype: str = ""  # of the published weights, which a download's size follows
    needs: str = ""  # what a study has to say besides the repository
    notes: dict[str, dict[str, str]] = {}  # repositories -> revisions, both as regular expressions -> what is known

    @field_validator("grid")
    @classmethod
    def _expanded(cls, grid):
        ranges = [(row, 0, 0, 1) if isinstance(row, str) else row for row in grid]
        return [name.format(k) for name, first, last, every in ranges for k in range(first, last + 1, every)]

    def parameters(self, repo: str) -> int | None:
        return _of_part(self.sizes, repo)

    def bytes(self, repo: str) -> int | None:
        """Of a checkpoint's weights, by the number of parameters; None where size or dtype are not known."""
        width, count = {"float16": 2, "bfloat16": 2, "float32": 4}.get(self.dtype), self.parameters(repo)
        return width and count and width * count


def _of_part(table: dict, repo: str, default=None):
    """The row whose key is a part of the repository's name, between hyphens; the longest one."""
    parts = [key for key in table if f"-{key}-" in f"-{repo.split('/')[-1]}-"]
    return table[max(parts, key=len)] if parts else default


FILE = Path(__file__).with_suffix(".yaml")


@cache  # only studies of a repository ask
def known() -> dict[str, Suite]:
    """All suites by name."""
    return {name: params.validate(row, FILE, Suite) for name, row in params.table(FILE).items()}


def suite_of(repo: str) -> Suite | None:
    """A repository's suite, as it is there."""
    for suite in known().values():
        if re.fullmatch(suite.repos, repo):
            notes = {repos: told for repos, told in suite.notes.items() if re.fullmatch(repos, repo)}
            return suite.model_copy(update=_of_part(suite.own, repo, {}) | {"notes": notes})
    return None


def starts_untrained(study: Study) -> bool:
    """Whether the study's step 0, if it has one, is a model that never was pretrained: as it says, or as is known.

    With fine-tuning it still is: what is reached then is reached without pretraining.
    """
    given = study.checkpoints
    if given.untrained is not None:
        return given.untrained
    suite = suite_of(given.repo) if given.repo else None
    return (study.pretraining is not None and study.pretraining.start is None) or (
        suite is not None and suite.untrained
    )


def parse(
    names: Iterable[str],
    suite: Suite | None,
    pattern: re.Pattern | str | None = None,
    stages: list[str] | None = None,
    tokens_per_step: int | None = None,
) -> list[Revision]:
    """Revisions among names of branches, tags or folders, in order of step: of the main line, or of these stages.

    Names that do not match are passed over. A pattern takes the place of all that the suite knows of steps and tokens.
    Raises SteerlibError when nothing matches, a stage does not exist, or two names are the same step.
    """
    names = list(dict.fromkeys(names))
    notes = [pair for known in suite.notes.values() for pair in known.items()] if suite else []
    if suite is None or pattern is not None:
        like = ["step-100", "checkpoint-100"] if pattern is None else []
        suite = Suite(pattern=pattern or GENERIC, like=like, order=list(map(re.escape, stages or ())))
    rows = [_read(name, match) for name in names if (match := suite.pattern.search(name)) and match["step"]]
    if not rows:
        like = " or ".join(suite.like) or suite.pattern.pattern
        available = f"there is {', '.join(names[:3]) or 'nothing'}{', and more' * (len(names) > 3)}"
        remedy = "give checkpoints.pattern, a regular expression with a group named step"
        raise SteerlibError(f"nothing is named like {like}; {available}: {remedy}")
    wanted = _wanted(suite, stages, sorted({stage for _, _, stage, _ in rows}))
    each = suite.tokens_per_step or tokens_per_step
    revisions, last, seen = {}, 0, 0
    for kind in suite.order or map(re.escape, wanted):
        start, of_stage = suite.before.get(kind, last), []
        for name, step, stage, tokens in (row for row in rows if re.fullmatch(kind, row[2])):
            base = seen if pattern is None else 0  # suites count what they tell anew in every stage
            if tokens is None and isinstance(each, dict):
                tokens = step * each[stage] if stage in each else None
            elif tokens is None and each:
                base, tokens = 0, (start + step + suite.offset) * each
            note = [note for revision, note in notes if re.fullmatch(revision, name)]
            known = tokens is not None and base != -1
            told = {"revision": name, "stage": stage, "note": "; ".join(note)}
            of_stage.append(Revision(step=start + step, tokens_seen=base + tokens if known else -1, **told))
        for new in (revision for revision in of_stage if revision.stage in wanted):
            old = revisions.setdefault(new.step, new)
            # The step 0 of a later stage is the last one before, saved again.
            if old is not new and (new.step != start or re.fullmatch(kind, old.stage)):
                how = "pattern" if new.stage == old.stage else f"stages: {old.stage} or {new.stage}"
                both = f"{old.revision} and {new.revision} are both step {new.step}"
                raise SteerlibError(f"{both}; choose by checkpoints.{how}")
        last = max((revision.step for revision in of_stage), default=last)
        seen = max((revision.tokens_seen for revision in of_stage), default=-1)
    alike = {re.sub(r"\d+", "0", one.revision): one.revision for one in revisions.values()}
    if suite.pattern is GENERIC and len(alike) > 1:
        both = " and ".join(list(alike.values())[:2])
        raise SteerlibError(f"{both} are not called alike; remove what is a copy, or choose by checkpoints.pattern")
    return [revisions[step] for step in sorted(revisions)]


def _read(name: str, match: re.Match) -> tuple[str, int, str, int | None]:
    """Name, step within the stage, stage, tokens as the name tells them; without a unit, in billions."""
    groups = match.groupdict()
    count = re.fullmatch(r"(\d+(?:\.\d+)?)([MBT]?)", groups.get("tokens") or "")
    if not groups["step"].isdecimal() or (groups.get("tokens") and not count):
        raise SteerlibError(f"checkpoints.pattern finds in {name} what is no number: {groups}")
    tokens = round(float(count[1]) * {"M": 1e6, "T": 1e12}.get(count[2], 1e9)) if count else None
    return name, int(groups["step"]), groups.get("stage") or "", tokens


def _wanted(suite: Suite, stages: list[str] | None, available: list[str]) -> list[str]:
    """The stages to look at, each of which is there."""
    these = f"there are {', '.join(filter(None, available))}" if any(available) else "names tell no stages"
    if absent := [stage for stage in stages or () if stage not in available]:
        raise SteerlibError(f"there is no stage {absent[0]}; {these}: correct checkpoints.stages")
    wanted = stages or ([stage for stage in suite.main if stage in available] if suite.main else available)
    if not wanted or (len(wanted) > 1 and not suite.main and not stages):
        problem = f"nothing is of {' or '.join(suite.main)}" if suite.main else "these are several stages"
        raise SteerlibError(f"{problem}; {these}: say which to look at, in order, by checkpoints.stages")
    return wanted
