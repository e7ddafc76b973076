"""The contracts that tie policies, environments, world models and methods together."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from lightning_rl.types import ActorOutput, ImaginedStep, RecurrentInputs, Rollout, State, Windows


@runtime_checkable
class ResumableVectorEnv(Protocol):
    """A `gymnasium.vector.VectorEnv` in same-step autoreset mode whose whole state can be taken and put back."""

    @property
    def num_envs(self) -> int:
        """Environments stepped together."""

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[UInt8[NDArray[Any], "B H W C"], dict[str, Any]]:
        """The current observations; games that start and restart by themselves take no seed here."""

    def step(
        self, actions: Int64[NDArray[Any], "B"]
    ) -> tuple[
        UInt8[NDArray[Any], "B H W C"],
        Float32[NDArray[Any], "B"],
        Bool[NDArray[Any], "B"],
        Bool[NDArray[Any], "B"],
        dict[str, Any],
    ]:
        """Observation, reward, terminated, truncated, info; where an episode ended, the next one's first frame."""

    def get_state(self) -> State:
        """Everything that decides the future of the games, bit for bit."""

    def set_state(self, state: State) -> UInt8[NDArray[Any], "B H W C"]:
        """Continues from `state`; returns its observations."""

    def close(self) -> None:
        """Ends the games."""


@runtime_checkable
class WorldModel(Protocol):
    """A game that was learned: predicts frames, rewards and ends of episodes."""

    def begin(self, obs: UInt8[Tensor, "B H W D"]) -> Tensor | None:
        """The model's state before the newest frame of each stack; None where it has none."""

    def imagine(
        self,
        obs: UInt8[Tensor, "B H W D"],
        actions: Int64[Tensor, "B"],
        generator: torch.Generator,
        state: Tensor | None = None,
    ) -> ImaginedStep:
        """One step; what the model draws it draws from `generator` (on the CPU)."""


@runtime_checkable
class Policy(Protocol):
    """Chooses actions for a batch of observations."""

    def act(
        self,
        obs: UInt8[NDArray[Any], "B H W C"],
        generator: torch.Generator,
        *,
        recurrent_inputs: RecurrentInputs | None = None,
        greedy: bool = False,
    ) -> ActorOutput:
        """Samples actions with `generator` (on the CPU), or takes the most likely ones.

        Without `recurrent_inputs` every frame opens an episode, and the first one.
        """


@runtime_checkable
class RemotePolicy(Policy, Protocol):
    """A policy of which copies can act in other processes."""

    def actor(self) -> "RemotePolicy":
        """A copy on the CPU that can be pickled, and acts with the same precision."""

    def state_dict(self) -> dict[str, Tensor]:
        """All that changes with learning."""

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> Any:
        """Takes what another copy has learned."""


@runtime_checkable
class Replay(Protocol):
    """Everything that was played for real."""

    def append(self, rollout: Rollout) -> None:
        """Adds a rollout."""

    def sample(self, number: int, *, num_targets: int, generator: torch.Generator, held_out: bool = False) -> "Windows":
        """Windows drawn from what is learned from, or from what never is."""

    def starts(self, number: int, *, generator: torch.Generator) -> UInt8[Tensor, "N H W D"]:
        """Stacks of real frames of the newest rollout."""


@runtime_checkable
class Source(Protocol):
    """What a method collects from."""

    generator: torch.Generator
    """The stream of every random choice made between two updates."""
    memory: dict[str, Tensor]
    """What the method carries from rollout to rollout, one row per environment; saved and restored with the games."""

    @property
    def replay(self) -> Replay | None:
        """What was played before, for a method that learns from it."""

    def collect(self, policy: Policy) -> Rollout:
        """Runs `policy` and returns what happened."""


@runtime_checkable
class Agent(Policy, Protocol):
    """A policy that learns: turns a source of rollouts into the batches of one iteration."""

    greedy: bool
    uses_replay: bool
    """Learns from everything that was played for real, kept on disk."""
    on_policy: bool
    """Learns from what it did as it is now, only: rollouts of actors come too late for it."""

    def batches_per_iteration(self, num_steps: int, num_envs: int) -> int:
        """How many batches one call of `batches` yields for rollouts of this size."""

    def batches(self, source: Source) -> Iterator[Any]:
        """Collects, and yields every batch of one iteration."""
