"""Pushing and reading; knows no study."""

from steerlib.steering.by_hand import Push, push_along, steer, write

__all__ = ["Push", "push_along", "steer", "write"]
