"""Everything that a params file may say."""

from steerlib.study.study import Emergence, Generation, Study

__all__ = ["Emergence", "Generation", "Study"]
