"""What `ImpalaVAEModule` computes, written as a PyTorch user writes it first.

float32, contiguous NCHW, the frames of all unrolls at once, an `nn.LSTM` called once per step as in TorchBeast, every
image whole in memory, threads and allocator as torch and the system have them.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_rl.modules.impala_vae import EncodedUnrolls, ImpalaVAEModule


class PlainBlock(nn.Module):
    """A residual block.

    Args:
        channels: of its images.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, of the input's shape."""
        y: Tensor = self.conv2(functional.relu(self.conv1(functional.relu(x))))
        return x + y


class PlainImpalaVAE(nn.Module):
    """Policy, value and autoencoder, and their losses; layers and order of the parameters are `ImpalaVAEModule`'s.

    Args:
        obs_shape: height, width and channels of a frame.
        num_actions: of the environment.
        latent_size: length of the code.
    """

    def __init__(self, obs_shape: Sequence[int], num_actions: int, latent_size: int) -> None:
        super().__init__()
        height, width, channels = obs_shape
        self.num_actions = num_actions
        tower: list[nn.Module] = []
        for before, after in ((channels, 16), (16, 32), (32, 32)):
            tower += [nn.Conv2d(before, after, 3, padding=1), nn.MaxPool2d(3, stride=2, padding=1)]
            tower += [PlainBlock(after), PlainBlock(after)]
        self.tower = nn.Sequential(*tower, nn.ReLU(), nn.Flatten())
        self.dense = nn.Linear(prod((height // 8, width // 8, 32)), 256)
        self.lstm = nn.LSTM(256 + latent_size + 1 + num_actions, 256)
        self.actor = nn.Linear(256, num_actions)
        self.critic = nn.Linear(256, 1)
        encoded = [((size - 1) // 2 - 1) // 2 for size in (height, width)]
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * prod(encoded), 2 * latent_size),
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent_size, 16 * (height // 4) * (width // 4)),
            nn.ReLU(),
            nn.Unflatten(1, (16, height // 4, width // 4)),
            nn.ConvTranspose2d(16, 32, 3, stride=2, padding=1, output_padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 16, 3, stride=2, padding=1, output_padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 1, 3, padding=1),
        )

    def agent_parameters(self) -> list[nn.Parameter]:
        """All but the autoencoder's."""
        parts = (self.tower, self.dense, self.lstm, self.actor, self.critic)
        return [parameter for part in parts for parameter in part.parameters()]

    def vae_parameters(self) -> list[nn.Parameter]:
        """The autoencoder's."""
        return [*self.encoder.parameters(), *self.decoder.parameters()]

    def losses(self, batch: EncodedUnrolls) -> dict[str, Tensor]:
        """Weighted: sums over the batch of policy, value and entropy; the mean over frames of the autoencoder's."""
        assert batch.noise is not None
        num_steps, num_envs = batch.actions.shape
        frames = batch.obs.flatten(0, 1).permute(0, 3, 1, 2).contiguous().float() / 255
        code, vae_loss = self._autoencoded(frames, batch.noise.flatten(0, 1))

        recurrent_inputs = batch.recurrent_inputs
        rewards = torch.cat([recurrent_inputs.previous_rewards[None], batch.env_rewards]).clamp(-1, 1)
        actions = torch.cat([recurrent_inputs.previous_actions[None], batch.actions])
        starts = torch.cat([recurrent_inputs.starts[None], batch.terminated])
        features = functional.relu(self.dense(self.tower(frames)))
        known = [features, code, rewards.reshape(-1, 1), functional.one_hot(actions.flatten(), self.num_actions)]
        core_input = torch.cat(known, dim=1).view(num_steps + 1, num_envs, -1)
        state = [part[None].contiguous() for part in recurrent_inputs.state.chunk(2, dim=1)]
        core_outputs = []
        for step, goes_on in zip(core_input, (~starts).float(), strict=True):
            state = [goes_on.view(1, -1, 1) * part for part in state]
            output, (hidden, cell) = self.lstm(step[None], tuple(state))
            state = [hidden, cell]
            core_outputs.append(output)
        core_output = torch.cat(core_outputs)
        logits, values = self.actor(core_output)[:-1], self.critic(core_output).squeeze(-1)

        log_policy = functional.log_softmax(logits, dim=-1)
        log_probs = log_policy.gather(2, batch.actions[..., None]).squeeze(-1)
        behavior = functional.log_softmax(batch.behavior_logits, dim=-1)
        behavior_log_probs = behavior.gather(2, batch.actions[..., None]).squeeze(-1)
        targets, advantages = self._v_trace(batch, log_probs.detach() - behavior_log_probs, values.detach())
        return {
            "policy": (-log_probs * advantages).sum(),
            "value": 0.5 * 0.5 * ((targets - values[:-1]) ** 2).sum(),
            "entropy": 0.01 * (log_policy.exp() * log_policy).sum(),
            "vae": vae_loss,
        }

    def _autoencoded(self, frames: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        luminance = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
        images = ((frames * luminance).sum(1, keepdim=True) > 0.5).float()
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        sample = mean + torch.exp(log_variance / 2) * noise
        logits = self.decoder(sample)
        reconstruction = functional.binary_cross_entropy_with_logits(logits, images, reduction="sum") / len(images)
        log_posterior = (-0.5 * ((sample - mean) ** 2 * torch.exp(-log_variance) + log_variance)).sum(1)
        log_prior = (-0.5 * sample**2).sum(1)  # log 2π is in both
        return sample.detach(), reconstruction + (log_posterior - log_prior).mean()

    def _v_trace(self, batch: EncodedUnrolls, log_rhos: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """With γ = 0.99 and all bounds 1."""
        discounts = 0.99 * (~batch.terminated).float()
        rhos = torch.clamp(torch.exp(log_rhos), max=1)
        deltas = rhos * (batch.rewards + discounts * values[1:] - values[:-1])
        accumulated = torch.zeros_like(values[-1])
        differences = []
        for t in reversed(range(len(deltas))):
            accumulated = deltas[t] + discounts[t] * rhos[t] * accumulated
            differences.append(accumulated)
        targets = torch.stack(differences[::-1]) + values[:-1]
        next_targets = torch.cat([targets[1:], values[-1:]])
        return targets, rhos * (batch.rewards + discounts * next_targets - values[:-1])


class PlainLearner:
    """The peer and its optimisers, at the weights of a module that has the numbers of `configs/impala_vae.yaml`.

    Args:
        module: to start from; nothing of it is shared.
        obs_shape: height, width and channels of a frame.
    """

    def __init__(self, module: ImpalaVAEModule, obs_shape: Sequence[int]) -> None:
        self.model = PlainImpalaVAE(obs_shape, module.network.num_actions, module.vae.latent_size)
        state = zip(self.model.state_dict(), module.state_dict().values(), strict=True)  # strict: not a parameter more
        self.model.load_state_dict(dict(state))
        self._agent_optimizer = torch.optim.Adam(self.model.agent_parameters(), lr=1e-5)
        self._vae_optimizer = torch.optim.Adam(self.model.vae_parameters(), lr=1e-4)

    def update(self, batch: EncodedUnrolls) -> dict[str, float]:
        """One update of everything; the losses before it."""
        losses = self.model.losses(batch)
        self._agent_optimizer.zero_grad()
        self._vae_optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(self.model.agent_parameters(), 100)
        nn.utils.clip_grad_norm_(self.model.vae_parameters(), 1000)
        self._agent_optimizer.step()
        self._vae_optimizer.step()
        return {name: loss.item() for name, loss in losses.items()}
