"""What is in a checkpoint's files is what is computed with, or it is refused by name before anything is."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.models.gpt_neox import modeling_gpt_neox

from helpers.models import build
from helpers.plain import TEXTS
from steerlib import SteerlibError
from steerlib.checkpoints import contents
from steerlib.checkpoints.history import Checkpoint
from steerlib.model import Model, load, loading
from steerlib.steering import write as write_after
from steerlib.study import Study
from steerlib.study.checkpoints import Loading

NAMES = ["gpt_neox.layers.1.mlp.dense_h_to_4h.bias", "gpt_neox.final_layer_norm.bias"]
INDEX = "model.safetensors.index.json"


def loaded(folder: Path, **how) -> Model:
    return load(Checkpoint(1, folder, -1, folder.name, Loading(**how)))


def configure(**changes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


def weights(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """Changes the tensors of the file."""

    def changed(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return changed


def sharded(change: Callable[[dict, Path], object] = lambda index, folder: None) -> Callable[[Path], None]:
    """In two files with an index, which is then changed."""

    def split(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        index = {}
        for k in (1, 2):
            part = f"model-0000{k}-of-00002.safetensors"
            own = {name: tensor for i, (name, tensor) in enumerate(sorted(tensors.items())) if i % 2 == k - 1}
            save_file(own, folder / part, {"format": "pt"})
            index |= dict.fromkeys(own, part)
        change(index, folder)
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))

    return split


def pickled(folder: Path, change: Callable[[dict], object] = lambda of: of) -> None:
    torch.save(change(load_file(folder / "model.safetensors")), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


class Evil:
    def __reduce__(self):
        return os.mkdir, ("\x1b[31mevil",)


def evil(folder: Path) -> None:
    pickled(folder)
    torch.save({"a": Evil()}, folder / "pytorch_model.bin")


def write(name: str, text: str = "{}") -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


REFUSED = {
    "fewer blocks": (configure(num_hidden_layers=1), r"have 3 blocks \(gpt_neox.layers.0 to .*2\), .* says 1"),
    "more blocks": (configure(num_hidden_layers=4), r"have 3 blocks .*, but its config.json says 4"),
    "another width": (configure(hidden_size=16), "weights are of width 32, but its config.json says 16"),
    "another shape": (
        configure(vocab_size=30),
        r"2 weights .* another shape .* gpt_neox.embed_in.weight \(20, 32\) for \(30, 32\) among them",
    ),
    "another kind": (configure(use_parallel_residual=True, attention_bias=False), "6 tensors .* no place .*attention"),
    "a head of its own": (
        weights(lambda of: of.update({"v_head.summary.weight": torch.ones(1)})),
        "1 tensors in the files have no place .*, v_head.summary.weight among them",
    ),
    "a tensor twice": (
        weights(lambda of: of.update({name.partition(".")[2]: of[name] + 1 for name in NAMES})),
        "hold gpt_neox.(.*) and \\1, which are one to transformers; remove",
    ),
    "codes": (
        weights(lambda of: of.update({name: tensor.to(torch.int8) for name, tensor in of.items()})),
        "embed_out.weight is of I8, codes of a quantisation that its config.json does not tell of",
    ),
    "names of a wrapper": (
        weights(lambda of: [of.update({f"_orig_mod.{name}": of.pop(name)}) for name in list(of)]),
        "weights are missing .*; 40 tensors in the files have no place .*_orig_mod",
    ),
    "a weight missing": (weights(lambda of: of.pop(NAMES[0])), f"1 weights are missing from the files, {NAMES[0]}"),
    "an adapter": (write("adapter_config.json"), "holds adapter_config.json, an adapter .* merge it"),
    "an adapter's weights": (write("adapter_model.bin"), "holds adapter_model.bin, an adapter .* merge it"),
    "parts": (write("shard-00001-model-00001-of-00002.safetensors"), "holds shard-00001-.* part of a model"),
    "other weights": (configure(transformers_weights="a.safetensors"), "config.json: transformers_weights: "),
    "fused": (configure(fusion_config={"experts": True}), "config.json: fusion_config: "),
    "quantised": (configure(quantization_config={"quant_method": "fp8"}), "config.json: quantization_config: "),
    "no config": (write("config.json", "[1]"), "config.json: cannot be read .*"),
    "no index": (lambda folder: (sharded()(folder), (folder / INDEX).unlink()), f"{INDEX}: cannot be read .*No such"),
    "a file not there": (
        sharded(lambda index, folder: index.update({NAMES[0]: "model-00003-of-00003.safetensors"})),
        f"{INDEX}: model-00003-of-00003.safetensors is not there",
    ),
    "a file not named": (
        sharded(lambda index, folder: save_file({"a": torch.ones(1)}, folder / "model-00003-of-00003.safetensors")),
        f"{INDEX}: model-00003-of-00003.safetensors is not named there",
    ),
    "a tensor not named": (
        sharded(lambda index, folder: index.pop(NAMES[1])),
        f"holds {NAMES[1]}, which its index does not say of it",
    ),
    "a key twice": (
        write("config.json", '{"hidden_size": 32, "hidden_size": 32}'),
        r"config.json: cannot be read \(a key stands twice in it\)",
    ),
    "a link to nowhere": (
        lambda folder: [(folder / "tokenizer.json").unlink(), (folder / "tokenizer.json").symlink_to("nowhere")],
        "tokenizer.json: is a link to nowhere, which is not there; mend or remove it",
    ),
    "cut short": (
        lambda folder: os.truncate(folder / "model.safetensors", 30_000),
        r"model.safetensors: cannot be loaded \(.*\); if a file was cut short, copy or download",
    ),
    "a pickle that runs code": (evil, "pytorch_model.bin: is a pickle that holds more than weights, .*safetensors"),
    "a pickle of more than weights": (
        lambda folder: pickled(folder, lambda of: {"model": of, "step": 3}),
        "pytorch_model.bin: holds something else than tensors by name; save the model's state_dict alone",
    ),
    "a pickle of codes": (
        lambda folder: pickled(folder, lambda of: {name: tensor.to(torch.int8) for name, tensor in of.items()}),
        "embed_out.weight is of INT8, codes of a quantisation",
    ),
    "several under other names": (
        lambda folder: (
            [write(name)(folder) for name in ("a.safetensors", "b.safetensors")]
            + [(folder / "model.safetensors").unlink()]
        ),
        "holds no weights .*; a.safetensors, b.safetensors are called otherwise: rename those of this model",
    ),
    "in parts of DeepSpeed": (
        lambda folder: [(folder / "model.safetensors").unlink(), (folder / "global_step500").mkdir()],
        r"but one of DeepSpeed \(global_step500\): .*zero_to_fp32.py",
    ),
    "in parts of FSDP": (
        lambda folder: [(folder / "model.safetensors").unlink(), (folder / "pytorch_model_fsdp_0").mkdir()],
        r"but one of FSDP \(pytorch_model_fsdp_0\): .*accelerate merge-weights",
    ),
    "no pickle": (
        lambda folder: (pickled(folder), (folder / "pytorch_model.bin").write_bytes(b"\x1b[31mversion https://git")),
        "pytorch_model.bin: is a pickle that holds more than weights, or none",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_would_not_be_computed_with_as_it_lies_there_is_refused_by_name(checkpoint, fault, monkeypatch):
    change, said = REFUSED[fault]
    folder = checkpoint(1)
    monkeypatch.chdir(folder.parent)
    change(folder)
    with pytest.raises(SteerlibError) as caught:
        loaded(folder)
    message = str(caught.value)
    assert re.search(said, message) and str(folder) in message and message.isprintable(), message
    assert not [path for path in folder.parent.iterdir() if path.name != folder.name], "nothing was run"


OLD = {f"gpt_neox.layers.{k}.attention.{name}": torch.ones(1) for k in range(3) for name in ("bias", "masked_bias")}
OLD |= {f"gpt_neox.layers.{k}.attention.rotary_emb.inv_freq": torch.ones(2) for k in range(3)}
KEPT = {
    "under another name": lambda folder: (folder / "model.safetensors").rename(folder / "model_step500.safetensors"),
    "what older transformers kept beside the weights": weights(lambda of: of.update(OLD)),
    "in several files": sharded(),
    "links to what is there": lambda folder: [
        (folder / name).rename(folder.parent / name) and (folder / name).symlink_to(folder.parent / name)
        for name in ("tokenizer.json", "model.safetensors")
    ],
    "an index that names more": sharded(
        lambda index, folder: index.update({"tied": "model-00001-of-00002.safetensors"})
    ),
    "a pickle of weights": pickled,
    "weights of another kind beside them": write("pytorch_model.bin", "others"),
    "states of a training": lambda folder: [(folder / name).touch() for name in ("optimizer.pt", "training_args.bin")],
    "attention by flex": configure(_attn_implementation="flex_attention"),
    "attention by flash": configure(_attn_implementation="flash_attention_2"),
    "attention by a kernel of the hub": configure(_attn_implementation="kernels-community/flash-attn2"),
    "attention in public": configure(attn_implementation="eager"),
    "settings of generation that contradict each other": write(
        "generation_config.json", '{"forced_eos_token_id": 3, "suppress_tokens": [3]}'
    ),
    "no settings of generation": write("generation_config.json", "[]"),
    "generation of its own": lambda folder: [
        (folder / "custom_generate").mkdir(),
        (folder / "custom_generate" / "generate.py").write_text("def generate(model, input_ids, **_):\n    1 / 0\n"),
    ],
    "an encoder": configure(is_encoder_decoder=True),
    "experts by a kernel": configure(experts_implementation="grouped_mm"),
    "all attentions asked for": configure(output_attentions=True, output_hidden_states=True, return_dict=False),
}


@pytest.mark.parametrize("kind", KEPT)
def test_whatever_else_lies_there_or_is_asked_for_the_same_is_computed_bit_for_bit(checkpoint, kind):
    folder = checkpoint(1)
    KEPT[kind](folder)
    own = (folder / "custom_generate").exists()
    found, expected = loaded(folder, trust_remote_code=own), build("gpt_neox")
    assert write_after(found, TEXTS, 4) == write_after(expected, TEXTS, 4)
    assert found.hf.config._attn_implementation == "sdpa"
    for name in loading.OURS:
        assert getattr(found.hf.config, name) == getattr(expected.hf.config, name), name
    assert torch.equal(found.read(TEXTS).states, expected.read(TEXTS).states)


RAISED = {  # by transformers, and what is said of it
    "CUDA out of memory. Tried to allocate": "does not fit into memory .*loading.dtype, or loading.device_map: auto",
    "set trust_remote_code=True": "comes with Python code of its own, .*loading.trust_remote_code: true",
    "another mistake": r"cannot be loaded \(ValueError: another mistake\); if a file was cut short",
}


@pytest.mark.parametrize("reason", RAISED)
def test_what_transformers_raises_is_told_with_the_remedy_that_helps(checkpoint, monkeypatch, reason):
    def from_pretrained(*args, **kwargs):
        raise ValueError(reason)

    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    for trusted in (False, True):
        said = f"cannot be loaded .*{reason}" if trusted and "trust" in reason else RAISED[reason]
        with pytest.raises(SteerlibError, match=said):
            loaded(checkpoint(1), trust_remote_code=trusted)


def test_a_head_that_its_config_ties_but_the_files_do_not_is_the_files(checkpoint):
    folder = checkpoint(1, "qwen3")
    head = torch.randn(20, 32, generator=torch.Generator().manual_seed(0))
    weights(lambda of: of.update({"lm_head.weight": head}))(folder)
    assert torch.equal(loaded(folder).unembedding, head)


BESIDE = {
    f"of a checkpoint model.safetensors is loaded, and {name} beside it is not": write(name)
    for name in ("pytorch_model.bin", "v_head.safetensors")
}
BESIDE["a checkpoint comes with code of its own"] = configure(auto_map={"AutoModelForCausalLM": "own.Own"})
BESIDE[""] = write("optimizer.bin")


@pytest.mark.parametrize("said", BESIDE)
def test_what_lies_there_and_is_not_computed_with_is_told_once_a_history(checkpoint, caplog, said):
    for folder in (folders := [checkpoint(step) for step in (1, 2)]):
        BESIDE[said](folder)
    assert not contents.faults([Checkpoint(step, folder, -1) for step, folder in enumerate(folders)], {})
    assert len(caplog.messages) == bool(said)
    assert not said or caplog.messages[0].startswith(f"{folders[0].parent}: {said}")


@pytest.mark.parametrize("architecture", ["gpt_neox", "llama", "gpt2", "olmo2", "qwen3", "smollm3"])
def test_how_many_blocks_of_which_width_is_read_of_the_files_alone(checkpoint, architecture):
    assert contents.read(checkpoint(1, architecture)) == (3, 32, False)


def blocks(count: int, width: int, place: str = "layers", kind: str = "F32") -> contents.Header:
    """The first of them tells the width; the others are of none."""
    return {
        f"{place}.{k}.{name}.weight": (kind, [width, width] if k == 0 else [7]) for k in range(count) for name in "ab"
    }


AS_TOLD = {"n_layer": 2, "n_embd": 8}
HEADERS = {  # config, tensors, and what they tell: how many blocks of which width, or what is wrong
    "nothing": ({}, {}, (None, None)),
    "a pickle": (AS_TOLD, {}, (2, 8)),
    "a config that does not say": ({}, blocks(2, 8), (2, None)),
    "as told": (AS_TOLD, blocks(2, 8), (2, 8)),
    "of training only": (AS_TOLD | {"num_nextn_predict_layers": 1}, blocks(3, 8), (3, 8)),
    "without those of training": (AS_TOLD | {"num_nextn_predict_layers": 1}, blocks(2, 8), (2, 8)),
    "more than both": (
        AS_TOLD | {"num_nextn_predict_layers": 1},
        blocks(4, 8),
        r"have 4 blocks \(layers.0 to layers.3\)",
    ),
    "fewer": (AS_TOLD, blocks(1, 8), r"have 1 blocks \(layers.0 to layers.0\), but its config.json says 2"),
    "one more": (AS_TOLD, blocks(3, 8), r"have 3 blocks \(layers.0 to layers.2\), but its config.json says 2"),
    "a shorter list beside them": (AS_TOLD, blocks(2, 8) | {"norms.0.weight": ("F32", [8])}, (2, 8)),
    "lists in them": (AS_TOLD, blocks(2, 8) | blocks(3, 8, "layers.1.experts"), (2, 8)),
    "a size that is as frequent": (AS_TOLD, {f"layers.{k}.weight": ("F32", [8, 9]) for k in (0, 1)}, (2, 8)),
    "another width": (AS_TOLD, blocks(2, 9), "are of width 9, but its config.json says 8"),
    "in half precision": (AS_TOLD, blocks(2, 8, kind="BF16"), (2, 8)),
    "what is no weight": (AS_TOLD, blocks(2, 8) | {"layers.0.bits": ("I8", [8])}, (2, 8)),
    "codes": (AS_TOLD, blocks(2, 8) | {"head.weight": ("I8", [8])}, "head.weight is of I8, codes of a quantisation"),
    "a part of a name": (
        AS_TOLD,
        blocks(2, 8) | {"a.weight": ("F32", [8]), "b.a.weight": ("F32", [8])},
        "hold b.a.weight and a.w",
    ),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_names_kinds_and_shapes_tell_how_many_blocks_of_which_width(tmp_path, kind):
    config, tensors, told = HEADERS[kind]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").touch()
    if isinstance(told, tuple):
        assert contents.read(tmp_path, lambda file: tensors) == (*told, False)
    else:
        with pytest.raises(SteerlibError, match=f"{tmp_path}: .*{told}"):
            contents.read(tmp_path, lambda file: tensors)


def test_of_as_many_checkpoints_the_later_are_usual_and_what_is_not_here_is_not_looked_at(checkpoint, tmp_path):
    folders = {step: checkpoint(step, num_hidden_layers=2 + step // 20) for step in (0, 10, 20, 30)}
    steps = [Checkpoint(step, folder, -1) for step, folder in folders.items()] + [Checkpoint(40, tmp_path / "40", -1)]
    shapes = {}
    told = contents.faults(steps, shapes)
    assert told.keys() == {0, 10} and "step 0 has 2 blocks of width 32, but most of this history have 3" in told[0]
    folders[0].joinpath("config.json").unlink()  # as when its files are removed behind the analysis
    assert shapes.keys() == {*folders} and contents.faults(steps, shapes) == told


def test_too_few_layers_for_what_is_asked_are_told_before_anything_is_read(checkpoint):
    points = [Checkpoint(step, checkpoint(step, num_hidden_layers=3), -1) for step in (0, 10)]
    found = {}
    for asked in ([2], {"count": 3}, {"every": 2}, [3], {"count": 4}):
        data = {"name": "a", "checkpoints": {"folder": "."}, "concepts": ["happiness"], "layers": asked}
        study = Study.of(data, Path("a.yaml"), Path("a"))
        found[str(asked)] = contents.faults(points, {}, layers_of=study.layers_of)
    assert [len(told) for told in found.values()] == [0, 0, 0, 2, 2]
    assert "a.yaml: layers: layer 3 is asked for, and the model has 3: 0 to 2" in found["[3]"][0]
    with pytest.raises(SteerlibError, match=r"4 layers are asked for.*and 1 more steps alike"):
        contents.refuse_unfit(points, found["{'count': 4}"])


def test_a_checkpoint_unlike_most_others_is_told_by_step(checkpoint):
    folders = {step: checkpoint(step, num_hidden_layers=2 if step == 30 else 3) for step in (0, 10, 20, 30)}
    configure(num_hidden_layers=9)(folders[10])
    told = contents.faults([Checkpoint(step, folder, -1) for step, folder in folders.items()], {})
    assert told.keys() == {10, 30} and "config.json says 9" in told[10]
    assert "step 30 has 2 blocks of width 32, but most of this history have 3 blocks of width 32" in told[30]


def test_also_an_architecture_that_is_known_is_proven_when_it_is_loaded(checkpoint, monkeypatch):
    folder, forward = checkpoint(1), modeling_gpt_neox.GPTNeoXModel.forward
    assert loaded(folder).built_in

    def without_positions(self, *args, **kwargs):
        return forward(self, *args, **kwargs | {"position_ids": None})

    monkeypatch.setattr(modeling_gpt_neox.GPTNeoXModel, "forward", without_positions)
    with pytest.raises(SteerlibError, match=r"'gpt_neox'.*is not run rightly: .*position_ids"):
        loaded(folder)


def test_states_that_overflow_the_dtype_are_told_when_it_is_loaded(checkpoint):
    folder = checkpoint(1)
    weights(
        lambda of: of.update({NAMES[1].replace("final_layer_norm.bias", "embed_in.weight"): 6e4 * torch.ones(20, 32)})
    )(folder)
    weights(lambda of: of.update({"gpt_neox.layers.0.mlp.dense_4h_to_h.bias": 6e4 * torch.ones(32)}))(folder)
    with pytest.raises(SteerlibError, match=r"states overflow float16; load it in another \(loading.dtype\)"):
        loaded(folder, dtype="float16")


def test_a_model_whose_texts_hardly_differ_is_not_taken_for_one_that_is_run_wrongly(checkpoint):
    folder = checkpoint(1)
    weights(lambda of: of.update({"gpt_neox.embed_in.weight": 1 + 1e-7 * of["gpt_neox.embed_in.weight"]}))(folder)
    assert loaded(folder).read(TEXTS).states.isfinite().all()
