"""What each notebook computes, a file each, and the table of them.

They may import all wings below: files, concepts, numerics, study, checkpoints, model, steering. Results, figures and
running import them.
"""

__all__ = [
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
    "similarity",
    "table",
    "trajectories",
]
