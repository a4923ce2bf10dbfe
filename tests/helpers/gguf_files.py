"""A tiny Llama as llama.cpp keeps it."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

from helpers.models import configured
from steerlib.stages.pretraining import train_tokenizer

SENTENCES = [f"Anna was {word} in the morning, and went home." for word in ("glad", "sad", "angry", "afraid")] * 9


def words():
    """Byte-level BPE, as the format has it."""
    return train_tokenizer(SENTENCES, 300)


def llama(**changes):
    shape = {"vocab_size": len(words()), "intermediate_size": 64, "tie_word_embeddings": True}
    shape["max_position_embeddings"] = 128
    return configured("llama", **shape | changes)


def write(
    path: Path,
    hf,
    tokens: bool = True,
    architecture: str = "llama",
    more: dict[str, type] | None = None,
    merges: list[str] | None = None,
    feed_forward: int | None = None,
    **fields: int,
) -> Path:
    """The model in a file: matrices in codes of 8 bits (Q8_0) where the name says ``q8``, all else in float32.

    ``more`` are further tensors by name, of numbers of what type; ``fields`` further numbers, with ``_`` for the dots
    in their keys. ``merges`` and ``feed_forward`` are told instead of the tokenizer's and the model's own.
    """
    config, writer = hf.config, GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(feed_forward or config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    for key, number in fields.items():
        writer.add_uint16(key.replace("_", "."), number)
    if tokens:
        bpe = words()
        model = bpe.backend_tokenizer.to_str()
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(bpe.convert_ids_to_tokens(range(len(bpe))))
        writer.add_token_types([3] + [1] * (len(bpe) - 1))  # the end of a text is none of its words
        writer.add_token_merges(merges or [" ".join(pair) for pair in json.loads(model)["model"]["merges"]])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in hf.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.numpy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        if rotated := next((count for part, count in heads.items() if part in name), None):  # its own order of a head
            values = values.reshape(rotated, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        called = names.get_name(name, try_suffixes=(".weight",))
        if "q8" in path.stem and values.ndim == 2:
            codes = gguf.quantize(np.ascontiguousarray(values), GGMLQuantizationType.Q8_0)
            writer.add_tensor(called, codes, raw_dtype=GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(called, np.ascontiguousarray(values))
    for name, kind in (more or {}).items():
        writer.add_tensor(name, np.ones(4, dtype=kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
