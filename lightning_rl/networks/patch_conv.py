"""Convolutions of few positions and many channels, computed as one matrix product."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class PatchConv(nn.Conv2d):
    """A convolution whose kernel is twice its stride, of images whose sides are multiples of the stride.

    It is `nn.Conv2d`, with its weights and initialisation; where the images are small and the channels many, a CPU
    differentiates the product of patches and kernels in a quarter to two thirds of the time.

    Args:
        in_channels: I.
        out_channels: O.
        stride: half the kernel's size.
        padding: zeros around the image.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, padding: int = 0) -> None:
        super().__init__(in_channels, out_channels, 2 * stride, stride=stride, padding=padding)
        self.block = stride
        self.border = (padding,) * 4

    def forward(self, images: Float[Tensor, "N {self.in_channels} H W"]) -> Float[Tensor, "N {self.out_channels} h w"]:
        """The outputs, as many as there are blocks of stride by stride but one, each way."""
        positions = functional.pad(images, self.border).permute(0, 2, 3, 1)
        blocks = positions.unflatten(2, (-1, self.block)).unflatten(1, (-1, self.block)).transpose(2, 3).flatten(3)
        above, below = blocks[:, :-1], blocks[:, 1:]
        patches = torch.cat([above[:, :, :-1], above[:, :, 1:], below[:, :, :-1], below[:, :, 1:]], dim=-1)
        halves = (2, self.block)
        kernel = self.weight.permute(0, 2, 3, 1).unflatten(2, halves).unflatten(1, halves).transpose(2, 3).flatten(1)
        return functional.linear(patches, kernel, self.bias).permute(0, 3, 1, 2)
