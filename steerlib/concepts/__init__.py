"""Texts with labels, and where they are to show."""

from steerlib.concepts.concept import Concept, Item, Readout, Stimuli, prompt_split

__all__ = ["Concept", "Item", "Readout", "Stimuli", "prompt_split"]
