"""Models of random weights, and a world of words for them: what a sweep costs does not hang on what a model knows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from steerlib.concepts import Concept
from steerlib.model import Model
from steerlib.steering.arms import Arm
from steerlib.steering.operators import Add

SPREAD = 0.02  # of initial weights
ALPHAS = (-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0)  # as a study's own


@dataclass(frozen=True)
class Size:
    """A model's shape, and a grid: prompts × layers × directions × `ALPHAS`, each read out for all concepts."""

    name: str
    layers: int
    hidden: int
    heads: int
    vocabulary: int
    prompts: int
    tokens: int
    concepts: int = 9  # as the toy has them
    directions: int = 45  # of each concept by three methods, with a random and a shuffled one: a study's default
    foils: int | None = None  # of each concept: the next ones' targets; those of all others when None

    def model(self, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Model:
        """Of `hf`, whose vocabulary are the words w0, w1, …"""
        return Model(self.hf(device, dtype), words(self.vocabulary))

    def hf(self, device: str = "cpu", dtype: torch.dtype = torch.float32) -> GPTNeoXForCausalLM:
        """A GPT-NeoX of this shape as it comes, the same each time."""
        config = GPTNeoXConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=4 * self.hidden,
            max_position_embeddings=2048,
            initializer_range=SPREAD,
        )
        torch.manual_seed(0)
        return GPTNeoXForCausalLM(config).to(device, dtype).eval()

    def world(self, per_concept: int = 8) -> list[Concept]:
        """Concepts that share their prompts, of exactly ``tokens`` tokens; each has one target."""
        draw = np.random.default_rng(0)
        said = lambda: " ".join(f"w{k}" for k in draw.integers(1, self.vocabulary, self.tokens))  # noqa: E731
        prompts, targets = [said() for _ in range(self.prompts)], [f" w{k + 1}" for k in range(self.concepts)]
        others = [(targets[k + 1 :] + targets[:k])[: self.foils] for k in range(self.concepts)]
        return [
            Concept(
                name=f"concept-{k}",
                templates=[
                    {"name": name, **{side: [said() for _ in range(per_concept // 2)] for side in SIDES}}
                    for name in ("a", "b")
                ],
                readout={"prompts": prompts, "targets": [target], "foils": others[k]},
            )
            for k, target in enumerate(targets)
        ]

    def arms(self, count: int | None = None) -> list[Arm]:
        """At every layer the same unit directions, pushed by alpha times `length`."""
        draw = np.random.default_rng(1).standard_normal((count or self.directions, self.hidden)).astype(np.float32)
        unit = torch.from_numpy(draw / np.linalg.norm(draw, axis=1, keepdims=True))
        return [Arm(Add(unit), torch.full((len(unit),), self.length))] * self.layers

    @property
    def length(self) -> float:
        """Norm of a token's embedding."""
        return SPREAD * self.hidden**0.5

    @property
    def cells(self) -> int:
        """Pushes of the grid, each of which a loop pays for with a forward pass."""
        return self.layers * self.directions * (len(ALPHAS) - 1)

    def flops(self, tokens: int, keys: int) -> int:
        """Of one block, forward: its matrices on so many tokens, and attention from each of them to ``keys``."""
        return 2 * 12 * self.hidden**2 * tokens + 4 * self.hidden * tokens * keys


SIDES = ("positive", "negative")
TOY = Size("toy", 4, 128, 4, 1700, prompts=32, tokens=24)
MIDDLE = Size("pythia-70m's shape", 6, 512, 8, 50304, prompts=32, tokens=48)
LARGE = Size("pythia-160m's shape", 12, 768, 12, 50304, prompts=8, tokens=24)
SIZES = {size.name: size for size in (TOY, MIDDLE, LARGE)}


def words(vocabulary: int) -> PreTrainedTokenizerFast:
    """A word a token."""
    known = Tokenizer(models.WordLevel({f"w{k}": k for k in range(vocabulary)}, unk_token="w0"))
    known.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=known, unk_token="w0")
