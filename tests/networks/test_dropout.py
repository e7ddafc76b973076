import pytest
import torch

from lightning_rl.networks.dropout import dropout


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_without_a_generator_features_are_unchanged() -> None:
    features = torch.randn(3, 7)

    assert torch.equal(dropout(features, 0.5, None), features)


def test_a_probability_of_zero_drops_nothing() -> None:
    features = torch.randn(3, 7)

    assert torch.equal(dropout(features, 0.0, seeded()), features)


def test_the_dropped_features_depend_on_the_generator_alone() -> None:
    features = torch.ones(3, 101)

    first = dropout(features, 0.5, seeded(1))
    torch.manual_seed(1234)
    again, other = dropout(features, 0.5, seeded(1)), dropout(features, 0.5, seeded(2))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_dropout_does_not_use_the_global_generator() -> None:
    before = torch.get_rng_state()

    dropout(torch.ones(3, 7), 0.5, seeded())

    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("probability", [0.2, 0.5])
def test_kept_features_are_scaled_to_keep_the_expectation(probability: float) -> None:
    dropped = dropout(torch.full((101, 103), 3.0), probability, seeded())

    assert dropped.unique().tolist() == pytest.approx([0.0, 3.0 / (1 - probability)])
    assert float(dropped.mean()) == pytest.approx(3.0, rel=0.03)  # three standard errors


def test_gradient_passes_only_where_features_were_kept() -> None:
    features = torch.ones(3, 7, requires_grad=True)

    dropped = dropout(features, 0.5, seeded())
    dropped.sum().backward()

    assert features.grad is not None
    assert torch.equal(features.grad, dropped.detach())


@pytest.mark.parametrize("num_features", [1, 2, 3, 4, 5, 7])
def test_any_number_of_features_can_be_dropped(num_features: int) -> None:
    draws = torch.stack([dropout(torch.ones(num_features), 0.5, seeded(seed)) for seed in range(201)])

    assert (draws == 0).float().mean(0).tolist() == pytest.approx(
        [0.5] * num_features, abs=0.14
    )  # four standard errors


def test_neighboring_features_are_dropped_independently() -> None:
    dropped = (dropout(torch.ones(4 * 10_007), 0.5, seeded()) == 0).view(-1, 4).float()

    correlations = torch.corrcoef(torch.cat([dropped[1:], dropped[:-1]], dim=1).T)
    torch.testing.assert_close(correlations, torch.eye(8), rtol=0, atol=0.05)  # five standard errors


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float32])
def test_images_keep_their_precision_and_memory_format(precision: torch.dtype) -> None:
    images = torch.ones(2, 3, 5, 7, dtype=precision).to(memory_format=torch.channels_last)

    dropped = dropout(images, 0.5, seeded())

    assert (dropped.dtype, dropped.stride()) == (images.dtype, images.stride())


def test_every_channel_and_column_is_dropped_at_the_same_rate() -> None:
    images = torch.ones(3, 5, 7, 11).to(memory_format=torch.channels_last)

    rates = (dropout(images, 0.2, seeded()) == 0).float()

    assert rates.mean((0, 2, 3)).max() < 0.3
    assert rates.mean((0, 1, 2)).min() > 0.1
