import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lightning_rl.networks.channel_norm import ChannelNorm
from tests import reference

N, C = 2, 5


@pytest.mark.parametrize("size", [(1, 1), (3, 7)])
def test_each_position_is_normalised_over_its_channels(size: tuple[int, int]) -> None:
    norm, images = ChannelNorm(C), 3 + torch.randn(N, C, *size)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)

    normalised = norm(images)

    scale, shift = (parameter.detach().double().numpy() for parameter in (norm.weight, norm.bias))
    expected = np.stack([reference.channel_norm(image, scale, shift) for image in images.double().numpy()])
    assert_close(normalised.double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-5)


def test_images_of_little_contrast_show_the_size_of_epsilon() -> None:
    images = 1e-3 * torch.tensor([1.0, -1.0]).view(1, 2, 1, 1)

    assert_close(ChannelNorm(2)(images).flatten(), 0.5**0.5 * torch.tensor([1.0, -1.0]))


def test_precision_and_layout_stay_under_mixed_precision() -> None:
    images = torch.randn(N, C, 3, 7, dtype=torch.bfloat16).to(memory_format=torch.channels_last)

    with torch.autocast("cpu", torch.bfloat16):
        normalised = ChannelNorm(C)(images)

    assert normalised.dtype == torch.bfloat16
    assert normalised.is_contiguous(memory_format=torch.channels_last)
