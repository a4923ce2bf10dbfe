"""Generation: what a model writes when pushed, beside what it writes unsteered, and what judges say."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import xarray as xr

from steerlib.concepts import Concept, prompt_split
from steerlib.model import Model
from steerlib.stages import effects, judges, tasks
from steerlib.stages.pushes import Pushes
from steerlib.steering import write_each
from steerlib.study import Study


def generate(
    model: Model, study: Study, concepts: Sequence[Concept], probes: xr.Dataset, interventions: xr.Dataset
) -> xr.Dataset:
    """Schema `/generations`: texts by method (the one reported, and a random direction), concept, alpha and prompt.

    Each concept is pushed at the layer that validation prompts choose at this checkpoint, from the prompt's last token
    on; the prompts are of the test split. Unsteered text stands at alpha = 0, and what is written at each concept's
    recommended alpha beside the others (``_recommended``), empty where there is none. At that alpha, too, which texts
    about other concepts are still answered rightly (`tasks.answers`).
    """
    plan, methods = study.generation, [study.emergence.method, "random"]
    alphas, judging = sorted({0.0, *plan.alphas}), judges.chosen(study, concepts)
    # A push that reached only the prompt's last token would say nothing about what is written later.
    positions = "all" if study.sweep.positions == "all" else "generated"
    pushes = Pushes(model, study, concepts, probes)
    here = interventions.sel(probe=methods[0])
    layers = effects.pushed_layer(here)
    here = here.sel(layer=layers)
    recommended = effects.recommended_alpha(here, study).reset_coords(drop=True)
    shape = len(methods), len(concepts), len(alphas) + 1, plan.prompts  # the recommended one is the last
    text, given = np.full(shape, "", dtype=object), np.full(shape[1::2], "", dtype=object)
    judged, pushed = np.full((*shape, len(judging)), np.nan, dtype=np.float32), {}
    for c, concept in enumerate(concepts):
        cases = concept.readout.cases
        split = prompt_split([case.prompt for case in cases], study.seed)
        cases = [cases[k] for k in np.flatnonzero(split == "test")[: plan.prompts]]
        prompts, layer = [case.prompt for case in cases], int(layers.isel(concept=c))
        given[c, : len(cases)] = prompts
        arm, wanted = pushes.real(layer), np.array([*alphas, float(recommended[c])])
        rows = [list(probes.probe.values).index(method) * len(concepts) + c for method in methods]
        own = arm.pick(np.array(rows[:1]))
        pushed[concept.name] = layer, replace(own, strength=own.strength * float(recommended[c]))
        # At alpha 0 both methods write the same, and the recommended alpha may be one of the others.
        asked: dict[tuple[int, float], list[tuple[int, int]]] = {}
        for m, a in np.ndindex(len(rows), len(wanted)):
            if not np.isnan(wanted[a]):
                asked.setdefault((rows[m] if wanted[a] else rows[0], wanted[a]), []).append((m, a))
        row, alpha = map(np.array, zip(*asked, strict=True))
        arm = arm.pick(row)
        arm = replace(arm, strength=arm.strength * torch.from_numpy(alpha))
        written_by = write_each(model, prompts, plan.tokens, layer, arm, positions)
        for places, texts in zip(asked.values(), written_by, strict=True):
            verdicts = np.stack([judge(concept, cases, texts) for judge in judging.values()], -1)
            for m, a in places:
                text[m, c, a, : len(cases)] = [one.replace("\0", "␀") for one in texts]  # no file holds a NUL
                judged[m, c, a, : len(cases)] = verdicts
    dims, beside = ["probe", "concept", "alpha", "prompt"], ["probe", "concept", "prompt"]
    written = xr.Dataset(
        {
            "text": (dims, text[:, :, :-1]),
            "given": (dims[1::2], given),
            "judged": ([*dims, "judge"], judged[:, :, :-1]),
            "alpha_recommended": recommended,
            "text_recommended": (beside, text[:, :, -1]),
            "judged_recommended": ([*beside, "judge"], judged[:, :, -1]),
            "generation_layer": layers.reset_coords(drop=True),
        },
        {
            "probe": methods,
            "concept": [concept.name for concept in concepts],
            "alpha": alphas,
            "prompt": np.arange(plan.prompts),
            "judge": list(judging),
        },
    )
    written.alpha.attrs = dict(interventions.alpha.attrs)  # in what it counts
    return written.merge(tasks.answers(model, study, concepts, pushed, plan.prompts))
