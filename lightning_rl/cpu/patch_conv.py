"""Convolutions of small images with many channels, computed as one matrix product."""

from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class Window(NamedTuple):
    """The sliding window of a convolution."""

    size: int
    """Height and width of a patch; a multiple of the stride."""
    stride: int
    """Distance from one patch to the next."""
    padding: int
    """Width of the border of zeros around the image."""

    def unfold(self, images: Float[Tensor, "N H W C"]) -> Float[Tensor, "N h w P"]:
        """All patches of the images, each a row of P = size² C numbers."""
        border = (self.padding,) * 4
        padded = functional.pad(images, (0, 0, *border)).contiguous()
        patches = padded.unfold(1, self.size, self.stride).unfold(2, self.size, self.stride)
        return patches.permute(0, 1, 2, 4, 5, 3).flatten(3)

    def fold(self, patches: Float[Tensor, "N h w P"], height: int, width: int) -> Float[Tensor, "N {height} {width} C"]:
        """Sums patches into images of this size, at the positions that `unfold` takes them from.

        A patch is K × K cells of stride × stride pixels, K = size / stride. For each of the K² cells, that cell of all
        patches is added at once; torch adds pixel by pixel, which takes several times as long on a CPU.
        """
        count, rows, columns, length = patches.shape
        across = self.size // self.stride
        cells = patches.view(count, rows, columns, across, self.stride, across, self.stride, length // self.size**2)
        sizes = [-(-(size + 2 * self.padding) // self.stride) for size in (height, width)]
        padded = patches.new_zeros(count, sizes[0], self.stride, sizes[1], self.stride, cells.shape[-1])
        for row in range(across):
            for column in range(across):
                target = padded[:, row : row + rows, :, column : column + columns]
                target += cells[:, :, :, row, :, column].transpose(2, 3)
        images = padded.flatten(3, 4).flatten(1, 2)
        return images[:, self.padding : self.padding + height, self.padding : self.padding + width]


class _Unfold(torch.autograd.Function):
    """`Window.unfold`, with `Window.fold` as its gradient."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, window: Window) -> Tensor:
        ctx.window, ctx.size = window, images.shape[1:3]
        return window.unfold(images)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return ctx.window.fold(grad_outputs[0].contiguous(), *ctx.size), None


class _Fold(torch.autograd.Function):
    """`Window.fold`, with `Window.unfold` as its gradient."""

    @staticmethod
    def forward(ctx: Any, patches: Tensor, window: Window, height: int, width: int) -> Tensor:
        ctx.window = window
        return window.fold(patches, height, width)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.window.unfold(grad_outputs[0]), None, None, None


class PatchConv(nn.Conv2d):
    """`nn.Conv2d` computed as a matrix product of patches and kernels.

    The base class's `forward` is the plain reference; it takes the same arguments and weights. With small images and
    many channels a convolution mostly reads kernels, which oneDNN reorders at every call. Channels-last kernels already
    are a matrix, so that forward and backward passes take half the time on a CPU.

    Args:
        in_channels: I.
        out_channels: O.
        kernel_size: K, height and width of a kernel; a multiple of the stride.
        stride: distance from one patch to the next.
        padding: width of the border of zeros around the image.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, padding=padding)
        self.window = Window(kernel_size, stride, padding)

    def forward(self, images: Float[Tensor, "N {self.in_channels} H W"]) -> Float[Tensor, "N {self.out_channels} h w"]:
        """The convolved images."""
        patches: Tensor = cast(Any, _Unfold).apply(images.permute(0, 2, 3, 1), self.window)
        kernels = self.weight.permute(0, 2, 3, 1).flatten(1)
        return functional.linear(patches, kernels, self.bias).permute(0, 3, 1, 2)


class PatchUpConv(nn.ConvTranspose2d):
    """A transposed 4×4 convolution of stride 2 that doubles height and width, computed as a matrix product.

    It equals `nn.ConvTranspose2d(I, O, 4, stride=2, padding=1)`: the base class's `forward` is the plain reference. The
    product gives a 4×4 patch for each position; patches overlap by half and are summed.

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
        pixels: Tensor = cast(Any, _Fold).apply(patches, self.window, 2 * height, 2 * width)
        return (pixels + self.bias.to(pixels.dtype)).permute(0, 3, 1, 2)
