"""The look of all figures: whatever is drawn is named, read and told apart, in any study."""

import re
from itertools import combinations, pairwise
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import seaborn as sns
import xarray as xr
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from helpers.drawn import FIGURES, METHOD, NAMES, REFERENCE, STEPS, made
from steerlib.concepts.planted.world import World
from steerlib.figures import axes, checkpoint, comparison, instrument, look, onsets, readiness, training, transfer
from steerlib.numerics.statistics import false_discovery
from steerlib.stages.interventions import nat, slopes_per

# Machado, Oliveira & Fernandes 2009, at full severity, on linear RGB.
EYES = {
    "all cones": np.eye(3),
    "no long ones": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no middle ones": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "no short ones": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]])


def linear(colour) -> np.ndarray:
    c = np.array(to_rgb(colour))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(colour, eye) -> np.ndarray:
    """CIELAB, as an eye sees it."""
    x, y, z = np.cbrt(XYZ @ np.clip(np.array(eye) @ linear(colour), 0.009, 1) / XYZ.sum(1))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_every_colour_that_carries_a_mark_stands_out_from_white():
    every = [*(colour for colour, _ in look.READY.values()), *look.COLOURS, look.NULL, look.INK]
    every += list(training.EARLY_TO_LATE([0.0, 0.5, 1.0]))
    assert min(1.05 / (XYZ[1] @ linear(colour) + 0.05) for colour in every) >= 3


def test_letters_on_cells_stand_out():
    sns.set_color_codes()  # as a theme does: its "k" is a grey
    _, axis = plt.subplots()
    mesh = axes.cells(axis, pd.DataFrame([[0.0, 1.0]]), 0.5, "", centre=0.5)
    for value in np.linspace(0, 1, 101):
        low, high = sorted(XYZ[1] @ linear(each) for each in (mesh.to_rgba(value), axes.readable(mesh, value)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, value
    plt.close(axis.figure)


@pytest.mark.parametrize("there", [3, 1])
def test_an_interval_is_told_from_a_null_also_in_grey(there):
    _, axis = plt.subplots()
    ends = (np.arange(3.0), *(np.where(np.arange(3) < there, end, np.nan) for end in (0, 1)))
    axes.band(axis, *ends, "interval", color=look.NULL)
    axes.null_band(axis, *ends, "null")
    interval, null = axis.collections[1::2] if there == 1 else axis.collections
    assert interval.get_linewidths() != null.get_linewidths()
    plt.close(axis.figure)


@pytest.mark.parametrize("eye", EYES)
def test_ready_concepts_are_told_apart_by_any_eye(eye):
    seen = [lab(colour, EYES[eye]) for colour, _ in look.READY.values()]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) >= 15
    marks = [marker for _, marker in look.READY.values()]
    assert len({*marks, *look.MARKERS}) == len(marks) + len(look.MARKERS), "a second mark beside colour"


def test_a_concept_looks_the_same_in_every_study():
    assert {*World().emotions, "truth", "place", "placebo", "commonsense"} == {*look.READY}
    own = [f"concept {k}" for k in range(40)]
    alone = {name: look.looks([name])[name] for name in [*own, *look.READY]}
    assert look.looks([*reversed(look.READY), own[7]]) == {
        name: alone[name] for name in [*reversed(look.READY), own[7]]
    }
    assert len({tuple(alone[name].values()) for name in own}) > len(own) / 2, "by its name, not by its place"
    together = look.looks(own)
    assert together == look.looks(own[::-1]) and together[own[0]] == alone[own[0]]
    assert len({tuple(each.values()) for each in together.values()}) == len(own), "colour and marker, of as many as fit"


# --- figures ----------------------------------------------------------------------------------------------------------


def test_the_gallery_has_every_figure():
    wing = {
        module.__name__.rpartition(".")[2]: vars(module)
        for module in (checkpoint, comparison, instrument, onsets, readiness, training, transfer)
    }
    drawing = {
        f"{name}.{function}"
        for name, there in wing.items()
        for function, of in there.items()
        if getattr(of, "__annotations__", {}).get("return") is Figure and of.__module__.endswith(f"figures.{name}")
    }
    drawing = {name for name in drawing if "._" not in name}
    shown = set(re.findall(r"`(\w+\.\w+)\(", (REFERENCE.parents[1] / "docs" / "figures.md").read_text()))
    assert drawing == {*FIGURES} == shown


@pytest.fixture(scope="module")
def studies():
    look.style()
    yield {"usual": made(), "small": made(["place"], STEPS[[3, 4]]), "one checkpoint": made(["place"], STEPS[:1])}
    plt.close("all")


def unnamed(figure) -> list[str]:
    """Marks that neither legend, footer nor colour bar names; and those that the legend shows with another look."""
    legend = [*figure.legends, *[None]][0]
    names = [text.get_text().replace("\n", " ") for text in legend.texts] if legend else []
    shown = dict(zip(names, legend.legend_handles if legend else [], strict=True))
    markers = [handle.get_marker() for handle in shown.values() if isinstance(handle, Line2D)]
    told = [*names, *(text.get_text() for text in figure.texts)]
    told += [axis.get_ylabel() for axis in figure.axes if axis.get_label() == "<colorbar>"]
    told = " ".join(told).replace("\n", " ")
    wrong = []
    for mark in look.marks(figure):
        label = str(mark.get_label()).replace("\n", " ")
        if label not in (look.GUIDE, look.WORDS) and (label.startswith("_") or not label or label not in told):
            wrong.append(f"{type(mark).__name__} {label!r}")
        elif isinstance(mark, Line2D) and label in shown and dress(mark) != dress(shown[label]):
            wrong.append(f"{label!r} looks {dress(mark)}, in the legend {dress(shown[label])}")
        elif isinstance(mark, Line2D) and label in shown and mark.get_marker() not in markers:
            wrong.append(f"marker {mark.get_marker()}")
    return wrong


def dress(mark) -> tuple:
    """What tells marks of one label from others, whichever concept they are of: the kind, the dash, whether hollow."""
    if not isinstance(mark, Line2D):
        return (type(mark).__name__,)
    return "Line2D", mark.get_linestyle(), mark.get_marker() != "None" and mark.get_markerfacecolor() in ("none", "w")


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_names_all_its_marks_and_what_it_is_of(studies, name):
    figure = FIGURES[name](studies["usual"])
    assert not unnamed(figure)
    said, labels = figure.texts[-1].get_text().replace("\n", " "), {mark.get_label() for mark in look.marks(figure)}
    assert said.startswith("made-up") and (name.endswith(("training_loss", "at_equal_kl")) or "method (probe)" in said)
    assert "layer" in said or name.endswith(("training_loss", "judgements"))
    assert any(label.startswith(look.INTERVAL) for label in labels) == ("intervals: 95" in said.replace("\xa0", " "))
    told = figure.get_label().replace("\xa0", " ")
    ways = ("intervals: 95", "false discovery rate", "no interval", "numbers: P(", "whole interval")
    assert any(way in told for way in ways), "intervals, or a test, or why there are none"
    assert "false discovery rate" in told or not name.endswith("heatmap")
    stepped = [axis for axis in figure.axes if axis.get_xscale() == "symlog"]
    assert {*np.ravel([axis.get_xticks() for axis in stepped])} <= {*STEPS}
    figure.axes[0].plot([0.5], [0.5], "v")
    figure.axes[0].plot([0.5], [0.5], label="_new")
    figure.axes[0].axhspan(0, 1, label="something new")
    assert len(unnamed(figure)) == 3
    plt.close(figure)


def test_a_dot_of_the_intervention_detector_is_a_discovery_among_all_cells(studies):
    p = studies["usual"]["probes"].p_id.sel(probe=METHOD, variant="projection")
    axes = FIGURES["training.id_heatmap"](studies["usual"]).axes
    dots = sum(len(line.get_xdata()) for axis in axes for line in axis.lines)
    assert 0 < dots == (false_discovery(p.values) < 0.05).sum() < (p < 0.05).sum(), "more would pass alone"


TEXTS = "nat per token"
SLOPES = ("steerability_heatmap", "interference", "emergence_curves", "trajectories", "difference", "at_equal_kl")


@pytest.mark.parametrize("name", [*SLOPES, "dose_response", "doses_of_checkpoint", "side_effects"])
def test_what_log_odds_are_counted_in_travels_with_the_data(studies, name):
    told = {key: of.copy(deep=True) for key, of in studies["usual"].items()}
    for of, unit in (("interventions", "residual norm"), ("instrument", "push")):
        slopes_per(unit, told[of], TEXTS)
    units = ["AUROC", "rate gained", told["interventions"].local_slope.attrs["units"]]
    for of in ("emergence", "seeds", "tuned"):
        told[of] = told[of].assign_coords(unit=("measure", units))
    name = next(figure for figure in FIGURES if figure.endswith(f".{name}"))
    figure = FIGURES[name](told)
    bars = [axis.get_ylabel() for axis in figure.axes if axis.get_label() == "<colorbar>"]
    said = " ".join([figure.get_label(), *bars]).replace("\n", " ")
    assert TEXTS in said and "odds ×" not in said and "(nat per r" not in said and "log-odds (nat)" not in said
    plt.close(figure)


@pytest.mark.parametrize(
    ("texts", "said"), [((0, 0), "nat"), ((1, 1), "nat per token"), ((1, 0), "nat, of texts per token")]
)
def test_log_odds_of_texts_are_per_token(texts, said):
    concepts = [SimpleNamespace(readout=SimpleNamespace(texts=told)) for told in texts]
    swept = slopes_per("residual norm", xr.Dataset({"slope": 0.0, "selectivity": 0.0}), nat(concepts))
    assert nat(concepts) == said == look.nat_of(swept.slope.attrs["units"])
    assert swept.selectivity.attrs["units"] == "nat per residual norm", "of whole texts"


@pytest.mark.parametrize(
    ("counted", "said"),
    [("full ablation", "1: full ablation"), ("radian", "radian"), ("residual norm", "× residual norm")],
)
def test_an_axis_of_alpha_says_what_alpha_counts(counted, said):
    assert look.alpha_label(xr.DataArray([0.0], attrs={"units": counted})) == f"alpha ({said})"


def test_what_is_not_there_is_said(studies):
    one, usual = studies["small"], studies["usual"]
    of_one = [FIGURES[name](one).get_label() for name in ("onsets.order", "comparison.order", "instrument.cures")]
    assert all(map(re.search, ("there is no order", "there is no order", "no pair"), of_one))
    beyond = one["instrument"].assign(steerability=np.nan * one["instrument"].steerability)
    assert "no mark: no push reaches" in instrument.at_equal_kl(beyond).get_label()
    cosines = usual["instrument"].cosine_concepts
    apart = cosines.where((cosines.concept != "place") & (cosines.concept_b != "place"), 0)
    cured = instrument.cures(usual["instrument"].assign(cosine_concepts=apart))
    assert "place pushed" in [text.get_text() for text in cured.legends[0].texts], "though close to no other"
    free = usual["interventions"].assign(kl_lower=0 * usual["interventions"].kl_lower)
    told = [
        FIGURES["training.side_effects"](usual | {"interventions": of}).get_label()
        for of in (free, usual["interventions"])
    ]
    assert ["down to 0" in words for words in told] == [True, False], "which a log axis has no place for"
    lacking = usual["emergence"].assign(gain=usual["emergence"].gain.where(usual["emergence"].step > 0))
    assert "no strength is within" in onsets.with_and_without(lacking).get_label()
    assert "no strength" not in onsets.with_and_without(usual["emergence"]).get_label()
    nothing = usual["emergence"].assign(gain=0 * lacking.gain, gain_lower=0 * lacking.gain - 1e-17)
    assert np.ptp(onsets.with_and_without(nothing).axes[0].get_ylim()) >= 0.2, "rounding is not drawn large"
    small = usual["interventions"].assign(interference_local=0.01 * usual["interventions"].interference_local)
    figure = FIGURES["training.interference"](usual | {"interventions": small})
    assert any(float(text.get_text().replace("−", "-")) for text in figure.axes[0].texts), "small slopes are no zeros"
    untrained = checkpoint.training_loss(usual["loss"].isel(step=slice(0)))  # of a study of step 0 alone
    untrained.draw_without_rendering()
    assert "no step was trained" in untrained.get_label()


def overlapping(axis) -> bool:
    """Whether a label of the x axis lies on the next."""
    ticks = [tick.label1.get_window_extent() for tick in axis.xaxis.get_major_ticks() if tick.label1.get_visible()]
    low, high = axis.get_window_extent().extents[[0, 2]]
    inside = sorted((box for box in ticks if low - 1 < (box.x0 + box.x1) / 2 < high + 1), key=lambda box: box.x0)
    return any(a.x1 > b.x0 for a, b in pairwise(inside))


def on_one_another(figure) -> list[str]:
    """Labels, titles and texts below the panels that lie on another one."""
    of_axes = (text for axis in figure.axes for text in (axis.title, axis.xaxis.label, axis.yaxis.label))
    texts = [*of_axes, *figure.texts]  # of which the label of all rows is one
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text()]
    return [f"{a!r} {b!r}" for (a, of_a), (b, of_b) in combinations(boxes, 2) if of_a.padded(-1).overlaps(of_b)]


@pytest.mark.parametrize("study", ["small", "one checkpoint"])
@pytest.mark.parametrize("name", FIGURES)
def test_a_small_study_fits(studies, name, study):
    """Nothing is cut off, no label of an axis lies on another, no letter is smaller than can be read."""
    figure = FIGURES[name](studies[study])
    assert not unnamed(figure)
    figure.draw_without_rendering()
    width, height = figure.get_size_inches()
    assert width in axes.WIDTHS
    ends = figure.get_tightbbox().extents
    assert ends[:2].min() > -0.02 and ends[2] < width + 0.02 and ends[3] < height + 0.02
    assert not any(map(overlapping, figure.axes)) and not on_one_another(figure)
    sizes = [text.get_size() for text in figure.findobj(plt.Text) if text.get_text()]
    assert min(sizes) >= look.SMALL
    plt.close(figure)


@pytest.mark.parametrize("name", ["onsets", "order", "trajectories"])
def test_several_groups_of_seeds_fit_as_well(studies, name):
    figure = FIGURES[f"comparison.{name}"](studies["usual"] | {"seeds": studies["usual"]["groups"]})
    assert not unnamed(figure)
    figure.draw_without_rendering()
    ends, size = figure.get_tightbbox().extents, figure.get_size_inches()
    assert size[0] in axes.WIDTHS and ends[:2].min() > -0.02 and (ends[2:] < size + 0.02).all()
    assert not any(map(overlapping, figure.axes)) and not on_one_another(figure)
    plt.close(figure)


LONG = ["onsets.emergence_curves", "onsets.onset_summary", "comparison.onsets", "readiness.matrix"]
LONG += ["onsets.order", "comparison.order", "training.interference", "checkpoint.cosines_of_concepts"]


@pytest.mark.parametrize("name", LONG)
def test_long_names_fit(studies, name):
    called = dict(
        zip(NAMES, ["a_rather_long_name_of_a_concept", "many-words_of-mine", "x", "y", "placebo"], strict=True)
    )

    def rename(of: xr.Dataset) -> xr.Dataset:
        places = {*of.dims} & {"concept", "concept_b"}
        return of.assign_coords({place: [called[one] for one in of[place].values] for place in places})

    figure = FIGURES[name]({of: rename(dataset) for of, dataset in studies["usual"].items()})
    figure.draw_without_rendering()
    ends, size = figure.get_tightbbox().extents, figure.get_size_inches()
    assert ends[:2].min() > -0.02 and (ends[2:] < size + 0.02).all() and not on_one_another(figure)
    first = figure.axes[0]
    boxes = [text.get_window_extent() for text in (*first.get_yticklabels(), *first.texts) if text.get_text()]
    assert not any(a.padded(-1).overlaps(b) for a, b in combinations(boxes, 2)), "names of rows, words in cells"
    plt.close(figure)


@pytest.mark.parametrize("steps", [[0], [512], [0, 1], [0, 1, 2, 4, 8, 128, 143_000], range(0, 143_001, 1000)])
def test_ticks_of_steps_stand_at_checkpoints(steps):
    figure, axis = plt.subplots(figsize=(look.COLUMN, 2))
    axes.step_axis(axis, np.array(steps))
    assert {*axis.get_xticks()} <= {*steps} and steps[-1] in axis.get_xticks()
    figure.draw_without_rendering()
    assert not overlapping(axis)
    plt.close(figure)


def test_a_judge_that_has_no_opinion_of_a_concept_draws_nothing_of_it():
    written = made()["written"]
    silent = written.assign(judged=written.judged.where((written.concept != "place") | (written.judge != "fluent")))
    lines = [
        {line.get_label() for line in axis.lines} for axis in checkpoint.judgements(silent, METHOD).axes if axis.lines
    ]
    assert ["place" in drawn for drawn in lines] == [False, True] and "truth" in lines[0]


def test_bands_and_lines_are_those_of_matplotlib_and_ask_nothing_of_other_panels(monkeypatch):
    """Which would make a figure of many panels that share their axes a matter of minutes."""
    x, asked, own = np.arange(6.0), [], plt.Axes.autoscale_view
    lower, upper = np.array([0.1, -2, np.nan, 3, -99, 1]), np.array([1.1, 0, 99, 5, np.nan, 2])

    def drawn(band, horizontal, vertical):
        figure, panels = plt.subplots(2, 2, sharex=True, sharey="row")
        for k, axis in enumerate(panels.flat):
            axis.plot(x, k * x)
            band(axis)
            horizontal(axis)
            vertical(axis)
        count = len(asked)
        figure.canvas.draw()
        return figure, count

    with monkeypatch.context() as patched:
        patched.setattr(plt.Axes, "autoscale_view", lambda self, *a, **k: asked.append(self) or own(self, *a, **k))
        ours, count = drawn(
            lambda axis: axes.band(axis, x, lower, upper, "band", color="r"),
            lambda axis: axes.horizontal(axis, 17, color="k"),
            lambda axis: axes.vertical(axis, -2, color="k"),
        )

    def by_matplotlib(axis):
        dress, alone = {"color": "r", "alpha": look.BAND, "zorder": 1}, [3, 5]
        axis.fill_between(x, lower, upper, lw=0.4, **dress)
        axis.vlines(alone, lower[alone], upper[alone], lw=3, **dress)

    theirs, _ = drawn(by_matplotlib, lambda axis: axis.axhline(17, color="k"), lambda axis: axis.axvline(-2, color="k"))
    assert count == 0 < len(asked)
    assert np.array_equal(*(figure.canvas.buffer_rgba() for figure in (ours, theirs)))
    plt.close("all")


def test_layers_that_were_left_out_are_told():
    assert look.all_layers(xr.DataArray([0, 1, 2])) == "all layers"
    assert look.all_layers(xr.DataArray([1, 4])) == "layers 1, 4"
