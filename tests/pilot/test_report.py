"""The report of a pilot: its sentences are filled from results, in every language, and tell no more than is known."""

import json
import re
from hashlib import sha256
from html.parser import HTMLParser
from string import Formatter
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from helpers.drawn import METHOD, NAMES, PARAMS, REFERENCE, other_ways
from helpers.studies import PROJECT, call
from steerlib.pilot import checks, report
from steerlib.pilot.facts import Facts, best_ways
from steerlib.pilot.validation import Validation
from steerlib.results import audit
from steerlib.stages.criteria import CRITERIA
from steerlib.stages.other_ways import NOTHING, PUSHED, TUNED, WAYS
from steerlib.study.analysis import Emergence, Sweep

EN, JA = (report.MESSAGES[language] for language in ("en", "ja"))
GAIN, KL = {"happiness": 0.37, "disgust": 0.81}, {"happiness": 0.0123, "disgust": 0.0456}


def cells() -> xr.Dataset:
    """Readiness in little: two of the concepts are ready, of one of these what it writes cannot be told."""
    names, criteria = NAMES, [*CRITERIA]
    numbers = xr.DataArray(np.full((len(criteria), len(names)), 0.5), {"criterion": criteria, "concept": names})
    found = xr.Dataset({end: numbers.copy() for end in ("value", "lower", "upper", "threshold")})
    for name in GAIN:
        at = {"concept": name}
        found.value.loc[at | {"criterion": "gain"}], found.value.loc[at | {"criterion": "kl"}] = GAIN[name], KL[name]
        found.upper.loc[at | {"criterion": "kl"}] = 2 * KL[name]
        found.threshold.loc[at | {"criterion": "kl"}] = 0.2
    outcome = xr.where(found.value > 0, "pass", "pass").astype(object)
    outcome.loc[{"criterion": "text", "concept": "disgust"}] = "unknown"
    verdicts = ["validate" if name in GAIN else "not ready" for name in names]
    found = found.assign(outcome=outcome, verdict=("concept", np.array(verdicts, object)))
    found["held_back"] = "concept", np.array(["text" if name in GAIN else "effect" for name in names], object)
    found["recommended_alpha"] = "concept", [0.5 if name in GAIN else np.nan for name in names]
    found["layer_pushed"] = "concept", np.ones(len(names), int)
    return found.expand_dims(step=[192, 810]).copy(deep=True)


def ways() -> xr.Dataset:
    """The push wins for happiness, fine-tuning for disgust; texts before the prompt are beyond the budget."""
    found = other_ways([*GAIN])
    found.effect[:] = [[0, 1, 2, 7.25], [0, 1, 5.5, 3]]
    found["advantage"] = found.effect.sel(way=PUSHED) - found.effect
    return found.assign(advantage_lower=found.advantage - 0.5, advantage_upper=found.advantage + 0.5)


@pytest.fixture(scope="module")
def emergence() -> xr.Dataset:
    found = xr.load_dataset(REFERENCE / "toy" / "emergence.nc").sel(concept=NAMES)
    return found.assign_attrs(created="2026-01-02T03:04:05", params=json.dumps(PARAMS))


@pytest.fixture
def facts(emergence):
    """Of an explored study, nothing of which is frozen."""
    params = SimpleNamespace(name="made-up", sweep=Sweep(), emergence=Emergence(method=METHOD))
    weights = SimpleNamespace(weights_sha256="5" * 64)
    study = SimpleNamespace(
        params=params,
        results={"emergence": emergence},
        workspace=SimpleNamespace(analysed={810: weights}),
    )
    return Facts(study, None, None, ("new", "steerlib pilot new made-up.yaml"), cells())


def with_ways(facts: Facts, found: xr.Dataset | None = None) -> Facts:
    facts.__dict__["ways"] = ways() if found is None else found
    return facts


class Parts(HTMLParser):
    """Of a page: pictures, and whatever it would fetch."""

    def __init__(self, page: str):
        super().__init__()
        self.pictures, self.fetched = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "img":
            self.pictures.append(attrs)
        self.fetched += [attrs[name] for name in ("src", "href") if attrs.get(name, "data:")[:5] != "data:"]


# --- the words --------------------------------------------------------------------------------------------------------


def places(told, at=()) -> dict:
    """Of every message, the values that it has places for."""
    if isinstance(told, dict):
        return {key: of for name, value in told.items() for key, of in places(value, (*at, name)).items()}
    return {at: {name for _, name, *_ in Formatter().parse(told) if name is not None}}


def test_languages_have_the_same_messages_with_places_for_the_same_values():
    assert {*report.MESSAGES} == {"en", "ja"} and places(EN) == places(JA)
    untold = [key for key in places(JA) if re.fullmatch(r"[\x00-\x7f]*", of(JA, key))]
    assert not untold, "nothing of it is left in English"


def of(told: dict, key):
    for name in key:
        told = told[name]
    return told


def test_whatever_results_may_say_has_words():
    assert {*CRITERIA} < {*EN["criteria"]} and {*WAYS} == {*EN["ways"]}
    assert {"not ready", "explore", "validate", "deploy", "holds", "fails"} == {*EN["verdicts"]}


# --- the sentences ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [EN, JA], ids=["en", "ja"])
def test_numbers_of_the_three_sentences_are_those_of_the_results(facts, said):
    can, effect, doubt = report.meeting(facts, said)
    assert all(word in can for word in ("810", "happiness", "disgust", "2", "5"))
    for word in ("37 %", "81 %", "0.046", "0.091", "0.2", "happiness", "disgust"):
        assert word in effect
    assert said["criteria"]["text"] in doubt and "disgust" in doubt and "happiness" not in doubt
    facts.readiness.value.loc[{"criterion": "gain", "concept": "happiness"}] = 0.93
    facts.__dict__.pop("concepts")
    facts.__dict__.pop("cells")
    effect = report.meeting(facts, said)[1]
    assert "37 %" not in effect and effect.index("81 %") < effect.index("93 %"), "from the least to the most"


def test_where_nothing_is_ready_nothing_is_promised(facts):
    facts.readiness["verdict"][:] = "not ready"
    can, effect, _ = report.meeting(facts, EN)
    assert "none of 5" in can and effect == EN["effect"]["unknown"]
    assert report.answers(facts, EN)["breaks"] == [EN["answers"]["breaks_none"]]


def test_what_was_tried_on_new_texts_stands_before_what_was_explored(facts):
    told = {"outcome": "pass", "said": "", "value": 0.61, "lower": 0.5, "upper": 0.7, "threshold": 0.1}
    along = {"having": [1.0], "lacking": [0.0]}
    criteria = {"gain": told, "kl": told | {"value": 0.033, "upper": 0.05, "threshold": 0.2}}
    one = {"holds": True, "pairs": 40, "prompts": 22, "criteria": criteria, "along": along}
    bad = one | {"holds": False, "criteria": {"kl": told | {"outcome": "fail"}}}
    sealed = {"freeze": "0" * 64, "made": "", "commit": "", "source": {}, "new_passages": True, "tries": 1, "texts": ""}
    validated = Validation(**sealed, concepts={"happiness": one, "disgust": bad})
    facts = Facts(facts.study, None, validated, ("deploy", "steerlib pilot deploy x.yaml"), facts.readiness)
    can, effect, _ = report.meeting(facts, EN)
    assert "happiness (1 of 5 concepts)" in can and "not seen before" in can and "61 %" in effect and "0.033" in effect
    rows = {row["concept"]: row for row in (report.row(one, EN) for one in facts.concepts)}
    assert rows["happiness"]["verdict"] == EN["verdicts"]["holds"] and rows["happiness"]["gain"] == "61 % [50 %, 70 %]"
    assert rows["disgust"]["verdict"] == EN["verdicts"]["fails"] and rows["disgust"]["held"] == EN["criteria"]["kl"]
    assert "40" in report.grounds(facts, EN) and "22" in report.grounds(facts, EN)


def test_the_way_that_wins_is_told_whichever_it_is(facts):
    found = ways()
    assert best_ways(found) == {PUSHED: ["happiness"], TUNED: ["disgust"]}
    close = found.assign(advantage_lower=found.advantage - 9, advantage_upper=found.advantage + 9)
    assert best_ways(close) == {"": ["happiness", "disgust"]}
    told = report.answers(with_ways(facts), EN)["cost"]
    assert "112 texts" in told[0] and "56 texts" in told[0] and "26 more tokens" in told[0]
    assert told[1:] == [
        EN["answers"]["best"].format(way=EN["ways"][way], names=name, budget="0.1")
        for way, name in ((PUSHED, "happiness"), (TUNED, "disgust"))
    ]
    rows = report.ways_table(facts, EN)["rows"]
    assert [row["effect"] for row in rows] == ["+0.00", "+1.00", "+2.00 – +5.50", "+3.00 – +7.25"]
    assert [bool(row["note"]) for row in rows] == [False, True, False, False]
    assert NOTHING not in best_ways(found)


# --- the page ---------------------------------------------------------------------------------------------------------


def test_a_page_of_what_was_only_explored_says_what_to_run_and_fetches_nothing(facts, monkeypatch):
    monkeypatch.setattr(report, "figures", lambda *of: [])
    facts.study.params.name = "<b>a&b</b>"
    page = report.page(facts, "ja")
    assert '<html lang="ja">' in page and "&lt;b&gt;a&amp;b" in page and "<b>a" not in page
    assert JA["next"]["new"].format(command="steerlib pilot new made-up.yaml") in page
    assert not Parts(page).fetched and JA["ways_table"]["title"] not in page
    assert JA["ways_table"]["title"] in report.page(with_ways(facts), "ja")


def test_the_guideline_has_the_same_checklist():
    shown = re.findall(
        r"(?m)^\| ([^|]+) \| (a person|the results) \|$", (PROJECT / "docs" / "guideline.md").read_text()
    )
    by = {True: "a person", False: "the results"}
    assert shown == [(item["question"]["en"], by[item["fact"] == checks.PERSON]) for item in checks.CHECKLIST]


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_checklist_is_answered_by_results_or_left_to_a_person(facts, language):
    said, items = report.MESSAGES[language], checks.CHECKLIST
    assert len({item["id"] for item in items}) == len(items) and {item["fact"] for item in items} == {*checks.FACTS}
    told = dict(zip((item["id"] for item in items), checks.answered(facts, said, language), strict=True))
    assert all(told[item["id"]][1] == said["person"] for item in items if item["fact"] == checks.PERSON)
    assert told["frozen"][1] == told["validated"][1] == said["no"] and told["undo"][1] == said["outcomes"]["pass"]
    facts.readiness.outcome.loc[{"criterion": "nll", "concept": "disgust"}] = "fail"
    facts = Facts(facts.study, None, None, facts.following, facts.readiness)
    assert checks.FACTS["side"](facts, said) == said["of"].format(what=said["outcomes"]["fail"], names="disgust")


def test_the_command_writes_a_page_of_a_study_that_was_only_run(calm, params):
    done = call("pilot", "report", params, "--outputs", calm.parent)
    page = (calm / "pilot" / "report.html").read_text()
    assert done.returncode == 0 and "report.html" in done.stdout and "steerlib pilot new" in page
    parts = Parts(page)
    assert len(parts.pictures) == 3 and all(len(picture["alt"]) > 40 for picture in parts.pictures)
    assert not parts.fetched and "happiness" in page
    told = [line.told for line in audit.read(calm / audit.NAME) if line.told["event"] == "pilot reported"]
    assert told[-1]["sha256"] == sha256(page.encode()).hexdigest(), "which page it was that somebody decided by"
    wrong = call("pilot", "report", params, "--outputs", calm.parent, "--language", "jp")
    assert wrong.returncode == 2 and "--language: 'jp' is none of en, ja" in wrong.stderr
