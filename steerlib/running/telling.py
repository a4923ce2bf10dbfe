"""What a push did, as HTML: for widgets, and for the picture that is left of them in an executed notebook."""

from __future__ import annotations

import re
from base64 import b64encode
from html import escape
from io import BytesIO
from typing import NamedTuple

import matplotlib.pyplot as plt
import xarray as xr

from steerlib import SteerlibError
from steerlib.figures.look import STYLE as LOOK
from steerlib.figures.look import looks
from steerlib.figures.onsets import emergence_curves
from steerlib.files import store
from steerlib.numerics.onsets import QUESTIONS
from steerlib.results.opening import OpenStudy, listed
from steerlib.running.answers import Answer, Asked, Pushing
from steerlib.stages.summary import onset_texts
from steerlib.steering.operators import ALONG

NAMES = {"unsteered": "Unsteered", "pushed": "Pushed", "random": "Random direction"}
STYLE = """<style>
.steerlib {line-height: 1.45; font-family: system-ui, sans-serif; font-size: 14px; max-width: 60rem}
.steerlib .cards {display: flex; flex-wrap: wrap; gap: .6rem; margin: .3rem 0}
.steerlib .cards > div {flex: 1 1 15rem; border: solid #888; border-width: 4px 1px 1px; padding: .4rem .6rem}
.steerlib .cards > .random {border-top-style: dashed}
.steerlib .cards > .pushed {border-top-color: var(--concept)}
.steerlib h4 {margin: .2rem 0; font-size: 1em; font-weight: 600}
.steerlib p {margin: .3rem 0}
.steerlib .new {font-weight: 600; white-space: pre-wrap}
.steerlib mark {background: none; color: inherit; text-decoration: underline 2px var(--concept)}
.steerlib table {border-collapse: collapse; margin: .3rem 0; width: 100%; font-size: 13px}
.steerlib th, .steerlib td {text-align: right; padding: .1rem .5rem; white-space: nowrap; background: none}
.steerlib td.bars {width: 60%; padding: .15rem 0}
.steerlib i {display: block; height: 7px; margin: 1px 0; border: 1px solid; min-width: 1px; box-sizing: border-box}
.steerlib i.pushed {background: var(--concept); border-color: var(--concept)}
.steerlib i.random {background: repeating-linear-gradient(135deg, currentColor 0 1px, transparent 1px 4px)}
</style>"""


def percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.0995 else f"{100 * share:.1f} %" if share >= 0.001 else "&lt; 0.1 %"


def cards(answer: Answer, of: str, prompt: str) -> str:
    """What was written, side by side, with the concept's words underlined."""
    known = "|".join(re.escape(escape(word.strip())) for word in answer.words if word.strip())
    made = []
    for kind, written in answer.written.items():
        if not (text := getattr(written, of)) and kind == "random":
            continue
        told = escape(text) or "(nothing: the end of the text)"
        if known:
            told = re.sub(rf"(?<!\w)({known})(?!\w)", r"<mark>\1</mark>", told)
        made.append(f'<div class="{kind}"><h4>{NAMES[kind]}</h4>{escape(prompt)}<span class="new">{told}</span></div>')
    return f'<div class="cards">{"".join(made)}</div>'


def table(answer: Answer) -> str:
    """The words' probabilities, as numbers and as bars."""
    kinds = answer.written
    rows = [(word.strip(), [of.shares[k] for of in kinds.values()]) for k, word in enumerate(answer.words)]
    rows.append(("any of these", [of.shares.sum() for of in kinds.values()]))
    head = "".join(f'<th scope="col">{NAMES[kind]}</th>' for kind in kinds)
    body = ""
    for word, values in rows:
        bars = "".join(
            f'<i class="{kind}" style="width:{100 * v:.1f}%"></i>' for kind, v in zip(kinds, values, strict=True)
        )
        told = "".join(f"<td>{percent(value)}</td>" for value in values)
        body += f'<tr><th scope="row">{escape(word)}</th>{told}<td class="bars" aria-hidden="true">{bars}</td></tr>'
    return f"<table><thead><tr><th>next word</th>{head}<th></th></tr></thead><tbody>{body}</tbody></table>"


class Told(NamedTuple):
    """Three pieces of HTML; of an answer that failed the second is empty."""

    said: str
    shown: str
    curve: str


class Telling:
    """Answers of a study's checkpoints, with their concepts' curves. Whatever is wrong is a line among what is said."""

    def __init__(self, study: OpenStudy):
        self.study, self.pushing, self._curves = study, Pushing(study), {}
        try:
            self.results, self.none = study.results["emergence"].load(), ""
        except SteerlibError as error:
            self.results, self.none = None, str(error)

    def tell(self, asked: Asked) -> Told:
        lines, shown, curve = [], "", ""
        try:
            answer = self.pushing.answer(asked)
            lines, shown = answer.said, self._shown(answer)
        except SteerlibError as error:
            lines = str(error).splitlines()
        except Exception as error:  # nobody reads a log beside a widget
            lines = [f"{type(error).__name__}: {store.reason(error)}"]
        if away := sorted({*self.study.steps} - {*self.study.here}):
            run = f"`steerlib run {self.study.params.path}` makes or fetches them"
            lines = [*lines, f"Not here of {len(self.study.steps)} checkpoints: steps {listed(away)}; {run}"]
        try:
            curve = f'<div class="steerlib">{self._curve(asked)}</div>'
        except Exception as error:
            lines = [*lines, f"No curve is drawn ({type(error).__name__}: {store.reason(error)})."]
        return Told(
            "".join(f'<p role="status" style="line-height: 1.4">{escape(line)}</p>' for line in lines), shown, curve
        )

    def _shown(self, answer: Answer) -> str:
        """All of it as HTML."""
        budget, colour = self.study.params.sweep.kl_budget, looks(self.study.concepts)[answer.asked.concept]["color"]
        asked, kl = answer.asked, answer.written["pushed"].kl
        how = f"step {asked.step:,}, layer {answer.layer}, {asked.method}, {asked.operator}, α {asked.alpha:g}"
        how += f" × {answer.unit}" if ALONG[asked.operator].counts == "length" else f" {answer.unit}"
        over = f"✗ more than the {budget:g}" if kl > budget else f"✓ within the {budget:g}"
        parts = [f"<h4>{escape(asked.concept)}: {escape(how)}</h4>", cards(answer, "text", asked.prompt)]
        if answer.words:
            parts += [
                table(answer),
                "<p>Random direction: of the same length, knowing nothing of the concept (a null).</p>",
            ]
        parts += ["<h4>What the push does to other text</h4>", cards(answer, "neutral", asked.neutral)]
        parts.append(f"<p>The next word here is changed by {kl:.3g} nat (KL): {over} nat that this study allows.</p>")
        return f'{STYLE}<div class="steerlib" style="--concept: {colour}">{"".join(parts)}</div>'

    def _curve(self, asked: Asked) -> str:
        """The concept's steerability over training, with a mark where the step stands."""
        if self.results is None or asked.concept not in self.results.concept:
            why = self.none or f"{self.study.workspace.folder}: these results are not of {asked.concept}"
            return f"<p>No curve of {escape(asked.concept)} yet: {escape(why)}.</p>"
        if asked.concept not in self._curves:
            self._curves[asked.concept] = drawn(self.results, asked.concept)
        picture, places, words = self._curves[asked.concept]
        if asked.step not in places:
            again = f"`steerlib run {self.study.params.path}` adds it"
            return f"{picture}</div><p>Step {asked.step:,} is not among the results yet: {escape(again)}.</p>"
        left, top, high = places[asked.step]
        style = (
            f"position: absolute; left: {left:.2f}%; top: {top:.2f}%; height: {high:.2f}%; border-left: 2px dashed #222"
        )
        return f'{picture}<div style="{style}"></div></div><p>Dashed line: step {asked.step:,}. {words}</p>'


def drawn(results: xr.Dataset, concept: str) -> tuple[str, dict[int, tuple[float, float, float]], str]:
    """The curve as a picture, where in it each step stands (from the left, from the top, and how high: in per cent),
    and its onsets in words."""
    with plt.rc_context(LOOK):
        figure, kept = emergence_curves(results.sel(concept=[concept], measure=["steerability"])), BytesIO()
        figure.set_figheight(figure.get_figheight() + 1.2)
        figure.savefig(kept, format="png", dpi=130)
        plt.close(figure)
    axis, (wide, high) = figure.axes[0], figure.bbox.size
    inside = axis.get_window_extent()
    top, height = 100 * (1 - inside.y1 / high), 100 * inside.height / high
    at = {int(step): (100 * axis.transData.transform((step, 0))[0] / wide, top, height) for step in results.step.values}
    when = {question: onset_texts(results, question).steerability[concept] for question in QUESTIONS}
    words = f"Steerability of {concept}: first detectable {when[QUESTIONS[0]]}, half-way up {when[QUESTIONS[1]]}."
    data = b64encode(kept.getvalue()).decode()
    image = f'<img alt="{escape(words)}" style="width: 100%" src="data:image/png;base64,{data}">'
    return f'<div style="position: relative; max-width: 46rem; background: #fff">{image}', at, escape(words)
