import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import max_pool2d
from torch.testing import assert_close

from lightning_rl.cpu.max_pool import MaxPool

POOL = MaxPool()


def distinct_images(count: int, channels: int, height: int, width: int, *, seed: int = 0) -> Tensor:
    """Distinct finite bfloat16 numbers of both signs, in channels_last."""
    size = count * channels * height * width
    magnitudes = torch.arange(0x7F80, dtype=torch.int16)
    bits = torch.cat([magnitudes, magnitudes[1:] | -0x8000])  # zero once
    chosen = bits[torch.randperm(len(bits), generator=torch.Generator().manual_seed(seed))[:size]]
    return chosen.view(torch.bfloat16).view(count, height, width, channels).permute(0, 3, 1, 2)


def few_values(count: int, channels: int, height: int, width: int) -> Tensor:
    images = torch.randint(-2, 3, (count, height, width, channels)).bfloat16()
    return images.permute(0, 3, 1, 2)


@settings(deadline=None)  # the first call compiles
@given(
    count=st.integers(1, 3),
    channels=st.integers(1, 33),
    height=st.integers(1, 4),
    width=st.integers(1, 4),
    seed=st.integers(0, 2**32),
)
def test_outputs_and_gradients_equal_torchs(count: int, channels: int, height: int, width: int, seed: int) -> None:
    images = distinct_images(count, channels, 2 * height, 2 * width, seed=seed).requires_grad_()
    generator = torch.Generator().manual_seed(seed)
    outputs = POOL(images)
    weights = torch.randn(outputs.shape, generator=generator).bfloat16()

    (gradient,) = torch.autograd.grad(outputs, images, weights)

    wide = images.detach().float().requires_grad_()
    expected = max_pool2d(wide, 3, stride=2, padding=1)
    (expected_gradient,) = torch.autograd.grad(expected, wide, weights.float())
    assert torch.equal(outputs, expected.bfloat16())
    # up to four windows share a pixel, and their sum in float32 may depend on the order before it is rounded
    assert_close(gradient.float(), expected_gradient, rtol=2**-8, atol=2**-10)
    assert (gradient == expected_gradient.bfloat16()).float().mean() > 0.99 or gradient.numel() < 1000


def test_small_integer_gradients_add_up_exactly() -> None:
    images = distinct_images(2, 5, 6, 8).requires_grad_()
    outputs = POOL(images)
    weights = torch.randint(-9, 10, outputs.shape).bfloat16()

    (gradient,) = torch.autograd.grad(outputs, images, weights)

    (expected,) = torch.autograd.grad(max_pool2d(images, 3, stride=2, padding=1), images, weights)
    assert torch.equal(gradient, expected)


def test_one_of_several_equal_maxima_gets_the_whole_gradient() -> None:
    images = few_values(3, 5, 6, 8).requires_grad_()
    outputs = POOL(images)

    gradients = torch.stack(
        [torch.autograd.grad(output, images, retain_graph=True)[0] for output in outputs[0].flatten()]
    )

    assert torch.equal(outputs, max_pool2d(images, 3, stride=2, padding=1))
    winners = gradients.flatten(1)
    assert torch.equal((winners != 0).sum(1), torch.ones(len(winners), dtype=torch.int64))
    assert torch.equal((winners * images.detach().flatten()).sum(1), outputs[0].detach().flatten())


def test_outputs_equal_torchs_for_equal_infinite_and_signed_zero_values() -> None:
    special = torch.tensor([-torch.inf, -1.0, -0.0, 0.0, 1.0, torch.inf]).bfloat16()
    images = special[torch.randint(len(special), (7, 6, 8, 5))].permute(0, 3, 1, 2)

    assert torch.equal(POOL(images), max_pool2d(images, 3, stride=2, padding=1))


@pytest.mark.parametrize("bits", [0x7FC0, -0x40], ids=["positive", "negative"])
def test_nan_reaches_every_window_that_contains_it(bits: int) -> None:
    images = torch.zeros((1, 3, 6, 8), dtype=torch.bfloat16)
    images.view(torch.int16)[0, 1, 3, 5] = bits

    assert torch.equal(POOL(images).isnan(), max_pool2d(images, 3, stride=2, padding=1).isnan())
    assert int(POOL(images).isnan().sum()) == 4


def test_padding_gets_no_gradient() -> None:
    images = torch.full((1, 2, 4, 4), -torch.inf, dtype=torch.bfloat16).requires_grad_()

    (gradient,) = torch.autograd.grad(POOL(images).sum(), images)

    assert float(gradient.sum()) == 8  # one for each window


def test_the_first_of_equal_pixels_gets_the_gradient() -> None:
    images = torch.ones(2, 3, 6, 8).bfloat16().requires_grad_()

    (gradient,) = torch.autograd.grad(POOL(images).sum(), images)

    (expected,) = torch.autograd.grad(max_pool2d(images, 3, stride=2, padding=1).sum(), images)
    assert torch.equal(gradient, expected)


@pytest.mark.parametrize(("left", "right", "rounded"), [(256.0, 1.0, 256.0), (258.0, 1.0, 260.0), (256.0, 1.5, 258.0)])
def test_gradients_of_two_windows_are_summed_before_they_are_rounded(left: float, right: float, rounded: float) -> None:
    images = torch.zeros(1, 1, 2, 4).bfloat16()
    images[..., 1] = 1.0  # the column in both windows; the upper of its two pixels is the maximum
    images.requires_grad_()

    (gradient,) = torch.autograd.grad(POOL(images), images, torch.tensor([[[[left, right]]]]).bfloat16())

    assert gradient[0, 0, 0].tolist() == [0.0, rounded, 0.0, 0.0]


def test_any_memory_format_is_pooled_and_the_result_is_channels_last() -> None:
    images = distinct_images(2, 3, 4, 6).contiguous()

    outputs = POOL(images)

    assert torch.equal(outputs, max_pool2d(images, 3, stride=2, padding=1))
    assert outputs.is_contiguous(memory_format=torch.channels_last)


def test_the_memory_format_of_the_gradient_changes_nothing() -> None:
    images = distinct_images(2, 3, 4, 6).requires_grad_()
    weights = torch.randint(-9, 10, (2, 3, 2, 3)).bfloat16()
    outputs = POOL(images)

    as_given, as_channels_last = (
        torch.autograd.grad(outputs, images, weights.contiguous(memory_format=memory_format), retain_graph=True)[0]
        for memory_format in (torch.contiguous_format, torch.channels_last)
    )

    assert torch.equal(as_given, as_channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_precisions_use_torchs_max_pool(dtype: torch.dtype) -> None:
    images = torch.randn(2, 3, 4, 6, dtype=dtype, requires_grad=True)

    assert torch.equal(POOL(images), max_pool2d(images, 3, stride=2, padding=1))
    assert torch.autograd.gradcheck(POOL, images.double())


def test_pooling_is_thread_safe() -> None:
    images = [distinct_images(7, 16, 16, 16, seed=seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(POOL, images))

    for output, image in zip(together, images, strict=True):
        assert torch.equal(output, max_pool2d(image, 3, stride=2, padding=1))


@pytest.mark.slow
def test_pooling_works_without_a_writable_cache_folder() -> None:
    script = "import torch; from lightning_rl.cpu.max_pool import MaxPool; MaxPool()(torch.ones(1, 1, 2, 2).bfloat16())"
    environment = {**os.environ, "NUMBA_CACHE_LOCATOR_CLASSES": "IPythonCacheLocator"}

    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    images = few_values(1, 3, 4, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(POOL(images).float().square().sum(), images, create_graph=True)

    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.float().sum().backward()
