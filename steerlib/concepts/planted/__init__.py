"""The planted world: its words, its stories, and a parser that reads them back.

A world of known truth, so that what an analysis finds in it can be held against what is there.
"""

__all__ = ["parser", "vocabulary", "world"]
