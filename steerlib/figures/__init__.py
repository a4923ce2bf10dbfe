"""Labelled datasets in, figures out: fit for a paper's column, colour-blind safe, one colour a concept in all studies.

May import numerics, stages and the schema of results; running and the notebooks may import this one.
"""

from steerlib.figures.look import style
from steerlib.figures.output import save, show

__all__ = ["checkpoint", "comparison", "instrument", "onsets", "save", "show", "style", "training"]
