"""Attention of a prompt's variants side by side: each sees what all share, and itself, and no product is made in vain.

Masked attention multiplies each variant with every other, and copies the prefix's keys for it. Here the scores of a
prefix are one matrix product a prompt and head, and those of the tails one a variant. Registered with transformers,
whose models ask for their attention by name (`AttentionInterface`).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, PretrainedConfig
from transformers.cache_utils import DynamicLayer

APART = "steerlib: variants apart"


class Shared(DynamicLayer):
    """Keys and values of a prefix: what is run after it sees them, and leaves nothing behind."""

    def update(self, keys: Tensor, values: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        return torch.cat([self.keys, keys], -2), torch.cat([self.values, values], -2)


class Beside(Shared):
    """The same for `apart`, which takes them one by one."""

    def update(self, keys: Tensor, values: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        keys.prefix, values.prefix = self.keys, self.values
        return keys, values


def apart(
    module: nn.Module,
    query: Float[Tensor, "p h n*t e"],
    key: Float[Tensor, "p g n*t e"],
    value: Float[Tensor, "p g n*t e"],
    mask: Float[Tensor, "p 1 t before+t"],
    scaling: float,
    **_,
) -> tuple[Float[Tensor, "p n*t h e"], None]:
    """What n variants of a tail of t tokens attend to, where a key is shared by h/g heads.

    The mask, which is added to scores, is that of one variant.
    """
    (p, heads, tokens, _), groups, t = query.shape, key.shape[1], mask.shape[2]
    before, each = mask.shape[3] - t, (p, groups, heads // groups, tokens // t, t)
    own = query.view(*each, -1)
    keys, values = (part.view(p, groups, 1, tokens // t, t, -1) for part in (key, value))
    # One token sees of itself a number: no matrix product.
    scores = (own * keys).sum(-1, keepdim=True) if t == 1 else own @ keys.mT
    if before:
        rows = query.reshape(p, groups, -1, query.shape[-1])
        scores = torch.cat([(rows @ key.prefix.mT).view(*each, before), scores], -1)
    weights = scores.mul_(scaling).add_(mask[:, :, None, None]).softmax(-1)
    seen, itself = weights.split([before, t], -1)
    found = itself * values if t == 1 else itself @ values
    if before:
        found = found + (seen.reshape(p, groups, -1, before) @ value.prefix).view_as(found)
    return found.reshape(p, heads, tokens, -1).transpose(1, 2), None


AttentionInterface.register(APART, apart)


@contextmanager
def attending(config: PretrainedConfig, name: str | None) -> Iterator[None]:
    """By another attention than the model's own, if any is named."""
    own = config._attn_implementation
    config._attn_implementation = name or own
    try:
        yield
    finally:
        config._attn_implementation = own
