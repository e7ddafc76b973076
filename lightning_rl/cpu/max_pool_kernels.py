"""The compiled loops of the max-pool: 3×3, stride 2 and padding 1, over the bits of bfloat16 numbers."""

from typing import Any, no_type_check

import numpy as np
from numba import njit

from lightning_rl.cpu.jit import jit, to_bits, to_float

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
def pool(images: Any, pooled: Any, row_winners: Any, column_winners: Any, channels: Any) -> None:
    """Pools `[N H (W C)]` and writes which row and which column each maximum is from."""
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
def pool_backward(gradients: Any, row_winners: Any, column_winners: Any, grad_images: Any, channels: Any) -> None:
    """Writes the gradient of the images: each maximum's goes to where it is from."""
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
