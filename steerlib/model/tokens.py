"""Texts as tokens: prompts in one padded batch, and continuations as a tree. Shapes are those of `steerlib.model`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

WIDE = 128  # tokens a row of `Forest`: a dozen sentences, and even a small model's attention hardly costs more


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

    @property
    def ends(self) -> tuple[slice, int]:
        """Where last tokens stand."""
        return slice(None), -1


@dataclass(frozen=True)
class Forest:
    """Texts side by side in rows, to be read at their last tokens: what several begin with in common stands once.

    A token sees what stands before it in its own texts, and is where it would be in each of them.
    """

    ids: Int[Tensor, "p t"]
    positions: Int[Tensor, "p t"]
    mask: Float[Tensor, "p 1 t t"]  # added to scores
    ends: tuple[Int[Tensor, " s"], Int[Tensor, " s"]]  # row and column of each text's last token

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]], device: torch.device, dtype: torch.dtype) -> Forest:
        """Encoded texts, in rows of `WIDE` tokens or of as many as the longest text has."""
        wide, rows, ends = max([WIDE, *map(len, texts)]), [], {}
        text, path = [], []  # the one before, and its columns
        for k in sorted(range(len(texts)), key=texts.__getitem__):  # beginnings that are alike follow one another
            alike = [a == b for a, b in zip(text, texts[k], strict=False)]
            text, shared = texts[k], [*alike, False].index(False)
            if not rows or len(rows[-1]) + len(text) - shared > wide:
                rows.append([])
                shared = 0
            own = range(shared, len(text))
            path = [*path[:shared], *(len(rows[-1]) + column for column in range(len(own)))]
            rows[-1] += [(text[place], place, path[max(0, place - 1)]) for place in own]
            ends[k] = len(rows) - 1, path[-1]
        ids, positions, above = pad_sequence([torch.tensor(row) for row in rows], batch_first=True).unbind(-1)
        sees = torch.eye(ids.shape[1], dtype=torch.bool).repeat(len(ids), 1, 1)
        seen = torch.arange(ids.shape[1]).expand_as(ids)
        for _ in range(int(positions.max())):
            seen = above.gather(1, seen)
            sees.scatter_(2, seen[..., None], True)
        ids, positions, sees = (part.to(device) for part in (ids, positions, sees))
        return cls(ids, positions, additive(sees, dtype)[:, None], (*torch.tensor([ends[k] for k in sorted(ends)]).T,))

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What a model is called with."""
        return {"input_ids": self.ids, "attention_mask": self.mask, "position_ids": self.positions}


def additive(sees: Bool[Tensor, "..."], dtype: torch.dtype) -> Float[Tensor, "..."]:
    """A mask of who sees whom as what is added to scores."""
    return torch.zeros_like(sees, dtype=dtype).masked_fill_(~sees, torch.finfo(dtype).min)


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
