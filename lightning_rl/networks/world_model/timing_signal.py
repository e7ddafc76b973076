"""Sinusoidal position encoding of images."""

import math

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

_MAX_TIMESCALE = 1e4  # positions per radian of the slowest sinusoid, as in tensor2tensor


def timing_signal(height: int, width: int, channels: int) -> Float32[Tensor, "H W C"]:
    """Sines and cosines of the row in the first half of the channels, and of the column in the second.

        sin(y / s_k), cos(y / s_k), sin(x / s_k), cos(x / s_k),   s_k = 10⁴^(k / (K − 1)),   K = C // 4

    Args:
        height: H.
        width: W.
        channels: C; the last C mod 4 channels are zero.

    Returns:
        The signal.

    Reference:
        Vaswani et al. 2017, Attention is all you need, section 3.5, https://arxiv.org/abs/1706.03762; tensor2tensor,
        common_attention.py, `add_timing_signal_nd`
    """
    num_scales = channels // 4
    rates = torch.exp(-math.log(_MAX_TIMESCALE) * torch.arange(num_scales) / max(1, num_scales - 1))
    signal = torch.zeros(height, width, channels)
    for axis, length in enumerate((height, width)):
        angles = torch.arange(length).unsqueeze(-1) * rates
        waves = torch.cat([angles.sin(), angles.cos()], dim=-1).unsqueeze(1 - axis)
        signal[..., 2 * num_scales * axis : 2 * num_scales * (axis + 1)] = waves
    return signal


class TimingSignal(nn.Module):
    """Adds `timing_signal` to images of one size.

    Args:
        height: H.
        width: W.
        channels: C.
    """

    signal: Tensor

    def __init__(self, height: int, width: int, channels: int) -> None:
        super().__init__()
        signal = timing_signal(height, width, channels).permute(2, 0, 1)  # in the memory format of channels_last images
        self.register_buffer("signal", signal, persistent=False)

    def forward(self, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
        """The images plus the signal, in the images' precision."""
        return images + self.signal.to(images.dtype)
