"""Transposed convolutions, computed as convolutions of small images with many channels."""

from typing import Any, cast

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class _Shuffled(torch.autograd.Function):
    """`SubPixelShuffle`; its gradient is channels_last as well, which autograd's own would not be."""

    @staticmethod
    def forward(ctx: Any, sub_pixels: Tensor) -> Tensor:  # noqa: ARG004  # torch's
        return rearrange(sub_pixels, "n (a b o) h w -> n (h a) (w b) o", a=2, b=2).movedim(-1, 1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:  # noqa: ARG004
        (pixels,) = grad_outputs
        return rearrange(pixels, "n o (h a) (w b) -> n h w (a b o)", a=2, b=2).movedim(-1, 1)


class SubPixelShuffle(nn.Module):
    """Lays the 2×2 sub-pixels of each pixel out as pixels.

    What `nn.PixelShuffle(2)` does, but for channels in another order: those of one sub-pixel stand together. In
    channels_last memory that moves runs of them, where PixelShuffle picks one number here and one there.
    """

    def forward(self, sub_pixels: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C/4 2*H 2*W"]:
        """The images of twice the height and width; C = 4 O, channel o at row a, column b being (2 a + b) O + o."""
        pixels: Tensor = cast(Any, _Shuffled).apply(sub_pixels)
        return pixels


class UpConv(nn.ConvTranspose2d):
    """A transposed 3×3 convolution of stride 2 that doubles height and width, with its outputs as sub-pixels.

    Every other row of the output is made by the kernel's middle row alone, the rows between by the two others, and so
    for columns: the 2×2 sub-pixels of an input pixel are channels of an ordinary 2×2 convolution, which a CPU
    differentiates in half the time. `SubPixelShuffle` after it gives the very output of `nn.ConvTranspose2d`, whose
    weights and initialisation these are.

    Args:
        in_channels: I, channels of the input.
        out_channels: O, channels of the output.

    Reference:
        Shi et al. 2016, Is the deconvolution layer the same as a convolutional layer?, https://arxiv.org/abs/1609.07009
    """

    taps: Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1)
        # [a, m, k]: sub-pixel a of pixel i takes what pixel i + m gives through the kernel's row k
        taps = torch.zeros(2, 2, 3)
        taps[0, 0, 1] = taps[1, 0, 2] = taps[1, 1, 0] = 1
        self.register_buffer("taps", taps, persistent=False)

    def forward(  # type: ignore[override]  # the size of the output is fixed
        self, images: Float[Tensor, "N {self.in_channels} H W"]
    ) -> Float[Tensor, "N {4*self.out_channels} H W"]:
        """The sub-pixels: channel o at row a, column b of the 2×2 is channel (2 a + b) O + o."""
        assert self.bias is not None
        with torch.autocast(images.device.type, enabled=False):
            kernel = torch.einsum("iokl,amk,bnl->aboimn", self.weight, self.taps, self.taps).flatten(0, 2)
        kernel = kernel.contiguous(memory_format=torch.channels_last)
        return functional.conv2d(functional.pad(images, (0, 1, 0, 1)), kernel, self.bias.repeat(4))


class SubPixelConv(nn.ConvTranspose2d):
    """A transposed 3×3 convolution of stride 1 that keeps height and width, of images that are still sub-pixels.

    `SubPixelConv(I, O)(x)` is `nn.ConvTranspose2d(I, O, 3, padding=1)(SubPixelShuffle()(x))`, with its weights and
    initialisation. With few output channels that wastes most of a processor's vector units; here they are four times as
    many.

    Args:
        in_channels: I, channels of the input after shuffling.
        out_channels: O, channels of the output.
    """

    taps: Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)
        # [a, p, d, k]: sub-pixel a of pixel i takes what sub-pixel p of pixel i + d - 1 gives through row k
        taps = torch.zeros(2, 2, 3, 3)
        for a in range(2):
            for k in range(3):
                pixel, p = divmod(a + 1 - k, 2)
                taps[a, p, pixel + 1, k] = 1
        self.register_buffer("taps", taps, persistent=False)

    def forward(  # type: ignore[override]  # the size of the output is fixed
        self, sub_pixels: Float[Tensor, "N {4*self.in_channels} H W"]
    ) -> Float[Tensor, "N {self.out_channels} 2*H 2*W"]:
        """The images."""
        assert self.bias is not None
        with torch.autocast(sub_pixels.device.type, enabled=False):
            kernel = torch.einsum("iokl,apdk,bqel->oabpqide", self.weight, self.taps, self.taps)
        kernel = kernel.flatten(3, 5).flatten(0, 2).contiguous(memory_format=torch.channels_last)
        convolved = functional.conv2d(sub_pixels, kernel, self.bias.repeat_interleave(4), padding=1)
        return functional.pixel_shuffle(convolved, 2)
