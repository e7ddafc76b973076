"""The last layer of every head."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class OutputLinear(nn.Linear):
    """A dense layer that computes in float32 under mixed precision, too.

    A bfloat16 number has 8 significant bits: values near 100 would come in steps of a half, and an intrinsic reward,
    the scaled difference of two outputs, would be rounding noise before long. Layers before it average their noise out.
    """

    def forward(self, features: Float[Tensor, "... D"]) -> Float[Tensor, "... O"]:
        """The outputs."""
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(features.to(self.weight.dtype))
