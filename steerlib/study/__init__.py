"""Everything that a params file may say, validated before anything runs.

May import files, concepts and numerics (names of methods); checkpoints, model, stages, results and running may import
this one.
"""

from steerlib.study.analysis import Emergence, Generation
from steerlib.study.study import Study

__all__ = ["Emergence", "Generation", "Study"]
