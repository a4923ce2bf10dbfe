"""`steerlib concepts check`: a concept's file, or every file that a study names, before anything runs."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from steerlib import SteerlibError
from steerlib.checkpoints import fetching
from steerlib.checkpoints.history import Checkpoint, single
from steerlib.concepts.check import BETWEEN, SHOWN, Report, counts_of, examine, short
from steerlib.concepts.reading import YAML, ConceptFile, Draft, load, opposites
from steerlib.files import hub, params, store
from steerlib.files.hashes import file_sha256
from steerlib.files.params import Located
from steerlib.results.workspace import Workspace
from steerlib.study import Study
from steerlib.study.checkpoints import Checkpoints, Loading

TOLD = 8  # remarks at the start of a run; the check tells them all


def check(
    named: str | Path,
    options: dict[str, Any],
    model: str | None = None,
    base: str | None = None,
    tokenizer: str | None = None,
) -> list[Report]:
    """Reports on a concept's file, read with these options of a study's entry, or on all files that a study names.

    With a checkpoint as ``model``, folder or repository, they also tell how it splits texts, targets and foils, and
    whether it answers to the readout. Raises SteerlibError.
    """
    file, study, others = Path(named), None, ()
    if file.suffix.lower() not in YAML or "://" in str(named) or "concepts" not in params.read(file):
        entry = params.validate({"file": str(named), **options}, named, ConceptFile, folder=Path())
        reports = [examine(load(entry))]
    elif options:
        raise SteerlibError(f"{file}: {', '.join(options)}: a study's own entries say it")
    else:
        study = Study.load(file)
        others = opposites(study.read_concepts())
        if not (reports := reports_of(study)):
            raise SteerlibError(f"{file}: concepts: names planted concepts only, which need no check")
    if model is not None:
        from steerlib.model import load as load_model
        from steerlib.running.trial import quiet, try_readout
        from steerlib.stages.classifiers import of_readouts

        quiet()
        judges = of_readouts(study, study.load_concepts()) if study else {}
        loaded = load_model(checkpoint_of(model, base, tokenizer, study))
        for report in reports:
            check_tokens(report, loaded.encoder)
            try_readout(report, loaded, others, study.seed if study else 0, judges)
    return reports


def checkpoint_of(model: str, base: str | None, tokenizer: str | None, study: Study | None) -> Checkpoint:
    """The checkpoint of --model, with --base and --tokenizer or those of the study, loaded as that says.

    Raises SteerlibError where one of them cannot be had.
    """
    plan, loading = (study.checkpoints, study.loading) if study else (Checkpoints(), Loading())

    def had(option: str, told: str | None, of_study: Located | None = None) -> Path | None:
        named = Located(told) if told else of_study
        return named and fetching.model(named, f"--{option}")

    under, words = had("base", base, plan.base), had("tokenizer", tokenizer, plan.tokenizer)
    return single(had("model", model), under, "by --base", loading, words)


def reports_of(study: Study) -> list[Report]:
    """On all files of concepts that a study names."""
    concepts = study.read_concepts()
    drafts = [concept for concept in concepts if isinstance(concept, Draft)]
    return [examine(draft, opposites(concepts), study.seed) for draft in drafts]


def check_tokens(report: Report, encoder) -> None:
    """How texts, targets and foils are split, and whether their tokens tell them apart."""
    from steerlib.steering.asking import examine

    problems, warnings, notes = examine(encoder, report.concept, report.cases)
    report.problems += [f"tokens: {problem}" for problem in problems]
    report.warnings += warnings
    report.notes += notes


def admit(workspace: Workspace) -> list[str]:
    """What to know of a study's concepts before they are used, and of the tokenizers that lie on this disk.

    Raises SteerlibError where `check` says not to use one. What is wrong with the tokenizer of some checkpoints alone
    is told: their jobs will fail, and no others.
    """
    study, concepts, tokenizers = workspace.study, workspace.concepts, list(_tokenizers(workspace))
    reports = {report.concept.name: report for report in reports_of(study)}
    wrong = [f"{name}: {problem}" for name, report in reports.items() for problem in report.problems]
    told, warned, of_all = [], [], []
    for encoder, steps in tokenizers:
        from steerlib.steering.asking import all_texts, difference, examine

        asked = all_texts(concepts) if len(tokenizers) > 1 else []
        if not (other := difference(encoder, tokenizers[0][0], asked)) and of_all:
            continue  # other files, but the same tokens
        at = f"step {_shown(steps)}: " if asked else ""
        told += [f"{at}another tokenizer than at step {tokenizers[0][1][0]}: {other}"] if other else []
        found = {concept.name: examine(encoder, concept, concept.readout.cases) for concept in concepts}
        of_all.append([f"{at}{name}: tokens: {line}" for name, (problems, *_) in found.items() for line in problems])
        warned += [f"{at}{name}: {line}" for name in reports for line in found[name][1]]
    told += [line for lines in of_all for line in lines]
    if of_all and all(of_all):
        wrong += of_all[0]
    if wrong:
        more = f"; {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise SteerlibError(f"{study.path}: do not use these concepts as they are: {'; '.join(wrong[:SHOWN])}{more}")
    told += warned + [f"{name}: {warning}" for name, report in reports.items() for warning in report.warnings]
    if len(told) > TOLD:
        told[TOLD:] = [f"{len(told) - TOLD} more to look at: steerlib concepts check {study.path}"]
    return told


def _tokenizers(workspace: Workspace) -> Iterator[tuple[Any, list[int]]]:
    """Of checkpoints that lie on this disk, each once, with their steps.

    One that does not load is told, and is its jobs' affair, as is one with code of its own, which no driver need run.
    """
    steps: dict[tuple, list[int]] = {}
    for step, checkpoint in workspace.checkpoints.items():
        folder = checkpoint.tokenizer or checkpoint.path
        files = [folder / name for name in hub.TOKENIZER]
        if hashes := tuple(file_sha256(file) for file in files if file.is_file()):
            steps.setdefault(hashes, []).append(step)
    for same in steps.values():
        from steerlib.model.encoder import Encoder

        one = workspace.checkpoints[same[0]]
        try:
            yield Encoder.of_files(one.whole, one.tokenizer or one.path, one.base and one.path), same
        except SteerlibError as error:
            if not one.loading.trust_remote_code:  # whose code is run by its jobs alone
                store.tell(f"step {_shown(same)} will fail: {error}")


def _shown(steps: Sequence[int]) -> str:
    return ", ".join(map(str, steps[:SHOWN])) + " …" * (len(steps) > SHOWN)


def show(report: Report, console: Console) -> None:
    """The report as tables and lists, the verdict last."""
    concept, draft, tested = report.concept, report.draft, report.draft.tested

    def say(title: str, lines: Sequence[str], colour: str = "bold") -> None:
        for k, line in enumerate(lines):
            head = f"{title}:" if k == 0 else ""
            console.print(Text(f"{head:<12}", colour), line, soft_wrap=True, highlight=False)

    say("concept", [f"{concept.name}, from {draft.path}", f"in the file: {counts_of(draft)}"])
    if tested:
        near = next((line for line in report.warnings if line.startswith(BETWEEN)), None)
        overlap = f"no text of it is fitted on; {near or 'nor is any nearly the same'}"
        say("tested on", [str(tested.path), f"in the file: {counts_of(tested)}", f"overlap: {overlap}"])
    table = Table("templates", "number", "pairs", "words, positive", "words, negative", box=box.SIMPLE)
    for half in ("fit", "test"):
        words = [[len(text.split()) for text in texts] for texts in report.sides(half)]
        spread = ["{:.0f} ({:.0f} to {:.0f})".format(*np.percentile(side, [50, 0, 100])) for side in words]
        table.add_row(half, str(np.sum(report.halves == half)), str(len(words[0])), *spread)
    console.print(table)
    cases, own = concept.readout.cases, ""
    if concept.readout.judged:
        own = "; what the model writes there is judged"
    elif concept.readout.texts:
        pair = " or ".join(short(text, 40) for side in (cases[0].targets, cases[0].foils) for text in side[:1])
        own = f", each with one of its own held-out texts on either side: {pair}"
    say("readout", [f"{len(cases)} prompts, such as {short(cases[0].prompt)}{own}"])
    first = draft.templates[0]
    shown = zip(first.positive[:SHOWN], first.negative[:SHOWN], strict=True)
    say("pairs", [f"{sign} {short(text, 100)}" for pair in shown for sign, text in zip("+−", pair, strict=True)])
    if draft.frame:
        say("frame", [repr(draft.frame), f"as in {concept.templates[0].positive[0]!r}"])
    say("by default", draft.defaults + [f"test file: {line}" for line in (tested.defaults if tested else [])])
    left_out = [*draft.losses, *concept.readout.losses]
    say("left out", left_out + [f"test file: {line}" for line in (tested.losses if tested else [])])
    say("tokens", report.notes)
    say("the model", report.tried)
    say("warnings", report.warnings, "yellow")
    say("problems", report.problems, "red")
    console.print(report.verdict, style="red" if report.problems else "green", soft_wrap=True, highlight=False)
