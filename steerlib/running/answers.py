"""What one push does to one prompt, computed and told: for `steerlib.explore`.

It pushes by the hooks of `steerlib.steering.by_hand`: what is shown is what anybody gets who pushes by hand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from steerlib import SteerlibError
from steerlib.concepts import Concept
from steerlib.numerics.directions import random_directions
from steerlib.results.opening import OpenStudy
from steerlib.stages.interventions import SCALES
from steerlib.steering import Direction
from steerlib.steering.by_hand import Push, Steerable, push_along
from steerlib.steering.operators import ALONG

TOKENS = 18  # that are written
WORDS = 8  # whose probability is told
FEW = 5  # unknown words that are named
PROMPTS, NEUTRAL = 20, 8  # that are offered
COUNTS = {"full ablation": "of it: 1 takes out all, 2 mirrors", "radian": "radian"}


class Asked(NamedTuple):
    """What is to be shown."""

    step: int
    concept: str
    layer: int | None  # None: the one that the analysis chose
    method: str
    operator: str
    alpha: float
    prompt: str
    neutral: str
    random: int = 0  # which random direction is shown beside it; 0: none

    @classmethod
    def first(cls, study: OpenStudy) -> Asked:
        """What is shown before anything is asked: the last checkpoint, pushed by its own length."""
        concepts, params = study.workspace.concepts, study.params
        concept = next((concept for concept in concepts if concept.role != "null"), concepts[0])
        along = {"layer": None, "method": params.emergence.method, "operator": "add", "alpha": 1.0}
        texts = {"prompt": prompts_of(concept)[0], "neutral": neutral_of(study)[0]}
        return cls(study.here[-1], concept.name, **along, **texts)


@dataclass(frozen=True)
class Written:
    """What the model does under one push, or none."""

    text: str
    shares: Float[np.ndarray, " w"]  # the probability of each of the concept's words
    neutral: str
    kl: float  # nat: how far the next word of the neutral text is from unsteered


@dataclass
class Answer:
    """Of what was asked, by kind (unsteered, pushed, random), with what else is to be said of it."""

    asked: Asked
    layer: int
    unit: str
    words: list[str]
    written: dict[str, Written]
    said: list[str] = field(default_factory=list)


class Pushing:
    """Answers of a study's checkpoints. What the last ones were made of is kept: directions, and what is unsteered."""

    def __init__(self, study: OpenStudy):
        self.study, self._directions, self._still = study, {}, {}
        scale = study.params.sweep.scale
        self.scale = scale if scale in SCALES else "residual_norm"

    def unit(self, operator: str) -> str:
        """What alpha counts."""
        counts = ALONG[operator].counts
        return SCALES[self.scale] if counts == "length" else COUNTS[counts]

    def answer(self, asked: Asked) -> Answer:
        """Raises SteerlibError for what there is not, or what the model cannot take."""
        asked = asked._replace(prompt=asked.prompt.rstrip())  # words begin with their space
        if not asked.prompt:
            raise SteerlibError("Write a prompt: the model goes on from its last word.")
        model, study = self.study.model(asked.step), self.study
        concept = study.workspace.concepts[study.concepts.index(asked.concept)]
        words, said = words_of(concept, asked.prompt)
        said += unknown(model, asked.prompt)
        layer = asked.layer
        if layer is None:
            try:
                layer = study.chosen_layer(asked.concept, asked.step, model.n_layers)
            except SteerlibError:
                layer = model.n_layers // 2
                said.append(
                    f"No analysis has chosen a layer for {asked.concept} at step {asked.step:,} yet: layer {layer}, "
                    f"the middle one, is pushed (`steerlib run {study.params.path}` has one chosen)."
                )
        direction = self._direction(asked, layer)
        along = {"pushed": direction, "random": at_random(direction, asked.random or 1)}
        if not np.any(direction.vector):
            said.append(f"At step {asked.step} no direction of {asked.concept} was found in layer {layer}.")
        key = asked.step, asked.prompt, asked.neutral, tuple(words)
        if key not in self._still:
            self._still = {key: self._written(model, asked, words)}
        still, after = self._still[key]
        written = {"unsteered": still}
        for kind, one in along.items():
            push = push_along(one, asked.alpha, asked.operator, self.scale, study.params.sweep.positions)
            written[kind], _ = self._written(model, asked, words, push, after, kind == "pushed" or asked.random > 0)
        return Answer(asked, layer, self.unit(asked.operator), words, written, said)

    def _direction(self, asked: Asked, layer: int) -> Direction:
        key = asked.step, asked.concept, layer, asked.method
        if key not in self._directions:
            if len(self._directions) > 200:
                self._directions.clear()
            self._directions[key] = self.study.direction(asked.concept, asked.step, layer, asked.method, card=False)
        return self._directions[key]

    def _written(
        self, model: Steerable, asked: Asked, words: Sequence[str], push: Push | None = None, still=None, texts=True
    ) -> tuple[Written, Tensor]:
        """With the log-probabilities of what comes next in the neutral text; ``still`` are those of no push."""
        room = min(TOKENS, (model.encoder.context or 3 * TOKENS) // 3)
        with model.steer(push) if push else nullcontext(), torch.no_grad():
            text, neutral = model.write([asked.prompt, asked.neutral], room) if texts else ("", "")
            after = model.hf(**model.tokens(asked.neutral).inputs).logits[0, -1].cpu().double().log_softmax(-1)
            found = shares(model, asked.prompt, words)
        kl = 0.0 if still is None else float((still.exp() * (still - after)).sum())
        return Written(text, found, neutral, kl), after


def shares(model: Steerable, prompt: str, words: Sequence[str]) -> Float[np.ndarray, " w"]:
    """The probability of each word after the prompt, all of its tokens, as the model is now. Raises SteerlibError."""
    if not words:
        return np.zeros(0)
    added = model.encoder.after([prompt] * len(words), words)
    with torch.no_grad():
        begun = model.hf(**model.tokens([prompt] * len(words)).inputs, use_cache=True)
        found = begun.logits[:, -1].cpu().double().log_softmax(-1)
        total = torch.stack([row[ids[0]] for row, ids in zip(found, added, strict=True)])
        length, seen = max(map(len, added)) - 1, len(model.encoder([prompt])[0])
        if length:  # the rest of them goes on from there; what is behind a word is read by none of its tokens
            rest = torch.tensor([[*ids[:-1], *[0] * (1 + length - len(ids))] for ids in added], device=model.device)
            place = {"position_ids": (seen + torch.arange(length, device=model.device)).expand_as(rest)}
            place["attention_mask"] = torch.ones(len(words), seen + length, dtype=torch.long, device=model.device)
            logits = model.hf(input_ids=rest, past_key_values=begun.past_key_values, use_cache=True, **place).logits
            for k, (ids, row) in enumerate(zip(added, logits.cpu().double().log_softmax(-1), strict=True)):
                total[k] += sum(row[at][token] for at, token in enumerate(ids[1:]))
    return total.exp().numpy()


def at_random(direction: Direction, seed: int) -> Direction:
    """One of the same length that knows nothing of the concept."""
    vector = random_directions(1, len(direction.vector), seed)[0].astype(np.float32)
    return replace(direction, vector=vector, concept=f"random direction {seed}")


def prompts_of(concept: Concept) -> list[str]:
    """Of its readout."""
    return list(dict.fromkeys(case.prompt for case in concept.readout.cases))[:PROMPTS]


def neutral_of(study: OpenStudy) -> list[str]:
    """Neutral passages, cut in the middle."""
    words = [passage.split() for passage in study.params.load_neutral()[:NEUTRAL]]
    return [" ".join(of[: max(3, len(of) // 2)]) for of in words]


def words_of(concept: Concept, prompt: str) -> tuple[list[str], list[str]]:
    """The concept's words after a prompt, and what is to be said where it has none: of items, those of the prompt's."""
    if concept.readout.judged or concept.readout.texts:
        how = "what the model writes is judged" if concept.readout.judged else "whole texts are held against others"
        return [], [f"{concept.name} is read by no words of its own: {how}."]
    cases = concept.readout.cases
    case = next((case for case in cases if case.prompt == prompt), cases[0])
    return case.targets[:WORDS], []


def unknown(model: Steerable, prompt: str) -> list[str]:
    """Which words of a prompt the tokenizer does not have."""
    found, none = {}, model.tokenizer.unk_token_id
    for word in re.finditer(r"[^\W_]+(?:['’][^\W_]+)*", prompt):
        before = " " if prompt[: word.start()].endswith(" ") else ""  # a word begins with its space
        ids = model.tokenizer(before + word[0], add_special_tokens=False)["input_ids"]
        if none is not None and none in ids:
            found[word[0]] = f"“{word[0]}” (read as {model.tokenizer.unk_token})"
        elif len(pieces := [piece for id in ids if (piece := model.tokenizer.decode([id]).strip())]) > 1:
            found[word[0]] = f"“{word[0]}” (read as {'·'.join(pieces)})"
    more = [f"and {len(found) - FEW} more"] if len(found) > FEW else []
    return [f"Words that this model does not know: {', '.join([*found.values()][:FEW] + more)}."] if found else []
