"""The check of a concept: what makes results wrong is a problem, what makes them weaker a warning."""

from __future__ import annotations

import numpy as np
import yaml

from helpers.concept_files import LABELLED, as_csv, concept, examined
from steerlib.concepts.check import near_duplicates


def test_near_duplicates_are_found_across_parts_only():
    rng = np.random.default_rng(0)
    texts = [["so", "it", "is", *rng.choice(3000, 12).astype(str)] for _ in range(10_000)]
    part = np.array(["fit", "test"] * 5000)
    texts[7] = [*texts[2][:-1], "other"]  # across: one word of fifteen differs
    texts[9] = [*texts[3][:-1], "other"]  # both in one part
    first, second = near_duplicates(texts, part)
    assert [(int(a), int(b)) for a, b in zip(first, second, strict=True)] == [(2, 7)]


def test_a_leak_between_templates_or_into_the_readout_is_a_problem(tmp_path):
    loaded = concept(as_csv(tmp_path / "a.csv", LABELLED)).model_dump()
    path = tmp_path / "whole.yaml"
    path.write_text(yaml.safe_dump(loaded))
    assert not examined(path).problems
    leaked = loaded["templates"][0]["positive"][0].upper()
    loaded["templates"][1]["positive"][0] = leaked
    loaded["readout"]["prompts"][0] = loaded["templates"][2]["negative"][0]
    path.write_text(yaml.safe_dump(loaded))
    problems = examined(path).problems
    assert [line.split(":")[0] for line in problems] == ["leak", "leak"]
    assert "part 1, part 2" in problems[0] and "readout prompts are stimuli" in problems[1]


def test_length_that_gives_the_label_away_is_a_warning(tmp_path):
    rows = [(f"{text} thank you so very much indeed" if label == "polite" else text, label) for text, label in LABELLED]
    assert any(line.startswith("length: more words") for line in examined(as_csv(tmp_path / "a.csv", rows)).warnings)


def test_a_pronoun_that_gives_the_label_away_is_a_warning(tmp_path):
    rows = [(f"{'He' if k < 9 else 'She'} said: {text[0]}", label) for k, (text, label) in enumerate(LABELLED)]
    path = as_csv(tmp_path / "a.csv", [(f"{t} {k}", label) for k, (t, label) in enumerate(rows)])
    told = [line for line in examined(path, frame="{} {they} felt").warnings if line.startswith("frame: in ")]
    assert told and all("may find the pronoun" in line for line in told)
    assert len(told) == 2  # in each split
    assert not [line for line in examined(path, frame="{} She felt").warnings if line.startswith("frame")]
