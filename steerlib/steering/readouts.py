"""What a push did to the model's words: log-odds of targets against foils."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import inf, log
from statistics import median

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from steerlib import SteerlibError
from steerlib.concepts import Concept
from steerlib.model import Branches, Model
from steerlib.model.encoder import quoted
from steerlib.steering.asking import continuations

WIDE = 8 << 20  # logits of the whole vocabulary at a time, lest each step over them waits for memory
BESIDE = 1 << 18  # numbers of options taken at a time
QUANTITIES = ("log_odds", "margin", "margin_normalised")


@dataclass(frozen=True)
class Options:
    """What is read at one prompt: the continuations of all concepts, each once, and on whose side they stand."""

    tokens: tuple[tuple[int, ...], ...]
    characters: tuple[int, ...]  # their lengths
    sides: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]  # of each concept: which are targets, which are foils
    words: tuple[str, ...] = field(compare=False)  # as they are spelled
    # Log-probability of each in the unsteered model, where they are what it wrote itself: a draw of it.
    prior: tuple[float, ...] = ()

    @cached_property
    def columns(self) -> list[Int[Tensor, "readout width"]]:
        """Targets of each concept, and foils; one past the last option where another concept has more."""
        sides = zip(*self.sides, strict=True)
        return [pad_sequence([*map(torch.tensor, side)], True, len(self.tokens)) for side in sides]

    def by_side(self, each: Float[Tensor, "g n #readout option"]) -> list[tuple[Tensor, Tensor]]:
        """Over each concept's targets, and its foils: log of the sum of exponentials, and the largest, (readout g n).

        Of many, as where the words of all others are foils, so few at a time that they stay in the cache.
        """
        scores, found = pad(each, (0, 1), value=-inf).permute(2, 3, 0, 1).flatten(0, 1), []
        start = torch.arange(each.shape[2])[:, None] * (each.shape[3] + 1)
        for column in self.columns:
            rows = (start + column).T.to(scores.device)
            parts = rows.split(max(1, BESIDE // scores[0].numel() // len(column)))
            take = lambda part: scores.index_select(0, part.flatten()).unflatten(0, part.shape)  # noqa: E731
            top = torch.stack([take(part).amax(0) for part in parts]).amax(0)
            total = sum((take(part) - top.detach()).exp().sum(0) for part in parts)
            found.append((total.log() + top.detach(), top))
        return found


@dataclass(frozen=True)
class Readouts:
    """Readouts of several concepts that share their prompts, from the final states there. In nats:

    * ``log_odds``: logsumexp over targets − logsumexp over foils, of the log-probability of each continuation, summed
      over its tokens. The softmax normaliser of the first token cancels, so that for continuations of one token only
      the vocabulary rows of targets and foils are multiplied;
    * ``margin``: best target − best foil; above 0 the multiple choice is answered rightly;
    * ``margin_normalised``: the same of log-probabilities per character of the continuation (lm-evaluation-harness has
      it per byte, as ``acc_norm``). Here the normaliser counts; only for items, which have choices, NaN otherwise.

    Where the options are texts, log-odds and margin are of log-probabilities per token: a text's mean, normaliser and
    all, so that the longer one is not the less likely.

    Where the options are a draw of what the unsteered model writes (`prior`), each counts by how much more likely the
    push has made it, p/p₀, as often as it was drawn. Log-odds are then those of writing something on the targets' side,
    by importance sampling, and their slope at alpha 0 is the score-function estimate (Williams 1992, REINFORCE). Half a
    text is added to either side, which keeps them finite; margins are the log-odds.
    """

    model: Model
    names: list[str]
    normalised: list[bool]  # of each concept
    per_token: list[bool]  # of each concept
    options: list[Options]  # of each prompt

    @classmethod
    def of(cls, model: Model, concepts: Sequence[Concept]) -> Readouts:
        """Raises SteerlibError for a target or foil that the tokenizer does not tell from others (`continuations`)."""
        options, names = [], [concept.name for concept in concepts]
        for cases in zip(*(concept.readout.cases for concept in concepts), strict=True):
            tokens, spelled = continuations(model.encoder, cases, names), {}
            for word, ids in tokens.items():
                spelled.setdefault(ids, word)
            place = {ids: k for k, ids in enumerate(spelled)}
            sides = tuple(
                tuple(
                    tuple(dict.fromkeys(place[tokens[word]] for word in words)) for words in (case.targets, case.foils)
                )
                for case in cases
            )
            words = tuple(spelled.values())
            options.append(Options(tuple(spelled), tuple(len(word.strip()) for word in words), sides, words))
        items, texts = ([bool(getattr(c.readout, kind)) for c in concepts] for kind in ("items", "texts"))
        return cls(model, names, items, texts, options)

    def only(self, name: str) -> Readouts:
        """Of one of the concepts alone, as if the others were not there."""
        k, told = self.names.index(name), []
        for options in self.options:
            own = list(dict.fromkeys(sum(options.sides[k], ())))
            kept = ([of[i] for i in own] if of else () for of in (options.words, options.prior))
            tokens, characters = ([of[i] for i in own] for of in (options.tokens, options.characters))
            sides = (tuple(tuple(map(own.index, side)) for side in options.sides[k]),)
            told.append(Options(tuple(tokens), tuple(characters), sides, *map(tuple, kept)))
        return Readouts(self.model, [name], [self.normalised[k]], [self.per_token[k]], told)

    def pick(self, prompts: Sequence[int], texts: Sequence[str] = ()) -> Readouts:
        """The options of some prompts, again and again if asked for: for other texts, if any are told.

        Raises SteerlibError where the options are not the same tokens after them. Those that begin with the same
        character stand for one another.
        """
        first = [[*{word[0]: k for k, word in enumerate(options.words)}.values()] for options in self.options]
        asked = [(self.options[p], k, text) for p, text in zip(prompts, texts, strict=bool(texts)) for k in first[p]]
        added = self.model.encoder.after([text for *_, text in asked], [options.words[k] for options, k, _ in asked])
        for (options, k, text), ids in zip(asked, added, strict=True):
            if ids != options.tokens[k]:
                raise SteerlibError(
                    f"concept {', '.join(self.names)}: readout option {options.words[k]!r} is other tokens "
                    f"after {quoted(text)} than after its prompt; let both end alike"
                )
        return replace(self, options=[self.options[prompt] for prompt in prompts])

    @property
    def tokens(self) -> list[float]:
        """What each concept's log-odds are divided by: of texts their median length in tokens, else 1."""
        lengths = [
            [len(options.tokens[i]) for options in self.options for side in options.sides[k] for i in side]
            for k in range(len(self.names))
        ]
        return [float(median(of)) if texts else 1.0 for of, texts in zip(lengths, self.per_token, strict=True)]

    @cached_property
    def branches(self) -> list[Branches]:
        """Of each prompt, what has to be run beside its last token."""
        return [Branches.of(options.tokens) for options in self.options]

    @cached_property
    def _alike(self) -> dict[Options, list[int]]:
        """Prompts by their options: those that share them are read at once."""
        prompts: dict[Options, list[int]] = {}
        for prompt, options in enumerate(self.options):
            prompts.setdefault(options, []).append(prompt)
        return prompts

    @property
    def _at_a_time(self) -> int:
        """States of which all logits are made."""
        return max(1, WIDE // len(self.model.unembedding))

    def measure(self, final: Float[Tensor, "p n b d"]) -> Float[Tensor, "p n m"]:
        """All `QUANTITIES` of the first concept, then those of the next (m = 3 × concepts), in float32 at least."""
        final = final.to(self.model.unembedding)  # where logits are computed, and as exactly
        values = final.new_empty(*final.shape[:2], 3 * len(self.names))
        # Per character or token the first token's normaliser does not cancel, nor against what it was.
        whole = any(self.normalised) or any(self.per_token) or any(options.prior for options in self.options)
        for options, prompts, score in self._scores(final, whole):
            values[prompts] = self._measure(score, options)
        return values

    def log_odds(self, final: Float[Tensor, "p n b d"]) -> Float[Tensor, "p n readout"]:
        return self.measure(final)[..., ::3]

    def success(self, final: Float[Tensor, "p n b d"]) -> Float[Tensor, "p n readout"]:
        """1 where some target beats every foil: for a multiple choice, where the answer is right."""
        margins = self.measure(final)[..., 1::3]
        return (margins > 0).to(margins.dtype)

    def drawn(self, final: Float[Tensor, "p 1 b d"]) -> Readouts:
        """The same, of options that the unsteered model drew, from its final states."""
        told = list(self.options)
        for _, prompts, score in self._scores(final.to(self.model.unembedding), whole=True):
            for prompt, prior in zip(prompts, score[:, 0].tolist(), strict=True):
                told[prompt] = replace(told[prompt], prior=tuple(prior))
        return replace(self, options=told)

    def led_to(self, final: Float[Tensor, "p 1 b d"]) -> tuple[Float[Tensor, "p readout"], Int[Tensor, "p readout"]]:
        """How far unsteered prompts lead to the options of each concept: their share of probability, and the rank of
        the likeliest of their first tokens among all tokens (1: the model's own choice)."""
        final = final.to(self.model.unembedding)
        share = final.new_empty(len(final), len(self.names))
        rank = torch.empty(share.shape, dtype=torch.long)
        for options, prompts, score in self._scores(final, whole=True):
            likely = score.exp()[:, 0]
            owned = [list(dict.fromkeys(targets + foils)) for targets, foils in options.sides]
            share[prompts] = torch.stack([likely[:, own].sum(-1) for own in owned], -1)
            for part in torch.tensor(prompts).split(self._at_a_time):
                logits = self.model.logits(final[part, 0, 0])
                for k, own in enumerate(owned):
                    first = torch.tensor([options.tokens[option][0] for option in own])
                    rank[part, k] = 1 + (logits > logits[:, first].amax(-1, keepdim=True)).sum(-1).cpu()
        return share.cpu(), rank

    def _measure(self, score: Float[Tensor, "g n option"], options: Options) -> Float[Tensor, "g n m"]:
        lengths = score.new_tensor(options.characters).clamp(min=1)
        tokens = score.new_tensor([len(ids) for ids in options.tokens])
        if options.prior:
            values = []
            for targets, foils in options.sides:
                weight = score - score.new_tensor(options.prior)
                half = weight[..., targets + foils].logsumexp(-1, keepdim=True) - log(2 * len(targets + foils))
                t, f = (torch.cat([weight[..., side], half], -1).logsumexp(-1) for side in (targets, foils))
                values += [t - f, t - f, torch.full_like(t, torch.nan)]
            return torch.stack(values, -1)
        scored, which = score[:, :, None], partial(torch.tensor, device=score.device)
        if any(self.per_token):
            scored = torch.where(which(self.per_token)[:, None], (score / tokens)[:, :, None], scored)
        log_odds, margin = (t - f for t, f in zip(*options.by_side(scored), strict=True))
        each = torch.full_like(margin, torch.nan)
        if any(self.normalised):
            (_, t), (_, f) = options.by_side((score / lengths)[:, :, None])
            each = torch.where(which(self.normalised)[:, None, None], t - f, each)
        return torch.stack([log_odds, margin, each], 1).flatten(0, 1).movedim(0, -1)

    def _scores(
        self, final: Float[Tensor, "p n b d"], whole: bool
    ) -> Iterator[tuple[Options, list[int], Float[Tensor, "g n option"]]]:
        """Options, the prompts that share them, and there the log-probability of each: if not ``whole``, but for the
        normaliser of its first token, which all share."""
        normaliser = self._normaliser(final, whole)
        for options, prompts in self._alike.items():
            paths = self.branches[prompts[0]].paths
            column = {token: i for i, token in enumerate(dict.fromkeys(token for path in paths for _, token in path))}
            logits = self.model.logits(final[prompts], torch.tensor(list(column)))
            if normaliser is not None:
                logits = logits - normaliser[prompts][..., None]
            if len(column) == len(paths) == sum(map(len, paths)):  # one token each, in their order
                yield options, prompts, logits[:, :, 0]
                continue
            of_paths = (sum(logits[:, :, node, column[token]] for node, token in path) for path in paths)
            yield options, prompts, torch.stack([*of_paths], -1)

    def _normaliser(self, final: Float[Tensor, "p n b d"], whole: bool) -> Float[Tensor, "p n b"] | None:
        """Log of the softmax's denominator where it counts, of many states at a time; 0 elsewhere. None of nothing."""
        nodes, node = torch.tensor([[1 + len(tree.tokens)] for tree in self.branches]), torch.arange(final.shape[2])
        counts = (node < nodes) & (node >= (not whole))
        if not counts.any():  # asked on the CPU: a GPU would be waited for with every chunk
            return None
        counts = counts.to(final.device)
        states, found = final.transpose(1, 2)[counts], final.new_zeros(final.shape[:3]).transpose(1, 2)
        parts = states.flatten(0, 1).split(self._at_a_time)
        each = torch.cat([normaliser_(self.model.logits(part)) for part in parts])
        return found.masked_scatter(counts[..., None], each).transpose(1, 2)


def normaliser_(logits: Float[Tensor, "... v"]) -> Float[Tensor, "..."]:
    """Log of the sum of their exponentials, in their own memory: twice as fast, as there are so many of them."""
    if logits.requires_grad:
        return logits.logsumexp(-1)
    largest = logits.amax(-1, keepdim=True).nan_to_num_(0.0, 0.0, 0.0)  # of what overflowed, nothing is taken off
    return logits.sub_(largest).exp_().sum(-1).log_().add_(largest[..., 0])


def measured(measure: Callable[[Tensor], Tensor], finals) -> Tensor:
    """A measure of chunks of variants, side by side, on the CPU."""
    return torch.cat([measure(final).cpu() for final in finals], 1)
