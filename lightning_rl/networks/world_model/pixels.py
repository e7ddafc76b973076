"""Frames into a network, standardised, and out of it, as distributions or as values."""

import torch
from einops import rearrange
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn

from lightning_rl.networks.output_linear import OutputLinear

NUM_VALUES = 256
"""Values of a sub-pixel."""

_GREY_LEVELS = 64.0
"""What an output of one changes a sub-pixel by, where values are predicted: Adam's step of 1e-3 for each of some 32
weights changes it by two, which the loss forgives. With 16, a small model learned moving squares half as fast."""


class PixelLogits(nn.Module):
    """A distribution over the values of each sub-pixel.

    In float32 under mixed precision, too: the best of bfloat16 logits would often be a tie.

    Args:
        hidden: D, channels of the last image.
        channels: C, of a frame.

    Attributes:
        gain: of the weights at the start.
    """

    gain = 1.3

    def __init__(self, hidden: int, channels: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.dense = OutputLinear(hidden, channels * NUM_VALUES)

    def forward(
        self, images: Float[Tensor, "N {self.hidden} H W"], newest: UInt8[Tensor, "N H W C"]
    ) -> Float32[Tensor, "N H W C 256"]:
        """Logits; the newest frame is not looked at."""
        logits: Tensor = self.dense(images.permute(0, 2, 3, 1))
        return logits.float().view(*newest.shape, NUM_VALUES)


class PixelValues(nn.Module):
    """The value of each sub-pixel: that of the newest frame, and 64 grey levels times what the network gives.

    The change may be in bfloat16, wrong by less than half a percent of itself; the sum is in float32.

    Args:
        hidden: D, channels of the last image.
        channels: C, of a frame.

    Attributes:
        gain: of the weights at the start, for changes of two grey levels, which the loss forgives.
    """

    gain = 0.025

    def __init__(self, hidden: int, channels: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.dense = nn.Linear(hidden, channels)

    def forward(
        self, images: Float[Tensor, "N {self.hidden} H W"], newest: UInt8[Tensor, "N H W C"]
    ) -> Float32[Tensor, "N H W C 1"]:
        """Values, 0 to 255 and a bit beyond."""
        change = self.dense(images.permute(0, 2, 3, 1)).float()
        return torch.add(newest, change, alpha=_GREY_LEVELS).unsqueeze(-1)


def standardized(obs: UInt8[Tensor, "N H W K"]) -> Float32[Tensor, "N K H W"]:
    """Each channel of each image with mean zero and deviation one, but for deviations below 1/√(H W).

    Reference:
        tensor2tensor, common_layers.py, `standardize_images`
    """
    pixels = obs.flatten(1, 2).float()
    centred = pixels - pixels.mean(1, keepdim=True)
    deviations = centred.square().mean(1, keepdim=True).sqrt()
    standard = centred / deviations.clamp(min=pixels.shape[1] ** -0.5)
    return rearrange(standard, "n (h w) k -> n k h w", h=obs.shape[1])


def most_likely_frames(
    frames: Float32[Tensor, "N H W C V"], newest: UInt8[Tensor, "N H W C"], *, tolerance: float = 0.0
) -> UInt8[Tensor, "N H W C"]:
    """The frame that a prediction holds likeliest: each sub-pixel's best value, or the value itself, rounded.

    Args:
        frames: logits of values, or the values themselves.
        newest: the frame before.
        tolerance: a value that is no further from the newest frame's is that one; logits take no notice. What a loss
            with a cutoff forgives at each step would add up in imagined play, where backgrounds took other colours in
            fifty steps. The price is that slow fades stand still.
    """
    if frames.shape[-1] == NUM_VALUES:
        return frames.argmax(-1).to(torch.uint8)
    values = frames.squeeze(-1)
    rounded = values.round().clamp(0, NUM_VALUES - 1).to(torch.uint8)
    return torch.where((values - newest).abs() <= tolerance, newest, rounded)
