"""Reading and pushing: one site, whatever the architecture, the padding and the shortcut taken."""

from __future__ import annotations

import pytest
import torch

from helpers import plain
from helpers.plain import LONG, TEXTS, concept, forward, hooked, steps
from steerlib.model import BLOCKS, Branches, Prefix
from steerlib.steering.arms import Arm, dose_response
from steerlib.steering.operators import Add, Rotate
from steerlib.steering.readouts import Readouts, measured

PROMPTS = {"of many lengths": TEXTS, "of one token": ["mad", "Anna"], "just one": TEXTS[1:2]}
POSITIONS = ["last", "generated", "all"]
prompts = pytest.mark.parametrize("texts", PROMPTS.values(), ids=PROMPTS)
positions = pytest.mark.parametrize("positions", POSITIONS)


def bench(model, texts, long, positions="last"):
    """Prompts run up to where they are pushed, to be asked for continuations of one token or of many."""
    joy = concept(**(LONG if long else {}))
    readouts = Readouts.of(model, [joy]).pick([0] * len(texts))
    cases = [joy.readout.cases[0].model_copy(update={"prompt": text}) for text in texts]
    return cases, readouts, Prefix(model, texts, readouts.branches, whole=positions == "all")


def adding(pushes, **above):
    return Arm(Add(pushes), torch.ones(len(pushes)), above)


def test_a_site_is_the_output_of_a_block_and_final_is_what_the_unembedding_sees(model):
    reading = model.read(TEXTS)
    for i, text in enumerate(TEXTS):
        seen = []
        with hooked(model, lambda layer, states: seen.append(states[0, -1])):  # noqa: B023 (used at once)
            out = forward(model, plain.ids(model, text), output_hidden_states=True)
        assert torch.allclose(reading.states[:, i], torch.stack(seen), atol=1e-5)
        assert torch.allclose(model.logits(reading.final[i]), out.logits[0, -1], atol=1e-5)
        # What transformers calls the last hidden state is another place: it is past the final norm.
        assert (reading.states[-1, i] - out.hidden_states[-1][0, -1]).abs().max() > 0.1


def test_company_and_padding_change_nothing(model):
    together, by_two = (plain.read(model, TEXTS, batch) for batch in (len(TEXTS), 2))
    for i, text in enumerate(TEXTS):
        alone = model.read([text])
        for states, final in (together, by_two):
            assert torch.allclose(states[:, [i]], alone.states, atol=1e-5)
            assert torch.allclose(final[[i]], alone.final, atol=1e-5)


@prompts
@pytest.mark.parametrize("whole", [False, True])
def test_a_prefix_finished_clean_is_a_plain_reading(model, texts, whole):
    prefix, reading = Prefix(model, texts, whole=whole), model.read(texts)
    assert torch.allclose(torch.stack(list(prefix.states))[:, :, prefix.root], reading.states, atol=1e-5)
    assert torch.allclose(prefix.final[:, 0], reading.final, atol=1e-5)
    assert prefix.final.shape[1] == 1


def test_a_tree_runs_what_continuations_have_in_common_once_and_gives_each_of_them_back():
    continuations = [(1, 2, 3), (1, 2, 4), (5,), (1, 2), (2, 1, 1), (1, 1)]
    tree = Branches.of(continuations)
    assert len(tree.tokens) == len({c[:k] for c in continuations for k in range(1, len(c))}) == 4
    above = [(), *[None] * len(tree.tokens)]
    for k, (token, parent) in enumerate(zip(tree.tokens, tree.parents, strict=True), start=1):
        assert parent < k
        above[k] = (*above[parent], token)
    for path, continuation in zip(tree.paths, continuations, strict=True):
        assert [token for _, token in path] == list(continuation)
        assert [above[node] for node, _ in path] == [continuation[:k] for k in range(len(continuation))]
    assert Branches.of([(7,), (8,)]).tokens == ()


@prompts
@pytest.mark.parametrize("whole", [False, True])
def test_branches_are_what_reads_on_from_the_prompt(model, texts, whole):
    """Each prompt with a tree of its own; the final state at a node is that of the text up to there."""
    words = [[" happy home a", " happy home b", " sad"], [" g"], [" a b", " a c d", " c d"]]
    words = [words[i % 3] for i in range(len(texts))]
    trees = [Branches.of([plain.ids(model, word) for word in row]) for row in words]
    prefix = Prefix(model, texts, trees, whole)
    for i, (text, row, tree) in enumerate(zip(texts, words, trees, strict=True)):
        for word, path in zip(row, tree.paths, strict=True):
            tokens = plain.ids(model, text) + plain.ids(model, word)
            expected = forward(model, tokens).logits[0, -1 - len(path) : -1]
            nodes = [node for node, _ in path]
            assert torch.allclose(model.logits(prefix.final[i, nodes]), expected, atol=1e-5)


@prompts
@pytest.mark.parametrize(
    ("long", "positions"), [(False, "last"), (False, "all"), (True, "last"), (True, "generated"), (True, "all")]
)
def test_the_fast_path_equals_the_plain_loop(model, texts, long, positions, monkeypatch):
    """Log-odds of many pushes through one shared prefix = a full forward pass with a hook for each of them."""
    cases, readouts, prefix = bench(model, texts, long, positions)
    pushes = steps(model, 3)
    for layer in range(model.n_layers):
        slow = torch.tensor(
            [[plain.log_odds(model, case, {layer: lambda h: h + step}, positions) for step in pushes] for case in cases]  # noqa: B023
        )
        for chunk in (1, 3, 64):
            monkeypatch.setattr(model, "chunk", chunk)
            parts = list(prefix.finish(adding(pushes).changes(layer), 3, positions))
            size = max(1, chunk // prefix.ids.shape[1])
            assert [part.shape[1] for part in parts] == [min(size, 3 - s) for s in range(0, 3, size)]
            assert (measured(readouts.log_odds, parts)[..., 0] - slow).abs().max() <= 1e-5
        unsteered = readouts.log_odds(prefix.final[:, None])[..., 0]
        assert (slow - unsteered).abs().min() > 1e-4  # every push was felt, so there was something to get right


def test_positions_differ_in_what_they_push(model):
    """So that the test before this one has three things to tell apart."""
    found = []
    for name in POSITIONS:
        _, readouts, prefix = bench(model, TEXTS, True, name)
        found.append(dose_response(prefix, readouts.log_odds, 1, adding(steps(model, 1)), [1.0], name)[:2])
    assert min((found[i] - found[j]).abs().min() for i, j in ((0, 1), (0, 2), (1, 2))) > 1e-4
    with pytest.raises(ValueError, match=r"positions 'all'.*whole=True"):
        bench(model, TEXTS, True)[2].pushed_tokens("all")


@positions
def test_pushes_at_several_layers_equal_the_plain_loop(model, positions, monkeypatch):
    """Every variant has operators of its own above, at the same alpha; chunks do not mix them up."""
    cases, readouts, prefix = bench(model, TEXTS[:3], True, positions)
    lowest, highest = steps(model, 3, 1), torch.nn.functional.normalize(steps(model, 3, 2))
    arm = Arm(Add(lowest), torch.tensor([1.0, 0.5, -1.0]), {2: Rotate(highest)})
    swept = dose_response(prefix, readouts.log_odds, 0, arm, [-0.5, 0.0, 1.0], positions)[..., 0]
    for a, alpha in enumerate([-0.5, 0.0, 1.0]):
        for k, strength in enumerate(arm.strength.tolist()):
            changes = {
                0: lambda h, k=k, far=alpha * strength: h + far * lowest[k],
                2: lambda h, k=k, far=alpha * strength: Rotate(highest[k])(h, far),
            }
            slow = torch.tensor([plain.log_odds(model, case, changes, positions) for case in cases])
            assert (swept[:, a, k] - slow).abs().max() <= 1e-5
    by_chunk = []
    for chunk in (1, 500):
        monkeypatch.setattr(model, "chunk", chunk)
        by_chunk.append(measured(readouts.log_odds, prefix.finish(arm.changes(0), 3, positions)))
    assert torch.allclose(*by_chunk, atol=1e-5) and torch.allclose(by_chunk[0][..., 0], swept[:, 2], atol=1e-5)


@positions
def test_alpha_zero_and_an_intervention_taken_off_leave_no_trace(model, positions):
    """Bit for bit: the value swept at alpha = 0, and logits before and after. To rounding: +v and then -v."""
    before = [forward(model, plain.ids(model, text)).logits for text in TEXTS]
    _, readouts, prefix = bench(model, TEXTS, True, positions)
    arm, unsteered = adding(steps(model, 5)), readouts.log_odds(prefix.final[:, None])
    for layer in range(model.n_layers):
        swept = dose_response(prefix, readouts.log_odds, layer, arm, [-1.0, 0.0, 0.5], positions)
        assert torch.equal(swept[:, 1], unsteered.expand(-1, 5, -1))
        assert (swept[:, [0, 2]] - unsteered[:, None]).abs().min() > 1e-4
        state = prefix.states[layer][:, None]
        assert torch.equal(prefix.push(state, arm.at(0.0), positions), state.expand(-1, 5, -1, -1))
        undone = prefix.push(state, lambda h: arm.at(-1.0)(arm.at(1.0)(h)), positions)
        back = measured(readouts.log_odds, plain.finished(prefix, layer, undone, positions))
        assert (back - unsteered).abs().max() <= 1e-4
    for text, logits in zip(TEXTS, before, strict=True):
        assert torch.equal(forward(model, plain.ids(model, text)).logits, logits)


def test_a_dose_response_puts_each_dose_in_its_place(model):
    """Alphas × variants come back in the order asked for, each with its own strength; NaN without one."""
    cases, readouts, prefix = bench(model, TEXTS, False)
    pushes, strength, alphas = steps(model, 3), torch.tensor([1.0, 0.3, torch.nan]), [-0.5, 0.0, 2.0]
    swept = dose_response(prefix, readouts.log_odds, 1, Arm(Add(pushes), strength), alphas)[..., 0]
    slow = [
        [
            [plain.log_odds(model, case, {1: lambda h: h + a * s * step}) for step, s in zip(pushes, [1, 0.3, 0])]  # noqa: B023, B905
            for a in alphas
        ]
        for case in cases
    ]
    there = torch.ones_like(swept, dtype=torch.bool)
    there[:, [0, 2], 2] = False  # pushed without a strength; unsteered it is as any other
    assert (swept.isnan() == ~there).all()
    assert (swept - torch.tensor(slow))[there].abs().max() <= 1e-5


@prompts
@pytest.mark.parametrize(("long", "positions"), [(False, "last"), (True, "last"), (True, "generated"), (True, "all")])
def test_gradients_are_the_slopes_of_pushed_log_odds(exact_model, texts, long, positions):
    """⟨gradient, v⟩, summed over all tokens pushed = central difference of two pushes, at every layer and readout."""
    model, eps = exact_model, 3e-3  # not smaller: Llama's norm rounds to float32 in any model
    _, readouts, prefix = bench(model, texts, long, positions)
    pushes = steps(model, 3)
    measures = [lambda final: readouts.log_odds(final)[..., 0], lambda final: final.pow(2).sum((-1, -2))]
    asked = lambda final: torch.stack([measure(final) for measure in measures], -1)  # noqa: E731
    gradients, states = prefix.gradients(asked, positions)
    assert torch.allclose(states, torch.stack(prefix.states))
    assert gradients.shape == (2, model.n_layers, *prefix.ids.shape, model.hidden)
    reached = prefix.pushed_tokens(positions)[..., None]
    for r, measure in enumerate(measures):
        for layer in range(model.n_layers):
            up, down = (
                measured(measure, prefix.finish(adding(sign * eps * pushes).changes(layer), 3, positions))
                for sign in (1, -1)
            )
            slopes = (up - down) / (2 * eps)
            found = (gradients[r, layer] * reached).sum(1) @ pushes.T
            assert (found - slopes).abs().max() / slopes.abs().max() <= 2e-3 and slopes.abs().max() > 0.1


@pytest.mark.parametrize("whole", [False, True])
def test_a_prefix_serves_again_and_again_even_after_a_failure(model, whole):
    """Nothing is left in its cache by any use: finishing, gradients, and a block that raises half-way."""
    prefix, arm = Prefix(model, TEXTS, whole=whole), adding(steps(model, 3))

    def results():
        finished = measured(lambda final: final, prefix.finish(arm.changes(0), 3))
        return finished, *prefix.gradients(lambda final: final.pow(2).sum(-1))

    def fail(layer, states):
        if layer == model.n_layers - 1:  # blocks below have used the cache by now
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
        with pytest.raises(ValueError, match=rf"'perceiver'.*{', '.join(sorted(BLOCKS))}"):
            type(model)(model.hf, model.tokenizer)
    finally:
        model.hf.config.model_type = kind
