"""What a result is called, where it lies, what it was made from, and whether it still holds.

May import all wings before it, from files to stages; figures (its schema), running and the command may import this one.
"""

__all__ = ["audit", "crate", "freshness", "opening", "provenance", "schema", "tree", "workspace"]
