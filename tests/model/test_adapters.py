"""A LoRA run as peft leaves it: each step is its base with its adapter merged, or is refused by name."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from pathlib import Path

import peft
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from helpers.models import build
from helpers.plain import TEXTS
from steerlib import SteerlibError
from steerlib.checkpoints import contents
from steerlib.checkpoints.history import Checkpoint, history
from steerlib.model import load, loading
from steerlib.model.encoder import Encoder
from steerlib.running.check import checkpoint_of
from steerlib.study import Study
from steerlib.study.checkpoints import Loading

IDS = torch.randint(20, (3, 7), generator=torch.Generator().manual_seed(0))
LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}


def adapt(base: Path, folder: Path, config: peft.PeftConfig, seed: int = 0, more: int = 0) -> torch.Tensor:
    """Writes an adapter with random weights, and Trainer's state; returns the logits of peft's own model.

    It has so many ``more`` tokens than its base.
    """
    with warnings.catch_warnings(), torch.random.fork_rng([]):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        whole = AutoModelForCausalLM.from_pretrained(base)
        whole.resize_token_embeddings(whole.config.vocab_size + more)
        model = peft.get_peft_model(whole, config).eval()
        with torch.no_grad():
            for weight in (weight for weight in model.parameters() if weight.requires_grad):
                weight += 0.1 * torch.randn_like(weight)
        model.save_pretrained(folder)
    (folder / "trainer_state.json").write_text('{"num_input_tokens_seen": 700}')
    return model(input_ids=IDS).logits


@pytest.fixture
def base(tmp_path) -> Path:
    tiny = build("llama")
    tiny.hf.save_pretrained(tmp_path / "base")
    tiny.tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def study(home: Path, **checkpoints) -> Study:
    given = {"name": "lora", "checkpoints": {"folder": "run"} | checkpoints, "concepts": ["happiness"]}
    (home / "lora.yaml").write_text(yaml.safe_dump(given))
    return Study.load(home / "lora.yaml")


KINDS = {
    "LoRA": peft.LoraConfig(**LORA),
    "of weights and directions": peft.LoraConfig(**LORA, use_dora=True),
    "with a head of its own": peft.LoraConfig(**LORA, modules_to_save=["lm_head"]),
    "with embeddings of its own": peft.LoraConfig(**LORA, modules_to_save=["embed_tokens", "lm_head"]),
    "of an embedding": peft.LoraConfig(**LORA | {"target_modules": ["embed_tokens", "q_proj"]}),
    "of several ranks": peft.LoraConfig(**LORA, rank_pattern={"v_proj": 2}),
    "IA3": peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
}


MORE = {"LoRA", "with embeddings of its own"}  # also where their vocabulary is larger than the base's


@pytest.mark.parametrize(("kind", "more"), [*((kind, 0) for kind in KINDS), *((kind, 3) for kind in sorted(MORE))])
def test_an_adapter_merged_into_its_base_computes_what_pefts_own_model_does(tmp_path, base, kind, more):
    expected = adapt(base, tmp_path / "run" / "checkpoint-5", KINDS[kind], more=more)
    first, [last] = history(study(tmp_path, base="base"), tmp_path / "outputs")[0], history(study(tmp_path), tmp_path)
    assert Encoder.of_files(base, last.tokenizer, last.path).rows == expected.shape[-1]
    model, untouched = load(last), AutoModelForCausalLM.from_pretrained(base)
    assert torch.allclose(model.hf(input_ids=IDS).logits, expected, atol=1e-4)
    parameters = [
        [(name, weight.requires_grad) for name, weight in hf.named_parameters()] for hf in (model.hf, untouched)
    ]
    assert parameters[0] == parameters[1]
    assert (first.step, first.path, first.base, first.tokens_seen) == (0, base, None, 0)
    assert torch.equal(load(first).hf(input_ids=IDS).logits, untouched(input_ids=IDS).logits)
    assert (last.step, last.base, last.tokenizer, last.tokens_seen, last.revision) == (
        5,
        base,
        base,
        700,
        "checkpoint-5",
    )


def test_what_an_adapters_step_is_hangs_on_its_own_files_and_on_its_bases(tmp_path, base):
    folder = tmp_path / "run" / "checkpoint-5"
    adapt(base, folder, KINDS["LoRA"])

    def told() -> tuple[str, str]:
        [one] = history(study(tmp_path), tmp_path / "outputs")
        return one.identity, one.weights_sha256

    def alter(file: Path) -> None:
        tensors = load_file(file)
        tensors[min(tensors)] += 1
        save_file(tensors, file, {"format": "pt"})

    seen = [told()]
    for file in (folder / "adapter_model.safetensors", base / "model.safetensors"):
        alter(file)
        seen.append(told())
    assert len({identity for identity, _ in seen}) == len({weights for _, weights in seen}) == 3
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 2}))
    assert told()[0] not in {identity for identity, _ in seen} and told()[1] == seen[-1][1]


def test_an_adapter_whose_base_is_nowhere_is_told_what_to_name_and_another_one_is_told(tmp_path, base, caplog):
    folder = tmp_path / "run" / "checkpoint-5"
    adapt(base, folder, KINDS["LoRA"])
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "owner/base"}))
    with pytest.raises(SteerlibError, match=r"checkpoint-5: is an adapter .*owner/base; name .*checkpoints.base"):
        history(study(tmp_path), tmp_path / "outputs")
    with pytest.raises(SteerlibError, match=r"checkpoint-5: is an adapter .* alone; .*checkpoints.base"):
        load(Checkpoint(5, folder, -1))
    with pytest.raises(SteerlibError, match=r"checkpoints.base: .*/bose: no such folder; did you mean 'base'\?"):
        history(study(tmp_path, base="./bose"), tmp_path / "outputs")
    with pytest.raises(
        SteerlibError, match=r"checkpoints: base \(base\): only checkpoints from a folder or a repo have"
    ):
        study(tmp_path, folder=None, base="base")
    assert not contents.faults(history(study(tmp_path, base="base"), tmp_path), {}) and not caplog.messages
    other = base.rename(tmp_path / "other")
    assert not contents.faults(history(study(tmp_path, base="other"), tmp_path), {})
    assert caplog.messages == [f"{folder.parent}: adapters of owner/base, as they say, are merged into {other}"]


def test_the_check_finds_an_adapters_base_as_a_study_does_and_says_what_to_name(tmp_path, base):
    adapt(base, folder := tmp_path / "run" / "checkpoint-5", KINDS["LoRA"])
    named, other = study(tmp_path, base="./other"), tmp_path / "other"
    with pytest.raises(SteerlibError, match=r"--base: .*/other: no such folder"):
        checkpoint_of(str(folder), None, None, named)
    shutil.copytree(base, other)
    for told, of_study, expected in ((None, None, base), (None, named, other), (str(base), named, base)):
        assert checkpoint_of(str(folder), told, None, of_study).base == expected
    configure(base_model_name_or_path="owner/base")(folder)
    with pytest.raises(SteerlibError, match=r"checkpoint-5: is an adapter .*, owner/base; name that, .*, by --base"):
        checkpoint_of(str(folder), None, None, None)
    with pytest.raises(SteerlibError, match=r"--model: .*/checkpoint-6: no such folder; did you mean 'checkpoint-5'"):
        checkpoint_of(str(folder.with_name("checkpoint-6")), None, None, None)


def tensors(change) -> object:
    def changed(folder: Path) -> None:
        held = load_file(folder / "adapter_model.safetensors")
        change(held)
        save_file(held, folder / "adapter_model.safetensors", {"format": "pt"})

    return changed


def configure(**changes) -> object:
    def changed(folder: Path) -> None:
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(config | changes))

    return changed


NAME = "base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight"
REFUSED = {
    "a tensor missing": (tensors(lambda of: of.pop(NAME)), f"1 tensors .* are missing, {NAME} among them"),
    "a tensor too many": (tensors(lambda of: of.update({"more": torch.ones(1)})), "1 tensors have no place .*, more "),
    "another width": (
        tensors(lambda of: of.update({NAME: torch.ones(4, 16)})),
        rf"another shape .*, {NAME} \(4, 16\) for \(4, 32\) among them; is it an adapter of another model\?",
    ),
    "an embedding alone": (
        tensors(lambda of: of.update({"base_model.model.model.embed_tokens.weight": torch.ones(99, 32)})),
        "checkpoint-5: brings an embedding of 99 tokens alone, and its base has",
    ),
    "another rank": (configure(r=8), r"12 tensors have another shape .*lora_A.weight \(4, 32\) for \(8, 32\)"),
    "of other modules": (
        configure(target_modules=["query_key_value"]),
        "cannot be merged .*query_key_value.* not found",
    ),
    "of prompts": (
        configure(peft_type="PROMPT_TUNING", num_virtual_tokens=3),
        "peft_type PROMPT_TUNING changes no weights, and so cannot be merged",
    ),
    "of no known kind": (configure(peft_type="NO"), "cannot be merged into its base .*NO"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_an_adapter_that_is_none_of_its_base_is_told_by_name_before_anything_is_loaded(tmp_path, base, fault):
    adapt(base, folder := tmp_path / "run" / "checkpoint-5", KINDS["LoRA"])
    change, said = REFUSED[fault]
    change(folder)
    points = history(study(tmp_path, base="base"), tmp_path / "outputs")
    told = contents.faults(points, {}, loading.check)
    assert told.keys() == {5} and re.search(said, told[5]) and str(folder) in told[5], told
    with pytest.raises(SteerlibError, match=said):
        load(points[1])
    with pytest.raises(SteerlibError, match=said):  # though the base is as it should be
        contents.refuse_unfit(points, told)


def test_what_merging_would_change_is_refused(tmp_path):
    """peft adapts an embedding alone; merged, the unembedding that is tied to it would change as well."""
    tiny, kind = build("llama", tie_word_embeddings=True), KINDS["of an embedding"]
    tiny.hf.save_pretrained(tmp_path / "base")
    tiny.tokenizer.save_pretrained(tmp_path / "base")
    adapt(tmp_path / "base", tmp_path / "run" / "checkpoint-5", kind)
    [one] = history(study(tmp_path), tmp_path / "outputs")
    with pytest.raises(SteerlibError, match="checkpoint-5: merged into its base it computes something else"):
        load(one)


def test_a_pickled_adapter_and_half_precision_are_merged_too(tmp_path, base):
    folder = tmp_path / "run" / "checkpoint-5"
    expected = adapt(base, folder, KINDS["LoRA"])
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    [one] = history(study(tmp_path), tmp_path / "outputs")
    assert torch.allclose(load(one).hf(input_ids=IDS).logits, expected, atol=1e-4)
    half = load(Checkpoint(5, folder, -1, "", Loading(dtype="bfloat16"), base, base=base))
    assert half.dtype == torch.bfloat16 and half.read(TEXTS).states.isfinite().all()


def test_a_series_of_whole_checkpoints_begins_with_its_base_unless_it_has_a_step_0(tmp_path, base, checkpoint):
    checkpoint(10, "llama"), checkpoint(20, "llama")
    found = history(study(tmp_path, folder="history", base="base"), tmp_path / "outputs")
    assert [(one.step, one.path.name, one.base) for one in found] == [
        (0, "base", None), (10, "step-10", None), (20, "step-20", None)
    ]  # fmt: skip
    assert [one.step for one in history(study(tmp_path, folder="history", base="base", steps=[10, 20]), tmp_path)] == [
        10,
        20,
    ]
    checkpoint(0, "llama")
    with pytest.raises(SteerlibError, match=r"checkpoints.base: .*history has a step 0 of its own, step-0; leave"):
        history(study(tmp_path, folder="history", base="base"), tmp_path / "outputs")
