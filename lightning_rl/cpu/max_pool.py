"""The max-pool of the IMPALA CNN, with a faster kernel for CPUs in bfloat16."""

from typing import Any, cast, no_type_check

import numpy as np
import torch
from jaxtyping import Float
from numba import njit
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lightning_rl.cpu.jit import jit, to_bits, to_float


class MaxPool(nn.Module):
    """3×3 max-pool with stride 2 and padding 1, for images of even height and width.

    torch's CPU kernel writes an int64 index beside every bfloat16 output, which takes a quarter of the time of an
    IMPALA CNN's training step. The kernel here pools first over rows and then over columns, in long vectorized loops
    over int16. The reference is `functional.max_pool2d`, which is used everywhere else. Outputs are equal, and so are
    gradients unless several pixels share the maximum: torch gives the gradient to the first in reading order, this
    kernel to the topmost in the leftmost column.
    """

    def forward(self, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H/2 W/2"]:
        """The pooled images."""
        if images.device.type == "cpu" and images.dtype == torch.bfloat16:
            pooled: Tensor = cast(Any, _FastMaxPool).apply(images)
            return pooled
        return functional.max_pool2d(images, 3, stride=2, padding=1)


class _FastMaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        count, channels, height, width = images.shape
        pooled = images.new_empty((count, height // 2, width // 2, channels))
        row_winners = torch.empty((count, height // 2, width * channels), dtype=torch.int16)
        column_winners = torch.empty((count, height // 2, width // 2 * channels), dtype=torch.int16)
        outputs = (_rows(pooled), row_winners.numpy(), column_winners.numpy())
        _pool(_rows(images.permute(0, 2, 3, 1)), *outputs, channels)
        ctx.save_for_backward(row_winners, column_winners)
        return pooled.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        gradients = grad_outputs[0].permute(0, 2, 3, 1)
        count, height, width, channels = gradients.shape
        grad_images = gradients.new_empty((count, 2 * height, 2 * width, channels))
        winners = [numbers.numpy() for numbers in ctx.saved_tensors]
        _pool_backward(_rows(gradients), *winners, _rows(grad_images), channels)
        return grad_images.permute(0, 3, 1, 2)


def _rows(images: Tensor) -> NDArray[np.int16]:
    """The bits of the numbers as `[N H (W C)]`; a view if the images are channels_last."""
    bits: NDArray[np.int16] = images.flatten(2).contiguous().view(torch.int16).numpy()
    return bits


# The functions below are compiled. Loops run over whole rows, so that they are vectorized. `no_type_check` keeps the
# shape checks of the tests out of compiled code.
_SIGN, _MAGNITUDE, _INFINITY = np.int16(-0x8000), np.int16(0x7FFF), np.int16(0x7F80)
_FIRST, _MIDDLE, _LAST = np.int16(0), np.int16(1), np.int16(2)
_ZERO = np.float32(0)


@njit(inline="always")
@no_type_check
def _to_key(bits: Any) -> Any:
    """An int16 with the order of the numbers; NaN is the largest, so that it always reaches the output."""
    magnitude = bits & _MAGNITUDE
    signed = bits if bits >= 0 else np.int16(-magnitude)
    return signed if magnitude <= _INFINITY else _MAGNITUDE


@njit(inline="always")
@no_type_check
def _from_key(key: Any) -> Any:
    return key if key >= 0 else np.int16(np.int16(-key) | _SIGN)


@jit()
@no_type_check
def _max_of_rows(above: Any, middle: Any, below: Any, max_keys: Any, winners: Any) -> None:
    for k in range(len(winners)):
        a, b, c = _to_key(above[k]), _to_key(middle[k]), _to_key(below[k])
        largest = max(a, b)
        winners[k] = _LAST if c > largest else (_MIDDLE if b > a else _FIRST)
        max_keys[k] = max(largest, c)


@jit()
@no_type_check
def _max_of_columns(keys: Any, max_keys: Any, winners: Any, channels: Any) -> None:
    for j in range(len(winners) // channels):
        for c in range(channels):
            left = keys[2 * j * channels + c]
            middle = keys[(2 * j + 1) * channels + c]
            right = keys[(2 * j + 2) * channels + c]
            largest = max(left, middle)
            winners[j * channels + c] = _LAST if right > largest else (_MIDDLE if middle > left else _FIRST)
            max_keys[j * channels + c] = max(largest, right)


@jit()
@no_type_check
def _pool(images: Any, pooled: Any, row_winners: Any, column_winners: Any, channels: Any) -> None:
    count, height, length = images.shape
    keys = np.empty(channels + length, np.int16)
    keys[:channels] = _SIGN  # the padding column: below every number
    max_keys = np.empty(length // 2, np.int16)
    for n in range(count):
        for i in range(height // 2):
            winners = row_winners[n, i]
            above = images[n, max(2 * i - 1, 0)]
            _max_of_rows(above, images[n, 2 * i], images[n, 2 * i + 1], keys[channels:], winners)
            if i == 0:  # the first row stood in for the padding above it
                winners[:] = np.maximum(winners, _MIDDLE)
            _max_of_columns(keys, max_keys, column_winners[n, i], channels)
            outputs = pooled[n, i]
            for k in range(len(outputs)):
                outputs[k] = _from_key(max_keys[k])


@jit()
@no_type_check
def _select(gradients: Any, winners: Any, winner: Any, selected: Any) -> None:
    for k in range(len(winners)):
        selected[k] = to_float(gradients[k]) if winners[k] == winner else _ZERO


@jit()
@no_type_check
def _interleave(evens: Any, odds: Any, row: Any, channels: Any) -> None:
    for j in range(len(evens) // channels):
        for c in range(channels):
            row[2 * j * channels + c] = evens[j * channels + c]
        for c in range(channels):
            row[(2 * j + 1) * channels + c] = odds[j * channels + c]


@jit()
@no_type_check
def _write(numbers: Any, outputs: Any) -> None:
    for k in range(len(outputs)):
        outputs[k] = to_bits(numbers[k])


@jit()
@no_type_check
def _pool_backward(gradients: Any, row_winners: Any, column_winners: Any, grad_images: Any, channels: Any) -> None:
    count, height, half = gradients.shape
    lefts = np.zeros(half + channels, np.float32)  # zeros at the end: the last column has no window to its right
    evens, odds = np.empty(half, np.float32), np.empty(half, np.float32)
    row = np.empty(2 * half, np.float32)
    shared = np.zeros(2 * half, np.float32)  # gradient of the row that is in two windows, so far of the upper one
    for n in range(count):
        for i in range(height):
            _select(gradients[n, i], column_winners[n, i], _FIRST, lefts[:half])
            _select(gradients[n, i], column_winners[n, i], _MIDDLE, evens)
            _select(gradients[n, i], column_winners[n, i], _LAST, odds)
            for k in range(half):
                odds[k] += lefts[k + channels]
            _interleave(evens, odds, row, channels)
            winners = row_winners[n, i]
            for k in range(2 * half):
                shared[k] += row[k] if winners[k] == _FIRST else _ZERO
            _write(shared, grad_images[n, max(2 * i - 1, 0)])  # for i = 0 the padding row, overwritten below
            for k in range(2 * half):
                shared[k] = row[k] if winners[k] == _MIDDLE else _ZERO
            _write(shared, grad_images[n, 2 * i])
            for k in range(2 * half):
                shared[k] = row[k] if winners[k] == _LAST else _ZERO
        _write(shared, grad_images[n, 2 * height - 1])
