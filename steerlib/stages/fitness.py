"""Whether a concept's readout measures what is meant, at one checkpoint and unsteered.

Do its prompts lead to its options at all, and do its log-odds follow evidence that stands before them? Where they do
not, a push that moves nothing tells of the readout as well as of the model (`stages.verdicts` judges the numbers).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlib.concepts import Concept, Stimuli
from steerlib.model import Model, Prefix
from steerlib.numerics.statistics import interval, widened
from steerlib.stages import written
from steerlib.stages.classifiers import Judge
from steerlib.steering import Readouts

DRAWS = 500  # resamples of the pairs, for an interval
WRITTEN = 8  # texts after each evidence, where what is written is judged
AT_A_TIME = 64  # texts whose continuations are run together
ENDS = (".", "!", "?", "…", "。", "！", "？")  # of a sentence, with or without quotes and brackets behind it


class Evidence(NamedTuple):
    """Texts after which a readout is read: so many with evidence for the concept, then as many without.

    Text i and text i + half of them are one pair, and are asked for the options of the same ``prompt``.
    """

    texts: list[str]
    prompt: list[int]
    unit: Int[np.ndarray, " pair"]  # what the pairs vary with

    def some(self, pairs: int) -> Evidence:
        """At most so many pairs, from all over them."""
        every = len(self.unit)
        kept = np.unique(np.linspace(0, every - 1, min(pairs, every)).round().astype(int))
        rows = [*kept, *(kept + every)]
        return Evidence([self.texts[row] for row in rows], [self.prompt[row] for row in rows], self.unit[kept])


def evidence(concept: Concept, fit: Stimuli, test: Stimuli) -> Evidence:
    """What speaks for and against the concept, before its readout.

    With items: each question, and the next one (its options without what they answer). With texts, or where what is
    written is judged: fitted ones, as held-out ones are the options or the judge's, and then the prompt. Else: held-out
    stimuli; where they are whole sentences, a prompt stands behind each.
    """
    readout = concept.readout
    prompts = [case.prompt for case in readout.cases]
    every = [*range(len(prompts))]
    if readout.items and not readout.texts:
        return Evidence(prompts + prompts[1:] + prompts[:1], every * 2, np.array(every))
    if readout.texts:
        sides = ([side[k % len(side)] for k in every] for side in (fit.positive, fit.negative))
        return Evidence(
            [f"{text} {prompt}" for side in sides for text, prompt in _zip(side, prompts)], every * 2, np.array(every)
        )
    told = fit if readout.judged else test
    if not (readout.judged or whole_sentences(told.texts)):
        return Evidence(told.texts, [0] * len(told.texts), told.units)
    asked = [k % len(prompts) for k in range(len(told.positive))] * 2
    return Evidence([f"{text} {prompts[k]}" for text, k in _zip(told.texts, asked)], asked, told.units)


def whole_sentences(texts: Sequence[str]) -> bool:
    """Whether at least half of them are: after those that are not, such as "Anna was very", a word is due."""
    return 2 * sum(text.rstrip("\"'”’»)] ").endswith(ENDS) for text in texts) >= len(texts)


def measured(
    readouts: Readouts,
    concept: Concept,
    fit: Stimuli,
    test: Stimuli,
    final: Float[Tensor, "s d"],
    seed: int,
    judge: Judge | None = None,
) -> dict[str, np.ndarray | float]:
    """Expression with its baseline, pair by pair, and all that says whether the readout fits.

    ``readouts`` are those of this (`asking.matched`) concept alone; ``final`` are the final states of the held-out
    stimuli. A pair too long for the model's context is NaN. What is written, and found by a ``judge``, has a share, and
    no rank.
    """
    model, asked = readouts.model, evidence(concept, fit, test)
    prompts = [case.prompt for case in concept.readout.cases]
    if judge:
        odds, tokens = _judged(model, concept, judge, asked, seed), 1.0
        margins, rank = odds - 0.5, np.nan
        share = np.mean([len(targets) for options in readouts.options for targets, _ in options.sides]) / written.TEXTS
    else:
        margins, odds = _after(readouts, asked, final if asked.texts == test.texts else None)
        share, rank = readouts.led_to(Prefix(model, prompts, readouts.branches).final[:, None])
        # No share to speak of is left to a whole sentence.
        share, rank = np.nan if concept.readout.items else share.mean(), rank.double().median()
        tokens = readouts.tokens[0]
    top, without = np.split(np.where(np.isnan(margins), np.nan, margins > 0).astype(np.float32), 2)
    return {
        "expression": top,
        "expression_null": without,
        "readout_share": float(share),
        "readout_rank": float(rank),
        "readout_tokens": tokens,
        **dict(
            zip(
                ("readout_auroc", "readout_auroc_lower", "readout_auroc_upper"),
                moved(odds, asked.unit, seed),
                strict=True,
            )
        ),
    }


def moved(odds: Float[np.ndarray, " s"], unit: Int[np.ndarray, " pair"], seed: int) -> tuple[float, float, float]:
    """AUROC of log-odds after evidence for the concept against those without, within pairs, and its interval.

    Each pair is taken about its own middle, so that what prompts lead to anyway makes no difference: it is how likely
    two pairs together lean the right way. Resampled by unit; NaN without two pairs.
    """
    ahead = np.subtract(*np.split(odds, 2)) / 2
    there = ~np.isnan(ahead)
    ahead, unit = ahead[there], unit[there]
    units, of_unit = np.unique(unit, return_inverse=True)
    if len(units) < 2:
        return (np.nan,) * 3
    picks = np.random.default_rng(seed).integers(len(units), size=(DRAWS, len(units)))
    taken = np.stack([np.bincount(pick, minlength=len(units)) for pick in picks])[:, of_unit]  # how often each pair is
    right = (ahead[:, None] > -ahead) + (ahead[:, None] == -ahead) / 2
    value, draws = right.mean(), np.einsum("dp,pq,dq->d", taken, right, taken, optimize=True) / taken.sum(1) ** 2
    bounds = interval(value + (draws - value) * widened(len(units)), 0.95)
    return float(value), *(float(np.clip(bound, 0, 1)) for bound in bounds)


def slopes(readouts: Readouts, concept: Concept, states: Float[np.ndarray, "l s d"]) -> Float[np.ndarray, " prompt"]:
    """Of log-odds along the mean difference of stimuli, for a push as long as the state: exact, at every prompt.

    ``states`` are those of the fitted stimuli; in the layer where the slopes' mean is greatest.
    """
    prompts = [case.prompt for case in concept.readout.cases]
    prefix = Prefix(readouts.model, prompts, readouts.branches)
    (gradients,), at = prefix.gradients(readouts.log_odds, "generated")
    gradients = gradients.sum(2)
    norms = at[:, :, prefix.root].norm(dim=-1).mean(1).to(gradients)
    along = torch.from_numpy(np.subtract(*(side.mean(1) for side in np.split(states, 2, axis=1)))).to(gradients)
    found = torch.einsum("lpd,ld->lp", gradients, along / along.norm(dim=-1, keepdim=True)) * norms[:, None]
    return found[found.mean(1).argmax()].numpy()


def likeliest(model: Model, concept: Concept, count: int = 8) -> list[str]:
    """How the model itself goes on at a readout's prompts: the first tokens of greatest probability over them."""
    final = model.read([case.prompt for case in concept.readout.cases]).final
    probability = sum(model.logits(state).softmax(-1) for state in final)
    return [model.tokenizer.decode([token]) for token in probability.topk(count).indices.tolist()]


def run(
    readouts: Readouts, asked: Evidence, whole: bool = False
) -> Iterator[tuple[Int[np.ndarray, " row"], Readouts, Prefix]]:
    """Which texts, what is read after them, and they themselves, run up to there; so many at a time.

    Without pairs of which a text and an option do not fit into the context.
    """
    rows = _readable(readouts, asked)
    for k in range(0, len(rows), AT_A_TIME):
        some = rows[k : k + AT_A_TIME]
        part, texts = _picked(readouts, asked, some), [asked.texts[row] for row in some]
        yield some, part, Prefix(readouts.model, texts, part.branches, whole)


def _after(
    readouts: Readouts, asked: Evidence, final: Tensor | None
) -> tuple[Float[np.ndarray, " s"], Float[np.ndarray, " s"]]:
    """Margins and log-odds after each text, NaN where a text of the pair and an option do not fit into the context."""
    values = np.full((len(asked.texts), 2), np.nan)
    if final is None or any(tree.tokens for tree in readouts.branches):
        measured = ((rows, part.measure(prefix.final[:, None])) for rows, part, prefix in run(readouts, asked))
    else:
        rows = _readable(readouts, asked)
        measured = [(rows, _picked(readouts, asked, rows).measure(final[rows][:, None, None]))]
    for rows, found in measured:
        values[rows] = found[:, 0, [1, 0]].cpu().numpy()
    return values[:, 0], values[:, 1]


def _judged(model: Model, concept: Concept, judge: Judge, asked: Evidence, seed: int) -> Float[np.ndarray, " s"]:
    """Share of what is written after each text in which the judge finds the concept, NaN as in `_after`."""
    rows = _fitting(model, asked, [written.TOKENS] * len(concept.readout.cases))
    values, again = np.full(len(asked.texts), np.nan), np.repeat(rows, WRITTEN)
    _, texts = written.draw(model, [asked.texts[row] for row in again], seed)
    found = written.expressed(concept, judge, np.array(asked.prompt, dtype=int)[again], texts)
    values[rows] = found.reshape(-1, WRITTEN).mean(1)
    return values


def _readable(readouts: Readouts, asked: Evidence) -> Int[np.ndarray, " row"]:
    return _fitting(readouts.model, asked, [max(map(len, options.tokens)) for options in readouts.options])


def _picked(readouts: Readouts, asked: Evidence, rows: Sequence[int]) -> Readouts:
    return readouts.pick([asked.prompt[row] for row in rows], [asked.texts[row] for row in rows])


def _fitting(model: Model, asked: Evidence, longest: Sequence[int]) -> Int[np.ndarray, " row"]:
    """Texts that fit into the context, with the ``longest`` option of their prompt, as does the other of the pair."""
    limits = [limit for limit in (model.encoder.context, model.window) if limit]
    counts = [len(ids) + longest[k] for ids, k in _zip(model.encoder.split(asked.texts), asked.prompt)]
    fits = np.array(counts) <= min(limits, default=np.inf)
    return np.flatnonzero(np.tile(np.logical_and(*np.split(fits, 2)), 2))


def _zip(*sides):
    return zip(*sides, strict=True)
