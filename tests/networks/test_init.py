import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lightning_rl.networks.init import glorot_, orthogonal_linear, uniform_unit_scaling_
from lightning_rl.networks.stacked_linear import StackedLinear


@pytest.mark.parametrize(("layer", "fans"), [(nn.Conv2d(16, 32, 3), (16 + 32) * 9), (nn.Linear(2048, 256), 2048 + 256)])
def test_glorot_weights_are_uniform_up_to_their_bound(layer: nn.Conv2d | nn.Linear, fans: int) -> None:
    bound = math.sqrt(6 / fans)

    glorot_(layer)

    weight = layer.weight.detach()
    assert 0.99 * bound < weight.abs().max().item() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)  # of a uniform distribution


def test_glorot_zeroes_the_biases_of_nested_layers() -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Sequential(nn.ReLU(), nn.Linear(7, 2)))

    glorot_(network)

    biases = torch.cat([value for name, value in network.named_parameters() if name.endswith("bias")])
    assert torch.equal(biases, torch.zeros(5 + 2))


@pytest.mark.parametrize("gain", [0.01, 1.0])
@pytest.mark.parametrize("out_features", [1, 15])
def test_rows_of_an_orthogonal_layer_are_orthogonal_and_have_the_gain_as_norm(out_features: int, gain: float) -> None:
    weight = orthogonal_linear(256, out_features, gain).weight

    assert_close(weight @ weight.T, gain**2 * torch.eye(out_features), rtol=1e-4, atol=1e-6 * gain**2)


def test_the_bias_of_an_orthogonal_layer_starts_at_zero() -> None:
    assert torch.equal(orthogonal_linear(256, 15, 1.0).bias, torch.zeros(15))


@pytest.mark.parametrize("gain", [0.1, 1.3])
@pytest.mark.parametrize(
    ("layer", "fan_in", "fan_out"),
    [
        (nn.Conv2d(16, 32, 3), 16 * 9, 32 * 9),
        (nn.ConvTranspose2d(32, 16, 3), 32 * 9, 16 * 9),
        (nn.Linear(256, 64), 256, 64),
        (StackedLinear(256, 32, count=2), 256, 32),
    ],
)
def test_unit_scaling_weights_are_uniform_up_to_their_bound(
    layer: nn.Module, fan_in: int, fan_out: int, gain: float
) -> None:
    bound = math.sqrt(3 * gain / (0.5 * fan_in + 0.5 * fan_out))

    uniform_unit_scaling_(nn.Sequential(layer), gain)

    weight, bias = (parameter.detach() for parameter in layer.parameters())
    assert 0.99 * bound < weight.abs().max().item() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)  # of a uniform distribution
    assert torch.equal(bias, torch.zeros_like(bias))
