"""The steps of an encoder and decoder of images: halving, doubling, and what is between."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lightning_rl.cpu.channel_norm import ChannelNorm
from lightning_rl.cpu.patch_conv import PatchConv, PatchUpConv
from lightning_rl.networks.dropout import dropped_out
from lightning_rl.networks.world_model.injection import Injection
from lightning_rl.networks.world_model.timing_signal import TimingSignal

_FEW = 16
"""Rows or columns of an image, up to which patches are quicker; measured with the channels of small models."""


class Down(nn.Module):
    """Halves an image: dropout, padding to even size, timing signal, 4×4 convolution of stride 2, relu, normalisation.

    Args:
        size: height and width of the image.
        channels: before and after.
        dropout: probability of dropping a feature while learning.
    """

    def __init__(self, size: tuple[int, int], channels: tuple[int, int], *, dropout: float) -> None:
        super().__init__()
        self.padding = (0, size[1] % 2, 0, size[0] % 2)
        self.dropout = dropout
        self.timing = TimingSignal(size[0] + size[0] % 2, size[1] + size[1] % 2, channels[0])
        self.conv = (PatchConv if max(size) <= _FEW else nn.Conv2d)(*channels, 4, stride=2, padding=1)
        self.norm = ChannelNorm(channels[1])

    def forward(self, images: Float[Tensor, "N C H W"], generator: torch.Generator | None) -> Tensor:
        """The image of half the size."""
        images = dropped_out(images, self.dropout, generator)
        if any(self.padding):
            images = functional.pad(images, self.padding)
        halved: Tensor = self.norm(self.conv(self.timing(images)))
        return halved


class Up(nn.Module):
    """Doubles an image: dropout, action, transposed 4×4 convolution of stride 2, relu, skipped image, normalisation.

    What padding to even size added is cut off before the skipped image is added; a timing signal comes last.

    Args:
        size: height and width of the skipped image.
        channels: before and after; the skipped image has those after.
        num_actions: A.
        dropout: probability of dropping a feature while learning.
    """

    def __init__(self, size: tuple[int, int], channels: tuple[int, int], num_actions: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.action = Injection(num_actions, channels[0])
        # as sub-pixels of an ordinary convolution, see `sub_pixel`, these kernels are no quicker on a CPU in bfloat16
        few = max(size) <= _FEW
        self.conv = PatchUpConv(*channels) if few else nn.ConvTranspose2d(*channels, 4, stride=2, padding=1)
        self.norm = ChannelNorm(channels[1])
        self.timing = TimingSignal(*size, channels[1])

    def forward(
        self,
        images: Float[Tensor, "N C h w"],
        skipped: Float[Tensor, "N D H W"],
        actions: Float[Tensor, "N A"],
        generator: torch.Generator | None,
    ) -> Tensor:
        """The image of twice the size."""
        images = self.action(dropped_out(images, self.dropout, generator), actions)
        doubled = self.conv(images)[:, :, : skipped.shape[2], : skipped.shape[3]]
        located: Tensor = self.norm(doubled, skipped, self.timing.signal)
        return located


class Middle(nn.Module):
    """3×3 convolutions at the bottleneck: the first replaces it, each of the others adds to it and normalises the sum.

    Args:
        size: height and width of the image.
        channels: C.
        num_layers: how many.
        dropout: probability of dropping an input of a convolution while learning.
    """

    def __init__(self, size: tuple[int, int], channels: int, num_layers: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        kind = PatchConv if max(size) <= _FEW else nn.Conv2d
        self.convs = nn.ModuleList(kind(channels, channels, 3, padding=1) for _ in range(num_layers))
        self.norms = nn.ModuleList(ChannelNorm(channels) for _ in range(num_layers - 1))

    def forward(self, images: Float[Tensor, "N C H W"], generator: torch.Generator | None) -> Tensor:
        """The image, of the same size."""
        for index, conv in enumerate(self.convs):
            change = conv(dropped_out(images, self.dropout, generator))
            images = self.norms[index - 1](change, images) if index else change.relu()
        return images
