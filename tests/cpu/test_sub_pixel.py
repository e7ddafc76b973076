from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lightning_rl.cpu.sub_pixel import SubPixelConv, SubPixelShuffle, UpConv

N, BEFORE, AFTER, H, W = 3, 5, 7, 4, 6
shuffled = SubPixelShuffle()


def test_sub_pixels_are_rearranged_to_pixels() -> None:
    sub_pixels = torch.randn(N, 4 * AFTER, H, W)

    pixels = shuffled(sub_pixels)

    assert pixels.shape == (N, AFTER, 2 * H, 2 * W)
    for a in range(2):
        for b in range(2):
            of_one = sub_pixels[:, (2 * a + b) * AFTER : (2 * a + b + 1) * AFTER]
            assert_close(pixels[:, :, a::2, b::2], of_one, rtol=0, atol=0)


def test_pixels_stay_channels_last() -> None:
    sub_pixels = torch.randn(N, 4 * AFTER, H, W).to(memory_format=torch.channels_last).requires_grad_()

    pixels = shuffled(sub_pixels)
    (gradient,) = torch.autograd.grad(pixels, sub_pixels, torch.randn_like(pixels))

    assert pixels.is_contiguous(memory_format=torch.channels_last)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


def up() -> tuple[nn.Module, nn.Module]:
    return UpConv(BEFORE, AFTER), nn.ConvTranspose2d(BEFORE, AFTER, 3, stride=2, padding=1, output_padding=1)


def same() -> tuple[nn.Module, nn.Module]:
    return SubPixelConv(BEFORE, AFTER), nn.ConvTranspose2d(BEFORE, AFTER, 3, padding=1)


@pytest.mark.parametrize("pair", [up, same])
def test_outputs_and_gradients_equal_those_of_conv_transpose2d(
    pair: Callable[[], tuple[nn.Module, nn.Module]],
) -> None:
    ours, torchs = (module.double() for module in pair())
    torchs.load_state_dict(ours.state_dict())
    inputs = torch.randn(N, BEFORE if pair is up else 4 * BEFORE, H, W, dtype=torch.float64, requires_grad=True)

    outputs = (shuffled(ours(inputs)), torchs(inputs)) if pair is up else (ours(inputs), torchs(shuffled(inputs)))

    assert outputs[0].shape == (N, AFTER, 2 * H, 2 * W)
    assert_close(*outputs)
    downstream = torch.randn_like(outputs[0])
    sides = zip(outputs, (ours, torchs), strict=True)
    found, expected = (torch.autograd.grad(y, [inputs, *side.parameters()], downstream) for y, side in sides)
    assert_close(found, expected)
