import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_rl.cpu.channel_norm import ChannelNorm
from tests.support import reference

N, C = 2, 5


def norm(channels: int = C) -> ChannelNorm:
    result = ChannelNorm(channels)
    nn.init.normal_(result.weight)
    nn.init.normal_(result.bias)
    return result


def expected(module: ChannelNorm, images: Tensor, skipped: Tensor | float, signal: Tensor | float) -> Tensor:
    scale, shift = (parameter.detach().double().numpy() for parameter in (module.weight, module.bias))
    sums = images.double().relu() + skipped
    normalized = np.stack([reference.channel_norm(image, scale, shift) for image in sums.numpy()])
    return torch.from_numpy(normalized) + signal


@pytest.mark.parametrize("size", [(1, 1), (3, 7)])
@pytest.mark.parametrize("channels", [5, 64])
@pytest.mark.parametrize(("precision", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-7)], ids=["fp32", "bf16"])
@pytest.mark.parametrize("with_skipped", [False, True])
def test_rectified_images_are_normalized_over_channels_at_each_position(
    size: tuple[int, int], channels: int, precision: torch.dtype, error: float, with_skipped: bool
) -> None:
    module = norm(channels)
    images, skipped = (1 + 2 * torch.randn(N, channels, *size).to(precision) for _ in range(2))
    signal = torch.randn(channels, *size).to(precision)
    given = (skipped, signal) if with_skipped else ()

    normalized = module(images, *given)

    assert normalized.dtype == precision
    added = (skipped.double(), signal.double()) if with_skipped else (0.0, 0.0)
    assert_close(normalized.double(), expected(module, images, *added), rtol=error, atol=error)


@pytest.mark.parametrize("channels", [5, 64])
@pytest.mark.parametrize("with_skipped", [False, True])
def test_gradients_in_bfloat16_are_those_in_float64(channels: int, with_skipped: bool) -> None:
    narrow = norm(channels)
    wide = ChannelNorm(channels).double()
    wide.load_state_dict(narrow.state_dict())
    images, skipped, downstream = (torch.randn(N, channels, 3, 7).bfloat16() for _ in range(3))
    images[0, 0] = 0
    signal = torch.randn(channels, 3, 7).bfloat16()
    found = []
    for module, kind in ((narrow, torch.bfloat16), (wide, torch.float64)):
        inputs = [part.to(kind).requires_grad_() for part in ((images, skipped) if with_skipped else (images,))]
        outputs = module(*inputs, signal.to(kind)) if with_skipped else module(*inputs)
        gradients = torch.autograd.grad(outputs, [*inputs, *module.parameters()], downstream.to(kind))
        found.append([gradient.double() for gradient in gradients])

    for given, wanted in zip(*found, strict=True):
        assert_close(given, wanted, rtol=2**-7, atol=2**-7)
    assert (found[0][0][images <= 0] == 0).all()


def test_epsilon_is_one_millionth() -> None:
    images = 1e-3 * torch.tensor([2.0, 0.0]).view(1, 2, 1, 1)

    for precision in (torch.float32, torch.bfloat16):
        normalized = ChannelNorm(2)(images.to(precision)).flatten().float()
        assert_close(normalized, 0.5**0.5 * torch.tensor([1.0, -1.0]), rtol=2**-7, atol=0)


@pytest.mark.parametrize("value", [torch.nan, -torch.nan, torch.inf])
def test_nan_and_infinity_reach_the_output_at_their_position(value: float) -> None:
    images = torch.ones(1, 37, 2, 2).bfloat16()
    images[0, 3, 1, 0] = value

    isnan = ChannelNorm(37)(images).isnan()

    assert isnan[0, :, 1, 0].any()
    assert int(isnan.any(1).sum()) == 1


def test_precision_and_memory_format_are_kept_under_mixed_precision() -> None:
    images = torch.randn(N, C, 3, 7, dtype=torch.bfloat16).to(memory_format=torch.channels_last)

    with torch.autocast("cpu", torch.bfloat16):
        normalized = ChannelNorm(C)(images)

    assert normalized.dtype == torch.bfloat16
    assert normalized.is_contiguous(memory_format=torch.channels_last)


def test_the_memory_format_changes_no_output() -> None:
    module, images, skipped = norm(), torch.randn(N, C, 3, 7).bfloat16(), torch.randn(N, C, 3, 7).bfloat16()
    laid_out = [part.to(memory_format=torch.channels_last) for part in (images, skipped)]

    assert torch.equal(module(images, skipped), module(*laid_out))
    assert torch.equal(module(images[:, :, :2, 1:], skipped[:, :, :2, 1:]), module(images, skipped)[:, :, :2, 1:])


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    images = torch.randn(N, C, 3, 4, dtype=torch.bfloat16, requires_grad=True)
    (gradient,) = torch.autograd.grad(norm()(images).float().square().sum(), images, create_graph=True)

    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.float().sum().backward()
