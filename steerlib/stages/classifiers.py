"""Judges that were trained to tell a concept's texts from others: what is generated is judged, and read, by them.

A judge looks at texts alone, never at the model that wrote them, so that steered and unsteered text meet the same
measure. Every value is between 0 and 1; NaN says that the judge has no opinion.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float

from steerlib import SteerlibError
from steerlib.concepts import Concept, Item
from steerlib.files import hub, store
from steerlib.numerics import separability
from steerlib.study import Study

BATCH = 32  # texts that a classifier reads at once
# Text i continues the prompt of case i, letter by letter; it is judged with respect to one concept.
Judge = Callable[[Concept, Sequence[Item], Sequence[str]], Float[np.ndarray, " text"]]


def words(text: str) -> list[str]:
    """Runs of letters and digits, without case; punctuation and the kind of space do not matter."""
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())


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


def named(study: Study, concepts: Sequence[Concept]) -> Classifier | None:
    """The classifier of generation.classifier, if there is one.

    Raises SteerlibError when generation.labels gives no label, or one to a concept that the study does not have.
    """
    plan = study.generation
    if plan is None or plan.classifier is None:
        return None
    names, where = [concept.name for concept in concepts], f"{study.path}: generation.labels"
    if not plan.labels:
        raise SteerlibError(f"{where}: missing; say which label of {plan.classifier} each concept has")
    if unknown := sorted(set(plan.labels) - set(names)):
        raise SteerlibError(f"{where}: {unknown[0]!r} is no concept of this study ({', '.join(names)})")
    folder = plan.classifier.path
    source = folder if folder.is_dir() else hub.model(plan.classifier)
    return Classifier(str(source), plan.labels, study.path)


def own_words(concept: Concept, seed: int) -> Judge:
    """By the words of the concept's held-out half; NaN where it knows none of them.

    Of the texts that directions are fitted on it knows nothing: what these have by chance, directions have as well, and
    a push would be found to write it.
    """
    classifier = separability.bag_of_words(concept.stimuli("test", seed).texts)

    def judge(_: Concept, cases: Sequence[Item], texts: Sequence[str]) -> Float[np.ndarray, " text"]:
        known = np.diff(classifier[0].transform(texts).indptr) > 0
        return np.where(known, classifier.predict_proba(texts)[:, 1], np.nan)

    return judge


def of_readouts(study: Study, concepts: Sequence[Concept]) -> dict[str, Judge]:
    """Who judges what is written, of each concept that is so read: the study's classifier where it has a label there,
    or else the concept's own words."""
    judged = [concept for concept in concepts if concept.readout.judged]
    classifier = named(study, concepts) if judged else None
    labels = classifier.labels if classifier else {}
    return {c.name: classifier if c.name in labels else own_words(c, study.seed) for c in judged}
