"""What the wrappers of resumable environments share: their state nests the state of what they wrap."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

from gymnasium.vector import VectorWrapper
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray

from lightning_rl.distributed.running_moments import RunningMoments
from lightning_rl.protocols import EnvStep, ResumableVectorEnv
from lightning_rl.state import from_plain, to_plain, validate_state
from lightning_rl.types import State

Own = TypeVar("Own")


class ResumableVectorWrapper(VectorWrapper[Any, Any, Any, Any, NDArray[Any]], Generic[Own]):
    """A wrapper that implements `ResumableVectorEnv` around another one.

    Args:
        env: a `gymnasium.vector.VectorEnv` that implements `ResumableVectorEnv`.
        own: everything that the wrapper itself remembers, a dataclass as `lightning_rl.state` takes them.
    """

    def __init__(self, env: ResumableVectorEnv, own: Own) -> None:
        super().__init__(cast(Any, env))  # the protocol and gymnasium's base class cannot be named in one type
        self._inner = env
        self._own = own

    @property
    def _sizes(self) -> dict[str, int]:
        """The sizes that the own state has, by their names in its shapes."""
        return {"B": self.num_envs}

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

    def take_statistics(self, state: State) -> None:
        """Goes on with the running statistics of other environments of the same game, of whatever number.

        Args:
            state: what `get_state` returned there, under the same wrappers.
        """
        if isinstance(self._inner, ResumableVectorWrapper):
            self._inner.take_statistics(state["env"])

    def step(self, actions: Int64[NDArray[Any], "B"]) -> EnvStep:
        """One step of the environment inside, as this wrapper passes it on."""
        return self.passed_on(self._inner.step(actions))

    def passed_on(self, step: EnvStep) -> EnvStep:
        """What becomes of a step of the environment inside."""
        return step

    def passed_on_from_inside(self, step: EnvStep) -> EnvStep:
        """What this wrapper and all those inside make of a step of the innermost environment."""
        inner = self._inner
        return self.passed_on(inner.passed_on_from_inside(step) if isinstance(inner, ResumableVectorWrapper) else step)

    @property
    def innermost(self) -> ResumableVectorEnv:
        """The environment that no wrapper is around."""
        return self._inner.innermost if isinstance(self._inner, ResumableVectorWrapper) else self._inner

    def get_state(self) -> State:
        """What this wrapper remembers, and under `env` the state of the environment inside."""
        return {"env": self._inner.get_state(), **to_plain(self._own)}

    def set_state(self, state: State) -> UInt8[NDArray[Any], "B H W C"]:
        """Continues from `state`.

        Args:
            state: what `get_state` returned under the same wrappers.

        Returns:
            The observations at that point.

        Raises:
            ValueError: `state` was saved under other wrappers, or the environment inside refuses its part.
        """
        name, expected = type(self).__name__, {"env", *to_plain(self._own)}
        if set(state) != expected:
            raise ValueError(
                f"a state of {name} has {', '.join(sorted(expected))}, found {', '.join(sorted(state))}; build the same"
                " wrappers that saved it"
            )
        validate_state(state, {"env": dict}, name)
        own = from_plain(type(self._own), state, name, **self._sizes)
        obs = self._inner.set_state(state["env"])  # may refuse its part: nothing here has changed yet
        self._own = own
        return obs
