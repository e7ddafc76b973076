from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.testing import assert_close

from lightning_rl.networks.pixel_normalizer import PixelNormalizer

OBS_SHAPE = (4, 6, 3)


def frames(num_frames: int) -> Tensor:
    brightest = torch.randint(2, 256, OBS_SHAPE)  # each pixel has its own distribution
    return (torch.rand(num_frames, *OBS_SHAPE) * brightest).to(torch.uint8)


def fed(*parts: Tensor, max_abs: float = 5.0) -> PixelNormalizer:
    normalizer = PixelNormalizer(OBS_SHAPE, max_abs=max_abs)
    for part in parts:
        normalizer.update(part)
    return normalizer


def constant(value: int, num_frames: int = 7) -> Tensor:
    return torch.full((num_frames, *OBS_SHAPE), value, dtype=torch.uint8)


def channels_first(images: NDArray[Any]) -> Tensor:
    return torch.from_numpy(images).float().permute(0, 3, 1, 2)


def test_normalized_images_match_numpy_on_all_frames() -> None:
    seen, obs = frames(601), frames(5)

    actual = fed(seen)(obs)

    pixels = seen.numpy().astype(np.float64)
    std = np.maximum(pixels.std(0), 1)
    expected = np.clip((obs.numpy() - pixels.mean(0)) / std, -5, 5)
    assert_close(actual, channels_first(expected), rtol=1e-5, atol=1e-5)


def test_order_and_grouping_of_frames_change_no_bit() -> None:
    seen, obs = frames(601), frames(5)

    together = fed(seen)
    apart = fed(*seen[torch.randperm(601)].split(31))

    assert torch.equal(apart(obs), together(obs))
    assert all(torch.equal(apart.state_dict()[key], value) for key, value in together.state_dict().items())


@pytest.mark.parametrize("max_abs", [5.0, 2.0])
def test_rare_pixels_are_clipped_on_both_sides(max_abs: float) -> None:
    normalizer = fed(constant(100, 100), constant(99), constant(101), max_abs=max_abs)

    images = normalizer(torch.cat([constant(255, 1), constant(0, 1)]))

    assert images.flatten(1).unique(dim=1).flatten().tolist() == [max_abs, -max_abs]


def test_frames_are_only_scaled_before_the_first_update() -> None:
    obs = frames(5)

    images = PixelNormalizer(OBS_SHAPE)(obs)

    assert_close(images, channels_first(obs.numpy() / 255), rtol=1e-6, atol=0)


def test_a_constant_pixel_counts_with_a_std_of_one_gray_level() -> None:
    images = fed(constant(200))(torch.cat([constant(200, 1), constant(203, 1), constant(0, 1)]))

    assert images.flatten(1).unique(dim=1).flatten().tolist() == [0.0, 3.0, -5.0]


def test_normalizing_does_not_change_the_statistics() -> None:
    normalizer = fed(frames(31))
    before = {key: value.clone() for key, value in normalizer.state_dict().items()}

    normalizer(frames(5))

    assert all(torch.equal(normalizer.state_dict()[key], value) for key, value in before.items())


def test_restored_statistics_continue_bit_for_bit(tmp_path: Path) -> None:
    first, second, obs = frames(31), frames(17), frames(5)
    torch.save(fed(first).state_dict(), tmp_path / "state.pt")

    restored = PixelNormalizer(OBS_SHAPE)
    restored.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    restored.update(second)

    assert torch.equal(restored(obs), fed(first, second)(obs))


def test_the_normalizer_has_no_parameters() -> None:
    assert list(PixelNormalizer(OBS_SHAPE).parameters()) == []
