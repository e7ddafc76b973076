"""The data that flows between the layers: rollouts, actor outputs, windows of real play, episodes."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

State = dict[str, Any]
"""Saved state: tensors, numbers, strings, and lists and dicts of them, so that it loads with `weights_only=True`."""


# not `Self`, which the shape checks of tests cannot resolve
Fields = TypeVar("Fields", bound="TensorFields")


@dataclass(frozen=True)
class TensorFields:
    """A frozen dataclass whose tensors move together: what Lightning takes as a batch."""

    def to(self: Fields, device: torch.device) -> Fields:
        """The same data on `device`."""
        return self.map_tensors(lambda tensor: tensor.to(device))

    def map_tensors(self: Fields, function: Callable[[Tensor], Tensor]) -> Fields:
        """The same fields with `function` applied to every tensor, nested ones included."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors: dict[str, Any] = {name: function(value) for name, value in values.items() if isinstance(value, Tensor)}
        nested = {
            name: value.map_tensors(function) for name, value in values.items() if isinstance(value, TensorFields)
        }
        return replace(self, **tensors, **nested)


@dataclass(frozen=True, kw_only=True)
class RecurrentInputs(TensorFields):
    """What `B` environments' frames do not show and a recurrent policy takes beside them, on the CPU.

    Where a frame opens an episode, the action and the reward are still the last ones of the episode before; the state
    is that episode's too, and the policy's to forget.
    """

    previous_actions: Int64[Tensor, "B"]
    previous_rewards: Float32[Tensor, "B"]  # as the wrapped environment gave them
    starts: Bool[Tensor, "B"]  # the frame opens an episode
    state: Float32[Tensor, "B S"]  # the policy's own, after the frame before; S = 0 where it has none

    @classmethod
    def initial(cls, num_envs: int) -> "RecurrentInputs":
        """Before the first step."""
        return cls(
            previous_actions=torch.zeros(num_envs, dtype=torch.int64),
            previous_rewards=torch.zeros(num_envs),
            starts=torch.ones(num_envs, dtype=torch.bool),
            state=torch.zeros(num_envs, 0),
        )

    def rows(self, which: Bool[Tensor, "B"]) -> "RecurrentInputs":
        """Of some of the environments."""
        return self.map_tensors(lambda tensor: tensor[which])


@dataclass(frozen=True, kw_only=True)
class ActorOutput:
    """What a policy decided for `B` environments, on the CPU: actions, the logits behind them, its critics' values.

    A recurrent policy adds its new state, without which it is not told what it did; and one that draws noise of its
    own the noise that it drew.
    """

    actions: Int64[Tensor, "B"]
    logits: Float32[Tensor, "B A"]
    values: Float32[Tensor, "B K"]
    state: Float32[Tensor, "B S"] | None = None
    noise: Float32[Tensor, "B Z"] | None = None

    def next_inputs(self, rewards: Float32[NDArray[Any], "B"], ended: Bool[NDArray[Any], "B"]) -> RecurrentInputs:
        """What to know beside the next frames, after these rewards and ends."""
        return RecurrentInputs(
            previous_actions=self.actions,
            previous_rewards=torch.from_numpy(rewards),
            starts=torch.from_numpy(ended),
            state=torch.zeros(len(self.actions), 0) if self.state is None else self.state,
        )


@dataclass(frozen=True, kw_only=True)
class Rollout(TensorFields):
    """`T` steps of `B` environments under one behavior policy, time first.

    `obs[t]`, `actions[t]`, `rewards[t]`, `terminated[t]` belong to the same decision: the reward and the flag are the
    consequence of `actions[t]`. `obs[t + 1]` opens a new episode wherever `terminated[t]`. `obs[T]` is never acted on;
    it exists to bootstrap. Consecutive rollouts overlap there: `next.obs[0]` equals `this.obs[T]`.

    `behavior_values` holds the values of the policy's `K` critics while it acted, `behavior_noise` what it drew beside
    its actions, `recurrent_inputs` what it took beside `obs[0]`. `policy_lag` is the number of updates between the
    policy that acted and the one that the rollout was handed to.
    """

    actions: Int64[Tensor, "T B"]
    rewards: Float32[Tensor, "T B"]  # as the wrapped environment gave them; clipping is the module's business
    terminated: Bool[Tensor, "T B"]
    behavior_logits: Float32[Tensor, "T B A"]
    behavior_values: Float32[Tensor, "T B K"]
    obs: UInt8[Tensor, "T+1 B H W C"]  # as rendered; the network's view of it as [N C H W] is already channels_last
    recurrent_inputs: RecurrentInputs
    behavior_noise: Float32[Tensor, "T B Z"] | None = None
    policy_lag: int = 0

    def first(self, num_steps: int) -> "Rollout":
        """Its first steps."""
        rows = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "obs"}
        steps: dict[str, Any] = {name: row[:num_steps] for name, row in rows.items() if isinstance(row, Tensor)}
        return replace(self, obs=self.obs[: num_steps + 1], **steps)


@dataclass(frozen=True, kw_only=True)
class Windows(TensorFields):
    """`N` pieces of real play, each of `K` frames to start from and `P` steps that follow, so of `L` = K + P frames.

    Step i leads from frame i to frame i + 1. It is `valid` where it was played in the episode of the frame at K − 1,
    the one that the window was chosen by; what else the window holds means nothing, but for the frames before an
    episode's first one, which repeat it. Where a step `ended` the episode, the frame after it is another episode's.
    """

    frames: UInt8[Tensor, "N L H W C"]
    actions: Int64[Tensor, "N L-1"]
    rewards: Float32[Tensor, "N L-1"]  # as the wrapped environment gave them
    ended: Bool[Tensor, "N L-1"]
    valid: Bool[Tensor, "N L-1"]

    def __len__(self) -> int:
        return len(self.frames)

    def rows(self, which: slice) -> "Windows":
        """Some of the windows."""
        return self.map_tensors(lambda tensor: tensor[which])


@dataclass(frozen=True, kw_only=True)
class Episodes(TensorFields):
    """Episodes that one policy finished on one set of levels."""

    level_set: str
    returns: Float64[Tensor, "E"]  # raw, in the game's units
    lengths: Int64[Tensor, "E"]
    level_complete: Bool[Tensor, "E"] | None  # None where the game does not say


@dataclass(frozen=True, kw_only=True)
class ImaginedStep(TensorFields):
    """What a world model says that `B` actions lead to."""

    frames: UInt8[Tensor, "B H W C"]
    rewards: Float32[Tensor, "B"]  # the likeliest
    expected_rewards: Float32[Tensor, "B"]
    end_probabilities: Float32[Tensor, "B"]
    state: Float[Tensor, "B S H W"] | None = None  # the model's own, where it has one
