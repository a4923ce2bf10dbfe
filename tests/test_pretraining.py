"""The embedded default: within its compute budget, resumable after a kill, on any text."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from steerlib import pretraining, stories
from steerlib.errors import SteerlibError
from steerlib.study import Study

PROJECT = Path(__file__).parents[1]


def tiny(folder: Path, **pretraining_params) -> Study:
    params = {"documents": 600, "vocabulary": 400, "steps": 40, "batch": 8, "warmup": 4, "threads": 1}
    return Study(
        name="tiny",
        pretraining={"model": {"hidden": 16, "layers": 1, "heads": 2, "context": 32}, **params, **pretraining_params},
        checkpoints={"steps": [0, 10, 20, 30, 40]},
        concepts=["happiness"],
    )


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder / "checkpoints" / f"step={step:08d}").state_dict()


def test_the_default_stays_within_five_teraflop():
    study = Study.load(PROJECT / "params" / "toy.yaml")
    texts, plan = pretraining.documents(study) + stories.vocabulary() * 100, study.pretraining
    words = len(pretraining.train_tokenizer(texts, plan.vocabulary))
    assert words < plan.vocabulary, "the corpus has no more words: the limit does not bind"
    assert plan.flops_per_step(words) * plan.updates <= 5e12


def test_batches_visit_every_row_once_an_epoch_and_depend_on_step_and_seed_only():
    plan = tiny(Path()).pretraining
    epoch = np.concatenate([pretraining.batch_rows(plan, step, 40, seed=3) for step in range(5)])
    assert sorted(epoch) == list(range(40))
    assert np.array_equal(pretraining.batch_rows(plan, 7, 40, 3), pretraining.batch_rows(plan, 7, 40, 3))
    assert not np.array_equal(pretraining.batch_rows(plan, 7, 40, 3), pretraining.batch_rows(plan, 7, 40, 4))


def test_training_learns_and_checkpoints_are_ordinary_hugging_face_folders(tmp_path):
    loss = pretraining.pretrain(tiny(tmp_path), tmp_path).loss
    assert loss.sizes["step"] == 40 and loss[-5:].mean() < loss[:5].mean() - 0.5
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "checkpoints" / "step=00000040")
    text = "Anna felt happy — ünïcode too."
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    changed = [
        not torch.equal(a, b)
        for a, b in zip(weights(tmp_path, 0).values(), weights(tmp_path, 40).values(), strict=True)
    ]
    assert all(changed)


def test_killed_training_resumes_to_the_same_bits(tmp_path):
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    expected = pretraining.pretrain(tiny(tmp_path), calm).loss
    # SIGKILL from inside, in the middle between two checkpoints.
    script = f"""
import os, signal, sys
sys.path.insert(0, {str(PROJECT / "tests")!r})
from pathlib import Path
from test_pretraining import tiny
from steerlib import pretraining
def die(step, loss):
    if step == 25: os.kill(os.getpid(), signal.SIGKILL)
pretraining.pretrain(tiny(Path()), Path({str(killed)!r}), die)
"""
    dead = subprocess.run([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert dead.returncode == -signal.SIGKILL
    assert (killed / "checkpoints" / "step=00000020").is_dir() and not (
        killed / "checkpoints" / "step=00000030"
    ).exists()
    seen = []
    resumed = pretraining.pretrain(tiny(tmp_path), killed, lambda step, loss: seen.append(step)).loss
    assert seen[0] == 21, "resumed from the newest checkpoint, not from the start"
    assert np.array_equal(resumed, expected)
    for step in (0, 20, 30, 40):
        for a, b in zip(weights(calm, step).values(), weights(killed, step).values(), strict=True):
            assert torch.equal(a, b)


def test_a_deleted_checkpoint_is_made_again_with_the_same_bits(tmp_path):
    import shutil

    pretraining.pretrain(tiny(tmp_path), tmp_path)
    expected = weights(tmp_path, 10)
    shutil.rmtree(tmp_path / "checkpoints" / "step=00000010")
    pretraining.pretrain(tiny(tmp_path), tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(expected.values(), weights(tmp_path, 10).values(), strict=True))


def test_any_text_file_can_take_the_corpus_place(tmp_path):
    text = tmp_path / "own.txt"
    text.write_text("\n".join(f"Die Katze Nummer {i} schläft über dem Ofen." for i in range(400)), encoding="utf-8")
    study = tiny(tmp_path, corpus=str(text))
    loss = pretraining.pretrain(study, tmp_path).loss
    assert loss[-1] < loss[0] - 0.5
    text.write_text("\n \n")
    with pytest.raises(SteerlibError, match="holds no text"):
        pretraining.documents(study)
    text.write_text("zu kurz")
    with pytest.raises(SteerlibError, match="fewer than one context"):
        pretraining.pretrain(study, tmp_path / "short")
