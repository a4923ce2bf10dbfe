"""Generation: what a model writes when pushed, beside what it writes unsteered, and what judges say."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from steerlib.concepts import Concept, prompt_split
from steerlib.model import Model
from steerlib.numerics.statistics import chosen_layer
from steerlib.stages import judges
from steerlib.stages.pushes import Pushes
from steerlib.steering import Push, steer, write
from steerlib.study import Study


def generate(
    model: Model, study: Study, concepts: Sequence[Concept], probes: xr.Dataset, interventions: xr.Dataset
) -> xr.Dataset:
    """Schema `/generations`: texts by method (the one reported, and a random direction), concept, alpha and prompt.

    Each concept is pushed at the layer that validation prompts choose at this checkpoint, from the prompt's last token
    on; the prompts are of the test split. Unsteered text stands at alpha = 0.
    """
    plan, methods = study.generation, [study.emergence.method, "random"]
    alphas, judging = sorted({0.0, *plan.alphas}), judges.chosen(study, concepts)
    # A push that reached only the prompt's last token would say nothing about what is written later.
    positions = "all" if study.sweep.positions == "all" else "generated"
    pushes = Pushes(model, study, concepts, probes)
    layers = chosen_layer(interventions.steerability_validation.sel(probe=methods[0]))
    shape = len(methods), len(concepts), len(alphas), plan.prompts
    text, given = np.full(shape, "", dtype=object), np.full(shape[1::2], "", dtype=object)
    judged = np.full((*shape, len(judging)), np.nan, dtype=np.float32)
    for c, concept in enumerate(concepts):
        cases = concept.readout.cases
        split = prompt_split([case.prompt for case in cases], study.seed)
        cases = [cases[k] for k in np.flatnonzero(split == "test")[: plan.prompts]]
        prompts, layer = [case.prompt for case in cases], int(layers.isel(concept=c))
        given[c, : len(cases)] = prompts
        unsteered, arm = write(model, prompts, plan.tokens), pushes.real(layer)
        for m, method in enumerate(methods):
            row = list(probes.probe.values).index(method) * len(concepts) + c
            operator = arm.operator.pick(np.array([row])).each(lambda tensor: tensor[0])
            strength = float(arm.strength[row].nan_to_num(0.0))  # not found: no push
            for a, alpha in enumerate(alphas):
                texts = unsteered
                if alpha:
                    with steer(model, Push(layer, operator, alpha * strength, positions)):
                        texts = write(model, prompts, plan.tokens)
                text[m, c, a, : len(cases)] = [one.replace("\0", "␀") for one in texts]  # no file holds a NUL
                verdicts = [judge(concept, cases, texts) for judge in judging.values()]
                judged[m, c, a, : len(cases)] = np.stack(verdicts, -1)
    dims = ["probe", "concept", "alpha", "prompt"]
    written = xr.Dataset(
        {
            "text": (dims, text),
            "given": (dims[1::2], given),
            "judged": ([*dims, "judge"], judged),
            "generation_layer": layers.drop_vars("probe"),
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
    return written
