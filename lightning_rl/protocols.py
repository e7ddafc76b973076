"""Interfaces of policies, environments, world models, replay buffers and methods."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from lightning_rl.types import ActorOutput, Draws, ImaginedStep, RecurrentInputs, Rollout, State, Windows

EnvStep = tuple[
    UInt8[NDArray[Any], "B H W _"],  # of which a wrapper may make more channels
    Float32[NDArray[Any], "B"],
    Bool[NDArray[Any], "B"],
    Bool[NDArray[Any], "B"],
    dict[str, Any],
]
"""Observations, rewards, `terminated`, `truncated` and `info` of one step."""


@runtime_checkable
class ResumableVectorEnv(Protocol):
    """A `gymnasium.vector.VectorEnv` in same-step autoreset mode whose full state can be saved and restored."""

    @property
    def num_envs(self) -> int:
        """Number of environments."""

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[UInt8[NDArray[Any], "B H W C"], dict[str, Any]]:
        """The current observations; environments that restart by themselves accept no seed here."""

    def step(
        self, actions: Int64[NDArray[Any], "B"]
    ) -> tuple[
        UInt8[NDArray[Any], "B H W C"],
        Float32[NDArray[Any], "B"],
        Bool[NDArray[Any], "B"],
        Bool[NDArray[Any], "B"],
        dict[str, Any],
    ]:
        """Returns obs, rewards, terminated, truncated, info; after an episode's end, the next one's first obs."""

    def get_state(self) -> State:
        """The full state, from which the environments continue bit for bit."""

    def set_state(self, state: State) -> UInt8[NDArray[Any], "B H W C"]:
        """Restores `state` and returns its observations."""

    def close(self) -> None:
        """Closes the environments."""


@runtime_checkable
class WorldModel(Protocol):
    """A learned simulator of a game: predicts frames, rewards and ends of episodes."""

    def begin(self, obs: UInt8[Tensor, "B H W D"]) -> Tensor | None:
        """Recurrent state before the newest frame of each stack; None if the model has none."""

    def imagine(
        self,
        obs: UInt8[Tensor, "B H W D"],
        actions: Int64[Tensor, "B"],
        generator: torch.Generator,
        state: Tensor | None = None,
    ) -> ImaginedStep:
        """Predicts one step; all randomness comes from `generator` (on the CPU)."""


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

        Without `recurrent_inputs`, every frame counts as the first of an environment's first episode.
        """


@runtime_checkable
class CapturablePolicy(Policy, Protocol):
    """A policy whose step is a function of tensors on one device, which can be captured and replayed."""

    @property
    def learner(self) -> Any:
        """The module that learns, whose captured steps are kept as long as it lives."""

    @property
    def is_captured(self) -> bool:
        """Whether rollouts are collected by a captured step."""

    @property
    def device(self) -> torch.device:
        """Where it decides."""

    def draws(self, num_envs: int, num_actions: int, generator: torch.Generator) -> Draws:
        """The random numbers of a step, in the order in which `act` draws them."""

    def step(self, frames: UInt8[Tensor, "B H W C"], inputs: RecurrentInputs, draws: Draws) -> ActorOutput:
        """What `act` does, on the device alone and without reading from it."""

    def mirror(self) -> "CapturablePolicy":
        """A copy with memory of its own and the weights in the precision that they are used in."""

    def acting_weights(self) -> list[Tensor]:
        """The weights that learning changes, in the same order in a mirror."""


@runtime_checkable
class RemotePolicy(Policy, Protocol):
    """A policy whose copies can act in other processes."""

    def actor(self) -> "RemotePolicy":
        """A picklable copy on the CPU that acts in the same precision."""

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that training changes."""

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> Any:
        """Loads the `state_dict` of another copy."""


@runtime_checkable
class Replay(Protocol):
    """A buffer of all real experience."""

    def append(self, rollout: Rollout) -> None:
        """Adds a rollout."""

    def sample(self, number: int, *, num_targets: int, generator: torch.Generator, held_out: bool = False) -> "Windows":
        """Samples windows from the training trajectories, or from the held-out ones."""

    def starts(self, number: int, *, generator: torch.Generator) -> UInt8[Tensor, "N H W D"]:
        """Samples stacks of real frames of the newest rollout, from which imagined rollouts start."""


@runtime_checkable
class Source(Protocol):
    """The experience that a method learns from: new rollouts, and a replay buffer if it uses one."""

    generator: torch.Generator
    """Generator of all random choices between two updates."""
    memory: dict[str, Tensor]
    """State that the method carries across rollouts, one row per environment; saved with the environments."""

    @property
    def replay(self) -> Replay | None:
        """The replay buffer; None for methods that do not use one."""

    def collect(self, policy: Policy) -> Rollout:
        """Runs `policy` for one rollout."""


@runtime_checkable
class Agent(Policy, Protocol):
    """A policy that learns: turns the rollouts of each iteration into training batches."""

    greedy: bool
    uses_replay: bool
    """Whether the method learns from a replay buffer on disk."""
    on_policy: bool
    """Whether the method learns only from rollouts of the current policy, which rules out actor processes."""

    def yardsticks(self, game: str) -> dict[str, Policy]:
        """Other policies that `test` plays on all levels of a game, by name."""

    def check_finite(self) -> None:
        """Raises a FloatingPointError where a loss of the updates so far was not finite."""

    def batches_per_iteration(self, num_steps: int, num_envs: int) -> int:
        """Number of batches that `batches` yields for rollouts of this size."""

    def batches(self, source: Source) -> Iterator[Any]:
        """Collects rollouts from `source` and yields the batches of one iteration."""
