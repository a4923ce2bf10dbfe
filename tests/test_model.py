"""Reading and pushing: one site, whatever the architecture, the padding and the shortcut taken."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from steerlib.concepts import Concept
from steerlib.interventions import dose_response, finish, push
from steerlib.model import BLOCKS, Prefix
from steerlib.readouts import Readouts

TEXTS = ["Anna felt", "a b c d e f g h a b", "mad", "Anna ran home g felt", "h g felt"]
PROMPTS = {"of many lengths": TEXTS, "of one token": ["mad", "Anna"], "just one": TEXTS[1:2]}
prompts = pytest.mark.parametrize("texts", PROMPTS.values(), ids=PROMPTS)

CONCEPT = Concept(
    name="joy",
    templates=[{"name": name, "positive": ["a", "c"], "negative": ["b", "d"]} for name in "xy"],
    readout={"prompts": TEXTS[:3], "targets": [" happy", " glad"], "foils": [" sad", " angry", " mad"]},
)


@contextmanager
def hooked(model, hook):
    """``hook(layer, states)`` on the output of every block, by plain torch: what it returns replaces the states."""

    def on(layer):
        def forward_hook(block, inputs, output):
            states = output[0] if isinstance(output, tuple) else output
            new = hook(layer, states)
            return None if new is None else (new, *output[1:]) if isinstance(output, tuple) else new

        return forward_hook

    blocks = getattr(model.hf.base_model, BLOCKS[model.hf.config.model_type])
    handles = [block.register_forward_hook(on(layer)) for layer, block in enumerate(blocks)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def full_forward(model, text):
    with torch.no_grad():
        return model.hf(torch.tensor([model.tokenizer(text)["input_ids"]]), output_hidden_states=True)


def plain_log_odds(model, text, layer=None, step=None):
    """By the book: the whole model on one prompt, the step added to the last token by a hook, all logits computed."""

    def add(at, states):
        if at == layer:
            return torch.cat([states[:, :-1], states[:, -1:] + step], 1)

    with hooked(model, add):
        logits = full_forward(model, text).logits[0, -1]
    targets, foils = (
        [model.tokenizer(word)["input_ids"][0] for word in words]
        for words in (CONCEPT.readout.targets, CONCEPT.readout.foils)
    )
    return logits[targets].exp().sum().log() - logits[foils].exp().sum().log()


def steps(model, n, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(n, model.hidden, generator=draw).to(model.unembedding.dtype)


def test_a_site_is_the_output_of_a_block_and_final_is_what_the_unembedding_sees(model):
    reading = model.read(TEXTS)
    for i, text in enumerate(TEXTS):
        seen = []
        with hooked(model, lambda layer, states: seen.append(states[0, -1])):  # noqa: B023 (used at once)
            out = full_forward(model, text)
        assert torch.allclose(reading.states[:, i], torch.stack(seen), atol=1e-5)
        assert torch.allclose(model.logits(reading.final[i]), out.logits[0, -1], atol=1e-5)
        # What transformers calls the last hidden state is another place: it is past the final norm.
        assert (reading.states[-1, i] - out.hidden_states[-1][0, -1]).abs().max() > 0.1


@pytest.mark.parametrize("side", ["left", "right"])
def test_company_and_padding_change_nothing(model, side):
    together, by_two = model.read(TEXTS, padding_side=side), model.read(TEXTS, batch=2, padding_side=side)
    for i, text in enumerate(TEXTS):
        alone = model.read([text])
        for reading in (together, by_two):
            assert torch.allclose(reading.states[:, [i]], alone.states, atol=1e-5)
            assert torch.allclose(reading.final[[i]], alone.final, atol=1e-5)


@prompts
def test_a_prefix_finished_clean_is_a_plain_reading(model, texts):
    prefix, reading = Prefix(model, texts), model.read(texts)
    assert torch.allclose(torch.stack(list(prefix.states))[:, :, 0], reading.states, atol=1e-5)
    assert torch.allclose(prefix.final[:, 0], reading.final, atol=1e-5)


@prompts
@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_the_fast_path_equals_the_plain_loop(model, texts, chunk):
    """Log-odds of many pushes through one shared prefix = a full forward pass with a hook for each of them."""
    prefix, readouts, pushes = Prefix(model, texts), Readouts(model, [CONCEPT]), steps(model, 4)
    for layer in range(model.n_layers):
        pushed = push(prefix.states[layer], pushes)
        parts = list(prefix.finish(layer, pushed, chunk))
        assert [part for part, _ in parts] == [slice(s, min(s + chunk, 4)) for s in range(0, 4, chunk)]
        fast = readouts.log_odds(torch.cat([final for _, final in parts], 1))[..., 0]
        plain = torch.tensor([[plain_log_odds(model, text, layer, step) for step in pushes] for text in texts])
        unsteered = torch.tensor([[plain_log_odds(model, text)] for text in texts])
        assert (fast - plain).abs().max() <= 1e-5
        assert (plain - unsteered).abs().min() > 1e-3  # every push was felt, so there was something to get right


def test_alpha_zero_and_an_intervention_taken_off_leave_no_trace(model):
    """Bit for bit: the value swept at alpha = 0, and logits before and after. To rounding: +v and then -v."""
    before = [full_forward(model, text).logits for text in TEXTS]
    prefix, readouts, pushes = Prefix(model, TEXTS), Readouts(model, [CONCEPT]), steps(model, 5)
    unsteered = readouts.log_odds(prefix.final)
    for layer in range(model.n_layers):
        swept = dose_response(prefix, readouts.log_odds, layer, pushes, [-1.0, 0.0, 0.5])
        assert torch.equal(swept[:, 1], unsteered.expand(-1, 5, -1))
        assert (swept[:, [0, 2]] - unsteered[:, None]).abs().min() > 1e-4
        assert torch.equal(push(prefix.states[layer], pushes, 0.0), prefix.states[layer].expand(-1, 5, -1))
        undone = push(push(prefix.states[layer], pushes), -pushes)
        assert (finish(prefix, readouts.log_odds, layer, undone) - unsteered).abs().max() <= 1e-4
    assert all(
        torch.equal(full_forward(model, text).logits, logits) for text, logits in zip(TEXTS, before, strict=True)
    )


def test_a_dose_response_puts_each_dose_in_its_place(model):
    """Alphas × steps run side by side come back in the order asked for."""
    prefix, readouts, pushes, alphas = Prefix(model, TEXTS), Readouts(model, [CONCEPT]), steps(model, 2), [-0.5, 0, 2.0]
    swept = dose_response(prefix, readouts.log_odds, 1, pushes, alphas)[..., 0]
    plain = [[[plain_log_odds(model, text, 1, a * step) for step in pushes] for a in alphas] for text in TEXTS]
    assert (swept - torch.tensor(plain)).abs().max() <= 1e-5


@prompts
def test_gradients_are_the_slopes_of_pushed_log_odds(exact_model, texts):
    """⟨gradient, v⟩ = central difference of two pushes along v, at every layer and of every readout."""
    model, eps = exact_model, 3e-3  # not smaller: Llama's norm rounds to float32 in any model
    prefix, log_odds, pushes = Prefix(model, texts), Readouts(model, [CONCEPT]).log_odds, steps(exact_model, 3)
    readouts = [lambda final: log_odds(final)[..., 0], lambda final: final.pow(2).sum(-1)]
    gradients = prefix.gradients(readouts)
    for r, readout in enumerate(readouts):
        for layer in range(model.n_layers):
            up, down = (
                finish(prefix, readout, layer, push(prefix.states[layer], pushes, sign * eps)) for sign in (1, -1)
            )
            slopes = (up - down) / (2 * eps)
            error = (gradients[r, layer] @ pushes.T - slopes).abs().max() / slopes.abs().max()
            assert error <= 2e-3 and slopes.abs().max() > 0.1


def test_a_prefix_serves_again_and_again_even_after_a_failure(model):
    """Its cache is cut back after every use: finishing, gradients, and a block that raises half-way."""
    prefix, pushes = Prefix(model, TEXTS), steps(model, 3)

    def results():
        finished = finish(prefix, lambda final: final, 0, push(prefix.states[0], pushes))
        return finished, prefix.gradients([lambda final: final.pow(2).sum(-1)])

    def fail(layer, states):
        if layer == model.n_layers - 1:  # blocks below have put their keys and values into the cache by now
            raise RuntimeError("out of memory")

    first = results()
    with pytest.raises(RuntimeError, match="out of memory"), hooked(model, fail):
        results()
    for value, again in zip(first, results(), strict=True):
        assert torch.equal(value, again)


def test_an_unknown_architecture_is_refused_by_name(model):
    kind = model.hf.config.model_type
    model.hf.config.model_type = "perceiver"
    try:
        with pytest.raises(ValueError, match=r"'perceiver'.*gpt2, gpt_neox, llama"):
            type(model)(model.hf, model.tokenizer)
    finally:
        model.hf.config.model_type = kind
