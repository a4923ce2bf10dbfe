"""`steerlib new`: the params of a study of one's own checkpoints, with what was found in their folder as comments."""

import os
import re
import shlex
from pathlib import Path
from typing import Any

import typer
import yaml
from pydantic import BaseModel

from steerlib import SteerlibError
from steerlib.checkpoints import contents
from steerlib.checkpoints.history import Checkpoint, history, named_base
from steerlib.concepts.check import counts_of
from steerlib.concepts.reading import ENDINGS, YAML, Draft
from steerlib.files import hub, params, store
from steerlib.files.layout import absent, is_adapter
from steerlib.running.tables import short
from steerlib.study import Study
from steerlib.study.sources import with_shared_concepts

READY = "params/concepts/english.yaml"  # concepts of ours
MANY = 30  # checkpoints of which all are studied unless more is said


class About(BaseModel):
    """What is told of a `config.json`."""

    architectures: list[str] | None = None
    dtype: str | None = None
    torch_dtype: str | None = None  # as it was called before


def ask(folder: Path | None, concept: str | None, name: str | None, place: Path) -> tuple[Path, str, Path]:
    """Folder, concept, and where the params are to be: what is not told, and no default tells, is asked for."""
    asked = folder is None
    folder = folder or Path(typer.prompt("The folder that holds your checkpoints, one folder a step"))
    concept = concept or typer.prompt("The file of your concept", default=READY if Path(READY).exists() else None)
    if name is None:
        name = re.sub(r"[^a-z0-9_.-]+", "-", folder.resolve().name.lower()).strip("-._") or "mine"
        name = typer.prompt("The study's name", default=name) if asked else name
    return folder, concept, place / f"{name}.yaml"


def write(
    folder: Path,
    concept: str,
    path: Path,
    base: str | None = None,
    tokenizer: str | None = None,
    positive: str | None = None,
    overwrite=False,
) -> list[str]:
    """Write the params to ``path``; returns the commands that come next. Names of files are as from the current folder.

    Raises SteerlibError when something is there already, when no checkpoint of the folder can be used, and when the
    concept cannot be read.
    """
    if path.exists() and not overwrite:
        raise SteerlibError(f"{path}: is there already; give the study another --name, or say --overwrite")
    if not folder.is_dir():
        raise SteerlibError(absent(folder))
    if concept.lower().endswith(ENDINGS) and "://" not in concept and not Path(concept).expanduser().is_file():
        raise SteerlibError(absent(Path(concept).expanduser(), file=True))
    place = path.parent.resolve()

    def from_there(name: str) -> str:
        """As it is told in the params; names that lead to no file are no paths."""
        there = Path(name).expanduser()
        return os.path.relpath(there.resolve(), place) if there.exists() else name

    given: dict[str, Any] = {"folder": from_there(str(folder))}
    if base := base or _base_in(folder):
        given["base"] = from_there(base)
    if tokenizer:
        given["tokenizer"] = from_there(tokenizer)
    entry: Any = from_there(concept)
    listed = [{"file": entry, "positive": positive} if positive else entry]
    data: dict[str, Any] = {"name": path.stem, "checkpoints": given, "concepts": listed}
    if Path(concept).suffix.lower() in YAML and "concepts" in params.read(Path(concept)):  # a list that studies share
        data["concepts"] = entry
    study = Study.of(with_shared_concepts(data, path), path, path.resolve())
    own = [concept for concept in study.read_concepts() if isinstance(concept, Draft)]
    study.load_concepts()
    points = history(study, place)
    from steerlib.model import loading  # which takes a moment

    faults = contents.faults(points, {}, loading.check, study.layers_of)
    contents.refuse_unfit(points, faults)
    last = [point for point in points if point.step not in faults][-1]
    if len(points) > MANY:
        given["steps"] = {"count": 20, "spacing": "log"}
    store.write_bytes(path, "\n".join(_lines(data, own, points, last, faults)).encode())
    Study.load(path)
    model = ["--model", os.path.relpath(last.path)] if last.whole.is_dir() else []
    commands = [["concepts", "check", str(path), *model]] * bool(own) + [["run", str(path)]]
    return [shlex.join(["steerlib", *words]) for words in commands]


def _base_in(folder: Path) -> str | None:
    """What the adapters of a folder say that they change. Raises SteerlibError where nobody can say what that is."""
    for file in sorted(folder.glob("*/adapter_config.json")):
        if not is_adapter(path.name for path in file.parent.glob("*")):
            continue
        name = named_base(file.parent)
        if name and (Path(name).is_dir() or hub.REPO.fullmatch(name)):
            return name
        raise SteerlibError(
            f"{file.parent}: is an adapter (of peft) of {name or 'a base that it does not name'}, which is not here; "
            "say --base, a folder or a repository"
        )
    return None


def _lines(
    data: dict, own: list[Draft], points: list[Checkpoint], last: Checkpoint, faults: dict[int, str]
) -> list[str]:
    """YAML, and behind it what was found: ``last`` of the points is the last that can be used."""
    given = data["checkpoints"]
    steps = [point.step for point in points if point.revision != given.get("base")]
    kind = "their base is not here yet"
    if last.whole.is_dir():
        about = store.parse_json((last.whole / "config.json").read_bytes(), About)
        words = (about.architectures or ["a model"])[0], about.dtype or about.torch_dtype or "of a dtype not told"
        kind = "{}, {}, {} blocks of width {}".format(*words, *contents.of(last)[:2])
    found = f"{len(steps)} {'adapters' if last.base else 'checkpoints'}, step {steps[0]} to {steps[-1]}"
    lines = [
        "# Written by `steerlib new`. Paths are as from this file's folder; see docs/checkpoints.md, docs/concepts.md.",
        f"name: {_told(data['name'])}",
        "checkpoints:",
        f"  folder: {_told(given['folder'])}  # {found}; {kind}",
    ]
    lines += [f"  # step {step} will fail: {fault}" for step, fault in faults.items()]
    if last.tokens_seen > 0:
        lines.append(f"  # trainer_state.json tells the tokens seen: {short(last.tokens_seen)} at step {last.step}")
    else:
        lines.append(
            "  # tokens_per_step: 65536  # batch x accumulation x length x devices; nothing tells the tokens seen"
        )
    if "base" in given:
        role = "what the adapters are merged into, and step 0" if last.base else "the model that was fine-tuned: step 0"
        lines.append(f"  base: {_told(given['base'])}  # {role}")
    elif steps[0] == 0:
        lines.append("  # untrained: true  # if step 0 is a model that was never trained")
    lines += [f"  tokenizer: {_told(given['tokenizer'])}"] if "tokenizer" in given else []
    more = f"{len(points)} in all; or `all`" if "steps" in given else "or {count: 20, spacing: log}"
    lines.append(
        f"  steps: {_told(given.get('steps', 'all'))}  # {more}, or a list, as {steps[:: len(steps) - 1 or 1]}"
    )
    lines += _of_concepts(data["concepts"], own)
    lines.append("# loading: {dtype: bfloat16}  # half the memory; device_map: auto for a model larger than one GPU")
    return [*lines, ""]


def _of_concepts(told: Any, own: list[Draft]) -> list[str]:
    """An entry of a file of one's own with what else it may say; planted concepts and shared lists as they are."""
    if isinstance(told, str) or not own:
        return [f"concepts: {_told(told)}"]
    [entry], [draft] = told, own
    given = entry if isinstance(entry, dict) else {"file": entry}
    first, *more = (f"{key}: {_told(value)}" for key, value in given.items())
    lines = ["concepts:", f"  - {first}  # {counts_of(draft)}; named {draft.name}", *(f"    {line}" for line in more)]
    lines.append(
        "    # readout: texts  # or judged: for a manner, as a style is, and no word; `concepts check` says which fits"
    )
    told = {"targets": "else words: what a push is to make likelier …", "foils": "… than these"}
    lines += [f"    # {side}: {draft.readout[side]}  # {what}" for side, what in told.items() if side in draft.readout]
    return [*lines, "    # prompts: prompts.txt  # what leads to them, a prompt a line; neutral where none are told"]


def _told(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True).split("\n")[0]
