"""Loops over bfloat16 numbers as machine code, for what torch's CPU kernels do slowly.

Numbers are passed as the bits of int16. Integers stay int16 or int32 where loops are to become vector instructions:
numba widens where it is not told.
"""

from collections.abc import Callable
from typing import Any, cast, no_type_check

import numpy as np
from numba import njit


def compiled(*, reorder: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Makes functions machine code that runs without the interpreter's lock; kept on disk where that can be written.

    Args:
        reorder: sums may be taken in another order than written, which vector instructions need.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    if reorder:  # NaN and infinity stay what they are
        options["fastmath"] = {"reassoc", "contract"}

    def compile_(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return cast(Callable[..., Any], njit(function, cache=True, **options))
        except RuntimeError:  # no folder to write to: a read-only image without a home
            return cast(Callable[..., Any], njit(function, **options))

    return compile_


@njit(inline="always")
@no_type_check
def to_float(bits: Any) -> Any:
    """The number."""
    return np.int32(np.int32(bits) << np.int32(16)).view(np.float32)


@njit(inline="always")
@no_type_check
def to_bits(number: Any) -> Any:
    """The bits of the nearest bfloat16, of two the even one."""
    wide = np.float32(number).view(np.int32)
    odd = np.int32(np.int32(wide >> np.int32(16)) & np.int32(1))
    return np.int16(np.int32(wide + np.int32(0x7FFF) + odd) >> np.int32(16))
