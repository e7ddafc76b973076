"""Convolutions of few positions and many channels, computed as one matrix product."""

from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class Window(NamedTuple):
    """Which patches of an image a convolution sees."""

    size: int
    """Height and width of a patch; a multiple of the stride."""
    stride: int
    """From one patch to the next."""
    padding: int
    """Zeros around the image."""

    def patches(self, images: Float[Tensor, "N H W C"]) -> Float[Tensor, "N h w P"]:
        """All patches, each a row of P = size² C numbers."""
        border = (self.padding,) * 4
        padded = functional.pad(images, (0, 0, *border)).contiguous()
        patches = padded.unfold(1, self.size, self.stride).unfold(2, self.size, self.stride)
        return patches.permute(0, 1, 2, 4, 5, 3).flatten(3)

    def overlapped(
        self, patches: Float[Tensor, "N h w P"], height: int, width: int
    ) -> Float[Tensor, "N {height} {width} C"]:
        """The sum of patches at the places that `patches` takes them from, in an image of this size.

        A patch is K × K cells of stride × stride pixels, K = size / stride. All patches' cells at one place of the K²
        are added at once: what torch does itself, pixel by pixel, takes several times as long on a CPU.
        """
        count, rows, columns, length = patches.shape
        across = self.size // self.stride
        cells = patches.view(count, rows, columns, across, self.stride, across, self.stride, length // self.size**2)
        sizes = [-(-(size + 2 * self.padding) // self.stride) for size in (height, width)]
        image = patches.new_zeros(count, sizes[0], self.stride, sizes[1], self.stride, cells.shape[-1])
        for row in range(across):
            for column in range(across):
                place = image[:, row : row + rows, :, column : column + columns]
                place += cells[:, :, :, row, :, column].transpose(2, 3)
        whole = image.flatten(3, 4).flatten(1, 2)
        return whole[:, self.padding : self.padding + height, self.padding : self.padding + width]


class _Patches(torch.autograd.Function):
    """`Window.patches`, whose gradient `Window.overlapped` is."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, window: Window) -> Tensor:
        ctx.window, ctx.size = window, images.shape[1:3]
        return window.patches(images)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return ctx.window.overlapped(grad_outputs[0].contiguous(), *ctx.size), None


class _Overlapped(torch.autograd.Function):
    """`Window.overlapped`, whose gradient `Window.patches` is."""

    @staticmethod
    def forward(ctx: Any, patches: Tensor, window: Window, height: int, width: int) -> Tensor:
        ctx.window = window
        return window.overlapped(patches, height, width)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.window.patches(grad_outputs[0]), None, None, None


class PatchConv(nn.Conv2d):
    """`nn.Conv2d`, with its weights and initialisation, as a product of patches and kernels.

    Where images are small and channels many, most of a convolution is reading kernels, which oneDNN lays out anew at
    every call. Channels-last kernels are a matrix already: a CPU differentiates this in half of the time.

    Args:
        in_channels: I.
        out_channels: O.
        kernel_size: K, height and width of a kernel; a multiple of the stride.
        stride: from one patch to the next.
        padding: zeros around the image.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, padding=padding)
        self.window = Window(kernel_size, stride, padding)

    def forward(self, images: Float[Tensor, "N {self.in_channels} H W"]) -> Float[Tensor, "N {self.out_channels} h w"]:
        """The outputs, one for each patch."""
        patches: Tensor = cast(Any, _Patches).apply(images.permute(0, 2, 3, 1), self.window)
        kernels = self.weight.permute(0, 2, 3, 1).flatten(1)
        return functional.linear(patches, kernels, self.bias).permute(0, 3, 1, 2)


class PatchUpConv(nn.ConvTranspose2d):
    """A transposed 4×4 convolution of stride 2 that doubles height and width, with its weights and initialisation.

    Each position's 4×4 patch is one row of a matrix product; patches overlap by half, and are added.

    Args:
        in_channels: I.
        out_channels: O.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 4, stride=2, padding=1)
        self.window = Window(4, 2, 1)

    def forward(  # type: ignore[override]  # the size of the output is fixed
        self, images: Float[Tensor, "N {self.in_channels} H W"]
    ) -> Float[Tensor, "N {self.out_channels} 2*H 2*W"]:
        """The image of twice the size."""
        assert self.bias is not None
        kernels = self.weight.permute(2, 3, 1, 0).flatten(0, 2)
        patches = functional.linear(images.permute(0, 2, 3, 1), kernels)
        height, width = images.shape[2:]
        pixels: Tensor = cast(Any, _Overlapped).apply(patches, self.window, 2 * height, 2 * width)
        return (pixels + self.bias.to(pixels.dtype)).permute(0, 3, 1, 2)
