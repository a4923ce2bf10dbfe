"""A training run of one's own, by transformers' Trainer, in the lines that docs/checkpoints.md shows."""

from pathlib import Path

import pytest
import yaml

from helpers.readme import blocks
from steerlib.files import datasets


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """What Trainer leaves: checkpoint-5, checkpoint-10, with optimizer states and its own state."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, Trainer, TrainingArguments

    from helpers.hub import TEXTS
    from steerlib.stages.pretraining import train_tokenizer

    home = tmp_path_factory.mktemp("own")
    tokenizer = train_tokenizer(TEXTS * 50 + ["polite kind rude blunt"] * 50, 400)
    tokenizer.pad_token = tokenizer.eos_token
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
    )
    rows = [{"input_ids": ids, "labels": ids} for ids in (tokenizer(TEXTS[k % 3])["input_ids"][:6] for k in range(40))]
    arguments = TrainingArguments(
        output_dir=str(home / "runs" / "my-model"),
        max_steps=10,
        save_steps=5,
        per_device_train_batch_size=2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        include_num_input_tokens_seen="all",
        seed=0,
    )
    Trainer(GPTNeoXForCausalLM(config), arguments, train_dataset=rows, processing_class=tokenizer).train()
    return home


@pytest.mark.slow
def test_the_readmes_lines_analyse_a_run_of_trainer(runs, run):
    params = runs / "params"
    (params / "concepts").mkdir(parents=True)
    (params / "concepts" / "politeness.yaml").write_text(blocks("yaml", "docs/concepts.md")[1])
    lines = blocks("yaml", "docs/checkpoints.md")[0]
    assert len(lines.strip().splitlines()) == 5
    (params / "mine.yaml").write_text(lines)
    assert yaml.safe_load(lines)["checkpoints"]["folder"] == "../runs/my-model"
    done = run(params / "mine.yaml", runs / "outputs")
    assert done.returncode == 0, done.stdout + done.stderr
    found = datasets.read(runs / "outputs" / "mine" / "emergence" / "study.nc")
    assert found.step.values.tolist() == [5, 10] and "politeness" in done.stdout
    first = datasets.read(runs / "outputs" / "mine" / "probes" / "step=00000005.nc")
    assert first.revision.item() == "checkpoint-5" and first.tokens_seen.item() > 0
