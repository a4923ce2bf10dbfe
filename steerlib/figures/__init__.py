"""Labelled datasets in, figures out: fit for a paper's column, colour-blind safe, one colour a concept throughout.

They may import numerics, stages and the schema of results; notebooks and what runs them import figures.
"""

from steerlib.figures.output import save, show, style

__all__ = ["checkpoint", "comparison", "instrument", "save", "show", "style", "training"]
