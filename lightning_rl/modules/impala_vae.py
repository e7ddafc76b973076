"""IMPALA with a variational autoencoder whose latent the policy sees, and IMPALA alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from lightning_rl.cpu.micro_batches import MicroBatchConfig
from lightning_rl.data.minibatches import num_minibatches, shuffled
from lightning_rl.distributed import collectives
from lightning_rl.errors import check_option
from lightning_rl.losses.policy import entropy, log_probs_of
from lightning_rl.losses.returns import discounts_from
from lightning_rl.losses.surprise import StateStatistics, surprise_minimizing_rewards
from lightning_rl.losses.vae import gaussian_image_nll, gaussian_kl, image_nll, sampled_kl
from lightning_rl.losses.value import squared_value_loss
from lightning_rl.losses.vtrace import vtrace
from lightning_rl.modules.base import Objective, RLModule, sample_actions
from lightning_rl.modules.optimizers import adam
from lightning_rl.networks.recurrent_actor_critic import RecurrentActorCritic
from lightning_rl.networks.vae import VAE, Images, LatentDistribution
from lightning_rl.protocols import Source
from lightning_rl.types import ActorOutput, RecurrentInputs, Rollout, TensorFields


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """The autoencoder, how it learns, and what of it the policy sees.

    The paper states the layers and the 64 latent dimensions; learning rate, β, update interval and the form of the
    divergence are not stated, and are the tutorial's here.

    Args:
        latent_size: length of the latent.
        images: `binary`, greyscale above one half (the paper), or `rgb`, which keeps what that deletes.
        deviation: of the normal likelihood of `rgb` images, whose values are 0 to 1.
        feed: the policy sees a `sample` of the latent (the paper) or its `mean`. The noise of the sample is kept with the
            rollout, so that equal weights give equal log-probabilities.
        joint_gradient: the policy's loss also trains the encoder; in the paper the two are updated independently.
        learning_rate: Adam's, for the autoencoder.
        beta: factor on the divergence.
        kl: `sampled` estimates the divergence at the sample (the tutorial), `analytic` computes it.
        update_interval: learner updates from one update of the autoencoder to the next.
        minibatch_size: frames of one update of the autoencoder, which goes through the unrolls' frames in random order,
            each once, after the policy's update; divides their number. Null updates it once, with the policy, on all.
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
    """A reward for states that were likely, judged by the code of the episode's states so far.

    Args:
        weight: factor on the log-density, which is added to the clipped reward of the game.
        min_deviation: floor on the deviations of the distribution that is fitted to the states.

    Raises:
        ValueError: a value outside its range.

    Reference:
        Xu & Kaneko, section 5, as future work; Berseth et al. 2021, SMiRL, https://arxiv.org/abs/1912.05510
    """

    weight: float = 1e-3
    min_deviation: float = 0.1

    def __post_init__(self) -> None:
        check_option("model.surprise.min_deviation", self.min_deviation, self.min_deviation > 0, "positive")


@dataclass(frozen=True, kw_only=True)
class Unrolls(TensorFields):
    """`T` steps of `B` environments to learn from; `obs[T]` is there to bootstrap from. See `Rollout`.

    `rewards` is what V-trace sums: clipped, and with the surprise-minimising reward where there is one; `env_rewards`
    is what the environment gave, and the network hears.
    """

    actions: Int64[Tensor, "T B"]
    obs: UInt8[Tensor, "T+1 B H W C"]
    rewards: Float32[Tensor, "T B"]
    env_rewards: Float32[Tensor, "T B"]
    terminated: Bool[Tensor, "T B"]
    behavior_logits: Float32[Tensor, "T B A"]
    recurrent_inputs: RecurrentInputs
    noise: Float32[Tensor, "T+1 B Z"] | None
    surprise_rewards: Float32[Tensor, "T B"] | None
    policy_lag: int = 0

    def __len__(self) -> int:
        return self.actions.shape[1]

    def split(self, micro_batches: MicroBatchConfig) -> Sequence["Unrolls"]:
        """The same unrolls in even parts of at most `size` frames, but of one unroll at least."""
        return [self._columns(part) for part in micro_batches.even_parts(len(self), samples_each=len(self.obs))]

    def _columns(self, columns: slice) -> "Unrolls":
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors: dict[str, Any] = {key: value[:, columns] for key, value in values.items() if isinstance(value, Tensor)}
        recurrent_inputs = {
            field.name: getattr(self.recurrent_inputs, field.name)[columns] for field in fields(RecurrentInputs)
        }
        return replace(self, **tensors, recurrent_inputs=RecurrentInputs(**recurrent_inputs))


@dataclass(frozen=True, kw_only=True)
class Frames(TensorFields):
    """`N` frames for an update of the autoencoder alone."""

    obs: UInt8[Tensor, "N H W C"]

    def __len__(self) -> int:
        return len(self.obs)

    def split(self, micro_batches: MicroBatchConfig) -> Sequence["Frames"]:
        """The same frames in even parts of at most `size`."""
        return [Frames(obs=self.obs[part]) for part in micro_batches.even_parts(len(self))]


class Traversal(NamedTuple):
    """What each of `D` latent dimensions draws, at each of `V` values, around the code of one frame; on the CPU."""

    dimensions: Int64[Tensor, "D"]
    kl: Float32[Tensor, "D"]  # nats that the dimension costs, mean over frames
    images: Float32[Tensor, "D V K H W"]  # 0 to 1


class ImpalaVAEModule(RLModule):
    """Importance-weighted actor-learner with a jointly trained autoencoder; `vae: null` is IMPALA alone.

    The losses of policy, value and entropy are summed over the batch, as in the source, and not averaged: learning rate
    and the bound on the gradient's norm are sizes of such sums. What is logged are means.

    Args:
        num_actions: actions of the environment.
        obs_shape: height, width and channels of its frames.
        vae: the autoencoder; null for IMPALA alone.
        surprise: the surprise-minimising reward; null for none. Needs `vae`.
        gamma: γ, discount per env step.
        max_rho: ρ̄ of V-trace; null for none.
        max_c: c̄ of V-trace.
        max_pg_rho: ρ̄ of the policy's gradient; null for none.
        max_abs_reward: bound on the game's rewards while learning; null for none.
        value_weight: factor on the value loss.
        entropy_weight: factor on the entropy bonus.
        learning_rate: Adam's, for policy and critic.
        adam_epsilon: Adam's ε, for policy and critic; a size of gradients that are summed over the batch.
        max_grad_norm: bound on the norm of the gradient of policy and critic, summed over the batch.
        micro_batches: cut the batch into cache-sized parts (CPU); null computes it at once (GPU).
        greedy: take the most likely action, and the mean of the latent, in `validate`, `test` and `predict`.

    Raises:
        ValueError: a value outside its range.

    Reference:
        Espeholt et al. 2018, IMPALA, https://arxiv.org/abs/1802.01561 and deepmind/scalable_agent; Xu & Kaneko,
        Combining reinforcement learning and VAE to improve generalization in Procgen Benchmark, table A-1
    """

    network: RecurrentActorCritic
    vae: VAE
    on_policy = False

    def __init__(
        self,
        *,
        num_actions: int = 15,
        obs_shape: tuple[int, int, int] = (64, 64, 3),
        vae: VAEConfig | None = None,
        surprise: SurpriseConfig | None = None,
        gamma: float = 0.99,
        max_rho: float | None = 1.0,
        max_c: float = 1.0,
        max_pg_rho: float | None = 1.0,
        max_abs_reward: float | None = 1.0,
        value_weight: float = 0.5,
        entropy_weight: float = 0.01,
        learning_rate: float = 1e-5,
        adam_epsilon: float = 1e-8,
        max_grad_norm: float = 100.0,
        micro_batches: MicroBatchConfig | None = None,
        greedy: bool = False,
    ) -> None:
        super().__init__(micro_batches=micro_batches, max_grad_norm=max_grad_norm, greedy=greedy)
        check_option("model.gamma", gamma, 0 <= gamma <= 1, "in [0, 1]")
        bounds = {"max_rho": max_rho, "max_c": max_c, "max_pg_rho": max_pg_rho, "max_abs_reward": max_abs_reward}
        for name, bound in bounds.items():
            check_option(f"model.{name}", bound, bound is None or bound > 0, "positive or null")
        for name, value in (("learning_rate", learning_rate), ("max_grad_norm", max_grad_norm)):
            check_option(f"model.{name}", value, value > 0, "positive")
        check_option("model.adam_epsilon", adam_epsilon, adam_epsilon >= 0, "at least 0")
        check_option("model.surprise", surprise, surprise is None or vae is not None, "null where vae is null")
        self.autoencoding = vae
        self.surprise = surprise
        self.gamma = gamma
        self.max_rho = max_rho
        self.max_c = max_c
        self.max_pg_rho = max_pg_rho
        self.max_abs_reward = max_abs_reward
        self.learning_rate = learning_rate
        self.adam_epsilon = adam_epsilon
        self.network = RecurrentActorCritic(obs_shape, num_actions, latent_size=0 if vae is None else vae.latent_size)
        self.loss_weights = {"policy": 1.0, "value": value_weight, "entropy": entropy_weight}
        if vae is not None:
            self.vae = VAE(obs_shape, latent_size=vae.latent_size, images=vae.images)

    @classmethod
    def method(cls, init_args: dict[str, Any]) -> str:
        """`impala_vae`, `impala_vae_sm` with the surprise-minimising reward, or `impala` without autoencoder."""
        if init_args.get("vae") is None:
            return "impala"
        return "impala_vae" if init_args.get("surprise") is None else "impala_vae_sm"

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with one parameter group for the agent and one for the autoencoder."""
        agent = {"lr": self.learning_rate, "eps": self.adam_epsilon}
        groups: list[dict[str, Any]] = [{"params": self.network.parameters(), **agent}]
        if self.autoencoding is not None:
            own = {"lr": self.autoencoding.learning_rate, "max_grad_norm": self.autoencoding.max_grad_norm}
            groups.append({"params": self.vae.parameters(), **own})
        return adam(groups)

    def batches_per_iteration(self, num_steps: int, num_envs: int) -> int:
        """One, an unroll of each environment; and the autoencoder's own minibatches."""
        size = self._minibatch_size
        return 1 if size is None else 1 + num_minibatches(num_steps * num_envs, size, option="vae.minibatch_size")

    @property
    def _minibatch_size(self) -> int | None:
        return None if self.autoencoding is None else self.autoencoding.minibatch_size

    def batches(self, source: Source) -> Iterator[Unrolls | Frames]:
        """One unroll of each environment, learned from once; then its frames, where the autoencoder learns alone."""
        rollout = source.collect(self)
        noise = rollout.behavior_noise
        if noise is not None:  # the last frame was not acted on yet, and drew none
            noise = torch.cat([noise, torch.randn(noise[:1].shape, generator=source.generator)]).to(self.device)
        rollout = rollout.to(self.device)
        task = rollout.rewards
        if self.max_abs_reward is not None:
            task = task.clamp(-self.max_abs_reward, self.max_abs_reward)
        surprise = self._surprise_rewards(rollout, source.memory)
        yield Unrolls(
            obs=rollout.obs,
            actions=rollout.actions,
            rewards=task if surprise is None else task + surprise,
            env_rewards=rollout.rewards,
            terminated=rollout.terminated,
            behavior_logits=rollout.behavior_logits,
            recurrent_inputs=rollout.recurrent_inputs,
            noise=noise,
            surprise_rewards=surprise,
            policy_lag=rollout.policy_lag,
        )
        if self._minibatch_size is not None:
            frames = rollout.obs[:-1].flatten(0, 1)  # the last ones are the next unrolls' first
            passes: dict[str, Any] = {"epochs": 1, "minibatch_size": self._minibatch_size}
            for indices in shuffled(len(frames), generator=source.generator, **passes):
                yield Frames(obs=frames[indices.to(self.device)])

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

    def act(
        self,
        obs: UInt8[NDArray[Any], "B H W C"],
        generator: torch.Generator,
        *,
        recurrent_inputs: RecurrentInputs | None = None,
        greedy: bool = False,
    ) -> ActorOutput:
        """One step of the network under the trainer's precision; all noise is drawn on the CPU with `generator`."""
        num_envs = len(obs)
        known = (RecurrentInputs.initial(num_envs) if recurrent_inputs is None else recurrent_inputs).to(self.device)
        frames, noise = torch.from_numpy(obs).to(self.device), self._noise(num_envs, generator, greedy=greedy)
        with torch.no_grad(), self.precision():
            logits, values, state = self.network(
                frames[None],
                self._latents(frames, None if noise is None else noise.to(self.device))[None],
                known.previous_actions[None],
                known.previous_rewards[None],
                known.starts[None],
                known.state,
            )
        logits = logits[0].cpu()
        actions = sample_actions(logits, generator, greedy=greedy)
        return ActorOutput(
            actions=actions, logits=logits, values=values[0, :, None].cpu(), state=state.cpu(), noise=noise
        )

    def _noise(self, num_envs: int, generator: torch.Generator, *, greedy: bool) -> Float32[Tensor, "B Z"] | None:
        if self.autoencoding is None or self.autoencoding.feed == "mean" or greedy:
            return None
        return torch.randn(num_envs, self.autoencoding.latent_size, generator=generator)

    def _latents(self, frames: UInt8[Tensor, "N H W C"], noise: Float32[Tensor, "N Z"] | None) -> Float[Tensor, "N Z"]:
        if self.autoencoding is None:
            return torch.zeros(len(frames), 0, device=frames.device)
        latent = self._latent_distribution(frames)
        return latent.mean if noise is None else latent.sample(noise)

    def reconstructed(
        self, obs: UInt8[Tensor, "N H W C"]
    ) -> tuple[Float32[Tensor, "N K H W"], Float32[Tensor, "N K H W"]]:
        """What the autoencoder is shown of frames and what it makes of their mean codes, 0 to 1, on the CPU."""
        with torch.no_grad(), self.precision():
            images = self.vae.images(obs.to(self.device))
            expected = self.vae.expected(self.vae.decode(self.vae.encode(images).mean))
        return images.cpu(), expected.cpu()

    def traversed(
        self, obs: UInt8[Tensor, "N H W C"], values: Float32[Tensor, "V"], *, num_dimensions: int
    ) -> Traversal:
        """Moves one latent dimension of the first frame's mean latent at a time; the others stay.

        Args:
            obs: example frames, whose mean divergence says which dimensions are in use.
            values: what the moved dimension is set to, in deviations of the prior.
            num_dimensions: of the dimensions, those with the highest divergence, in that order; all of a shorter latent.

        Returns:
            The dimensions, their divergence and what is decoded.
        """
        with torch.no_grad(), self.precision():
            mean, log_variance = self._latent_distribution(obs.to(self.device))
            kl = gaussian_kl(mean.reshape(-1, 1), log_variance.reshape(-1, 1)).view_as(mean).mean(0)
            dimensions = kl.argsort(descending=True, stable=True)[:num_dimensions]
            latents = mean[0].repeat(len(dimensions), len(values), 1)
            for row, dimension in zip(latents, dimensions, strict=True):
                row[:, dimension] = values.to(row)
            images = self.vae.expected(self.vae.decode(latents.flatten(0, 1))).unflatten(0, latents.shape[:2])
        return Traversal(dimensions.cpu(), kl[dimensions].cpu(), images.cpu())

    def weights(self, batch: Unrolls | Frames) -> dict[str, float]:
        """Means times the number of transitions are the source's sums; the autoencoder's loss stays a mean.

        Ranks average their gradients, and the sum is over the transitions of all.
        """
        if isinstance(batch, Frames):
            return {"vae": 1.0}
        weights = {
            name: weight * batch.actions.numel() * collectives.world_size()
            for name, weight in self.loss_weights.items()
        }
        together = self.autoencoding is not None and self._minibatch_size is None
        return {**weights, "vae": 1.0} if together else weights

    def objective(self, batch: Unrolls | Frames, generator: torch.Generator) -> Objective:
        """Means over the steps: policy, value and entropy losses; with an autoencoder its loss, a mean over frames."""
        if isinstance(batch, Frames):
            _, negative_elbo, metrics = self._autoencoded(batch.obs, None, generator)
            return Objective({"vae": negative_elbo}, metrics)
        losses: dict[str, Tensor] = {}
        metrics = {}
        frames, noise = batch.obs.flatten(0, 1), None if batch.noise is None else batch.noise.flatten(0, 1)
        if self.autoencoding is None or self._minibatch_size is not None:
            joint = self.autoencoding is not None and self.autoencoding.joint_gradient
            with torch.set_grad_enabled(torch.is_grad_enabled() and joint):
                latents = self._latents(frames, noise)
        else:
            latents, losses["vae"], metrics = self._autoencoded(frames, noise, generator)
        latents = latents.unflatten(0, batch.obs.shape[:2])
        recurrent_inputs = batch.recurrent_inputs
        logits, values, _ = self.network(
            batch.obs,
            latents,
            torch.cat([recurrent_inputs.previous_actions[None], batch.actions]),
            torch.cat([recurrent_inputs.previous_rewards[None], batch.env_rewards]),
            torch.cat([recurrent_inputs.starts[None], batch.terminated]),
            recurrent_inputs.state,
        )
        logits = logits[:-1]
        log_probs = log_probs_of(batch.actions, logits)
        log_rhos = log_probs.detach() - log_probs_of(batch.actions, batch.behavior_logits)
        targets, advantages = vtrace(
            rewards=batch.rewards,
            discounts=discounts_from(batch.terminated, self.gamma),
            log_rhos=log_rhos,
            values=values[:-1],
            next_values=values[1:],
            max_rho=self.max_rho,
            max_c=self.max_c,
            max_pg_rho=self.max_pg_rho,
        )
        entropies = entropy(logits)
        losses |= {
            "policy": -(log_probs * advantages).mean(),
            "value": squared_value_loss(values[:-1], targets).mean(),
            "entropy": -entropies.mean(),
        }
        rhos = log_rhos.exp()
        metrics |= {
            "policy/entropy": entropies.detach().mean(),
            "vtrace/rho_mean": rhos.mean(),
            "vtrace/clipped_fraction": (rhos > (self.max_rho or torch.inf)).float().mean(),
            "vtrace/policy_lag": torch.tensor(float(batch.policy_lag), device=rhos.device),
        }
        if batch.surprise_rewards is not None:
            metrics["intrinsic/reward"] = batch.surprise_rewards.mean()
        return Objective(losses, metrics)

    def _autoencoded(
        self, frames: UInt8[Tensor, "N H W C"], noise: Float32[Tensor, "N Z"] | None, generator: torch.Generator
    ) -> tuple[Float[Tensor, "N Z"], Tensor, dict[str, Tensor]]:
        """What the policy sees, the autoencoder's loss at this noise, or at new, and its parts."""
        options = self.autoencoding
        assert options is not None
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
