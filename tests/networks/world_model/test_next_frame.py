from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_rl.networks.world_model.latent import LatentConfig, LatentMixing
from lightning_rl.networks.world_model.next_frame import Imagined, NextFrame, NextFramePredictor
from tests.support import reference

N, H, W, C, K, A, R, S = 2, 7, 11, 3, 2, 5, 4, 3
LATENT = LatentConfig(num_bits=6, bits_per_symbol=3, channels=3, prior_size=5)
DOWN = [(96, 192), (192, 384), (384, 768), (768, 768), (768, 768), (768, 768)]
MIXING = LatentMixing(discrete=0.5, prior=0.5, use=0.5)


def make(size: tuple[int, int] = (H, W), **arguments: Any) -> NextFramePredictor:
    given: dict[str, Any] = {"num_frames": K, "hidden": 4, "compress_steps": 2, "filter_double_steps": 1}
    given |= {"latent": LATENT, "recurrent_size": 0, "pixels": "squared"}
    return NextFramePredictor((*size, C), A, R, **given | arguments)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inputs(num_frames: int = K, size: tuple[int, int] = (H, W), count: int = N) -> tuple[Tensor, Tensor, Tensor]:
    """Stacked frames, actions and next frames."""
    obs = torch.randint(256, (count, *size, num_frames * C), dtype=torch.uint8)
    return obs, torch.randint(A, (count,)), torch.randint(256, (count, *size, C), dtype=torch.uint8)


def total(prediction: NextFrame) -> Tensor:
    """A scalar that depends on every part of the prediction."""
    parts = [part for part in prediction if part is not None]
    return torch.stack([part.square().mean() for part in parts]).sum()


def without_gradient(module: nn.Module) -> list[str]:
    learned = {name: value.grad for name, value in module.named_parameters() if value.requires_grad}
    return [name for name, gradient in learned.items() if gradient is None or not gradient.abs().sum() > 0]


def equal(left: NextFrame | Imagined, right: NextFrame | Imagined) -> bool:
    pairs = zip(left, right, strict=True)
    return all(a is b is None or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)


def plain(model: NextFramePredictor, obs: Tensor, actions: Tensor) -> NextFrame:
    """The forward pass of Kaiser et al. 2019 and tensor2tensor's `next_frame`, deterministic, step by step."""
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    conv, transposed, action = nn.functional.conv2d, nn.functional.conv_transpose2d, torch.eye(A)[actions]

    def norm(x: Tensor, name: str) -> Tensor:
        mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, correction=0)
        scale, shift = (parameters[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("weight", "bias"))
        return (x - mean) / (variance + 1e-6).sqrt() * scale + shift

    def inject(x: Tensor, name: str) -> Tensor:
        scale, shift = (action @ parameters[f"{name}.dense.weight"].T + parameters[f"{name}.dense.bias"]).chunk(2, 1)
        return x * scale.sigmoid()[:, :, None, None] + shift[:, :, None, None]

    def given(name: str) -> tuple[Tensor, Tensor]:
        return parameters[f"{name}.weight"], parameters[f"{name}.bias"]

    def timed(x: Tensor) -> Tensor:
        signal = torch.from_numpy(reference.timing_signal(x.shape[2], x.shape[3], x.shape[1])).float()
        return x + signal.permute(2, 0, 1)

    frames = obs.permute(0, 3, 1, 2).double()
    std = frames.std((2, 3), keepdim=True, correction=0)
    x = ((frames - frames.mean((2, 3), keepdim=True)) / std).float()
    x = timed(conv(x, *given("embed")))
    skipped = []
    for step in range(len(model.downs)):
        skipped.append(x)
        x = timed(nn.functional.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2)))
        x = norm(conv(x, *given(f"downs.{step}.conv"), stride=2, padding=1).clamp(min=0), f"downs.{step}.norm")
    x = inject(x, "action")
    middle = x.mean((2, 3))
    x = conv(x, *given("middle.convs.0"), padding=1).clamp(min=0)
    x = norm(x + conv(x, *given("middle.convs.1"), padding=1).clamp(min=0), "middle.norms.0")
    for step, y in enumerate(reversed(skipped)):
        x = transposed(inject(x, f"ups.{step}.action"), *given(f"ups.{step}.conv"), 2, 1).clamp(min=0)
        x = timed(norm(x[:, :, : y.shape[2], : y.shape[3]] + y, f"ups.{step}.norm"))
    features = torch.cat([middle, x.mean((2, 3))], dim=1)
    heads = []
    for head in ("reward", "end"):
        hidden = nn.functional.linear(features, *given(f"{head}.0")).clamp(min=0)
        heads.append(nn.functional.linear(hidden, *given(f"{head}.2")))
    logits = nn.functional.linear(x.permute(0, 2, 3, 1), *given("pixels.dense")).unflatten(-1, (C, 256))
    return NextFrame(logits, heads[0], heads[1].squeeze(1), None, None)


def test_the_prediction_matches_the_published_forward_pass() -> None:
    model, (obs, actions, _) = make(latent=None, pixels="softmax"), inputs()

    found = model(obs, actions)

    expected = plain(model, obs, actions)
    assert found.frames.shape == (N, H, W, C, 256)
    assert_close(found[:3], expected[:3], rtol=1e-3, atol=1e-4)


def test_mean_max_pooling_adds_maxima_to_the_features_of_reward_and_end() -> None:
    model, (obs, actions, _) = make(latent=None, pixels="squared", pooling="mean_max"), inputs()
    seen: list[Tensor] = []
    model.reward.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.ups[-1].register_forward_hook(lambda *args: seen.append(args[-1]))

    model(obs, actions)

    image, features = seen
    expected = torch.cat([image.mean((2, 3)), image.amax((2, 3))], dim=1)
    assert_close(features[:, -expected.shape[1] :], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 3), (8, 8), (105, 80)])
@pytest.mark.parametrize("recurrent_size", [0, S])
def test_predicted_frames_have_the_size_of_the_input(size: tuple[int, int], recurrent_size: int) -> None:
    model = make(size, compress_steps=(min(size) - 1).bit_length(), hidden=2, recurrent_size=recurrent_size)
    obs, actions, target = inputs(1 if recurrent_size else K, size)

    found, imagined = model(obs, actions, target=target), model.imagine(obs, actions, seeded())

    assert found.frames.shape == (N, *size, C, 1)
    assert imagined.frames.shape == (N, *size, C)
    assert found.end_logits is not None
    assert (found.reward_logits.shape, found.end_logits.shape) == ((N, R), (N,))


@pytest.mark.parametrize(("size", "most"), [((64, 64), 6), ((105, 80), 7), ((5, 4), 2), ((4, 5), 2), ((1, 9), 0)])
def test_halving_a_frame_beyond_one_pixel_is_refused(size: tuple[int, int], most: int) -> None:
    with torch.device("meta"):
        make(size, compress_steps=most)

        with pytest.raises(ValueError, match=f"compress_steps must be at most {most} .* obs_shape .*found {most + 1}"):
            make(size, compress_steps=most + 1)


@pytest.mark.parametrize(("compress_steps", "num_parameters"), [(6, 88_800_452), (5, 70_781_636)])
def test_the_published_model_has_the_expected_number_of_parameters(compress_steps: int, num_parameters: int) -> None:
    with torch.device("meta"):
        model = NextFramePredictor((64, 64, 3), 15, 3, compress_steps=compress_steps)

    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters


def test_channels_double_and_halve_as_published() -> None:
    with torch.device("meta"):
        model = NextFramePredictor((105, 80, 3), 15, 3)

    channels = {name: tuple(value.shape[:2]) for name, value in model.named_parameters()}
    assert [channels[f"downs.{step}.conv.weight"][::-1] for step in range(6)] == DOWN
    assert [channels[f"ups.{step}.conv.weight"] for step in range(6)] == [(i, o) for o, i in reversed(DOWN)]


def test_a_timing_signal_of_the_size_of_each_skipped_image_is_added() -> None:
    with torch.device("meta"):
        model = NextFramePredictor((105, 80, 3), 15, 3)

    sizes = {name: tuple(value.shape[1:]) for name, value in model.named_buffers()}
    skipped = [(4, 3), (7, 5), (14, 10), (27, 20), (53, 40), (105, 80)]
    assert [sizes[f"ups.{step}.timing.signal"] for step in range(6)] == skipped


@pytest.mark.parametrize("pixels", ["softmax", "squared"])
@pytest.mark.parametrize("recurrent_size", [0, S])
def test_gradient_reaches_every_parameter(pixels: str, recurrent_size: int) -> None:
    size = (17, 19)  # 2×2 positions after the second convolution of the posterior
    model = make(size, pixels=pixels, recurrent_size=recurrent_size, dropout=0.0, residual_dropout=0.0)
    obs, actions, target = inputs(1 if recurrent_size else K, size, count=13)
    mixing = LatentMixing(discrete=0.5, prior=0.1, use=0.8)

    first = model(obs, actions, target=target, mixing=mixing, generator=seeded())
    second = model(obs, actions, state=first.state, target=target, mixing=mixing, generator=seeded(1))
    (total(first) + total(second)).backward()

    assert without_gradient(model) == []


def test_dropout_noise_and_mixing_depend_on_the_generator_alone() -> None:
    model, (obs, actions, target) = make(), inputs()

    quiet, again = model(obs, actions, target=target), model.eval()(obs, actions, target=target)
    first = model(obs, actions, target=target, mixing=MIXING, generator=seeded(1))
    torch.manual_seed(99)
    same = model.train()(obs, actions, target=target, mixing=MIXING, generator=seeded(1))
    other = model(obs, actions, target=target, mixing=MIXING, generator=seeded(2))

    assert equal(quiet, again)
    assert equal(first, same)
    assert not equal(first, quiet)
    assert not equal(first, other)


@pytest.mark.parametrize("dropout", ["dropout", "residual_dropout"])
def test_each_dropout_has_its_own_probability(dropout: str) -> None:
    probabilities: dict[str, Any] = {"dropout": 0.0, "residual_dropout": 0.0} | {dropout: 0.5}
    model = make(latent=None, **probabilities)
    obs, actions, _ = inputs()

    assert not equal(model(obs, actions, generator=seeded()), model(obs, actions))


@pytest.mark.parametrize("pixels", ["softmax", "squared"])
@pytest.mark.parametrize("recurrent_size", [0, S])
def test_imagined_steps_depend_on_the_generator_alone(pixels: str, recurrent_size: int) -> None:
    model = make(pixels=pixels, recurrent_size=recurrent_size, dropout=0.9)
    obs, actions, _ = inputs(1 if recurrent_size else K, count=17)

    first = model.imagine(obs, actions, seeded(1))
    torch.manual_seed(99)
    same = model.eval().imagine(obs, actions, seeded(1))
    predictions = [model.predict(obs, actions, seeded(seed)).frames for seed in (1, 2)]

    assert equal(first, same)
    assert not torch.equal(*predictions)


def test_predict_applies_no_dropout() -> None:
    model, (obs, actions, _) = make(latent=None, dropout=0.9, residual_dropout=0.9), inputs()

    assert equal(model.predict(obs, actions, seeded()), model.predict(obs, actions, None))
    assert not equal(model(obs, actions, generator=seeded()), model(obs, actions))


def test_an_imagined_step_has_the_most_likely_frame_and_probabilities() -> None:
    model, (obs, actions, _) = make(pixels="softmax"), inputs(count=17)

    imagined, predicted = model.imagine(obs, actions, seeded()), model.predict(obs, actions, seeded())

    assert torch.equal(imagined.frames.long(), predicted.frames.argmax(-1))
    assert torch.equal(imagined.reward_probabilities, predicted.reward_logits.softmax(-1))
    assert predicted.end_logits is not None
    assert torch.equal(imagined.end_probabilities, predicted.end_logits.sigmoid())


def test_predicted_values_start_as_a_copy_of_the_newest_frame() -> None:
    model, (obs, actions, _) = make((16, 16), hidden=32), inputs(size=(16, 16))

    errors = model.predict(obs, actions, seeded()).frames.squeeze(-1) - obs[..., -C:]

    assert errors.abs().mean() < 3.2  # the square root of the loss cutoff
    assert errors.abs().max() > 0


def test_without_a_target_the_latent_is_sampled_from_the_prior() -> None:
    model, (obs, actions, _) = make(dropout=0.0, residual_dropout=0.0), inputs()

    assert equal(model(obs, actions, generator=seeded()), model.predict(obs, actions, seeded()))


def test_sampling_the_latent_without_a_generator_is_refused() -> None:
    model, (obs, actions, _) = make(), inputs()

    with pytest.raises(ValueError, match="generator must be given to sample the latent, found None"):
        model(obs, actions)


def test_the_next_frame_reaches_the_prediction_through_the_latent_only() -> None:
    (obs, actions, target), other = inputs(), inputs()[2]
    model, deterministic = make(latent=LatentConfig(num_bits=66, bits_per_symbol=3, channels=3)), make(latent=None)

    assert not equal(model(obs, actions, target=target), model(obs, actions, target=other))
    assert equal(deterministic(obs, actions, target=target), deterministic(obs, actions, target=other))


def test_the_prediction_depends_on_the_old_state_and_the_new_state_on_the_frame() -> None:
    model, (obs, actions, target), old = make(recurrent_size=S), inputs(1), torch.randn(N, S, H, W)
    assert model.memory is not None

    found = model(obs, actions, state=old, target=target)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.memory, "forward", lambda _inputs, state: state + 1)
        without = model(obs, actions, state=old, target=target)

    assert torch.equal(found.frames, without.frames)
    assert not torch.equal(found.frames, model(obs, actions, target=target).frames)
    assert found.state is not None
    images = reference_images(obs)
    assert_close(found.state, model.memory(torch.cat([images, old], dim=1), old))


def reference_images(obs: Tensor) -> Tensor:
    standard = [torch.from_numpy(reference.standardized(frame.double().numpy())) for frame in obs]
    return torch.stack(standard).float().permute(0, 3, 1, 2)


def test_a_carried_state_equals_rerunning_the_window() -> None:
    model, actions = make(recurrent_size=S), torch.randint(A, (N,))
    frames = [inputs(1)[0] for _ in range(4)]

    carried = remembered = None
    for step, frame in enumerate(frames):
        carried = model(frame, actions, state=carried, generator=seeded(step)).state
        remembered = model.next_state(frame, remembered)

    assert carried is not None
    assert remembered is not None
    assert torch.equal(carried, remembered)


def test_a_model_without_memory_has_no_state() -> None:
    model, (obs, actions, _) = make(), inputs()

    assert model.imagine(obs, actions, seeded()).state is None


def test_outputs_are_float32_under_mixed_precision() -> None:
    model, (obs, actions, target) = make(recurrent_size=S, pixels="softmax"), inputs(1)

    with torch.autocast("cpu", torch.bfloat16):
        found = model(obs, actions, target=target, mixing=MIXING, generator=seeded())

    assert {part.dtype for part in found if part is not None} == {torch.float32}
    assert len([part for part in found if part is not None]) == 5


def published_fans(hidden: int, num_bits: int) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of each dense layer and convolution of `make` in TensorFlow, times a kernel's positions."""
    wide, channels, symbols = 2 * hidden, LATENT.channels, 2**LATENT.bits_per_symbol
    layers = {
        "memory.conv": (9 * (C + S), 9 * 2 * S),
        "embed": (C + S, hidden),
        "downs.0.conv": (16 * hidden, 16 * wide),
        "downs.1.conv": (16 * wide, 16 * wide),
        "action.dense": (A, wide),
        "middle.convs.0": (9 * wide, 9 * wide),
        "middle.convs.1": (9 * wide, 9 * wide),
        "ups.0.action.dense": (A, wide),
        "ups.0.conv": (16 * wide, 16 * wide),
        "ups.1.action.dense": (A, wide),
        "ups.1.conv": (16 * wide, 16 * hidden),
        "pixels.dense": (hidden, 3 * 256),
        "reward.0": (wide + hidden, 128),
        "end.0": (wide + hidden, 128),
        "latent.posterior.embed": (2 * C, hidden),
        "latent.posterior.action.dense": (A, hidden),
        "latent.posterior.first": (64 * hidden, 64 * channels),
        "latent.posterior.first_pool.attention": (channels, 4),
        "latent.posterior.first_pool.dense": (5 * channels, 2 * channels),
        "latent.posterior.second": (64 * channels, 64 * 4 * channels),
        "latent.posterior.second_pool.attention": (4 * channels, 4),
        "latent.posterior.second_pool.dense": (5 * 4 * channels, 2 * 4 * channels),
        "latent.posterior.bits": (10 * channels, num_bits),
        "latent.injection.dense": (num_bits, wide),
        "latent.prior.start": (2 * 3 * wide, LATENT.prior_size),
        "latent.prior.embed": (symbols, LATENT.prior_size),
        "latent.prior.logits": (LATENT.prior_size, symbols),
    }
    lstm = (2 * LATENT.prior_size, 4 * LATENT.prior_size)
    return {f"{name}.weight": fans for name, fans in layers.items()} | {
        "latent.prior.lstm.weight_ih_l0": lstm,
        "latent.prior.lstm.weight_hh_l0": lstm,
    }


def test_weights_start_with_the_published_variance_and_biases_at_zero() -> None:
    torch.manual_seed(0)
    latent = replace(LATENT, num_bits=66)
    model = make(hidden=16, latent=latent, recurrent_size=S, pixels="softmax")

    parameters = {name: value.detach() for name, value in model.named_parameters()}
    fans = published_fans(16, 66)
    heads = {"reward.2.weight", "end.2.weight"}
    assert {name for name, value in parameters.items() if value.ndim > 1} == fans.keys() | heads
    for name, (fan_in, fan_out) in fans.items():
        bound = (3 * 1.3 / ((fan_in + fan_out) / 2)) ** 0.5  # `variance_scaling_initializer`, `fan_avg`, `uniform`
        largest = float(parameters[name].abs().max())
        assert 0.85 * bound < largest <= bound, name
        if parameters[name].numel() > 1000:
            assert float(parameters[name].std()) == pytest.approx(bound / 3**0.5, rel=0.05), name
    for name in heads:  # `symbol_top`
        assert float(parameters[name].std()) == pytest.approx(128**-0.5, rel=0.15), name
    biases = {name for name in parameters if name.endswith("bias") and "norm" not in name}
    assert {name for name in biases if parameters[name].any()} == {"embed.bias", "latent.posterior.embed.bias"}
    assert 0.004 < float(parameters["embed.bias"].std()) < 0.02


def test_predicted_changes_start_near_zero() -> None:
    weight = make(hidden=16).get_parameter("pixels.dense.weight").detach()

    assert 0.85 < float(weight.abs().max()) / (0.025 * (3 / 16) ** 0.5) <= 1
