import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lightning_rl.networks.patch_conv import PatchConv


@pytest.mark.parametrize(("stride", "padding"), [(4, 0), (2, 1)])
def test_outputs_and_gradients_are_those_of_torchs_convolution(stride: int, padding: int) -> None:
    ours = PatchConv(3, 5, stride=stride, padding=padding).double()
    torchs = nn.Conv2d(3, 5, 2 * stride, stride=stride, padding=padding).double()
    torchs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 12, 20, dtype=torch.float64, requires_grad=True)

    outputs = ours(images), torchs(images)

    assert_close(*outputs)
    downstream = torch.randn_like(outputs[0])
    sides = zip(outputs, (ours, torchs), strict=True)
    found, expected = (torch.autograd.grad(y, [images, *side.parameters()], downstream) for y, side in sides)
    assert_close(found, expected)
