"""The output layer of network heads."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class OutputLinear(nn.Linear):
    """A dense layer that computes in float32 even under mixed precision.

    bfloat16 has 8 significant bits: values near 100 would be rounded to steps of one half, and an intrinsic reward,
    which is the scaled difference of two outputs, would soon be rounding noise. In earlier layers the noise averages
    out.
    """

    def forward(self, features: Float[Tensor, "... D"]) -> Float[Tensor, "... O"]:
        """The outputs."""
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(features.to(self.weight.dtype))
