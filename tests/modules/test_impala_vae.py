import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_rl.cpu.micro_batches import MicroBatchConfig
from lightning_rl.modules.impala import Unrolls
from lightning_rl.modules.impala_vae import EncodedUnrolls, Frames, ImpalaVAEModule, SurpriseConfig, VAEConfig
from tests.support import reference
from tests.support.impala_worlds import (
    LATENT,
    collected,
    drawn,
    make_impala_vae,
    total,
    world,
)
from tests.support.worlds import (
    NUM_ENVS,
    NUM_STEPS,
    OBS_SHAPE,
    Batches,
    OnGradients,
    draw_frames,
    draw_rollout,
    fit,
    generator,
    make_collector,
    make_trainer,
)


def test_the_frame_that_is_bootstrapped_from_has_noise_of_its_own() -> None:
    module, collector = make_impala_vae(), make_collector(world())

    first, second = collected(module, collector), collected(module, collector)

    assert first.noise is not None
    assert first.noise[-1].abs().min() > 0
    assert not torch.equal(first.noise[-1], first.noise[-2])
    assert not torch.equal(first.noise[-1], second.noise[-1])


def test_other_noise_would_not_give_a_ratio_of_one() -> None:
    module = make_impala_vae()
    batch = collected(module, make_collector(world()))
    assert batch.noise is not None

    with torch.no_grad():
        metrics = module.objective(replace(batch, noise=batch.noise.flip(0)), generator()).metrics

    assert abs(float(metrics["vtrace/rho_mean"]) - 1) > 1e-3


def test_the_policys_losses_are_weighed_as_sums_and_the_autoencoders_as_a_mean() -> None:
    module = make_impala_vae(value_weight=0.7, entropy_weight=0.03)
    batch = drawn(module)
    number = NUM_STEPS * NUM_ENVS

    sums = {"policy": number, "value": 0.7 * number, "entropy": 0.03 * number}
    assert module.weights(batch) == sums | {"vae": 1.0}
    assert module.weights(Frames(obs=batch.obs[0])) == {"vae": 1.0}
    assert make_impala_vae(vae={"minibatch_size": 4}, value_weight=0.7, entropy_weight=0.03).weights(batch) == sums


def gradients(module: ImpalaVAEModule, batch: EncodedUnrolls | Frames, name: str) -> dict[str, bool]:
    """Which parts of the module a loss moves."""
    module.zero_grad()
    loss = module.objective(batch, generator()).losses[name]
    if loss.requires_grad:
        loss.backward()
    parts = {"network": module.network, "encoder": module.vae.encoder, "decoder": module.vae.decoder}
    return {
        part: any(p.grad is not None and bool(p.grad.any()) for p in owner.parameters())
        for part, owner in parts.items()
    }


NETWORK = {"network": True, "encoder": False, "decoder": False}


AUTOENCODER = {"network": False, "encoder": True, "decoder": True}


@pytest.mark.parametrize("minibatch_size", [None, 4])
@pytest.mark.parametrize("feed", ["sample", "mean"])
@pytest.mark.parametrize("name", ["policy", "value", "entropy"])
def test_policy_and_value_do_not_train_the_autoencoder(name: str, feed: str, minibatch_size: int | None) -> None:
    module = make_impala_vae(vae={"feed": feed, "minibatch_size": minibatch_size})

    assert gradients(module, drawn(module), name) == NETWORK


@pytest.mark.parametrize("minibatch_size", [None, 4])
@pytest.mark.parametrize("feed", ["sample", "mean"])
@pytest.mark.parametrize("name", ["policy", "value", "entropy"])
def test_they_train_its_encoder_where_asked_to(name: str, feed: str, minibatch_size: int | None) -> None:
    module = make_impala_vae(vae={"feed": feed, "joint_gradient": True, "minibatch_size": minibatch_size})

    assert gradients(module, drawn(module), name) == NETWORK | {"encoder": True}


@pytest.mark.parametrize("options", [{}, {"joint_gradient": True}, {"kl": "analytic"}, {"images": "rgb"}])
def test_the_autoencoder_does_not_train_the_policy(options: dict[str, Any]) -> None:
    module = make_impala_vae(vae=options)

    assert gradients(module, drawn(module), "vae") == AUTOENCODER


@pytest.mark.parametrize("kl", ["sampled", "analytic"])
def test_the_autoencoders_loss_is_the_negative_elbo_of_a_frame(kl: str) -> None:
    module = make_impala_vae(vae={"kl": kl, "beta": 3.0})
    batch = drawn(module)
    assert batch.noise is not None

    _, objective = total(module, batch)

    images = module.vae.images(batch.obs.flatten(0, 1))
    with torch.no_grad():
        latent = module.vae.encode(images)
        sample = latent.mean + (latent.log_variance / 2).exp() * batch.noise.flatten(0, 1)
        logits = module.vae.decode(sample)
    mean, log_variance, drawn_code = (tensor.double().numpy() for tensor in (*latent, sample))
    reconstruction = float(reference.bernoulli_nll(logits.double().numpy(), images.double().numpy()).mean())
    if kl == "analytic":
        divergence = float(reference.gaussian_kl(mean, log_variance).mean())
    else:
        zeros = np.zeros_like(mean)
        posterior = reference.gaussian_log_density(drawn_code, mean, log_variance)
        divergence = float((posterior - reference.gaussian_log_density(drawn_code, zeros, zeros)).mean())
    found = {key: float(value) for key, value in objective.metrics.items()}
    assert float(objective.losses["vae"].detach()) == pytest.approx(reconstruction + 3 * divergence, rel=1e-4)
    assert found["vae/negative_elbo"] == pytest.approx(reconstruction + divergence, rel=1e-4)
    assert found["vae/reconstruction"] == pytest.approx(reconstruction, rel=1e-4)
    assert found["vae/kl"] == pytest.approx(divergence, rel=1e-3, abs=1e-4)


def test_the_share_of_constant_frames_is_logged() -> None:
    module = make_impala_vae()
    batch = drawn(module)
    obs = batch.obs.clone()
    obs[:3] = 7  # dark: black all over

    _, objective = total(module, replace(batch, obs=obs))

    assert float(objective.metrics["vae/constant_frames"]) == pytest.approx(0.5)


@pytest.mark.parametrize("feed", ["sample", "mean"])
def test_learning_alone_the_autoencoder_changes_nothing_that_the_policy_sees(feed: str) -> None:
    together, alone = (make_impala_vae(vae={"feed": feed, "minibatch_size": size}) for size in (None, 4))
    batch = drawn(together)

    found, expected = (module.objective(batch, generator()).losses for module in (alone, together))

    assert found.keys() == {"policy", "value", "entropy"}
    assert all(torch.equal(loss, expected[name]) for name, loss in found.items())


def test_alone_it_has_the_loss_that_it_has_with_the_policy() -> None:
    module = make_impala_vae(vae={"feed": "mean", "beta": 3.0})  # its noise is drawn for the loss
    batch = drawn(module)
    frames = Frames(obs=batch.obs.flatten(0, 1))

    alone, together = (module.objective(some, generator()) for some in (frames, batch))

    assert alone.losses.keys() == {"vae"}
    assert torch.equal(alone.losses["vae"], together.losses["vae"])
    assert all(torch.equal(value, together.metrics[key]) for key, value in alone.metrics.items())
    assert gradients(module, frames, "vae") == AUTOENCODER


def test_alone_it_sees_every_frame_once_in_random_order() -> None:
    module = make_impala_vae(vae={"minibatch_size": 5})

    unrolls, *minibatches = module.batches(make_collector(world()))

    assert isinstance(unrolls, Unrolls)
    assert [len(minibatch) for minibatch in minibatches] == [5, 5, 5]
    assert module.batches_per_iteration(NUM_STEPS, NUM_ENVS) == 4
    seen = torch.cat([minibatch.obs for minibatch in minibatches]).flatten(1).tolist()
    there = unrolls.obs[:-1].flatten(0, 1).flatten(1).tolist()
    assert seen != there
    assert sorted(seen) == sorted(there)


def test_a_minibatch_smaller_than_the_others_is_refused() -> None:
    module = make_impala_vae(vae={"minibatch_size": 4})

    with pytest.raises(ValueError, match=r"^model\.vae\.minibatch_size must divide .* = 15 samples, found 4$"):
        module.batches_per_iteration(NUM_STEPS, NUM_ENVS)


@pytest.mark.parametrize("micro_batches", [None, MicroBatchConfig(size=2)])
def test_an_update_moves_the_autoencoder_or_the_policy(micro_batches: MicroBatchConfig | None) -> None:
    module = make_impala_vae(vae={"minibatch_size": 4}, micro_batches=micro_batches)
    batch = drawn(module)
    moved: list[tuple[bool, bool]] = []

    def weights() -> list[Tensor]:
        parts: tuple[nn.Module, ...] = (module.network, module.vae)
        return [torch.cat([p.detach().flatten() for p in part.parameters()]) for part in parts]

    class Watch(OnGradients):
        def on_train_batch_start(self, *_args: Any) -> None:
            self.before = weights()

        def on_train_batch_end(self, *_args: Any) -> None:
            policy, vae = (not torch.equal(*pair) for pair in zip(self.before, weights(), strict=True))
            moved.append((policy, vae))

    frames = Frames(obs=batch.obs[0])
    fit(module, Batches(batch, frames, batch, frames), callbacks=[Watch(lambda _: None)])

    assert moved == [(True, False), (False, True)] * 2


def test_no_thread_waits_for_a_part_that_another_has() -> None:
    batch = drawn(make_impala_vae())

    assert [len(part) for part in batch.split(MicroBatchConfig(size=3 * (NUM_STEPS + 1), num_threads=2))] == [1, 2]
    frames = Frames(obs=batch.obs.flatten(0, 1))
    parts = frames.split(MicroBatchConfig(size=7, num_threads=2))
    assert [len(part) for part in parts] == [4, 5, 4, 5]
    assert torch.equal(torch.cat([part.obs for part in parts]), frames.obs)


def test_agent_and_autoencoder_are_clipped_each_by_its_own_bound() -> None:
    module = make_impala_vae(vae={"max_grad_norm": 3e-3}, max_grad_norm=2e-3, adam_epsilon=0.2)
    optimizer = module.configure_optimizers()
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)

    module.configure_gradient_clipping(optimizer)

    norms = [
        float(torch.nn.utils.get_total_norm([p.grad for p in group["params"]])) for group in optimizer.param_groups
    ]
    assert norms == [pytest.approx(2e-3, rel=1e-3), pytest.approx(3e-3, rel=1e-3)]
    assert [group["lr"] for group in optimizer.param_groups] == [1e-5, 1e-4]
    assert [group["eps"] for group in optimizer.param_groups] == [0.2, 1e-8]


@pytest.mark.parametrize("micro_batches", [None, MicroBatchConfig(size=6)])
def test_the_autoencoder_learns_at_its_own_interval(micro_batches: MicroBatchConfig | None) -> None:
    module = make_impala_vae(vae={"update_interval": 3}, micro_batches=micro_batches)
    moved = []
    last = {"weights": torch.cat([p.detach().flatten().clone() for p in module.vae.parameters()])}

    class Watch(OnGradients):
        def on_train_batch_end(self, *_args: Any) -> None:
            now = torch.cat([p.detach().flatten().clone() for p in module.vae.parameters()])
            moved.append(not torch.equal(now, last["weights"]))
            last["weights"] = now

    fit(module, Batches(*[drawn(module)] * 7), callbacks=[Watch(lambda _: None)])

    assert moved == [True, False, False, True, False, False, True]


def test_the_surprise_minimising_reward_goes_on_from_rollout_to_rollout() -> None:
    module = make_impala_vae(vae={"feed": "mean"}, surprise=SurpriseConfig(weight=0.5))  # draws actions only
    short, long = make_collector(world()), make_collector(world(), num_steps=2 * NUM_STEPS)

    first, second = collected(module, short), collected(module, short)
    whole = collected(module, long)

    assert whole.surprise_rewards is not None
    assert first.surprise_rewards is not None
    assert second.surprise_rewards is not None
    assert torch.equal(first.obs, whole.obs[: NUM_STEPS + 1])
    together = torch.cat([first.surprise_rewards, second.surprise_rewards])
    same = (torch.cat([first.actions, second.actions]) == whole.actions).all()
    assert same
    torch.testing.assert_close(together, whole.surprise_rewards, rtol=1e-4, atol=1e-4)
    assert not whole.surprise_rewards[whole.terminated].any()
    torch.testing.assert_close(whole.rewards, whole.env_rewards.clamp(-1, 1) + whole.surprise_rewards)
    assert float(total(module, whole)[1].metrics["intrinsic/reward"]) == pytest.approx(float(together.mean()), rel=1e-4)


def test_the_surprise_minimising_reward_is_of_the_frame_that_the_action_led_to_and_weighted() -> None:
    module = make_impala_vae(vae={"feed": "mean"}, surprise=SurpriseConfig(weight=0.5, min_deviation=0.03))
    rollout = draw_rollout(1)  # of noise: the frames of `world` have one latent

    rewards = module._surprise_rewards(rollout, {})

    with torch.no_grad():
        means = module._latent_distribution(rollout.obs.flatten(0, 1)).mean.unflatten(0, rollout.obs.shape[:2])
    latents, ended = means.double().numpy(), rollout.terminated.long().numpy()
    expected = 0.5 * reference.surprise_minimizing_rewards(latents[1:], ended, latents[0], 0.03)
    assert len(np.unique(expected)) > NUM_STEPS
    assert rewards is not None
    torch.testing.assert_close(rewards.double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-3)


def test_a_reconstruction_of_pixels_is_judged_with_the_deviation_that_was_asked_for() -> None:
    module = make_impala_vae(vae={"images": "rgb", "deviation": 0.3, "feed": "sample"})
    batch = drawn(module)
    assert batch.noise is not None

    images = module.vae.images(batch.obs.flatten(0, 1))
    with torch.no_grad():
        decoded = module.vae.decode(module.vae.encode(images).sample(batch.noise.flatten(0, 1)))
    pixels, log_variance = images.flatten(1).double().numpy(), 2 * math.log(0.3)
    density = reference.gaussian_log_density(
        pixels, decoded.flatten(1).double().numpy(), np.full(pixels.shape, log_variance)
    )
    reconstruction = total(module, batch)[1].metrics["vae/reconstruction"]
    assert float(reconstruction) == pytest.approx(-density.mean(), rel=1e-4)


def test_without_it_nothing_is_remembered() -> None:
    collector = make_collector(world())

    collected(make_impala_vae(), collector)

    assert collector.memory == {}


def test_greedy_acting_sees_the_mean_and_draws_nothing() -> None:
    stream = generator()
    module = make_impala_vae()

    output = module.act(draw_frames(NUM_ENVS), stream, greedy=True)

    assert output.noise is None
    assert torch.equal(stream.get_state(), generator().get_state())
    assert torch.equal(output.actions, output.logits.argmax(-1))


class Shown(nn.Module):
    """Decodes a latent into an image whose first pixels are the latent."""

    def forward(self, latents: Tensor) -> Tensor:
        images = torch.zeros(len(latents), 1, *OBS_SHAPE[:2])
        images[:, 0, 0, :LATENT] = latents
        return images


class Encoded(nn.Module):
    """Means and log variances, the same for every image but for the brightness, which is added to the first mean."""

    def __init__(self, means: Tensor, log_variances: Tensor) -> None:
        super().__init__()
        self.latent = torch.cat([means, log_variances])

    def forward(self, images: Tensor) -> Tensor:
        latent = self.latent.repeat(len(images), 1)
        latent[:, 0] += images.mean((1, 2, 3))
        return latent


def hand_made(**vae: Any) -> ImpalaVAEModule:
    """Dimensions 4 and 9 are in use, 4 less than 9; 7 is known to be near zero, which costs less than both."""
    module = make_impala_vae(vae=vae)
    means, log_variances = torch.zeros(LATENT), torch.zeros(LATENT)
    means[4], means[9], log_variances[7] = -1.5, 2.0, -2.0
    module.vae.encoder, module.vae.decoder = nn.Sequential(Encoded(means, log_variances)), nn.Sequential(Shown())
    return module


def test_a_reconstruction_is_what_the_mean_code_decodes_to() -> None:
    module = hand_made()
    frames = torch.zeros(2, *OBS_SHAPE, dtype=torch.uint8)
    frames[1] = 255

    inputs, images = module.reconstructed(frames)

    assert torch.equal(inputs, torch.tensor([0.0, 1.0])[:, None, None, None].expand(2, 1, *OBS_SHAPE[:2]))
    codes = images.logit()[:, 0, 0, :LATENT]
    expected = torch.zeros(2, LATENT)
    expected[:, 4], expected[:, 9], expected[1, 0] = -1.5, 2.0, 1.0
    torch.testing.assert_close(codes, expected, atol=1e-5, rtol=0)
    assert (images[:, :, 1:] == 0.5).all()


def test_reconstructed_colours_stay_within_their_range() -> None:
    module = make_impala_vae(vae={"images": "rgb"})
    frames = torch.from_numpy(draw_frames(4))
    last: Any = module.vae.decoder[-1]
    last.weight.data.zero_()
    last.bias.data.copy_(torch.tensor([-0.5, 0.25, 1.5]))

    inputs, images = module.reconstructed(frames)

    torch.testing.assert_close(inputs, frames.permute(0, 3, 1, 2) / 255)
    assert torch.equal(images, torch.tensor([0.0, 0.25, 1.0])[None, :, None, None].expand_as(inputs))


def test_a_traversal_moves_one_dimension_of_the_code_at_a_time_the_dearest_first() -> None:
    module = hand_made()
    values = torch.tensor([-3.0, 0.0, 3.0])
    frames = torch.zeros(2, *OBS_SHAPE, dtype=torch.uint8)
    frames[1] = 255  # the first dimension's mean is 1 there and costs a quarter of a nat on average

    dimensions, kl, images = module.traversed(frames, values, num_dimensions=4)

    assert dimensions.tolist() == [9, 4, 7, 0]
    expected_kl = [2.0**2 / 2, 1.5**2 / 2, (math.exp(-2) - 1 + 2) / 2, 0.25]
    torch.testing.assert_close(kl, torch.tensor(expected_kl))
    expected = torch.zeros(4, 3, LATENT)
    expected[:, :, 4], expected[:, :, 9] = -1.5, 2.0
    for row, dimension in zip(expected, dimensions, strict=True):
        row[:, dimension] = values
    torch.testing.assert_close(images.logit()[:, :, 0, 0, :LATENT], expected, atol=1e-5, rtol=0)


def test_a_short_code_is_traversed_in_all_its_dimensions() -> None:
    module = make_impala_vae()

    dimensions, kl, images = module.traversed(torch.from_numpy(draw_frames(3)), torch.zeros(2), num_dimensions=99)

    assert sorted(dimensions.tolist()) == list(range(LATENT))
    assert torch.equal(kl, kl.sort(descending=True).values)
    assert images.shape == (LATENT, 2, 1, *OBS_SHAPE[:2])


@pytest.mark.parametrize("training", [True, False])
def test_showing_the_autoencoder_leaves_modes_gradients_and_random_streams(training: bool) -> None:
    module, frames = make_impala_vae().train(training), torch.from_numpy(draw_frames(3))
    before = torch.get_rng_state()

    images = [*module.reconstructed(frames), *module.traversed(frames, torch.zeros(2), num_dimensions=2)]

    assert torch.equal(torch.get_rng_state(), before)
    assert {part.training for part in module.modules()} == {training}
    assert not any(image.requires_grad for image in images)
    assert torch.is_grad_enabled()


def test_pictures_are_made_under_the_trainers_precision() -> None:
    module, frames = make_impala_vae(), torch.from_numpy(draw_frames(3))
    full = module.reconstructed(frames)[1]
    module.trainer = make_trainer(precision="bf16-mixed")

    mixed = module.reconstructed(frames)[1]

    assert not torch.equal(mixed, full)
    torch.testing.assert_close(mixed, full, atol=0.02, rtol=0)
    assert module.traversed(frames, torch.zeros(2), num_dimensions=2).images.dtype == torch.float32


BAD_AUTOENCODERS: dict[str, list[Any]] = {
    "latent_size": [0],
    "update_interval": [0],
    "minibatch_size": [0],
    "deviation": [0.0],
    "learning_rate": [-1.0],
    "max_grad_norm": [0.0],
    "beta": [-0.1],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name in BAD_AUTOENCODERS for value in BAD_AUTOENCODERS[name]]
)
def test_autoencoder_value_out_of_range_is_refused_by_its_key(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^model\.vae\.{name} must be .*, found {value}$"):
        VAEConfig(**{name: value})


def test_an_interval_of_updates_and_updates_of_its_own_are_refused_together() -> None:
    allowed = r"^model\.vae\.update_interval must be 1 where vae\.minibatch_size is given, found 2$"
    with pytest.raises(ValueError, match=allowed):
        VAEConfig(update_interval=2, minibatch_size=64)


def test_a_surprise_reward_whose_distribution_has_no_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^model\.surprise\.min_deviation must be positive, found 0"):
        SurpriseConfig(min_deviation=0.0)


@pytest.mark.parametrize(("arguments", "name"), [({}, "impala_vae"), ({"surprise": {}}, "impala_vae_sm")])
def test_the_method_is_named_after_its_parts(arguments: dict[str, Any], name: str) -> None:
    assert ImpalaVAEModule.method(arguments) == name
