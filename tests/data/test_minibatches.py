import pytest
import torch
from torch import Tensor

from lightning_rl.data.minibatches import num_minibatches, shuffled


def epochs_of(seed: int, *, epochs: int = 3) -> Tensor:
    """Indices per epoch and minibatch, of 35 samples in minibatches of 7."""
    generator = torch.Generator().manual_seed(seed)
    indices = list(shuffled(35, epochs=epochs, minibatch_size=7, generator=generator))
    return torch.stack(indices).reshape(epochs, 5, 7)


def test_each_epoch_visits_each_sample_once() -> None:
    visited = epochs_of(0).flatten(1)

    assert visited.sort(dim=1).values.tolist() == [list(range(35))] * 3


def test_samples_are_shuffled_across_minibatches() -> None:
    assert not torch.equal(epochs_of(0).sort(dim=-1).values[0], torch.arange(35).reshape(5, 7))


def test_each_epoch_has_an_order_of_its_own() -> None:
    first, second, third = epochs_of(0).flatten(1).tolist()

    assert first != second != third != first


def test_the_order_comes_from_the_generator_alone() -> None:
    first = epochs_of(0)
    torch.manual_seed(1234)
    again, other = epochs_of(0), epochs_of(1)

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_one_generator_goes_on_from_call_to_call() -> None:
    generator = torch.Generator().manual_seed(0)
    pieces = [list(shuffled(35, epochs=1, minibatch_size=7, generator=generator)) for _ in range(3)]

    assert torch.equal(torch.stack([torch.stack(piece) for piece in pieces]), epochs_of(0))


@pytest.mark.parametrize(("minibatch_size", "expected"), [(1, 35), (5, 7), (35, 1)])
def test_the_number_of_minibatches_is_that_of_one_epoch(minibatch_size: int, expected: int) -> None:
    generator = torch.Generator().manual_seed(0)

    indices = list(shuffled(35, epochs=1, minibatch_size=minibatch_size, generator=generator))

    assert (num_minibatches(35, minibatch_size), len(indices)) == (expected, expected)


@pytest.mark.parametrize("minibatch_size", [-7, 0, 6, 36])
def test_minibatches_that_do_not_divide_the_rollout_are_refused(minibatch_size: int) -> None:
    message = f"minibatch_size must divide num_steps × num_envs = 35 samples, found {minibatch_size}$"

    with pytest.raises(ValueError, match=message):
        num_minibatches(35, minibatch_size)


def test_shuffling_refuses_a_smaller_last_minibatch() -> None:
    with pytest.raises(ValueError, match="minibatch_size must divide"):
        next(shuffled(35, epochs=1, minibatch_size=6, generator=torch.Generator()))
