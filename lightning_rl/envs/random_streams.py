"""States of numpy's random streams: as dicts, which checkpoints hold, and as a few numbers, which arrays hold."""

from typing import Any, cast

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray

from lightning_rl.types import State

_LOW = 2**64 - 1


def restored(state: State) -> np.random.Generator:
    """A generator that goes on from `generator.bit_generator.state`.

    Raises:
        ValueError: it is no such state.
    """
    generator = np.random.default_rng(0)
    try:
        generator.bit_generator.state = state
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise ValueError(f"AtariVectorEnv.generators must be states of generators, found another: {error}") from error
    return generator


def packed(generator: np.random.Generator) -> Int64[NDArray[Any], "6"]:
    """The state of a generator as numbers, from which `unpacked` makes it again."""
    state = cast(Any, generator.bit_generator.state)
    words = [state["state"][name] >> shift & _LOW for name in ("state", "inc") for shift in (64, 0)]
    return np.array([*words, state["has_uint32"], state["uinteger"]], dtype=np.uint64).view(np.int64)


def unpacked(numbers: Int64[NDArray[Any], "6"]) -> np.random.Generator:
    """A generator that goes on from what `packed` returned.

    Raises:
        ValueError: these numbers are no such state.
    """
    high, low, inc_high, inc_low, has_uint32, uinteger = numbers.view(np.uint64).tolist()
    state = {"state": high << 64 | low, "inc": inc_high << 64 | inc_low}
    return restored({"bit_generator": "PCG64", "state": state, "has_uint32": has_uint32, "uinteger": uinteger})
