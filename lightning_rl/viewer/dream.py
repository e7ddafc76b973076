"""A world model that plays on from a moment of the real game, alone or beside it."""

from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from lightning_rl.protocols import WorldModel

_COLORS = 3
_FAR, _SHARE = 32, 0.02
"""Frames have parted once more than 2 % of their pixels are 32 or more of 256 levels apart in a color."""

MAX_TEMPERATURE = 10.0

Frame = UInt8[NDArray[Any], "H W 3"]


@runtime_checkable
class Tempered(Protocol):
    """A world model whose draws have a temperature."""

    temperature: float | None


@dataclass(frozen=True, kw_only=True)
class Dream:
    """How far the world model's play has come.

    Args:
        origin: the stack of real frames that it began at.
        is_of_replay: whether those were drawn from the frames that it has learned from, and the game was not there.
        stack: its last frames, the newest one last.
        state: its recurrent state, if it has one.
        steps: since it left the real game.
        reward: that it predicted for the last step.
        total: sum of these rewards.
        is_over: whether it says that the episode has ended.
        distance: mean difference from the real frame, in levels of 256; None where it plays alone.
        parted: the first step after which the two frames have parted; None while they have not.
    """

    origin: UInt8[Tensor, "1 H W D"]
    is_of_replay: bool = False
    stack: UInt8[Tensor, "1 H W D"]
    state: Float[Tensor, "1 S H W"] | None
    steps: int = 0
    reward: float = 0.0
    total: float = 0.0
    is_over: bool = False
    distance: float | None = None
    parted: int | None = None

    @property
    def frame(self) -> Frame:
        """The newest frame."""
        return np.ascontiguousarray(self.stack[0, ..., -_COLORS:].numpy())


class Dreamer:
    """Plays in a world model; what it has come to is in the `Dream`s alone.

    Args:
        model: the world model.
        random: the stream of what it draws.
    """

    def __init__(self, model: WorldModel, random: torch.Generator) -> None:
        self._model = model
        self._random = random

    @property
    def temperature(self) -> float | None:
        """Of what the model draws; None for what it drew when the policy learned in it."""
        return self._model.temperature if isinstance(self._model, Tempered) else None

    @temperature.setter
    def temperature(self, value: float | None) -> None:
        """Sets it.

        Raises:
            ValueError: it is out of range, or the model has none.
        """
        if value is not None and not 0 <= value <= MAX_TEMPERATURE:
            raise ValueError(f"temperature must be from 0 to {MAX_TEMPERATURE:g}, found {value}")
        if isinstance(self._model, Tempered):
            self._model.temperature = value
        elif value is not None:
            raise ValueError(f"temperature must be left out for {type(self._model).__name__}, found {value}")

    def begin(self, obs: UInt8[NDArray[Any], "1 H W D"]) -> Dream:
        """Leaves the real game at an observation."""
        return self._begun(torch.from_numpy(obs.copy()), is_of_replay=False)

    def begin_at_replay(self, stack: UInt8[Tensor, "1 H W D"]) -> Dream:
        """Begins at frames that the model has learned from."""
        return self._begun(stack, is_of_replay=True)

    def begin_anew(self, dream: Dream) -> Dream:
        """Begins where it began before."""
        return self._begun(dream.origin, is_of_replay=dream.is_of_replay)

    def _begun(self, stack: UInt8[Tensor, "1 H W D"], *, is_of_replay: bool) -> Dream:
        return Dream(origin=stack, is_of_replay=is_of_replay, stack=stack, state=self._model.begin(stack))

    def step(self, dream: Dream, action: int, real: Frame | None) -> Dream:
        """The next step.

        Args:
            dream: before it.
            action: that is taken.
            real: the frame that the real game shows after the same action; None where there is none.
        """
        step = self._model.imagine(dream.stack, torch.tensor([action]), self._random, dream.state)
        frames, reward = step.frames.cpu(), float(step.rewards[0])
        distance, parted = None, dream.parted
        if real is not None:
            away = difference(frames[0].numpy(), real)
            distance = float(away.mean())
            has_parted = float((away.max(axis=-1) >= _FAR).mean()) > _SHARE
            parted = dream.steps + 1 if parted is None and has_parted else parted
        return replace(
            dream,
            stack=torch.cat([dream.stack[..., frames.shape[-1] :], frames], dim=-1),
            state=step.state,
            steps=dream.steps + 1,
            reward=reward,
            total=dream.total + reward,
            is_over=float(step.end_probabilities[0]) > 0.5,
            distance=distance,
            parted=parted,
        )


def difference(one: Frame, other: Frame) -> Frame:
    """How far apart two frames are, color by color."""
    apart: Frame = np.abs(one.astype(np.int16) - other.astype(np.int16)).astype(np.uint8)
    return apart
