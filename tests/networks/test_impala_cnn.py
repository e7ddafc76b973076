from collections.abc import Sequence
from typing import Any

import pytest
import torch
from einops import rearrange
from jaxtyping import TypeCheckError
from torch import Tensor, nn
from torch.nn.functional import conv2d, max_pool2d
from torch.testing import assert_close

from lightning_rl.networks.impala_cnn import CNNShape, ImpalaCNN

OBS_SHAPE = (8, 16, 3)


def impala_features(images: Tensor, parameters: Sequence[Tensor], *, num_stacks: int, rectified_skip: bool) -> Tensor:
    """Espeholt et al. 2018, figure 3 right, one stack after the other; weights and biases in the order of use."""
    unused = iter(parameters)
    x = images
    for _ in range(num_stacks):
        x = conv2d(x, next(unused), next(unused), padding=1)
        x = max_pool2d(x, 3, stride=2, padding=1)
        for _ in range(2):
            carried = torch.clamp(x, min=0) if rectified_skip else x
            inner = conv2d(torch.clamp(x, min=0), next(unused), next(unused), padding=1)
            x = carried + conv2d(torch.clamp(inner, min=0), next(unused), next(unused), padding=1)
    assert next(unused, None) is None
    return torch.clamp(x, min=0).reshape(len(x), -1)


def frames(num_frames: int, obs_shape: tuple[int, int, int] = OBS_SHAPE) -> Tensor:
    return torch.randint(256, (num_frames, *obs_shape), dtype=torch.uint8)


def test_three_stacks_have_the_published_number_of_parameters() -> None:
    cnn = ImpalaCNN((64, 64, 3))

    assert sum(parameter.numel() for parameter in cnn.parameters()) == 97_600


@pytest.mark.parametrize(("channels", "num_features"), [((16, 32, 32), 2048), ((16, 32), 8192)])
def test_a_64_by_64_frame_has_the_published_number_of_features(channels: tuple[int, ...], num_features: int) -> None:
    cnn = ImpalaCNN((64, 64, 3), channels=channels)

    features = cnn(frames(1, (64, 64, 3)))

    assert (features.shape, cnn.num_features) == ((1, num_features), num_features)


@pytest.mark.parametrize("rectified_skip", [False, True])
@pytest.mark.parametrize("channels", [(5,), (2, 3), (2, 3, 5)])
def test_features_match_their_definition(channels: tuple[int, ...], rectified_skip: bool) -> None:
    cnn = ImpalaCNN(OBS_SHAPE, channels=channels, rectified_skip=rectified_skip).double()
    images = torch.randn(2, 3, 8, 16, dtype=torch.float64)

    actual = cnn.encode(images)

    expected = impala_features(images, list(cnn.parameters()), num_stacks=len(channels), rectified_skip=rectified_skip)
    assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_rectified_skip_connections_change_the_features() -> None:
    plain, rectified = ImpalaCNN(OBS_SHAPE), ImpalaCNN(OBS_SHAPE, rectified_skip=True)
    rectified.load_state_dict(plain.state_dict())
    obs = frames(2)

    assert not torch.allclose(plain(obs), rectified(obs))


def test_features_of_rendered_frames_are_those_of_scaled_images() -> None:
    cnn = ImpalaCNN(OBS_SHAPE)
    obs = frames(2)

    actual = cnn(obs)

    images = rearrange(obs, "n h w c -> n c h w").contiguous().float() / 255
    expected = impala_features(images, list(cnn.parameters()), num_stacks=3, rectified_skip=False)
    assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_frames_are_not_modified() -> None:
    obs = frames(2)
    before = obs.clone()

    ImpalaCNN(OBS_SHAPE)(obs)

    assert torch.equal(obs, before)


def test_frames_that_are_not_uint8_are_refused() -> None:
    with pytest.raises(TypeCheckError, match="obs"):
        ImpalaCNN(OBS_SHAPE)(frames(2).float())


@pytest.mark.parametrize(("height", "width", "padded"), [(11, 16, (16, 16)), (8, 13, (8, 16)), (9, 10, (16, 16))])
def test_frames_of_uneven_size_are_padded_with_zeros_at_the_bottom_and_on_the_right(
    height: int, width: int, padded: tuple[int, int]
) -> None:
    cnn, larger = ImpalaCNN((height, width, 3)), ImpalaCNN((*padded, 3))
    larger.load_state_dict(cnn.state_dict())
    obs, larger_obs = frames(2, (height, width, 3)), torch.zeros(2, *padded, 3, dtype=torch.uint8)
    larger_obs[:, :height, :width] = obs

    features = cnn(obs)

    assert features.shape == (2, cnn.num_features)
    assert torch.equal(features, larger(larger_obs))


def test_an_atari_frame_has_as_many_features_as_one_of_112_by_80() -> None:
    assert ImpalaCNN((105, 80, 12)).num_features == 14 * 10 * 32


@pytest.mark.parametrize(("height", "width"), [(7, 64), (64, 7), (4, 4)])
def test_a_frame_too_small_for_three_stacks_is_refused(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"obs_shape: .* at least 8, found {height}×{width}"):
        ImpalaCNN((height, width, 3))


def test_two_stacks_halve_a_60_by_60_frame() -> None:
    assert ImpalaCNN((60, 60, 3), channels=(2, 3)).num_features == 15 * 15 * 3


def test_average_pooling_is_the_mean_over_positions() -> None:
    flat, averaged = ImpalaCNN(OBS_SHAPE), ImpalaCNN(OBS_SHAPE, shape=CNNShape(pooling="average"))
    averaged.load_state_dict(flat.state_dict())
    obs = frames(5, OBS_SHAPE)

    features = averaged(obs)

    assert features.shape == (5, averaged.num_features) == (5, 32)
    assert_close(features, flat(obs).view(5, 32, -1).mean(-1))


def test_parts_are_averaged_separately() -> None:
    obs_shape = (32, 48, 3)  # features of 4 rows and 6 columns
    flat, parts = ImpalaCNN(obs_shape), ImpalaCNN(obs_shape, shape=CNNShape(pooling="average", pooling_size=2))
    parts.load_state_dict(flat.state_dict())
    obs = frames(5, obs_shape)

    features = parts(obs).view(5, 32, 2, 2)

    image = flat(obs).view(5, 32, 4, 6)
    assert parts.num_features == 32 * 4
    assert_close(features[:, :, 0, 1], image[:, :, :2, 3:].mean((2, 3)))
    assert_close(features[:, :, 1, 0], image[:, :, 2:, :3].mean((2, 3)))


def test_width_multiplies_the_channels() -> None:
    wide = ImpalaCNN((64, 64, 3), shape=CNNShape(width=3))

    convolutions = [layer.out_channels for layer in wide.modules() if isinstance(layer, nn.Conv2d)]

    assert convolutions == [48] * 5 + [96] * 10
    assert wide.num_features == 96 * 8 * 8


def test_channels_by_option_replace_those_of_each_stack() -> None:
    small = ImpalaCNN((64, 64, 3), shape=CNNShape(channels=(5, 7), width=2))

    convolutions = [layer.out_channels for layer in small.modules() if isinstance(layer, nn.Conv2d)]

    assert convolutions == [10] * 5 + [14] * 5
    assert small.num_features == 14 * 16 * 16


@pytest.mark.parametrize(("option", "value"), [("channels", (8, 0)), ("channels", ()), ("hidden", 0)])
def test_sizes_below_one_are_refused(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^model\.{option} must be null or "):
        CNNShape(**{option: value})


def test_parts_that_do_not_divide_the_features_are_refused() -> None:
    allowed = r"^model\.pooling_size must be a divisor of 14 rows and 10 columns of features, found 3$"
    with pytest.raises(ValueError, match=allowed):
        ImpalaCNN((105, 80, 12), shape=CNNShape(pooling="average", pooling_size=3))
    with pytest.raises(ValueError, match=r"^model\.width must be at least 1, found 0$"):
        CNNShape(width=0)
