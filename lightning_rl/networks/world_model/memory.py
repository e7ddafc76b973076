"""Recurrent state of the world model."""

import torch
from jaxtyping import Float32
from torch import Tensor, nn


class Memory(nn.Module):
    """Convolutional recurrent state with the size of a frame, gated as in a GRU.

        s' = g s + (1 − g) tanh(c),   g = σ(f),   [f, c] = conv([x, s])

    Under mixed precision only the convolution runs in lower precision, since rounding errors would accumulate over an
    episode.

    Args:
        channels: channels of a frame.
        size: S, channels of the state.
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.conv = nn.Conv2d(channels + size, 2 * size, 3, padding=1)

    def forward(
        self, inputs: Float32[Tensor, "N {self.conv.in_channels} H W"], state: Float32[Tensor, "N {self.size} H W"]
    ) -> Float32[Tensor, "N {self.size} H W"]:
        """The next state s', given `inputs` [x, s] and the state s."""
        gates, candidates = self.conv(inputs).float().chunk(2, dim=1)
        return torch.lerp(candidates.tanh(), state, gates.sigmoid())
