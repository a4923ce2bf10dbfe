"""From a drawn figure to files and to the notebook, and the look of all figures."""

from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import seaborn as sns
from IPython import get_ipython
from IPython.display import Image, display
from matplotlib.figure import Figure

DPI = 200
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "figure.constrained_layout.use": True,
    "svg.fonttype": "none",
}


def style() -> None:
    """The look of all figures."""
    sns.set_theme(style="ticks", rc=STYLE)


def save(figure: Figure, folder: Path, name: str) -> None:
    """As PNG and as SVG, and shown in the notebook."""
    folder.mkdir(parents=True, exist_ok=True)
    show(figure, folder / f"{name}.png", folder / f"{name}.svg")


def show(figure: Figure, png: Path | None = None, *others: Path) -> None:
    """In the notebook, sharp on any screen, and in the files that are named."""
    drawn = png or BytesIO()
    # Laid out once. Otherwise matplotlib lays a figure out, and draws it a second time, for every file.
    if engine := figure.get_layout_engine():
        engine.execute(figure)
    with plt.rc_context({"figure.constrained_layout.use": False}):  # what None stands for, also after a file
        figure.set_layout_engine(None)
        for file in (drawn, *others):
            figure.savefig(file, dpi=DPI)
    plt.close(figure)  # Jupyter would draw it again, four times, as its cell ends
    if get_ipython():
        display(Image(png.read_bytes() if png else drawn.getvalue(), retina=True))
