"""Texts as tokens: prompts in one padded batch, and continuations as a tree. Shapes are those of `steerlib.model`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class Tokens:
    """Prompts as ids, padded on the left: every last token stands in the last column.

    What counts as text is said by ``mask`` alone, never by a pad id.
    """

    ids: Int[Tensor, "p t"]
    mask: Bool[Tensor, "p t"]

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], device: torch.device) -> Tokens:
        """Encoded prompts as one batch."""
        rows = [torch.tensor(prompt, dtype=torch.long) for prompt in prompts]
        text = [torch.ones_like(row, dtype=torch.bool) for row in rows]
        ids, mask = (pad_sequence(each, batch_first=True, padding_side="left") for each in (rows, text))
        return cls(ids.to(device), mask.to(device))

    @property
    def positions(self) -> Int[Tensor, "p t"]:
        """Positions count text only, so that padding changes nothing."""
        return (self.mask.cumsum(1) - 1).clamp(min=0)

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What a model is called with."""
        return {"input_ids": self.ids, "attention_mask": self.mask.long(), "position_ids": self.positions}


def reached(text: Bool[Tensor, "p t"], last: int | Int[Tensor, "p 1"], positions: str) -> Bool[Tensor, "p t"]:
    """Which tokens a push reaches, where ``text`` is and each prompt's last token stands in column ``last``.

    ``last``: that one; ``generated``: that and all that is written after it (CAA's positions after the prompt);
    ``all``: all text. Raises ValueError for another word.
    """
    column = torch.arange(text.shape[1], device=text.device)
    match positions:
        case "last":
            return (column == last).expand_as(text)
        case "generated":
            return text & (column >= last)
        case "all":
            return text
    raise ValueError(f"positions {positions!r}: there are last, generated, all")


@dataclass(frozen=True)
class Branches:
    """Continuations of one prompt as a tree: what they begin with in common is run once.

    Node 0 is the prompt's last token, node k the token ``tokens[k - 1]`` after node ``parents[k - 1]``. The last token
    of a continuation needs no node: nothing is read after it.
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    paths: tuple[tuple[tuple[int, int], ...], ...] = ()  # of each continuation: (node, token that follows it)

    @classmethod
    def of(cls, continuations: Sequence[Sequence[int]]) -> Branches:
        node, tokens, parents = {(): 0}, [], []
        for continuation in map(tuple, continuations):
            for k in range(1, len(continuation)):
                if continuation[:k] not in node:
                    tokens.append(continuation[k - 1])
                    parents.append(node[continuation[: k - 1]])
                    node[continuation[:k]] = len(tokens)
        paths = tuple(tuple((node[tuple(c[:k])], c[k]) for k in range(len(c))) for c in continuations)
        return cls(tuple(tokens), tuple(parents), paths)
