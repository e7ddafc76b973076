"""Layers of the world model's image encoder and decoder."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lightning_rl.cpu.channel_norm import ChannelNorm
from lightning_rl.cpu.patch_conv import PatchConv, PatchUpConv
from lightning_rl.networks.dropout import dropout
from lightning_rl.networks.world_model.injection import Injection
from lightning_rl.networks.world_model.timing_signal import TimingSignal

_MAX_PATCH_SIZE = 16
"""Largest height and width at which patch convolutions are faster, measured with the channels of small models."""


class Down(nn.Module):
    """Halves an image: dropout, padding to even size, timing signal, 4×4 convolution of stride 2, relu, normalization.

    Args:
        size: height and width of the image.
        channels: channels of the input and of the output.
        dropout: probability of dropping a feature during training.
    """

    def __init__(self, size: tuple[int, int], channels: tuple[int, int], *, dropout: float) -> None:
        super().__init__()
        self.padding = (0, size[1] % 2, 0, size[0] % 2)
        self.dropout = dropout
        self.timing = TimingSignal(size[0] + size[0] % 2, size[1] + size[1] % 2, channels[0])
        self.conv = (PatchConv if max(size) <= _MAX_PATCH_SIZE else nn.Conv2d)(*channels, 4, stride=2, padding=1)
        self.norm = ChannelNorm(channels[1])

    def forward(self, images: Float[Tensor, "N C H W"], generator: torch.Generator | None) -> Tensor:
        """The image at half the size."""
        images = dropout(images, self.dropout, generator)
        if any(self.padding):
            images = functional.pad(images, self.padding)
        halved: Tensor = self.norm(self.conv(self.timing(images)))
        return halved


class Up(nn.Module):
    """Doubles an image: dropout, action, transposed 4×4 convolution of stride 2, relu, skip connection, normalization.

    The convolution's output is cropped to the size of the skipped image, and a timing signal is added at the end.

    Args:
        size: height and width of the skipped image.
        channels: channels of the input and of the output; the skipped image has those of the output.
        num_actions: A.
        dropout: probability of dropping a feature during training.
    """

    def __init__(self, size: tuple[int, int], channels: tuple[int, int], num_actions: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.action = Injection(num_actions, channels[0])
        # a sub-pixel convolution, see `sub_pixel`, is no faster for these kernels on a CPU in bfloat16
        small = max(size) <= _MAX_PATCH_SIZE
        self.conv = PatchUpConv(*channels) if small else nn.ConvTranspose2d(*channels, 4, stride=2, padding=1)
        self.norm = ChannelNorm(channels[1])
        self.timing = TimingSignal(*size, channels[1])

    def forward(
        self,
        images: Float[Tensor, "N C h w"],
        skipped: Float[Tensor, "N D H W"],
        actions: Float[Tensor, "N A"],
        generator: torch.Generator | None,
    ) -> Tensor:
        """The image at twice the size."""
        images = self.action(dropout(images, self.dropout, generator), actions)
        doubled = self.conv(images)[:, :, : skipped.shape[2], : skipped.shape[3]]
        output: Tensor = self.norm(doubled, skipped, self.timing.signal)
        return output


class Middle(nn.Module):
    """3×3 convolutions at the bottleneck; all but the first are residual and followed by normalization.

    Args:
        size: height and width of the image.
        channels: C.
        num_layers: number of convolutions.
        dropout: probability of dropping an input of a convolution during training.
    """

    def __init__(self, size: tuple[int, int], channels: int, num_layers: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        kind = PatchConv if max(size) <= _MAX_PATCH_SIZE else nn.Conv2d
        self.convs = nn.ModuleList(kind(channels, channels, 3, padding=1) for _ in range(num_layers))
        self.norms = nn.ModuleList(ChannelNorm(channels) for _ in range(num_layers - 1))

    def forward(self, images: Float[Tensor, "N C H W"], generator: torch.Generator | None) -> Tensor:
        """The image at the same size."""
        for index, conv in enumerate(self.convs):
            residual = conv(dropout(images, self.dropout, generator))
            images = self.norms[index - 1](residual, images) if index else residual.relu()
        return images
