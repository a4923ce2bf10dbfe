"""Texts with labels, and where a push along their difference is to show: stimuli, prompts, targets and foils.

From people's files (`reading`), or of a world that is known to the last word (`planted`); `check` says whether they can
carry a study. May import files; study, steering, stages, results and running may import this one.
"""

from steerlib.concepts.concept import Concept, Item, Readout, Template, prompt_split
from steerlib.concepts.stimuli import Stimuli

__all__ = ["Concept", "Item", "Readout", "Stimuli", "Template", "prompt_split"]
