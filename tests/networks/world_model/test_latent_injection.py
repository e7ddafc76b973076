import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_rl.networks.world_model.latent import LatentConfig, LatentMixing
from lightning_rl.networks.world_model.latent_injection import LatentInjection, inverted_normal, straight_through_sign

N, K, H, W, C, A, B = 5, 2, 9, 13, 3, 2, 4
QUIET = {"noise": 0.0, "deviation": 0.0, "prior_dropout": 0.0}


def make(num_bits: int = B, **noise: float) -> LatentInjection:
    config = LatentConfig(num_bits=num_bits, bits_per_symbol=2, channels=3, prior_size=5, **(QUIET | noise))
    return LatentInjection((H, W, K), (1, 1, C), A, hidden=5, config=config)


class FixedPosterior(nn.Module):
    """A posterior with fixed logits."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images: Tensor, actions: Tensor) -> Tensor:
        return self.logits


class ExposedBits(nn.Module):
    """An injection that returns the bits; the bottleneck stays zero where nothing is injected."""

    def forward(self, images: Tensor, bits: Tensor) -> Tensor:
        return images * 0 + bits[..., None, None]


def gradient(latent: LatentInjection) -> Tensor:
    """Gradient of the logits that `injected_bits` was given."""
    found = latent.get_parameter("posterior.logits").grad
    assert found is not None
    return found


def injected_bits(latent: LatentInjection, logits: Tensor, mixing: LatentMixing, seed: int = 0) -> Tensor:
    """The injected bits; zeros where the latent is not used."""
    latent.posterior, latent.injection = FixedPosterior(logits), ExposedBits()  # type: ignore[assignment]  # stand-ins
    count, num_bits = logits.shape
    latent.prior = type(latent.prior)(num_bits, latent.config)
    bottleneck = torch.zeros(count, num_bits, 1, 1)
    generator = torch.Generator().manual_seed(seed)
    images, actions = torch.zeros(count, K, H, W), torch.zeros(count, A)
    bits: Tensor = latent(bottleneck, images, actions, mixing, generator)[0][..., 0, 0]
    return bits


def test_straight_through_sign_has_the_gradient_of_the_identity() -> None:
    values = torch.tensor([-2.0, -0.3, 0.0, 0.1, 5.0], requires_grad=True)

    signs = straight_through_sign(values)
    (signs * torch.arange(5)).sum().backward()

    assert signs.tolist() == [-1.0, -1.0, -1.0, 1.0, 1.0]
    assert_close(values.grad, torch.arange(5).float())


def test_discrete_bits_are_the_signs_of_the_logits() -> None:
    logits = torch.randn(101, B)

    assert torch.equal(injected_bits(make(), logits, LatentMixing()), torch.where(logits > 0, 1.0, -1.0))


def test_continuous_bits_are_the_tanh_of_the_logits() -> None:
    logits = torch.randn(101, B)

    assert_close(injected_bits(make(), logits, LatentMixing(discrete=0.0)), logits.tanh())


def test_the_gradient_of_a_bit_is_that_of_tanh_and_is_negated_where_it_is_flipped() -> None:
    latent, logits = make(noise=0.5), torch.randn(101, B)

    bits = injected_bits(latent, logits, LatentMixing())
    bits.sum().backward()

    flips = bits.detach() * torch.where(logits > 0, 1.0, -1.0)
    assert_close(gradient(latent), flips * (1 - logits.tanh().square()))


@pytest.mark.parametrize("probability", [0.1, 0.6])
def test_bits_are_discrete_or_flipped_with_the_given_probability(probability: float) -> None:
    logits = torch.full((5_003, B), 0.5)

    mixed = injected_bits(make(), logits, LatentMixing(discrete=probability))
    flipped = injected_bits(make(noise=probability), logits, LatentMixing())

    assert_close((mixed == 1).float().mean(0), torch.full((B,), probability), rtol=0, atol=0.03)  # four standard errors
    assert_close((flipped == -1).float().mean(0), torch.full((B,), probability), rtol=0, atol=0.03)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_examples_use_the_latent_with_the_given_probability(probability: float) -> None:
    bits = injected_bits(make(), torch.full((5_003, B), 0.5), LatentMixing(use=probability))

    used = bits.detach().abs().mean(1)
    assert set(used.unique().tolist()) <= {0.0, 1.0}
    assert float(used.mean()) == pytest.approx(probability, abs=0.03)  # four standard errors


@pytest.mark.parametrize("probability", [0.0, 0.4, 1.0])
def test_bits_are_the_priors_with_the_given_probability_and_then_pass_no_gradient(probability: float) -> None:
    latent, logits = make(), torch.full((5_003, B), 9.0)
    sampled = "lightning_rl.networks.world_model.prior.BitPrior.sample"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampled, lambda _self, features, _generator: -torch.ones(len(features), B))
        bits = injected_bits(latent, logits * 0.01, LatentMixing(prior=probability))
    bits.sum().backward()

    from_prior = bits == -1
    assert float(from_prior.float().mean()) == pytest.approx(probability, abs=0.02)  # four standard errors
    assert torch.equal(gradient(latent) == 0, from_prior)


def test_noise_on_logits_is_normal_and_truncated_at_two_stds() -> None:
    soft = injected_bits(make(deviation=0.1), torch.zeros(5_003, B), LatentMixing(discrete=0.0))

    noise = soft.detach().atanh()
    assert 0.19 < float(noise.abs().max()) <= 0.2 + 1e-6
    assert float(noise.std()) == pytest.approx(0.088, rel=0.03)  # std of a normal distribution truncated at two stds


def test_the_prior_loss_is_that_of_the_clean_bits_and_trains_the_prior_only() -> None:
    latent = make(noise=0.5, deviation=3.0)
    bottleneck, images, actions = torch.randn(N, C, 1, 1), torch.randn(N, K, H, W), torch.eye(A)[[0, 1, 0, 1, 1]]
    generator = torch.Generator().manual_seed(0)

    _, loss = latent(bottleneck, images, actions, LatentMixing(0.5, 0.5, 0.5), generator)
    loss.sum().backward()

    clean = torch.where(latent.posterior(images, actions) > 0, 1.0, -1.0)
    assert_close(loss, latent.prior(bottleneck.flatten(1), clean))
    assert all(parameter.grad is None for parameter in latent.posterior.parameters())
    assert all(parameter.grad is not None for parameter in latent.prior.parameters() if parameter.requires_grad)


def test_without_a_generator_the_clean_bits_are_injected() -> None:
    latent = make(noise=0.5, deviation=3.0)
    bottleneck, images, actions = torch.randn(N, C, 1, 1), torch.randn(N, K, H, W), torch.eye(A)[[0, 1, 0, 1, 1]]

    injected, _ = latent(bottleneck, images, actions, LatentMixing(), None)

    clean = torch.where(latent.posterior(images, actions) > 0, 1.0, -1.0)
    assert torch.equal(injected, latent.injection(bottleneck, clean))


def test_noise_drawn_by_inversion_is_distributed_as_torchs_truncated_one() -> None:
    quantiles = torch.linspace(0, 1, 1001)
    rejected = nn.init.trunc_normal_(torch.empty(100_000), a=-2, b=2, generator=torch.Generator().manual_seed(0))

    inverted = inverted_normal(2 * quantiles - 1)

    assert inverted[[0, -1]].tolist() == pytest.approx([-2, 2], abs=1e-3)
    torch.testing.assert_close(inverted, rejected.quantile(quantiles), atol=0.03, rtol=0)
