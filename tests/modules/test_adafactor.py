"""Adafactor against the published definition, written out for TensorFlow's layouts in float64."""

import io

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_rl.modules.adafactor import Adafactor
from lightning_rl.networks.stacked_linear import StackedLinear
from tests.support import reference

Array = NDArray[np.float64]
LAYERS: dict[str, nn.Module] = {
    "convolution": nn.Conv2d(3, 5, (2, 4)),
    "transposed": nn.ConvTranspose2d(3, 5, (2, 4)),
    "dense": nn.Linear(7, 3),
    "dense outputs of one": nn.Linear(7, 1),
    "stacked": StackedLinear(7, 3, count=2),
}


def in_tensorflow(values: Tensor, count: int) -> list[Array]:
    """The variables that TensorFlow has in place of a parameter: kernels of height, width, inputs and outputs."""
    parts = values.detach().double().chunk(count)
    return [
        (part.permute(2, 3, 1, 0) if part.ndim == 4 else part.T if part.ndim == 2 else part).numpy() for part in parts
    ]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0])
def test_steps_match_their_definition(name: str, scale: float) -> None:
    torch.manual_seed(0)
    layer = LAYERS[name]
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    nn.init.constant_(layer.get_parameter("bias"), 1e-5)  # smaller than the smallest scale
    count = layer.count if isinstance(layer, StackedLinear) else 1
    parameters = list(layer.parameters())
    optimizer = Adafactor(
        [{"params": parameters}], lr=0.8, stacked=dict.fromkeys(parameters, count)
    )  # torch's would bound it by 1/√t
    before = [in_tensorflow(parameter, count) for parameter in parameters]
    gradients: list[list[list[Array]]] = [[[] for _ in range(count)] for _ in parameters]

    for _ in range(4):
        for parameter, so_far in zip(parameters, gradients, strict=True):
            sizes = scale * 10 ** torch.randn(len(parameter), *[1] * (parameter.ndim - 1))
            parameter.grad = sizes * torch.randn(parameter.shape)
            for its, gradient in zip(so_far, in_tensorflow(parameter.grad, count), strict=True):
                its.append(gradient)
        optimizer.step()

    for parameter, weights, all_given in zip(parameters, before, gradients, strict=True):
        after = in_tensorflow(parameter, count)
        for one, start, given in zip(after, weights, all_given, strict=True):
            expected = reference.adafactor(start, given, learning_rate=0.8)
            np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-6)
            assert np.abs(one - start).max() > 1e-4 * np.abs(start).max()


@pytest.mark.parametrize("size", [1e-9, 1e-5, 1e-3])
def test_output_channels_move_equally_whatever_the_size_of_their_gradients(size: float) -> None:
    conv = nn.Conv2d(1, 4, 1, bias=False)
    nn.init.ones_(conv.weight)
    conv.weight.grad = size * torch.tensor([1.0, 3.0, 10.0, 30.0]).view(4, 1, 1, 1)

    Adafactor([{"params": [conv.weight]}], lr=0.01).step()

    assert (1 - conv.weight).flatten().tolist() == pytest.approx([0.01] * 4, rel=1e-3)


def test_weights_without_a_gradient_stay() -> None:
    weight = nn.Parameter(torch.ones(3, 2))
    weight.grad = torch.zeros(3, 2)

    Adafactor([{"params": [weight, nn.Parameter(torch.ones(2))]}], lr=0.5).step()

    assert torch.equal(weight, torch.ones(3, 2))


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("convolution", 2 * 4 * (3 + 5) + 5),
        ("transposed", 2 * 4 * (3 + 5) + 5),
        ("dense", 7 + 3 + 3),
        ("stacked", 2 * (7 + 3) + 6),
    ],
)
def test_it_remembers_a_row_and_a_column_of_each_matrix(name: str, numbers: int) -> None:
    layer = LAYERS[name]
    count = layer.count if isinstance(layer, StackedLinear) else 1
    optimizer = Adafactor(
        [{"params": list(layer.parameters())}], lr=0.1, stacked=dict.fromkeys(layer.parameters(), count)
    )
    for parameter in layer.parameters():
        parameter.grad = torch.randn(parameter.shape)

    optimizer.step()

    states = optimizer.state_dict()["state"].values()
    assert sum(value.numel() for state in states for key, value in state.items() if key != "step") == numbers


def test_it_goes_on_from_a_file_as_if_it_had_never_stopped() -> None:
    torch.manual_seed(1)
    gradients = torch.randn(6, 5, 3, 2, 4)
    one, other = (nn.Parameter(torch.linspace(-1, 1, 120).view(5, 3, 2, 4)) for _ in range(2))
    whole, first = (Adafactor([{"params": [parameter]}], lr=0.1) for parameter in (one, other))
    for step, gradient in enumerate(gradients):
        one.grad, other.grad = gradient.clone(), gradient.clone()
        whole.step()
        if step == 3:
            file = io.BytesIO()
            torch.save(first.state_dict(), file)
            file.seek(0)
            first = Adafactor([{"params": [other]}], lr=0.1)
            first.load_state_dict(torch.load(file, weights_only=True))
        first.step()

    assert torch.equal(one, other)
    assert float(first.state[other]["step"]) == 6
