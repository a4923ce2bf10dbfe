"""The invariants of reading and pushing, on a tiny random model of every architecture, and on one that is declared."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from helpers import plain
from helpers.models import LLAMA, MORE, SHAPES, WINDOW, WORDS, build, configured, shaken, tokenizer, write_remote
from helpers.plain import LONG, TEXTS, concept, forward, hooked, steps
from steerlib import SteerlibError
from steerlib.checkpoints.history import Checkpoint
from steerlib.model import BLOCKS, Branches, Model, Prefix, load, loading
from steerlib.model.tokens import Forest
from steerlib.steering import Push, steer, write
from steerlib.steering.arms import Arm, dose_response
from steerlib.steering.operators import Add, Rotate
from steerlib.steering.readouts import Readouts, measured
from steerlib.study.checkpoints import Loading

DECLARED = {  # architecture, shape, where its blocks are
    "gptj": ({"n_embd": 32, "n_layer": 3, "n_head": 4, "rotary_dim": 4}, "h"),  # a bias in its head
    "granite": (LLAMA | {"logits_scaling": 8.0, "residual_multiplier": 0.5}, "layers"),  # multipliers
}
ALL = [*SHAPES, *MORE, *DECLARED, "code of its own"]
REMOTE = Loading(blocks="h", trust_remote_code=True)


def declared(architecture: str, **changes) -> Model:
    shape, blocks = DECLARED[architecture]
    found = Model(configured(architecture, **shape, **changes), tokenizer(), loading=Loading(blocks=blocks))
    loading.prove(found, architecture)
    return found


def remote(folder, how=REMOTE, **config) -> Model:
    return load(Checkpoint(1, write_remote(folder / "step-1", **config), -1, "step-1", how))


@pytest.fixture(scope="module", params=ALL)
def model(request, tmp_path_factory):
    if request.param in DECLARED:
        return declared(request.param)
    return remote(tmp_path_factory.mktemp("remote")) if request.param not in SHAPES | MORE else build(request.param)


def test_every_known_architecture_is_among_those_proven():
    assert set(BLOCKS) == {name for name in SHAPES | MORE if " " not in name}


def test_the_site_is_where_it_is_read_and_where_a_push_acts(model):
    """Read = what a plain hook sees; a push is made to just that, moves all above, and logits are the model's."""
    clean, step = model.read(TEXTS), steps(model, 1)[0]
    with steer(model, Push(1, Add(step), positions="last")):
        pushed = model.read(TEXTS)  # a block is read before it is pushed
    assert torch.equal(pushed.states[:2], clean.states[:2])
    for i, text in enumerate(TEXTS):
        for reading, change in ((clean, 0 * step), (pushed, step)):
            seen = []
            push = plain.changing({1: lambda h: clean.states[1, i] + change}, slice(-1, None))  # noqa: B023
            with hooked(model, lambda layer, state: seen.append(state[0, -1])), hooked(model, push):  # noqa: B023
                logits = forward(model, plain.ids(model, text)).logits[0, -1]
            assert torch.allclose(reading.states[:, i], torch.stack(seen), atol=1e-4)
            assert torch.allclose(model.logits(reading.final[i]), logits, atol=1e-4)
    assert (pushed.states[2] - clean.states[2]).norm(dim=-1).min() > 0.1
    assert clean.states.diff(dim=0).norm(dim=-1).min() > 0.1  # every block leaves its mark


def test_company_and_padding_change_nothing(model):
    alone = [model.read([text]) for text in TEXTS]
    for batch in (64, 2):
        states, final = plain.read(model, TEXTS, batch)
        for i, one in enumerate(alone):
            assert torch.allclose(states[:, [i]], one.states, atol=1e-4)
            assert torch.allclose(final[[i]], one.final, atol=1e-4)
    right = plain.padded(model, TEXTS, "right")  # as a user may have it
    with torch.no_grad():
        logits = model.hf(**right.inputs).logits
    last = logits[torch.arange(len(TEXTS)), right.mask.sum(1) - 1]
    assert torch.allclose(last, model.logits(torch.cat([one.final for one in alone])), atol=1e-4)
    assert write(model, TEXTS, 4) == [write(model, [text], 4)[0] for text in TEXTS]


def test_read_together_is_read_alone(model):
    """Texts that begin alike, one that is the beginning of others, one that is there twice, in any order."""
    texts = [*TEXTS, TEXTS[0], *(f"{text} {more}" for text in TEXTS for more in ("mad", "mad and", "a b", "a"))]
    alone = [model.read([text]) for text in texts]
    for batch in (64, 3):
        model.batch = batch
        shares = model.read(texts, together=True)
        for i, one in enumerate(alone):
            assert torch.allclose(shares.states[:, [i]], one.states, atol=1e-4)
            assert torch.allclose(shares.final[[i]], one.final, atol=1e-4)


@pytest.mark.parametrize("architecture", ["gpt_neox", "llama", "gpt2"])
def test_of_those_that_are_pretrained_both_kinds_of_head_are_among_them(architecture):
    kinds = [build(name).hf for name in SHAPES | MORE if name.split()[0] == architecture]
    assert {hf.get_output_embeddings().weight is hf.get_input_embeddings().weight for hf in kinds} == {True, False}


@pytest.mark.parametrize("positions", ["last", "generated"])
def test_what_is_written_under_a_push_is_pushed_where_it_says(model, positions):
    """Also after a reading of other texts under the same push."""
    step, (text, count) = steps(model, 1)[0], (TEXTS[1], 4)
    with steer(model, Push(1, Add(step), positions=positions)):
        model.read(TEXTS)
        written = write(model, [text], count)
    ids = plain.ids(model, text)
    prompt = len(ids)
    with hooked(model, plain.changing({1: lambda h: h + step}, plain.at(prompt, positions))):
        while len(ids) < prompt + count and ids[-1] != 0:  # the end of a text
            ids.append(int(forward(model, ids).logits[0, -1].argmax()))
    assert written == [model.tokenizer.decode(ids[prompt:], skip_special_tokens=True)]


@pytest.mark.parametrize("positions", ["last", "generated"])
def test_a_decoder_that_is_given_masks_made_of_the_base_models_own_is_pushed_where_it_says(positions):
    """Gemma 3's, of words and pictures: a mask a kind of layer."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    words = LLAMA | {"head_dim": 8, "sliding_window": WINDOW, "vocab_size": len(WORDS) + 1}
    words |= {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    pictures = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    pictures |= {"image_size": 16, "patch_size": 8}
    config = Gemma3Config(text_config=words, vision_config=pictures, image_token_index=1, mm_tokens_per_image=1)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        hf = shaken(Gemma3ForConditionalGeneration(config).eval())
    model = Model(hf, tokenizer(), loading=Loading(blocks="language_model.layers"))
    test_what_is_written_under_a_push_is_pushed_where_it_says(model, positions)


@pytest.mark.parametrize("positions", ["last", "all"])
def test_the_fast_path_equals_the_plain_loop_and_leaves_no_trace(model, positions):
    """Log-odds of long continuations, pushed at one layer and at two; bit for bit at alpha = 0, and what is left."""
    texts, alphas = TEXTS[:3], [-0.5, 0.0, 1.0]
    before = [forward(model, plain.ids(model, text)).logits for text in texts]
    joy = concept(texts=texts, **LONG)
    readouts = Readouts.of(model, [joy]).pick([0] * len(texts))
    cases = [joy.readout.cases[0].model_copy(update={"prompt": text}) for text in texts]
    prefix = Prefix(model, texts, readouts.branches, whole=positions == "all")
    unsteered, pushes = readouts.log_odds(prefix.final[:, None])[..., 0], steps(model, 2)
    units = torch.nn.functional.normalize(steps(model, 2, 1))
    for layer, above in ((0, {2: Rotate(units)}), (1, {}), (2, {})):
        arm = Arm(Add(pushes), torch.tensor([1.0, 0.3]), above)
        swept = dose_response(prefix, readouts.log_odds, layer, arm, alphas, positions)[..., 0]
        assert torch.equal(swept[:, 1], unsteered.expand(-1, 2))
        state = prefix.states[layer][:, None]
        still = prefix.push(state, arm.at(0.0), positions)
        assert torch.equal(still, state.expand_as(still))
        for k, (a, strength) in enumerate([(0, 1.0), (2, 0.3)]):
            far = alphas[a] * strength
            changes = {layer: lambda h, k=k, far=far: h + far * pushes[k]}
            if above:
                changes[2] = lambda h, k=k, far=far: Rotate(units[k])(h, far)
            slow = torch.tensor([plain.log_odds(model, case, changes, positions) for case in cases])
            assert (swept[:, a, k] - slow).abs().max() <= 1e-5 * slow.abs().max().clamp(min=1)
            assert (swept[:, a, k] - unsteered[:, 0]).abs().max() > 1e-2  # it was felt
    again = measured(readouts.log_odds, plain.finished(prefix, 1, prefix.states[1][:, None], positions))
    assert torch.allclose(again[..., 0], unsteered, atol=1e-5)
    for text, logits in zip(texts, before, strict=True):
        assert torch.equal(forward(model, plain.ids(model, text)).logits, logits)


@pytest.mark.parametrize("architecture", [*SHAPES, "llama of its own keys"])
@pytest.mark.parametrize("whole", [False, True])
def test_an_attention_that_keeps_variants_apart_equals_a_mask(architecture, whole, monkeypatch):
    """Of branches also, and its gradients; the model's own attention is back afterwards, whatever happens."""
    model, trees, found = build(architecture), [Branches.of([(1, 2), (2,)])] * 3, []
    own, arm = model.config._attn_implementation, Arm(Add(steps(model, 7)), torch.ones(7))
    for model.built_in in (True, False):
        prefix = Prefix(model, TEXTS[:3], trees, whole)
        swept = dose_response(prefix, lambda final: final.flatten(2), 1, arm, [-1.0, 0.0, 0.5])
        found.append([prefix.final, swept, *prefix.gradients(lambda final: final.pow(3).sum((2, 3))[..., None])])
    for one, other in zip(*found, strict=True):
        assert (one - other).abs().max() <= 1e-5 * one.abs().max() and one.abs().max() > 0.1
    assert model.config._attn_implementation == own == "sdpa"
    model.built_in = True
    apart = Prefix(model, TEXTS[:3], trees, whole)
    monkeypatch.setattr(apart, "push", lambda state, change, positions: state[..., 1:])
    with pytest.raises(RuntimeError):
        list(plain.finished(apart, 1, apart.states[1][:, None]))
    assert model.config._attn_implementation == own


# --- attention windows ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["gemma3_text", "mistral", "olmo3", "qwen2"])
def test_a_text_longer_than_the_attention_window_is_read_rightly_and_not_swept(architecture):
    words = "a b c d e f g h Anna ran home mad sad".split()
    long, fits = (" ".join(words[i % len(words)] for i in range(n)) for n in (WINDOW + 8, WINDOW))
    model, texts = build(architecture), [fits, long, "Anna felt"]
    assert model.window == WINDOW
    reading = model.read(texts)
    for i, text in enumerate(texts):
        seen = []
        with hooked(model, lambda layer, states: seen.append(states[0, -1])):  # noqa: B023
            forward(model, plain.ids(model, text))
        assert torch.allclose(reading.states[:, i], torch.stack(seen), atol=1e-4)
    wide = build(architecture, sliding_window=64).read(texts)
    assert (wide.states[:, 1] - reading.states[:, 1]).norm(dim=-1).max() > 0.1  # the window is felt by the long text
    assert torch.equal(wide.states[:, 0], reading.states[:, 0])
    for how in ({}, {"sliding_window": 128}):  # which is what a row holds, or more than that
        narrow_or_not = build(architecture, **how)
        together, apart = (narrow_or_not.read(texts, together=value).states for value in (True, False))
        assert torch.allclose(together, apart, atol=1e-4)
    for whole in (False, True):
        prefix = Prefix(model, [fits, "mad"], whole=whole)
        assert torch.allclose(prefix.final[:1, 0], reading.final[:1], atol=1e-4)
        still = prefix.states[0][:, None].repeat(1, WINDOW + 8, 1, 1)  # more tokens at once than the window holds
        for _ in range(2):
            final = torch.cat(list(plain.finished(prefix, 0, still)), 1)
            assert torch.allclose(final[0, :, 0], reading.final[:1].expand(WINDOW + 8, -1), atol=1e-4)
        with pytest.raises(SteerlibError, match=rf"{WINDOW + 8} tokens is longer than the attention window .*{WINDOW}"):
            Prefix(model, [long, "mad"], whole=whole)
    with pytest.raises(SteerlibError, match="longer than the attention window"):  # what is read on counts as well
        Prefix(model, [fits], [Branches.of([(1, 2)])])


def test_the_window_of_an_architecture_of_all_attention_is_none():
    assert build("llama").window is None is build("qwen2", use_sliding_window=False).window
    assert build("olmo3", layer_types=["full_attention"] * 3).window is None


# --- declared architectures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("positions", "padded on the left, is off by .*position_ids"),
        ("padding", "padded on the left, is off by .*attention mask"),
        ("mask", "read together with texts that go on is off by .*4-D"),
        ("cache", "cannot be run as steerlib does .*DynamicCache"),
        ("capped", "a logit is off by .*unembedding row"),
    ],
)
def test_an_architecture_that_steerlib_would_run_wrongly_is_refused(tmp_path, wrong, said):
    with pytest.raises(SteerlibError, match=rf"step-1: model_type 'tiny_crystal' with blocks at 'h'.*{said}"):
        remote(tmp_path, wrong=wrong)


@pytest.mark.parametrize(
    ("blocks", "said"),
    [
        (None, "'tiny_crystal' is not known .*loading.blocks"),
        ("layers", "loading.blocks 'layers': TinyModel has no 'layers', but wte, wpe, h, norms, ln_f"),
        ("h.0", "loading.blocks 'h.0': Block is no list of blocks"),
        ("norms", "2 blocks stand there, but its config has 3"),
    ],
)
def test_a_wrong_place_of_the_blocks_is_refused(tmp_path, blocks, said):
    with pytest.raises(SteerlibError, match=said):
        remote(tmp_path, REMOTE.model_copy(update={"blocks": blocks}))


def test_a_list_that_does_not_carry_the_residual_stream_is_refused():
    """As many modules as blocks, and every one of them run: yet what stands there is not handed on to the next."""
    hf = configured("granite", **LLAMA)
    hf.model.mlps = torch.nn.ModuleList(block.mlp for block in hf.model.layers)
    with pytest.raises(SteerlibError, match="after a push at layer 1 is off by"):
        loading.prove(Model(hf, tokenizer(), loading=Loading(blocks="mlps")), "granite")


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3_text"])
def test_soft_capped_logits_are_refused_by_name(architecture):
    hf = configured(architecture, **LLAMA | {"head_dim": 8, "final_logit_softcapping": 30.0})
    with pytest.raises(ValueError, match=rf"'{architecture}'.*soft-capped"):
        Model(hf, tokenizer(), loading=Loading(blocks="layers"))


@pytest.mark.parametrize("before", [True, False])
def test_final_states_may_be_of_another_width_than_the_residual_stream(before):
    """OPT-350m's are."""
    hf = configured("opt", **LLAMA | {"ffn_dim": 48, "word_embed_proj_dim": 16, "do_layer_norm_before": before})
    model = Model(hf, tokenizer())
    loading.prove(model, "opt")
    reading = model.read(TEXTS)
    assert reading.states.shape[-1] == 32 and reading.final.shape[-1] == 16
    for text, logits in zip(TEXTS, model.logits(reading.final), strict=True):
        with torch.no_grad():
            plainly = hf(torch.tensor(model.encoder([text]))).logits[0, -1]
        assert torch.allclose(logits, plainly, atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "shape", "blocks", "said"),
    [
        ("stablelm", LLAMA, "layers", ""),
        ("ernie4_5", LLAMA | {"head_dim": 8}, "layers", ""),
        ("mpt", {"d_model": 32, "n_layers": 3, "n_heads": 4}, "blocks", "is not run rightly: .*4-D"),
        ("bloom", {"hidden_size": 32, "n_layer": 3, "n_head": 4}, "h", "cannot be run as steerlib does .*4-D"),
    ],
)
def test_an_architecture_that_is_named_nowhere_proves_itself_or_is_refused(architecture, shape, blocks, said):
    """ALiBi counts columns, not positions: those that have it cannot be finished side by side."""
    model = Model(configured(architecture, **shape), tokenizer(), loading=Loading(blocks=blocks))
    with pytest.raises(SteerlibError, match=rf"'{architecture}'.*{said}") if said else nullcontext():
        loading.prove(model, "folder")


def test_a_constant_factor_of_the_logits_is_found(tmp_path):
    for scale in (0.375, 2.0):
        assert remote(tmp_path / str(scale), scale=scale).factor == pytest.approx(scale, rel=1e-5)
    assert declared("granite").factor == pytest.approx(1 / 8, rel=1e-5)
    assert declared("gptj").factor == 1


FAR = {"float64": 5e-6, "float32": 5e-3, "bfloat16": 0.5, "float16": 0.25}  # of a state, a few times what is borne
BOTH, LAYERS = (False, True), range(3)
WRONG = {
    ("read", company, layer): f"a state read {company}"
    for company in ("alone", "beside", "together")
    for layer in LAYERS
}
WRONG |= {("logit",): "a logit is"} | {("read on", whole): "a prompt read on from" for whole in BOTH}
WRONG |= {("push", w, layer, k): f"after a push at layer {layer}" for w in BOTH for layer in LAYERS for k in (0, 11)}


@pytest.mark.parametrize("dtype", FAR)
def test_a_proof_notices_whatever_is_off_wherever_it_is(monkeypatch, dtype):
    """As the states of one layer, read a text at a time, or the logits of one variant; and what all have in common."""
    model, wrong, far = build("gpt_neox", dtype), [], FAR[dtype]

    def off(values, *place):
        return values * (1 + far if [*place] == wrong else 1)

    class Off(Prefix):
        def __init__(self, *how):
            super().__init__(*how)
            self.whole, self.final = how[-1], off(self.final, "read on", how[-1])

        def finish(self, changes, n):
            final = torch.cat(list(super().finish(changes, n)), 1).unbind(1)
            yield torch.stack([off(one, "push", self.whole, *changes, k) for k, one in enumerate(final)], 1)

    def read_tokens(tokens):
        states, final = Model.read_tokens(model, tokens)
        company = "together" if isinstance(tokens, Forest) else "alone" if len(tokens.ids) == 1 else "beside"
        return torch.stack([off(one, "read", company, layer) for layer, one in enumerate(states)]), off(final, "logit")

    monkeypatch.setattr(loading, "Prefix", Off)
    monkeypatch.setattr(model, "read_tokens", read_tokens)
    loading.prove(model, "folder")
    for place, said in WRONG.items():
        wrong[:] = place
        with pytest.raises(SteerlibError, match=f"is not run rightly: .*{said}"):
            loading.prove(model, "folder")
    if dtype == "float32":
        with torch.no_grad():
            model.blocks[0].mlp.dense_4h_to_h.bias += 100  # which all states have in common
            model.blocks[2].mlp.dense_4h_to_h.weight *= 1000  # at another layer texts differ by far more
        far, wrong[:] = far / 20, ("read", "alone", 0)
        with pytest.raises(SteerlibError, match="is not run rightly: a state read alone"):
            loading.prove(model, "folder")
