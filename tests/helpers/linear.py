"""A model whose blocks add nothing to a push, so that whatever is measured of it has a closed form."""

from __future__ import annotations

import numpy as np
import torch
from safetensors.numpy import save_file

from helpers.models import WORDS, build
from helpers.plain import concept
from steerlib.model import Model
from steerlib.numerics.methods import METHODS
from steerlib.study import Study

ALPHAS = [-0.5, -0.25, 0.0, 0.25, 0.5, 1.0, 2.0]
PROMPTS = [f"Anna ran {word}" for word in WORDS[:12]]
CALM = {"positive": ["Anna home", "b home", "mad a"], "negative": ["Anna ran", "b ran", "happy d"]}
REST = {"positive": ["Anna e", "b f", "c e"], "negative": ["Anna g", "b h", "c h"]}
SERIOUS = [name for name, method in METHODS.items() if method.serious]


def three(prompts=PROMPTS):
    """Two concepts that share their prompts, and one with prompts of its own, fewer of them."""
    return [
        concept("joy", prompts, [" happy"], [" sad"]),
        concept("calm", prompts, [" home"], [" mad"], CALM),
        concept("rest", [f"{text} a" for text in PROMPTS[:9]], [" a"], [" b"], REST),
    ]


def linear() -> Model:
    """Blocks add a constant each and there is no final norm: logits are affine in whatever is pushed."""
    base, draw = build("gpt_neox"), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for block in base.hf.gpt_neox.layers:
            for part in (block.attention.dense, block.mlp.dense_4h_to_h):
                part.weight.zero_()
                part.bias.copy_(torch.randn(base.hidden, generator=draw) / 4)
    base.hf.gpt_neox.final_layer_norm = torch.nn.Identity()
    return Model(base.hf, base.tokenizer)


def outspoken() -> Model:
    """The same, and a push raises the words that it is the embedding of."""
    model = linear()
    model.hf.lm_head.weight.data = model.hf.gpt_neox.embed_in.weight.data.clone()
    return Model(model.hf, model.tokenizer)


def text(draw: np.random.Generator, words: str, length: int) -> str:
    """Of words at random."""
    return " ".join(draw.choice(words.split(), length))


def of_words(draw: np.random.Generator, positive: str, negative: str, pairs: int) -> list[dict]:
    """A template to fit and one to test, of texts of either side's words."""
    sides = {"positive": positive, "negative": negative}
    return [
        {"name": half, "split": half}
        | {side: [text(draw, words, 7) for _ in range(pairs)] for side, words in sides.items()}
        for half in ("fit", "test")
    ]


def ends(model: Model, text: str) -> torch.Tensor:
    """States of all layers at the last token, as the embedding and the blocks' constants make them."""
    state = model.hf.gpt_neox.embed_in.weight[model.tokenizer(text)["input_ids"][-1]].detach()
    found = []
    for block in model.hf.gpt_neox.layers:
        state = state + block.attention.dense.bias.detach() + block.mlp.dense_4h_to_h.bias.detach()
        found.append(state)
    return torch.stack(found)


def rows(model: Model) -> torch.Tensor:
    """u_target − u_foil of every concept."""
    words = [(c.readout.targets[0], c.readout.foils[0]) for c in three()]
    pairs = [[model.tokenizer(word)["input_ids"][0] for word in pair] for pair in words]
    return torch.stack([model.unembedding[t] - model.unembedding[f] for t, f in pairs])


def residual_norm(model: Model) -> np.ndarray:
    """Of every layer, over all prompts."""
    prompts = dict.fromkeys(case.prompt for one in three() for case in one.readout.cases)
    return np.mean([ends(model, text).norm(dim=-1).numpy() for text in prompts], 0)


def write_files(folder) -> None:
    """Decoders of three layers, and neutral passages."""
    draw = np.random.default_rng(0)
    for layer in range(3):
        save_file({"W_dec": draw.standard_normal((40, 32)).astype(np.float32)}, folder / f"sae-{layer}.safetensors")
    (folder / "neutral.txt").write_text("\n".join(" ".join(draw.choice(WORDS, 9)) for _ in range(12)))


def plan(folder, methods=("mean_difference",), instrument=None, **changes) -> Study:
    """A study of these methods, which pushes at every layer; the sparse autoencoder has a file a layer."""

    def spec(name):
        return {name: {"file": str(folder / "sae-{layer}.safetensors")}} if name == "sae" else name

    sweep = {"alphas": ALPHAS, "neutral": str(folder / "neutral.txt"), "neutral_texts": 12, "neighbours": "all"}
    return Study(
        name="linear",
        checkpoints={"folder": str(folder)},
        concepts=["happiness"],  # those of `three` are handed over instead
        probes={"methods": [spec(name) for name in methods], "random": 40, "shuffled": 20},
        sweep=sweep | changes,
        instrument=instrument,
    )


def close(found, expected, rtol=1e-4, atol=2e-4):
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol, atol)
