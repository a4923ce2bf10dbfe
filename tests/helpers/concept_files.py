"""Files of concepts in every format, and what is made of them."""

from __future__ import annotations

import csv
import json
import unicodedata
from pathlib import Path

import pytest
import yaml

from steerlib import SteerlibError
from steerlib.concepts import prompt_split
from steerlib.concepts.check import examine
from steerlib.concepts.reading import ConceptFile, load
from steerlib.concepts.repeats import normalised

PUBLIC = Path(__file__).parents[3] / "shared" / "data"
EMOTIONS = ("happiness", "sadness", "anger", "fear", "surprise", "disgust")
FEELINGS = EMOTIONS[:4]
PLACES = ("home", "work", "school")
FRAME = "{} {they} felt"

POLITE = [
    f"Would you {verb} the {thing}, please?" for verb in ("pass", "hold", "bring") for thing in "salt pen door".split()
]
RUDE = [f"{verb} me that {thing}!" for verb in ("Give", "Throw", "Hand") for thing in "salt pen door".split()]
LABELLED = [(text, "polite") for text in POLITE] + [(text, "rude") for text in RUDE]
READOUT = {"prompts": ["It was", "They were", "He is"], "targets": [" kind"], "foils": [" blunt", " harsh"]}
GOOD = "text,label\n" + "".join(f'"{text}",{label}\n' for text, label in LABELLED)


SPELLINGS = [  # of the same text, as another program or another hand has it
    lambda text: text,
    lambda text: text.replace(" ", "\u00a0"),
    lambda text: text.replace(" ", " \u200b "),
    lambda text: f"\ufeff{text}\u2003",
    lambda text: text.replace(" ", "\n", 1),
    lambda text: text.replace("'", "\u2019").replace('"', "\u201d").replace("-", "\u2013"),
    lambda text: text.replace("n", "n\u200d\ufe0f").replace("e", "\u2066e\u2069").replace("-", "--"),
    lambda text: text.replace("'", "\u2018").replace('"', "\u00ab").replace("-", "\u2014"),
    lambda text: unicodedata.normalize("NFD", text),
    lambda text: "".join(chr(ord(c) + 0xFEE0) if c.isascii() and c.isalnum() else c for c in text),  # of full width
]


def respelled(text, rng):
    """The same text, spelled in one or several other ways."""
    for k in rng.choice(len(SPELLINGS), rng.integers(1, 4)):
        text = SPELLINGS[k](text)
    return text


def faults(concept, seed):
    """What is wrong with the concept's splits at this seed: texts on two sides, and units that stand there twice."""
    fit, test = (concept.stimuli(half, seed) for half in ("fit", "test"))
    sides = [set(map(normalised, half.texts)) for half in (fit, test)]
    pairs = [
        (*map(normalised, pair),) for half in (fit, test) for pair in zip(half.positive, half.negative, strict=True)
    ]
    cases = concept.readout.cases
    units = [(normalised(c.prompt), frozenset(c.targets), frozenset(c.foils)) for c in cases]
    split = prompt_split([case.prompt for case in cases], seed)
    asked = [{unit[0] for unit, s in zip(units, split, strict=True) if s == name} for name in ("validation", "test")]
    found = {
        "fitted and tested on": sides[0] & sides[1],
        "pairs twice": len(pairs) - len(set(pairs)),
        "prompts twice": len(units) - len(set(units)),
        "validation and test": asked[0] & asked[1],
        "prompts fitted on": sides[0] & {unit[0] for unit in units},
        "an empty side": not all((*sides, *asked)),
    }
    return {fault: what for fault, what in found.items() if what}


def as_csv(path, rows, header=("text", "label")):
    with path.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([header, *rows])
    return path


def as_jsonl(path, rows, header=("text", "label")):
    path.write_text("".join(json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in rows))
    return path


def loaded(path, seed=0, **options):
    return load(ConceptFile(file=str(path), **options), seed)


def concept(path, others=(), seed=0, **options):
    return loaded(path, seed, **options).concept(others)


def refusal(path, **options):
    with pytest.raises(SteerlibError) as caught:
        concept(path, **options)
    return str(caught.value)


def examined(path, **options):
    return examine(loaded(path, **options))


def study(tmp_path, *concepts):
    path = tmp_path / "study.yaml"
    data = {"name": "small", "checkpoints": {"folder": "history"}, "concepts": list(concepts)}
    path.write_text(yaml.safe_dump(data))
    return path


def scenarios(path, each=6, person="She", labels=FEELINGS):
    """``each`` texts of every emotion in every group."""
    rows = [(f"{person} saw {e} thing {k} at {g}.", e, g) for e in labels for g in PLACES for k in range(each)]
    return as_csv(path, rows, ("text", "label", "group"))


def repe(folder, each=12, labels=FEELINGS):
    """Files of emotions as RepE has them."""
    folder.mkdir(exist_ok=True)
    for emotion in labels:
        texts = [f"You meet {emotion} number {k} while {POLITE[k % 9]} crosses the garden." for k in range(each)]
        (folder / f"{emotion}.json").write_text(json.dumps(texts))
    return folder


def questions(path, word="one"):
    rows = [(f"What is {k} plus {word}?", [str(k + 1), str(k), "none"], 0) for k in range(20)]
    return as_jsonl(path, rows, ("question", "choices", "answer"))


def templates(path, word="", **more):
    """Our own YAML, with all its templates."""
    data = concept(as_csv(path.with_suffix(".csv"), [(word + text, label) for text, label in LABELLED])).model_dump()
    path.write_text(yaml.safe_dump(data | more))
    return path


def written(path, content):
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path
