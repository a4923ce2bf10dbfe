"""Every number that a study may say has bounds, found by looking at every field of every model."""

from __future__ import annotations

import math

import pytest
import yaml

from steerlib import SteerlibError
from steerlib.concepts import Concept
from steerlib.study import Study
from steerlib.study.comparison import Comparison

STUDY = {
    "name": "small",
    "pretraining": {"steps": 100},
    "checkpoints": {"steps": [0, 50, 100]},
    "concepts": ["happiness"],
    "instrument": {"steps": [0]},
}


def numbers(schema, defs, place=()):
    """Places of all numbers in a JSON schema: names of fields, 0 for entries of a list, 'x' for those of a mapping."""
    if "$ref" in schema:
        schema = defs[schema["$ref"].split("/")[-1]]
    if schema.get("type") in ("integer", "number"):
        yield place
    for other in [*schema.get("anyOf", ()), *schema.get("oneOf", ())]:
        yield from numbers(other, defs, place)
    inner = {"0": schema.get("items", {}), "x": schema.get("additionalProperties") or {}} | schema.get("properties", {})
    for name, part in inner.items():
        if isinstance(part, dict) and part:
            yield from numbers(part, defs, (*place, name))


def fields(model):
    schema = model.model_json_schema()
    return sorted({".".join(place) for place in numbers(schema, schema.get("$defs", {}))})


def with_value(data, place, value):
    key, _, rest = place.partition(".")
    if key == "0":
        return [{"file": "a.csv", rest: value} if rest else value]
    inner = data.get(key)
    return data | {key: with_value(inner if isinstance(inner, dict) else {}, rest, value) if rest else value}


@pytest.mark.parametrize("place", [place for place in fields(Study) if place != "concepts.0.positive"])  # a label
def test_no_number_of_a_study_is_beyond_all_measure(tmp_path, place):
    path = tmp_path / "wrong.yaml"
    beyond = [math.nan, math.inf, -math.inf, True, [], 10**40, 1e40, -(10**40)]
    words = ["many", "9" * 5000, "1:30", "1,5"]
    for value in beyond[:5] if place == "loading.device_map.x" else beyond + words:  # there, words name devices
        path.write_text(yaml.safe_dump(with_value(STUDY, place, value)))
        with pytest.raises(SteerlibError) as caught:
            Study.load(path)
        lines = str(caught.value).splitlines()
        named = [line for line in lines if line.startswith(f"{path}: {place}: ")]
        assert len(named) in (1, 2), (value, lines)  # 2: of an alternative, as `batch: auto`
        assert max(map(len, lines)) < 400


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("seed", -1, "-1 is not allowed: input should be greater than or equal to 0"),
        ("seed", 2**31, "2147483648 is not allowed: at most 2,147,483,647, as some libraries take no larger"),
        ("sweep.neutral_texts", 1.0e12, "1000000000000 is not allowed: at most 10,000, as the model reads all of them"),
        ("probes.random", 1.0e9, "1000000000 is not allowed: at most 10,000, as each is a direction of every layer"),
        ("sweep.alphas", [-0.5, 0, 0.00001, 0.5], "alphas must be 0.0001 apart or more, as nearer ones push alike"),
        ("pretraining.model", {"hidden": 65536, "layers": 1000}, "pretraining: takes 82"),
        ("pretraining", {"compute": 1.0e30}, "steps; at most 100,000,000"),
        ("concepts.0.targets", [], "[] is not allowed: list should have at least 1 item"),
        ("concepts.0.foils", None, "None is not allowed: input should be a valid list"),
        ("concepts.0.prompts", [], "[] is not allowed: list should have at least 1 item"),
        ("checkpoints.folder", "a\0b", r"'a\x00b' names no file"),
        ("name", "a" * 300, "'aaa"),
    ],
)
def test_a_bound_says_why_it_is_one(tmp_path, place, value, said):
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(with_value(STUDY, place, value)))
    with pytest.raises(SteerlibError) as caught:
        Study.load(path)
    [line] = str(caught.value).splitlines()
    assert line.startswith(f"{path}: {place.split('.')[0]}") and said in line and len(line) < 400


def test_every_field_was_looked_at():
    found = fields(Study)
    wanted = ["seed", "sweep.alphas.0", "pretraining.model.hidden", "checkpoints.steps.percent.0", "concepts.0.limit"]
    assert {*wanted} <= {*found} and len(found) > 45
    assert fields(Concept) == ["planted_frequency"] and not fields(Comparison)
