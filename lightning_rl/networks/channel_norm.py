"""Layer normalisation of every position of an image."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class ChannelNorm(nn.LayerNorm):
    """Normalises each position over its channels alone, so that an image of one pixel has a normal form, too.

    `torch.nn.GroupNorm` and `InstanceNorm2d` normalise over positions, and leave nothing of a 1×1 image.

    Args:
        channels: C.

    Reference:
        Ba et al. 2016, Layer normalization, https://arxiv.org/abs/1607.06450; tensor2tensor, common_layers.py,
        `layer_norm`, for ε
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, images: Float[Tensor, "N {self.normalized_shape[0]} H W"]) -> Float[Tensor, "N C H W"]:
        """The images, normalised, in their own precision."""
        # the view of channels-last images copies nothing, and weights of another precision would double a CPU's time
        with torch.autocast(images.device.type, enabled=False):
            weight, bias = self.weight.to(images.dtype), self.bias.to(images.dtype)
            normalised = functional.layer_norm(
                images.permute(0, 2, 3, 1), self.normalized_shape, weight, bias, self.eps
            )
        return normalised.permute(0, 3, 1, 2)
