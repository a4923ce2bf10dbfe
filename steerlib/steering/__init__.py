"""Pushing and reading: what is done to hidden states, and what it does to the model's words.

It may import model, concepts, numerics and files, and knows no study; stages and all above import it.
"""

from steerlib.steering.by_hand import Push, push_along, steer, write
from steerlib.steering.direction import Direction

__all__ = ["Direction", "Push", "push_along", "steer", "write"]
