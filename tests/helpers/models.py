"""Tiny models with random weights, one of every architecture, and a decoder whose code comes with its checkpoint."""

from __future__ import annotations

from pathlib import Path

WORDS = "a b c d e f g h happy glad joyful sad gloomy angry mad ran home Anna felt".split()
SHAPES = {
    "gpt_neox": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48},
    "llama": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    | {"num_key_value_heads": 2},  # keys and values are shared by pairs of heads
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4},
}
LLAMA = SHAPES["llama"]
OWN = {"num_key_value_heads": 4}  # as many heads of keys as of queries
KINDS = {"sliding": "sliding_attention", "full": "full_attention"}
WINDOW = 24
# More that are proven, beside those that most tests use.
MORE = {
    "llama of its own keys": LLAMA | OWN | {"model_type": "llama"},
    # Those that a study pretrains, with the other kind of head: whether words are read and written by one matrix.
    "gpt_neox tied": SHAPES["gpt_neox"] | {"model_type": "gpt_neox", "tie_word_embeddings": True},
    "llama tied": LLAMA | {"model_type": "llama", "tie_word_embeddings": True},
    "gpt2 untied": SHAPES["gpt2"] | {"model_type": "gpt2", "tie_word_embeddings": False},
    "gemma3_text": LLAMA
    | {
        "head_dim": 8,
        "sliding_window": WINDOW,
        "layer_types": [KINDS[kind] for kind in ("sliding", "full", "sliding")],
    },
    "olmo": LLAMA | OWN | {"clip_qkv": 2.0},
    "olmo2": LLAMA | {"tie_word_embeddings": True},
    "olmo3": LLAMA
    | {"sliding_window": WINDOW, "layer_types": [KINDS[kind] for kind in ("sliding", "full", "sliding")]},
    "mistral": LLAMA | {"sliding_window": WINDOW},
    "opt": LLAMA | {"ffn_dim": 48, "word_embed_proj_dim": 32},  # learned positions that start at 2
    "phi": LLAMA | OWN,  # attention and MLP side by side, a bias in its head
    "qwen2": LLAMA | {"sliding_window": WINDOW, "use_sliding_window": True, "max_window_layers": 1},
    "qwen3": LLAMA | {"head_dim": 8, "tie_word_embeddings": True},
    "smollm3": LLAMA | {"no_rope_layer_interval": 2},
    "apertus": LLAMA,
}


def configured(architecture: str, dtype: str = "float32", **changes):
    """A tiny transformers model with random weights, so large that every block leaves its mark."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "max_position_embeddings": 64}
    special["vocab_size"] = len(WORDS) + 1
    shape = {"model_type": architecture, **(SHAPES | MORE).get(architecture, {}), **changes}
    config = AutoConfig.for_model(**special | shape)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return shaken(AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype)))


def shaken(hf):
    """Its weights moved at random."""
    import torch

    with torch.no_grad():
        for weight in hf.parameters():
            weight += 0.2 * torch.randn_like(weight)
    return hf


def tokenizer():
    """Of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<unk>", *WORDS])}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()  # " happy", as readouts spell it, is one token
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")


def build(architecture: str, dtype: str = "float32", **changes):
    """A `steerlib.model.Model` of whole words."""
    from steerlib.model import Model

    return Model(configured(architecture, dtype=dtype, **changes), tokenizer())


# A decoder whose code comes with the checkpoint: blocks give tuples, embeddings and logits have muP multipliers, as
# CrystalCoder's. ``wrong`` makes it do one thing otherwise than steerlib has to rely on.
REMOTE = """
import torch
from torch import nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast


class TinyConfig(PretrainedConfig):
    model_type = "tiny_crystal"

    def __init__(self, vocab_size=23, hidden_size=32, num_hidden_layers=3, heads=4, wrong="", scale=0.25, **rest):
        self.vocab_size, self.hidden_size, self.num_hidden_layers = vocab_size, hidden_size, num_hidden_layers
        self.heads, self.wrong, self.scale = heads, wrong, scale
        super().__init__(**rest)


class Block(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        d = config.hidden_size
        self.heads, self.layer = config.heads, layer
        self.norm, self.qkv, self.out = nn.LayerNorm(d), nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.mlp = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 48), nn.GELU(), nn.Linear(48, d))

    def forward(self, hidden, mask, cache=None):
        apart = self.qkv(self.norm(hidden)).unflatten(-1, (3, self.heads, -1))
        q, k, v = apart.permute(2, 0, 3, 1, 4)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] + mask).softmax(-1)
        hidden = hidden + self.out((weights @ v).transpose(1, 2).flatten(2))
        return hidden + self.mlp(hidden), weights


class TinyPreTrained(PreTrainedModel):
    config_class = TinyConfig
    base_model_prefix = "transformer"


class TinyModel(TinyPreTrained):
    def __init__(self, config):
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.wpe = nn.Embedding(128, config.hidden_size)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norms = nn.ModuleList(nn.LayerNorm(config.hidden_size) for _ in range(2))
        self.ln_f = nn.LayerNorm(config.hidden_size)
        self.post_init()

    def get_input_embeddings(self):
        return self.wte

    def forward(self, input_ids, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None, **rest):
        past, wrong = past_key_values.get_seq_length() if past_key_values is not None else 0, self.config.wrong
        n = input_ids.shape[1]
        if position_ids is None or wrong == "positions":
            position_ids = torch.arange(past, past + n, device=input_ids.device)[None]
        hidden = 3.0 * self.wte(input_ids) + self.wpe(position_ids)
        sees = torch.ones(n, past + n, dtype=torch.bool, device=input_ids.device).tril(past)[None, None]
        if attention_mask is not None and attention_mask.dim() == 2 and wrong != "padding":
            sees = sees & attention_mask[:, None, None].bool()
        mask = torch.zeros(sees.shape, dtype=hidden.dtype, device=hidden.device)
        mask = mask.masked_fill(~sees, torch.finfo(hidden.dtype).min)
        if attention_mask is not None and attention_mask.dim() == 4 and wrong != "mask":
            mask = attention_mask
        elif wrong == "mask" and attention_mask is not None and attention_mask.dim() == 4:
            mask = mask.expand(len(hidden), -1, -1, -1)
        for block in self.h:
            hidden = block(hidden, mask, past_key_values if use_cache and wrong != "cache" else None)[0]
        return BaseModelOutputWithPast(last_hidden_state=self.ln_f(hidden), past_key_values=past_key_values)


class TinyForCausalLM(TinyPreTrained, GenerationMixin):
    def __init__(self, config):
        super().__init__(config)
        self.transformer = TinyModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids, **rest):
        rest = {name: value for name, value in rest.items() if name not in ("labels", "logits_to_keep", "return_dict")}
        out = self.transformer(input_ids, **rest)
        logits = self.config.scale * self.lm_head(out.last_hidden_state)
        if self.config.wrong == "capped":
            logits = 2 * (logits / 2).tanh()
        return CausalLMOutputWithPast(logits=logits, past_key_values=out.past_key_values)
"""


def write_remote(folder: Path, words=None, **config) -> Path:
    """A checkpoint of that decoder, with a tokenizer of whole words unless another is given."""
    import json
    import types

    import torch

    words = words or tokenizer()
    module = types.ModuleType("tiny_crystal")
    exec(REMOTE, module.__dict__)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        hf = shaken(module.TinyForCausalLM(module.TinyConfig(vocab_size=len(words), **config)))
    hf.save_pretrained(folder)
    words.save_pretrained(folder)
    (folder / "modeling_tiny.py").write_text(REMOTE)
    about = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "TinyConfig", "AutoModelForCausalLM": "TinyForCausalLM"}
    about["auto_map"] = {auto: f"modeling_tiny.{name}" for auto, name in names.items()}
    (folder / "config.json").write_text(json.dumps(about))
    return folder
