"""The embedded default: within its compute budget, resumable after a kill, on any text."""

import lzma
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from nbclient.exceptions import DeadKernelError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers.notebooks import execute
from steerlib import SteerlibError
from steerlib.checkpoints.history import Checkpoint
from steerlib.checkpoints.steps import saved_steps
from steerlib.model import load
from steerlib.stages import pretraining, table, training
from steerlib.study import Study
from steerlib.study.checkpoints import Checkpoints

PROJECT = Path(__file__).parents[2]


def tiny(folder: Path, **pretraining_params) -> Study:
    params = {"documents": 600, "vocabulary": 400, "steps": 40, "batch": 8, "warmup": 4, "threads": 1}
    return Study(
        name="tiny",
        pretraining={"model": {"hidden": 16, "layers": 1, "heads": 2, "context": 32}, **params, **pretraining_params},
        checkpoints={"steps": [0, 10, 20, 30, 40]},
        concepts=["happiness"],
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[Path, xr.DataArray]:
    """An undisturbed training's results and loss."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, pretraining.pretrain(tiny(folder), folder).loss


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder / "checkpoints" / f"step={step:08d}").state_dict()


def test_the_default_stays_within_five_teraflop():
    study = Study.load(PROJECT / "params" / "toy.yaml")
    plan, words = study.pretraining, len(pretraining.tokenizer_of(study, training.documents(study)))
    assert words < plan.vocabulary, "the corpus has no more words: the limit does not bind"
    assert plan.flops_per_step(words) * plan.updates <= 5e12


@pytest.mark.parametrize("architecture", ["gpt_neox", "llama", "gpt2"])
def test_a_model_of_every_architecture_learns_and_is_read_and_its_cost_is_that_of_its_weights(architecture, tmp_path):
    model = {"architecture": architecture, "hidden": 24, "layers": 2, "heads": 3, "context": 32}
    study = tiny(tmp_path, model=model)
    loss = pretraining.pretrain(study, tmp_path).loss
    assert loss[-5:].mean() < loss[:5].mean() - 0.3
    read = load(Checkpoint(40, tmp_path / "checkpoints" / "step=00000040", 0))
    assert read.hf.config.model_type == architecture and read.n_layers == 2
    assert read.hf.config.tie_word_embeddings == (architecture == "gpt2")
    looked_up = [m for m in read.hf.modules() if isinstance(m, torch.nn.Embedding)]
    multiply = sum(weight.numel() for weight in read.hf.parameters()) - sum(m.weight.numel() for m in looked_up)
    head = read.hf.get_output_embeddings().weight
    words = len(head) * (architecture == "gpt2") * head.shape[1]  # one matrix, looked up and multiplied
    assert study.pretraining.weights(len(head)) == multiply + words


def test_words_of_a_world_are_one_token_each_or_the_room_they_need_is_told(tmp_path):
    """Also of feelings that the corpus never says."""
    emotions = {"fear": {"only": "read"}, "anger": {"feelings": ["furious", "livid", "irate"], "frequency": 0.001}}
    study = tiny(tmp_path, world={"emotions": emotions})
    texts = training.documents(study)
    with pytest.raises(SteerlibError, match=r"pretraining.vocabulary: 400 tokens leave .*'.* (\d+) are enough") as told:
        pretraining.tokenizer_of(study, texts)
    room = int(str(told.value).split()[-3])
    tokenizer = pretraining.tokenizer_of(tiny(tmp_path, world={"emotions": emotions}, vocabulary=room), texts)
    assert [len(tokenizer(word)["input_ids"]) for word in (" afraid", " livid", " irate", " won")] == [1] * 4


def test_batches_visit_every_row_once_an_epoch_and_depend_on_step_and_seed_only():
    plan = tiny(Path()).pretraining
    epoch = np.concatenate([training.batch_rows(plan, step, 40, seed=3) for step in range(5)])
    assert sorted(epoch) == list(range(40))
    assert np.array_equal(training.batch_rows(plan, 7, 40, 3), training.batch_rows(plan, 7, 40, 3))
    assert not np.array_equal(training.batch_rows(plan, 7, 40, 3), training.batch_rows(plan, 7, 40, 4))


def test_training_learns_and_checkpoints_are_ordinary_hugging_face_folders(undisturbed):
    folder, loss = undisturbed
    assert loss.sizes["step"] == 40 and loss[-5:].mean() < loss[:5].mean() - 0.5
    tokenizer = AutoTokenizer.from_pretrained(folder / "checkpoints" / "step=00000040")
    text = "Anna felt happy — ünïcode too."
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    changed = [
        not torch.equal(a, b) for a, b in zip(weights(folder, 0).values(), weights(folder, 40).values(), strict=True)
    ]
    assert all(changed)


def test_killed_training_resumes_to_the_same_bits(undisturbed, warm, tmp_path):
    (folder, expected), killed = undisturbed, tmp_path / "killed"
    # SIGKILL from inside, in the middle between two checkpoints.
    script = f"""
import os, signal, sys
sys.path[:0] = {[str(PROJECT / "tests"), str(PROJECT / "tests" / "stages")]!r}
from pathlib import Path
from test_pretraining import tiny
from steerlib.stages import pretraining
def die(step, loss):
    if step == 25: os.kill(os.getpid(), signal.SIGKILL)
pretraining.pretrain(tiny(Path()), Path({str(killed)!r}), die)
"""
    with pytest.raises(DeadKernelError):
        execute(tmp_path, script)
    assert (killed / "checkpoints" / "step=00000020").is_dir() and not (
        killed / "checkpoints" / "step=00000030"
    ).exists()
    seen = []
    resumed = pretraining.pretrain(tiny(tmp_path), killed, lambda step, loss: seen.append(step)).loss
    assert seen[0] == 21, "resumed from the newest checkpoint, not from the start"
    assert np.array_equal(resumed, expected)
    for step in (0, 20, 30, 40):
        for a, b in zip(weights(folder, step).values(), weights(killed, step).values(), strict=True):
            assert torch.equal(a, b)


def test_a_deleted_checkpoint_is_made_again_with_the_same_bits(undisturbed, tmp_path):
    expected, again = weights(undisturbed[0], 10), shutil.copytree(undisturbed[0], tmp_path / "again")
    shutil.rmtree(again / "checkpoints" / "step=00000010")
    pretraining.pretrain(tiny(tmp_path), again)
    assert all(torch.equal(a, b) for a, b in zip(expected.values(), weights(again, 10).values(), strict=True))


def trained(study: Study, folder: Path) -> tuple[int, Path]:
    """How many updates were made, and the folder."""
    steps = []
    pretraining.pretrain(study, folder, lambda step, loss: steps.append(step))
    return len(steps), folder / "checkpoints"


def test_fewer_steps_train_nothing_and_more_come_to_the_same_bits(undisturbed, tmp_path):
    again = shutil.copytree(undisturbed[0], tmp_path / "again")
    asked = lambda steps: tiny(tmp_path).model_copy(update={"checkpoints": Checkpoints(steps=steps)})  # noqa: E731
    assert trained(asked([0, 20, 30]), again)[0] == 0
    assert pretraining.pretrain(asked([0, 20, 30]), again).loss.equals(undisturbed[1][:30])
    assert trained(asked([0, 5, 40]), again)[0] == 5, "and no more than leads there"
    assert trained(tiny(tmp_path), again)[0] == 0
    alone = tmp_path / "alone"
    trained(asked([0, 5]), alone)
    assert all(torch.equal(a, b) for a, b in zip(weights(alone, 5).values(), weights(again, 5).values(), strict=True))


def test_a_bit_that_flipped_in_what_it_would_resume_from_is_not_trained_on(undisturbed, tmp_path):
    asked = lambda steps: tiny(tmp_path).model_copy(update={"checkpoints": Checkpoints(steps=steps)})  # noqa: E731
    trained(asked([0, 20]), tmp_path)
    resume = tmp_path / "checkpoints" / "resume.pt"
    data = bytearray(resume.read_bytes())
    data[len(data) // 2] ^= 1
    resume.write_bytes(data)
    assert trained(asked([0, 20, 40]), tmp_path)[0] == 40, "from the beginning"
    ours, whole = weights(tmp_path, 40), weights(undisturbed[0], 40)
    assert all(torch.equal(a, b) for a, b in zip(ours.values(), whole.values(), strict=True))


def test_what_was_trained_otherwise_or_put_there_by_others_is_trained_anew(undisturbed, tmp_path, monkeypatch):
    again = shutil.copytree(undisturbed[0], tmp_path / "again")
    at = again / "checkpoints" / "step=00000010" / "model.safetensors"
    whole = at.read_bytes()
    shutil.copy(again / "checkpoints" / "step=00000020" / "model.safetensors", at)
    assert trained(tiny(tmp_path), again)[0] == 10 and at.read_bytes() == whole, "foreign weights"
    (tmp_path / "corpus.txt").write_text("one text or another " * 400)
    own = tiny(tmp_path, corpus=str(tmp_path / "corpus.txt"))
    own = own.model_copy(update={"checkpoints": Checkpoints(steps=[0, 20])})
    assert [trained(own, tmp_path / "own")[0] for _ in range(2)] == [20, 0]
    (tmp_path / "corpus.txt").write_text("one text or the other " * 400)
    assert trained(own, tmp_path / "own")[0] == 20, "another corpus"
    monkeypatch.setattr(table, "source_hash", lambda *of: "other code")
    assert trained(own, tmp_path / "own")[0] == 20
    (tmp_path / "own" / "checkpoints" / "resume.pt").write_bytes(b"rubbish")
    assert trained(own, tmp_path / "own")[0] == 20
    pretraining.forget(tmp_path / "own")
    assert trained(own, tmp_path / "own")[0] == 20


def test_any_text_file_can_take_the_corpus_place(tmp_path):
    text = tmp_path / "own.txt"
    text.write_text("\n".join(f"Die Katze Nummer {i} schläft über dem Ofen." for i in range(400)), encoding="utf-8")
    study = tiny(tmp_path, corpus=str(text))
    loss = pretraining.pretrain(study, tmp_path).loss
    assert loss[-1] < loss[0] - 0.5
    text.write_text("\n \n")
    with pytest.raises(SteerlibError, match="holds no text"):
        training.documents(study)
    text.write_text("zu kurz")
    with pytest.raises(SteerlibError, match="fewer than one context"):
        pretraining.pretrain(study, tmp_path / "short")


def test_compute_buys_as_many_steps_as_it_pays_for(tmp_path):
    plan = tiny(tmp_path, steps=None, compute=1e9).pretraining
    model = pretraining.build(plan, plan.vocabulary, 0)
    weights = sum(p.numel() for p in model.parameters()) - model.get_input_embeddings().weight.numel()
    tokens = plan.batch * plan.model.context
    assert plan.flops_per_step() == 6 * weights * tokens
    assert plan.updates == 1e9 // (6 * weights * tokens) and plan.updates > 1
    assert training.learning_rate(plan, plan.updates) == pytest.approx(plan.learning_rate / 10)


@pytest.mark.parametrize(
    ("steps", "saved"),
    [
        ({"percent": [0, 50, 100]}, [0, 20, 40]),
        ({"count": 3, "spacing": "linear"}, [0, 20, 40]),
        ({"count": 4, "first": 1}, [1, 4, 14, 40]),
        ({"first": 38}, [38, 39, 40]),
    ],
)
def test_checkpoints_are_saved_where_percentages_and_spacings_fall(tmp_path, steps, saved):
    study = tiny(tmp_path)
    study = study.model_copy(update={"checkpoints": type(study.checkpoints)(steps=steps)})
    assert saved_steps(study) == saved


def test_bfloat16_learns_what_float32_learns_and_keeps_its_weights_in_float32(undisturbed, tmp_path):
    half = pretraining.pretrain(tiny(tmp_path, precision="bfloat16"), tmp_path).loss
    assert not np.array_equal(undisturbed[1], half), "its products are rounded"
    np.testing.assert_allclose(undisturbed[1], half, atol=0.05)
    kept = load_file(tmp_path / "checkpoints" / "step=00000040" / "model.safetensors")
    assert {weight.dtype for weight in kept.values()} == {torch.float32}


def test_a_compiled_model_learns_the_same(undisturbed, tmp_path, monkeypatch):
    """Its graphs are run as torch captures them: the code that is generated for them is torch's affair."""
    used, graphs = [], partial(torch.compile, backend="eager")
    monkeypatch.setattr(torch, "compile", lambda model: used.append(graphs(model)) or used[0])
    compiled = pretraining.pretrain(tiny(tmp_path, compile=True), tmp_path).loss
    assert used
    np.testing.assert_allclose(undisturbed[1], compiled, atol=1e-3)
    files = (folder / "checkpoints" / "step=00000040" / "model.safetensors" for folder in (tmp_path, undisturbed[0]))
    assert len({frozenset(load_file(file)) for file in files}) == 1, "the names are those of the model itself"


def test_throughput_and_utilisation_are_told_with_the_loss(undisturbed, tmp_path):
    (folder, loss), study = undisturbed, tiny(tmp_path)
    tokens = study.pretraining.batch * study.pretraining.model.context
    words = len(AutoTokenizer.from_pretrained(folder / "checkpoints" / "step=00000000"))
    assert loss.flop_per_second / loss.tokens_per_second == pytest.approx(
        study.pretraining.flops_per_step(words) / tokens
    )
    assert 0 < loss.mfu < 1 and loss.mfu == pytest.approx(loss.flop_per_second / loss.matmul_flop_per_second)
    assert pretraining.pretrain(study, folder).loss.attrs == {}, "nothing was trained, and nothing timed"


def test_a_compressed_corpus_is_read_and_a_broken_one_is_told(tmp_path):
    text = "\n".join(f"Anna went home {k} times and was glad." for k in range(400))
    (tmp_path / "own.txt").write_text(text)
    packed = lzma.compress(text.encode())
    (tmp_path / "own.txt.xz").write_bytes(packed)
    plain, compressed = (
        training.documents(tiny(tmp_path, corpus=str(tmp_path / name))) for name in ("own.txt", "own.txt.xz")
    )
    assert plain == compressed and len(plain) == 400
    (tmp_path / "own.txt.xz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(SteerlibError, match=r"own\.txt\.xz: cannot be unpacked"):
        training.documents(tiny(tmp_path, corpus=str(tmp_path / "own.txt.xz")))


def test_a_long_corpus_gives_its_tokenizer_an_even_part(monkeypatch):
    monkeypatch.setattr(pretraining, "ENOUGH", 500)
    texts = [f"early{k} " * 5 for k in range(50)] + ["late words here " * 5 for _ in range(50)]
    tokenizer = pretraining.train_tokenizer(texts, 400)
    assert len(tokenizer("late words")["input_ids"]) <= 4, "words of its end are known, too"


def test_a_run_that_diverges_is_told_and_keeps_what_it_has(tmp_path):
    study = tiny(tmp_path, warmup=0)
    steep = study.pretraining.model_copy(update={"learning_rate": 1e30})  # more than params may ask for
    with pytest.raises(SteerlibError, match=r"pretraining diverged .* lower pretraining\.learning_rate"):
        pretraining.pretrain(study.model_copy(update={"pretraining": steep}), tmp_path)
    assert (tmp_path / "checkpoints" / "step=00000000").is_dir()
