"""What the wrappers of resumable environments share: their state nests the state of what they wrap."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, cast

from gymnasium.vector import VectorWrapper
from jaxtyping import UInt8
from numpy.typing import NDArray

from lightning_rl.distributed.running_moments import RunningMoments
from lightning_rl.protocols import ResumableVectorEnv
from lightning_rl.types import State


class ResumableVectorWrapper(VectorWrapper[Any, Any, Any, Any, NDArray[Any]], ABC):
    """A wrapper that implements `ResumableVectorEnv` around another one.

    Args:
        env: A `gymnasium.vector.VectorEnv` that implements `ResumableVectorEnv`.
    """

    def __init__(self, env: ResumableVectorEnv) -> None:
        super().__init__(cast(Any, env))  # the protocol and gymnasium's base class cannot be named in one type
        self._inner = env

    @abstractmethod
    def _own_state(self) -> State:
        """What this wrapper adds to the state, as copies."""

    @abstractmethod
    def _set_own_state(self, state: State) -> None:
        """Continues from what `_own_state` returned."""

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[UInt8[NDArray[Any], "B H W C"], dict[str, Any]]:
        """The current observations; counts go on, because `reset` of a resumable environment ends nothing."""
        return self._inner.reset(seed=seed, options=options)

    def sync_statistics(self, merged: Callable[[RunningMoments], RunningMoments]) -> None:
        """Takes into running statistics what other ranks have seen since the last call.

        Args:
            merged: gives the moments of the samples of all ranks together, from those of this one's.
        """
        if isinstance(self._inner, ResumableVectorWrapper):
            self._inner.sync_statistics(merged)

    def get_state(self) -> State:
        """What this wrapper remembers, and under `env` the state of the environment inside."""
        return {"env": self._inner.get_state(), **self._own_state()}

    def set_state(self, state: State) -> UInt8[NDArray[Any], "B H W C"]:
        """Continues from `state`.

        Args:
            state: What `get_state` returned under the same wrappers.

        Returns:
            The observations at that point.

        Raises:
            ValueError: `state` was saved under other wrappers, or the environment inside refuses its part.
        """
        expected = {"env", *self._own_state()}
        if set(state) != expected:
            raise ValueError(
                f"a state of {type(self).__name__} has {', '.join(sorted(expected))}, this one has"
                f" {', '.join(sorted(state))}; build the same wrappers that saved it"
            )
        obs = self._inner.set_state(state["env"])  # first: it refuses before anything here has changed
        self._set_own_state(state)
        return obs
