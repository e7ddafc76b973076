import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_rl.networks.world_model.latent import LatentConfig
from lightning_rl.networks.world_model.prior import BitPrior
from tests.support import reference

N, F = 3, 7
CONFIG = LatentConfig(num_bits=10, bits_per_symbol=2, prior_size=11, prior_dropout=0.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def latents(count: int = N) -> Tensor:
    return torch.randint(2, (count, CONFIG.num_bits)).float() * 2 - 1


def test_the_loss_matches_its_definition() -> None:
    prior, features, bits = BitPrior(F, CONFIG), torch.randn(N, F), latents()

    losses = prior(features, bits)

    weights = {name: value.detach().double().numpy() for name, value in prior.named_parameters()}
    pairs = zip(features.double().numpy(), bits.double().numpy(), strict=True)
    expected = [reference.bit_prior(given, latent, CONFIG.bits_per_symbol, weights) for given, latent in pairs]
    assert_close(losses.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-5)


def test_gradient_reaches_everything_but_the_bits() -> None:
    prior, features, bits = BitPrior(F, CONFIG), torch.randn(N, F, requires_grad=True), latents().requires_grad_()

    prior(features, bits).sum().backward()

    assert bits.grad is None
    assert features.grad is not None
    assert features.grad.abs().sum() > 0
    untouched = [
        name for name, value in prior.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0
    ]
    assert untouched == ["lstm.bias_hh_l0"]  # TensorFlow's constant, see below


def test_bits_and_symbols_convert_into_each_other() -> None:
    prior = BitPrior(F, CONFIG)
    bits = torch.tensor([[1.0, -1.0, -1.0, 1.0, 1.0, 1.0, -1.0, -1.0, 1.0, -1.0]])

    assert prior.symbols(bits).tolist() == [[1, 2, 3, 0, 1]]
    assert torch.equal(prior.bits(prior.symbols(bits)), bits)


def test_latents_are_sampled_with_the_probabilities_of_the_loss() -> None:
    config = LatentConfig(num_bits=4, bits_per_symbol=2, prior_size=5)
    prior, count = BitPrior(F, config), 20_011
    features = torch.randn(1, F)
    all_latents = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 4)
    with torch.no_grad():
        for name, parameter in prior.named_parameters():
            parameter.mul_(2.0 if "weight" in name else 1.0)  # far from uniform
        probabilities = (-2 * prior(features.expand(16, F), all_latents)).exp()

        samples = prior.sample(features.expand(count, F), seeded())

    frequencies = (samples.unsqueeze(1) == all_latents).all(-1).float().mean(0)
    assert float(probabilities.sum()) == pytest.approx(1.0, abs=1e-5)
    assert probabilities.max() > 2 * probabilities.min()
    assert_close(frequencies, probabilities, rtol=0, atol=0.016)  # above four standard errors of one half


def test_samples_depend_on_the_generator_alone() -> None:
    prior, features = BitPrior(F, CONFIG), torch.randn(17, F)

    first = prior.sample(features, seeded(1))
    torch.manual_seed(99)
    again, other = prior.sample(features, seeded(1)), prior.sample(features, seeded(2))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_dropout_needs_a_generator() -> None:
    prior = BitPrior(F, LatentConfig(num_bits=10, bits_per_symbol=2, prior_size=11, prior_dropout=0.5))
    features, bits = torch.randn(N, F), latents()

    assert torch.equal(prior(features, bits), prior(features, bits))
    assert torch.all(prior(features, bits) != prior(features, bits, seeded()))


def test_the_lstm_starts_with_a_constant_forget_bias_of_one_and_unit_scaled_weights() -> None:
    lstm = BitPrior(F, CONFIG).lstm

    parameters = dict(lstm.named_parameters())
    assert parameters["bias_ih_l0"].tolist() == [0.0] * 44
    assert parameters["bias_hh_l0"].tolist() == [0.0] * 11 + [1.0] * 11 + [0.0] * 22
    assert not parameters["bias_hh_l0"].requires_grad
    bound = np.sqrt(3 * 1.3 / ((22 + 44) / 2))  # of one matrix for inputs and state
    for name in ("weight_ih_l0", "weight_hh_l0"):
        assert 0.9 * bound < float(parameters[name].detach().abs().max()) <= bound


def test_the_prior_is_float32_under_mixed_precision() -> None:
    prior, features, bits = BitPrior(F, CONFIG), torch.randn(N, F), latents()

    with torch.autocast("cpu", torch.bfloat16):
        loss = prior(features, bits)

    assert torch.equal(loss, prior(features, bits))


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("num_bits", 0, "at least 1"),
        ("bits_per_symbol", 0, "from 1 to 16"),
        ("bits_per_symbol", 17, "from 1 to 16"),
        ("channels", 0, "at least 1"),
        ("prior_size", 0, "at least 1"),
        ("noise", 1.5, "in [0, 1]"),
        ("deviation", -0.1, "at least 0"),
        ("prior_dropout", 1.0, "in [0, 1)"),
    ],
)
def test_a_value_outside_its_range_is_refused(option: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"model.world_model.latent.{option} must be {allowed}, found")):
        LatentConfig(**{option: value})


def test_num_bits_must_be_a_multiple_of_bits_per_symbol() -> None:
    with pytest.raises(ValueError, match="num_bits must be a multiple of bits_per_symbol 8, found 12"):
        LatentConfig(num_bits=12)
