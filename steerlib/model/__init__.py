"""A checkpoint in memory."""

from steerlib.model.model import BLOCKS, LARGEST, Model, Tokens, in_memory, state_of, with_state

__all__ = ["BLOCKS", "LARGEST", "Model", "Tokens", "in_memory", "state_of", "with_state"]
