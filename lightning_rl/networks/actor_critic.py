"""Actor-critic networks, and the teacher and student networks of distillation."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from lightning_rl.errors import check_option
from lightning_rl.networks.dropout import dropout
from lightning_rl.networks.impala_cnn import PUBLISHED_SHAPE, CNNShape, ImpalaCNN
from lightning_rl.networks.init import glorot_, orthogonal_linear
from lightning_rl.networks.output_linear import OutputLinear


class ActorCriticOutput(NamedTuple):
    """Unnormalized log-probabilities of the actions, and one value per critic."""

    logits: Float[Tensor, "N A"]
    values: Float[Tensor, "N K"]


class ActorCritic(nn.Module):
    """A policy head and `K` value heads on a shared torso.

    Dropout is applied to the input of the critics only. Log-probabilities are thus the same when acting and when
    learning with the same weights; otherwise PPO's ratio would be noisy.

    Args:
        torso: maps frames to features.
        actor: maps features to logits.
        critics: each maps features to one value.
        dropout: probability of dropping an input feature of the critics during training.
    """

    def __init__(
        self, torso: nn.Module, actor: nn.Module, critics: Sequence[nn.Module], *, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.torso = torso
        self.actor = actor
        self.critics = nn.ModuleList(critics)
        self.dropout = dropout

    def forward(self, obs: UInt8[Tensor, "N H W C"], generator: torch.Generator | None = None) -> ActorCriticOutput:
        """Logits and values in float32; dropout is on if a `generator` is given."""
        features = self.torso(obs)
        logits = self.actor(features)
        features = dropout(features, self.dropout, generator)
        values = torch.cat([critic(features) for critic in self.critics], dim=-1)
        return ActorCriticOutput(logits, values)


def three_stack_actor_critic(
    obs_shape: Sequence[int],
    num_actions: int,
    num_critics: int,
    *,
    dropout: float = 0.0,
    shape: CNNShape = PUBLISHED_SHAPE,
) -> ActorCritic:
    """The network of OpenAI's Procgen baseline: IMPALA CNN (16, 32, 32), dense 256, linear heads.

    `shape` can ask for other channels and another dense layer.

    The torso is Glorot-uniform; the heads are orthogonal with gain 0.01 for the policy and 1 for the values.

    Reference:
        Cobbe et al. 2020, https://arxiv.org/abs/1912.01588; openai/baselines, common/models.py and common/policies.py
    """
    cnn = ImpalaCNN(obs_shape, shape=shape)
    hidden = shape.hidden or 256
    torso = nn.Sequential(cnn, nn.Linear(cnn.num_features, hidden), nn.ReLU())
    glorot_(torso)
    critics = [orthogonal_linear(hidden, 1, gain=1.0) for _ in range(num_critics)]
    return ActorCritic(torso, orthogonal_linear(hidden, num_actions, gain=0.01), critics, dropout=dropout)


def two_stack_cnn(obs_shape: Sequence[int], shape: CNNShape = PUBLISHED_SHAPE) -> ImpalaCNN:
    """The CNN of Rullo's networks: two stacks (16, 32), with 8192 features for a 64×64 frame."""
    return ImpalaCNN(obs_shape, channels=(16, 32), rectified_skip=True, shape=shape)


def two_stack_actor_critic(
    obs_shape: Sequence[int],
    num_actions: int,
    num_critics: int,
    *,
    dropout: float = 0.5,
    shape: CNNShape = PUBLISHED_SHAPE,
) -> ActorCritic:
    """The main network of Rullo 2024, section 3.2.1: two stacks, an actor, an extrinsic and an intrinsic critic.

    Weights have PyTorch's default initialization, as in the published code.

    Reference:
        rullo16/AutonomousProcgen, agents/DistillPPO.py
    """
    _refuse_sizes("two_stack", shape)
    cnn = two_stack_cnn(obs_shape, shape)
    actor = nn.Sequential(
        nn.Linear(cnn.num_features, 256), nn.ReLU(), nn.Linear(256, 512), nn.ReLU(), OutputLinear(512, num_actions)
    )
    extrinsic = nn.Sequential(
        nn.Linear(cnn.num_features, 256), nn.Linear(256, 512), nn.ReLU(), OutputLinear(512, 1)
    )  # no relu between the first two layers, as published
    intrinsic = [
        nn.Sequential(nn.Linear(cnn.num_features, 256), nn.ReLU(), OutputLinear(256, 1)) for _ in range(1, num_critics)
    ]
    return ActorCritic(cnn, actor, [extrinsic, *intrinsic], dropout=dropout)


class _TwoConvolutions(nn.Module):
    """Two 5×5 convolutions of stride 2 with 32 channels and TensorFlow's `SAME` padding, flattened.

    Args:
        obs_shape: height, width and channels of an observation.
    """

    def __init__(self, obs_shape: Sequence[int]) -> None:
        super().__init__()
        height, width, channels = obs_shape
        self.convolutions = nn.ModuleList([nn.Conv2d(channels, 32, 5, stride=2), nn.Conv2d(32, 32, 5, stride=2)])
        self.num_features = 32 * -(-height // 4) * -(-width // 4)

    def forward(self, obs: UInt8[Tensor, "N H W C"]) -> Float[Tensor, "N D"]:
        """The features, after a relu."""
        features = obs.permute(0, 3, 1, 2).float().div(255)
        for convolution in self.convolutions:
            height, width = features.shape[-2:]
            rows, columns = (3 + height % 2, 3 + width % 2)  # total padding for ⌈n / 2⌉ outputs
            padding = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
            features = functional.relu(convolution(functional.pad(features, padding)))
        return features.flatten(1)


def two_conv_actor_critic(
    obs_shape: Sequence[int],
    num_actions: int,
    num_critics: int,
    *,
    dropout: float = 0.0,
    shape: CNNShape = PUBLISHED_SHAPE,
) -> ActorCritic:
    """SimPLe's policy network: two 5×5 convolutions, dense 128, linear heads.

    The released code has a dropout layer of rate 0.1 that is never in training mode, so there is none here. Torso and
    heads are initialized as in the three-stack network.

    Reference:
        tensor2tensor, models/research/rl.py, `feed_forward_cnn_small_categorical_fun`
    """
    check_option("model.pooling", shape.pooling, shape.pooling == "flatten", "flatten for the network two_conv")
    check_option("model.width", shape.width, shape.width == 1, "1 for the network two_conv")
    _refuse_sizes("two_conv", shape)
    convolutions = _TwoConvolutions(obs_shape)
    torso = nn.Sequential(convolutions, nn.Linear(convolutions.num_features, 128), nn.ReLU())
    glorot_(torso)
    critics = [orthogonal_linear(128, 1, gain=1.0) for _ in range(num_critics)]
    return ActorCritic(torso, orthogonal_linear(128, num_actions, gain=0.01), critics, dropout=dropout)


def _refuse_sizes(network: str, shape: CNNShape) -> None:
    for name in ("channels", "hidden"):
        value = getattr(shape, name)
        check_option(f"model.{name}", value, value is None, f"null for the network {network}")


NETWORKS = {
    "three_stack": three_stack_actor_critic,
    "two_stack": two_stack_actor_critic,
    "two_conv": two_conv_actor_critic,
}
"""The networks by their names in configs."""


class DistillationNetwork(nn.Module):
    """Teacher or student of network distillation: two stacks, dropout, two dense layers, a linear output layer.

    The student is frozen at its random initialization. The teacher learns to predict the student's outputs, and its
    error is large on unfamiliar frames. (Random network distillation calls them target and predictor.)

    Args:
        obs_shape: height, width and channels of a frame.
        num_outputs: 1 in Rullo 2024, 512 in Burda et al. 2018.
        dropout: probability of dropping a feature during training; never active when rewards are computed.

    Reference:
        Rullo 2024, section 3.2.2; Burda et al. 2018, https://arxiv.org/abs/1810.12894
    """

    def __init__(self, obs_shape: Sequence[int], *, num_outputs: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.cnn = two_stack_cnn(obs_shape)
        self.head = nn.Sequential(
            nn.Linear(self.cnn.num_features, 256),
            nn.ReLU(),
            nn.Linear(256, 512),
            nn.ReLU(),
            OutputLinear(512, num_outputs),
        )
        self.dropout = dropout

    def forward(
        self, images: Float[Tensor, "N C H W"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "N D"]:
        """Outputs for normalized images, in float32; dropout is on if a `generator` is given."""
        features = dropout(self.cnn.encode(images), self.dropout, generator)
        outputs: Tensor = self.head(features)
        return outputs
