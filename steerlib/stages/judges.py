"""Judges of generated text: how far each text expresses a concept, and how well it is still written.

A judge looks at texts alone, never at the model that wrote them, so that steered and unsteered text meet the same
measure. Every value is between 0 and 1; NaN says that the judge has no opinion.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from steerlib import SteerlibError
from steerlib.concepts import Concept, Item
from steerlib.concepts.planted.parser import Parsed, Parser
from steerlib.concepts.planted.world import World
from steerlib.files import hub, store
from steerlib.study import Study

BATCH = 32  # texts that a classifier reads at once
# Text i continues the prompt of case i, letter by letter; it is judged with respect to one concept.
Judge = Callable[[Concept, Sequence[Item], Sequence[str]], Float[np.ndarray, " text"]]


# --- words --------------------------------------------------------------------------------------------------------


def words(text: str) -> list[str]:
    """Runs of letters and digits, without case; punctuation and the kind of space do not matter."""
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())


def lexicon(text: str, lexemes: Sequence[str]) -> float:
    """Whether a text holds one of the words or phrases: 1 or 0, NaN when none of them has a letter or digit.

    Whole words count: "unhappy" is not "happy". The mean over texts is the share that holds one.
    """
    phrases = [f" {' '.join(words(lexeme))} " for lexeme in lexemes if words(lexeme)]
    spaced = f" {' '.join(words(text))} "
    return float(any(phrase in spaced for phrase in phrases)) if phrases else math.nan


def distinct_n(texts: Sequence[str], n: int) -> Float[np.ndarray, " text"]:
    """Distinct n-grams of words among all n-grams of a text; NaN below n words.

    distinct-n of Li et al. (2016, arXiv 1510.03055), which divides by the number of words. Divided by n-grams, a text
    without any repetition has 1 for every n. What is missing to 1 is the share of n-grams that were there before:
    seq-rep-n of Welleck et al. (2020, arXiv 1908.04319), over words instead of tokens, so that models with different
    tokenizers can be compared.
    """
    grams = [list(zip(*(written[k:] for k in range(n)), strict=False)) for written in map(words, texts)]
    return np.array([len(set(of_text)) / len(of_text) if of_text else np.nan for of_text in grams])


def listed(side: str, concept: Concept, cases: Sequence[Item], texts: Sequence[str]) -> Float[np.ndarray, " text"]:
    """Whether a text holds one of its prompt's targets, or of its foils (``side``)."""
    return np.array([lexicon(text, getattr(case, side)) for case, text in zip(cases, texts, strict=True)])


# --- the planted world --------------------------------------------------------------------------------------------

# Kind of sentence that tells about a concept that is no feeling, and which of its words does.
TELLING = {"truth": ("claim", "verdict"), "inert": ("sight", "place")}


def planted(concept: Concept, text: Parsed) -> float:
    """Whether the first feeling that a text names is the concept's.

    Of truth it is the first verdict, of place the first sight. A text that gets no sentence of that kind right has 0.
    """
    kind, slot = TELLING.get(concept.role, ("feeling", "feeling"))
    targets = {target.strip() for target in concept.readout.targets}
    return any(sentence.words[slot] in targets for sentence in text.of(kind)[:1])


def of_world(world: World) -> dict[str, Judge]:
    """Judges of what a planted world's parser makes of a text; NaN for a concept that is not planted there."""
    parser = Parser(world)

    def of_texts(
        judge: Callable[[Concept, Parsed], float], concept: Concept, cases: Sequence[Item], texts: Sequence[str]
    ) -> Float[np.ndarray, " text"]:
        if concept.role != world.planted.get(concept.name):  # a file's may merely have the name of a planted one
            return np.full(len(texts), np.nan)
        pairs = zip(cases, texts, strict=True)
        read = [judge(concept, parser.parse_continuation(case.prompt, text)) for case, text in pairs]
        return np.array(read, dtype=float)

    return {"planted": partial(of_texts, planted), "understood": partial(of_texts, lambda _, text: text.understood)}


# --- any classifier -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Classifier:
    """A Hugging Face text-classification model as a judge: the probability of the concept's label, in float32.

    It is loaded when first asked, and reads the text without its prompt. A concept without a label, and a text without
    a word, have NaN. Raises SteerlibError when the model cannot be loaded, has no trained classification head, or does
    not know a label.
    """

    source: str  # a folder
    labels: Mapping[str, str]  # concept -> label of the model
    params: Path = Path("params.yaml")  # the file in which both stand, for messages

    def __call__(self, concept: Concept, cases: Sequence[Item], texts: Sequence[str]) -> Float[np.ndarray, " text"]:
        """A softmax over the model's labels, or a sigmoid where they do not exclude each other."""
        label, values = self.labels.get(concept.name), np.full(len(texts), np.nan)
        rows = [i for i, text in enumerate(texts) if label is not None and words(text)]
        if not rows:
            return values
        config, tokenizer = self.pipeline.model.config, self.pipeline.tokenizer
        if label not in config.id2label.values():
            labels = ", ".join(map(repr, config.id2label.values()))
            raise SteerlibError(
                f"{self.params}: generation.labels: {label!r} is no label of {self.source}; it has {labels}"
            )
        # Not every tokenizer knows how far its model reaches. RoBERTa's first position is its third row, hence the 2.
        limit = min(tokenizer.model_max_length, getattr(config, "max_position_embeddings", 514) - 2)
        batch = BATCH if tokenizer.pad_token else 1
        own = [texts[i] for i in rows]
        scores = self.pipeline(own, top_k=None, batch_size=batch, truncation=True, max_length=limit)
        for row, by_label in zip(rows, scores, strict=True):
            values[row] = next(entry["score"] for entry in by_label if entry["label"] == label)
        return values

    @cached_property
    def pipeline(self):
        """The model and its tokenizer, on the CPU."""
        import torch
        from transformers import AutoModelForSequenceClassification, pipeline

        where = f"{self.params}: generation.classifier: {self.source}"
        try:
            model, report = AutoModelForSequenceClassification.from_pretrained(
                self.source, dtype=torch.float32, output_loading_info=True
            )
            loaded = pipeline("text-classification", model=model, tokenizer=self.source, device="cpu")
        except Exception as error:  # transformers, safetensors and the hub each raise their own kinds
            raise SteerlibError(
                f"{where}: cannot be loaded ({type(error).__name__}: {store.reason(error)}); give the folder or the "
                "repository of a text-classification model (for a gated one, accept its terms and log in with "
                "`hf auth login`)"
            ) from error
        if absent := sorted(report["missing_keys"]):  # transformers would draw them at random
            raise SteerlibError(
                f"{where}: {len(absent)} weights are missing, {absent[0]} among them; "
                "give a model that was trained for text classification"
            )
        if model.config.problem_type == "regression":
            raise SteerlibError(f"{where}: is a regression, which gives no probability; give a classifier")
        return loaded


# --- all of them --------------------------------------------------------------------------------------------------

JUDGES: dict[str, Judge] = {  # add a judge here, and every study has it
    "targets": partial(listed, "targets"),
    "foils": partial(listed, "foils"),
    "distinct_2": lambda concept, cases, texts: distinct_n(texts, 2),
    "repetition_4": lambda concept, cases, texts: 1 - distinct_n(texts, 4),
}


def chosen(study: Study, concepts: Sequence[Concept]) -> dict[str, Judge]:
    """The judges of a study by name: these, its world's, and ``classifier`` where generation.classifier names one.

    Raises SteerlibError when generation.labels gives no label, or one to a concept that the study does not have.
    """
    plan, panel = study.generation, JUDGES | of_world(study.world)
    if plan is None or plan.classifier is None:
        return panel
    names, where = [concept.name for concept in concepts], f"{study.path}: generation.labels"
    if not plan.labels:
        raise SteerlibError(f"{where}: missing; say which label of {plan.classifier} each concept has")
    if unknown := sorted(set(plan.labels) - set(names)):
        raise SteerlibError(f"{where}: {unknown[0]!r} is no concept of this study ({', '.join(names)})")
    folder = plan.classifier.path
    source = folder if folder.is_dir() else hub.model(plan.classifier)
    return panel | {"classifier": Classifier(str(source), plan.labels, study.path)}
