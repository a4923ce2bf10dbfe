"""From a drawn figure to files and to the notebook."""

from base64 import b64encode
from html import escape
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython import get_ipython
from IPython.display import HTML, display
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

DPI = 200
COLOURS = 256  # of a PNG: enough for all of a figure, in a third of the bytes


def save(figure: Figure, folder: Path, name: str) -> None:
    """As PNG and as SVG, and shown in the notebook."""
    folder.mkdir(parents=True, exist_ok=True)
    show(figure, folder / f"{name}.png", folder / f"{name}.svg")


def show(figure: Figure, png: Path | None = None, *others: Path) -> None:
    """In the notebook, sharp on any screen, and in the files that are named."""
    data = picture(figure, *others)
    if png:
        png.write_bytes(data)
    if get_ipython():
        # As HTML: of a bare PNG JupyterLab drops the alternative text.
        display(HTML(embedded(figure, data)))


def picture(figure: Figure, *others: Path) -> bytes:
    """As PNG, and in other files as they are named; closed afterwards."""
    # Laid out once. Otherwise matplotlib lays a figure out, and draws it a second time, for every file.
    if engine := figure.get_layout_engine():
        engine.execute(figure)
    with plt.rc_context({"figure.constrained_layout.use": False}):  # what None stands for, also after a file
        figure.set_layout_engine(None)
        for file in others:
            figure.savefig(file, dpi=DPI)
        figure.set_dpi(DPI)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    plt.close(figure)  # Jupyter would draw it again, four times, as its cell ends
    kept, image = BytesIO(), Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    # Pressed harder, a twentieth smaller in seven times the time.
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(kept, "PNG", dpi=(DPI, DPI))
    return kept.getvalue()


def embedded(figure: Figure, png: bytes) -> str:
    """HTML of a picture that needs no file, with its words for those who cannot see it."""
    width, words = Image.open(BytesIO(png)).width // 2, escape(str(figure.get_label()))
    return f'<img src="data:image/png;base64,{b64encode(png).decode()}" width="{width}" alt="{words}">'
