"""What a push did to the model's words: log-odds of targets against foils, and side effects on neutral text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlib.concepts import Concept
from steerlib.errors import SteerlibError
from steerlib.model import Model


class Readouts:
    """Readouts of several concepts from one final state.

    log_odds = logsumexp over targets − logsumexp over foils. The softmax normaliser cancels, so only the vocabulary
    rows of targets and foils are multiplied. Raises SteerlibError for a target or foil of several tokens.
    """

    def __init__(self, model: Model, concepts: Sequence[Concept]):
        ids = {}
        for concept in concepts:
            for option in (*concept.readout.targets, *concept.readout.foils):
                ids[option] = single_token(model, option, concept.name)
        column = {token: i for i, token in enumerate(dict.fromkeys(ids.values()))}
        self.model, self.rows = model, torch.tensor(list(column))
        self.options = []
        for concept in concepts:
            targets, foils = (
                [column[ids[o]] for o in side] for side in (concept.readout.targets, concept.readout.foils)
            )
            if both := set(targets) & set(foils):
                option = model.tokenizer.decode(self.rows[both.pop()])
                raise SteerlibError(f"concept {concept.name}: a target and a foil both begin with the token {option!r}")
            self.options.append((targets, foils))

    def log_odds(self, final: Float[Tensor, "... d"]) -> Float[Tensor, "... readout"]:
        """Log-odds of every concept's targets, in nats."""
        logits = self.model.logits(final, self.rows)
        return torch.stack([logits[..., t].logsumexp(-1) - logits[..., f].logsumexp(-1) for t, f in self.options], -1)

    def success(self, final: Float[Tensor, "... d"]) -> Bool[Tensor, "... readout"]:
        """Whether some target beats every foil: for a multiple choice, whether the answer is the right one."""
        logits = self.model.logits(final, self.rows)
        return torch.stack([logits[..., t].amax(-1) > logits[..., f].amax(-1) for t, f in self.options], -1)


class SideEffects:
    """What a push does where it has no business: the next word of neutral passages.

    Each passage is cut at a word; the model stands before the cut, and what follows is known.
    """

    def __init__(self, model: Model, passages: Sequence[str]):
        cuts = [(words := text.split(), 3 + (7 * i) % (len(words) - 4)) for i, text in enumerate(passages)]
        self.prompts = [" ".join(words[:cut]) for words, cut in cuts]
        following = [model.tokenizer(f" {words[cut]}", add_special_tokens=False)["input_ids"][0] for words, cut in cuts]
        self.model, self.following = model, torch.tensor(following)

    def measure_against(self, clean: Float[Tensor, "p 1 d"]) -> Callable[[Tensor], Tensor]:
        """A measure of final states: KL(unsteered ‖ steered) of the next token, and NLL of the one that follows."""
        before = self.model.logits(clean).log_softmax(-1)

        def measure(final: Float[Tensor, "p n d"]) -> Float[Tensor, "p n 2"]:
            after = self.model.logits(final).log_softmax(-1)
            kl = (before.exp() * (before - after)).sum(-1)
            following = self.following[:, None, None].expand(*after.shape[:2], 1)
            return torch.stack([kl, -after.gather(-1, following)[..., 0]], -1)

        return measure


def single_token(model: Model, option: str, concept: str) -> int:
    """The token of a target or foil. Raises SteerlibError when it is split into several."""
    tokens = model.tokenizer(option, add_special_tokens=False)["input_ids"]
    if len(tokens) != 1 or tokens[0] == model.tokenizer.unk_token_id:
        pieces = " + ".join(repr(model.tokenizer.decode([t])) for t in tokens) or "nothing"
        raise SteerlibError(
            f"concept {concept}: readout option {option!r} is not one token for this model but {pieces}; "
            "choose another word (with the space before it, as in ' happy')"
        )
    return tokens[0]
