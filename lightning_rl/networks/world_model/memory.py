"""What a model remembers of the frames before the last."""

import torch
from jaxtyping import Float32
from torch import Tensor, nn


class Memory(nn.Module):
    """A state of the frames' size, updated as a gated recurrent unit is, by one 3×3 convolution of state and frame.

        s' = g s + (1 − g) tanh(c),   g = σ(f),   [f, c] = conv([x, s])

    In float32 under mixed precision, too, but for the convolution: rounding would add up over an episode.

    Args:
        channels: of a frame.
        size: S, channels of the state.
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.conv = nn.Conv2d(channels + size, 2 * size, 3, padding=1)

    def forward(
        self, known: Float32[Tensor, "N {self.conv.in_channels} H W"], state: Float32[Tensor, "N {self.size} H W"]
    ) -> Float32[Tensor, "N {self.size} H W"]:
        """The next state, of frame and state beside each other and the state again."""
        gates, candidates = self.conv(known).float().chunk(2, dim=1)
        return torch.lerp(candidates.tanh(), state, gates.sigmoid())
