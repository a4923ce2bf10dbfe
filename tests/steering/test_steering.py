"""From a fit to a push and back: every method with every operator, and `steer` as one uses it by hand."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from helpers import plain
from helpers.models import build as tiny
from helpers.plain import TEXTS, changing, concept, forward, hooked, steps
from steerlib import SteerlibError
from steerlib.model.prefix import Prefix
from steerlib.numerics.methods import METHODS
from steerlib.stages.probing import ReadStimuli, find
from steerlib.steering import Direction, Push, push_along, steer, write, write_each
from steerlib.steering.arms import Arm, dose_response
from steerlib.steering.operators import ALONG, OPERATORS, Ablate, Add, Operator, Rotate, build
from steerlib.steering.readouts import Readouts
from steerlib.study.checkpoints import Loading

JOY, LAYER, POSITIONS = concept(), 1, ["last", "generated", "all"]
positions = pytest.mark.parametrize("positions", POSITIONS)


def sides(model, layer=LAYER):
    """States that directions are fitted on: of the positives and of the negatives."""
    stimuli, states, _ = ReadStimuli(model, [JOY], 0)("joy", "fit")
    return np.split(states[layer].astype(np.float64), [len(stimuli.positive)])


def operator_along(kind: str, found: Direction, positive, negative) -> Operator:
    """One variant."""
    size = found.residual_norm if kind == "add" else 1.0
    return build(kind, size * found.vector[None, None, None], [(positive, negative)])


def variant(operator: Operator) -> Operator:
    return operator.each(lambda tensor: tensor[0])


def logits(model, text):
    return forward(model, plain.ids(model, text)).logits[0, -1]


def log_odds(model, after):
    targets, foils = (
        [plain.ids(model, word)[0] for word in words] for words in (JOY.readout.targets, JOY.readout.foils)
    )
    return after[targets].logsumexp(0) - after[foils].logsumexp(0)


# --- every method with every operator ------------------------------------------------------------------------------


def there_and_back(model, method, kind, tmp_path):
    """Fit, push, read out, undo, save and load."""
    positive, negative = sides(model)
    found = find(model, JOY, LAYER, method)
    assert np.linalg.norm(found.vector) == pytest.approx(1, abs=1e-5)
    if METHODS[found.method].serious:
        assert (positive @ found.vector).mean() > (negative @ found.vector).mean()

    operator, alpha = operator_along(kind, found, positive, negative), 0.7
    readouts, prefix = Readouts.of(model, [JOY]), Prefix(model, TEXTS)
    arm, unsteered = Arm(operator, torch.ones(1)), [logits(model, text) for text in TEXTS]
    swept = dose_response(prefix, readouts.log_odds, LAYER, arm, [0.0, alpha])[:, :, 0, 0]
    with steer(model, Push(LAYER, variant(operator), alpha, "last")):
        slow = torch.stack([log_odds(model, logits(model, text)) for text in TEXTS])
    assert slow.isfinite().all() and (swept[:, 1] - slow).abs().max() <= 1e-5
    assert (slow - torch.stack([log_odds(model, after) for after in unsteered])).abs().max() > 1e-3

    assert torch.equal(swept[:, 0], readouts.log_odds(prefix.final[:, None])[:, 0, 0])
    state = prefix.states[LAYER][:, None]
    assert torch.equal(prefix.push(state, arm.at(0.0)), state)
    with steer(model, Push(LAYER, variant(operator), 0.0, "last")):
        assert all(torch.equal(logits(model, text), after) for text, after in zip(TEXTS, unsteered, strict=True))
    assert all(torch.equal(logits(model, text), after) for text, after in zip(TEXTS, unsteered, strict=True))

    found.save(tmp_path / "direction")
    direction = Direction.load(tmp_path / "direction")
    assert (direction.vector == found.vector).all() and direction.vector.dtype == found.vector.dtype
    assert {**vars(direction), "vector": 0} == {**vars(found), "vector": 0}
    again = Arm(operator_along(kind, direction, positive, negative), torch.ones(1))
    pushed = dose_response(prefix, readouts.log_odds, LAYER, again, [alpha])
    assert torch.equal(pushed[:, 0, 0, 0], swept[:, 1])


@pytest.fixture(scope="module")
def neox():
    return tiny("gpt_neox")


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("method", METHODS)
def test_there_and_back(neox, method, kind, tmp_path):
    """A new method or operator comes in by itself."""
    if "file" in METHODS[method].model_fields:
        features = np.random.default_rng(0).standard_normal((40, neox.hidden)).astype(np.float32)
        save_file({"W_dec": features}, tmp_path / "sae.safetensors")
        method = {method: {"file": str(tmp_path / "sae.safetensors"), "layer": LAYER}}
    there_and_back(neox, method, kind, tmp_path)


@pytest.mark.parametrize("kind", OPERATORS)
def test_there_and_back_in_every_architecture(model, kind, tmp_path):
    there_and_back(model, "mean_difference", kind, tmp_path)


# --- where a push acts ---------------------------------------------------------------------------------------------


def pushes(model, positions):
    """Two concepts' pushes at one layer and a third at another, of different kinds."""
    a, b, c = steps(model, 3)
    return [
        Push(0, Add(a), 0.7, positions),
        Push(0, Rotate(torch.nn.functional.normalize(b, dim=0)), 0.5, positions),
        Push(2, Ablate(torch.nn.functional.normalize(c, dim=0)), 1.0, positions),
    ]


def by_hand(some):
    """The same pushes one after the other: layer -> a function of states."""

    def at(layer):
        def change(states):
            for push in some:
                if push.layer == layer:
                    states = push.operator(states, push.alpha)
            return states

        return change

    return {layer: at(layer) for layer in {push.layer for push in some}}


@positions
@pytest.mark.parametrize("side", ["left", "right"])
def test_company_and_padding_change_nothing_of_a_push(model, side, positions):
    """Several concepts and layers at once, in a padded batch, are hooks one after the other on single prompts."""
    some, tokens = pushes(model, positions), plain.padded(model, TEXTS, side)
    with steer(model, some), torch.no_grad():
        together = model.hf(input_ids=tokens.ids, attention_mask=tokens.mask.long(), position_ids=tokens.positions)
        alone = [logits(model, text) for text in TEXTS]
    for i, text in enumerate(TEXTS):
        ids = plain.ids(model, text)
        with hooked(model, changing(by_hand(some), plain.at(len(ids), positions))):
            expected = logits(model, text)
        assert torch.allclose(alone[i], expected, atol=1e-5)
        assert torch.allclose(together.logits[i, tokens.mask[i].nonzero().max()], expected, atol=1e-5)
        assert (expected - logits(model, text)).abs().max() > 0.1


@cache
def greedy(model, text, positions, count=8):
    """Written without a cache: everything is run again for every token, pushed where it is to be."""
    ids = plain.ids(model, text)
    some = pushes(model, positions) if positions else []
    with hooked(model, changing(by_hand(some), plain.at(len(ids), positions or "all"))):
        written = []
        while len(written) < count and written[-1:] != [model.tokenizer.eos_token_id]:
            written.append(int(forward(model, ids + written).logits[0, -1].argmax()))
    return written


def test_a_push_beyond_all_numbers_writes_nothing_and_says_so():
    model = tiny("llama")
    with steer(model, Push(LAYER, Add(torch.full((model.hidden,), 10.0)), 3e38)):
        with pytest.raises(SteerlibError, match=r"beyond what torch\.float32 holds: take a smaller alpha"):
            write(model, TEXTS[:2], tokens=2)
    assert len(write(model, TEXTS[:2], tokens=2)) == 2


@positions
def test_what_is_written_under_a_push_is_what_full_recomputation_writes(model, positions, monkeypatch):
    """By `generate`, alone and in company, in any batch; and what stands before and after is unsteered."""
    expected, unsteered = ([greedy(model, text, where) for text in TEXTS] for where in (positions, ""))
    before = write(model, TEXTS, 8)
    with steer(model, pushes(model, positions)):
        for text, tokens in zip(TEXTS, expected, strict=True):
            ids = torch.tensor([plain.ids(model, text)])
            found = model.hf.generate(input_ids=ids, max_new_tokens=8, do_sample=False, pad_token_id=0)
            assert found[0, ids.shape[1] :].tolist() == tokens
        texts = []
        for batch in (1, 2, 64):
            monkeypatch.setattr(model, "loading", Loading(batch=batch))
            texts.append(write(model, TEXTS, 8))
    decoded = [model.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in expected]
    assert texts == [decoded] * 3
    assert write(model, TEXTS, 8) == before == [model.tokenizer.decode(t, skip_special_tokens=True) for t in unsteered]
    assert decoded != before


@positions
@pytest.mark.parametrize("kind", OPERATORS)
def test_pushes_side_by_side_write_what_each_writes_alone(neox, kind, positions, monkeypatch):
    """Also in batches that begin within one push and end within another."""
    found, (positive, negative) = find(neox, JOY, LAYER, "mean_difference"), sides(neox)
    up, down = (operator_along(kind, found, *order) for order in ((positive, negative), (negative, positive)))
    every = type(up).side_by_side([up, up, down])
    arm, alone = Arm(every, torch.tensor([np.nan, 0.3, 3.0]), {LAYER + 1: every}), []
    for operator, strength in ((up, 0.0), (up, 0.3), (down, 3.0)):
        with steer(neox, [Push(layer, variant(operator), strength, positions) for layer in (LAYER, LAYER + 1)]):
            alone.append(write(neox, TEXTS, 8))
    for batch in (1, 2, len(TEXTS) + 1, 64):
        monkeypatch.setattr(neox, "loading", Loading(batch=batch))
        assert write_each(neox, TEXTS, 8, LAYER, arm, positions) == alone
    assert alone[0] == write(neox, TEXTS, 8) and alone[2] not in alone[:2]
    assert write_each(neox, [], 8, LAYER, arm, positions) == [[], [], []]


def test_alphas_of_rows_are_as_many_as_there_are_rows(neox):
    for rows in (0, 2, 4):
        with pytest.raises(SteerlibError, match=r"finite number|2 rows, but 3|4 rows, but 3"):
            with steer(neox, Push(LAYER, Add(torch.ones(neox.hidden)), torch.ones(rows, 1, 1))):
                write(neox, TEXTS[:3], 2)


def test_positions_can_be_told_apart_by_what_is_written(model):
    found = {where: [greedy(model, text, where) for text in TEXTS] for where in ["", *POSITIONS]}
    assert all(found[a] != found[b] for a in found for b in found if a != b)


@positions
def test_a_push_acts_on_readings_too(model, positions):
    some = pushes(model, positions)
    with steer(model, some):
        final = model.read(TEXTS).final
    for i, text in enumerate(TEXTS):
        with hooked(model, changing(by_hand(some), plain.at(len(plain.ids(model, text)), positions))):
            assert torch.allclose(model.logits(final[i]), logits(model, text), atol=1e-5)


# --- on and off ----------------------------------------------------------------------------------------------------


def test_a_push_is_off_after_its_block_however_that_ends(model):
    before = logits(model, TEXTS[0])
    pushed = steer(model, pushes(model, "all"))
    assert torch.equal(logits(model, TEXTS[0]), before)  # made, not yet on
    with pytest.raises(RuntimeError, match="stop"), pushed:
        assert not torch.equal(logits(model, TEXTS[0]), before)
        raise RuntimeError("stop")
    assert torch.equal(logits(model, TEXTS[0]), before)
    with pushed:
        inside = logits(model, TEXTS[0])
        with pytest.raises(SteerlibError, match="on already; take them off first"), pushed:
            pass
        assert torch.equal(logits(model, TEXTS[0]), inside)  # the refusal has not pushed twice
    assert torch.equal(logits(model, TEXTS[0]), before)
    with pushed:  # and again
        assert torch.equal(logits(model, TEXTS[0]), inside)


def test_a_push_touches_no_weight_and_leaves_no_hook(model):
    def hooks():
        return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf.modules()]

    weights, before = [weight.clone() for weight in model.hf.parameters()], hooks()
    with steer(model, pushes(model, "all")):
        logits(model, TEXTS[0])
        assert sum(hooks()) == sum(before) + 4  # the three pushes, and one that looks at what comes in
    assert hooks() == before
    assert all(torch.equal(a, b) for a, b in zip(weights, model.hf.parameters(), strict=True))


def test_pushes_one_within_another_add_up_and_leave_one_by_one(model):
    a, b = (Push(1, Add(step), 1.0, "all") for step in steps(model, 2))
    with steer(model, [a, b]):
        both = logits(model, TEXTS[0])
    with steer(model, a):
        only = logits(model, TEXTS[0])
        with steer(model, b):
            assert torch.equal(logits(model, TEXTS[0]), both)
        assert torch.equal(logits(model, TEXTS[0]), only)


@pytest.mark.parametrize("layer", [3, -1, 99, 1.0, True])
def test_a_layer_that_is_not_there_is_refused(neox, layer):
    with pytest.raises(SteerlibError, match=f"layer {layer}: this model's layers are 0 to 2"):
        steer(neox, Push(layer, Add(torch.zeros(neox.hidden))))


def test_positions_that_there_are_not_are_refused(neox):
    with pytest.raises(SteerlibError, match="positions 'first': there are last, all, generated"):
        steer(neox, Push(0, Add(torch.zeros(neox.hidden)), positions="first"))


# --- along a direction ---------------------------------------------------------------------------------------------


def direction(hidden=32, **changes):
    given = {"vector": np.eye(hidden, dtype=np.float32)[3], "length": 5.0, "spread": 0.25, "residual_norm": 11.0}
    about = {"method": "pca", "concept": "joy", "layer": 2, "model": "tiny", "weights_sha256": "a"}
    return Direction(**given | about | changes)


@pytest.mark.parametrize(("scale", "size"), [("residual_norm", 11.0), ("projection_std", 0.25), ("raw", 5.0)])
def test_alpha_counts_what_the_scale_says(scale, size):
    push = push_along(direction(), 2.0, scale=scale, positions="all")
    assert (push.layer, push.alpha, push.positions) == (2, 2.0 * size, "all")
    assert torch.equal(push.operator.step, torch.eye(32)[3])
    for name in ("ablate", "rotate"):
        push = push_along(direction(), 0.5, name, scale)
        assert push.operator.name == name and torch.equal(push.operator.unit, torch.eye(32)[3])


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"operator": "set"}, f"operator 'set': along a direction there are {', '.join(ALONG)}"),
        ({"scale": "iso_kl"}, "scale 'iso_kl': along a direction there are residual_norm, projection_std, raw"),
        ({"operator": "ablate", "scale": "iso_kl"}, "scale 'iso_kl': along a direction"),
        ({}, "joy has no residual_norm; find it again"),
    ],
)
def test_a_push_that_a_direction_does_not_give_is_refused(how, said):
    with pytest.raises(SteerlibError, match=said):
        push_along(direction(residual_norm=float("nan")), 1.0, **how)
    assert push_along(direction(residual_norm=float("nan")), 1.0, scale="raw").alpha == 5


def test_several_directions_are_pushed_each_at_its_own_layer(neox):
    some = [direction(), direction(layer=0, residual_norm=3.0), Push(1, Add(steps(neox, 1)[0]), 0.1, "all")]
    with steer(neox, some, alpha=0.5, positions="all"):
        together = logits(neox, TEXTS[1])
    spelled = [push_along(some[0], 0.5, positions="all"), push_along(some[1], 0.5, positions="all"), some[2]]
    with steer(neox, spelled):
        assert torch.equal(logits(neox, TEXTS[1]), together)
    for k in range(3):
        with steer(neox, spelled[:k] + spelled[k + 1 :]):
            assert not torch.allclose(logits(neox, TEXTS[1]), together, atol=1e-3)


def test_a_direction_is_pushed_at_its_own_layer_with_the_length_it_was_found_with(model):
    found = find(model, JOY, LAYER)
    stimuli = [case.prompt for case in JOY.readout.cases]
    assert found.residual_norm == pytest.approx(float(model.read(stimuli).states[LAYER].norm(dim=-1).mean()))
    positive, negative = sides(model)
    assert found.length == pytest.approx(np.linalg.norm(positive.mean(0) - negative.mean(0)), rel=1e-5)
    within = [(side @ found.vector).std() for side in (positive, negative)]
    assert found.spread == pytest.approx(np.sqrt(np.square(within).mean()), rel=1e-5)
    with steer(model, found, alpha=0.5, positions="all"):
        steered = logits(model, TEXTS[1])
    step = torch.from_numpy(found.vector) * found.residual_norm
    with hooked(model, changing({LAYER: lambda h: h + 0.5 * step}, slice(None))):
        assert torch.allclose(logits(model, TEXTS[1]), steered, atol=1e-5)


def test_a_direction_of_another_model_is_refused_unless_it_is_meant(neox):
    model = type(neox)(neox.hf, neox.tokenizer, "other", "b")
    with pytest.raises(SteerlibError, match=r"joy was found in other weights \(tiny\).*transfer=True"):
        steer(model, direction())
    with pytest.raises(SteerlibError, match="16 dimensions does not fit a model of 32"):
        steer(model, direction(16), transfer=True)
    with steer(model, direction(), transfer=True):
        pushed = logits(model, TEXTS[0])
    assert not torch.equal(pushed, logits(model, TEXTS[0]))
    for known in (direction(weights_sha256="b"), direction(weights_sha256="")):
        with steer(model, known):
            assert torch.equal(logits(model, TEXTS[0]), pushed)


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
@pytest.mark.parametrize("far", [1e6, 1e5])  # in its own numbers, or on its way through the blocks
def test_a_variant_that_overflows_changes_no_bit_of_those_beside_it(architecture, far):
    model, units = tiny(architecture, "float16"), torch.nn.functional.normalize(steps_of(8))
    prefix = Prefix(model, TEXTS)
    measure = lambda final: final[:, :, 0].float()  # noqa: E731
    for place, above in ((0, {}), (2, {}), (0, {2: Add(units)})):
        swept = {}
        for name, strength in {"calm": 1.0, "far": far}.items():
            strengths = torch.ones(8)
            strengths[[2, 5]] = strength
            swept[name] = dose_response(prefix, measure, place, Arm(Add(units), strengths, above), [-1.0, 0.0, 1.0])
        beside = np.setdiff1d(np.arange(8), [2, 5])
        assert torch.equal(swept["far"][:, :, beside], swept["calm"][:, :, beside]), (place, above)
        assert swept["calm"].isfinite().all() and swept["far"][:, 1].isfinite().all(), "at alpha 0 nothing is pushed"
        assert far < 1e6 or swept["far"][:, [0, 2]][:, :, [2, 5]].isnan().any(-1).all()


def test_of_alphas_only_that_overflows_is_lost():
    model, arm = tiny("gpt_neox", "float16"), Arm(Add(steps_of(3)), torch.ones(3))
    prefix = Prefix(model, TEXTS)
    measure = lambda final: final[:, :, 0].float()  # noqa: E731
    found = dose_response(prefix, measure, 1, arm, [-1.0, 0.0, 0.5, 1e6])
    assert found[:, :3].isfinite().all() and found[:, 3].isnan().all()
    assert torch.allclose(found[:, :3], dose_response(prefix, measure, 1, arm, [-1.0, 0.0, 0.5]), atol=0.05)


def steps_of(count: int) -> torch.Tensor:
    return torch.randn(count, 32, generator=torch.Generator().manual_seed(3))
