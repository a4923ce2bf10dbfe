"""A checkpoint in memory: the one wing that knows nnsight and architectures.

May import checkpoints, study, numerics and files; steering, stages, results and running may import this one.
"""

from steerlib.model.architecture import BLOCKS, state_of, with_state
from steerlib.model.loading import load
from steerlib.model.model import LARGEST, Model
from steerlib.model.prefix import Change, Prefix
from steerlib.model.tokens import Branches, Tokens
from steerlib.model.writing import written

__all__ = [
    "BLOCKS",
    "LARGEST",
    "Branches",
    "Change",
    "Model",
    "Prefix",
    "Tokens",
    "load",
    "state_of",
    "with_state",
    "written",
]
