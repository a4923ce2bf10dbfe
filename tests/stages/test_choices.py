"""Multiple choice: each prompt with its own right and wrong continuations, through the whole computation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from steerlib.concepts.reading import ConceptFile, load
from steerlib.model import Model
from steerlib.stages import interventions, pretraining, probing
from steerlib.study import Study

COMMONSENSE = Path(__file__).parents[3] / "shared" / "data" / "commonsense"
ANIMALS = "dog horse cow cat sheep goat hen duck".split()
TOOLS = "hammer saw spade axe drill file rake hoe".split()


def questions(folder: Path) -> Path:
    """Sixteen questions, with options of one word or several, of which one is right."""
    rows = [
        {"question": f"What is a {thing}?", "choices": ["an animal", "a tool of the trade", "a plant"], "answer": k}
        for k, things in enumerate((ANIMALS, TOOLS))
        for thing in things
    ]
    path = folder / "kinds.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def chain(path: Path, positions: str, **options) -> tuple[Model, object, xr.Dataset, xr.Dataset]:
    """A small untrained model with a tokenizer of its own; its probes and interventions on a file of questions."""
    study = Study(
        name="choices",
        checkpoints={"folder": "."},
        concepts=[{"file": str(path), **options}],
        probes={"methods": ["mean_difference"], "random": 20, "shuffled": 20},
        sweep={"alphas": [-0.5, 0, 0.5, 1], "positions": positions, "neutral_texts": 6},
    )
    (concept,) = study.load_concepts()
    texts = [item.prompt + option for item in concept.readout.items for option in (*item.targets, *item.foils)]
    tokenizer = pretraining.train_tokenizer(texts, 320)
    plan = pretraining.Pretraining(steps=1, model={"hidden": 32, "layers": 2, "heads": 2, "context": 512})
    hf = pretraining.build(plan, len(tokenizer), seed=0)
    with torch.no_grad():
        for weight in hf.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel()))
    model = Model(hf, tokenizer)
    probes = probing.extract(model, study, [concept])
    return model, concept, probes, interventions.sweep(model, study, [concept], probes)


def log_probability(model: Model, prompt: str, option: str) -> float:
    """By the book: a forward pass over prompt and option, and the log-probabilities of the option's tokens summed."""
    before, after = (model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, option))
    with torch.no_grad():
        logits = model.hf(torch.tensor([before + after])).logits[0].log_softmax(-1)
    return sum(float(logits[len(before) - 1 + k, token]) for k, token in enumerate(after))


@pytest.mark.parametrize("positions", ["last", "generated", "all"])
def test_questions_are_answered_as_by_the_book_and_pushed_like_any_concept(tmp_path, positions):
    model, concept, probes, swept = chain(questions(tmp_path), positions, questions=8)
    items = concept.readout.items
    own = swept.isel(probe=0, concept=0, layer=0, readout_concept=0)
    best, best_normalised = [], []
    for item in items:
        right, wrong = (
            np.array([[log_probability(model, item.prompt, o), len(o.strip())] for o in side])
            for side in (item.targets, item.foils)
        )
        best.append(right[:, 0].max() - wrong[:, 0].max())
        best_normalised.append((right[:, 0] / right[:, 1]).max() - (wrong[:, 0] / wrong[:, 1]).max())
    unsteered = own.sel(alpha=0)
    assert np.allclose(unsteered.margin, best, atol=1e-4)
    assert np.allclose(unsteered.margin_normalised, best_normalised, atol=1e-4)
    test = (own.split == "test").values
    assert float(unsteered.success_rate) == pytest.approx(np.mean(np.array(best)[test] > 0))
    assert float(unsteered.success_rate_normalised) == pytest.approx(np.mean(np.array(best_normalised)[test] > 0))
    assert probes.expression.values[0].tolist() == (np.array(best) > 0).tolist()
    moved = abs(own.log_odds.sel(alpha=1) - own.log_odds.sel(alpha=0))
    assert float(moved.min()) > 1e-4 and float(own.undo_error) < 1e-4
    assert float(own.steerability) == pytest.approx(float(own.local_slope), rel=0.3, abs=0.05)


def test_questions_asked_are_not_among_the_stimuli(tmp_path):
    concept = load(ConceptFile(file=str(questions(tmp_path)), questions=8)).concept(())
    questions_asked = {item.prompt.split("?")[0] for item in concept.readout.items}
    stimuli = [text for template in concept.templates for text in (*template.positive, *template.negative)]
    assert questions_asked and not any(question in text for question in questions_asked for text in stimuli)


def test_directions_of_one_file_are_tested_on_another(tmp_path):
    """The same directions and readout as without it; separability is that of the other file's groups, all of them."""
    rows = [f"the {thing} by gate {k}.,{label},{k}" for label, things in (("animal", ANIMALS), ("tool", TOOLS))
            for k, thing in enumerate(things)]  # fmt: skip
    for name, words in (("ours", ("Here is ", "There is ")), ("other", ("She saw ", "He saw ", "Who saw "))):
        lines = [word + row for word in words for row in rows]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label,group", *lines]))
    options = {"frame": "{} {they} felt", "targets": [" a cow", " hens"], "foils": [" a saw", " rakes"]}
    path, elsewhere = tmp_path / "ours.csv", str(tmp_path / "other.csv")
    model, concept, probes, swept = chain(path, "last", test=elsewhere, **options)
    fit, test = concept.stimuli("fit", 0), concept.stimuli("test", 0)
    assert len(fit.positive) == 16 and len(test.positive) == 24
    assert all(" saw the" in text and text.endswith(" felt") for text in test.texts)
    assert probes.sizes["fold"] == 8 and np.isfinite(probes.auroc).all() and np.isfinite(swept.log_odds).all()
    states = model.read(fit.texts).states[0].numpy()
    mean = states[:16].mean(0) - states[16:].mean(0)
    assert np.allclose(probes.direction.values[0, 0, 0], mean / np.linalg.norm(mean), atol=1e-4)


@pytest.mark.parametrize("name", ["openbookqa_test.jsonl", "arc-easy_test.jsonl"])
def test_public_questions_go_through_as_they_are_published(name):
    if not (COMMONSENSE / name).exists():
        pytest.skip(f"needs the public file {name}, which is not part of the project")
    _, concept, probes, swept = chain(COMMONSENSE / name, "last", questions=12, limit=40)
    assert len(concept.readout.items) == 12 and all(len(item.foils) >= 2 for item in concept.readout.items)
    assert np.isfinite(swept.margin).all() and np.isfinite(swept.margin_normalised).all()
    assert probes.expression.notnull().sum() == 12
