"""Convolutions of few positions and many channels, computed as one matrix product."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class PatchConv(nn.Conv2d):
    """`nn.Conv2d`, with its weights and initialisation, as a product of patches and kernels.

    Where images are small and channels many, most of a convolution is reading kernels, which oneDNN lays out anew at
    every call. Channels-last kernels are a matrix already: a CPU differentiates this in two thirds of the time.

    Args:
        in_channels: I.
        out_channels: O.
        kernel_size: K, height and width of a kernel.
        stride: from one patch to the next.
        padding: zeros around the image.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, padding=padding)
        self.border = (padding,) * 4
        self.patches = (kernel_size, stride)

    def forward(self, images: Float[Tensor, "N {self.in_channels} H W"]) -> Float[Tensor, "N {self.out_channels} h w"]:
        """The outputs, one for each patch."""
        positions = functional.pad(images, self.border).permute(0, 2, 3, 1)
        patches = positions.unfold(1, *self.patches).unfold(2, *self.patches).permute(0, 1, 2, 4, 5, 3)
        kernels = self.weight.permute(0, 2, 3, 1).flatten(1)
        return functional.linear(patches.flatten(3), kernels, self.bias).permute(0, 3, 1, 2)


class PatchUpConv(nn.ConvTranspose2d):
    """A transposed 4×4 convolution of stride 2 that doubles height and width, with its weights and initialisation.

    Each position's 4×4 patch is one row of a matrix product; patches overlap by half, and are added by halves.

    Args:
        in_channels: I.
        out_channels: O.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 4, stride=2, padding=1)

    def forward(  # type: ignore[override]  # the size of the output is fixed
        self, images: Float[Tensor, "N {self.in_channels} H W"]
    ) -> Float[Tensor, "N {self.out_channels} 2*H 2*W"]:
        """The image of twice the size."""
        assert self.bias is not None
        kernels = self.weight.permute(2, 3, 1, 0).flatten(0, 2)
        patches = functional.linear(images.permute(0, 2, 3, 1), kernels).unflatten(3, (4, 4, -1))
        pixels = _overlapped(_overlapped(patches.transpose(2, 3), 1), 2)
        return (pixels + self.bias.to(pixels.dtype)).permute(0, 3, 1, 2)


def _overlapped(patches: Float[Tensor, "..."], dim: int) -> Tensor:
    """Adds strips of four, along the dimension after `dim`, two by two; cuts one off at each end."""
    first, second = patches.unflatten(dim + 1, (2, 2)).unbind(dim + 1)
    length = patches.shape[dim]
    between = first.narrow(dim, 1, length - 1) + second.narrow(dim, 0, length - 1)
    pairs = torch.cat([first.narrow(dim, 0, 1), between, second.narrow(dim, length - 1, 1)], dim)
    return pairs.flatten(dim, dim + 1).narrow(dim, 1, 2 * length)
