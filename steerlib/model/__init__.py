"""A checkpoint in memory: the one wing that knows nnsight and architectures.

It may import checkpoints, study and files; steering and all above it import it.
"""

from steerlib.model.loading import load
from steerlib.model.model import BLOCKS, LARGEST, Model, Tokens, in_memory, state_of, with_state

__all__ = ["BLOCKS", "LARGEST", "Model", "Tokens", "in_memory", "load", "state_of", "with_state"]
