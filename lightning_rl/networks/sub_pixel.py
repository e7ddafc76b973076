"""Transposed convolutions, computed as convolutions of small images with many channels."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class UpConv(nn.ConvTranspose2d):
    """A transposed 3×3 convolution of stride 2 that doubles height and width, with its outputs as sub-pixels.

    Every other row of the output is made by the kernel's middle row alone, the rows between by the two others, and so
    for columns: the 2×2 sub-pixels of an input pixel are channels of an ordinary 2×2 convolution, which a CPU
    differentiates in half the time. `nn.PixelShuffle(2)` after it gives the very output of `nn.ConvTranspose2d`, whose
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
        """The sub-pixels: channel o at row a, column b of the 2×2 is channel 4 o + 2 a + b."""
        assert self.bias is not None
        with torch.autocast(images.device.type, enabled=False):
            kernel = torch.einsum("iokl,amk,bnl->oabimn", self.weight, self.taps, self.taps).flatten(0, 2)
        kernel = kernel.contiguous(memory_format=torch.channels_last)
        return functional.conv2d(functional.pad(images, (0, 1, 0, 1)), kernel, self.bias.repeat_interleave(4))


class SubPixelConv(nn.ConvTranspose2d):
    """A transposed 3×3 convolution of stride 1 that keeps height and width, of images that are still sub-pixels.

    `SubPixelConv(I, O)(x)` is `nn.ConvTranspose2d(I, O, 3, padding=1)(nn.PixelShuffle(2)(x))`, with its weights and
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
            kernel = torch.einsum("iokl,apdk,bqel->oabipqde", self.weight, self.taps, self.taps)
        kernel = kernel.flatten(3, 5).flatten(0, 2).contiguous(memory_format=torch.channels_last)
        convolved = functional.conv2d(sub_pixels, kernel, self.bias.repeat_interleave(4), padding=1)
        return functional.pixel_shuffle(convolved, 2)
