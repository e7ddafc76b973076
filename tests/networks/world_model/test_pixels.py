import numpy as np
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_rl.networks.world_model.pixels import PixelLogits, PixelValues, most_likely_frames, standardized
from tests.support import reference

N, H, W, C = 2, 5, 7, 3


def frames() -> Tensor:
    return torch.randint(256, (N, H, W, C), dtype=torch.uint8)


def test_standardized_frames_match_their_definition() -> None:
    obs = frames()
    obs[1, ..., 2] = 77  # this channel has std 0
    obs[1, ..., 1] = 0
    obs[1, 2, 3, 1] = 1  # and the std of this one is below 1/√35

    images = standardized(obs)

    expected = np.stack([reference.standardized(frame) for frame in obs.double().numpy()])
    assert_close(images.permute(0, 2, 3, 1).double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-5)


def test_standardized_frames_are_channels_last() -> None:
    assert standardized(frames()).is_contiguous(memory_format=torch.channels_last)


def test_values_are_the_newest_frame_plus_64_times_the_output() -> None:
    head, images, obs = PixelValues(11, C), torch.randn(N, 11, H, W), frames()

    values = head(images, obs)

    change = torch.einsum("ndhw,cd->nhwc", images, head.dense.weight) + head.dense.bias
    assert_close(values.squeeze(-1), obs + 64 * change, rtol=1e-5, atol=1e-3)


def test_logits_are_computed_for_each_sub_pixel() -> None:
    head, images, obs = PixelLogits(11, C), torch.randn(N, 11, H, W), frames()

    logits = head(images, obs)

    weight, bias = head.dense.weight.view(C, 256, 11), head.dense.bias.view(C, 256)
    assert_close(logits, torch.einsum("ndhw,cvd->nhwcv", images, weight) + bias, rtol=1e-4, atol=1e-5)


def test_outputs_are_float32_under_mixed_precision() -> None:
    images, obs = torch.randn(N, 11, H, W), frames()

    with torch.autocast("cpu", torch.bfloat16):
        logits, values = PixelLogits(11, C)(images, obs), PixelValues(11, C)(images, obs)

    assert logits.dtype == values.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())


def test_the_most_likely_frame_has_the_most_likely_value_of_each_sub_pixel() -> None:
    obs = frames()
    logits = torch.randn(N, H, W, C, 256)
    logits.scatter_(-1, obs.long().unsqueeze(-1), 9.0)

    assert torch.equal(most_likely_frames(logits, 255 - obs, tolerance=300.0), obs)


def test_the_most_likely_frame_of_values_is_rounded_and_clamped_to_bytes() -> None:
    values = torch.tensor([-300.0, -1.0, 0.4, 0.6, 254.4, 255.3, 256.0, 600.0]).view(1, 1, 8, 1, 1)

    newest = torch.full((1, 1, 8, 1), 7, dtype=torch.uint8)

    assert most_likely_frames(values, newest).flatten().tolist() == [0, 0, 0, 1, 254, 255, 255, 255]


def test_values_within_the_tolerance_are_those_of_the_newest_frame() -> None:
    values = torch.tensor([3.4, 3.6, 10.4, 10.6, 16.6]).view(1, 1, 5, 1, 1)
    newest = torch.full((1, 1, 5, 1), 7, dtype=torch.uint8)

    assert most_likely_frames(values, newest, tolerance=3.5).flatten().tolist() == [3, 7, 7, 11, 17]
