"""The same text is one unit: counted once, and on one side of every split, however it is spelled and wherever from."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from helpers.concept_files import (
    FRAME,
    SPELLINGS,
    as_csv,
    as_jsonl,
    concept,
    faults,
    loaded,
    questions,
    refusal,
    respelled,
    scenarios,
)
from steerlib.concepts import Concept, Item, Readout, prompt_split
from steerlib.concepts.planted import stories
from steerlib.concepts.planted.world import DEFAULT
from steerlib.concepts.repeats import linked, normalised

TEXT = """Anna's "café" - the one at Zoë's - wasn't open"""
PROMPTS = ["It's now", "They - all of them - were", 'He said "so" and was', "On the way home", "At last", "We are"]
OPTIONS = {"targets": [" kind"], "foils": [" blunt"]}


@pytest.mark.parametrize("draw", range(10))
def test_spellings_of_a_text_are_the_same_and_other_texts_are_not(draw):
    rng = np.random.default_rng(draw)
    assert {normalised(spell(TEXT)) for spell in SPELLINGS} == {normalised(respelled(TEXT, rng))} == {normalised(TEXT)}
    assert normalised(normalised(TEXT)) == normalised(TEXT) == TEXT
    others = [TEXT.upper(), TEXT + "s", TEXT.replace("é", "e"), TEXT.replace("'", ""), TEXT.replace(" ", "")]
    assert len({*map(normalised, [TEXT, *others])}) == 6


@pytest.mark.parametrize("draw", range(10))
def test_equal_prompts_share_their_side_and_distinct_ones_are_split_as_ever(draw):
    rng = np.random.default_rng(draw)
    prompts = [f"Prompt {k}'s end" for k in range(3 + draw)]
    split = prompt_split(prompts, draw)
    assert (split == "validation").sum() == len(prompts) // 3
    asked = rng.permutation(prompts * 3)
    again = prompt_split([respelled(prompt, rng) for prompt in asked], draw)
    sides = {(prompt, side) for prompt, side in zip(asked, again, strict=True)}
    assert len(sides) == len(prompts) and sum(side == "validation" for _, side in sides) == len(prompts) // 3


def test_members_that_share_a_text_are_together_also_over_others():
    assert linked(["ab", "cd", "be", "fg", "dh", "gc", "i"]) == [[0, 2], [1, 3, 4, 5], [6]]
    assert linked([]) == []


# --- planted concepts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", DEFAULT.planted)
def test_a_planted_concept_has_every_text_once(name, seed):
    for pairs, prompts in ((96, 36), (40, 13)):
        made = stories.concept(DEFAULT, name, pairs, prompts, seed)
        assert not faults(made, seed) and not made.readout.losses
        assert len({*map(normalised, made.readout.prompts)}) == prompts
        assert sum(len(template.positive) for template in made.templates) >= pairs
        stimuli = {normalised(text) for template in made.templates for text in template.texts}
        assert not stimuli & {*map(normalised, made.readout.prompts)}
        texts = [{*map(normalised, template.texts)} for template in made.templates]
        assert sum(map(len, texts)) == len(stimuli)


def test_where_the_world_has_too_few_claims_there_are_fewer():
    made = stories.concept(DEFAULT, "truth", 800, 36, 0)
    sizes = [len(template.positive) for template in made.templates]
    assert (
        min(sizes) == 18 and max(sizes) == 100
    )  # three things, each right once and wrong twice, by twelve names or none
    assert not faults(made, 0)


# --- files -----------------------------------------------------------------------------------------------------------


def many(rng, count=60):
    """Texts of which many repeat others in another spelling."""
    bases = [f"Zoë's \"{a}\" - {b} - wasn't {c}" for a in ("hat", "bag") for b in ("old", "new") for c in range(6)]
    return [respelled(text, rng) for text in rng.choice(bases, count)]


def texts(folder, rng):
    return as_csv(folder / "a.csv", [(text, "yn"[sum(map(ord, normalised(text))) % 2]) for text in many(rng)]), {}


def labelled(folder, rng):
    label = {text: rng.choice(["yes", "no"]) for text in map(normalised, many(rng, 400))}
    return as_jsonl(folder / "a.jsonl", [(text, label[normalised(text)]) for text in many(rng)]), {"frame": FRAME}


def pairs(folder, rng):
    rows = [(positive, f"{negative} at all") for positive, negative in zip(many(rng, 14), many(rng, 14), strict=True)]
    return as_csv(folder / "a.csv", rows, ("positive", "negative")), {}


def repe(folder, rng):
    for emotion in ("fear", "anger", "sadness"):
        own = [f"You meet {emotion} - Zoë's - number {k}" for k in range(12)]
        (folder / f"{emotion}.json").write_text(json.dumps([respelled(text, rng) for text in own * 2]))
    return folder / "fear.json", {}


def choices(folder, rng):
    path = questions(folder / "q.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()] * 2
    rows = [row | {"question": respelled(row["question"], rng)} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path, {}


def other_file(folder, rng):
    scenarios(folder / "other.csv", person="He")
    return scenarios(folder / "ours.csv"), {"positive": "fear", "test": str(folder / "other.csv"), "frame": FRAME}


def whole(folder, rng, given=False, size=4, apart=12, prompts=()):
    """Our own YAML: pairs of texts drawn from a few, so that templates share them, and some prompts are stimuli."""
    templates = []
    for k in range(8):
        own = [
            f"Zoë's {'odd' if given and k % 2 else 'even'} thing {n} wasn't" for n in rng.integers(0, apart, 3 * size)
        ]
        chosen = [respelled(f"{text} - {side}", rng) for side in "pn" for text in own[:size]]
        templates.append({"name": f"t{k}", "positive": chosen[:size], "negative": chosen[size:]})
        templates[-1] |= {"split": ("fit", "test")[k % 2]} if given else {}
    readout = {"prompts": [respelled(prompt, rng) for prompt in [*PROMPTS * 2, *prompts]], **OPTIONS}
    readout["prompts"] += [respelled(templates[k]["positive"][0], rng) for k in (0, 1)]
    path = folder / "whole.yaml"
    path.write_text(yaml.safe_dump({"name": "whole", "templates": templates, "readout": readout}))
    return path, {}


def loose(folder, rng):
    return whole(folder, rng, apart=60)


def halved(folder, rng):
    return whole(folder, rng, given=True)


@pytest.mark.parametrize("draw", range(4))
@pytest.mark.parametrize("kind", [texts, labelled, pairs, repe, choices, other_file, whole, loose, halved])
def test_a_concept_of_any_file_has_every_text_once_and_on_one_side(tmp_path, kind, draw):
    path, options = kind(tmp_path, np.random.default_rng(draw))
    if kind not in (choices, whole, loose, halved):
        options["prompts"] = [*PROMPTS, *(spell(prompt) for spell in SPELLINGS for prompt in PROMPTS)]
    made = concept(path, others=["other"], seed=draw, **options)
    for seed in (draw, *range(20, 24)):
        assert not faults(made, seed)
    if kind is not choices:
        assert sum(normalised(p) in map(normalised, PROMPTS) for p in made.readout.prompts) == len(PROMPTS)
        assert "repeat others: one unit each" in made.readout.losses[0]


def plain(templates, **readout):
    readout = readout or {"prompts": PROMPTS, **OPTIONS}
    named = [
        {"name": name, "positive": positive, "negative": negative} | ({"split": split[0]} if split else {})
        for name, (positive, negative, *split) in templates.items()
    ]
    return Concept(name="plain", templates=named, readout=readout)


def test_templates_that_share_a_text_are_dealt_together_and_lose_nothing():
    letters = [[f"{letter}{k}" for k in range(4)] for letter in "abcdef"]
    sides = {f"t{k}": (texts[:2], texts[2:]) for k, texts in enumerate(letters)}
    sides["t3"] = (["d0", "d1"], ["d2", "a2 "])  # with t0
    sides["t4"] = (["e0", "d1"], ["e2", "e3"])  # with t3, and so with t0
    made = plain(sides)
    assert [len(template.positive) for template in made.templates] == [2] * 6
    dealt = np.array([made.halves(seed) for seed in range(40)])
    assert (dealt[:, 0] == dealt[:, 3]).all() and (dealt[:, 3] == dealt[:, 4]).all()
    assert {*dealt[:, 0]} == {*dealt[:, 1]} == {"fit", "test"} and not any(faults(made, seed) for seed in range(40))
    assert ((dealt == "fit").sum(1) <= 3).all() and ((dealt == "fit").sum(1) > 0).all()


def test_templates_that_all_hang_together_lose_the_pairs_that_tie_the_later_to_the_earlier():
    same = "nothing happened"
    made = plain(
        {name: ([f"{name}{k}" for k in range(4)], [same, *(f"not {name}{k}" for k in range(3))]) for name in "abc"}
    )
    assert [template.name for template in made.templates] == ["a", "b", "c"]
    assert [len(template.positive) for template in made.templates] == [4, 3, 3]
    assert not any(faults(made, seed) for seed in range(20))
    with pytest.raises(ValueError, match="repeats count once, and too few pairs are left"):
        plain({name: ([f"{name}{k}" for k in range(4)], [same] * 4) for name in "abc"})


def test_a_text_that_the_file_puts_on_both_sides_is_refused_by_name(tmp_path):
    sides = {"a": (["a1", "a2"], ["a3", "it's so"], "fit"), "b": (["b1", "b2"], ["b3", "it’s  so"], "test")}
    with pytest.raises(
        ValueError, match=r"'it’s  so' stands in 'a' \(fit\) and in 'b' \(test\): it would be tested on"
    ):
        plain(sides)
    path = tmp_path / "a.yaml"
    templates = [{"name": n, "positive": p, "negative": q, "split": s} for n, (p, q, s) in sides.items()]
    path.write_text(yaml.safe_dump({"name": "a", "templates": templates, "readout": {"prompts": PROMPTS, **OPTIONS}}))
    assert f"{path}: templates: 'it’s  so' stands in 'a' (fit)" in refusal(path)


def test_prompts_may_be_stimuli_that_the_file_tests_on_and_no_others():
    sides = {"a": (["a1", "a2"], ["a3", "a4"]), "b": (["b1", "b2"], ["b3", "b4"])}
    asked = {"prompts": ["b1", "b2", "b3", "a1", "It was"], **OPTIONS}
    given = {name: (*side, split) for (name, side), split in zip(sides.items(), ("fit", "test"), strict=True)}
    assert plain(given, **asked).readout.prompts == ["b1", "b2", "b3", "It was"]
    with pytest.raises(
        ValueError, match=r"has 1 prompts; .*4 of 5 prompts are stimuli that may be fitted on: left out"
    ):
        plain(sides, **asked)


def test_items_are_told_apart_by_their_options_but_split_by_their_prompt():
    sides = {"a": (["a1", "a2"], ["a3", "a4"]), "b": (["b1", "b2"], ["b3", "b4"])}
    items = [{"prompt": f"What is {k}?", "targets": [f" {k}", " so"], "foils": [f" not {k}"]} for k in range(5)]
    again = [
        item | {"prompt": item["prompt"].replace(" ", "\u00a0"), "targets": item["targets"][::-1]} for item in items
    ]
    other = [item | {"foils": [" never"]} for item in items]
    made = plain(sides, items=[*items, *again, *other])
    assert made.readout.items == [Item(**item) for item in [*items, *other]]
    assert made.readout.losses == ("5 of 15 prompts repeat others: one unit each",)
    assert not any(faults(made, seed) for seed in range(20))
    with pytest.raises(ValueError, match=r"has 2 prompts; an interval needs at least 3 \(repeats count once\)"):
        plain(sides, items=[*items[:2], *other[:2]])


def test_a_readout_that_is_shared_is_not_changed_by_the_concept_that_takes_it():
    given = Readout(prompts=["a1", *PROMPTS, *PROMPTS], **OPTIONS)
    sides = [{"name": n, "positive": [f"{n}1", f"{n}2"], "negative": [f"{n}3", f"{n}4"]} for n in "ab"]
    made = Concept(name="plain", templates=sides, readout=given)
    assert made.readout.prompts == PROMPTS and len(given.prompts) == 13 and not given.losses


def test_a_file_tells_what_it_lost(tmp_path):
    path, _ = whole(tmp_path, np.random.default_rng(0))
    draft = loaded(path)
    assert draft.counts == {"positive": 32, "negative": 32}
    [line] = draft.losses
    assert line.endswith("of 32 pairs repeat others, or their texts: one unit each")
    assert int(line.split()[0]) == 32 - sum(len(template.positive) for template in draft.templates) > 0
