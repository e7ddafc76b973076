"""Observation normalization by the running mean and standard deviation of every pixel."""

from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn


class PixelNormalizer(nn.Module):
    """Normalizes frames to (frame − mean) / std per pixel and channel, clipped.

    Sums are integers, so they are exact, do not depend on the order or grouping of frames, and can be added over ranks.

    Args:
        obs_shape: height, width and channels of a frame.
        max_abs: bound on the absolute normalized pixels.

    Reference:
        Burda et al. 2018, section 2.4 (clip 5), https://arxiv.org/abs/1810.12894
    """

    totals: Tensor
    squared_totals: Tensor
    count: Tensor

    def __init__(self, obs_shape: Sequence[int], *, max_abs: float = 5.0) -> None:
        super().__init__()
        self.max_abs = max_abs
        self.register_buffer("totals", torch.zeros(tuple(obs_shape), dtype=torch.int64))
        self.register_buffer("squared_totals", torch.zeros(tuple(obs_shape), dtype=torch.int64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, obs: UInt8[Tensor, "N H W C"], total: Callable[[Tensor], Tensor] = lambda own: own) -> None:
        """Adds frames to the running statistics.

        Args:
            obs: frames.
            total: sums a tensor over ranks; by default there is one rank.
        """
        sums, squares = torch.zeros_like(self.totals), torch.zeros_like(self.squared_totals)
        for chunk in obs.split(256):  # the squares need four bytes per pixel, so they are computed in chunks
            sums += chunk.sum(0, dtype=torch.int64)
            squares += chunk.int().square_().sum(0, dtype=torch.int64)
        self.totals += total(sums)
        self.squared_totals += total(squares)
        self.count += total(torch.full_like(self.count, len(obs)))

    def forward(self, obs: UInt8[Tensor, "N H W C"]) -> Float[Tensor, "N C H W"]:
        """Normalized images; before the first `update`, frames are only scaled to 0..1."""
        count = self.count.clamp(min=1)  # without frames the totals are zero
        mean = self.totals.double() / count
        variance = (self.squared_totals.double() / count - mean.square()).clamp_(min=0)
        # at least one gray level, so that the first change of a constant pixel stays finite
        std = variance.sqrt_().clamp_(min=1.0)
        std = torch.where(self.count > 0, std, 255.0)  # chosen on the device, which a condition here would wait for
        normalized = (obs - mean.float()).div_(std.float()).clamp_(-self.max_abs, self.max_abs)
        return rearrange(normalized, "n h w c -> n c h w")
