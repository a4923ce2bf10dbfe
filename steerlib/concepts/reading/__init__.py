"""Concepts from the files that people have: `load` makes a `Draft` of what a `ConceptFile` names."""

from steerlib.concepts.reading.concept_file import ENDINGS, YAML, ConceptFile, load
from steerlib.concepts.reading.drafts import Draft, opposites

__all__ = ["ENDINGS", "YAML", "ConceptFile", "Draft", "load", "opposites"]
