"""Concepts from the files that people have: `load` makes a `Draft` of what a `ConceptFile` names."""

from steerlib.concepts.reading.drafts import ENDINGS, YAML, ConceptFile, Draft, opposites
from steerlib.concepts.reading.loading import load

__all__ = ["ENDINGS", "YAML", "ConceptFile", "Draft", "load", "opposites"]
