"""What each notebook computes, a file each; what they share (pushes, judges); and the table of them.

May import files, concepts, numerics, study, checkpoints, model, steering; results, figures, running and the command may
import this one.
"""

__all__ = [
    "bench",
    "classifiers",
    "comparison",
    "emergence",
    "finetuning",
    "generation",
    "instrument",
    "interventions",
    "judges",
    "pretraining",
    "probing",
    "pushes",
    "scores",
    "similarity",
    "table",
    "trajectories",
    "transfer",
    "written",
]
