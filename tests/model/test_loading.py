"""Loading as a study says: dtype, device or devices, memory, code of its own; and the same results whatever it says."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from transformers import AutoModelForCausalLM

from helpers.linear import plan, three, write_files
from helpers.models import build, tokenizer, write_remote
from helpers.plain import LONG, TEXTS, concept, steps
from steerlib import SteerlibError
from steerlib.checkpoints.history import Checkpoint
from steerlib.model import LARGEST, Model, Prefix, load
from steerlib.numerics.products import product
from steerlib.stages import interventions, probing
from steerlib.steering import write
from steerlib.steering.arms import Arm, dose_response
from steerlib.steering.operators import Add, Rotate
from steerlib.steering.readouts import Readouts, measured
from steerlib.steering.side_effects import SideEffects
from steerlib.study.checkpoints import Loading
from steerlib.study.training import Finetuning

JOY = concept(texts=TEXTS, **LONG)
ALPHAS = [-0.5, 0.0, 1.0]


def loaded(folder, **how) -> Model:
    return load(Checkpoint(1, folder, -1, folder.name, Loading(**how)))


def results(model: Model) -> dict[str, torch.Tensor]:
    """What the rooms above take from a model: readings, a sweep at two layers at once, gradients, side effects."""
    reading, readouts = model.read(TEXTS), Readouts.of(model, [JOY])
    prefix = Prefix(model, TEXTS, readouts.branches)
    units = torch.nn.functional.normalize(torch.randn(2, 32, generator=torch.Generator().manual_seed(1)))
    step = 2 * torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    arm, effects = (
        Arm(Add(step), torch.tensor([1.0, 0.3]), {2: Rotate(units)}),
        SideEffects(model, ["a b c d e f"] * 4, 0),
    )
    return {
        "states": reading.states,
        "final": reading.final,
        "log-odds": dose_response(prefix, readouts.log_odds, 0, arm, ALPHAS),
        "gradients": prefix.gradients(readouts.log_odds)[0],
        "success": readouts.success(prefix.final[:, None]).cpu(),
        "side effects": dose_response(effects.prefix, effects.measure, 1, Arm(Add(step), arm.strength), ALPHAS),
    }


# --- precision -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.08), ("float16", 0.01)])
def test_half_precision_agrees_with_float32_within_its_rounding(checkpoint, dtype, tolerance):
    """States, log-odds, gradients and side effects, as a share of their own spread; and nothing is pushed at 0."""
    folder = checkpoint(1, "llama")
    exact, model = results(loaded(folder)), loaded(folder, dtype=dtype)
    assert model.dtype == getattr(torch, dtype) == next(model.hf.parameters()).dtype
    found = results(model)
    assert {value.dtype for value in found.values()} == {torch.float32}
    for name in ("states", "final", "log-odds", "gradients", "side effects"):
        off = (found[name] - exact[name]).norm() / (exact[name] - exact[name].mean()).norm()
        assert 1e-5 < off < tolerance, name
    prefix = Prefix(model, TEXTS)
    still = prefix.push(prefix.states[1][:, None], Arm(Rotate(steps(model, 2)), torch.ones(2)).at(0.0))
    assert torch.equal(still, prefix.states[1][:, None].expand_as(still)) and still.dtype == model.dtype
    step = steps(model, 1)[0]
    once = Add(step)  # rounded once, not with every operation
    assert torch.equal(once.to(still)(still, 0.3), (still.float() + 0.3 * step).to(model.dtype))
    assert len(write(model, TEXTS, 3)) == len(TEXTS)


def test_logits_are_float32_though_the_final_state_is_not(checkpoint):
    model = loaded(checkpoint(1), dtype="bfloat16")
    final = Prefix(model, TEXTS).final
    assert final.dtype == torch.bfloat16 and model.logits(final).dtype == torch.float32
    wide = final.float(), model.hf.get_output_embeddings().weight.detach().float()
    assert torch.equal(model.logits(final), product(*wide))
    assert torch.allclose(product(*wide), wide[0] @ wide[1].T, atol=1e-5)


def test_weights_too_large_for_float16_are_told_apart_from_diverged_ones(tmp_path, checkpoint):
    model, folder = build("gpt_neox"), checkpoint(1)
    with torch.no_grad():
        model.blocks[1].attention.dense.weight[0, 0] = 1e6
    model.hf.save_pretrained(folder)
    assert loaded(folder, dtype="bfloat16").read(["mad"]).states.isfinite().all()
    with pytest.raises(SteerlibError, match=r"layers.1.attention.dense.weight .*float16.* bfloat16 \(loading.dtype\)"):
        loaded(folder, dtype="float16")
    with torch.no_grad():
        model.blocks[1].attention.dense.weight[0, 0] = math.nan
    model.hf.save_pretrained(folder)
    with pytest.raises(SteerlibError, match="holds NaN or infinite weights; training diverged"):
        loaded(folder, dtype="float16")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_sweep_of_half_precision_runs_to_its_end(tmp_path, dtype):
    """And keeps the states that it was asked to keep; what it finds is near to what float32 finds."""
    write_files(tmp_path)
    study = plan(tmp_path)
    study = study.model_copy(update={"probes": study.probes.model_copy(update={"states": "float16"})})
    model, exact = build("llama", dtype), build("llama")
    probes = probing.extract(model, study, three())
    found, expected = (interventions.sweep(one, study, three(), probes) for one in (model, exact))
    for name in ("steerability", "local_slope", "kl"):
        off = np.abs(found[name] - expected[name]).mean() / np.abs(expected[name]).mean()
        assert off < (0.1 if dtype == "bfloat16" else 0.02), name
    texts = list(probes.text.values)
    assert probes.state.dims == ("layer", "text", "hidden") and probes.state.dtype == np.float16
    assert set(texts) == {text for one in three() for side in ("fit", "test") for text in one.stimuli(side, 0).texts}
    kept = model.read(texts, torch.float16, together=True).states.numpy()
    assert np.array_equal(probes.state.values, kept)
    assert "state" not in probing.extract(exact, plan(tmp_path), three())


def test_fine_tuning_updates_weights_in_float32_whatever_they_are_run_in(tmp_path, checkpoint):
    from steerlib.stages.finetuning import finetune

    study = plan(tmp_path)
    (tmp_path / "corpus.txt").write_text("Anna felt happy and ran home\n" * 40)
    tuned = {"corpus": str(tmp_path / "corpus.txt"), "context": 8, "steps": 3, "batch": 4, "learning_rate": 1e-5}
    study = study.model_copy(update={"finetuning": Finetuning(**tuned, warmup=0)})
    for dtype in ("float32", "bfloat16"):
        one = Checkpoint(1, checkpoint(1), -1, "step-1", Loading(dtype=dtype))
        finetune(study, one, tmp_path / dtype)
    saved = [AutoModelForCausalLM.from_pretrained(tmp_path / dtype, dtype="auto") for dtype in ("float32", "bfloat16")]
    assert {one.dtype for one in saved} == {torch.float32}
    assert torch.equal(*(one.get_output_embeddings().weight for one in saved))
    with pytest.raises(SteerlibError, match=r"step-1: fine-tuning needs all weights in memory"):
        finetune(study, Checkpoint(1, checkpoint(1), -1, "step-1", Loading(device_map=DISK)), tmp_path / "no")


# --- devices -------------------------------------------------------------------------------------------------------

MAP = {
    "gpt_neox": "cpu",
    "gpt_neox.embed_in": "cpu",
    "gpt_neox.rotary_emb": "cpu",
    "gpt_neox.final_layer_norm": "disk",
    "gpt_neox.layers.0": "cpu",
    "gpt_neox.layers.1": "disk",
    "gpt_neox.layers.2": "disk",
    "lm_head": "disk",
}
DISK = {name: place for name, place in MAP.items() if name != "gpt_neox"}


def same(found, expected):
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_weights_on_disk_change_no_bit(checkpoint, tmp_path, monkeypatch):
    folder = checkpoint(1)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    loaded(folder)
    assert not list((tmp_path / "temporary").iterdir()), "what has room in memory needs none on disk"
    model = loaded(folder, device_map=DISK)
    kept = {name for name, weight in model.hf.named_parameters() if weight.is_meta}
    assert {name.split(".")[2] for name in kept if "mlp" in name} == {"1", "2"} and "lm_head.weight" in kept
    same(results(model), results(loaded(folder)))
    assert write(model, TEXTS, 4) == write(loaded(folder), TEXTS, 4)
    assert {name for name, weight in model.hf.named_parameters() if weight.is_meta} == kept  # and they went back
    assert Path(model.hf._steerlib_offload.name).is_dir()


def test_weights_are_looked_at_where_they_are_kept(checkpoint):
    folder = checkpoint(1)
    hurt = build("gpt_neox")
    with torch.no_grad():
        hurt.blocks[2].mlp.dense_h_to_4h.weight[0, 0] = math.inf
    hurt.hf.save_pretrained(folder)
    with pytest.raises(SteerlibError, match=r"layers.2.mlp.dense_h_to_4h.weight holds NaN or infinite"):
        loaded(folder, device_map=DISK)


@pytest.mark.parametrize("architecture", ["gpt_neox", "qwen3"])  # qwen3: its unembedding is its embedding
def test_weights_that_accelerate_brings_when_they_are_needed_change_no_bit(architecture):
    plain, model = build(architecture), build(architecture)
    cpu_offload(model.hf, execution_device="cpu")
    assert all(weight.is_meta for weight in model.hf.parameters())
    found = Model(model.hf, model.tokenizer)
    assert found.device == torch.device("cpu") and not found.unembedding.is_meta
    same(results(found), results(plain))
    assert all(weight.is_meta for weight in model.hf.parameters())


def test_a_device_that_is_not_there_is_refused_and_auto_takes_what_there_is(checkpoint):
    folder = checkpoint(1)
    assert loaded(folder).device.type == next(
        kind for kind, there in (("cuda", torch.cuda), ("mps", torch.backends.mps), ("cpu", None))
        if there is None or there.is_available()
    )  # fmt: skip
    with pytest.raises(SteerlibError, match="device 'cuda:7' is not to be had here"):
        loaded(folder, device="cuda:7")


ELSEWHERE = """
import torch, sys
from torch._subclasses.fake_tensor import FakeTensorDeviceMismatchError, FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from transformers.cache_utils import DynamicLayer
from helpers.models import build
from helpers.plain import TEXTS
from steerlib.model import Branches, Model, Prefix
from steerlib.steering.operators import Add, Rotate
from steerlib.steering.arms import Arm, dose_response
from steerlib.steering.side_effects import SideEffects
from steerlib.steering import Push, steer

def lazily(self, keys, values):  # torch.tensor([], device=…), as it stands there, is one thing a fake device cannot do
    self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
    self.keys, self.values = keys.new_empty(0), values.new_empty(0)

DynamicLayer.lazy_initialization = lazily
Prefix._finish_pushed = Prefix._finish_together  # nor can it say whether its numbers are finite
tiny = [build(name) for name in ("llama", "gpt_neox", "gpt2")]
_setup_privateuseone_for_python_backend("gpu")
for model in tiny:
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in model.hf.modules():
            for name, weight in list(module._parameters.items()):
                if weight is not None:
                    there = torch.empty(weight.shape, device="gpu:0")
                    module._parameters[name] = torch.nn.Parameter(there)
            for name, buffer in list(module._buffers.items()):
                if buffer is not None:
                    module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="gpu:0")
        model = Model(model.hf, model.tokenizer)
        try:
            model.hf.base_model(input_ids=torch.zeros(2, 4, dtype=torch.long))
            sys.exit("a fake device does not notice tensors of another")
        except FakeTensorDeviceMismatchError:
            pass
        assert model.read(TEXTS).states.device.type == "cpu"
        arm = Arm(Add(torch.randn(3, 32)), torch.ones(3), {2: Rotate(torch.randn(3, 32))})
        for whole, positions in ((False, "last"), (False, "generated"), (True, "all")):
            prefix = Prefix(model, TEXTS, [Branches.of([(1, 2), (2,)])] * len(TEXTS), whole)
            assert all(state.device.type == "gpu" for state in prefix.states)
            square = lambda final: final.pow(2).sum((2, 3))[..., None]
            assert dose_response(prefix, square, 1, arm, [-1.0, 0.0, 1.0], positions).device.type == "cpu"
            assert {each.device.type for each in prefix.gradients(square)} == {"cpu"}
        effects = SideEffects(model, ["a b c d e f g h a b"] * 4, 0)
        assert dose_response(effects.prefix, effects.measure, 1, arm, [0.0, 1.0]).device.type == "cpu"
        with steer(model, [Push(1, Add(torch.randn(32)), torch.ones(()), p) for p in ("last", "all", "generated")]):
            assert model.read(TEXTS).final.device.type == "cpu"
        assert model.logits(prefix.final, torch.tensor([1, 2])).device.type == "gpu"
print("moved")
"""


def test_on_another_device_every_tensor_is_made_there(tmp_path):
    """By torch's fake tensors, which compute nothing but refuse to mix devices; in a process of its own, as the device
    is registered for good. Readouts index by lists, which no fake device takes: they are not in it."""
    script = tmp_path / "elsewhere.py"
    script.write_text(ELSEWHERE)
    path = os.pathsep.join(str(Path(__file__).parents[up]) for up in (1, 2))
    command, env = [sys.executable, str(script)], os.environ | {"PYTHONPATH": path}
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "moved", run.stderr[-3000:]


# --- memory --------------------------------------------------------------------------------------------------------


class Scarce:
    """A block that has memory for so many tokens at a time."""

    def __init__(self, model: Model, room: int):
        self.room, self.widest, self.refused = room, 0, 0
        self.handle = model.blocks[1].register_forward_hook(self)

    def __call__(self, block, inputs, output):
        size = output.shape[0] * output.shape[1]
        if size > self.room:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.widest = max(self.widest, size)


def test_as_many_texts_as_memory_bears_are_read_at_a_time_and_that_is_remembered():
    model, texts = build("gpt_neox"), [f"a b {word} felt" for word in "c d e f g h happy glad sad mad ran home".split()]
    expected = model.read(texts)
    scarce = Scarce(model, room=3 * 4)  # three texts
    reading = model.read(texts)
    assert torch.allclose(reading.states, expected.states, atol=1e-5) and model.batch == 2 and scarce.widest == 8
    model.read(texts[:5])
    # Together they are fewer tokens: what all begin with is run once.
    scarce.room, model.batch, scarce.widest = 2 + 2 * len(texts), LARGEST, 0
    assert torch.allclose(model.read(texts, together=True).states, expected.states, atol=1e-5)
    assert model.batch == LARGEST and scarce.widest == 2 + 2 * len(texts)
    model.batch, scarce.room = 2, 12
    assert write(model, texts, 2) == write(build("gpt_neox"), texts, 2)
    scarce.room = 3
    with pytest.raises(SteerlibError, match=r"out of memory on cpu .*; this was one text at a time; .*loading.dtype"):
        model.read(texts)
    fixed = Model(model.hf, model.tokenizer, loading=Loading(batch=4))
    with pytest.raises(SteerlibError, match=r"out of memory on cpu \(CUDA out of memory.*; lower loading.batch"):
        fixed.read(texts)


def test_another_error_is_not_taken_for_one_of_memory():
    model = build("gpt_neox")
    model.blocks[1].register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("a mistake")))
    with pytest.raises(RuntimeError, match="a mistake"):
        model.read(TEXTS)
    assert model.batch == 256


def test_as_many_variants_as_memory_bears_are_finished_at_a_time():
    model = build("gpt_neox")
    prefix, pushes = Prefix(model, TEXTS), 2 * torch.randn(20, 32, generator=torch.Generator().manual_seed(0))
    changes = Arm(Add(pushes), torch.ones(20)).changes(0)
    expected = measured(lambda final: final, prefix.finish(changes, 20))
    scarce = Scarce(model, room=6 * len(TEXTS))  # six variants
    found = measured(lambda final: final, prefix.finish(changes, 20))
    assert torch.allclose(found, expected, atol=1e-5) and model.chunk == 5 and scarce.widest == 5 * len(TEXTS)
    assert scarce.refused == 2, "twenty and ten: each try is half of what was tried, not of what was allowed"
    scarce.room = 1
    with pytest.raises(SteerlibError, match=r"out of memory on cpu .*; lower sweep.prompts, or"):
        list(prefix.finish(changes, 20))
    with pytest.raises(SteerlibError, match=r"out of memory on cpu .*; lower sweep.prompts"):
        Prefix(model, TEXTS)


# --- states that are kept ------------------------------------------------------------------------------------------


def test_states_are_read_in_the_dtype_asked_for():
    model = build("gpt_neox")
    half, full = model.read(TEXTS, states=torch.float16), model.read(TEXTS)
    assert (
        half.states.dtype == torch.float16 and half.final.dtype == torch.float32 and full.states.dtype == torch.float32
    )
    assert torch.equal(half.states, full.states.half())


def test_states_that_float16_cannot_hold_are_refused():
    model = build("gpt2")
    with torch.no_grad():
        model.blocks[2].mlp.c_proj.bias[0] = 1e6
    probing.ReadStimuli(model, [JOY], 0)
    with pytest.raises(SteerlibError, match=r"infinite in float16.*probes.states: float32"):
        probing.ReadStimuli(model, [JOY], 0, "float16")


# --- code of its own, and other folders ----------------------------------------------------------------------------


def test_code_that_comes_with_a_checkpoint_is_not_run_unless_the_study_says_so(tmp_path):
    folder = write_remote(tmp_path / "step-1")
    ran = tmp_path / "ran"
    code = folder / "modeling_tiny.py"
    code.write_text(f"open({str(ran)!r}, 'w').close()\n{code.read_text()}")
    with pytest.raises(SteerlibError, match=r"step-1: .*code.*all your rights.*loading.trust_remote_code: true"):
        loaded(folder, blocks="h")
    assert not ran.exists()
    assert loaded(folder, blocks="h", trust_remote_code=True).read(TEXTS).states.isfinite().all() and ran.exists()
    ran.unlink()
    config = folder / "config.json"
    config.write_text(config.read_text().replace("modeling_tiny.", "some/one--modeling_tiny."))
    with pytest.raises(SteerlibError, match=r"step-1/config\.json: auto_map: .*another repository, some/one, and may"):
        loaded(folder, blocks="h", trust_remote_code=True)
    assert not ran.exists()


def test_a_tokenizer_may_lie_elsewhere(tmp_path, checkpoint):
    folder, elsewhere = checkpoint(1), tmp_path / "words"
    for file in folder.glob("tok*"):
        file.unlink()
    tokenizer().save_pretrained(elsewhere)
    with pytest.raises(SteerlibError, match=r"step-1: .*tokenizer"):
        loaded(folder)
    model = load(Checkpoint(1, folder, -1, "step-1", tokenizer=elsewhere))
    assert torch.equal(model.read(TEXTS).states, build("gpt_neox").read(TEXTS).states)
    with pytest.raises(SteerlibError, match=r"words-not: .*tokenizer"):
        load(Checkpoint(1, folder, -1, "step-1", tokenizer=tmp_path / "words-not"))


def test_a_declared_place_of_known_blocks_is_proven_as_well(checkpoint):
    folder = checkpoint(1)
    assert not loaded(folder, blocks="layers").built_in and loaded(folder).built_in
    AutoModelForCausalLM.from_pretrained(folder)
    with pytest.raises(SteerlibError, match=r"step-1: loading.blocks 'h': GPTNeoXModel has no 'h'"):
        loaded(folder, blocks="h")
