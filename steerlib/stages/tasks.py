"""Tasks: what a model answers rightly about one concept, unpushed and while it is pushed along another.

The task of a concept is its readout after evidence (`fitness.evidence`): a target has to be the first choice after
texts with the concept, and none after those without. That a push costs right answers elsewhere is a side effect that
neither KL on plain passages nor slopes of log-odds tell of. The measure is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from steerlib.concepts import Concept
from steerlib.model import Model
from steerlib.stages import fitness
from steerlib.steering import Arm, Readouts, dose_response
from steerlib.steering.asking import matched
from steerlib.study import Study


def answers(
    model: Model, study: Study, concepts: Sequence[Concept], pushed: Mapping[str, tuple[int, Arm]], pairs: int
) -> xr.Dataset:
    """Which texts are answered rightly, 1 or 0: ``right`` (task × evidence) and ``right_pushed`` (concept × both).

    ``pushed`` has the layer and the arm, of one variant and at alpha 1, of every concept that is pushed; of each task
    so many ``pairs`` of texts are asked, from all over its held-out ones. NaN of a concept's own task, of what is
    written and judged, of texts that are too long, and of an arm without a strength.
    """
    positions, names = study.sweep.positions, [concept.name for concept in concepts]
    right = np.full((1 + len(pushed), len(names), 2 * pairs), np.nan, dtype=np.float32)
    for t, task in enumerate(concepts):
        if task.readout.judged:
            continue
        task, _ = matched(model.encoder, task)
        asked = fitness.evidence(task, *(task.stimuli(split, study.seed) for split in ("fit", "test"))).some(pairs)
        half = len(asked.texts) // 2
        for rows, readouts, prefix in fitness.run(Readouts.of(model, [task]), asked, positions == "all"):
            told = {}
            for p, (name, (layer, arm)) in enumerate(pushed.items(), 1):
                if name != task.name:
                    doses = dose_response(prefix, readouts.measure, layer, arm, [0.0, 1.0], positions)
                    told[0], told[p] = doses[:, 0, 0, 1], doses[:, 1, 0, 1]  # margins
            for p, margin in told.items():
                answer = (margin > 0).numpy() == (rows < half)
                right[p, t, rows] = np.where(margin.isnan(), np.nan, answer)
    dims = ["concept", "task", "evidence"]
    return xr.Dataset(
        {"right": (dims[1:], right[0]), "right_pushed": (dims, right[1:])},
        {"concept": [*pushed], "task": names},
    )
