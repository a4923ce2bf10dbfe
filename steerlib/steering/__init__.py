"""Pushing and reading: what is done to hidden states, and what it does to the model's words.

It may import model, concepts, numerics and files, and knows no study; stages and all above import it.
"""

from steerlib.steering.arms import Arm, dose_response
from steerlib.steering.by_hand import Push, push_along, steer, write
from steerlib.steering.direction import Direction
from steerlib.steering.readouts import Readouts, SideEffects

__all__ = ["Arm", "Direction", "Push", "Readouts", "SideEffects", "dose_response", "push_along", "steer", "write"]
