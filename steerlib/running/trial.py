"""A concept's readout tried on a checkpoint, unsteered: does it fit, and if not, which other one does?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import transformers

from steerlib import SteerlibError
from steerlib.concepts import Concept, prompt_split
from steerlib.concepts.check import Report
from steerlib.concepts.reading import load
from steerlib.model import Model
from steerlib.stages import fitness, written
from steerlib.stages.classifiers import Judge, own_words
from steerlib.stages.probing import ReadStimuli
from steerlib.stages.verdicts import FITS, enough, verdict, width
from steerlib.steering.asking import matched
from steerlib.study.analysis import Least

FEW = 24  # pairs, over which an AUROC of 0.8 is told from chance three times in four
MANNERS = {
    "texts": "the concept's own held-out texts as what comes next",
    "judged": "what the model itself writes, judged by the concept's own words",
}
JUDGE = "`readout: judged` with a classifier as the judge (generation.classifier and labels in a study)"


def quiet() -> None:
    """No bars of loading among what is to be read."""
    transformers.utils.logging.disable_progress_bar()


def try_readout(
    report: Report, model: Model, others: Sequence[str], seed: int, by: Mapping[str, Judge] | None = None
) -> None:
    """Numbers and a verdict of the concept's readout, and, where it is weak, of others that need no words.

    Where what is written is judged, by the study's judge of it, or by the concept's own words.
    """
    concept = report.concept
    if concept.readout.prompts and not concept.readout.judged and not all(case.foils for case in report.cases):
        report.tried.append("not tried: nothing here says what stands against the targets; name foils")
        return
    judge = (by or {}).get(concept.name)
    try:
        lines, found = _tried(concept, model, seed, judge)
    except SteerlibError as error:  # what is wrong with its tokens stands among the problems
        lines, found = [], f"weak: {error}"
    report.tried += [*lines, f"readout: {found}"]
    if found == FITS:
        return
    words = not (concept.readout.items or concept.readout.judged)
    if words:
        said = ", ".join(map(repr, fitness.likeliest(model, concept)))
        report.tried.append(f"its own next words at the prompts: {said}")
    held_out = len(concept.stimuli("test", seed).positive)
    remedies = [f"more texts, as {held_out} held-out pairs tell little"] * (held_out < FEW)
    remedies += ["other prompts, or targets named as the model says them"] * words
    tried = [concept.readout.texts, concept.readout.judged]
    untried = [manner for k, manner in enumerate(MANNERS) if not any(tried[k:])]
    remedies.append(_instead(report, model, others, seed, untried))
    report.warnings.append(f"readout: {found}. What helps: {'; or '.join(remedies)}")


def _instead(report: Report, model: Model, others: Sequence[str], seed: int, manners: Sequence[str]) -> str:
    """Which other readout fits, of those tried in turn."""
    bare = {"targets": [], "foils": [], "words": {}, "prompts": []}
    for manner in manners:
        try:
            other = load(report.draft.options.model_copy(update=bare | {"readout": manner}), seed).concept(others)
            lines, found = _tried(other, model, seed)
        except SteerlibError as error:
            lines, found = [], f"weak: {error}"
        report.tried += [f"`readout: {manner}` instead: {line}" for line in (*lines, found)]
        if found == FITS:
            return f"`readout: {manner}`, which fits: {MANNERS[manner]}; in a study's entry or the concept's YAML"
    return JUDGE


def _tried(concept: Concept, model: Model, seed: int, judge: Judge | None = None) -> tuple[list[str], str]:
    """What was measured, in words, and the verdict."""
    if concept.readout.judged:
        judge = judge or own_words(concept, seed)
    read = ReadStimuli(model, [concept], seed)
    fit, test = read(concept.name, "fit"), read(concept.name, "test")
    concept, _ = matched(model.encoder, concept)
    readouts = written.readouts(model, [concept], {concept.name: judge}, seed)
    found = fitness.measured(readouts, concept, fit.stimuli, test.stimuli, test.final, seed, judge)
    slopes, tokens = fitness.slopes(readouts, concept, fit.states), found["readout_tokens"]
    prompts = [case.prompt for case in concept.readout.cases]
    least, of = Least().steerability, ", of a whole text" * (tokens > 1)
    rank, share = found["readout_rank"], 100 * found["readout_share"]
    auroc, lower, upper = (found[f"readout_auroc{end}"] for end in ("", "_lower", "_upper"))
    pairs, test = int((found["expression"] >= 0).sum()), int((prompt_split(prompts, seed) == "test").sum())
    leads = (
        f"its {len(prompts)} prompts lead to the targets and foils with {share:.2g} % of the probability, and the "
        f"best is no. {rank:.0f} of all next words (median)"
    )
    if judge:
        leads = f"of what it writes after its {len(prompts)} prompts, {share:.1f} % is the concept's to the judge"
    lines = [] if concept.readout.items else [leads]
    lines += [
        f"evidence before it moves its log-odds: AUROC {auroc:.2f} [{lower:.2f}, {upper:.2f}], {pairs} pairs of texts",
        f"its {test} test prompts make an interval {tokens * width(slopes, test):.2g} nat wide{of}; one of {least:g} "
        f"nat, the least effect that counts, takes {enough(slopes, least / tokens)}",
    ]
    return lines, verdict(found, concept.role)
