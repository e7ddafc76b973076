"""Transposed convolutions, computed as convolutions of smaller images with four times the channels."""

from typing import Any, cast

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class _Shuffle(torch.autograd.Function):
    """`SubPixelShuffle` with a channels_last gradient, which autograd's own would not be."""

    @staticmethod
    def forward(ctx: Any, sub_pixels: Tensor) -> Tensor:  # noqa: ARG004  # torch's
        return rearrange(sub_pixels, "n (a b o) h w -> n (h a) (w b) o", a=2, b=2).movedim(-1, 1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:  # noqa: ARG004
        (pixels,) = grad_outputs
        return rearrange(pixels, "n o (h a) (w b) -> n h w (a b o)", a=2, b=2).movedim(-1, 1)


class SubPixelShuffle(nn.Module):
    """Rearranges the 2×2 sub-pixels of each pixel from channels to positions.

    It equals `nn.PixelShuffle(2)` except for the order of channels: here those of one sub-pixel are contiguous, so that
    channels_last memory is moved in runs and not number by number.
    """

    def forward(self, sub_pixels: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C/4 2*H 2*W"]:
        """Images of twice the size; channel (2 a + b) C/4 + o becomes channel o at row a and column b of each 2×2."""
        pixels: Tensor = cast(Any, _Shuffle).apply(sub_pixels)
        return pixels


class UpConv(nn.ConvTranspose2d):
    """A transposed 3×3 convolution of stride 2 that doubles height and width, with sub-pixels as output channels.

    `SubPixelShuffle()(UpConv(I, O)(x))` equals `nn.ConvTranspose2d(I, O, 3, stride=2, padding=1, output_padding=1)(x)`
    with the same weights: the base class's `forward` is the plain reference. Even output rows depend on the kernel's
    middle row only, odd ones on the two others, and likewise for columns. The 2×2 sub-pixels of an input pixel are thus
    channels of an ordinary 2×2 convolution, which takes half the time on a CPU.

    Args:
        in_channels: I, channels of the input.
        out_channels: O, channels of the output.

    Reference:
        Shi et al. 2016, Is the deconvolution layer the same as a convolutional layer?, https://arxiv.org/abs/1609.07009
    """

    taps: Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1)
        # taps[a, m, k] = 1: sub-pixel a of pixel i depends on pixel i + m through row k of the kernel
        taps = torch.zeros(2, 2, 3)
        taps[0, 0, 1] = taps[1, 0, 2] = taps[1, 1, 0] = 1
        self.register_buffer("taps", taps, persistent=False)

    def forward(  # type: ignore[override]  # the size of the output is fixed
        self, images: Float[Tensor, "N {self.in_channels} H W"]
    ) -> Float[Tensor, "N {4*self.out_channels} H W"]:
        """The sub-pixels; channel (2 a + b) O + o is channel o of the sub-pixel at row a and column b."""
        assert self.bias is not None
        with torch.autocast(images.device.type, enabled=False):
            kernel = torch.einsum("iokl,amk,bnl->aboimn", self.weight, self.taps, self.taps).flatten(0, 2)
        kernel = kernel.contiguous(memory_format=torch.channels_last)
        return functional.conv2d(functional.pad(images, (0, 1, 0, 1)), kernel, self.bias.repeat(4))


class SubPixelConv(nn.ConvTranspose2d):
    """A transposed 3×3 convolution of stride 1 that keeps height and width, with sub-pixels as input channels.

    `SubPixelConv(I, O)(x)` equals `nn.ConvTranspose2d(I, O, 3, padding=1)(SubPixelShuffle()(x))` with the same weights:
    the base class's `forward` is the plain reference. With few output channels it leaves most of a CPU's vector units
    idle; this convolution has four times as many.

    Args:
        in_channels: I, channels of the input after shuffling.
        out_channels: O, channels of the output.
    """

    taps: Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)
        # taps[a, p, d, k] = 1: sub-pixel a of pixel i depends on sub-pixel p of pixel i + d - 1 through row k
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
