"""IMPALA with a variational autoencoder whose latent the policy sees."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor

from lightning_rl.cpu.micro_batches import MicroBatchConfig
from lightning_rl.data.minibatches import num_minibatches, shuffled
from lightning_rl.errors import check_option
from lightning_rl.losses.surprise import StateStatistics, surprise_minimizing_rewards
from lightning_rl.losses.vae import divergence_of_dimensions, gaussian_image_nll, gaussian_kl, image_nll, sampled_kl
from lightning_rl.modules.base import Objective
from lightning_rl.modules.impala import ImpalaModule, Unrolls
from lightning_rl.networks.vae import VAE, Images, LatentDistribution
from lightning_rl.policies.config import NetworkConfig
from lightning_rl.protocols import Source
from lightning_rl.types import Rollout, TensorFields


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """Options of the autoencoder: its size, how it learns, and what the policy sees of it.

    The paper states the layers and the 64 latent dimensions. It does not state learning rate, β, update interval and
    the form of the divergence; these are taken from the tutorial that it follows.

    Args:
        latent_size: length of the latent.
        images: what is encoded: `binary`, whether the gray level is above one half (the paper), or `rgb`, the frame.
        deviation: standard deviation of the normal likelihood of `rgb` images, whose values are 0 to 1.
        feed: the policy sees a `sample` of the latent (the paper) or its `mean`. The noise of the sample is kept with
            the rollout, so that equal weights give equal log-probabilities.
        joint_gradient: let the policy's loss also train the encoder; the paper updates the two independently.
        learning_rate: Adam's learning rate for the autoencoder.
        beta: weight of the divergence.
        kl: `sampled` estimates the divergence from the sample (the tutorial), `analytic` computes it.
        update_interval: learner updates between two updates of the autoencoder.
        minibatch_size: frames of one update of the autoencoder, which then runs over all frames of the unrolls once, in
            random order, after the policy's update; must divide their number. Null: one update on all frames, together
            with the policy's.
        max_grad_norm: bound on the norm of the autoencoder's gradient.

    Raises:
        ValueError: a value outside its range.

    Reference:
        Xu & Kaneko, section 3 and figure 2; TensorFlow's tutorial "Convolutional Variational Autoencoder"
    """

    latent_size: int = 64
    images: Images = "binary"
    deviation: float = 0.1
    feed: Literal["sample", "mean"] = "sample"
    joint_gradient: bool = False
    learning_rate: float = 1e-4
    beta: float = 1.0
    kl: Literal["sampled", "analytic"] = "sampled"
    update_interval: int = 1
    minibatch_size: int | None = None
    max_grad_norm: float = 1000.0

    def __post_init__(self) -> None:
        for name in ("latent_size", "update_interval"):
            check_option(f"model.vae.{name}", getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in ("deviation", "learning_rate", "max_grad_norm"):
            check_option(f"model.vae.{name}", getattr(self, name), getattr(self, name) > 0, "positive")
        check_option("model.vae.beta", self.beta, self.beta >= 0, "at least 0")
        if self.minibatch_size is not None:
            check_option(
                "model.vae.minibatch_size", self.minibatch_size, self.minibatch_size >= 1, "at least 1 or null"
            )
            interval = self.update_interval
            check_option("model.vae.update_interval", interval, interval == 1, "1 where vae.minibatch_size is given")


@dataclass(frozen=True, kw_only=True)
class SurpriseConfig:
    """Options of the surprise-minimizing reward: the log-density of a state's latent under the episode's so far.

    Args:
        weight: factor on the log-density, which is added to the clipped reward of the game. Of a 64-dimensional latent
            the log-density is about ±80, so that this weight makes it a tenth of what starpilot pays per step; where it
            is negative, more would pay the agent for an early end.
        min_deviation: lower bound of the standard deviations of the fitted distribution.

    Raises:
        ValueError: a value outside its range.

    Reference:
        Xu & Kaneko, section 5, as future work; Berseth et al. 2021, SMiRL, https://arxiv.org/abs/1912.05510
    """

    weight: float = 3e-5
    min_deviation: float = 0.1

    def __post_init__(self) -> None:
        check_option("model.surprise.min_deviation", self.min_deviation, self.min_deviation > 0, "positive")


@dataclass(frozen=True, kw_only=True)
class EncodedUnrolls(Unrolls):
    """Unrolls with the noise of the latents that the policy saw and the surprise-minimizing part of `rewards`.

    `noise` is None if the policy sees the latents' means; `surprise_rewards` is None without such rewards.
    """

    noise: Float32[Tensor, "T+1 B Z"] | None
    surprise_rewards: Float32[Tensor, "T B"] | None


@dataclass(frozen=True, kw_only=True)
class Frames(TensorFields):
    """`N` frames for an update of the autoencoder alone."""

    obs: UInt8[Tensor, "N H W C"]

    def __len__(self) -> int:
        return len(self.obs)

    def split(self, micro_batches: MicroBatchConfig) -> Sequence["Frames"]:
        """The frames in even parts of at most `size`."""
        return [Frames(obs=self.obs[part]) for part in micro_batches.even_parts(len(self))]


class Traversal(NamedTuple):
    """Decoded images for `D` latent dimensions at `V` values each, around the latent of one frame; on the CPU."""

    dimensions: Int64[Tensor, "D"]
    kl: Float32[Tensor, "D"]  # divergence of the dimension in nats, mean over frames
    images: Float32[Tensor, "D V K H W"]  # 0 to 1


class ImpalaVAEModule(ImpalaModule):
    """IMPALA with a jointly trained variational autoencoder.

    The settings beside `vae` and `surprise` are those of `ImpalaModule`.

    Args:
        vae: the autoencoder.
        surprise: the surprise-minimizing reward; null for none.
        **impala: options of `ImpalaModule`.

    Raises:
        ValueError: a value outside its range.

    Reference:
        Xu & Kaneko, Combining reinforcement learning and VAE to improve generalization in Procgen Benchmark
    """

    vae: VAE
    policy_parts = ("network", "vae.encoder")

    def __init__(self, *, vae: VAEConfig = VAEConfig(), surprise: SurpriseConfig | None = None, **impala: Any) -> None:
        self.vae_config = vae  # set first: the size of the latent is needed to build the network
        self.surprise = surprise
        super().__init__(**impala)
        self.vae = VAE(self.obs_shape, latent_size=vae.latent_size, images=vae.images)

    @classmethod
    def method(cls, init_args: dict[str, Any]) -> str:
        """`impala_vae`, or `impala_vae_sm` with the surprise-minimizing reward."""
        return "impala_vae" if init_args.get("surprise") is None else "impala_vae_sm"

    @property
    def latent_size(self) -> int:
        """Length of the latent."""
        return self.vae_config.latent_size

    def network_config(self) -> NetworkConfig:
        """See `RLModule`."""
        return replace(super().network_config(), images=self.vae_config.images)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One for the agent and one for the autoencoder."""
        own = {"lr": self.vae_config.learning_rate, "max_grad_norm": self.vae_config.max_grad_norm}
        return [*super().parameter_groups(), {"params": self.vae.parameters(), **own}]

    def batches_per_iteration(self, num_steps: int, num_envs: int) -> int:
        """One batch of unrolls, and the autoencoder's own minibatches if it has any."""
        size = self.vae_config.minibatch_size
        return 1 if size is None else 1 + num_minibatches(num_steps * num_envs, size, option="vae.minibatch_size")

    def batches(self, source: Source) -> Iterator[EncodedUnrolls | Frames]:
        """Yields one unroll of each environment, then its frames if the autoencoder learns from minibatches."""
        rollout = source.collect(self)
        noise = rollout.behavior_noise
        if noise is not None:  # the last frame was not acted on yet, so it has no noise
            last = torch.randn(noise[:1].shape, generator=source.generator)
            noise = torch.cat([noise.to(self.device), last.to(self.device)])
        rollout = rollout.to(self.device)
        unrolls = self.unrolls(rollout)
        surprise = self._surprise_rewards(rollout, source.memory)
        rewards = unrolls.rewards if surprise is None else unrolls.rewards + surprise
        yield EncodedUnrolls(**(vars(unrolls) | {"rewards": rewards, "noise": noise, "surprise_rewards": surprise}))
        if self.vae_config.minibatch_size is not None:
            frames = rollout.obs[:-1].flatten(0, 1)  # the last frames are the first of the next unrolls
            passes: dict[str, Any] = {"epochs": 1, "minibatch_size": self.vae_config.minibatch_size}
            for indices in shuffled(len(frames), generator=source.generator, device=self.device, **passes):
                yield Frames(obs=frames[indices])

    def _surprise_rewards(self, rollout: Rollout, memory: dict[str, Tensor]) -> Float32[Tensor, "T B"] | None:
        if self.surprise is None:
            return None
        (means,) = self.map_in_chunks(
            lambda part: (self._latent_distribution(part).mean,), rollout.obs.flatten(0, 1), size=256
        )
        means = means.unflatten(0, rollout.obs.shape[:2]).cpu()
        names = {field.name: f"visited_{field.name}" for field in fields(StateStatistics)}
        if "visited_counts" not in memory:
            memory |= {key: getattr(StateStatistics.initial(means[0]), name) for name, key in names.items()}
        visited = StateStatistics(**{name: memory[key] for name, key in names.items()})
        rewards, visited = surprise_minimizing_rewards(
            means[1:], rollout.terminated.cpu(), visited, min_std=self.surprise.min_deviation
        )
        memory |= {key: getattr(visited, name) for name, key in names.items()}
        return self.surprise.weight * rewards.to(self.device)

    def _latent_distribution(self, obs: UInt8[Tensor, "N H W C"]) -> LatentDistribution:
        latent: LatentDistribution = self.vae.encode(self.vae.images(obs))
        return latent

    def draw_noise(self, num_envs: int, generator: torch.Generator, *, greedy: bool) -> Float32[Tensor, "B Z"] | None:
        """Standard normal noise for sampling the latents, on the CPU; None if the policy sees their means."""
        if self.vae_config.feed == "mean" or greedy:
            return None
        return torch.randn(num_envs, self.latent_size, generator=generator)

    def latents(self, frames: UInt8[Tensor, "N H W C"], noise: Float32[Tensor, "N Z"] | None) -> Float[Tensor, "N Z"]:
        """Samples of the latents for the given noise, or their means without noise."""
        latent = self._latent_distribution(frames)
        return latent.mean if noise is None else latent.sample(noise)

    def reconstructed(
        self, obs: UInt8[Tensor, "N H W C"]
    ) -> tuple[Float32[Tensor, "N K H W"], Float32[Tensor, "N K H W"]]:
        """The encoded images of frames and their reconstructions from the mean latents, 0 to 1, on the CPU."""
        with torch.no_grad(), self.precision():
            images = self.vae.images(obs.to(self.device))
            expected = self.vae.expected(self.vae.decode(self.vae.encode(images).mean))
        return images.cpu(), expected.cpu()

    def traversed(
        self, obs: UInt8[Tensor, "N H W C"], values: Float32[Tensor, "V"], *, num_dimensions: int
    ) -> Traversal:
        """Decodes the first frame's mean latent with one dimension changed at a time (latent traversal).

        Args:
            obs: example frames; the first one is traversed, all are averaged over to find the dimensions in use.
            values: what the dimension is set to, in standard deviations of the prior.
            num_dimensions: how many dimensions to traverse, those with the highest divergence first.

        Returns:
            The dimensions, their divergence and the decoded images.
        """
        with torch.no_grad(), self.precision():
            mean, log_variance = self._latent_distribution(obs.to(self.device))
            kl = divergence_of_dimensions(mean, log_variance)
            dimensions = kl.argsort(descending=True, stable=True)[:num_dimensions]
            latents = mean[0].repeat(len(dimensions), len(values), 1)
            for row, dimension in zip(latents, dimensions, strict=True):
                row[:, dimension] = values.to(row)
            images = self.vae.expected(self.vae.decode(latents.flatten(0, 1))).unflatten(0, latents.shape[:2])
        return Traversal(dimensions.cpu(), kl[dimensions].cpu(), images.cpu())

    def weights(self, batch: EncodedUnrolls | Frames) -> dict[str, float]:
        """IMPALA's weights; the autoencoder's loss is a mean over frames with weight 1."""
        if isinstance(batch, Frames):
            return {"vae": 1.0}
        together = self.vae_config.minibatch_size is None
        return super().weights(batch) | ({"vae": 1.0} if together else {})

    def objective(self, batch: EncodedUnrolls | Frames, generator: torch.Generator) -> Objective:
        """IMPALA's losses, means over the steps, and the autoencoder's, a mean over frames, if it learns from them."""
        if isinstance(batch, Frames):
            _, negative_elbo, metrics = self._autoencoded(batch.obs, None, generator)
            return Objective({"vae": negative_elbo}, metrics)
        losses: dict[str, Tensor] = {}
        metrics = {}
        frames, noise = batch.obs.flatten(0, 1), None if batch.noise is None else batch.noise.flatten(0, 1)
        if self.vae_config.minibatch_size is None:
            latents, losses["vae"], metrics = self._autoencoded(frames, noise, generator)
        else:
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.vae_config.joint_gradient):
                latents = self.latents(frames, noise)
        agent = self.vtrace_objective(batch, latents)
        surprise = batch.surprise_rewards
        reward = {} if surprise is None else {"intrinsic/reward": surprise.mean()}
        return Objective(losses | agent.losses, metrics | agent.metrics | reward)

    def _autoencoded(
        self, frames: UInt8[Tensor, "N H W C"], noise: Float32[Tensor, "N Z"] | None, generator: torch.Generator
    ) -> tuple[Float[Tensor, "N Z"], Tensor, dict[str, Tensor]]:
        """The latents that the policy sees, the autoencoder's loss and its metrics.

        The loss is computed at the policy's sample if `noise` is given, else at a new one.
        """
        options = self.vae_config
        images = self.vae.images(frames)
        learns = self.global_step % options.update_interval == 0
        with torch.set_grad_enabled(torch.is_grad_enabled() and (learns or options.joint_gradient)):
            latent = self.vae.encode(images)
            new = torch.randn(latent.mean.shape, generator=generator, device=images.device)
            sample = latent.sample(new if noise is None else noise)
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            decoded = self.vae.decode(sample)
            if options.images == "binary":
                reconstruction = image_nll(decoded, images).mean()
            else:
                reconstruction = gaussian_image_nll(decoded, images, options.deviation).mean()
            if options.kl == "sampled":
                divergence = sampled_kl(sample, latent.mean, latent.log_variance).mean()
            else:
                divergence = gaussian_kl(latent.mean, latent.log_variance).mean()
            loss = reconstruction + options.beta * divergence
        seen = sample if options.feed == "sample" else latent.mean
        flat = images.flatten(1)
        metrics = {
            "vae/negative_elbo": (reconstruction + divergence).detach(),
            "vae/reconstruction": reconstruction.detach(),
            "vae/kl": divergence.detach(),
            "vae/constant_frames": (flat == flat[:, :1]).all(1).float().mean(),
        }
        return seen if options.joint_gradient else seen.detach(), loss if learns else loss.detach(), metrics
