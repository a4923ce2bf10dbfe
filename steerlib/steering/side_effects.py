"""What a push did beside: to the next words of neutral text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlib.concepts import prompt_split
from steerlib.model import Model, Prefix
from steerlib.steering.readouts import WIDE, normaliser_


class SideEffects:
    """What a push does where it has no business: the next word of neutral passages.

    Each passage is cut at a word; the model stands before the cut, and what follows is known. Strengths are solved for
    on the validation passages, and what is reported comes from the test passages.
    """

    def __init__(self, model: Model, passages: Sequence[str], seed: int, whole: bool = False, only: str | None = None):
        """All passages, or ``only`` those of one split."""
        split = prompt_split(passages, seed)
        kept = [i for i in range(len(passages)) if only in (None, split[i])]
        cuts = [(words := passages[i].split(), 3 + (7 * i) % (len(words) - 4)) for i in kept]
        before = [" ".join(words[:cut]) for words, cut in cuts]
        following = [ids[0] for ids in model.encoder.after(before, [f" {words[cut]}" for words, cut in cuts])]
        self.model, self.split = model, split[kept]
        self._alone = partial(SideEffects, model, passages, seed, whole)
        self.following: Int[Tensor, " p"] = torch.tensor(following)
        self.prefix = Prefix(model, before, whole=whole)
        clean = self.prefix.final[:, None, 0]
        bias = model.logits(torch.zeros_like(clean))
        unsteered = model.logits(clean).log_softmax(-1)
        # Steered logits are taken as those of the change of the final state, which are small where the effect is.
        self.prior, self.expected = unsteered - bias, (unsteered.exp() @ model.unembedding) * model.factor
        self.still = (bias + self.prior).logsumexp(-1)  # 0 but for rounding, and as that is where nothing changes

    @cached_property
    def validation(self) -> SideEffects:
        """The validation passages by themselves: solving for a strength asks them many times."""
        return self._alone(only="validation")

    def measure(self, final: Float[Tensor, "p n b d"]) -> Float[Tensor, "p n 2"]:
        """KL(unsteered ‖ steered) of the next token, and NLL of the one that follows.

        With logits z + Δz for z, KL = log Σ p exp(Δz) − Σ p Δz, and the second sum needs no vocabulary: it is the inner
        product of the final state's change with Σ p w, w being rows of the unembedding.
        """
        change = final[:, :, 0].to(self.prior) - self.prefix.final[:, :1].to(self.prior)
        parts = change.split(max(1, WIDE // self.prior.numel()), 1)
        return torch.cat([self._effects(part) for part in parts], 1)

    def _effects(self, change: Float[Tensor, "p c d"]) -> Float[Tensor, "p c 2"]:
        after = self.model.logits(change).add_(self.prior)
        following = after.gather(-1, self.following.to(after.device)[:, None, None].expand(*after.shape[:2], 1))
        normaliser = normaliser_(after)
        kl = normaliser - self.still - (change * self.expected).sum(-1)
        return torch.stack([kl, normaliser - following[..., 0]], -1)
