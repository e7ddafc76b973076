"""An exported policy: frames in, logits, values and a recurrent state out."""

from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_rl.networks.actor_critic import NETWORKS, ActorCritic
from lightning_rl.networks.recurrent_actor_critic import RecurrentActorCritic
from lightning_rl.networks.vae import Images, encoded_images, latent_distribution, vae_encoder
from lightning_rl.policies.config import PolicyConfig

Array = Tensor | NDArray[Any]


class PolicyOutput(NamedTuple):
    """What a policy says about a batch of frames."""

    logits: Float32[Tensor, "N A"]
    """Unnormalized log-probabilities of the actions."""
    values: Float32[Tensor, "N K"]
    """One value for each of the critics."""
    state: Float32[Tensor, "N S"] | None
    """The state to give back with the next frames; None for a policy without one."""


def sample_actions(
    logits: Float32[Tensor, "N A"], generator: torch.Generator | None, *, greedy: bool
) -> Int64[Tensor, "N"]:
    """Actions sampled with `generator`, or the most likely ones."""
    if greedy:
        return logits.argmax(-1)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)


class ExportedPolicy(nn.Module):
    """A trained policy by itself; parameters have the names that they have in the method's module.

    Nothing here is random but the sampling of actions: an autoencoder's latent is its mean.

    Args:
        config: how to build it.

    Attributes:
        config: likewise, with the games, the names of the actions and more.
    """

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        options, sizes = config.network, (config.obs_shape, config.num_actions)
        self.network: nn.Module
        if config.recurrent:
            self.network = RecurrentActorCritic(*sizes, latent_size=options.latent_size, shape=options.shape)
        else:
            self.network = NETWORKS[options.name](*sizes, options.num_critics, shape=options.shape)
        if options.latent_size:
            images = cast(Images, options.images)
            encoder = vae_encoder(config.obs_shape, latent_size=options.latent_size, images=images)
            self.vae = nn.ModuleDict({"encoder": encoder})
        self.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def state_size(self) -> int:
        """S, length of the recurrent state; 0 for a policy without one."""
        return 2 * self.network.lstm.hidden_size if isinstance(self.network, RecurrentActorCritic) else 0

    @torch.no_grad()
    def forward(
        self,
        obs: Array,
        state: Array | None = None,
        previous_actions: Array | None = None,
        previous_rewards: Array | None = None,
        starts: Array | None = None,
    ) -> PolicyOutput:
        """Logits, values and the new state for `N` frames.

        A policy without a state ignores all but the frames. For a recurrent one a frame without a state opens an
        episode, the first one; later, the state, the actions and the rewards of the step before must be given.

        Args:
            obs: uint8 frames `[N H W C]`, 0..255, as numpy array or tensor.
            state: `output.state` of the call before, float32 `[N S]`; where an episode opens it is not used.
            previous_actions: the actions that led to these frames, int64 `[N]`.
            previous_rewards: the rewards that they brought, float32 `[N]`, as `config.preprocessing` says.
            starts: whether the frames open an episode, bool `[N]`; by default only without a state.

        Raises:
            ValueError: an argument of another type or shape, or one that is missing.
        """
        frames = self._frames(obs)
        if isinstance(self.network, ActorCritic):
            logits, values = self.network(frames)
            return PolicyOutput(logits, values, None)
        given = {"previous_actions": previous_actions, "previous_rewards": previous_rewards}
        if missing := [name for name, value in given.items() if value is None and state is not None]:
            raise ValueError(f"{missing[0]} must be given with a state, found None")
        count, is_first = len(frames), state is None
        return self.step(
            frames,
            self._given("state", state, torch.float32, (count, self.state_size)),
            self._given("previous_actions", previous_actions, torch.int64, (count,)),
            self._given("previous_rewards", previous_rewards, torch.float32, (count,)),
            self._given("starts", starts, torch.bool, (count,))
            if starts is not None
            else frames.new_full((count,), is_first, dtype=torch.bool),
        )

    def step(
        self,
        frames: UInt8[Tensor, "N H W C"],
        state: Float32[Tensor, "N S"],
        previous_actions: Int64[Tensor, "N"],
        previous_rewards: Float32[Tensor, "N"],
        starts: Bool[Tensor, "N"],
    ) -> PolicyOutput:
        """One step of a recurrent policy, on its device."""
        network = cast(RecurrentActorCritic, self.network)
        latents = previous_rewards.unsqueeze(-1)[:, :0]  # not zeros of a size that ONNX would take for a constant
        if self.config.network.latent_size:
            images = encoded_images(frames, cast(Images, self.config.network.images))
            latents = latent_distribution(self.vae["encoder"], images).mean
        return PolicyOutput(*network.step(frames, latents, previous_actions, previous_rewards, starts, state))

    def act(
        self,
        obs: Array,
        state: Array | None = None,
        previous_actions: Array | None = None,
        previous_rewards: Array | None = None,
        starts: Array | None = None,
        *,
        greedy: bool = False,
        generator: torch.Generator | None = None,
    ) -> Int64[Tensor, "N"]:
        """Actions for `N` frames; see `forward` for the arguments and `sample` for the options."""
        output = self(obs, state, previous_actions, previous_rewards, starts)
        return self.sample(output.logits, greedy=greedy, generator=generator)

    def sample(
        self, logits: Float32[Tensor, "N A"], *, greedy: bool = False, generator: torch.Generator | None = None
    ) -> Int64[Tensor, "N"]:
        """Actions on the CPU: drawn by their probabilities, or the most likely ones.

        Args:
            logits: of `forward`.
            greedy: take the most likely action.
            generator: the random stream, on the CPU; torch's own by default.
        """
        return sample_actions(logits.cpu(), generator, greedy=greedy)

    def _frames(self, obs: Array) -> UInt8[Tensor, "N H W C"]:
        frames = obs if isinstance(obs, Tensor) else torch.from_numpy(obs)
        if frames.dtype != torch.uint8 or tuple(frames.shape[1:]) != self.config.obs_shape:
            shape = ", ".join(map(str, self.config.obs_shape))
            found = f"{str(frames.dtype).removeprefix('torch.')} of shape {list(frames.shape)}"
            raise ValueError(f"obs must be uint8 of shape [N, {shape}], found {found}")
        return frames.to(self.device)

    def _given(self, name: str, value: Array | None, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """An argument as a tensor; zeros where it is not given."""
        if value is None:
            return torch.zeros(shape, dtype=dtype, device=self.device)
        given = torch.as_tensor(value, dtype=dtype, device=self.device)
        if given.shape != shape:
            raise ValueError(f"{name} must be of shape {list(shape)}, found {list(given.shape)}")
        return given
