"""The one look of all figures: sizes and fonts, a concept's colour and marker, the legend of all marks, the footer.

What a mark means is its label: whatever is drawn has one, and `dressed` puts each into the legend, or below where it is
text. Labels that begin with "_" are of what needs no words: guides for the eye, and words.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import product
from textwrap import fill, wrap
from types import SimpleNamespace
from zlib import crc32

import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.collections import PolyCollection, QuadMesh
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.text import Text

COLUMN, PAGE = 3.35, 7.09  # inches: a column of 85 mm, a page of 180 mm
SMALL = 6  # points: no letter is smaller
INK, NULL = "0.15", "0.55"  # of what is said of all concepts; of the null, and of nothing else
BAND = 0.3  # how much of its colour a band has, so that lines stay visible on it
INTERVAL = "interval"
GUIDE, WORDS = "_guide", "_words"  # labels of what needs no words
STYLE = {
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "lines.linewidth": 1.2,
    "lines.markersize": 3,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.8,
    "ytick.major.width": 0.8,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "figure.constrained_layout.use": True,
    "hatch.linewidth": 0.4,
    "svg.fonttype": "none",
}

# Any two are ΔE 15 apart (CIEDE2000), also to colour-blind eyes (Machado et al. 2009), and 3:1 or more from white.
READY = {
    "happiness": ("#969600", "o"),
    "sadness": ("#1e96ff", "v"),
    "anger": ("#f00078", "^"),
    "fear": ("#4b4bf0", "s"),
    "surprise": ("#c378a5", "*"),
    "disgust": ("#007869", "D"),
    "truth": ("#1e00b4", "P"),
    "commonsense": ("#78000f", "<"),
    "place": ("#965a2d", "h"),
    "placebo": ("#5a1e4b", "X"),
}
# Of own concepts, ΔE 8 or more from these and one another: two are never told apart by colour alone.
COLOURS = ("#0f4b3c", "#c30fa5", "#a50f4b", "#4b2d78", "#5a0f1e", "#00a587", "#a5875a", "#a578c3")
MARKERS = (">", "p", "d", (4, 1, 0), (6, 1, 0), (8, 1, 0))

_current: dict = {}  # params of the study that a notebook has open


def style(params: dict | None = None) -> None:
    """The look of all figures from now on; and of which study those are whose data do not tell."""
    sns.set_theme(style="ticks", rc=STYLE)
    _current.clear()
    _current.update(params or {})


def looks(concepts: xr.DataArray | Iterable[str]) -> dict[str, dict]:
    """Colour and marker of every concept, the same in all studies: by its name, not by its place.

    A ready concept has its own. Another one's hang on its name alone, until an own concept that stands before it in the
    alphabet has taken them: then it takes the next pair that is used least.
    """
    names = [str(name) for name in getattr(concepts, "values", concepts)]
    taken: dict[str, tuple] = {}
    for name in sorted({*names} - {*READY}):
        first, used = crc32(name.encode()), Counter(mark for pair in taken.values() for mark in (pair, *pair))
        pairs = list(product(*([*of[first % len(of) :], *of[: first % len(of)]] for of in (COLOURS, MARKERS))))
        taken[name] = min(pairs, key=lambda pair, used=used: (used[pair], used[pair[0]], used[pair[1]]))
    return {name: dict(zip(("color", "marker"), (READY | taken)[name], strict=True)) for name in names}


def broken(name: str, letters: int = 14) -> str:
    """A name in lines of so many letters, broken at its spaces and after what joins its words."""
    return "\n".join(line.replace("_ ", "_") for line in wrap(name.replace("_", "_ "), letters))


# --- of what a figure is ----------------------------------------------------------------------------------------------


def params_of(source: xr.Dataset) -> dict:
    """Params of the study, or of the comparison and its first study, that a dataset tells; else of the one open."""
    if "params" not in source.attrs:
        return _current
    studies = json.loads(source.attrs.get("studies", "{}"))
    return next(iter(studies.values()), {}) | json.loads(source.attrs["params"])


def level_of(source: xr.Dataset) -> float:
    """The level of its intervals."""
    return params_of(source).get("emergence", {}).get("level", 0.95)


def slope_unit(source: xr.Dataset) -> str:
    """Of steerability: what log-odds are counted in, per what alpha counts."""
    if "unit" in source.coords:
        return str(source.unit.sel(measure="steerability").item())
    if not (sweep := params_of(source).get("sweep")):
        return "nat per unit of alpha"
    from steerlib.stages.interventions import alpha_unit  # which brings torch

    return f"nat per {alpha_unit(SimpleNamespace(sweep=SimpleNamespace(**sweep)))}"


def nat_of(unit: str) -> str:
    """What log-odds are counted in, of the unit of their slope."""
    return unit.rpartition(" per ")[0].removesuffix(",")


def alpha_label(alpha: xr.DataArray) -> str:
    """Of an axis of alpha."""
    unit = alpha.attrs["units"]
    return f"alpha ({unit if unit == 'radian' else f'1: {unit}' if unit.startswith('full ') else f'× {unit}'})"


def labels_of_measures(source: xr.Dataset) -> dict[str, str]:
    return {
        "separability": "separability (AUROC)",
        "expression": "expression (rate gained)",
        "steerability": f"steerability ({slope_unit(source)})",
    }


def all_layers(layer: xr.DataArray) -> str:
    """That all are shown that were looked at, as text, and which these are where some were left out."""
    numbers = layer.values.tolist()
    return "all layers" if numbers == [*range(len(numbers))] else f"layers {', '.join(map(str, numbers))}"


def of_layers(layer: xr.DataArray | int) -> str:
    """Which layers are shown, as text."""
    low, high = int(np.min(layer)), int(np.max(layer))
    return f"layer {low}" if low == high else f"layers {low}–{high}, each concept's own"


# --- legend and footer ------------------------------------------------------------------------------------------------


def marks(figure: Figure) -> Iterator[Artist]:
    """All that is drawn in a figure's panels."""
    for axis in figure.axes:
        if axis.get_label() != "<colorbar>":
            yield from (*axis.lines, *axis.patches, *axis.collections, *axis.texts)


def dressed(figure: Figure, source: xr.Dataset, layer: str = "", method: str | None = "", said: str = "") -> Figure:
    """The figure with a legend of every mark above its panels, and below them of what it is.

    That is study, layer and method (the study's own unless one is named; None: of none), then what texts in it are, and
    what else is ``said``. The figure grows by what these take, so that panels keep their size.
    """
    by_label: dict[str, list[Artist]] = {}
    for mark in marks(figure):
        if not (label := str(mark.get_label())).startswith("_"):
            by_label.setdefault(label, []).append(mark)
    texts = [label for label, of in by_label.items() if isinstance(of[0], Text)]
    entries = {label: of for label, of in by_label.items() if not isinstance(of[0], Text | QuadMesh)}
    concepts = [label for label in entries if "concept" in source.coords and label in source.concept.values]
    entries = {label: entries[label] for label in [*concepts, *(label for label in entries if label not in concepts)]}
    top = _legend(figure, entries) if entries else 0.0
    params = params_of(source)
    method = params.get("emergence", {}).get("method", "") if method == "" else method
    about = [params.get("name"), layer, method and f"method (probe): {method}"]
    if any(label.startswith(INTERVAL) for label in by_label):
        about.append(f"intervals: {100 * level_of(source):g} %".replace(" ", "\u00a0"))
    told = [" · ".join(filter(None, about)), "; ".join(filter(None, [*texts, said]))]
    lines = [line for part in told for line in wrap(part, int(figure.get_figwidth() * 72 / 0.56 / SMALL))]
    bottom = 1.3 * SMALL / 72 * len(lines) + 0.04
    height = figure.get_figheight() + top + bottom
    figure.set_figheight(height)
    figure.text(0.04 / figure.get_figwidth(), 0.02 / height, "\n".join(lines), size=SMALL, color="0.3", va="bottom")
    figure.set_label("; ".join(dict.fromkeys(filter(None, [*_axes_told(figure), *by_label, *told]))))
    figure.set_layout_engine("constrained", rect=(0, bottom / height, 1, 1 - bottom / height))
    return figure


def _axes_told(figure: Figure) -> list[str]:
    """What its axes say, for those who cannot see it."""
    labels = [text for axis in figure.axes for text in (axis.get_title(), axis.get_ylabel(), axis.get_xlabel())]
    return [label.replace("\n", ", ") for label in (figure.get_supylabel(), *labels)]


def _legend(figure: Figure, entries: dict[str, list[Artist]]) -> float:
    """Above the panels, an entry a label; how high it is, in inches.

    Where marks have several colours: in ink, and of bands three of these, as grey is the null's.
    """
    em, width = STYLE["legend.fontsize"] / 72, figure.get_figwidth()
    labels = [fill(label, int((width / em - 4.6) / 0.55)) for label in entries]
    fit = max(1, int(width / (em * (4.6 + 0.55 * max(map(len, labels))))))
    rows = -(-len(entries) // fit)
    columns = {"loc": "outside upper center", "ncol": -(-len(entries) // rows)}
    columns["handler_map"] = {tuple: HandlerTuple(None, pad=0)}
    handles = [_handle(of) for of in entries.values()]
    legend = figure.legend(handles, labels, **columns)
    for handle, given, of in zip(legend.legend_handles, handles, entries.values(), strict=True):
        if given is of[0] and len({_colour(mark) for mark in of}) > 1:
            hollow = isinstance(handle, Line2D) and to_hex(handle.get_markerfacecolor(), True)[-2:] == "00"
            handle.set(color=INK, alpha=of[0].get_alpha(), **({"mfc": "none"} if hollow else {}))
    return 1.55 * em * (rows + sum(label.count("\n") for label in labels)) + 0.1


def _handle(of: list[Artist]) -> Artist | tuple[Artist, ...]:
    by_colour = {_colour(mark): mark for mark in of}
    return tuple([*by_colour.values()][:3]) if isinstance(of[0], PolyCollection) and len(by_colour) > 1 else of[0]


def _colour(mark: Artist) -> str:
    if isinstance(mark, Line2D):
        return to_hex(mark.get_color())
    faces = np.atleast_2d(mark.get_facecolor())
    return to_hex(faces[0] if len(faces) else mark.get_edgecolor()[0])
