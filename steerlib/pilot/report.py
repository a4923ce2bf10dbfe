"""A report for who decides: one page, in plain words first, whose every number comes from the study's results."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from steerlib import SteerlibError, nearest
from steerlib.figures import checkpoint, onsets, output, readiness, style
from steerlib.files import store
from steerlib.pilot import checks, freeze
from steerlib.pilot.facts import Facts, One, best_ways, ends
from steerlib.pilot.wording import between, listed, number, power, spread, when
from steerlib.results import audit
from steerlib.results.opening import OpenStudy
from steerlib.results.provenance import git_commit
from steerlib.stages.other_ways import BEFORE, PUSHED, TUNED
from steerlib.study.analysis import LENGTHS

HERE = Path(__file__).parent
MESSAGES: dict[str, Any] = yaml.safe_load((HERE / "messages.yaml").read_text("utf-8"))
SHOWN = ("gain", "kl", "nll", "selective")  # criteria whose numbers are columns of the table


def write(study: OpenStudy, language: str = "en") -> Path:
    """The page, beside the freeze. Raises SteerlibError for a language without messages, and a study without results.

    What was not frozen or validated yet is told, with what to run.
    """
    if language not in MESSAGES:
        raise SteerlibError(
            f"--language: {language!r} is none of {', '.join(MESSAGES)}{nearest(language, [*MESSAGES])}"
        )
    path = freeze.folder_of(study) / ("report.html" if language == "en" else f"report.{language}.html")
    written = page(Facts.of(study), language).encode()
    store.write_bytes(path, written)
    audit.note(study.workspace.folder, "pilot reported", file=path.name, sha256=sha256(written).hexdigest())
    return path


def page(facts: Facts, language: str) -> str:
    """As HTML that needs no other file."""
    said = MESSAGES[language]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    told = {
        "short": meeting(facts, said),
        "plain": answers(facts, said),
        "following": following(facts, said),
        "rows": [row(one, said) for one in facts.concepts],
        "grounds": grounds(facts, said),
        "ways": ways_table(facts, said),
        "figures": figures(facts, said),
        "checks": checks.answered(facts, said, language),
        "colophon": colophon(facts, said),
        "title": said["title"].format(study=facts.study.params.name, step=facts.step),
    }
    return environment.from_string((HERE / "page.html").read_text("utf-8")).render(said=said, language=language, **told)


# --- sentences --------------------------------------------------------------------------------------------------------


def meeting(facts: Facts, said: dict) -> list[str]:
    """Three sentences: what can be done, what it does and costs, and what is not known."""
    pushed, can, names = facts.pushed, said["can"], partial(listed, said)
    kind = "none" if not pushed else "validated" if pushed[0].verdict == "holds" else "ready"
    counts = {"step": facts.step, "count": len(pushed), "total": len(facts.concepts)}
    sentences = [can[kind].format(names=names(one.name for one in pushed), **counts)]
    known = [one for one in pushed if None not in (one.criteria["gain"]["value"], one.criteria["kl"]["upper"])]
    if known:
        least, *_, most = sorted([*known, *known], key=lambda one: one.criteria["gain"]["value"])
        worst = max(known, key=lambda one: one.criteria["kl"]["upper"])
        gain, kl = partial(number, "gain"), partial(number, "kl")
        sentences.append(
            said["effect"]["one" if len(known) == 1 else "several"].format(
                least=gain(least.criteria["gain"]["value"]),
                least_name=least.name,
                most=gain(most.criteria["gain"]["value"]),
                most_name=most.name,
                kl=kl(worst.criteria["kl"]["value"]),
                kl_name=worst.name,
                kl_upper=kl(worst.criteria["kl"]["upper"]),
                budget=f"{worst.criteria['kl']['threshold']:g}",
            )
        )
    else:
        sentences.append(said["effect"]["unknown"])
    unknown = facts.unknown().items()
    missing = names(said["of"].format(what=names(_criteria(keys, said)), names=names(of)) for of, keys in unknown)
    sentences.append(said["doubt"]["known" if missing else "none"].format(missing=missing))
    return sentences


def answers(facts: Facts, said: dict) -> dict[str, list[str]]:
    """What is said to each question."""
    told, names = said["answers"], partial(listed, said)
    by_verdict: dict[str, list[str]] = {}
    for one in facts.concepts:
        by_verdict.setdefault(one.verdict, []).append(one.name)
    unknown = [(names(_criteria(keys, said)), names(of)) for of, keys in facts.unknown().items()]
    return {
        "steer": [told["steer"].format(verdict=said["verdicts"][v], names=names(of)) for v, of in by_verdict.items()],
        "since": [_since(facts, told)],
        "strength": [told["strength"].format(unit=_unit(facts, said["units"]))],
        "cost": _costs(facts, said),
        "breaks": [_breaks(facts, told)],
        "unknown": [
            *(told["unknown"].format(criteria=criteria, names=of) for criteria, of in unknown),
            told["always"],
        ],
    }


def _criteria(keys: list[str], said: dict) -> list[str]:
    return [said["criteria"][key] for key in keys]


def _since(facts: Facts, told: dict) -> str:
    dated = sorted((one for one in facts.concepts if np.isfinite(one.since[0])), key=lambda one: one.since[0])
    if not dated:
        return told["since_none"]
    first, last = dated[0], dated[-1]
    if len(dated) == 1:
        return told["since"].format(name=first.name, when=f"{first.since[0]:.0f}")
    when = {"first": f"{first.since[0]:.0f}", "last": f"{last.since[0]:.0f}"}
    return told["since_all"].format(first_name=first.name, last_name=last.name, **when)


def _unit(facts: Facts, units: dict) -> str:
    plan = facts.study.params.sweep
    known = plan.operator in LENGTHS or plan.scale == "iso_kl"
    return units[plan.scale] if known else units["other"].format(operator=plan.operator)


def _costs(facts: Facts, said: dict) -> list[str]:
    told, ways = said["answers"], facts.ways
    if ways is None:
        return [told["cost_none"].format(command=facts.following[1])]
    mean, budget = ways[["texts", "flop", "cpu_seconds", "tokens"]].mean("concept"), facts.study.params.sweep.kl_budget
    push, tuned, before = (mean.sel(way=way) for way in (PUSHED, TUNED, BEFORE))
    lines = [
        told["cost"].format(
            texts=f"{float(push.texts):.0f}",
            flop=power(float(push.flop)),
            seconds=f"{float(push.cpu_seconds):.2g}",
            tuned_texts=f"{float(tuned.texts):.0f}",
            tuned_flop=power(float(tuned.flop)),
            tuned_seconds=f"{float(tuned.cpu_seconds):.2g}",
            tokens=f"{float(before.tokens):.0f}",
        )
    ]
    for way, names in best_ways(ways).items():
        best = {"names": listed(said, names), "budget": f"{budget:g}", "way": said["ways"].get(way, "")}
        lines.append(told["best" if way else "best_none"].format(**best))
    return lines


def _breaks(facts: Facts, told: dict) -> str:
    """Of the concept that changes neutral text most."""
    known = [one for one in facts.pushed if one.criteria["kl"]["upper"] is not None]
    if not known:
        return told["breaks_none"]
    worst = max(known, key=lambda one: one.criteria["kl"]["upper"])
    numbers = {}
    for place, key in (("kl", "kl"), ("nll", "nll"), ("off", "selective")):
        of = worst.criteria[key]
        numbers |= {place: number(key, of["value"])} | {f"{place}_{e}": number(key, of[e]) for e in ("lower", "upper")}
    return told["breaks"].format(name=worst.name, **numbers)


def following(facts: Facts, said: dict) -> str:
    """What to do next; nothing where all is done."""
    key, what = facts.following
    return said["next"][key].format(command=what, why=what) if key else ""


def grounds(facts: Facts, said: dict) -> str:
    """Which prompts the numbers are of."""
    level = f"{100 * facts.study.params.emergence.level:g} %"
    if facts.validated is None:
        return said["grounds"]["explored"].format(level=level)
    one = next(iter(facts.validated.concepts.values()))
    return said["grounds"]["validated"].format(pairs=one.pairs, prompts=one.prompts, level=level)


def colophon(facts: Facts, said: dict) -> str:
    made = facts.emergence.attrs["created"]
    weights = facts.study.workspace.analysed[facts.step].weights_sha256
    return said["colophon"].format(
        date=datetime.now(UTC).date().isoformat(),
        made=made[:10],
        version=version("steerlib"),
        commit=git_commit()[:12],
        freeze=(facts.frozen.content if facts.frozen else said["unfrozen"])[:16],
        weights=weights[:16],
    )


# --- tables and figures -----------------------------------------------------------------------------------------------


def row(one: One, said: dict) -> dict[str, str]:
    """A concept's row of the table, by column."""
    push = "–" if np.isnan(one.alpha) else f"{one.layer}, {one.alpha:g}"
    cells = {"concept": one.name, "verdict": said["verdicts"][one.verdict], "since": when(one.since, said["onsets"])}
    numbers = {key: spread(key, one.criteria[key]) for key in SHOWN}
    return cells | {"push": push} | numbers | {"held": said["criteria"].get(one.held, "")}


def ways_table(facts: Facts, said: dict) -> dict[str, Any] | None:
    """A row a way, from the least to the most over concepts; and of which a way was beyond the budget, or not tried."""
    if (ways := facts.ways) is None:
        return None
    words, rows = said["ways_table"], []
    forms = {"effect": "{:+.2f}", "kl": "{:.3f}", "amount": "{:g}", "texts": "{:.0f}", "cpu_seconds": "{:.2g}"}
    for way in ways.way.values:
        of = ways.sel(way=way)
        cells = {name: between(ends(of[name]), form.format) for name, form in forms.items()}
        cells |= {"flop": between(ends(of.flop), power), "tokens": between(ends(of.tokens), "{:.0f}".format)}
        untried = of.concept.values[of.why.values != ""]
        over = [name for name in of.concept.values if not of.within.sel(concept=name) and name not in untried]
        notes = [
            words[key].format(names=listed(said, map(str, names)))
            for key, names in (("over", over), ("untried", untried))
            if len(names)
        ]
        rows.append(cells | {"way": said["ways"][str(way)], "note": "; ".join(notes)})
    budget = f"{facts.study.params.sweep.kl_budget:g}"
    return {"rows": rows, "note": words["note"].format(count=ways.sizes["concept"], budget=budget)}


def figures(facts: Facts, said: dict) -> list[tuple[Markup, str]]:
    """Pictures, each with what it shows."""
    style(json.loads(facts.emergence.attrs["params"]))
    names = [one.name for one in facts.pushed or facts.concepts]
    method = facts.study.params.emergence.method
    swept = facts.study.results["interventions"].sel(step=facts.step)
    layer = facts.cells.layer_pushed.sel(concept=names).drop_vars(["step", "probe"]).astype(int)
    drawn = {
        "readiness": readiness.matrix(facts.readiness.expand_dims(probe=[method]), method),
        "onsets": onsets.onset_summary(facts.emergence),
        "doses": checkpoint.doses_of_checkpoint(swept.sel(concept=names), method, layer),
    }
    if facts.ways is not None:
        drawn["ways"] = readiness.other_ways(facts.ways)
    return [
        (Markup(output.embedded(figure, output.picture(figure))), said["figures"][key]) for key, figure in drawn.items()
    ]
