"""IMPALA's small worlds: modules whose policy is far from uniform, and unrolls to learn from."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_rl.data.collector import Collector
from lightning_rl.modules.base import Objective
from lightning_rl.modules.impala import ImpalaModule, Unrolls
from lightning_rl.modules.impala_vae import EncodedUnrolls, ImpalaVAEModule, VAEConfig
from lightning_rl.types import RecurrentInputs
from tests.support.toys import CountingVectorEnv
from tests.support.worlds import NUM_ACTIONS, NUM_ENVS, NUM_STEPS, OBS_SHAPE, draw_rollout, generator

LATENT = 11


def make_impala(**options: Any) -> ImpalaModule:
    """Whose policy is far from uniform, so that what changes its logits shows."""
    torch.manual_seed(0)
    module = ImpalaModule(num_actions=NUM_ACTIONS, obs_shape=OBS_SHAPE, **options)
    module.network.actor.weight.data.mul_(3)
    return module


def make_impala_vae(*, vae: dict[str, Any] | None = None, **options: Any) -> ImpalaVAEModule:
    """The same with an autoencoder of a short latent."""
    torch.manual_seed(0)
    config = VAEConfig(latent_size=LATENT, **(vae or {}))
    module = ImpalaVAEModule(vae=config, num_actions=NUM_ACTIONS, obs_shape=OBS_SHAPE, **options)
    module.network.actor.weight.data.mul_(3)
    return module


KINDS: dict[str, Callable[..., ImpalaModule]] = {
    "impala": make_impala,
    "sample": make_impala_vae,
    "mean": lambda **options: make_impala_vae(vae={"feed": "mean"}, **options),
}
"""IMPALA alone, and with an autoencoder of whose latent the policy sees a sample or the mean."""


def world() -> CountingVectorEnv:
    """Episodes end inside a rollout of five steps, and some go on into the next one."""
    return CountingVectorEnv(NUM_ENVS, [2, 3, 7], obs_shape=OBS_SHAPE, num_actions=NUM_ACTIONS)


def collected(module: ImpalaModule, collector: Collector) -> Any:
    """The unrolls of the module's next iteration."""
    (batch,) = module.batches(collector)
    return batch


def drawn(module: ImpalaModule, *, seed: int = 0, num_steps: int = NUM_STEPS) -> Any:
    """Unrolls of another policy, with rewards of both signs."""
    rollout = draw_rollout(1, seed=seed, num_steps=num_steps)
    unrolls = Unrolls(
        obs=rollout.obs,
        actions=rollout.actions,
        rewards=rollout.rewards.clamp(-1, 1),
        env_rewards=rollout.rewards,
        terminated=rollout.terminated,
        behavior_logits=rollout.behavior_logits,
        recurrent_inputs=RecurrentInputs(
            previous_actions=torch.arange(NUM_ENVS),
            previous_rewards=torch.tensor([0.5, -3.0, 0.0]),
            starts=torch.tensor([False, True, False]),
            state=torch.randn(NUM_ENVS, 512, generator=generator(seed)),
        ),
    )
    if not isinstance(module, ImpalaVAEModule):
        return unrolls
    noise = torch.randn(num_steps + 1, NUM_ENVS, LATENT, generator=generator(seed + 1))
    seen = None if module.vae_config.feed == "mean" else noise
    return EncodedUnrolls(**vars(unrolls), noise=seen, surprise_rewards=None)


def outputs(module: ImpalaModule, batch: Any) -> tuple[Tensor, Tensor]:
    """Logits and values of the batch's frames, stepped one by one as the definition has it."""
    recurrent_inputs, logits, values = batch.recurrent_inputs, [], []
    known = [recurrent_inputs.previous_actions, recurrent_inputs.previous_rewards, recurrent_inputs.starts]
    state, noise = recurrent_inputs.state, getattr(batch, "noise", None)
    for t, frames in enumerate(batch.obs):
        latents = module.latents(frames, None if noise is None else noise[t])
        out = module.network(frames[None], latents[None], *(column[None] for column in known), state)
        logits.append(out.logits[0])
        values.append(out.values[0])
        state = out.state
        if t < len(batch.actions):
            known = [batch.actions[t], batch.env_rewards[t], batch.terminated[t]]
    return torch.stack(logits), torch.stack(values)


def total(module: ImpalaModule, batch: Any) -> tuple[Tensor, Objective]:
    """The weighted sum of the losses, and the losses."""
    objective = module.objective(batch, generator())
    weights = module.weights(batch)
    return torch.stack([weights[name] * loss for name, loss in objective.losses.items()]).sum(), objective
