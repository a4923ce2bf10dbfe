"""Fine-tuned checkpoints: trained, repeatable, of any architecture, and on what no stimulus is made of."""

import re
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers.models import SHAPES
from steerlib import SteerlibError
from steerlib.checkpoints.history import Checkpoint
from steerlib.concepts.planted import stories
from steerlib.concepts.planted.vocabulary import FOODS, TOYS, UNFAMILIAR
from steerlib.concepts.planted.world import DEFAULT
from steerlib.model import load
from steerlib.stages import finetuning, training
from steerlib.study import Study

EMOTIONS = DEFAULT.emotions
FEELING = {word: name for name, emotion in EMOTIONS.items() for word in emotion.feelings}
VERB = {verb: name for name, emotion in EMOTIONS.items() for verb in emotion.verbs}


def study(**plan) -> Study:
    return Study(
        name="tuned",
        checkpoints={"folder": "history"},
        concepts=["happiness"],
        finetuning={"documents": 60, "context": 16, "steps": 12, "batch": 8, "learning_rate": 3e-3, **plan},
    )


def weights(folder) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


@pytest.mark.parametrize("architecture", SHAPES)
def test_it_learns_and_saves_an_ordinary_checkpoint(tmp_path, checkpoint, architecture):
    original = Checkpoint(1, checkpoint(1, architecture), -1)
    before = original.weights_sha256
    tuned = finetuning.finetune(study(), original, tmp_path / "tuned")
    assert tuned.loss.sizes == {"update": 12}
    assert float(tuned.loss[-3:].mean()) < float(tuned.loss[:3].mean()) - 0.1
    after = Checkpoint(1, tmp_path / "tuned", -1)
    assert load(after).read(["Anna felt"]).states.isfinite().all()
    assert before != after.weights_sha256
    assert Checkpoint(1, original.path, -1).weights_sha256 == before, "the original stays as it was"
    was, now = weights(original.path), weights(after.path)
    assert was.keys() == now.keys() and not any(torch.equal(was[name], now[name]) for name in was if "norm" not in name)


def test_a_tokenizer_larger_than_the_model_is_told(tmp_path, checkpoint):
    folder = checkpoint(1)
    words = AutoTokenizer.from_pretrained(folder)
    words.add_tokens(["the"])
    words.save_pretrained(folder)
    with pytest.raises(SteerlibError, match="step-1: finetuning: token 'the' has id 20, but the model has only 20"):
        finetuning.finetune(study(), Checkpoint(1, folder, -1), tmp_path / "tuned")


def test_the_same_params_give_the_same_weights_and_another_seed_others(tmp_path, checkpoint):
    original = Checkpoint(1, checkpoint(1), -1)
    hashes = {}
    given = {"one": study(), "again": study(), "other": study().model_copy(update={"seed": 1}), "own": study(seed=1)}
    for name, of in given.items():
        torch.manual_seed(len(hashes))  # whatever the process has drawn before
        finetuning.finetune(of, original, tmp_path / name)
        hashes[name] = Checkpoint(1, tmp_path / name, -1).weights_sha256
    assert hashes["one"] == hashes["again"] != hashes["other"]
    assert hashes["own"] == hashes["other"], "its own seed changes the fine-tuning, and that alone"


def test_dropout_of_an_architecture_that_has_it_stays_off(tmp_path, checkpoint):
    original = Checkpoint(1, checkpoint(1, "gpt2"), -1)
    assert load(original).hf.config.attn_pdrop > 0
    losses = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        losses.append(finetuning.finetune(study(), original, tmp_path / "tuned").loss)
    assert np.array_equal(*losses)


def test_any_text_file_can_take_the_corpus_place(tmp_path, checkpoint):
    original, text = Checkpoint(1, checkpoint(1), -1), tmp_path / "own.txt"
    text.write_text("Anna felt happy\n" * 100, encoding="utf-8")
    loss = finetuning.finetune(study(corpus=str(text)), original, tmp_path / "tuned").loss
    assert float(loss[-1]) < float(loss[0]) - 0.5
    text.write_text("Anna felt")
    with pytest.raises(SteerlibError, match=r"finetuning\.corpus has 2 tokens, fewer than one context of 16"):
        finetuning.finetune(study(corpus=str(text)), original, tmp_path / "short")
    text.write_text(" \n")
    with pytest.raises(SteerlibError, match=r"finetuning\.corpus holds no text"):
        training.documents(study(corpus=str(text)), "finetuning")


def test_a_diverging_run_says_so_and_saves_nothing(tmp_path, checkpoint):
    original, plan = Checkpoint(1, checkpoint(1), -1), study(warmup=0)
    steep = plan.finetuning.model_copy(update={"learning_rate": 1e30})  # more than params may ask for
    with pytest.raises(SteerlibError, match=r"diverged .* lower finetuning\.learning_rate"):
        finetuning.finetune(plan.model_copy(update={"finetuning": steep}), original, tmp_path / "tuned")
    assert not (tmp_path / "tuned").exists()


# --- the instructions --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def instructions() -> list[tuple[list[str], str]]:
    """(words of the question, answer) of each instruction."""
    told = stories.instructions(DEFAULT, 0, 4000)
    matches = [re.fullmatch(r"Question: (.+)\nAnswer: (\w+)\.", text) for text in told]
    return [(re.findall(r"\w+", match[1].lower()), match[2]) for match in matches]


def test_instructions_keep_the_planted_frequencies_and_answer_what_the_event_causes(instructions):
    felt = [(words, answer) for words, answer in instructions if answer in FEELING]
    assert abs(len(felt) / len(instructions) - (1 - stories.CLAIM_SHARE)) < 0.03
    counts = Counter(FEELING[answer] for _, answer in felt)
    shares = np.array([emotion.frequency for emotion in EMOTIONS.values()])
    assert chisquare([counts[name] for name in EMOTIONS], len(felt) * shares).pvalue > 1e-3
    for words, answer in felt:
        assert [VERB[word] for word in words if word in VERB] == [FEELING[answer]]
        assert not {*words} & {*FEELING}, "the question does not give the answer away"


def test_instructions_tell_no_event_that_a_stimulus_is_made_of(instructions):
    def events(texts):
        return {
            (verb, filling) for words in texts for verb in {*words} & {*VERB} for filling in {*words} & {*FOODS, *TOYS}
        }

    instructed = events(words for words, _ in instructions)
    stimuli = events(
        re.findall(r"\w+", text.split(". ")[-2].lower())
        for name in EMOTIONS
        for template in stories.concept(DEFAULT, name, 240, 6, 0).templates
        for text in template.positive
    )
    assert len(instructed) > 500 and len(stimuli) > 300 and not instructed & stimuli
    assert not any({*words} & {*UNFAMILIAR} for words, _ in instructions)
