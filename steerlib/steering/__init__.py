"""Pushing and reading: what is done to hidden states, and what it does to the model's words.

May import model, concepts, numerics and files, and knows no study; stages, results and running may import this one.
"""

from steerlib.steering.arms import Arm, dose_response
from steerlib.steering.by_hand import Push, push_along, steer, write, write_each
from steerlib.steering.direction import Direction
from steerlib.steering.readouts import Readouts
from steerlib.steering.side_effects import SideEffects

__all__ = [
    "Arm",
    "Direction",
    "Push",
    "Readouts",
    "SideEffects",
    "dose_response",
    "push_along",
    "steer",
    "write",
    "write_each",
]
