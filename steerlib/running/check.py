"""`steerlib concepts check`: a concept's file, or every file that a study names, before anything runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from steerlib import SteerlibError
from steerlib.concepts.check import BETWEEN, SHOWN, Report, counts_of, examine, short
from steerlib.concepts.reading import YAML, ConceptFile, Draft, load, opposites
from steerlib.files import params
from steerlib.study import Study


def check(file: Path, options: dict[str, Any], model: Path | None = None) -> list[Report]:
    """Reports on a concept's file, read with these options of a study's entry, or on all files that a study names.

    With the folder of a checkpoint as ``model``, they also tell how it splits targets and foils. Raises SteerlibError.
    """
    if file.suffix.lower() not in YAML or "concepts" not in params.read(file):
        entry = params.validate({"file": str(file), **options}, file, ConceptFile, folder=Path())
        reports = [examine(load(entry))]
    elif options:
        raise SteerlibError(f"{file}: {', '.join(options)}: a study's own entries say it")
    else:
        study = Study.load(file)
        concepts = study.read_concepts()
        drafts = [concept for concept in concepts if isinstance(concept, Draft)]
        if not drafts:
            raise SteerlibError(f"{file}: concepts: names planted concepts only, which need no check")
        reports = [examine(draft, opposites(concepts), study.seed) for draft in drafts]
    if model is not None:
        tokenizer = load_tokenizer(model)
        for report in reports:
            check_tokens(report, tokenizer)
    return reports


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


def check_tokens(report: Report, tokenizer) -> None:
    """How targets and foils are split, and whether their tokens tell them apart."""
    tokens = {option: tokenizer(option, add_special_tokens=False)["input_ids"] for option in report.options}
    pieces = {option: " + ".join(repr(tokenizer.decode([t])) for t in ids) for option, ids in tokens.items()}
    several = [f"{option!r} = {pieces[option]}" for option, ids in tokens.items() if len(ids) > 1]
    single = len(tokens) - len(several)
    report.notes.append(f"{single} of {len(tokens)} targets and foils are one token, {len(several)} several")
    report.notes += several[:SHOWN]
    if len(several) > SHOWN:
        report.notes.append(f"{len(several) - SHOWN} more of several tokens")
    unknown = tokenizer.unk_token_id
    if lost := [option for option, ids in tokens.items() if not ids or (unknown is not None and unknown in ids)]:
        report.problems.append(
            f"tokens: this model has none for {', '.join(map(repr, lost[:SHOWN]))}; choose other words"
        )
    pairs = [(target, foil) for case in report.cases for target in case.targets for foil in case.foils]
    pairs = [(t, f) for t, f in dict.fromkeys(pairs) if tokens[t] and tokens[f] and not {t, f} & {*lost}]
    if same := [pair for pair in pairs if tokens[pair[0]] == tokens[pair[1]]]:
        report.problems.append(
            f"tokens: target {same[0][0]!r} and foil {same[0][1]!r} are the same tokens to this model"
        )
    if shared := [(t, f) for t, f in pairs if tokens[t][0] == tokens[f][0] and tokens[t] != tokens[f]]:
        target, foil = shared[0]
        report.warnings.append(
            f"first token shared by target and foil: {len(shared)} pairs, such as {pieces[target]} and {pieces[foil]}; "
            "only what follows tells them apart"
        )


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
    cases = concept.readout.cases
    say("readout", [f"{len(cases)} prompts, such as {short(cases[0].prompt)}"])
    first = draft.templates[0]
    shown = zip(first.positive[:SHOWN], first.negative[:SHOWN], strict=True)
    say("pairs", [f"{sign} {short(text, 100)}" for pair in shown for sign, text in zip("+−", pair, strict=True)])
    if draft.frame:
        say("frame", [repr(draft.frame), f"as in {concept.templates[0].positive[0]!r}"])
    say("by default", draft.defaults + [f"test file: {line}" for line in (tested.defaults if tested else [])])
    left_out = [*draft.losses, *concept.readout.losses]
    say("left out", left_out + [f"test file: {line}" for line in (tested.losses if tested else [])])
    say("tokens", report.notes)
    say("warnings", report.warnings, "yellow")
    say("problems", report.problems, "red")
    console.print(report.verdict, style="red" if report.problems else "green", soft_wrap=True, highlight=False)
