"""A concept's readout tried on a checkpoint, unsteered: does it fit, and if not, which other one does?"""

from __future__ import annotations

from collections.abc import Sequence

import transformers

from steerlib import SteerlibError
from steerlib.concepts import Concept, prompt_split
from steerlib.concepts.check import Report
from steerlib.concepts.reading import load
from steerlib.model import Model
from steerlib.stages import fitness
from steerlib.stages.probing import ReadStimuli
from steerlib.stages.verdicts import FITS, enough, verdict
from steerlib.steering.asking import matched
from steerlib.study.study import Least

FEW = 24  # pairs, over which an AUROC of 0.8 is told from chance three times in four
JUDGE = "generated text, scored by a classifier (generation.classifier in a study)"


def quiet() -> None:
    """No bars of loading among what is to be read."""
    transformers.utils.logging.disable_progress_bar()


def try_readout(report: Report, model: Model, others: Sequence[str], seed: int) -> None:
    """Numbers and a verdict of the concept's readout, and, where it is weak, of its own texts as another."""
    concept = report.concept
    if not concept.readout.items and not all(case.foils for case in report.cases):
        report.tried.append("not tried: nothing here says what stands against the targets; name foils")
        return
    try:
        lines, found = _tried(concept, model, seed)
    except SteerlibError as error:  # what is wrong with its tokens stands among the problems
        lines, found = [], f"weak: {error}"
    report.tried += [*lines, f"readout: {found}"]
    if found == FITS:
        return
    words = not concept.readout.items
    if words:
        said = ", ".join(map(repr, fitness.likeliest(model, concept)))
        report.tried.append(f"its own next words at the prompts: {said}")
    held_out = len(concept.stimuli("test", seed).positive)
    remedies = [f"more texts, as {held_out} held-out pairs tell little"] * (held_out < FEW)
    remedies += ["other prompts, or targets named as the model says them"] * words
    if not concept.readout.texts:
        remedies.append(_by_texts(report, model, others, seed))
    else:
        remedies.append(JUDGE)
    report.warnings.append(f"readout: {found}. What helps: {'; or '.join(remedies)}")


def _by_texts(report: Report, model: Model, others: Sequence[str], seed: int) -> str:
    """Whether the concept's own texts would be a better readout."""
    bare = {"readout": "texts", "targets": [], "foils": [], "words": {}, "prompts": []}
    try:
        other = load(report.draft.options.model_copy(update=bare), seed).concept(others)
        lines, found = _tried(other, model, seed)
    except SteerlibError as error:
        return f"{JUDGE}, as its own texts cannot be one ({error})"
    report.tried += [f"`readout: texts` instead: {line}" for line in (*lines, found)]
    if found == FITS:
        return (
            "`readout: texts`, which fits: the concept's own held-out texts, in a study's entry or the concept's YAML"
        )
    return f"{JUDGE}, as its own texts are weak, too"


def _tried(concept: Concept, model: Model, seed: int) -> tuple[list[str], str]:
    """What was measured, in words, and the verdict."""
    read = ReadStimuli(model, [concept], seed)
    fit, test = read(concept.name, "fit"), read(concept.name, "test")
    found = fitness.measured(model, concept, fit.stimuli, test.stimuli, test.final, seed)
    slopes, tokens = fitness.slopes(model, concept, fit.states), found["readout_tokens"]
    prompts = [case.prompt for case in matched(model.encoder, concept)[0].readout.cases]
    least, width = Least().steerability, f"{Least().steerability:g} nat" + " (of a whole text)" * (tokens > 1)
    rank, share = found["readout_rank"], 100 * found["readout_share"]
    auroc, lower, upper = (found[f"readout_auroc{end}"] for end in ("", "_lower", "_upper"))
    pairs, test = int((found["expression"] >= 0).sum()), int((prompt_split(prompts, seed) == "test").sum())
    leads = (
        f"its {len(prompts)} prompts lead to the targets and foils with {share:.2g} % of the probability, and the "
        f"best is no. {rank:.0f} of all next words (median)"
    )
    lines = [] if concept.readout.items else [leads]
    lines += [
        f"evidence before it moves its log-odds: AUROC {auroc:.2f} [{lower:.2f}, {upper:.2f}], {pairs} pairs of texts",
        f"an interval {width} wide, the least effect that counts, takes {enough(slopes, least / tokens)} test prompts; "
        f"there are {test}",
    ]
    return lines, verdict(found, concept.role)
