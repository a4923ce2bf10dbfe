"""A study's checkpoints of any model, pushed by hand in a notebook: `steerlib.explore`.

Widgets where a kernel answers; elsewhere, in an executed notebook or on a page, what they showed last, as a picture.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import StringIO
from math import ceil
from os.path import relpath
from pathlib import Path

import ipywidgets as widgets
from IPython import get_ipython
from IPython.display import HTML, IFrame, display
from tqdm.std import tqdm
from transformers.utils import logging

from steerlib import SteerlibError
from steerlib.results import tree
from steerlib.results.opening import OpenStudy, open_study
from steerlib.running.answers import Asked, neutral_of, prompts_of
from steerlib.running.telling import Telling, Told
from steerlib.steering.operators import ALONG

PUSHES = 2.0  # the least that the dial of alpha goes to
NOTCH = 0.125  # of that dial; a power of two, so that no number needs rounding
CHOSEN = "chosen at this step"
STILL = (
    "A picture: to push the model by hand, open this notebook in JupyterLab (<code>make lab</code>) and run this cell."
)
# Beside living widgets their picture is hidden; without these, in a file or on a page, it is all there is.
HIDDEN = """<style>.jp-OutputArea:has(.steerlib-live) .steerlib-still,
.jp-OutputArea:has(.steerlib-still):not(:has(.steerlib-live)) .jupyter-widgets {display: none}</style>"""
_open: dict[Path, Explorer] = {}  # the last of each study: run again, a cell's widgets take the place of these


def explore(study: str | Path | OpenStudy, outputs: str | Path = "outputs", page: bool = True) -> None:
    """Push a study's checkpoints by hand, in a notebook: which, along what, how far, after any prompt.

    Where the study's page is there (`steerlib explorer PARAMS` writes it for a small model) and no older than its
    results, that is shown; with ``page=False``, and for any other model, widgets. Raises SteerlibError outside of a
    notebook, and where there are no checkpoints yet.
    """
    if not getattr(get_ipython(), "kernel", None):
        raise SteerlibError("steerlib.explore shows widgets in a notebook; open one in JupyterLab (make lab)")
    study = study if isinstance(study, OpenStudy) else open_study(study, outputs)
    if not study.here:
        raise SteerlibError(
            f"{study.params.name}: none of its checkpoints is here yet; `steerlib run {study.params.path}` makes or "
            "fetches them"
        )
    if not is_live():
        display(HTML(still(Telling(study).tell(Asked.first(study)))))
    elif page and (path := page_of(study)):
        display(IFrame(relpath(path), "100%", 900, extras=[f'title="The explorer of {study.params.name}"']))
    else:
        if old := _open.pop(study.workspace.folder, None):
            old.close()
        _open[study.workspace.folder] = explorer = Explorer(study)
        display(explorer.box)
        explorer.keep = display(HTML(still(Told("", "", ""))), display_id=True)
        explorer.change()


def is_live() -> bool:
    """Whether a person may be looking on: papermill, nbconvert and the like start kernels that tell of no session."""
    shell = get_ipython()
    return "JPY_SESSION_NAME" in os.environ or "__vsc_ipynb_file__" in shell.user_ns or "google.colab" in sys.modules


def page_of(study: OpenStudy) -> Path | None:
    """The study's page, where there is one that is no older than its results."""
    path, results = study.workspace.folder / "explorer.html", study.workspace.folder / tree.NAME
    there = path.is_file() and results.exists()
    return path if there and path.stat().st_mtime >= results.stat().st_mtime else None


def still(told: Told) -> str:
    """All that is shown, for where no kernel answers."""
    return f'{HIDDEN}<div class="steerlib-still"><p><em>{STILL}</em></p>{"".join(told)}</div>'


class Controls(widgets.Box):
    """All of the widgets, with what is read where there are none."""

    def __repr__(self) -> str:
        return "(The explorer's controls stand here where a kernel answers.)"


def offer(box: widgets.Dropdown, options: list[tuple]) -> None:
    """Other options, of which the first is taken; told twice, as a browser shows none of those that it has just got."""
    box.options = options
    box.index = None
    box.index = 0


class Explorer:
    """The widgets, and what answers them: one at a time, in a thread, so that they can be moved meanwhile.

    Models are its own, two at most: a push of theirs is never on while somebody uses the study's at the prompt.
    """

    def __init__(self, study: OpenStudy):
        self.study, self.keep, self.draw, self._answered = OpenStudy(study.workspace), None, 1, ()
        self.telling, self._pool, self._waiting = Telling(self.study), ThreadPoolExecutor(1), False
        self._make(Asked.first(self.study))

    # --- widgets ------------------------------------------------------------------------------------------------------

    def _make(self, first: Asked) -> None:
        here, params = self.study.here, self.study.params
        wide, most = widgets.Layout(width="98%"), ceil(max(PUSHES, *map(abs, params.sweep.alphas)))
        # What has a label is what counts, also by keyboard; sliders move these, but none says its name to a reader.
        steps = [(f"{step:,}", step) for step in here]
        self.step = widgets.Dropdown(options=steps, value=first.step, description="step")
        self.alpha = widgets.BoundedFloatText(first.alpha, min=-most, max=most, step=NOTCH, description="α")
        self.concept = widgets.Dropdown(options=self.study.concepts, value=first.concept, description="concept")
        self.layer = widgets.Dropdown(options=[(CHOSEN, None)], description="layer")
        self.method = widgets.Dropdown(options=params.probes.names, value=first.method, description="method")
        self.operator = widgets.Dropdown(options=[*ALONG], value=first.operator, description="operator")
        self.prompt = widgets.Textarea(first.prompt, description="prompt", rows=3, layout=wide)
        self.example = widgets.Dropdown(options=self._examples(), description="or one of", layout=wide)
        self.neutral = widgets.Dropdown(options=neutral_of(self.study), description="neutral", layout=wide)
        self.random = widgets.Checkbox(description="beside it, a random direction as long", indent=False, layout=wide)
        self.another = widgets.Button(description="another one", disabled=True)
        step_slider = widgets.SelectionSlider(options=steps, value=first.step, readout=False, layout=wide)
        alpha_slider = widgets.FloatSlider(first.alpha, min=-most, max=most, step=NOTCH, readout=False, layout=wide)
        widgets.jslink((step_slider, "index"), (self.step, "index"))
        widgets.jslink((alpha_slider, "value"), (self.alpha, "value"))
        self.bar = widgets.IntProgress(0, 0, 1, description="loading", layout=widgets.Layout(display="none"))
        self.said, self.shown, self.curve = widgets.HTML(), widgets.HTML(), widgets.HTML()
        for each in (self.step, self.alpha, self.layer, self.method, self.operator, self.prompt, self.neutral):
            each.observe(self.change, "value")
        self.concept.observe(self._other_concept, "value")
        self.example.observe(self._take_example, "value")
        self.random.observe(self._beside, "value")
        self.another.on_click(self._draw_another)
        left = [self.step, step_slider, self.alpha, alpha_slider, self.concept, self.layer, self.method, self.operator]
        left += [self.prompt, self.example, self.neutral, self.random, self.another]
        right = [self.bar, self.said, self.shown, self.curve]
        sides = (left, "1 1 20rem", "24rem"), (right, "3 1 24rem", "none")
        sides = [widgets.VBox(of, layout=widgets.Layout(flex=flex, max_width=most)) for of, flex, most in sides]
        self.box = Controls(sides, layout=widgets.Layout(flex_flow="row wrap", width="100%"))
        self.box.add_class("steerlib-live")

    def _examples(self) -> list[tuple[str, str]]:
        concept = self.study.workspace.concepts[self.study.concepts.index(self.concept.value)]
        return [("prompts of the study", ""), *((prompt[-60:], prompt) for prompt in prompts_of(concept))]

    def _other_concept(self, _) -> None:
        before = [prompt for _, prompt in self.example.options]
        offer(self.example, self._examples())
        if self.prompt.value in before:
            self.prompt.value = self.example.options[1][1]
        self.change()

    def _take_example(self, change) -> None:
        if change["new"]:
            self.prompt.value = change["new"]

    def _beside(self, change) -> None:
        self.another.disabled = not change["new"]
        self.change()

    def _draw_another(self, _) -> None:
        self.draw += 1
        self.change()

    # --- answers ------------------------------------------------------------------------------------------------------

    @property
    def asked(self) -> Asked:
        """As the widgets stand."""
        names = ("step", "concept", "layer", "method", "operator", "alpha", "prompt", "neutral")
        return Asked(*(getattr(self, name).value for name in names), self.draw if self.random.value else 0)

    def change(self, _=None) -> None:
        """Have what is asked for now answered; of many changes in a row the last counts."""
        if not self._waiting:
            self._waiting = True
            self._pool.submit(self.update)

    def update(self) -> None:
        """Show what is asked for."""
        self._waiting = False  # before it is looked what is asked: whatever changes from now on is answered next
        asked = self.asked
        self._load(asked.step)
        told = self.telling.tell(asked)
        self.said.value, self.curve.value = told.said, told.curve
        if told.shown or asked[:2] != self._answered:  # while a prompt is being typed, what was there is left
            self.shown.value, self._answered = told.shown, asked[:2]
        if self.keep and not self._waiting:
            self.keep.update(HTML(still(told)))

    def _load(self, step: int) -> None:
        """With a bar, while a checkpoint's weights are read; what is wrong with it is told by who uses it next."""
        if step in self.study.models:
            return
        with suppress(Exception), self._loading():
            layers = [(str(layer), layer) for layer in range(self.study.model(step).n_layers)]
            if len(self.layer.options) == 1:
                offer(self.layer, [(CHOSEN, None), *layers])

    @contextmanager
    def _loading(self) -> Iterator[None]:
        bar = self.bar
        bar.value, bar.layout.display = 0, ""

        class Weights(tqdm):
            def display(self, *_, **__):
                bar.max, bar.value = self.total or 1, self.n

        before = logging.set_tqdm_hook(lambda _, args, kwargs: Weights(*args, **kwargs | {"file": StringIO()}))
        try:
            yield
        finally:
            logging.set_tqdm_hook(before)
            bar.layout.display = "none"

    def close(self) -> None:
        """Widgets go, and the models with them."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for each in (*self.box.children[0].children, *self.box.children[1].children, *self.box.children, self.box):
            each.close()
        self.study.models.clear()
