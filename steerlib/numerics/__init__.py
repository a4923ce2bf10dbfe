"""Arrays in, arrays out: directions, what they separate, covariances, slopes, onsets.

No models, and no files but a published decoder's (`methods.autoencoder`). May import files; study (for the names of
methods), model, steering, stages, results, figures and running may import this one.
"""

__all__ = [
    "covariance",
    "devices",
    "directions",
    "erasure",
    "labels",
    "methods",
    "onsets",
    "products",
    "replicates",
    "separability",
    "statistics",
]
