"""A short training of a checkpoint before it is looked at.

The paper (She et al. 2025) fine-tunes every checkpoint on instructions before it looks for directions. Its reviewers
named the confound: what is found may have come with the fine-tuning. So it is off by default here, and the same study
with it and without it is there to be compared. How the paper does it (text, steps, rate, which tokens are learned) is
not known to us; what stands here is our reading.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr

from steerlib import SteerlibError
from steerlib.checkpoints.history import Checkpoint
from steerlib.model import load
from steerlib.model.saving import save_checkpoint
from steerlib.stages import training
from steerlib.stages.training import Progress
from steerlib.study import Study


def finetune(
    study: Study, checkpoint: Checkpoint, folder: Path, progress: Progress = lambda update, loss: None
) -> xr.Dataset:
    """Train on from a checkpoint and save the result as an ordinary checkpoint in ``folder``; returns the losses.

    Every checkpoint of a study sees the same rows in the same order: what differs between two of them afterwards was
    there before, or is what they made of the same text. There is no dropout, so nothing is random but the rows and
    their order, which `Finetuning.seed` changes.

    Returns ``loss`` (update), in nat a token, before each update. Raises SteerlibError for a checkpoint that does not
    load, a corpus shorter than one row, or a loss that is not finite; then nothing is saved.
    """
    plan = study.finetuning
    study = study.model_copy(update={"seed": study.seed + plan.seed})
    # Weights are updated in float32 whatever they are run in afterwards: small updates would be rounded away.
    model = load(replace(checkpoint, loading=checkpoint.loading.model_copy(update={"dtype": "float32"})))
    if any(weight.is_meta for weight in model.hf.parameters()):
        raise SteerlibError(f"{checkpoint.path}: fine-tuning needs all weights in memory; take loading.device_map away")
    context = min(plan.context, getattr(model.config, "max_position_embeddings", plan.context))
    texts = training.documents(study, "finetuning")
    data = training.windows(texts, model.tokenizer, context, "finetuning.corpus")
    losses, named = [], f"{checkpoint.path}: finetuning"
    if (largest := int(data.max())) >= model.encoder.rows:
        raise SteerlibError(
            f"{named}: token {model.encoder.pieces([largest])} has id {largest}, but the model has only "
            f"{model.encoder.rows}; this is another model's tokenizer"
        )
    optimizer = training.optimizer_of(model.hf)
    for step in range(plan.steps):
        losses.append(training.update(model.hf, optimizer, data, plan, step, study.seed, named))
        progress(step + 1, losses[-1])
    save_checkpoint(model.hf, model.tokenizer, folder)
    updates = np.arange(1, len(losses) + 1)
    return xr.Dataset({"loss": ("update", np.array(losses, dtype=np.float32))}, {"update": updates})
