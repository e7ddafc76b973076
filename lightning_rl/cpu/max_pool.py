"""The IMPALA CNN's max-pool; on a CPU in bfloat16, with kernels of its own."""

from typing import Any, cast, no_type_check

import numpy as np
import torch
from jaxtyping import Float
from numba import njit
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lightning_rl.cpu.compiled import compiled, to_bits, to_float


class MaxPool(nn.Module):
    """3×3 max-pool with stride 2 and padding 1, of images with even height and width.

    torch's CPU kernel writes an int64 index beside every bfloat16 output, and takes a quarter of the time of an IMPALA
    CNN's training step. Here rows are pooled first and columns then, in long loops over int16 that compile to vector
    instructions. Outputs are torch's. So are gradients, except where several pixels are the maximum: torch gives all to
    the first in reading order, this to the highest in the leftmost column.
    """

    def forward(self, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H/2 W/2"]:
        """The maxima."""
        if images.device.type == "cpu" and images.dtype == torch.bfloat16:
            pooled: Tensor = cast(Any, _PooledOnCPU).apply(images)
            return pooled
        return functional.max_pool2d(images, 3, stride=2, padding=1)


class _PooledOnCPU(torch.autograd.Function):
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
        spread = gradients.new_empty((count, 2 * height, 2 * width, channels))
        _spread(_rows(gradients), *(winners.numpy() for winners in ctx.saved_tensors), _rows(spread), channels)
        return spread.permute(0, 3, 1, 2)


def _rows(images: Tensor) -> NDArray[np.int16]:
    """Images × rows × (columns × channels), as the bits of the numbers; of channels_last images a view."""
    bits: NDArray[np.int16] = images.flatten(2).contiguous().view(torch.int16).numpy()
    return bits


# What follows is compiled. Loops are over whole rows, so that they become vector instructions. The types of the
# arguments are the compiler's business, not the test run's.
_SIGN, _MAGNITUDE, _INFINITY = np.int16(-0x8000), np.int16(0x7FFF), np.int16(0x7F80)
_FIRST, _MIDDLE, _LAST = np.int16(0), np.int16(1), np.int16(2)
_ZERO = np.float32(0)


@njit(inline="always")
@no_type_check
def _key(bits: Any) -> Any:
    """An integer that orders as the number does; a NaN is above all, so that it is never lost."""
    magnitude = bits & _MAGNITUDE
    signed = bits if bits >= 0 else np.int16(-magnitude)
    return signed if magnitude <= _INFINITY else _MAGNITUDE


@njit(inline="always")
@no_type_check
def _bits(key: Any) -> Any:
    return key if key >= 0 else np.int16(np.int16(-key) | _SIGN)


@compiled()
@no_type_check
def _best_of_rows(above: Any, middle: Any, below: Any, best_keys: Any, winners: Any) -> None:
    for k in range(len(winners)):
        a, b, c = _key(above[k]), _key(middle[k]), _key(below[k])
        best = max(a, b)
        winners[k] = _LAST if c > best else (_MIDDLE if b > a else _FIRST)
        best_keys[k] = max(best, c)


@compiled()
@no_type_check
def _best_of_columns(keys: Any, best_keys: Any, winners: Any, channels: Any) -> None:
    for j in range(len(winners) // channels):
        for c in range(channels):
            left = keys[2 * j * channels + c]
            middle = keys[(2 * j + 1) * channels + c]
            right = keys[(2 * j + 2) * channels + c]
            best = max(left, middle)
            winners[j * channels + c] = _LAST if right > best else (_MIDDLE if middle > left else _FIRST)
            best_keys[j * channels + c] = max(best, right)


@compiled()
@no_type_check
def _pool(images: Any, pooled: Any, row_winners: Any, column_winners: Any, channels: Any) -> None:
    count, height, length = images.shape
    keys = np.empty(channels + length, np.int16)
    keys[:channels] = _SIGN  # the column outside: below every number
    best_keys = np.empty(length // 2, np.int16)
    for n in range(count):
        for i in range(height // 2):
            winners = row_winners[n, i]
            above = images[n, max(2 * i - 1, 0)]
            _best_of_rows(above, images[n, 2 * i], images[n, 2 * i + 1], keys[channels:], winners)
            if i == 0:  # there is no row above; the first stood in for it
                winners[:] = np.maximum(winners, _MIDDLE)
            _best_of_columns(keys, best_keys, column_winners[n, i], channels)
            outputs = pooled[n, i]
            for k in range(len(outputs)):
                outputs[k] = _bits(best_keys[k])


@compiled()
@no_type_check
def _won(gradients: Any, winners: Any, place: Any, shares: Any) -> None:
    for k in range(len(winners)):
        shares[k] = to_float(gradients[k]) if winners[k] == place else _ZERO


@compiled()
@no_type_check
def _interleaved(evens: Any, odds: Any, row: Any, channels: Any) -> None:
    for j in range(len(evens) // channels):
        for c in range(channels):
            row[2 * j * channels + c] = evens[j * channels + c]
        for c in range(channels):
            row[(2 * j + 1) * channels + c] = odds[j * channels + c]


@compiled()
@no_type_check
def _written(numbers: Any, outputs: Any) -> None:
    for k in range(len(outputs)):
        outputs[k] = to_bits(numbers[k])


@compiled()
@no_type_check
def _spread(gradients: Any, row_winners: Any, column_winners: Any, spread: Any, channels: Any) -> None:
    count, height, half = gradients.shape
    lefts = np.zeros(half + channels, np.float32)  # the last column has no window to its right: zeros
    evens, odds = np.empty(half, np.float32), np.empty(half, np.float32)
    row = np.empty(2 * half, np.float32)
    between = np.zeros(2 * half, np.float32)  # the row that two windows share, of which the upper has been added
    for n in range(count):
        for i in range(height):
            _won(gradients[n, i], column_winners[n, i], _FIRST, lefts[:half])
            _won(gradients[n, i], column_winners[n, i], _MIDDLE, evens)
            _won(gradients[n, i], column_winners[n, i], _LAST, odds)
            for k in range(half):
                odds[k] += lefts[k + channels]
            _interleaved(evens, odds, row, channels)
            winners = row_winners[n, i]
            for k in range(2 * half):
                between[k] += row[k] if winners[k] == _FIRST else _ZERO
            _written(between, spread[n, max(2 * i - 1, 0)])  # of the row outside: zeros, and written over below
            for k in range(2 * half):
                between[k] = row[k] if winners[k] == _MIDDLE else _ZERO
            _written(between, spread[n, 2 * i])
            for k in range(2 * half):
                between[k] = row[k] if winners[k] == _LAST else _ZERO
        _written(between, spread[n, 2 * height - 1])
