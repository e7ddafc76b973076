"""Two halves of the environments that take turns: one plays while the policy decides for the other."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray

from lightning_rl.envs.side_by_side import joined, joined_infos
from lightning_rl.protocols import EnvStep, ResumableVectorEnv
from lightning_rl.types import State


class Halves(VectorEnv[NDArray[Any], NDArray[Any], NDArray[Any]]):
    """One vector environment of two, each of which plays in a thread of its own.

    `act` returns at once and `observe` waits, so that a caller can decide for one half while the other plays. What is
    played depends on the actions alone, never on the timing. `step` plays both.

    Args:
        halves: of the same actions and frames.

    Attributes:
        rows: the rows of each half.
    """

    def __init__(self, halves: Sequence[ResumableVectorEnv]) -> None:
        self.closed = False
        self._halves: list[Any] = list(halves)
        first, second = self._halves
        self.num_envs = first.num_envs + second.num_envs
        self.rows = (slice(0, first.num_envs), slice(first.num_envs, self.num_envs))
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_action_space = first.single_action_space
        self.single_observation_space = first.single_observation_space
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._threads = [ThreadPoolExecutor(1, thread_name_prefix="games") for _ in self._halves]
        self._playing: list[Future[EnvStep] | None] = [None, None]

    def act(self, half: int, actions: Int64[NDArray[Any], "B"]) -> None:
        """Starts a step of one half; its observations may be overwritten from now on."""
        self._playing[half] = self._threads[half].submit(self._halves[half].step, actions)

    def observe(self, half: int) -> EnvStep:
        """Waits for the step that `act` has started."""
        playing, self._playing[half] = self._playing[half], None
        if playing is None:
            raise RuntimeError(f"half {half} must act before it is observed")
        return playing.result()

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[UInt8[NDArray[Any], "B H W C"], dict[str, Any]]:
        """The current observations; `reset` of a resumable environment ends nothing."""
        frames, infos = zip(*(half.reset(seed=seed, options=options) for half in self._halves), strict=True)
        return np.concatenate(frames), joined_infos(infos)

    def step(self, actions: Int64[NDArray[Any], "B"]) -> EnvStep:
        """One step of both halves."""
        for half, rows in enumerate(self.rows):
            self.act(half, actions[rows])
        return joined([self.observe(half) for half in range(len(self.rows))])

    def get_state(self) -> State:
        """The state of each half."""
        return {name: half.get_state() for name, half in zip(_NAMES, self._halves, strict=True)}

    def set_state(self, state: State) -> UInt8[NDArray[Any], "B H W C"]:
        """Continues both halves from their part of `state`.

        Raises:
            ValueError: the state is of environments that are not in halves, or one of them refuses its part.
        """
        if list(state) != list(_NAMES):
            raise ValueError(f"the state must be of {' and '.join(_NAMES)}, found {', '.join(map(str, state))}")
        return np.concatenate([half.set_state(state[name]) for name, half in zip(_NAMES, self._halves, strict=True)])

    def close_extras(self, **_: Any) -> None:
        """Ends the games after the steps that were started, and the threads."""
        for thread in self._threads:
            thread.shutdown()
        for half in self._halves:
            half.close()


def built_in(
    halves: int, build: Callable[[int, int], ResumableVectorEnv], *, num_envs: int, seed: int
) -> ResumableVectorEnv:
    """Environments that are stepped at once, or in two halves with a seed each.

    Args:
        halves: 1 or 2.
        build: builds so many with this seed.
        num_envs: of both halves.
        seed: of all.
    """
    if halves == 1:
        return build(num_envs, seed)
    seeds = np.random.SeedSequence(seed).generate_state(2) % _MAX_SEED
    return Halves([build(num_envs // 2, int(own)) for own in seeds])


_MAX_SEED = 2**31 - 1
_NAMES = ("first_half", "second_half")
