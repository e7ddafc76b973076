"""Each process's own random streams, saved and restored."""

import random
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_rl.distributed import collectives
from lightning_rl.state import Schema, validate_state


class RandomStates(Callback):
    """Saves and restores each process's own random streams, which no checkpoint of Lightning's holds.

    In a new run they are the same on all ranks until training starts, so that weights are; then each has its own.

    Python's and NumPy's are drawn from by nothing here, but a user's callback may.
    """

    def __init__(self) -> None:
        self._restored: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """The states of torch's CPU and CUDA generators, of Python's and of NumPy's; a collective call."""
        first, *others = collectives.all_gather(_random_states())
        return {**first, "others": others} if others else first

    def check_state(self, state_dict: dict[str, Any]) -> None:
        """Refuses what generators would not take.

        Raises:
            ValueError: names the key.
        """
        key = f"callbacks.{self.state_key}"
        for states in [state_dict, *state_dict.get("others", [])]:
            validate_state(states, _STATES, key)
            if not 0 <= states["numpy"][2] <= len(states["numpy"][1]):  # NumPy would read beyond its end
                raise ValueError(f"{key}.numpy.2 must be a position in the stream, found {states['numpy'][2]}")
            try:
                _restore_python(states["python"], random.Random())
                torch.Generator().set_state(states["torch"])
            except (ValueError, OverflowError, RuntimeError) as error:
                raise ValueError(f"{key} must be the states of generators: {error}") from error

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the states until training starts: everything before may still draw from the streams."""
        self._restored = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the streams where they were."""
        first = {key: state for key, state in self._restored.items() if key != "others"}
        saved = [first, *self._restored.get("others", [])] if first else []
        if len(saved) == trainer.world_size:
            _restore_random_states(saved[trainer.global_rank])
        elif trainer.global_rank:
            torch.manual_seed(hash((torch.initial_seed(), trainer.global_rank)))


def _random_states() -> dict[str, Any]:
    version, internal, gauss = random.getstate()
    legacy: Any = np.random.get_state()  # noqa: NPY002  # the legacy stream is what others draw from
    name, keys, position, has_gauss, cached = legacy
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
        "python": [version, list(internal), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
    }


def _restore_random_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"].cpu())
    if len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])
    _restore_python(states["python"], random)
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002


def _restore_python(state: list[Any], generator: Any) -> None:
    version, internal, gauss = state
    generator.setstate((version, tuple(internal), gauss))


_STATES: Schema = {
    "torch": torch.get_rng_state(),
    "cuda": [Tensor],
    "python": (int, (int,) * len(random.getstate()[1]), float | None),
    "numpy": (str, torch.empty(624, dtype=torch.int64), int, int, float),
}
"""Of one process."""
