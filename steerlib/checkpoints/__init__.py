"""A model's training history: step, folder, revision, tokens seen; which are studied, and bringing them here.

May import study and files; model, stages, results and running may import this one.
"""

__all__ = ["fetching", "history", "listing", "steps", "suites"]
