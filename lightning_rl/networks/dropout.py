"""Dropout whose randomness is an argument."""

import torch
from jaxtyping import Float
from torch import Tensor


def dropped_out(
    features: Float[Tensor, "*shape"], probability: float, generator: torch.Generator | None
) -> Float[Tensor, "*shape"]:
    """Inverted dropout whose randomness is an argument; without a generator, the features themselves.

    `nn.Dropout` draws from the process's one generator, so threads that work on micro-batches would race for it, and it
    switches itself on by a mode flag that acting must not forget.

    A feature is dropped where 16 random bits are below the probability: four masks come from one 64-bit number, where
    `bernoulli_` draws one number for each, and drawing would take a CPU as long as a convolution.

    Args:
        features: what is dropped from.
        probability: of dropping one, to the nearest 2⁻¹⁶.
        generator: on the features' device.

    Returns:
        Zero where dropped, else divided by 1 − probability; of the features' precision and memory layout.

    Reference:
        Srivastava et al. 2014, Dropout: a simple way to prevent neural networks from overfitting, section 10
    """
    if generator is None or probability == 0:
        return features
    keep = 1 - probability
    bits = torch.empty(-(-features.numel() // 4), dtype=torch.int64, device=features.device)
    bits.random_(-(2**63), None, generator=generator)
    kept = bits.view(torch.int16)[: features.numel()] >= round(probability * 2**16) - 2**15
    # the mask lies in memory as the features do, or channels-last images would be walked through in two orders
    mask = torch.empty_like(features, requires_grad=False)
    mask.as_strided((features.numel(),), (1,)).copy_(kept)
    return features * mask / keep
