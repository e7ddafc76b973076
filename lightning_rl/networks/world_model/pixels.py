"""Pixels of the world model: standardized inputs, and outputs as distributions or values."""

import math

import torch
from einops import rearrange
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn

from lightning_rl.networks.output_linear import OutputLinear

NUM_VALUES = 256
"""Number of values of a sub-pixel."""

_GRAY_LEVELS = 64.0
"""Predicted change of a sub-pixel for an output of one. Adam's step of 1e-3 on each of about 32 weights then changes it
by two gray levels, which the loss ignores. With 16, a small model learned moving squares half as fast."""


class PixelLogits(nn.Module):
    """A distribution over the values of each sub-pixel.

    It is computed in float32 even under mixed precision, since the largest of bfloat16 logits would often be a tie.

    Args:
        hidden: D, channels of the decoder's output.
        channels: C, channels of a frame.
    """

    def __init__(self, hidden: int, channels: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.dense = OutputLinear(hidden, channels * NUM_VALUES)

    def forward(
        self, images: Float[Tensor, "N {self.hidden} H W"], newest: UInt8[Tensor, "N H W C"]
    ) -> Float32[Tensor, "N H W C 256"]:
        """Logits; only the shape of the newest frame is used."""
        logits: Tensor = self.dense(images.permute(0, 2, 3, 1))
        return logits.float().view(*newest.shape, NUM_VALUES)


class PixelValues(nn.Module):
    """The value of each sub-pixel: that of the newest frame plus 64 gray levels times the network's output.

    The change may be in bfloat16, with a relative error below half a percent; the sum is in float32.

    Args:
        hidden: D, channels of the decoder's output.
        channels: C, channels of a frame.
    """

    def __init__(self, hidden: int, channels: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.dense = nn.Linear(hidden, channels)

    def initialize(self) -> None:
        """Draws small weights: the first changes are of about two gray levels, which the loss ignores."""
        bound = 0.025 * math.sqrt(3 / self.hidden)
        nn.init.uniform_(self.dense.weight, -bound, bound)

    def forward(
        self, images: Float[Tensor, "N {self.hidden} H W"], newest: UInt8[Tensor, "N H W C"]
    ) -> Float32[Tensor, "N H W C 1"]:
        """Values, about 0 to 255."""
        change = self.dense(images.permute(0, 2, 3, 1)).float()
        return torch.add(newest, change, alpha=_GRAY_LEVELS).unsqueeze(-1)


def standardized(obs: UInt8[Tensor, "N H W K"]) -> Float32[Tensor, "N K H W"]:
    """Frames with mean zero and std one in each channel; a std below 1/√(H W) counts as 1/√(H W).

    Reference:
        tensor2tensor, common_layers.py, `standardize_images`
    """
    pixels = obs.flatten(1, 2).float()
    centered = pixels - pixels.mean(1, keepdim=True)
    std = centered.square().mean(1, keepdim=True).sqrt()
    images = centered / std.clamp(min=pixels.shape[1] ** -0.5)
    return rearrange(images, "n (h w) k -> n k h w", h=obs.shape[1])


def most_likely_frames(
    frames: Float32[Tensor, "N H W C V"], newest: UInt8[Tensor, "N H W C"], *, tolerance: float = 0.0
) -> UInt8[Tensor, "N H W C"]:
    """The most likely frames of a prediction: each sub-pixel's most likely value, or the predicted value, rounded.

    Args:
        frames: logits of values, or the predicted values.
        newest: the frames before.
        tolerance: largest predicted change that is treated as zero; logits are not affected. Small errors, which a loss
            with a cutoff ignores, would otherwise accumulate in imagined play: backgrounds changed color within fifty
            steps. In return, slow fades do not move.
    """
    if frames.shape[-1] == NUM_VALUES:
        return frames.argmax(-1).to(torch.uint8)
    values = frames.squeeze(-1)
    rounded = values.round().clamp(0, NUM_VALUES - 1).to(torch.uint8)
    return torch.where((values - newest).abs() <= tolerance, newest, rounded)
