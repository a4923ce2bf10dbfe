"""A model out of llama.cpp's file (GGUF): dequantised once, and from then on a checkpoint like any other."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import gguf
import torch
from transformers import PreTrainedConfig, PreTrainedTokenizerBase
from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES
from transformers.models.auto import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from steerlib import SteerlibError
from steerlib.checkpoints import contents, dequantised
from steerlib.checkpoints.dequantised import Dequantised
from steerlib.checkpoints.history import history
from steerlib.files import store
from steerlib.model.saving import save_checkpoint
from steerlib.study import Study

CHECKPOINT = "take the checkpoint that it was made from"


def dequantise(study: Study, folder: Path) -> None:
    """Bring a study's GGUF file into its folder of results, where that is not done; beside it, if asked, step 0.

    Raises SteerlibError naming the file where it is not there, not whole, a part of several, or no model that
    transformers can read, and where a tensor of it has no place in that model.
    """
    file, words = dequantised.file_of(study), study.checkpoints.tokenizer is None
    if not (missing := dequantised.missing(study, folder)):
        return
    history(study, folder)  # of steps and of a tokenizer that are not there nobody hears after minutes
    types, numbers, blocks = checked(file.path, words)
    if blocks:
        study.layers_of(blocks)
    config, tokenizer = _described(file.path, words)
    for place, (sha256, seed) in missing.items():
        about = Dequantised(file=file.path.name, sha256=sha256, types=types, untrained=seed)
        _write(file.path, about, numbers, place, config, tokenizer)


def checked(file: Path, words: bool = True) -> tuple[dict[str, int], int, int | None]:
    """How many tensors there are of which type, the most frequent first, how many numbers in all, and how many blocks.

    Raises SteerlibError as `dequantise` does, and where it has no ``words`` but is to have them.
    """
    try:
        reader = gguf.GGUFReader(file)
        kind, parts = (of and of.contents() for of in map(reader.get_field, ("general.architecture", "split.count")))
    except Exception as error:  # gguf and numpy raise several kinds
        raise SteerlibError(f"{file}: cannot be read as GGUF ({store.reason(error)}); {contents.AGAIN}") from None
    if kind not in GGUF_SUPPORTED_ARCHITECTURES:
        raise SteerlibError(
            f"{file}: is of architecture {kind!r}, which transformers cannot read from GGUF; take the checkpoint that "
            "it was made from (checkpoints.folder or checkpoints.repo)"
        )
    if (parts or 1) > 1:
        raise SteerlibError(f"{file}: is one of {parts} parts; join them (llama-gguf-split --merge)")
    if words and reader.get_field("tokenizer.ggml.tokens") is None:
        raise SteerlibError(f"{file}: holds no tokenizer; name the folder of one (checkpoints.tokenizer)")
    for tensor in {tensor.tensor_type: tensor for tensor in reader.tensors}.values():
        try:
            gguf.dequantize(tensor.data[:1], tensor.tensor_type)
        except NotImplementedError:
            raise SteerlibError(
                f"{file}: {tensor.name} is of type {tensor.tensor_type.name}, which cannot be dequantised here; take "
                "another quantisation of the model, or the checkpoint that it was made from"
            ) from None
    types = Counter(tensor.tensor_type.name for tensor in reader.tensors)
    blocks = reader.get_field(f"{kind}.block_count")
    return (
        dict(types.most_common()),
        sum(int(tensor.n_elements) for tensor in reader.tensors),
        blocks and blocks.contents(),
    )


def _described(file: Path, words: bool) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase | None]:
    """Config and, if asked, tokenizer, for all that is made of it: for each the whole vocabulary is parsed."""
    named = {"gguf_file": file.name, "local_files_only": True}
    with _told(file, "cannot be dequantised", CHECKPOINT):
        config = AutoConfig.from_pretrained(file.parent, **named)
    with _told(file, "its tokenizer cannot be read", "name the folder of one (checkpoints.tokenizer)"):
        return config, AutoTokenizer.from_pretrained(file.parent, **named) if words else None


@contextmanager
def _told(file: Path, what: str, remedy: str) -> Iterator[None]:
    """Raises SteerlibError for whatever is raised inside: transformers, gguf and torch each have their own kinds."""
    try:
        yield
    except Exception as error:
        why = f"{type(error).__name__}: {store.reason(error).rstrip(': ')}"
        raise SteerlibError(f"{file}: {what} ({why}); {remedy}") from error


def _write(
    file: Path,
    about: Dequantised,
    numbers: int,
    place: Path,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase | None,
) -> None:
    """The file's model as a Hugging Face folder, in float32; or one of its kind that is untrained."""
    store.tell(f"{place}: {about}, is made")
    logging.disable_progress_bar()
    with _told(file, "cannot be dequantised", CHECKPOINT):
        with torch.random.fork_rng([]):
            torch.manual_seed(about.untrained or 0)
            hf = AutoModelForCausalLM.from_config(deepcopy(config), dtype=torch.float32)
        held = sum(weight.numel() for weight in hf.parameters())
        if about.untrained is None:
            # Into a model that never was quantised: one that was cannot be saved.
            how = {"dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True}
            how |= {"config": deepcopy(config), "gguf_file": file.name, "local_files_only": True}
            read, report = AutoModelForCausalLM.from_pretrained(file.parent, **how)
            hf.load_state_dict(read.state_dict())
            hf.tie_weights()
            lacking = sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])})
    if about.untrained is None and (lacking or held != numbers):
        told = (
            f"{len(lacking)} of its model's weights are not there, or of another shape, {lacking[0]} among them"
            if lacking
            else ""
        )
        many = f"it holds {numbers:,} numbers, but its model has places for {held:,}: some would not be computed with"
        raise SteerlibError(f"{file}: {told or many}; {CHECKPOINT}")
    save_checkpoint(hf, tokenizer, place, {dequantised.NAME: about.model_dump()})
