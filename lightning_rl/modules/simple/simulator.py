"""The world model as an environment that can be stepped."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor, nn

from lightning_rl.cpu.micro_batches import MicroBatchConfig, threads
from lightning_rl.gpu.captured_step import CapturedStep, copy_weights
from lightning_rl.modules.simple.world_model import COLORS
from lightning_rl.networks.world_model.next_frame import NextFramePredictor
from lightning_rl.networks.world_model.timing_signal import TimingSignal
from lightning_rl.types import ImaginedStep, TensorFields

_COLDEST = 1e-4  # at which the likeliest outcome is certain, and logits divided by it are still finite


class Simulator:
    """Steps a world model; implements `WorldModel`. Build a new one after the model has learned.

    Args:
        model: the network.
        reward_values: rewards that the classes of its reward head stand for.
        micro_batches: step parts of the games in threads (CPU); null steps all at once (GPU).
        precision: enters the autocast context of predictions.
        is_captured: run a step that is captured once, where all games are stepped at once.

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
        is_captured: bool = False,
    ) -> None:
        self._reward_values = reward_values
        self._micro_batches = micro_batches
        self._precision = precision
        self._device = reward_values.device
        self._is_captured = is_captured and micro_batches is None
        if self._is_captured:
            self._model = _mirror_of(model, self._cast)
        else:
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

    def _captured(self, inputs: "_Imagining") -> ImaginedStep:
        """The captured step's outputs, in memory that is the caller's."""
        known = _STEPS.setdefault(self._model, {})
        key = tuple(inputs.seen.shape)
        if key not in known:
            model, values, precision = self._model, self._reward_values, self._precision
            known[key] = CapturedStep(partial(_imagined, model, values, precision), inputs, device=self._device)
        return known[key](inputs).map_tensors(Tensor.clone)

    def begin(self, obs: UInt8[Tensor, "B H W D"]) -> Tensor | None:
        """The model's recurrent state before the newest frame of each stack; None without a recurrent state."""
        if self._model.memory is None:
            return None
        size = (len(obs), self._model.memory.size, *obs.shape[1:3])
        state: Tensor | None = torch.zeros(size, device=self._device)
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
        actions, state = actions.to(self._device), None if state is None else state.to(self._device)
        if self._is_captured and self.temperature is None:
            drawn = self._model.uniforms(len(obs), generator)
            return self._captured(_Imagining(seen=seen, actions=actions, state=state, drawn=drawn))
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
        inputs = _Imagining(seen=seen, actions=actions, state=state)
        return _imagined(self._model, self._reward_values, self._precision, inputs, generator, self.temperature)


@dataclass(frozen=True, kw_only=True)
class _Imagining(TensorFields):
    """Inputs of a step; `drawn` is what latents are sampled with, where no generator draws it."""

    seen: UInt8[Tensor, "B H W D"]
    actions: Int64[Tensor, "B"]
    state: Tensor | None
    drawn: Tensor | None = None


def _imagined(
    model: NextFramePredictor,
    reward_values: Float32[Tensor, "R"],
    precision: Callable[[], AbstractContextManager[Any]],
    inputs: _Imagining,
    generator: torch.Generator | None = None,
    temperature: float | None = None,
) -> ImaginedStep:
    sharpened = 1.0 if temperature is None else max(temperature, _COLDEST)
    with torch.no_grad(), precision():  # both are thread-local
        drawn = generator if inputs.drawn is None else inputs.drawn
        step = model.imagine(inputs.seen, inputs.actions, drawn, state=inputs.state, temperature=sharpened)
    rewards, ends = step.reward_probabilities.argmax(-1), step.end_probabilities
    if temperature is not None and generator is not None:
        rewards = step.reward_probabilities.to(generator.device).multinomial(1, generator=generator)[:, 0]
        chances = torch.rand(len(ends), generator=generator, device=generator.device)
        rewards, ends = rewards.to(reward_values.device), (chances.to(ends) < ends).to(ends)
    return ImaginedStep(
        frames=step.frames,
        rewards=reward_values[rewards],
        expected_rewards=step.reward_probabilities @ reward_values,
        end_probabilities=ends,
        state=step.state,
    )


_MIRRORS: WeakKeyDictionary[NextFramePredictor, NextFramePredictor] = WeakKeyDictionary()
"""For each model a copy for captured steps, whose weights stay where they are in memory."""
_STEPS: WeakKeyDictionary[NextFramePredictor, dict[Any, CapturedStep[_Imagining, ImaginedStep]]] = WeakKeyDictionary()
"""The captured steps of each copy, by the shape of what they see."""


def _mirror_of(
    model: NextFramePredictor, cast: Callable[[NextFramePredictor], NextFramePredictor]
) -> NextFramePredictor:
    """The model's copy with its weights of now."""
    known, device = _MIRRORS.get(model), next(model.parameters()).device
    if known is None or next(known.parameters()).device != device:
        made = cast(model)
        known = _MIRRORS[model] = (deepcopy(model) if made is model else made).requires_grad_(False)
        for layer in known.modules():
            if isinstance(layer, nn.RNNBase):
                layer.flatten_parameters()  # which copying undoes
    with torch.no_grad():
        copy_weights(list(known.parameters()), list(model.parameters()))
    return known


def captured_steps(model: NextFramePredictor) -> list[CapturedStep[Any, Any]]:
    """The steps of a model that were captured."""
    mirror = _MIRRORS.get(model)
    return [] if mirror is None else list(_STEPS.get(mirror, {}).values())


def forget(model: NextFramePredictor) -> None:
    """Frees the memory of a model's captured steps."""
    if (mirror := _MIRRORS.pop(model, None)) is not None:
        _STEPS.pop(mirror, None)


def _called(job: Callable[[], ImaginedStep]) -> ImaginedStep:
    return job()
