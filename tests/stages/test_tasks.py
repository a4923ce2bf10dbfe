"""Tasks: right answers about one concept while another is pushed, as a plain forward pass gives them, text by text."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.linear import PROMPTS, linear, plan, three, write_files
from helpers.models import build
from helpers.plain import LONG, at, changing, concept, forward, hooked, ids
from steerlib.stages import fitness, tasks
from steerlib.steering import Arm
from steerlib.steering.operators import Add

PAIRS = 3
LAYER = 1


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    write_files(folder)
    return plan(folder)


def arm(model, strength: float, seed: int = 0) -> tuple[int, Arm]:
    vector = torch.randn(1, model.hidden, generator=torch.Generator().manual_seed(seed))
    return LAYER, Arm(Add(vector), torch.tensor([strength]))


def asked(study, task) -> fitness.Evidence:
    return fitness.evidence(task, *(task.stimuli(split, study.seed) for split in ("fit", "test"))).some(PAIRS)


def by_the_book(model, study, task, push: torch.Tensor | float) -> list[float]:
    """Of each text: whether a target comes first, or none where the text is not of the concept."""
    evidence, right = asked(study, task), []
    for k, text in enumerate(evidence.texts):
        tokens, case = ids(model, text), task.readout.cases[evidence.prompt[k]]
        pushed = {LAYER: lambda states: states + push}

        def score(word: str, tokens=tokens, pushed=pushed) -> float:
            more = ids(model, word)
            with hooked(model, changing(pushed, at(len(tokens), "generated"))):
                logits = forward(model, tokens + more).logits[0].log_softmax(-1)
            return sum(float(logits[len(tokens) - 1 + i, token]) for i, token in enumerate(more))

        first = max(map(score, case.targets)) > max(map(score, case.foils))
        right.append(float(first == (k < len(evidence.texts) // 2)))
    return right


def test_answers_are_those_of_plain_forward_passes_and_a_push_changes_some(study):
    model, concepts = linear(), three()
    pushed = {"joy": arm(model, 3.0), "rest": arm(model, 3.0, 1)}
    found, changed = tasks.answers(model, study, concepts, pushed, PAIRS), 0
    for task in concepts:
        rows = slice(2 * len(asked(study, task).unit))
        here = found.sel(task=task.name)
        assert here.right.values[rows].tolist() == by_the_book(model, study, task, 0.0)
        for name, (_, one) in pushed.items():
            if name == task.name:
                assert here.right_pushed.sel(concept=name).isnull().all(), "its own task"
                continue
            expected = by_the_book(model, study, task, one.strength * one.operator.step[0])
            assert here.right_pushed.sel(concept=name).values[rows].tolist() == expected
            changed += expected != here.right.values[rows].tolist()
    assert changed >= 2


@pytest.mark.parametrize("architecture", ["gpt_neox", "llama"])
def test_options_of_several_tokens_are_pushed_on_all_of_them(study, architecture):
    model = build(architecture)
    concepts = [three()[1], concept("joy", PROMPTS, **LONG)]
    pushed = {"calm": arm(model, 40.0, 3)}
    found = tasks.answers(model, study, concepts, pushed, PAIRS).sel(task="joy")
    _, one = pushed["calm"]
    assert found.right.dropna("evidence").values.tolist() == by_the_book(model, study, concepts[1], 0.0)
    expected = by_the_book(model, study, concepts[1], one.strength * one.operator.step[0])
    assert found.right_pushed.sel(concept="calm").dropna("evidence").values.tolist() == expected


def test_what_cannot_be_asked_is_not_there(study):
    """A push that has no strength, and a text that is longer than the model reads, with the other of its pair."""
    model, concepts = linear(), three()
    found = tasks.answers(model, study, concepts, {"joy": arm(model, np.nan)}, PAIRS)
    assert found.right_pushed.isnull().all() and found.right.sel(task="calm").notnull().any()
    long = " ".join(["Anna"] * 2000)
    stimuli = {"positive": ["Anna home", f"{long} b", "mad a"], "negative": ["Anna ran", "b ran", "happy d"]}
    concepts[1] = concept("calm", PROMPTS, [" home"], [" mad"], stimuli)
    found = tasks.answers(model, study, concepts, {"joy": arm(model, 1.0)}, PAIRS)
    assert found.right.sel(task="calm").isnull().sum() == 2


def test_pairs_are_taken_from_all_over_and_stay_pairs():
    texts = [f"with {k}" for k in range(10)] + [f"without {k}" for k in range(10)]
    some = fitness.Evidence(texts, [*range(10)] * 2, np.arange(10)).some(4)
    assert some.texts == [f"{side} {k}" for side in ("with", "without") for k in (0, 3, 6, 9)]
    assert some.prompt == [0, 3, 6, 9] * 2 and some.unit.tolist() == [0, 3, 6, 9]
    few = fitness.Evidence(["a", "b"], [0, 0], np.zeros(1, int))
    assert few.some(4).texts == ["a", "b"]
