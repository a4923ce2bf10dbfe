"""The planted world: what a study may say of it, its words, its stories, and a parser that reads them back.

A world of known truth, so that what an analysis finds in it can be held against what is there.
"""

__all__ = ["parser", "stories", "vocabulary", "world"]
