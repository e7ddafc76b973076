import math

import numpy as np
import pytest
import torch

from lightning_rl.losses.vae import gaussian_image_nll, gaussian_kl, gaussian_log_density, image_nll, sampled_kl
from tests.support import reference
from tests.support.compare import Array, assert_matches, rounded, tensor

N, Z = 3, 5


def draw(seed: int = 0) -> tuple[Array, Array]:
    generator = np.random.default_rng(seed)
    return rounded(generator.normal(size=(N, Z))), rounded(generator.normal(size=(N, Z)))


def test_gaussian_kl_matches_its_definition() -> None:
    mean, log_variance = draw()

    assert_matches(gaussian_kl(tensor(mean), tensor(log_variance)), reference.gaussian_kl(mean, log_variance))


def test_densities_and_divergences_of_a_worked_example() -> None:
    mean, log_variance = torch.tensor([[0.5, -1.0]]), torch.tensor([[0.2, -0.4]])
    sample = torch.tensor([[0.8, -0.7]])
    standard = gaussian_log_density(sample, torch.zeros(1, 2), torch.zeros(1, 2))

    assert_matches(standard, np.array([-2.402877]))
    assert_matches(gaussian_log_density(sample, mean, log_variance), np.array([-1.841852]))
    assert_matches(sampled_kl(sample, mean, log_variance), np.array([0.561025]))
    assert_matches(gaussian_kl(mean, log_variance), np.array([0.670861]))


def test_gaussian_log_density_matches_its_definition() -> None:
    (mean, log_variance), (sample, _) = draw(), draw(seed=1)

    density = gaussian_log_density(tensor(sample), tensor(mean), tensor(log_variance))

    assert_matches(density, reference.gaussian_log_density(sample, mean, log_variance))


def test_sampled_kl_is_unbiased_and_sometimes_negative() -> None:
    mean, log_variance = (tensor(numbers)[:1].expand(200_000, Z) for numbers in draw())
    samples = mean + (log_variance / 2).exp() * torch.randn(mean.shape)

    estimates = sampled_kl(samples, mean, log_variance)

    error = 5 * float(estimates.std()) / math.sqrt(len(estimates))  # five standard errors
    assert float(estimates.mean()) == pytest.approx(float(gaussian_kl(mean[:1], log_variance[:1])), abs=error)
    assert float(estimates.min()) < 0


def test_gaussian_kl_of_the_standard_normal_is_zero() -> None:
    assert torch.equal(gaussian_kl(torch.zeros(N, Z), torch.zeros(N, Z)), torch.zeros(N))


def test_image_nll_matches_its_definition() -> None:
    generator = np.random.default_rng(0)
    logits = rounded(3 * generator.normal(size=(N, 1, 5, 7)))
    images = generator.integers(2, size=logits.shape).astype(np.float64)

    assert_matches(image_nll(tensor(logits), tensor(images)), reference.bernoulli_nll(logits, images))


def test_image_nll_of_zero_logits_is_2839_nats_for_64_by_64_pixels() -> None:
    nll = image_nll(torch.zeros(2, 1, 64, 64), torch.randint(2, (2, 1, 64, 64)).float())

    assert nll.tolist() == pytest.approx([4096 * math.log(2)] * 2, rel=1e-5)
    assert round(float(nll[0]), 1) == 2839.1


def test_image_nll_of_extreme_logits_is_finite() -> None:
    nll = image_nll(torch.full((1, 1, 2, 2), 200.0), torch.zeros(1, 1, 2, 2))

    assert nll.tolist() == [800.0]


@pytest.mark.parametrize("std", [0.1, 1.0])
def test_gaussian_image_nll_matches_its_definition(std: float) -> None:
    generator = np.random.default_rng(0)
    means, images = rounded(generator.uniform(size=(N, 3, 2, 2))), rounded(generator.uniform(size=(N, 3, 2, 2)))
    flat_means, flat_images = means.reshape(N, -1), images.reshape(N, -1)

    nll = gaussian_image_nll(tensor(means), tensor(images), std)

    log_variance = np.full_like(flat_means, 2 * math.log(std))
    torch.testing.assert_close(
        nll.double(),
        torch.from_numpy(-reference.gaussian_log_density(flat_images, flat_means, log_variance)),
        rtol=1e-5,
        atol=1e-4,
    )


def test_gradients_of_vae_losses_agree_with_finite_differences() -> None:
    mean, log_variance, sample = (torch.randn(N, Z, dtype=torch.float64, requires_grad=True) for _ in range(3))
    logits = torch.randn(N, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    images = torch.randint(2, logits.shape).double()

    assert torch.autograd.gradcheck(gaussian_kl, (mean, log_variance))
    assert torch.autograd.gradcheck(sampled_kl, (sample, mean, log_variance))
    assert torch.autograd.gradcheck(lambda x: image_nll(x, images), logits)
    assert torch.autograd.gradcheck(lambda x: gaussian_image_nll(x, images, 0.5), logits)
