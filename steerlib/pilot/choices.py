"""What is settled before a push is tried: all of its study's params, and what was chosen by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from steerlib.files.params import Strict
from steerlib.files.store import Sha256
from steerlib.pilot.sealed import Sealed
from steerlib.pilot.seen import Marks
from steerlib.steering.card import Told
from steerlib.study import Emergence, Generation, Study
from steerlib.study.analysis import Readiness, Sweep

WHOLE = ("sweep", "emergence", "readiness", "generation")  # with their defaults, whatever these are later


class Frozen(Strict):
    """One concept's push."""

    layer: int = Field(ge=0)
    alpha: float  # the recommended one
    strength: float  # what alpha multiplies: of `add` the length of a push at alpha 1
    verdict: str
    explored: dict[str, Told]  # what was found in exploring: `size` is its effect, in nat per unit of alpha
    direction_sha256: Sha256  # of its file, `<concept>.safetensors`
    texts: Marks  # that it was fitted and tested on
    prompts: Marks  # that its layer and alpha were chosen and tested on


class Choices(Sealed):
    """Of a study at one checkpoint, whatever its concepts."""

    study: str
    made: str
    commit: str
    step: int
    weights_sha256: str
    method: str
    seed: int
    sweep: Sweep  # operator, scale, KL budget, alphas and the window of a slope
    emergence: Emergence  # level and least effects
    readiness: Readiness  # all other thresholds
    generation: Generation  # how long written texts are, and who judges
    params: dict[str, Any]  # all others of the study, as they were told

    def as_study(self, path: Path, home: Path) -> Study:
        """The study as it was; ``home`` is where names of files in its params belong."""
        whole = self.model_dump(mode="json", include={*WHOLE})
        return Study.of(self.params | whole, path, home / path.name)


def of(study: Study) -> dict[str, Any]:
    """What `Choices` are of a study's params."""
    return {
        "study": study.name,
        "method": study.emergence.method,
        "seed": study.seed,
        "sweep": study.sweep,
        "emergence": study.emergence,
        "readiness": study.readiness or Readiness(),
        "generation": study.generation or Generation(),
        "params": study.model_dump(mode="json", exclude_unset=True, exclude={*WHOLE}),
    }
