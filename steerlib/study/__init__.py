"""Everything that a params file may say, validated before anything runs.

May import files, concepts and numerics (names of methods); checkpoints and every wing above it may import this one.
"""

from steerlib.study.study import Emergence, Generation, Study

__all__ = ["Emergence", "Generation", "Study"]
