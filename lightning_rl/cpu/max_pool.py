"""The max-pool of the IMPALA CNN, with a faster kernel for CPUs in bfloat16."""

from importlib.util import find_spec
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

_HAS_NUMBA = find_spec("numba") is not None


class MaxPool(nn.Module):
    """3×3 max-pool with stride 2 and padding 1, for images of even height and width.

    torch's CPU kernel writes an int64 index beside every bfloat16 output, which takes a quarter of the time of an
    IMPALA CNN's training step. The kernel here pools first over rows and then over columns, in long vectorized loops
    over int16. The reference is `functional.max_pool2d`, which is used everywhere else. Outputs are equal, and so are
    gradients unless several pixels share the maximum: torch gives the gradient to the first in reading order, this
    kernel to the topmost in the leftmost column.

    numba, which compiles the kernel, is imported at the first call that needs it: an exported policy runs without.
    """

    def forward(self, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H/2 W/2"]:
        """The pooled images."""
        if images.device.type == "cpu" and images.dtype == torch.bfloat16 and _HAS_NUMBA:
            pooled: Tensor = cast(Any, _FastMaxPool).apply(images)
            return pooled
        return functional.max_pool2d(images, 3, stride=2, padding=1)


class _FastMaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        from lightning_rl.cpu.max_pool_kernels import pool

        count, channels, height, width = images.shape
        pooled = images.new_empty((count, height // 2, width // 2, channels))
        row_winners = torch.empty((count, height // 2, width * channels), dtype=torch.int16)
        column_winners = torch.empty((count, height // 2, width // 2 * channels), dtype=torch.int16)
        outputs = (_rows(pooled), row_winners.numpy(), column_winners.numpy())
        pool(_rows(images.permute(0, 2, 3, 1)), *outputs, channels)
        ctx.save_for_backward(row_winners, column_winners)
        return pooled.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable  # a second derivative would be taken as zero
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        from lightning_rl.cpu.max_pool_kernels import pool_backward

        gradients = grad_outputs[0].permute(0, 2, 3, 1)
        count, height, width, channels = gradients.shape
        grad_images = gradients.new_empty((count, 2 * height, 2 * width, channels))
        winners = [numbers.numpy() for numbers in ctx.saved_tensors]
        pool_backward(_rows(gradients), *winners, _rows(grad_images), channels)
        return grad_images.permute(0, 3, 1, 2)


def _rows(images: Tensor) -> NDArray[np.int16]:
    """The bits of the numbers as `[N H (W C)]`; a view if the images are channels_last."""
    bits: NDArray[np.int16] = images.flatten(2).contiguous().view(torch.int16).numpy()
    return bits
