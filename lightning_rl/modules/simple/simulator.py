"""The world model as an environment that can be stepped."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor, nn

from lightning_rl.cpu.micro_batches import MicroBatchConfig, threads
from lightning_rl.modules.simple.world_model import COLORS
from lightning_rl.networks.world_model.next_frame import NextFramePredictor
from lightning_rl.networks.world_model.timing_signal import TimingSignal
from lightning_rl.types import ImaginedStep

_COLDEST = 1e-4  # at which the likeliest outcome is certain, and logits divided by it are still finite


class Simulator:
    """Steps a world model; implements `WorldModel`. Build a new one after the model has learned.

    Args:
        model: the network.
        reward_values: rewards that the classes of its reward head stand for.
        micro_batches: step parts of the games in threads (CPU); null steps all at once (GPU).
        precision: enters the autocast context of predictions.

    Attributes:
        temperature: draws rewards, ends of episodes and the latent from p^(1 / temperature); 0 takes the likeliest
            ones. With None, the default, the latent is drawn from p, the reward is the likeliest one, and the
            probability of an end is given as it is.
    """

    temperature: float | None = None

    def __init__(
        self,
        model: NextFramePredictor,
        reward_values: Float32[Tensor, "R"],
        *,
        micro_batches: MicroBatchConfig | None,
        precision: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._reward_values = reward_values
        self._micro_batches = micro_batches
        self._precision = precision
        self._device = reward_values.device
        # on a CPU, casting the weights at every step would take as long as some of the convolutions
        self._model = model if micro_batches is None else self._cast(model)

    def _cast(self, model: NextFramePredictor) -> NextFramePredictor:
        with self._precision():
            if not torch.is_autocast_enabled(self._device.type):
                return model
            dtype = torch.get_autocast_dtype(self._device.type)
        copy = deepcopy(model)
        for module in copy.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | TimingSignal):
                module.to(dtype)
        return copy

    def begin(self, obs: UInt8[Tensor, "B H W D"]) -> Tensor | None:
        """The model's recurrent state before the newest frame of each stack; None without a recurrent state."""
        if self._model.memory is None:
            return None
        state = None
        for frames in obs.to(self._device).split(COLORS, dim=-1)[:-1]:
            with torch.no_grad(), self._precision():
                state = self._model.next_state(frames, state)
        return state

    def imagine(
        self,
        obs: UInt8[Tensor, "B H W D"],
        actions: Int64[Tensor, "B"],
        generator: torch.Generator,
        state: Tensor | None = None,
    ) -> ImaginedStep:
        """The model's prediction of the next step."""
        seen = (obs if self._model.memory is None else obs[..., -COLORS:]).to(self._device)
        actions = actions.to(self._device)
        if self._micro_batches is None:
            return self._imagined(seen, actions, state, generator)
        parts = self._micro_batches.even_parts(len(obs))
        seeds = torch.randint(2**62, (len(parts),), generator=generator).tolist()
        jobs = [
            partial(
                self._imagined,
                seen[part],
                actions[part],
                None if state is None else state[part],
                torch.Generator().manual_seed(seed),
            )
            for part, seed in zip(parts, seeds, strict=True)
        ]
        steps = list(threads(self._micro_batches.num_threads).map(_called, jobs))
        return ImaginedStep(
            frames=torch.cat([step.frames for step in steps]),
            rewards=torch.cat([step.rewards for step in steps]),
            expected_rewards=torch.cat([step.expected_rewards for step in steps]),
            end_probabilities=torch.cat([step.end_probabilities for step in steps]),
            state=None if state is None else torch.cat([step.state for step in steps if step.state is not None]),
        )

    def _imagined(
        self,
        seen: UInt8[Tensor, "B H W D"],
        actions: Int64[Tensor, "B"],
        state: Tensor | None,
        generator: torch.Generator,
    ) -> ImaginedStep:
        temperature = 1.0 if self.temperature is None else max(self.temperature, _COLDEST)
        with torch.no_grad(), self._precision():  # both are thread-local
            step = self._model.imagine(seen, actions, generator, state=state, temperature=temperature)
        rewards, ends = step.reward_probabilities.argmax(-1), step.end_probabilities
        if self.temperature is not None:
            rewards = step.reward_probabilities.to(generator.device).multinomial(1, generator=generator)[:, 0]
            drawn = torch.rand(len(ends), generator=generator, device=generator.device)
            rewards, ends = rewards.to(self._device), (drawn.to(ends) < ends).to(ends)
        return ImaginedStep(
            frames=step.frames,
            rewards=self._reward_values[rewards],
            expected_rewards=step.reward_probabilities @ self._reward_values,
            end_probabilities=ends,
            state=step.state,
        )


def _called(job: Callable[[], ImaginedStep]) -> ImaginedStep:
    return job()
