"""A training watched by `steerlib.Monitor`: the very same training, and the study's own numbers."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments, default_data_collator

import steerlib
from helpers.linear import text
from helpers.models import build, configured, tokenizer
from steerlib import SteerlibError
from steerlib.checkpoints.history import single
from steerlib.concepts import Concept
from steerlib.figures import onsets
from steerlib.files import datasets
from steerlib.model import load
from steerlib.running import monitor
from steerlib.stages import interventions, probing
from steerlib.stages.bench import Bench
from steerlib.stages.live import Live
from steerlib.stages.pushes import Pushes
from steerlib.study.checkpoints import Loading

TESTS = Path(__file__).parents[1]
PROMPTS = [f"Anna {a} {b}" for a in "a b c d".split() for b in "e f g".split()]
KEPT = ("loss", "grad_norm", "learning_rate")


def concept(name: str, targets: str, foils: str, seed: int = 0) -> Concept:
    """Four templates on either side of the split, so that means over them have intervals."""
    draw, sides = np.random.default_rng(seed), {"positive": f"{targets} Anna a", "negative": f"{foils} Anna b"}
    templates = [
        {"name": f"{half} {k}", "split": half}
        | {side: [text(draw, words, 7) for _ in range(4)] for side, words in sides.items()}
        for half in ("fit", "test")
        for k in range(4)
    ]
    options = {"targets": [f" {word}" for word in targets.split()], "foils": [f" {word}" for word in foils.split()]}
    return Concept(name=name, templates=templates, readout={"prompts": PROMPTS, **options})


JOY, RAGE = concept("joy", "happy glad", "sad gloomy"), concept("rage", "mad angry", "home joyful", 1)


def trainer(folder: Path, steps: int = 6, words=True, hf=None, **told) -> Trainer:
    """Of a model with dropout, so that a training in which a number more is drawn is another one."""
    hf = hf or configured("gpt_neox", hidden_dropout=0.3)
    ids = torch.randint(1, 20, (64, 8), generator=torch.Generator().manual_seed(0))
    options = {"save_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 4, "report_to": [], "use_cpu": True}
    arguments = TrainingArguments(output_dir=str(folder), max_steps=steps, disable_tqdm=True, **options | told)
    return Trainer(
        hf,
        arguments,
        train_dataset=[{"input_ids": row, "labels": row} for row in ids],
        processing_class=tokenizer() if words else None,
        data_collator=default_data_collator,
    )


def watched(training: Trainer, *concepts, **told) -> steerlib.Monitor:
    one = steerlib.Monitor(training, list(concepts) or [JOY, RAGE], **told)
    training.add_callback(one)
    return one


def steps(folder: Path) -> list[int]:
    return [int(file.stem.removeprefix("step=")) for file in sorted((folder / "monitor").glob("step=*.nc"))]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Trainer:
    """Watched at its saves, by all texts."""
    training = trainer(tmp_path_factory.mktemp("run"), save_total_limit=1, gradient_checkpointing=True)
    watched(training, texts=None)
    training.train()
    return training


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> tuple[Trainer, tuple]:
    """A training that nobody watches, and what would be drawn after it."""
    training = trainer(tmp_path_factory.mktemp("alone"))
    training.train()
    return training, (torch.get_rng_state(), random.getstate(), np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize(("every", "seen"), [(None, [2, 4, 6]), (3, [3, 6])])
def test_a_training_that_is_watched_is_the_same_bit_for_bit(alone, tmp_path, monkeypatch, every, seen):
    alone, drawn = alone
    plain = Live.__call__

    def draws(self, model):
        torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
        return plain(self, model)

    monkeypatch.setattr(Live, "__call__", draws)
    training = trainer(tmp_path)
    watched(training, every=every)
    training.train()
    assert steps(tmp_path) == seen
    assert torch.equal(torch.get_rng_state(), drawn[0]) and random.getstate() == drawn[1]
    assert np.array_equal(np.random.get_state()[1], drawn[2])  # noqa: NPY002
    ours, theirs = training.model.state_dict(), alone.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert training.model.training == alone.model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in training.model.modules())
    told = [[row for row in one.state.log_history if "loss" in row] for one in (training, alone)]
    assert [[row[key] for key in KEPT] for row in told[0]] == [[row[key] for key in KEPT] for row in told[1]]
    left = [{path.name for path in Path(one.args.output_dir).iterdir()} for one in (training, alone)]
    assert left[0] - left[1] == {"monitor"}


SIDE_BY_SIDE = """
import sys
from pathlib import Path
from torch import save
from running.test_monitor import Live, trainer, watched
folder, look = Path(sys.argv[1]), Live.__call__
Live.__call__ = lambda *of: print("a look") or look(*of)
training = trainer(folder, ddp_backend="gloo")
for every in sys.argv[2:]:
    watched(training, every=int(every) or None)
training.train()
if training.is_world_process_zero():
    save(training.model.state_dict(), folder / "weights.pt")
"""


@pytest.mark.long
def test_a_training_in_two_processes_is_the_same_and_only_one_looks(tmp_path):
    script, weights = tmp_path / "train.py", {}
    script.write_text(SIDE_BY_SIDE)
    for every in ([], ["0"], ["3"]):
        folder = tmp_path / f"every {every}"
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script]
        path = os.pathsep.join(map(str, (TESTS, TESTS.parent)))
        run = subprocess.run(
            [*start, folder, *every], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        seen = {"": [], "0": [2, 4, 6], "3": [3, 6]}["".join(every)]
        assert steps(folder) == seen and run.stdout.count("a look") == len(seen) and "told once" not in run.stderr
        weights["".join(every)] = torch.load(folder / "weights.pt")
    assert all(torch.equal(weights[""][name], one[name]) for one in weights.values() for name in one)


def test_what_it_measures_is_what_a_study_does(run):
    one = next(callback for callback in run.callback_handler.callbacks if isinstance(callback, steerlib.Monitor))
    folder, study = Path(run.args.output_dir), one._study
    model = load(single(folder / "checkpoint-6", None, "", Loading()))
    probes = probing.extract(model, study, [JOY, RAGE])
    slopes = interventions.repeated(Bench.of(model, [JOY, RAGE], study), Pushes(model, study, [JOY, RAGE], probes))
    found = datasets.read(folder / "monitor" / "step=00000006.nc").isel(step=0)
    own = {name: slopes.sel(concept=name, readout_concept=name) for name in ("joy", "rage")}
    for name, theirs in own.items():
        ours = found.sel(concept=name)
        for key in ("slope", "interference_shuffled", "steerability_shuffled_validation"):
            np.testing.assert_allclose(ours[key], theirs[key].transpose(*ours[key].dims), rtol=1e-4, atol=1e-5)
        probed = probes.sel(concept=name, probe="mean_difference")
        for key in ("auroc_redrawn", "auroc_shuffled", "auroc_words"):
            np.testing.assert_allclose(ours[key], probed[key].transpose(*ours[key].dims), atol=1e-6)
    assert abs(found.slope).max() > 0.01 and found.interference_shuffled.notnull().all()


def test_it_logs_and_keeps_the_same_and_the_curves_can_be_drawn(run):
    curves = steerlib.Monitor.read(run.args.output_dir)
    assert curves.step.values.tolist() == [2, 4, 6] and curves.measure.values.tolist() == [
        "separability",
        "steerability",
    ]
    logged = {row["step"]: row for row in run.state.log_history if "joy/steerability" in row}
    assert list(logged) == [2, 4, 6]
    for step, row in logged.items():
        for measure in curves.measure.values:
            for name in ("joy", "rage"):
                curve = curves.sel(step=step, measure=measure, concept=name)
                assert row[f"{name}/{measure}"] == pytest.approx(float(curve.value), abs=1e-6)
                assert row[f"{name}/{measure}_null"] == pytest.approx(float(curve.null_upper), abs=1e-6)
                assert curve.value_lower <= curve.value <= curve.value_upper and curve.null_lower < curve.null_upper
    figure = onsets.emergence_curves(curves)
    assert {"interval", "null"} <= {str(mark.get_label()) for axis in figure.axes for mark in axis.collections}
    drawn = {str(line.get_label()) for line in onsets.onset_summary(curves).axes[0].lines}
    assert {"separable", "steerable"} <= drawn and "expressed" not in drawn


DRAWN = """
import random
import steerlib
random.seed(3)
before = random.getstate()
steerlib.Monitor, steerlib.open, steerlib.explore
assert random.getstate() == before
"""


def test_to_ask_for_it_draws_nothing():
    """A Trainer that was made before has seeded what a training draws from."""
    run = subprocess.run([sys.executable, "-c", DRAWN], cwd=TESTS.parent, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_few_texts_are_those_of_the_same_sides_and_cost_less(tmp_path):
    training = trainer(tmp_path)
    full, live = (steerlib.Monitor(training, [JOY, RAGE], texts=texts)._live for texts in (None, 8))
    for whole, fewer in zip(full.concepts, live.concepts, strict=True):
        for half in ("fit", "test"):
            assert set(fewer.stimuli(half, 0).texts) < set(whole.stimuli(half, 0).texts)
    assert full.concepts == [JOY, RAGE]


def test_an_error_is_told_once_and_ends_nothing(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(Live, "__call__", lambda self, model: 1 / 0)
    training = trainer(tmp_path)
    watched(training)
    training.train()
    assert training.state.global_step == 6 and steps(tmp_path) == []
    [line] = [record.message for record in caplog.records if "Monitor" in record.message]
    assert "step 2 is not measured" in line and "goes on" in line and "ZeroDivisionError" in line


def test_what_cannot_be_logged_is_measured_all_the_same(tmp_path, monkeypatch, caplog):
    training = trainer(tmp_path)
    watched(training)
    plain = training.log
    monkeypatch.setattr(training, "log", lambda row, *of: 1 / 0 if "joy/steerability" in row else plain(row, *of))
    training.train()
    assert training.state.global_step == 6 and steps(tmp_path) == [2, 4, 6]
    assert [record.message for record in caplog.records if "step 2 is not logged" in record.message]


def test_weights_that_are_no_numbers_are_told(tmp_path, caplog):
    training = trainer(tmp_path, steps=2)
    watched(training)
    training.model.gpt_neox.layers[0].mlp.dense_4h_to_h.bias.data.fill_(torch.nan)
    training.train()
    assert "training diverged" in caplog.text and steps(tmp_path) == []


def test_a_resumed_training_goes_on_and_no_step_is_there_twice(tmp_path):
    first = trainer(tmp_path, steps=4)
    watched(first)
    first.train()
    before = datasets.read(tmp_path / "monitor" / "step=00000002.nc")
    again = trainer(tmp_path, steps=6)
    watched(again)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert steps(tmp_path) == [2, 4, 6] and steerlib.Monitor.read(tmp_path).step.values.tolist() == [2, 4, 6]
    xr.testing.assert_identical(before, datasets.read(tmp_path / "monitor" / "step=00000002.nc"))
    assert (tmp_path / "monitor" / "step=00000004.nc.before").is_file()
    other = trainer(tmp_path, steps=8)
    watched(other, JOY)
    other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert steerlib.Monitor.read(tmp_path).step.values.tolist() == [8]


def test_adapters_are_merged_into_their_base_and_a_tokenizer_may_be_given(tmp_path, caplog):
    base = build("llama")
    base.hf.save_pretrained(tmp_path / "base")
    base.tokenizer.save_pretrained(tmp_path / "base")
    adapted = get_peft_model(base.hf, LoraConfig(r=2, target_modules=["q_proj"]))
    training = trainer(tmp_path / "run", steps=2, words=False, hf=adapted)
    watched(training, base=tmp_path / "base", tokenizer=tmp_path / "base")
    training.train()
    assert steps(tmp_path / "run") == [2], caplog.text
    lost = trainer(tmp_path / "lost", steps=2, words=False, hf=adapted)
    watched(lost, tokenizer=tokenizer())
    lost.train()
    assert "base=" in caplog.text and lost.state.global_step == 2


def test_what_cannot_be_looked_at_is_said_before_it_begins(tmp_path):
    ready, silent = trainer(tmp_path), trainer(tmp_path, words=False)
    strange = concept("odd", "zebra", "sad")
    wrong = [
        (ready, [strange], {}, "concepts do not fit the tokenizer.*zebra"),
        (silent, [JOY], {}, "no tokenizer.*tokenizer="),
        (ready, [JOY], {"every": 0}, "every=0"),
        (ready, [JOY], {"texts": 1.5}, "texts=1.5"),
        (ready, [], {}, "params file"),
        (ready, [JOY, JOY], {}, "'joy' stands there twice"),
        (ready, "nowhere.yaml", {}, "nowhere.yaml"),
        (ready, [3], {}, "params file"),
        ("trainer", [JOY], {}, "no transformers.Trainer"),
    ]
    for training, concepts, told, line in wrong:
        with pytest.raises(SteerlibError, match=line) as error:
            steerlib.Monitor(training, concepts, **told)
        assert len(error.value.args) == 1
    study = {"name": "deep", "checkpoints": {"folder": "."}, "concepts": ["happiness"], "layers": [9]}
    (tmp_path / "deep.yaml").write_text(yaml.safe_dump(study))
    for given, line in [
        (ready, "layer 9 is asked for, and the model has"),
        (trainer(tmp_path, hf=configured("gemma3_text", head_dim=8, final_logit_softcapping=30.0)), "soft-capped"),
    ]:
        with pytest.raises(SteerlibError, match=line):
            steerlib.Monitor(given, tmp_path / "deep.yaml")
    watched(ready)
    with pytest.raises(SteerlibError, match="has a Monitor"):
        steerlib.Monitor(ready, [JOY])
    with pytest.raises(SteerlibError, match="no measurements"):
        steerlib.Monitor.read(tmp_path)


def test_concepts_are_named_as_a_study_names_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "joy.yaml").write_text(JOY.model_dump_json())
    (tmp_path / "mine.yaml").write_text("name: mine\nseed: 3\ncheckpoints: {folder: .}\nconcepts: [joy.yaml]\n")
    for given in ("joy.yaml", Path("joy.yaml"), [{"file": "joy.yaml", "name": "joy"}], [JOY]):
        study, [found] = monitor.asked(given)
        assert found.name == "joy" and study.seed == 0
    study, found = monitor.asked("mine.yaml")
    assert study.name == "mine" and study.seed == 3 and [one.name for one in found] == ["joy"]
    assert [one.name for one in monitor.asked(["sadness", RAGE, "joy.yaml"])[1]] == ["sadness", "rage", "joy"]
    assert [one.name for one in monitor.asked("toy")[1]][:2] == ["happiness", "sadness"]
