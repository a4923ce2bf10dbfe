"""Files that are whole or absent, whatever they hold: YAML to validated params, datasets, locks, hashes, the hub.

May import no other wing; all but figures may import this one.
"""

__all__ = ["hashes", "hub", "layout", "locks", "params", "store"]
