"""How environments take their turns in a rollout: all at once, or in two halves that play and wait in turn."""

from collections.abc import Sequence
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from lightning_rl.envs.halves import Halves
from lightning_rl.envs.imagined import ImaginedVectorEnv
from lightning_rl.envs.side_by_side import joined
from lightning_rl.envs.wrapper import ResumableVectorWrapper
from lightning_rl.protocols import EnvStep, ResumableVectorEnv


@runtime_checkable
class Turns(Protocol):
    """Parts of the environments that act and are observed one after the other."""

    @property
    def rows(self) -> Sequence[slice]:
        """The rows of each part."""

    def act(self, part: int, actions: Int64[Tensor, "B"]) -> None:
        """Starts a step of a part."""

    def observe(self, part: int) -> Any:
        """Waits for the step that `act` has started."""

    def whole(self, steps: Sequence[Any]) -> Any:
        """One step of all environments, from those of the parts, as the wrappers around them pass it on."""


class AllAtOnce:
    """All environments as one part, which plays while the caller waits.

    Args:
        env: plays.
    """

    rows: Sequence[slice] = (slice(None),)

    def __init__(self, env: ResumableVectorEnv) -> None:
        self._env = env
        self._step: Any = None

    def act(self, part: int, actions: Int64[Tensor, "B"]) -> None:
        """See `Turns`."""
        self._step = self._env.step(actions.cpu().numpy())

    def observe(self, part: int) -> Any:
        """See `Turns`."""
        step, self._step = self._step, None
        return step

    def whole(self, steps: Sequence[Any]) -> Any:
        """See `Turns`."""
        (step,) = steps
        return step


class OnDevice(AllAtOnce):
    """Imagined environments, whose frames never leave the device.

    Args:
        env: imagines.
    """

    def act(self, part: int, actions: Int64[Tensor, "B"]) -> None:
        """See `Turns`."""
        self._step = cast(ImaginedVectorEnv, self._env).advance(actions)


class InHalves:
    """Two halves, of which one plays while the policy decides for the other.

    Args:
        env: wrappers around `Halves`.
        halves: these.
    """

    def __init__(self, env: ResumableVectorWrapper[Any], halves: Halves) -> None:
        self._env = env
        self._halves = halves
        self.rows: Sequence[slice] = halves.rows

    def act(self, part: int, actions: Int64[Tensor, "B"]) -> None:
        """See `Turns`."""
        self._halves.act(part, actions.cpu().numpy())

    def observe(self, part: int) -> Any:
        """See `Turns`."""
        return self._halves.observe(part)

    def whole(self, steps: Sequence[Any]) -> Any:
        """See `Turns`; the frames of the parts are with the policy already, and are left out."""
        without_frames = [(np.empty((len(step[1]), 0, 0, 0), dtype=np.uint8), *step[1:]) for step in steps]
        whole: EnvStep = self._env.passed_on_from_inside(joined(without_frames))
        return whole


def turns_of(env: ResumableVectorEnv) -> Turns:
    """How these environments take turns."""
    if isinstance(env, ResumableVectorWrapper) and isinstance(env.innermost, Halves):
        return InHalves(env, env.innermost)
    return AllAtOnce(env)
