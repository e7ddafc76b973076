import pytest
import torch
from torch.testing import assert_close

from lightning_rl.networks.world_model.timing_signal import TimingSignal, timing_signal
from tests.support import reference


@pytest.mark.parametrize("channels", [3, 4, 8, 14])
def test_the_signal_matches_its_definition(channels: int) -> None:
    expected = torch.from_numpy(reference.timing_signal(5, 7, channels))

    assert_close(timing_signal(5, 7, channels).double(), expected, rtol=1e-5, atol=1e-6)


def test_the_signal_is_added_in_the_precision_of_the_images() -> None:
    images = torch.zeros(2, 8, 5, 7, dtype=torch.bfloat16).to(memory_format=torch.channels_last)

    summed = TimingSignal(5, 7, 8)(images)

    assert torch.equal(summed[1], timing_signal(5, 7, 8).permute(2, 0, 1).bfloat16())
    assert summed.is_contiguous(memory_format=torch.channels_last)


def test_the_signal_is_not_in_the_state_dict() -> None:
    assert TimingSignal(5, 7, 8).state_dict() == {}
