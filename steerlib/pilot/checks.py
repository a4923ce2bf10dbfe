"""The checklist of a report: what results can answer is answered, the rest is left to a person."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from steerlib.pilot.facts import Facts
from steerlib.stages.criteria import FAIL, PASS, UNKNOWN

CHECKLIST: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("checklist.yaml").read_text("utf-8"))
PERSON = "person"


def _outcome(*criteria: str) -> Callable[[Facts, dict], str]:
    """The worst outcome of some criteria, of the concepts that the report is about, with those of which it is that."""

    def told(facts: Facts, said: dict) -> str:
        found = {one.name: {one.criteria[key]["outcome"] for key in criteria} for one in facts.pushed}
        for outcome in (FAIL, UNKNOWN):
            if names := [name for name, of in found.items() if outcome in of]:
                return said["of"].format(what=said["outcomes"][outcome], names=said["join"].join(names))
        return said["outcomes"][PASS if found else UNKNOWN]

    return told


def _yes(facts: Facts, said: dict, holds: bool) -> str:
    return said["yes"] if holds else said["no"]


def _validated(facts: Facts, said: dict) -> str:
    names = [one.name for one in facts.concepts if one.verdict == "holds"]
    return said["join"].join(names) or said["no"]


# What fills an answer in, by the names of the checklist.
FACTS: dict[str, Callable[[Facts, dict], str]] = {
    PERSON: lambda facts, said: said["person"],
    "frozen": lambda facts, said: _yes(facts, said, facts.frozen is not None),
    "validated": _validated,
    "tries": lambda facts, said: str(facts.validated.tries if facts.validated else 0),
    "passages": lambda facts, said: _yes(facts, said, bool(facts.validated and facts.validated.new_passages)),
    "deployed": lambda facts, said: _yes(facts, said, facts.deployed),
    "effect": _outcome("effect"),
    "side": _outcome("kl", "nll"),
    "selective": _outcome("selective"),
    "undo": _outcome("undo"),
}


def answered(facts: Facts, said: dict, language: str) -> list[tuple[str, str]]:
    """Every question with its answer."""
    return [(item["question"][language], FACTS[item["fact"]](facts, said)) for item in CHECKLIST]
