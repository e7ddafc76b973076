import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_rl.losses.world_model import (
    clipped_cross_entropy,
    clipped_frame_cross_entropy,
    clipped_frame_squared_error,
)
from tests.support import reference
from tests.support.compare import Array, assert_matches, rounded, tensor
from tests.support.reference import Integers

N, H, W, C, V, R = 2, 3, 5, 3, 256, 7
CUTOFFS = pytest.mark.parametrize("cutoff", [0.0, 0.03, 5.0])


def draw_frames() -> tuple[Array, Integers]:
    """Logits that are confident in two thirds of the sub-pixels, and the true frame."""
    generator = np.random.default_rng(0)
    targets = generator.integers(V, size=(N, H, W, C))
    logits = generator.normal(size=(N, H, W, C, V))
    for index in np.ndindex(targets.shape):
        logits[index][targets[index]] += generator.choice([0.0, 11.0, 13.0])
    return rounded(logits), targets


def frame(targets: Integers) -> Tensor:
    return torch.from_numpy(targets.astype(np.uint8))


@CUTOFFS
def test_the_cross_entropy_of_frames_matches_its_definition(cutoff: float) -> None:
    logits, targets = draw_frames()

    losses = clipped_frame_cross_entropy(tensor(logits), frame(targets), cutoff=cutoff)

    sub_pixels = reference.clipped_cross_entropy(logits, targets, cutoff)
    assert cutoff == 0 or 0.1 < float((sub_pixels == 0).mean()) < 0.9
    assert_matches(losses, sub_pixels.mean((1, 2, 3)))


@pytest.mark.parametrize("cutoff", [0.0, 10.0, 300.0])
def test_the_squared_error_of_frames_matches_its_definition(cutoff: float) -> None:
    generator = np.random.default_rng(0)
    targets = generator.integers(V, size=(N, H, W, C))
    predictions = rounded(targets + generator.normal(scale=11, size=targets.shape))

    losses = clipped_frame_squared_error(tensor(predictions), frame(targets), cutoff=cutoff)

    sub_pixels = reference.clipped_squared_error(predictions, targets, cutoff)
    assert cutoff == 0 or 0.05 < float((sub_pixels == 0).mean()) < 0.99
    assert_close(losses.double(), torch.from_numpy(sub_pixels.mean((1, 2, 3))), rtol=1e-5, atol=1e-3)


@CUTOFFS
def test_the_cross_entropy_of_rewards_matches_its_definition(cutoff: float) -> None:
    generator = np.random.default_rng(0)
    logits, classes = rounded(5 * generator.normal(size=(N * 11, R))), generator.integers(R, size=N * 11)

    losses = clipped_cross_entropy(tensor(logits), torch.from_numpy(classes), cutoff=cutoff)

    assert_matches(losses, reference.clipped_cross_entropy(logits, classes, cutoff))


def test_default_cutoffs_are_the_published_ones() -> None:
    logits, targets = (torch.from_numpy(numbers) for numbers in draw_frames())
    predictions = targets + 5.0

    assert_close(
        clipped_frame_cross_entropy(logits, targets.byte()),
        clipped_frame_cross_entropy(logits, targets.byte(), cutoff=0.03),
    )
    assert clipped_frame_squared_error(predictions.float(), targets.byte()).tolist() == [15.0] * N
    assert clipped_cross_entropy(torch.zeros(1, 2), torch.zeros(1).long()).tolist() == pytest.approx(
        [math.log(2) - 0.03]
    )


def test_each_sub_pixel_is_clipped_before_the_mean() -> None:
    targets = torch.zeros(1, 1, 2, 1, dtype=torch.uint8)

    loss = clipped_frame_squared_error(torch.tensor([0.0, 4.0]).view(1, 1, 2, 1), targets, cutoff=10.0)

    assert loss.tolist() == [3.0]  # the mean of 0 and 16 is 8, below the cutoff


def test_gradient_of_cross_entropy_is_zero_below_the_cutoff_and_unchanged_above() -> None:
    numbers, classes = draw_frames()
    logits, targets = torch.from_numpy(numbers).requires_grad_(), frame(classes)

    clipped_frame_cross_entropy(logits, targets).sum().backward()

    above = torch.from_numpy(reference.clipped_cross_entropy(numbers, classes, 0.03) > 0)
    one_hot = torch.nn.functional.one_hot(targets.long(), V)
    expected = (logits.detach().softmax(-1) - one_hot) * above.unsqueeze(-1) / (H * W * C)
    assert 0 < above.sum() < above.numel()
    assert_close(logits.grad, expected)


def test_gradient_of_squared_error_is_zero_below_the_cutoff_and_unchanged_above() -> None:
    errors = torch.tensor([-4.0, -3.0, 0.0, 3.0, 4.0], requires_grad=True)
    targets = torch.full((1, 1, 5, 1), 100, dtype=torch.uint8)

    clipped_frame_squared_error((100 + errors).view(1, 1, 5, 1), targets).sum().backward()

    assert_close(errors.grad, torch.tensor([-8.0, 0.0, 0.0, 0.0, 8.0]) / 5)


def test_a_prediction_below_zero_counts_with_its_full_error() -> None:
    loss = clipped_frame_squared_error(torch.full((1, 1, 1, 1), -5.0), torch.zeros(1, 1, 1, 1, dtype=torch.uint8))

    assert loss.tolist() == [15.0]


def test_gradients_match_finite_differences() -> None:
    numbers, classes = draw_frames()
    logits, targets = torch.from_numpy(numbers[:1, :1, :2, :, :5]).requires_grad_(), frame(classes)[:1, :1, :2] % 5

    assert torch.autograd.gradcheck(lambda x: clipped_frame_cross_entropy(x, targets), logits)
