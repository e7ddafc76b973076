"""Dropout with an explicit random generator."""

import torch
from jaxtyping import Float
from torch import Tensor


def dropout(
    features: Float[Tensor, "*shape"], probability: float, generator: torch.Generator | None
) -> Float[Tensor, "*shape"]:
    """Inverted dropout with an explicit generator; without one, features are returned unchanged.

    `nn.Dropout` draws from the global generator, where threads that work on micro-batches would race, and depends on a
    mode flag that must be cleared before acting.

    A feature is dropped where 16 random bits are below the probability, so that one 64-bit random number serves four
    features. `bernoulli_` draws one number per feature, which takes a CPU as long as a convolution.

    Args:
        features: the input.
        probability: probability of dropping a feature, rounded to a multiple of 2⁻¹⁶.
        generator: on the features' device; None for no dropout.

    Returns:
        Zero where dropped, else the feature divided by 1 − probability, in the same precision and memory format.

    Reference:
        Srivastava et al. 2014, Dropout: a simple way to prevent neural networks from overfitting, section 10
    """
    if generator is None or probability == 0:
        return features
    keep = 1 - probability
    bits = torch.empty(-(-features.numel() // 4), dtype=torch.int64, device=features.device)
    bits.random_(-(2**63), None, generator=generator)
    kept = bits.view(torch.int16)[: features.numel()] >= round(probability * 2**16) - 2**15
    # in the features' memory format, so that the product below reads both in one order
    mask = torch.empty_like(features, requires_grad=False)
    mask.as_strided((features.numel(),), (1,)).copy_(kept)
    return features * mask / keep
