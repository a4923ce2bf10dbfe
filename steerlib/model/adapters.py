"""Adapters of peft, LoRA and its kin: merged into their base, with every tensor accounted for."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto import AutoModelForCausalLM

from steerlib import SteerlibError
from steerlib.checkpoints import contents
from steerlib.files import store
from steerlib.files.layout import weight_files


def check(config: PretrainedConfig, folder: Path) -> int:
    """Raises SteerlibError where an adapter, as far as names and shapes tell, is none of a base with this config.

    Nothing is loaded, and how many tokens the model has with it returned. A pickle is not opened for this; of one,
    loading tells.
    """
    with _explained(folder), torch.device("meta"):
        hf = AutoModelForCausalLM.from_config(config)
    if held := contents.header(weight_files(folder)[0]):
        _account(_wrapped(hf, folder, held), held, folder)
    return len(hf.get_input_embeddings().weight)


def merged(
    hf: PreTrainedModel, folder: Path, header: Callable[[Path], contents.Header], tolerance: float
) -> PreTrainedModel:
    """The model with an adapter's changes in its weights; it may be off by a share of what texts differ by.

    Raises SteerlibError where not all tensors of either have their place, and where merging changes what is computed.
    """
    from peft import set_peft_model_state_dict
    from peft.utils.save_and_load import load_peft_weights

    if any(weight.is_meta for weight in hf.parameters()):
        raise SteerlibError(f"{folder}: an adapter is merged in memory; take loading.device_map away")
    held = header(weight_files(folder)[0])
    adapted = _wrapped(hf, folder, held)
    _account(adapted, held, folder)
    with _explained(folder):
        set_peft_model_state_dict(adapted, load_peft_weights(str(folder), device=str(hf.device)))
        adapted.eval()
        before = _logits(adapted)
        whole = adapted.merge_and_unload().requires_grad_(True)  # peft had frozen what it does not train
    off = float((_logits(whole) - before).norm(dim=-1).max() / (before - before.mean(0)).norm(dim=-1).mean())
    if not off <= tolerance:
        raise SteerlibError(
            f"{folder}: merged into its base it computes something else (off by {off:.2g} of what texts differ by), as "
            "where an embedding is adapted that is the unembedding as well; merge and save it with what it was made by"
        )
    return whole


def _wrapped(hf: PreTrainedModel, folder: Path, held: contents.Header):
    """The model with a place for every tensor of an adapter. Raises SteerlibError where it has none."""
    from peft import PeftConfig, get_peft_model

    _resize(hf, folder, held)
    with _explained(folder):
        config = PeftConfig.from_pretrained(str(folder))
        config.base_model_name_or_path, config.inference_mode = hf.name_or_path, True
        if hf.device.type == "meta" and hasattr(config, "init_lora_weights"):
            config.init_lora_weights = True  # else it may be made from weights, of which there are none
        adapted = get_peft_model(hf, config, low_cpu_mem_usage=hf.device.type == "meta")
    if not hasattr(adapted.base_model, "merge_and_unload"):
        raise SteerlibError(
            f"{folder}: adapter_config.json: peft_type {config.peft_type.value} changes no weights, and so "
            "cannot be merged into its base; steerlib studies LoRA and others that can"
        )
    return adapted


def _resize(hf: PreTrainedModel, folder: Path, held: contents.Header) -> None:
    """As many tokens as the adapter brings embeddings of: it may have been trained on more than its base.

    Raises SteerlibError where it brings one of embedding and unembedding alone, and not the tied two.
    """
    ends = {"embedding": hf.get_input_embeddings(), "unembedding": hf.get_output_embeddings()}
    before, tied = len(ends["embedding"].weight), ends["embedding"].weight is ends["unembedding"].weight
    brought: dict[str, int] = {}
    for end, module in ends.items():
        place = next(f"base_model.model.{name}." for name, one in hf.named_modules() if one is module)
        names = [name for name in held if name.startswith(place) and name.endswith("weight") and "lora_" not in name]
        if rows := [held[name][1][0] for name in names if held[name][1][1:] == [module.weight.shape[1]]]:
            brought[end] = max(rows)
    if {*brought.values()} <= {before}:
        return
    if len({*brought.values()}) > 1 or (len(brought) < 2 and not tied):
        told = " and ".join(f"an {end} of {rows} tokens" for end, rows in brought.items())
        raise SteerlibError(
            f"{folder}: brings {told} alone, and its base has {before}: what the others were is not told; merge and "
            "save it with what it was made by"
        )
    hf.resize_token_embeddings(max(brought.values()), mean_resizing=False)


def _account(adapted, held: contents.Header, folder: Path) -> None:
    """Every tensor of the adapter has its place, and every place its tensor. Raises SteerlibError naming one."""
    from peft import get_peft_model_state_dict

    own = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    # Beside its own it may bring weights of the base that were trained: embeddings, or biases; and, where peft saves
    # embeddings, its own once more by the names that they have inside of it.
    every = {name.replace(".default", ""): tensor for name, tensor in adapted.state_dict().items()} | own
    places = {name: tuple(tensor.shape) for name, tensor in every.items()}
    shapes = [(name, tuple(shape), places[name]) for name, (_, shape) in held.items() if name in places]
    shaped = [f"{name} {held} for {asked}" for name, held, asked in shapes if held != asked]
    kinds = (
        (own.keys() - held.keys(), "tensors that its adapter_config.json tells of are missing"),
        (shaped, "tensors have another shape than its adapter_config.json and its base ask for"),
        (held.keys() - places.keys(), "tensors have no place in its base, and would not be computed with"),
    )
    if told := [f"{len(names)} {what}, {min(names)} among them" for names, what in kinds if names]:
        raise SteerlibError(f"{folder}: {'; '.join(told)}; is it an adapter of another model?")


def _logits(model) -> torch.Tensor:
    """Of a few tokens behind one another, at the last of each of some rows."""
    ids = torch.randint(model.config.vocab_size, (4, 6), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(input_ids=ids.to(model.device), use_cache=False).logits[:, -1].float()


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """What peft raises, as one sentence; what it only warns of is told by our own accounts."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # peft, safetensors and torch each raise their own kinds
        reason = f"{type(error).__name__}: {store.reason(error)}"
        raise SteerlibError(f"{folder}: cannot be merged into its base ({reason})") from error
