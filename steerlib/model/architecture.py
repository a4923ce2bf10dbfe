"""What steerlib knows of architectures: where they keep their blocks, how these multiply, what a block gives back, how
far back it sees."""

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from steerlib.numerics.products import Linear, product

# Where each architecture keeps its blocks inside the base model (``hf.base_model``). Those named here are proven by
# tests/model/test_architectures.py; any other is declared by a study's `loading.blocks`, and proven when it is loaded.
BLOCKS = {
    "apertus": "layers",
    "gemma3_text": "layers",
    "gpt2": "h",
    "gpt_neox": "layers",
    "llama": "layers",  # also Amber and SmolLM
    "mistral": "layers",
    "olmo": "layers",
    "olmo2": "layers",
    "olmo3": "layers",
    "opt": "decoder.layers",
    "phi": "layers",
    "qwen2": "layers",
    "qwen3": "layers",
    "smollm3": "layers",
}


def place_of_blocks(config: PretrainedConfig, declared: str | None) -> str:
    """From the base model on. Raises ValueError when it is neither declared nor known, and for soft-capped logits."""
    kind = config.model_type
    if getattr(config.get_text_config(decoder=True), "final_logit_softcapping", None):
        raise ValueError(
            f"model_type {kind!r}: its logits are soft-capped; steerlib needs them linear in the final state"
        )
    if not declared and kind not in BLOCKS:
        known = ", ".join(sorted(BLOCKS))
        raise ValueError(
            f"model_type {kind!r} is not known to steerlib.model.BLOCKS (known: {known}); "
            "say in loading.blocks where it keeps its blocks, as `decoder.layers`"
        )
    return declared or BLOCKS[kind]


def find_blocks(hf: PreTrainedModel, declared: str | None) -> tuple[str, nn.ModuleList]:
    """Where the base model keeps its blocks, and these.

    Raises ValueError when the place is neither declared nor known, or does not lead to a list of blocks.
    """
    path, module = place_of_blocks(hf.config, declared), hf.base_model
    for name in path.split("."):
        children, parent = dict(module.named_children()), type(module).__name__
        if name not in children:
            raise ValueError(f"loading.blocks {path!r}: {parent} has no {name!r}, but {', '.join(children)}")
        module = children[name]
    if not isinstance(module, nn.ModuleList):
        raise ValueError(f"loading.blocks {path!r}: {type(module).__name__} is no list of blocks")
    return path, module


class Transposed(Conv1D):
    """GPT-2's linear map by `product`."""

    def forward(self, states: Float[Tensor, "... d"]) -> Float[Tensor, "... e"]:
        return product(states, self.weight.T, self.bias)


def by_products(module: nn.Module) -> None:
    """Let every linear map within it be by `product`; its weights and their names stay.

    Not where accelerate brings the weights, which then calls what it found there.
    """
    ours = {nn.Linear: Linear, Conv1D: Transposed}
    for part in module.modules():
        part.__class__ = ours.get(type(part), type(part))


def state_of(output: Tensor | tuple) -> Float[Tensor, "p t d"]:
    """The hidden state in what a block gives back: older blocks, and those of remote code, give a tuple."""
    return output[0] if isinstance(output, tuple) else output


def with_state(output: Tensor | tuple, state: Float[Tensor, "p t d"]) -> Tensor | tuple:
    """What a block gave back, with another hidden state."""
    return (state, *output[1:]) if isinstance(output, tuple) else state


def attention_window(config: PretrainedConfig) -> int | None:
    """How many tokens back some layer's attention sees; None where that is all of them."""
    if set(getattr(config, "layer_types", None) or ["unknown"]) == {"full_attention"}:
        return None
    sizes = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size", "window_size"))
    return min((size for size in sizes if isinstance(size, int)), default=None)
