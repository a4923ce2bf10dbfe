"""What a result is called, where it lies, what it was made from, and whether it still holds.

They may import all wings below, down to files; running imports them, and figures their schema.
"""

__all__ = ["freshness", "provenance", "schema", "tree", "workspace"]
