"""What every variable of a result is called and counted in."""

from __future__ import annotations

import xarray as xr

# name -> (long_name, units). "1" is dimensionless; "nat" is the unit of natural-log odds and of KL.
SCHEMA = {
    # pretraining
    "loss": ("training loss: mean negative log-likelihood of a token", "nat"),
    # probes
    "direction": ("unit direction of the concept in the residual stream", "1"),
    "length": ("norm of the direction as the method found it", "activation"),
    "spread": ("within-class standard deviation of the projection on the direction", "activation"),
    "null_length": (
        "norm of null directions as found (isotropic ones: of the direction they are the null of)",
        "activation",
    ),
    "null_spread": ("within-class standard deviation of the projection on null directions", "activation"),
    "null_direction": ("unit direction found by the method on shuffled labels", "1"),
    "auroc": ("separability: AUROC of the projection on stimuli of a held-out template", "1"),
    "auroc_words": ("held-out AUROC of a bag of words, without any model", "1"),
    "state": ("residual stream at the last token of a stimulus", "1"),
    "auroc_null": ("AUROC of null directions for labels dealt at random, mean over held-out templates", "1"),
    "probe_accuracy": ("accuracy of the projection, cut midway between the fitted class means", "1"),
    "id_score": ("ID score: label-signed mean projection of held-out stimuli", "activation"),
    "id_score_null": ("ID score of random directions", "activation"),
    "residual_norm": ("mean norm of the residual stream over readout prompts", "activation"),
    "expression": ("target is the top option after evidence for the concept", "1"),
    "expression_null": ("target is the top option after evidence for something else", "1"),
    "gram": ("centred Gram matrix of stimulus states, for CKA", "activation²"),
    # interventions
    "log_odds": ("log-odds of targets against foils", "nat"),
    "steerability": ("steerability: slope of log-odds against alpha, mean of test prompts", "nat per unit of alpha"),
    "steerability_validation": ("slope of log-odds against alpha, mean of validation prompts", "nat per unit of alpha"),
    "steerability_null": ("local slope of null directions, mean of test prompts", "nat per unit of alpha"),
    "steerability_null_validation": ("local slope of null directions, validation prompts", "nat per unit of alpha"),
    "steerability_lower": ("lower 95 % bound of steerability, over test prompts", "nat per unit of alpha"),
    "steerability_upper": ("upper 95 % bound of steerability, over test prompts", "nat per unit of alpha"),
    "anti_steerable": ("share of test prompts whose slope is negative", "1"),
    "monotonicity": ("Spearman correlation of log-odds and alpha, mean of test prompts", "1"),
    "p_random": ("share of random directions that steer at least as well", "1"),
    "p_shuffled": ("share of directions from shuffled labels that steer at least as well", "1"),
    "local_slope": ("exact slope at alpha = 0, mean of test prompts", "nat per unit of alpha"),
    "interference": ("slope of a readout when another concept is pushed", "nat per unit of alpha"),
    "interference_null": ("local slope of null directions on every readout", "nat per unit of alpha"),
    "interference_lower": ("lower 95 % bound of the slope, over test prompts", "nat per unit of alpha"),
    "interference_upper": ("upper 95 % bound of the slope, over test prompts", "nat per unit of alpha"),
    "selectivity": ("steerability minus the mean size of slopes of other readouts", "nat per unit of alpha"),
    "strength": ("what alpha multiplies", "activation for add, else 1"),
    "margin": ("log-odds of the best target against the best foil", "nat"),
    "margin_normalised": ("the same of log-probabilities per character", "nat per character"),
    "success_rate": ("share of test prompts on which a target beats every foil", "1"),
    "success_rate_normalised": ("share of test prompts with the right answer, by characters", "1"),
    "chosen_alpha": ("alpha of greatest validation gain within the KL budget", "unit of alpha"),
    "chosen_gain": ("gain of log-odds at the chosen alpha, mean of test prompts", "nat"),
    "kl_validation": ("the same KL on the passages that alphas and strengths are chosen on", "nat"),
    "delta_nll": ("change of that negative log-likelihood by the push", "nat"),
    "kl": ("KL of next-token distributions, unsteered to steered, on neutral text", "nat"),
    "nll": ("negative log-likelihood of the next token of neutral text", "nat"),
    "undo_error": ("largest change of log-odds after +v and then -v", "nat"),
    # generations
    "text": ("what the model wrote", "text"),
    "given": ("the prompt it continued", "text"),
    "judged": ("what a judge makes of a text", "1"),
    "generation_layer": ("layer pushed, chosen on validation prompts", "1"),
    # instrument
    "off_target": ("mean size of the slopes of other readouts", "nat per push"),
    "q_value": ("false discovery rate of steerability over candidates and concepts, against both nulls", "1"),
    # similarity
    "cosine_to_final": ("cosine with the final checkpoint's direction", "1"),
    "cosine_to_previous": ("cosine with the previous checkpoint's direction", "1"),
    "cosine_layers": ("cosine between the directions of two layers", "1"),
    "cosine_concepts": ("cosine between the directions of two concepts", "1"),
    "cka": ("linear CKA between a layer and a layer of the final checkpoint", "1"),
    "id_entropy": ("entropy of the ID score over layers", "bit"),
    "id_entropy_null": ("entropy of random directions' ID score over layers", "bit"),
    "id_entropy_uniform": ("entropy of a score equal in all layers", "bit"),
    # emergence
    "value": ("measure at its chosen layer", "unit of the measure"),
    "value_lower": ("lower bound of the measure", "unit of the measure"),
    "value_upper": ("upper bound of the measure", "unit of the measure"),
    "null_lower": ("lower quantile of the null at a checkpoint", "unit of the measure"),
    "null_upper": ("upper quantile of the null at a checkpoint", "unit of the measure"),
    "null_threshold": ("what the lower bound of the measure has to stay above", "unit of the measure"),
    "chosen_layer": ("layer chosen on validation prompts at the final checkpoint", "1"),
    "onset_step": ("first checkpoint from which the measure stays above its null", "step"),
    "onset_lower": ("lower bound of the onset", "step"),
    "onset_upper": ("upper bound of the onset (infinite: not reached)", "step"),
    "baseline_words": ("held-out AUROC of a bag of words, which the measure has to clear as well", "1"),
    "baseline_untrained": ("separability of the untrained model (step 0), which the measure has to clear as well", "1"),
    "midpoint": ("midpoint of a sigmoid in log(1 + step)", "step"),
    "change_point": ("change-point of the mean", "step"),
    "p_value": ("share of null draws at or above the measure, at the final checkpoint", "1"),
    "q_random": ("false discovery rate of steerability against random directions", "1"),
    "q_shuffled": ("false discovery rate of steerability against shuffled labels", "1"),
    "order": ("rank of the concept by onset", "1"),
    "lag": ("onset of steerability after onset of separability", "step"),
    "lag_lower": ("lower bound of the lag", "step"),
    "lag_upper": ("upper bound of the lag", "step"),
    "rank_correlation": ("Spearman correlation of separability and steerability over steps", "1"),
    "rank_correlation_detrended": ("the same correlation of changes between checkpoints", "1"),
    "tau": ("Kendall's tau between planted frequency and steerability onset, negated", "1"),
    # comparison
    "present": ("variants that have the concept", "1"),
    "reached": ("variants in which the measure emerged", "1"),
    "onset_mean": ("mean of onsets over variants (infinite: not reached in one of them)", "step"),
    "onset_earliest": ("earliest onset of all variants", "step"),
    "onset_latest": ("latest onset of all variants (infinite: not reached in one of them)", "step"),
    "onset_rank": ("rank of the concept by onset, not reached last", "1"),
    "onset_rank_mean": ("mean over variants of the rank by onset", "1"),
    "tau_mean": ("Kendall's tau between planted frequency and mean rank of steerability onset, negated", "1"),
    "value_mean": ("mean of the measure over variants", "unit of the measure"),
    "value_lowest": ("lowest of the measure over variants", "unit of the measure"),
    "value_highest": ("highest of the measure over variants", "unit of the measure"),
    "difference": ("measure less that of the first variant", "unit of the measure"),
    "difference_lower": ("lower bound of the difference", "unit of the measure"),
    "difference_upper": ("upper bound of the difference", "unit of the measure"),
    "paired": ("the difference is of the same prompts and templates; otherwise each variant's are resampled", "1"),
}


def describe(dataset: xr.Dataset) -> xr.Dataset:
    """The dataset with `long_name` and `units` on every variable. Raises KeyError outside the schema."""
    for name, variable in dataset.data_vars.items():
        long_name, unit = SCHEMA[name]
        # What is per unit of alpha says so itself, as only its study knows what alpha counts.
        variable.attrs = {**variable.attrs, "long_name": long_name, "units": variable.attrs.get("units", unit)}
    return dataset
