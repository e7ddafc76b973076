"""Just-in-time compiled loops over bfloat16 numbers, for operations that are slow in torch on a CPU.

bfloat16 numbers are passed as int16 bit patterns. Integers are cast to int16 or int32 explicitly: numba widens them
otherwise, and the loops are not vectorized.
"""

from collections.abc import Callable
from typing import Any, cast, no_type_check

import numpy as np
from numba import njit


def jit(*, reorder: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator that compiles a function with numba, without the GIL, and caches the result on disk if possible.

    Args:
        reorder: allow sums in another order than written, which vectorization needs.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    if reorder:  # only these two: the full set would assume that no number is NaN or infinite
        options["fastmath"] = {"reassoc", "contract"}

    def compile_(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return cast(Callable[..., Any], njit(function, cache=True, **options))
        except RuntimeError:  # no writable cache folder, as in a read-only image without a home
            return cast(Callable[..., Any], njit(function, **options))

    return compile_


@njit(inline="always")
@no_type_check
def to_float(bits: Any) -> Any:
    """Converts the bits of a bfloat16 number to float32."""
    return np.int32(np.int32(bits) << np.int32(16)).view(np.float32)


@njit(inline="always")
@no_type_check
def to_bits(number: Any) -> Any:
    """Rounds a float32 number to bfloat16, ties to even, and returns its bits."""
    wide = np.float32(number).view(np.int32)
    odd = np.int32(np.int32(wide >> np.int32(16)) & np.int32(1))
    return np.int16(np.int32(wide + np.int32(0x7FFF) + odd) >> np.int32(16))
