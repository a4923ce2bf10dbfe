"""The check of a concept: what makes results wrong is a problem, what makes them weaker a warning."""

from __future__ import annotations

import numpy as np
import yaml

from helpers.concept_files import LABELLED, POLITE, as_csv, concept, examined
from steerlib.concepts.check import near_duplicates


def test_near_duplicates_are_found_across_parts_only():
    rng = np.random.default_rng(0)
    texts = [["so", "it", "is", *rng.choice(3000, 12).astype(str)] for _ in range(10_000)]
    part = np.array(["fit", "test"] * 5000)
    texts[7] = [*texts[2][:-1], "other"]  # across: one word of fifteen differs
    texts[9] = [*texts[3][:-1], "other"]  # both in one part
    first, second = near_duplicates(texts, part)
    assert [(int(a), int(b)) for a, b in zip(first, second, strict=True)] == [(2, 7)]


def test_repeats_are_counted_and_a_prompt_that_is_a_bare_stimulus_is_a_problem(tmp_path):
    loaded = concept(as_csv(tmp_path / "a.csv", LABELLED)).model_dump()
    path = tmp_path / "whole.yaml"
    path.write_text(yaml.safe_dump(loaded))
    clean = examined(path)
    assert not clean.problems and not clean.draft.losses and not clean.concept.readout.losses
    templates, prompts = loaded["templates"], loaded["readout"]["prompts"]
    templates[1]["positive"][0] = templates[0]["positive"][0].replace(" ", "\u00a0")
    for side in ("positive", "negative"):
        templates[3][side] += templates[2][side][:1]
    prompts += [templates[2]["negative"][0], *prompts[:2]]
    path.write_text(yaml.safe_dump(loaded))
    report = examined(path)
    assert not report.problems and report.draft.losses == ["1 of 10 pairs repeat others, or their texts: one unit each"]
    assert report.concept.readout.losses == (
        f"2 of {len(prompts)} prompts repeat others: one unit each",
        f"1 of {len(prompts)} prompts are stimuli that may be fitted on: left out",
    )
    shared = [line for line in report.warnings if line.startswith("in several templates, which are never parted: 1 ")]
    assert len(shared) == 1 and shared[0].endswith("(part 1, part 2)")
    bare = examined(tmp_path / "a.csv", frame="{} It was", prompts=[POLITE[0], "That was", "It was", "She is"])
    assert [line.split(":")[0] for line in bare.problems] == ["leak"]


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
