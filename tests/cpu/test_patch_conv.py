import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lightning_rl.cpu.patch_conv import PatchConv, PatchUpConv


@pytest.mark.parametrize(("kernel_size", "stride", "padding"), [(8, 4, 0), (4, 2, 1), (3, 1, 1)])
@pytest.mark.parametrize("size", [(12, 20), (13, 22), (11, 19)])
def test_outputs_and_gradients_equal_those_of_conv2d(
    kernel_size: int, stride: int, padding: int, size: tuple[int, int]
) -> None:
    ours = PatchConv(3, 5, kernel_size, stride=stride, padding=padding)
    torchs = nn.Conv2d(3, 5, kernel_size, stride=stride, padding=padding)

    assert_same(ours, torchs, size=size)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 4)])
def test_outputs_and_gradients_equal_those_of_conv_transpose2d(size: tuple[int, int]) -> None:
    assert_same(PatchUpConv(3, 5), nn.ConvTranspose2d(3, 5, 4, stride=2, padding=1), size=size)


def assert_same(ours: nn.Module, torchs: nn.Module, *, size: tuple[int, int]) -> None:
    ours.double()
    torchs.double().load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)

    outputs = ours(images), torchs(images)

    assert_close(*outputs)
    downstream = torch.randn_like(outputs[0])
    sides = zip(outputs, (ours, torchs), strict=True)
    found, expected = (torch.autograd.grad(y, [images, *side.parameters()], downstream) for y, side in sides)
    assert_close(found, expected)
