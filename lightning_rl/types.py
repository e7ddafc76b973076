"""Data types passed between the layers: rollouts, actor outputs, windows of real play, episodes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; on the way to a GPU through pinned memory, because any other copy waits for its queue."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


State = dict[str, Any]
"""Saved state: tensors, numbers, strings, and lists and dicts of them, which load with `weights_only=True`."""


# the shape checks that run in the tests cannot resolve `Self`
Fields = TypeVar("Fields", bound="TensorFields")


@dataclass(frozen=True)
class TensorFields:
    """Base of frozen dataclasses of tensors; `to` lets Lightning move them to a device as batches."""

    def to(self: Fields, device: torch.device) -> Fields:
        """The same data on `device`; a GPU copies it while the caller goes on."""
        return self.map_tensors(lambda tensor: moved(tensor, device))

    def map_tensors(self: Fields, function: Callable[[Tensor], Tensor]) -> Fields:
        """Applies `function` to every tensor, including those of nested dataclasses."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors: dict[str, Any] = {name: function(value) for name, value in values.items() if isinstance(value, Tensor)}
        nested = {
            name: value.map_tensors(function) for name, value in values.items() if isinstance(value, TensorFields)
        }
        return replace(self, **tensors, **nested)

    def tensors(self) -> Iterator[Tensor]:
        """All tensors, including those of nested dataclasses, in the order of the fields."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                yield value
            elif isinstance(value, TensorFields):
                yield from value.tensors()


@dataclass(frozen=True, kw_only=True)
class RecurrentInputs(TensorFields):
    """Inputs of a recurrent policy besides the frames of `B` environments, on the CPU.

    At the first frame of an episode, the previous action, the previous reward and the state still belong to the
    preceding episode. The policy resets the state itself.
    """

    previous_actions: Int64[Tensor, "B"]
    previous_rewards: Float32[Tensor, "B"]  # the game's own, unscaled
    starts: Bool[Tensor, "B"]  # whether the frame is the first of an episode
    state: Float32[Tensor, "B S"]  # the policy's recurrent state after the preceding frame; S = 0 if it has none

    @classmethod
    def initial(cls, num_envs: int) -> "RecurrentInputs":
        """Inputs before the first step."""
        return cls(
            previous_actions=torch.zeros(num_envs, dtype=torch.int64),
            previous_rewards=torch.zeros(num_envs),
            starts=torch.ones(num_envs, dtype=torch.bool),
            state=torch.zeros(num_envs, 0),
        )

    def rows(self, which: Bool[Tensor, "B"] | slice) -> "RecurrentInputs":
        """Inputs of a subset of the environments."""
        return self.map_tensors(lambda tensor: tensor[which])


@dataclass(frozen=True, kw_only=True)
class ActorOutput(TensorFields):
    """A policy's actions for `B` environments with their logits and the critics' values.

    `state` is the new state of a recurrent policy, and `noise` what a policy with a latent sampled besides its actions.
    `teacher_logits` and `teacher_values` are what a teacher says of the same frames.
    """

    actions: Int64[Tensor, "B"]
    logits: Float32[Tensor, "B A"]
    values: Float32[Tensor, "B K"]
    state: Float32[Tensor, "B S"] | None = None
    noise: Float32[Tensor, "B Z"] | None = None
    teacher_logits: Float32[Tensor, "B A"] | None = None
    teacher_values: Float32[Tensor, "B"] | None = None

    def next_inputs(self, rewards: Float32[NDArray[Any], "B"], ended: Bool[NDArray[Any], "B"]) -> RecurrentInputs:
        """Recurrent inputs of the next step, given the rewards and episode ends of this one."""
        return RecurrentInputs(
            previous_actions=self.actions,
            previous_rewards=torch.from_numpy(rewards),
            starts=torch.from_numpy(ended),
            state=torch.zeros(len(self.actions), 0) if self.state is None else self.state,
        )


@dataclass(frozen=True, kw_only=True)
class Draws(TensorFields):
    """The random numbers of one step of a policy in `B` environments, drawn on the CPU.

    An action is the one with the largest quotient of its probability and its exponential number: exactly what
    `torch.multinomial` samples from the same generator. `noise` is that of a latent, `teacher_exponentials` are of the
    teacher's own actions, and `by_teacher` marks the environments in which these are played.
    """

    exponentials: Float32[Tensor, "B A"]
    noise: Float32[Tensor, "B Z"] | None = None
    teacher_exponentials: Float32[Tensor, "B A"] | None = None
    by_teacher: Bool[Tensor, "B"] | None = None


@dataclass(frozen=True, kw_only=True)
class StepInputs(TensorFields):
    """All that a policy's step in `B` environments depends on."""

    frames: UInt8[Tensor, "B H W C"]
    recurrent: RecurrentInputs
    draws: Draws

    def with_state(self, state: Float32[Tensor, "B S"]) -> "StepInputs":
        """The same with another recurrent state."""
        return replace(self, recurrent=replace(self.recurrent, state=state))


@dataclass(frozen=True, kw_only=True)
class Rollout(TensorFields):
    """`T` steps of `B` environments under one behavior policy, time-major.

    `rewards[t]` and `terminated[t]` result from `actions[t]`, which was taken at `obs[t]`. Where `terminated[t]`,
    `obs[t + 1]` is the first of a new episode. `obs[T]` is only used to bootstrap. Consecutive rollouts overlap in it:
    `next.obs[0]` equals `this.obs[T]`.

    `behavior_values` are those of the `K` critics when the policy acted. `behavior_noise` is what the policy sampled
    besides its actions, and `teacher_logits` and `teacher_values` what a teacher said. `recurrent_inputs` belong to
    `obs[0]`. `policy_lag` is the number of updates between the behavior policy and the policy that received the
    rollout.
    """

    actions: Int64[Tensor, "T B"]
    rewards: Float32[Tensor, "T B"]  # as returned by the wrapped environment; clipping is left to the module
    terminated: Bool[Tensor, "T B"]
    behavior_logits: Float32[Tensor, "T B A"]
    behavior_values: Float32[Tensor, "T B K"]
    obs: UInt8[Tensor, "T+1 B H W C"]  # as rendered; a view of it as [N C H W] is channels_last
    recurrent_inputs: RecurrentInputs
    raw_rewards: Float32[Tensor, "T B"] | None = None  # as the game gave them, for a recurrent policy
    behavior_noise: Float32[Tensor, "T B Z"] | None = None
    teacher_logits: Float32[Tensor, "T B A"] | None = None
    teacher_values: Float32[Tensor, "T B"] | None = None
    policy_lag: int = 0

    def first(self, num_steps: int) -> "Rollout":
        """The first `num_steps` steps."""
        rows = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "obs"}
        steps: dict[str, Any] = {name: row[:num_steps] for name, row in rows.items() if isinstance(row, Tensor)}
        return replace(self, obs=self.obs[: num_steps + 1], **steps)


@dataclass(frozen=True, kw_only=True)
class Windows(TensorFields):
    """`N` segments of real play, each of `L` = K + P frames: `K` to start from and `P` to predict.

    Step i leads from frame i to frame i + 1. `valid` marks steps of the same episode as frame K − 1; the other entries
    are padding. Frames before the first of that episode repeat it. Where a step `ended` the episode, the next frame
    belongs to another one.
    """

    frames: UInt8[Tensor, "N L H W C"]
    actions: Int64[Tensor, "N L-1"]
    rewards: Float32[Tensor, "N L-1"]  # as returned by the wrapped environment
    ended: Bool[Tensor, "N L-1"]
    valid: Bool[Tensor, "N L-1"]

    def __len__(self) -> int:
        return len(self.frames)

    def rows(self, which: slice) -> "Windows":
        """A range of the windows."""
        return self.map_tensors(lambda tensor: tensor[which])


@dataclass(frozen=True, kw_only=True)
class Episodes(TensorFields):
    """Episodes that one policy finished on one level set.

    `actions` are those of all episodes, one episode after the other. The games say where an episode begins: by the seed
    of its level, or by a start of their own.
    """

    level_set: str
    returns: Float64[Tensor, "E"]  # raw, in env units
    lengths: Int64[Tensor, "E"]
    level_complete: Bool[Tensor, "E"] | None  # None if the game does not report it
    actions: Int64[Tensor, "S"] | None = None
    level_seeds: Int64[Tensor, "E"] | None = None
    starts: Int64[Tensor, "E K"] | None = None
    game: str = ""  # where a run has several


@dataclass(frozen=True, kw_only=True)
class ImaginedStep(TensorFields):
    """A world model's prediction of one step of `B` environments."""

    frames: UInt8[Tensor, "B H W C"]
    rewards: Float32[Tensor, "B"]  # the most likely ones
    expected_rewards: Float32[Tensor, "B"]
    end_probabilities: Float32[Tensor, "B"]
    state: Float[Tensor, "B S H W"] | None = None  # of a recurrent model
