"""A study's part of a repository: which revisions it looks at, what they hold, and which of them lie on this disk.

The listing is kept with the study's results, so that workers and notebooks ask the hub nothing, and so that a study can
be told, continued and read where there is no network.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel

from steerlib import SteerlibError
from steerlib.checkpoints.steps import select
from steerlib.checkpoints.suites import Revision, suite_of
from steerlib.files import hub, store
from steerlib.files.layout import WEIGHTS, is_adapter
from steerlib.study import Study

NAME = "listing.json"  # of the file in a study's folder of results


class Tokenizer(hub.Files):
    """Where the tokenizer is fetched from when the revisions hold none, or the study names another."""

    repo: str


class Listing(BaseModel):
    """Revisions in order of step, as the study asks for them."""

    repo: str
    asked: dict  # the params that it answers
    entries: list[Revision]
    base: bool = False  # whether step 0 is the model that was fine-tuned, which is none of them
    tokenizer: Tokenizer | None = None
    end: int  # what percentages count from: steps of all of training, or those of the last revision

    @property
    def twins(self) -> dict[int, Revision]:
        """Step of a revision -> an earlier one with the very same weights. The later is not looked at."""
        return {entry.step: twin for entry, twin in twins(self.entries)}

    @property
    def studied(self) -> list[Revision]:
        """Every revision, but only the first of equal ones."""
        twins = self.twins
        return [entry for entry in self.entries if entry.step not in twins]

    @property
    def whole(self) -> bool:
        """Whether the hub has told of every revision, be it that it holds no weights."""
        return all(entry.files for entry in self.entries)

    def remarks(self) -> list[str]:
        """What a reader of the results should know of these revisions, a sentence each."""
        notes = [f"step {entry.step} ({entry.revision}): {entry.note}" for entry in self.entries if entry.note]
        words = {e.step: {(f.name, f.oid) for f in e.files if f.name in hub.TOKENIZER} for e in self.studied if e.files}
        first = next(iter(words), None)
        other = [str(step) for step in words if words[step] != words[first]]
        if other and not (self.tokenizer or self.asked.get("tokenizer")):  # one for all
            some = ", ".join(other[:8]) + (" …" if len(other) > 8 else "")
            notes.append(f"step {some}: files of the tokenizer are not those of step {first}")
        return equal_weights(self.entries, "is left out") + notes


def twins(history: Iterable) -> list[tuple]:
    """Each entry or checkpoint that is an earlier one, file by file, and that. Unreadable ones are passed over."""
    first, pairs = {}, []
    for point in history:
        with suppress(SteerlibError):
            if point.identity and first.setdefault(point.identity, point) is not point:
                pairs.append((point, first[point.identity]))
    return pairs


def equal_weights(history: Iterable, consequence: str) -> list[str]:
    """A sentence for every entry or checkpoint that is an earlier one: weights, config and tokenizer."""
    return [
        f"step {point.step} ({point.revision}) {consequence}: its weights are those of step {twin.step} "
        f"({twin.revision}), byte for byte"
        for point, twin in twins(history)
    ]


def load(study: Study, folder: Path, whole: bool = False) -> Listing:
    """The listing kept in a study's folder of results; taken anew when the params ask for something else.

    And, if it is to be whole, when the hub would not tell of one of the revisions then.
    """
    kept = _kept(study, folder)
    return kept if kept and (kept.whole or not whole) else take(study, folder)


def take(study: Study, folder: Path, keep: bool = True) -> Listing:
    """Ask the hub; where it does not answer, what an earlier run was told, or what the suite's own pattern says.

    Raises SteerlibError when the repository, a step or a stage that is asked for does not exist.
    """
    kept = _kept(study, folder)
    try:
        listing = _from_hub(study, kept.entries if kept else [])
    except hub.Unreachable as unreachable:
        # What the pattern says is not kept: it holds no sizes and hashes, and the hub may answer the next time.
        return kept or _from_pattern(study, unreachable)
    if keep:
        store.write_json(folder / NAME, listing.model_dump())
    return listing


def _kept(study: Study, folder: Path) -> Listing | None:
    """What an earlier run was told, if it answers these params."""
    kept = store.read_json(folder / NAME, Listing)
    return kept if kept and kept.asked == _asked(study) else None


def _asked(study: Study) -> dict:
    """What a listing depends on."""
    given = study.checkpoints.model_dump(mode="json", exclude={"disk", "folder"})
    return given | {"trust_remote_code": study.loading.trust_remote_code}


def _from_hub(study: Study, kept: list[Revision]) -> Listing:
    """What was told of a commit once needs no asking, as it stays so; that it could not be told may have passed."""
    told = {(entry.revision, entry.commit): entry for entry in kept if entry.files}
    repo, code = study.checkpoints.repo, study.loading.trust_remote_code
    commits = hub.revisions(repo)
    entries, base, end = _selected(study, commits)

    def fill(entry: Revision) -> Revision:
        entry.commit = commits[entry.revision]
        if known := told.get((entry.revision, entry.commit)):
            return entry.model_copy(update={"files": known.files, "problem": known.problem})
        try:
            entry.files = hub.needed(hub.list_files(repo, entry.commit), code)
            if not hub.weights_of(entry.files):
                entry.problem = f"{repo} {entry.revision}: holds no weights ({' or '.join(WEIGHTS)})"
        except SteerlibError as error:
            entry.problem = str(error).replace(entry.commit, entry.revision)
        return entry

    with ThreadPoolExecutor(8) as pool:
        entries = list(pool.map(fill, entries))
    words = _tokenizer(study, entries)
    return Listing(repo=repo, asked=_asked(study), entries=entries, base=base, tokenizer=words, end=end)


def _selected(study: Study, names: Iterable[str]) -> tuple[list[Revision], bool, int]:
    """As `select` does, the base apart: whether it is among them."""
    entries, end = select(study, names)
    own = [entry for entry in entries if not entry.base]
    return own, len(own) < len(entries), end


def _tokenizer(study: Study, entries: list[Revision]) -> Tokenizer | None:
    """From the repository that the study names; or, where a revision holds none, from the main one.

    Where the study names a base, those have its.
    """
    named = study.checkpoints.tokenizer
    if named and named.path.is_dir():
        return None
    held = [[file.name for file in entry.files] for entry in entries]
    lacking = [names for names in held if names and {*names}.isdisjoint(hub.TOKENIZER) and not is_adapter(names)]
    if not named and (study.checkpoints.base or not lacking):
        return None
    repo, _, told = (named or study.checkpoints.repo).partition("@")
    revision = told or "main"
    commit = hub.revisions(repo).get(revision, revision)
    files = [file for file in hub.list_files(repo, commit) if file.name in (*hub.TOKENIZER, "config.json")]
    if not {file.name for file in files} & set(hub.TOKENIZER):
        example = "checkpoints: {tokenizer: EleutherAI/pythia-70m}"
        raise SteerlibError(
            f"{repo} {revision}: holds no tokenizer either; name one that fits the model, as in {example}"
        )
    return Tokenizer(repo=repo, commit=commit, files=files)


def _from_pattern(study: Study, unreachable: SteerlibError) -> Listing:
    plan = study.checkpoints
    if plan.tokenizer and not plan.tokenizer.path.is_dir():
        raise SteerlibError(f"{unreachable}; nor can checkpoints.tokenizer ({plan.tokenizer}) be had: name a folder")
    suite = suite_of(plan.repo)
    if suite is None or not suite.grid:
        message = f"{unreachable} (and without it nothing tells this repository's revisions)"
        raise SteerlibError(message) from unreachable
    entries, base, end = _selected(study, suite.grid)
    return Listing(repo=plan.repo, asked=_asked(study), entries=entries, base=base, end=end)
