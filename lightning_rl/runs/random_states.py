"""Each process's own random streams, saved and restored."""

import random
from dataclasses import dataclass
from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_rl.distributed import collectives
from lightning_rl.state import from_plain, to_plain
from lightning_rl.types import State


@no_type_check  # such a check draws from Python's stream, after its state has been taken
@dataclass(frozen=True, kw_only=True)
class RandomStreams:
    """The random streams of one process."""

    torch: torch.Generator
    cuda: list[UInt8[Tensor, "_"]]
    python: tuple[int, list[int], float | None]
    numpy: tuple[str, Int64[Tensor, "624"], int, int, float]

    def __post_init__(self) -> None:
        """Refuses numbers that Python or NumPy would not take."""
        _, keys, position, *_ = self.numpy
        if position > len(keys):  # NumPy would read beyond its end
            raise ValueError(f"numpy.2 must be a position in the stream, found {position}")
        try:
            _restore_python(self, random.Random())
        except (ValueError, OverflowError) as error:
            raise ValueError(f"python must be the state of a generator, found another: {error}") from error


@dataclass(frozen=True, kw_only=True)
class RandomStatesState(RandomStreams):
    """The random streams of rank zero, and those of the other ranks."""

    others: list[RandomStreams] | None = None


class RandomStates(Callback):
    """Saves and restores each process's own random streams, which no checkpoint of Lightning's holds.

    In a new run they are the same on all ranks until training starts, so that weights are; then each has its own.

    Nothing here draws from Python's and NumPy's global streams, but a user's callback may.
    """

    saved_as = RandomStatesState

    def __init__(self) -> None:
        self._restored: list[RandomStreams] = []

    def state_dict(self) -> State:
        """The states of torch's CPU and CUDA generators, of Python's and of NumPy's; a collective call."""
        first, *others = collectives.all_gather(to_plain(_streams()))
        return {**first, "others": others} if others else first

    def load_state_dict(self, state_dict: State) -> None:
        """Keeps the states until training starts: everything before may still draw from the streams."""
        first = from_plain(self.saved_as, state_dict, self.state_key)
        self._restored = [first, *(first.others or [])]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the streams where they were."""
        if len(self._restored) == trainer.world_size:
            _restore(self._restored[trainer.global_rank])
        elif trainer.global_rank:
            torch.manual_seed(hash((torch.initial_seed(), trainer.global_rank)))


def _streams() -> RandomStreams:
    version, internal, gauss = random.getstate()
    legacy: Any = np.random.get_state()  # noqa: NPY002  # the legacy stream is what others draw from
    name, keys, *rest = legacy
    return RandomStreams(
        torch=torch.default_generator,
        cuda=torch.cuda.get_rng_state_all(),
        python=(version, list(internal), gauss),
        numpy=(name, torch.from_numpy(keys.astype(np.int64)), *rest),
    )


def _restore(streams: RandomStreams) -> None:
    torch.set_rng_state(streams.torch.get_state())
    if len(streams.cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(streams.cuda)
    _restore_python(streams, random)
    name, keys, position, has_gauss, cached = streams.numpy
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002


def _restore_python(streams: RandomStreams, generator: Any) -> None:
    version, internal, gauss = streams.python
    generator.setstate((version, tuple(internal), gauss))
