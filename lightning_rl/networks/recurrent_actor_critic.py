"""Recurrent actor-critic: an LSTM over frames, previous actions and previous rewards."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional

from lightning_rl.networks.impala_cnn import PUBLISHED_SHAPE, CNNShape, ImpalaCNN
from lightning_rl.networks.init import glorot_, orthogonal_linear


class RecurrentOutput(NamedTuple):
    """Logits and values of every step, and the state after the last one."""

    logits: Float32[Tensor, "T B A"]
    values: Float32[Tensor, "T B"]
    state: Float32[Tensor, "B S"]


class RecurrentStep(NamedTuple):
    """Logits, the value and the state after one step of each environment."""

    logits: Float32[Tensor, "B A"]
    values: Float32[Tensor, "B 1"]
    state: Float32[Tensor, "B S"]


class RecurrentActorCritic(nn.Module):
    """IMPALA's large network: IMPALA CNN (16, 32, 32), dense 256, LSTM 256, linear heads.

    The input of the LSTM is the dense layer's output, the frame's latent if there is one, the previous reward clipped
    to ±1, and the previous action, one-hot. The state is reset before the first frame of an episode. The LSTM runs in
    float32 even under mixed precision, since rounding errors would accumulate over an episode.

    The torso is Glorot-uniform. The heads are orthogonal with gain 1, the norm of Sonnet's default; with PPO's 0.01 for
    the policy head, almost no gradient would reach the layers below. The LSTM has PyTorch's default weights; its biases
    are 1 for the forget gate, as in TensorFlow's cell, and 0 otherwise.

    Args:
        obs_shape: height, width and channels of a frame.
        num_actions: A.
        latent_size: Z, length of the latent; 0 for none.
        hidden_size: size of the LSTM; its state holds hidden and cell state, so it is twice as long.
        shape: sizes of the CNN, and how its features are pooled; its `hidden` is the size of dense layer and LSTM.

    Reference:
        Espeholt et al. 2018, IMPALA, figure 3 right, https://arxiv.org/abs/1802.01561; deepmind/scalable_agent,
        experiment.py, `Agent`, without the language of DMLab; Xu & Kaneko, section 3, for the latent
    """

    def __init__(
        self,
        obs_shape: Sequence[int],
        num_actions: int,
        *,
        latent_size: int = 0,
        hidden_size: int = 256,
        shape: CNNShape = PUBLISHED_SHAPE,
    ) -> None:
        super().__init__()
        cnn = ImpalaCNN(obs_shape, shape=shape)
        self.num_actions = num_actions
        features, hidden_size = shape.hidden or 256, shape.hidden or hidden_size
        self.torso = nn.Sequential(cnn, nn.Linear(cnn.num_features, features), nn.ReLU())
        glorot_(self.torso)
        self.lstm = nn.LSTM(features + latent_size + 1 + num_actions, hidden_size)
        biases = dict(self.lstm.named_parameters())
        for name in ("bias_ih_l0", "bias_hh_l0"):
            nn.init.zeros_(biases[name])
        nn.init.ones_(biases["bias_ih_l0"][hidden_size : 2 * hidden_size])  # gates: input, forget, cell, output
        self.actor = orthogonal_linear(hidden_size, num_actions, gain=1.0)
        self.critic = orthogonal_linear(hidden_size, 1, gain=1.0)

    def forward(
        self,
        obs: UInt8[Tensor, "T B H W C"],
        latents: Float[Tensor, "T B Z"],
        previous_actions: Int64[Tensor, "T B"],
        previous_rewards: Float32[Tensor, "T B"],
        starts: Bool[Tensor, "T B"],
        state: Float32[Tensor, "B S"],
    ) -> RecurrentOutput:
        """Unrolls the network over time."""
        shape = obs.shape[:2]
        boundaries = opening_steps(starts)  # read before a GPU has the torso to compute, which reading would wait for
        features = self.torso(obs.flatten(0, 1)).unflatten(0, shape)
        with torch.autocast(features.device.type, enabled=False):
            inputs = self._lstm_inputs(features, latents, previous_actions, previous_rewards)
            outputs, state = self._unroll_lstm(inputs, boundaries, starts, state)
            return RecurrentOutput(self.actor(outputs), self.critic(outputs).squeeze(-1), state)

    def step(
        self,
        obs: UInt8[Tensor, "B H W C"],
        latents: Float[Tensor, "B Z"],
        previous_actions: Int64[Tensor, "B"],
        previous_rewards: Float32[Tensor, "B"],
        starts: Bool[Tensor, "B"],
        state: Float32[Tensor, "B S"],
    ) -> RecurrentStep:
        """One step: what `forward` computes for T = 1, without a loop over time."""
        features = self.torso(obs)
        with torch.autocast(features.device.type, enabled=False):
            inputs = self._lstm_inputs(features, latents, previous_actions, previous_rewards)
            outputs, hidden, cell = self._segment(inputs[None], starts, *self._hidden_and_cell(inputs, state))
            return RecurrentStep(self.actor(outputs[0]), self.critic(outputs[0]), torch.cat([hidden, cell], dim=1))

    def _lstm_inputs(
        self,
        features: Float[Tensor, "*shape F"],
        latents: Float[Tensor, "*shape Z"],
        previous_actions: Int64[Tensor, "*shape"],
        previous_rewards: Float32[Tensor, "*shape"],
    ) -> Float32[Tensor, "*shape D"]:
        inputs = [
            features.float(),
            latents.float(),
            previous_rewards.clamp(-1, 1).unsqueeze(-1),
            functional.one_hot(previous_actions, self.num_actions).float(),
        ]
        return torch.cat(inputs, dim=-1)

    def _hidden_and_cell(
        self, inputs: Float32[Tensor, "B D"], state: Float32[Tensor, "B S"]
    ) -> tuple[Float32[Tensor, "B O"], Float32[Tensor, "B O"]]:
        """The parts of the state; zeros before the first step, where there is none."""
        size = self.lstm.hidden_size
        hidden, cell = (state if state.shape[1] else inputs.new_zeros(len(inputs), 2 * size)).split(size, dim=1)
        return hidden, cell

    def _unroll_lstm(
        self,
        inputs: Float32[Tensor, "T B D"],
        boundaries: Sequence[int],
        starts: Bool[Tensor, "T B"],
        state: Float32[Tensor, "B S"],
    ) -> tuple[Float32[Tensor, "T B O"], Float32[Tensor, "B N"]]:
        """Calls the LSTM once for each segment between episode starts, since a call for each frame is slow."""
        hidden, cell = self._hidden_and_cell(inputs[0], state)
        outputs = []
        for begin, end in pairwise([0, *boundaries, len(inputs)]):
            segment, hidden, cell = self._segment(inputs[begin:end], starts[begin], hidden, cell)
            outputs.append(segment)
        return torch.cat(outputs), torch.cat([hidden, cell], dim=1)

    def _segment(
        self,
        inputs: Float32[Tensor, "T B D"],
        starts: Bool[Tensor, "B"],
        hidden: Float32[Tensor, "B O"],
        cell: Float32[Tensor, "B O"],
    ) -> tuple[Float32[Tensor, "T B O"], Float32[Tensor, "B O"], Float32[Tensor, "B O"]]:
        """Steps of which only the first may open episodes, `starts`."""
        kept = (~starts).unsqueeze(-1).float()
        outputs, (hidden, cell) = self.lstm(inputs, ((hidden * kept).unsqueeze(0), (cell * kept).unsqueeze(0)))
        return outputs, hidden.squeeze(0), cell.squeeze(0)


def opening_steps(starts: Bool[Tensor, "T B"]) -> list[int]:
    """The steps after the first in which an episode starts in some environment."""
    opening: list[int] = starts[1:].any(1).nonzero().flatten().add(1).tolist()
    return opening
