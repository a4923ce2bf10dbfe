"""By the book: the whole model on one prompt at a time, pushed by plain torch hooks. Slow, and easy to see through."""

from __future__ import annotations

from contextlib import contextmanager

import torch

from steerlib.concepts import Concept
from steerlib.model import Tokens

TEXTS = ["Anna felt", "a b c d e f g h a b", "mad", "Anna ran home g felt", "h g felt"]
STIMULI = {
    "positive": ["Anna felt happy", "h g glad", "a b c joyful", "Anna ran home happy"],
    "negative": ["Anna felt sad", "h g gloomy", "a b c mad", "Anna ran home angry"],
}


def concept(
    name="joy", texts=TEXTS, targets=(" happy", " glad"), foils=(" sad", " angry", " mad"), stimuli=STIMULI, **how
) -> Concept:
    """``how`` is another readout than prompts with targets and foils."""
    readout = how or {"prompts": list(texts), "targets": list(targets), "foils": list(foils)}
    again = {side: [f"home {text}" for text in texts] for side, texts in stimuli.items()}
    return Concept(name=name, templates=[{"name": "x", **stimuli}, {"name": "y", **again}], readout=readout)


# Continuations of one, two and three tokens; some begin alike, one is the beginning of another.
LONG = {
    "targets": (" happy home", " happy", " glad Anna felt", " glad Anna ran"),
    "foils": (" sad", " angry a", " angry b", " angry a c"),
}


@contextmanager
def hooked(model, hook):
    """``hook(layer, states)`` on the output of every block: what it returns replaces the states."""

    def on(layer):
        def forward_hook(block, inputs, output):
            states = output[0] if isinstance(output, tuple) else output
            new = hook(layer, states)
            return None if new is None else (new, *output[1:]) if isinstance(output, tuple) else new

        return forward_hook

    handles = [block.register_forward_hook(on(layer)) for layer, block in enumerate(model.blocks)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def ids(model, text) -> list[int]:
    return model.tokenizer(text, add_special_tokens=False)["input_ids"]


def padded(model, texts, side) -> Tokens:
    """On either side, as a user may have it."""
    left, lengths = model.tokens(texts), [len(ids(model, text)) for text in texts]
    if side == "left":
        return left
    turned = [part.clone() for part in (left.ids, left.mask)]
    for part in turned:
        for row, length in zip(part, lengths, strict=True):
            row[:] = row.roll(length)
    return Tokens(*turned)


def read(model, texts, batch: int):
    """States and final states, so many texts at a time."""
    starts = range(0, len(texts), batch)
    parts = [model.read_tokens(model.tokens(texts[start : start + batch])) for start in starts]
    return [torch.cat(each, -2) for each in zip(*parts, strict=True)]


def forward(model, tokens, **how):
    with torch.no_grad():
        return model.hf(torch.tensor([tokens]), **how)


def at(prompt: int, positions: str) -> slice:
    """Columns that are pushed, of a prompt of so many tokens and all that is written after it."""
    return {"last": slice(prompt - 1, prompt), "generated": slice(prompt - 1, None), "all": slice(None)}[positions]


def changing(changes, columns):
    """A hook that makes ``changes`` (layer -> a function of states) at some columns."""

    def change(layer, states):
        if layer not in changes:
            return None
        new = states.clone()
        new[:, columns] = changes[layer](states[:, columns])
        return new

    return change


def finished(prefix, layer, pushed, positions="last"):
    """Final states after states that were pushed by hand, some variants at a time."""
    return prefix.finish({layer: lambda state, rows: pushed[:, rows]}, pushed.shape[1], positions)


def scores(model, case, changes=None, positions="last"):
    """Log-probabilities of the targets and of the foils of a `Concept`'s case, summed over the tokens of each.

    Nothing follows the last token of an option: those that are alike but for it are told by one pass.
    """
    start, passes = ids(model, case.prompt), {}

    def log_probability(option):
        *before, _ = then = ids(model, option)
        if (key := tuple(before)) not in passes:
            with hooked(model, changing(changes or {}, at(len(start), positions))):
                passes[key] = forward(model, start + before).logits[0].log_softmax(-1)
        return sum(passes[key][len(start) - 1 + k, token] for k, token in enumerate(then))

    return [torch.stack([*map(log_probability, options)]) for options in (case.targets, case.foils)]


def log_odds(model, case, changes=None, positions="last"):
    targets, foils = scores(model, case, changes, positions)
    return targets.logsumexp(0) - foils.logsumexp(0)


def steps(model, n, seed=0):
    """Vectors so long that every push is felt."""
    draw = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(n, model.hidden, generator=draw).to(model.unembedding.dtype)
