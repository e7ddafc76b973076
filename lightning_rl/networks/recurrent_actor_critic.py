"""Policy and value on an LSTM that also hears of the last action and the last reward."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional

from lightning_rl.networks.impala_cnn import ImpalaCNN
from lightning_rl.networks.init import glorot_, orthogonal_linear


class RecurrentOutput(NamedTuple):
    """Logits and value of every step, and the state after the last one."""

    logits: Float32[Tensor, "T B A"]
    values: Float32[Tensor, "T B"]
    state: Float32[Tensor, "B S"]


class RecurrentActorCritic(nn.Module):
    """IMPALA's large network: IMPALA CNN (16, 32, 32), dense 256, LSTM 256, linear heads.

    The LSTM takes the dense layer's output beside a latent code of the frame, where there is one, the last reward,
    clipped to ±1, and the last action, one-hot. Its state is forgotten before a frame that opens an episode. It runs in
    float32 under mixed precision, too: rounding would add up over an episode.

    The torso is Glorot-uniform; the heads are orthogonal with gain 1, of the norm of Sonnet's default, since with PPO's
    0.01 for the policy next to no gradient reaches what is below it; the LSTM is as PyTorch starts it except for its
    biases: 1 for the forget gate, which TensorFlow's cell adds, and 0.

    Args:
        obs_shape: height, width and channels of a frame.
        num_actions: A.
        latent_size: Z, length of the code; 0 without.
        hidden_size: of the LSTM; its state, output and cell, is twice as long.

    Reference:
        Espeholt et al. 2018, IMPALA, figure 3 right, https://arxiv.org/abs/1802.01561; deepmind/scalable_agent,
        experiment.py, `Agent`, without the language of DMLab; Xu & Kaneko, section 3, for the code
    """

    def __init__(
        self, obs_shape: Sequence[int], num_actions: int, *, latent_size: int = 0, hidden_size: int = 256
    ) -> None:
        super().__init__()
        cnn = ImpalaCNN(obs_shape)
        self.num_actions = num_actions
        self.torso = nn.Sequential(cnn, nn.Linear(cnn.num_features, 256), nn.ReLU())
        glorot_(self.torso)
        self.lstm = nn.LSTM(256 + latent_size + 1 + num_actions, hidden_size)
        biases = dict(self.lstm.named_parameters())
        for name in ("bias_ih_l0", "bias_hh_l0"):
            nn.init.zeros_(biases[name])
        nn.init.ones_(biases["bias_ih_l0"][hidden_size : 2 * hidden_size])  # the second of input, forget, cell, output
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
        """Steps through time; one step is `T = 1`."""
        shape = obs.shape[:2]
        features = self.torso(obs.flatten(0, 1)).unflatten(0, shape)
        with torch.autocast(features.device.type, enabled=False):
            known = [
                features.float(),
                latents.float(),
                previous_rewards.clamp(-1, 1).unsqueeze(-1),
                functional.one_hot(previous_actions, self.num_actions).float(),
            ]
            outputs, state = self._remembered(torch.cat(known, dim=-1), starts, state)
            return RecurrentOutput(self.actor(outputs), self.critic(outputs).squeeze(-1), state)

    def _remembered(
        self, inputs: Float32[Tensor, "T B D"], starts: Bool[Tensor, "T B"], state: Float32[Tensor, "B S"]
    ) -> tuple[Float32[Tensor, "T B O"], Float32[Tensor, "B N"]]:
        """One call of the LSTM from each frame that opens an episode to the next: a call for each frame is slow."""
        hidden_size = self.lstm.hidden_size
        if state.shape[1] == 0:  # of a policy that has not lived yet
            state = inputs.new_zeros(inputs.shape[1], 2 * hidden_size)
        output, cell = state.split(hidden_size, dim=1)
        outputs = []
        openings = starts[1:].any(1).nonzero().flatten() + 1
        for begin, end in pairwise([0, *openings.tolist(), len(inputs)]):
            kept = (~starts[begin]).unsqueeze(-1).float()
            memory = ((output * kept).unsqueeze(0), (cell * kept).unsqueeze(0))
            steps, memory = self.lstm(inputs[begin:end], memory)
            output, cell = (part.squeeze(0) for part in memory)
            outputs.append(steps)
        return torch.cat(outputs), torch.cat([output, cell], dim=1)
