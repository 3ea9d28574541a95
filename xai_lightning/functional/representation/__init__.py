"""Representations of layers: rank, similarity, selectivity of single units, and attention of heads.

Everything is computed in float64 from a bounded sample of activations, a matrix float[N, U] with one row per sample;
the memory needed is known beforehand (:func:`bytes_needed`). In this package M is the number of layers.
"""

from xai_lightning.functional.representation.attention import (
    COLLAPSED_BELOW,
    UNIFORM_ABOVE,
    attention_bytes_needed,
    attention_entropy,
    collapsed_heads,
    first_token_share,
    head_similarity,
    uniform_heads,
)
from xai_lightning.functional.representation.matrix import bytes_needed, per_sample, sample_matrix
from xai_lightning.functional.representation.outliers import massive_activations
from xai_lightning.functional.representation.rank import (
    effective_rank,
    effective_rank_centred,
    layer_saturation,
    participation_ratio,
    rank_statistics,
    spectrum,
    stable_rank,
)
from xai_lightning.functional.representation.selectivity import (
    GroupSelectivity,
    class_selectivity,
    class_sums,
    group_selectivity,
    largest_by_chance,
    most_selective,
    top_samples,
)
from xai_lightning.functional.representation.similarity import cka, cka_matrix, hsic, kernel, linear_cka
from xai_lightning.functional.representation.weights import relative_update, weight_histogram, weight_norm

__all__ = [
    "COLLAPSED_BELOW",
    "UNIFORM_ABOVE",
    "GroupSelectivity",
    "attention_bytes_needed",
    "attention_entropy",
    "bytes_needed",
    "cka",
    "cka_matrix",
    "class_selectivity",
    "class_sums",
    "collapsed_heads",
    "effective_rank",
    "effective_rank_centred",
    "first_token_share",
    "group_selectivity",
    "head_similarity",
    "hsic",
    "kernel",
    "largest_by_chance",
    "layer_saturation",
    "linear_cka",
    "massive_activations",
    "most_selective",
    "participation_ratio",
    "per_sample",
    "rank_statistics",
    "relative_update",
    "sample_matrix",
    "spectrum",
    "stable_rank",
    "top_samples",
    "uniform_heads",
    "weight_histogram",
    "weight_norm",
]
