"""A push on trial: explored, frozen, validated on what was not seen before, deployed with its card, and watched.

May import all wings that compute and keep results; running, which has its commands, imports this one.
"""

__all__ = ["deployment", "freeze", "report", "trial", "validation", "watching"]
