"""What `steerlib.Monitor` costs a training of the toy's model: a look at each save, over the updates between two."""

from __future__ import annotations

import tempfile
import time

from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, default_data_collator

from benchmarks.measure import Row
from steerlib import Monitor
from steerlib.results.provenance import PROJECT
from steerlib.stages import pretraining, training
from steerlib.study import Study

BETWEEN, SAVES = 100, 20  # updates between saves as they are reckoned, and as they are run
TEXTS = {"documents": 2000, "steps": 1000}  # fewer stories than the toy's, for as many updates as there may be
OTHERS = ("truth", "place", "placebo")  # beside the six emotions


def measure(repeats: int, device: str) -> list[Row]:
    """Of the toy's six emotions, and of all its nine concepts; the first look, which proves the model, is left out."""
    toy = Study.load(PROJECT / "params" / "toy.yaml")
    every = [concept.name for concept in toy.load_concepts()]
    asked = {"its six emotions": [name for name in every if name not in OTHERS], "its nine concepts": every}
    return [
        Row.of(
            f"Monitor, saving every {BETWEEN} updates",
            f"a look over the updates between, {what}",
            watched(toy, concepts, repeats),
            "≤ 0.02",
        )
        for what, concepts in asked.items()
    ]


def watched(toy: Study, concepts: list[str], repeats: int) -> list[float]:
    """A short training with the toy's batches: of each look, its CPU seconds over those of `BETWEEN` updates."""
    study = toy.model_copy(update={"pretraining": toy.pretraining.model_copy(update=TEXTS)})
    plan, texts = study.pretraining, pretraining.documents(study)
    tokenizer = pretraining.tokenizer_of(study, texts)
    rows = training.windows(texts, tokenizer, plan.model.context)
    clock = Clock()
    with tempfile.TemporaryDirectory(prefix="steerlib-") as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=SAVES * (repeats + 1),
            save_steps=SAVES,
            per_device_train_batch_size=plan.batch,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        data = [{"input_ids": row, "labels": row} for row in rows]
        model = pretraining.build(plan, len(tokenizer), study.seed)
        trainer = Trainer(model, arguments, default_data_collator, data, processing_class=tokenizer)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(clock)
        trainer.add_callback(Monitor(trainer, concepts))
        trainer.add_callback(After(clock))
        trainer.train()
    return clock.looks[1:]


class Clock(TrainerCallback):
    """Before the Monitor: counts what updates cost, and notes when it is asked."""

    def __init__(self):
        self.updates, self.began, self.asked, self.looks = 0.0, 0.0, 0.0, []

    def on_step_begin(self, *_, **__) -> None:
        self.began = time.process_time()

    def on_step_end(self, *_, **__) -> None:
        self.updates += time.process_time() - self.began

    def on_save(self, *_, **__) -> None:
        self.asked = time.process_time()


class After(TrainerCallback):
    """After the Monitor: what that cost."""

    def __init__(self, clock: Clock):
        self.clock = clock

    def on_save(self, *_, **__) -> None:
        look, updates = time.process_time() - self.clock.asked, self.clock.updates
        self.clock.looks.append(look / (updates * BETWEEN / SAVES))
        self.clock.updates = 0.0
