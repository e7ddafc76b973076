from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lightning_rl.networks.vae import VAE, LatentDistribution

OBS_SHAPE = (16, 24, 3)
N, Z = 3, 5


def frames(count: int = N, obs_shape: tuple[int, int, int] = OBS_SHAPE) -> torch.Tensor:
    return torch.randint(256, (count, *obs_shape), dtype=torch.uint8)


def shapes(part: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(parameter.shape) for name, parameter in part.named_parameters() if name.endswith("weight")]


def test_the_layers_are_those_of_figure_2() -> None:
    vae = VAE((64, 64, 3))

    assert shapes(vae.encoder) == [(16, 1, 3, 3), (32, 16, 3, 3), (128, 7200)]
    assert shapes(vae.decoder) == [(4096, 64), (16, 32, 3, 3), (32, 16, 3, 3), (16, 1, 3, 3)]


@pytest.mark.parametrize(("images", "channels"), [("binary", 1), ("rgb", 3)])
@pytest.mark.parametrize("obs_shape", [(64, 64, 3), OBS_SHAPE])
def test_decoded_images_have_the_size_of_the_encoded_ones(
    obs_shape: tuple[int, int, int], images: Any, channels: int
) -> None:
    vae = VAE(obs_shape, latent_size=Z, images=images)
    encoded = vae.images(frames(obs_shape=obs_shape))

    latent = vae.encode(encoded)

    assert encoded.shape == (N, channels, *obs_shape[:2])
    assert latent.mean.shape == latent.log_variance.shape == (N, Z)
    assert vae.decode(latent.mean).shape == encoded.shape


def test_binary_images_are_white_where_the_luminance_is_above_one_half() -> None:
    obs = frames()

    images = VAE(OBS_SHAPE).images(obs)

    for n, y, x in np.ndindex(N, *OBS_SHAPE[:2]):
        red, green, blue = obs[n, y, x].tolist()
        luminance = (0.299 * red + 0.587 * green + 0.114 * blue) / 255
        assert float(images[n, 0, y, x]) == float(luminance > 0.5)


def test_rgb_images_are_the_frames_scaled_to_zero_to_one() -> None:
    obs = frames()

    images = VAE(OBS_SHAPE, images="rgb").images(obs)

    assert torch.equal((images * 255).round().permute(0, 2, 3, 1).byte(), obs)
    assert images.max() <= 1


def test_a_sample_is_the_mean_plus_standard_deviation_times_noise() -> None:
    latent = LatentDistribution(torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, np.log(9.0)]]).float())

    assert_close(latent.sample(torch.tensor([[0.5, -1.0]])), torch.tensor([[1.5, -5.0]]))


def test_the_latent_is_float32_under_mixed_precision() -> None:
    vae = VAE(OBS_SHAPE)

    with torch.autocast("cpu", torch.bfloat16):
        latent = vae.encode(vae.images(frames()))
        decoded = vae.decode(latent.mean)

    assert {latent.mean.dtype, latent.log_variance.dtype, decoded.dtype} == {torch.float32}
    assert not torch.equal(latent.mean, latent.mean.bfloat16().float())


@pytest.mark.parametrize("obs_shape", [(18, 16, 3), (16, 10, 3), (4, 16, 3), (16, 16, 1)])
def test_frames_of_unsupported_shape_are_refused(obs_shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="multiples of 4 from 8 on, with 3 channels"):
        VAE(obs_shape)
