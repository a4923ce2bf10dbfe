"""What a model writes, as ids: greedily, or drawn at random."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from steerlib import SteerlibError
from steerlib.model.model import Model

AT_ONCE = 128  # prompts at most, as every token of each leaves keys and values in all layers


def written(
    model: Model,
    prompts: Sequence[str],
    tokens: int,
    drawn: Float[Tensor, "p t"] | None = None,
    inside: Callable[[slice], AbstractContextManager] = nullcontext,
) -> list[tuple[int, ...]]:
    """Ids of what is written after each prompt, to the end of text if that comes: greedily, or at random.

    ``drawn`` has a number between 0 and 1 for every token: where it stands in the distribution of the next one, as all
    its tokens are laid side by side. So what is drawn is the same whatever else is in the batch. Each batch is written
    ``inside`` what that makes of which prompts these are.
    """

    def run(size: int) -> list[tuple[int, ...]]:
        # Code of its own need not tell positions from padding when it writes: one prompt at a time has no padding.
        found, size = [], min(size, AT_ONCE) if model.built_in else 1
        for start in range(0, len(prompts), size):
            rows = slice(start, start + size)
            prompt = model.tokens(prompts[rows], tokens)
            length, chosen = prompt.ids.shape[1], [partial(_finite, model)]
            if drawn is not None:
                chosen.append(partial(_at, drawn[rows].to(model.device), length))
            with inside(rows):
                ids = model.hf.generate(
                    input_ids=prompt.ids,
                    attention_mask=prompt.mask.long(),
                    max_new_tokens=tokens,
                    logits_processor=chosen,
                )
            found += [_ended(row, model.tokenizer.eos_token_id) for row in ids[:, length:].tolist()]
        return found

    return model.fitting(run)


def _ended(ids: list[int], end: int | None) -> tuple[int, ...]:
    """Up to the end of text, which is the last of them: what comes after it is padding."""
    return tuple(ids[: ids.index(end) + 1] if end in ids else ids)


def _at(drawn: Float[Tensor, "p t"], length: int, ids: Tensor, scores: Float[Tensor, "p v"]) -> Float[Tensor, "p v"]:
    """Scores of which the one of the drawn token is the best."""
    mass = scores.double().softmax(-1).cumsum(-1)
    token = (mass < drawn[:, ids.shape[1] - length, None] * mass[:, -1:]).sum(-1, keepdim=True)
    return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)


def _finite(model: Model, ids: Tensor, scores: Float[Tensor, "p v"]) -> Float[Tensor, "p v"]:
    """The scores of next tokens as they are. Raises SteerlibError where they are no numbers."""
    if scores.isnan().any():
        raise SteerlibError(f"numbers beyond what {model.dtype} holds: take a smaller alpha, or loading.dtype: float32")
    return scores
