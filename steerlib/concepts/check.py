"""Whether a concept's texts can carry what a study will conclude from them.

Problems make results wrong, as when a direction is tested on a text that it was fitted on. Warnings make them weaker,
or are worth a look. What defaults filled in, and what could not be used, is listed beside them.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from os.path import commonprefix

import numpy as np
from jaxtyping import Int, Shaped

from steerlib.concepts.concept import Concept, Item
from steerlib.concepts.reading.drafts import Draft, pronoun
from steerlib.concepts.repeats import normalised

UNEVEN = 2.0  # how many times as often the largest label may stand in the file as the smallest
GIVEAWAY = 0.65  # AUROC of length alone from which a direction may have found length
LEAN = 0.15  # by how much the share of a pronoun may differ between the sides (more in few texts, by chance)
ALIKE = 0.7  # Jaccard similarity of word triples from which two texts are near-duplicates
COMMON = 100  # texts in which a triple may stand; one in more is a wording, not a copy (this also bounds the time)
PAIRS, PROMPTS = 24, 12  # fewer give wide intervals
SHOWN = 3  # examples
SIDES = ("positive", "negative")
BETWEEN = "near-duplicates between fit and test"


@dataclass
class Report:
    """What the checks say of a concept."""

    draft: Draft
    concept: Concept
    halves: Shaped[np.ndarray, " template"]  # 'fit' or 'test'
    cases: list[Item]  # of the readout, without foils where nothing says what they are
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)  # what a checkpoint made of the readout

    @property
    def verdict(self) -> str:
        if self.problems:
            return f"Do not use {self.concept.name} as it is: {len(self.problems)} to mend."
        return f"{self.concept.name} can be used" + (f"; {len(self.warnings)} to look at." if self.warnings else ".")

    @property
    def options(self) -> list[str]:
        """All distinct targets and foils."""
        return list(dict.fromkeys(option for case in self.cases for option in case.targets + case.foils))

    def sides(self, *halves: str) -> list[list[str]]:
        """Positive and negative texts of these halves, without their frame."""
        templates = [t for t, half in zip(self.draft.templates, self.halves, strict=True) if half in halves]
        return [[text for template in templates for text in getattr(template, side)] for side in SIDES]


def examine(draft: Draft, others: Sequence[str] = (), seed: int = 0) -> Report:
    """All checks of a concept beside ``others``. Raises SteerlibError when file and study contradict each other."""
    alone = draft.lacks_foils and not set(others) - {draft.name}
    concept = draft.concept(["anything else"] if alone else others)  # its stimuli can be looked at all the same
    cases = concept.readout.cases
    if alone:
        cases = [case.model_copy(update={"foils": []}) for case in cases]
    report = Report(draft, concept, concept.halves(seed), cases)
    _check_stimuli(report)
    _check_leaks(report)
    if alone:
        report.warnings.append("foils: none here; in a study the names of its other concepts take their place")
    if len(cases) < PROMPTS:
        report.warnings.append(f"few readout prompts: {len(cases)}; below {PROMPTS} intervals are wide")
    if glued := [option for option in report.options if not option[0].isspace()]:
        report.warnings.append(f"no space before {len(glued)} targets or foils, such as {glued[0]!r}")
    return report


def _check_stimuli(report: Report) -> None:
    """Their number, and whether their length or their pronouns tell positive from negative."""
    draft, templates = report.draft, report.draft.templates
    report.warnings += draft.hints
    for file, where in ((draft, ""), (draft.tested, "test file: ")):
        if file and max(file.counts.values()) > UNEVEN * min(file.counts.values()):
            report.warnings.append(f"{where}imbalance: {counts_of(file)}; the surplus of the larger side is left out")
    if (pairs := sum(len(template.positive) for template in templates)) < PAIRS:
        report.warnings.append(f"few stimuli: {pairs} pairs; below {PAIRS} intervals are wide")
    lengths = [len(text.split()) for texts in report.sides("fit", "test") for text in texts]
    from sklearn.metrics import roc_auc_score  # a second's import, not of a run of planted concepts

    auroc = roc_auc_score(np.repeat([1, 0], pairs), lengths)
    if max(auroc, 1 - auroc) > GIVEAWAY:
        remedy = (
            "" if draft.options.length else ": `length: match` pairs texts as long as each other and drops the rest"
        )
        report.warnings.append(
            f"length: {'more' if auroc > 0.5 else 'fewer'} words alone tell positive from negative (AUROC "
            f"{max(auroc, 1 - auroc):.2f}); a direction may find length instead of {report.concept.name}{remedy}"
        )
    for half in ("fit", "test") if draft.frame and "{they}" in draft.frame else ():
        counts = [Counter(map(pronoun, texts)) for texts in report.sides(half)]
        shares = {word: [side[word] / side.total() for side in counts] for word in counts[0] | counts[1]}
        word, (positive, negative) = max(shares.items(), key=lambda share: abs(share[1][0] - share[1][1]))
        if abs(positive - negative) > max(LEAN, 1.5 / np.sqrt(counts[0].total())):
            report.warnings.append(
                f"frame: in {half}, {word!r} is said of {positive:.0%} of the positive and {negative:.0%} of the "
                "negative texts; a direction may find the pronoun"
            )


def _check_leaks(report: Report) -> None:
    """Texts in several templates, or on both sides; prompts that are stimuli; near-duplicates across the split."""
    templates = report.draft.templates  # without the frame, which makes texts more alike
    places: dict[str, Counter] = {}
    for number, template in enumerate(templates):
        for side in SIDES:
            for text in getattr(template, side):
                places.setdefault(normalised(text), Counter())[number, side] += 1
    if shared := [text for text, counts in places.items() if len({number for number, _ in counts}) > 1]:
        names = ", ".join(dict.fromkeys(templates[number].name for number, _ in places[shared[0]]))
        report.warnings.append(
            f"in several templates, which are never parted: {len(shared)} texts, such as {short(shared[0])} ({names})"
        )
    if both := [text for text, counts in places.items() if len({side for _, side in counts}) > 1]:
        report.warnings.append(f"both positive and negative: {len(both)} texts, such as {short(both[0])}")
    if again := [text for text, counts in places.items() if max(counts.values()) > 1]:
        report.warnings.append(f"repeated within a template: {len(again)} texts, such as {short(again[0])}")

    prompts = [case.prompt for case in report.concept.readout.cases]
    fitted = {normalised(text) for template in templates if template.split != "test" for text in template.texts}
    if same := [prompt for prompt in prompts if normalised(prompt) in fitted]:  # those in their frame were left out
        report.problems.append(f"leak: {len(same)} readout prompts are stimuli without their frame: {short(same[0])}")
    stimuli = {*places, *(normalised(text) for template in report.concept.templates for text in template.texts)}
    if begun := [prompt for prompt in prompts if any(text.startswith(normalised(prompt) + " ") for text in stimuli)]:
        report.warnings.append(f"stimuli begin with {len(begun)} of the readout prompts, such as {short(begun[0])}")

    told = [text for template in templates for text in template.texts]
    bare, told = bare_words(told) + bare_words(prompts), told + prompts
    halves = np.repeat(report.halves, [len(template.texts) for template in templates])
    part = np.concatenate([halves, np.full(len(prompts), "prompt")])
    first, second = near_duplicates(bare, part)
    of_prompt = part[second] == "prompt"  # prompts stand last
    for pair, fault in ((~of_prompt, BETWEEN), (of_prompt, "near-duplicates between stimuli and readout prompts")):
        ends = zip(first[pair], second[pair], strict=True)
        if distinct := [(i, k) for i, k in ends if normalised(told[i]) != normalised(told[k])]:
            example = " and ".join(short(" ".join(bare[i])) for i in distinct[0])
            report.warnings.append(f"{fault}: {len(distinct)}, such as {example}")


def counts_of(draft: Draft) -> str:
    return ", ".join(f"{label} {count}" for label, count in draft.counts.items())


def short(text: str, room: int = 60) -> str:
    text, half = " ".join(text.split()), room // 2
    return repr(text if len(text) <= room else f"{text[:half]} … {text[-half:]}")


# --- texts that are nearly the same --------------------------------------------------------------------------------


def near_duplicates(
    texts: Sequence[Sequence[str]], part: Shaped[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " found"], Int[np.ndarray, " found"]]:
    """Pairs of texts (as words) in different parts, of which a share `ALIKE` of all word triples is in both.

    Only texts that share a triple which is not `COMMON` are compared: memory and time grow with the number of texts,
    not with its square.
    """
    from scipy.sparse import csr_array
    from sklearn.feature_extraction.text import CountVectorizer

    split = CountVectorizer(analyzer=_triples, binary=True, dtype=np.int32)
    triples = csr_array(split.fit_transform(texts))
    rare = triples[:, np.flatnonzero(triples.sum(0) <= COMMON)]
    candidates = (rare @ rare.T).tocoo()
    apart = (candidates.row < candidates.col) & (part[candidates.row] != part[candidates.col])
    first, second = candidates.row[apart], candidates.col[apart]
    common = triples[first].multiply(triples[second]).sum(1)
    size = triples.sum(1)
    alike = common >= ALIKE * (size[first] + size[second] - common)
    return first[alike], second[alike]


def _triples(words: Sequence[str]) -> list[str]:
    return [" ".join(words[i : i + 3]) for i in range(max(1, len(words) - 2))]


def bare_words(texts: Sequence[str]) -> list[list[str]]:
    """Words in lower case, without the wording that all texts begin and end with."""
    texts = [normalised(text).casefold().split() for text in texts]
    head = len(commonprefix(texts))  # noqa: RUF071 -- of words, not of letters
    texts = [words[head:] for words in texts]
    tail = len(commonprefix([words[::-1] for words in texts]))  # noqa: RUF071
    return [words[: len(words) - tail] for words in texts]
