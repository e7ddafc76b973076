import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_rl.networks.world_model.latent import LatentConfig
from lightning_rl.networks.world_model.posterior import AttentivePool, Posterior
from tests.support import reference

N, C = 2, 3


def test_a_pool_is_a_dense_layer_of_the_mean_and_four_means_of_weighted_features() -> None:
    pool, images = AttentivePool(C).double(), torch.randn(N, C, 4, 5, dtype=torch.float64)

    features = pool(images)

    for image, found in zip(images.flatten(2), features, strict=True):
        weights = (pool.attention.weight @ image).exp()
        means = [(image * row / row.sum()).mean(1) for row in weights] + [image.mean(1)]
        assert_close(found, pool.dense.weight @ torch.cat(means) + pool.dense.bias)


@pytest.mark.parametrize(("size", "positions"), [((64, 64), [(16, 16), (4, 4)]), ((13, 22), [(4, 6), (1, 2)])])
def test_convolutions_have_one_output_per_four_pixels_rounded_up(
    size: tuple[int, int], positions: list[tuple[int, int]]
) -> None:
    posterior = Posterior((*size, C), 2, hidden=3, config=LatentConfig(num_bits=8, channels=2))
    found = []
    for pool in (posterior.first_pool, posterior.second_pool):
        pool.register_forward_pre_hook(lambda _, inputs: found.append(tuple(inputs[0].shape[2:])))

    logits = posterior(torch.randn(N, C, *size), torch.eye(2))

    assert logits.shape == (N, 8)
    assert found == positions


def test_the_posterior_matches_the_published_network() -> None:
    size, hidden = (9, 14), 5
    posterior = Posterior((*size, C), 2, hidden=hidden, config=LatentConfig(num_bits=8, channels=3)).double()
    images, actions = torch.randn(N, C, *size, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    weights = dict(posterior.named_parameters())

    found = posterior(images, actions)

    def conv(x: Tensor, name: str) -> Tensor:  # TensorFlow's SAME: ⌈n / 4⌉ outputs, the odd zero at the end
        for axis in (2, 3):
            missing = 4 * (-(-x.shape[axis] // 4) - 1) + 8 - x.shape[axis]
            zeros = [torch.zeros_like(x.narrow(axis, 0, 1))]
            x = torch.cat([*zeros * (missing // 2), x, *zeros * (missing - missing // 2)], dim=axis)
        return nn.functional.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=4)

    def mean_with_attention(x: Tensor, name: str) -> Tensor:
        scores = torch.einsum("nchw,kc->nkhw", x, weights[f"{name}.attention.weight"])
        shares = scores.exp() / scores.exp().sum((2, 3), keepdim=True)
        heads = [(x * shares[:, k : k + 1]).mean((2, 3)) for k in range(4)]
        pooled = torch.cat([*heads, x.mean((2, 3))], dim=1)
        return pooled @ weights[f"{name}.dense.weight"].T + weights[f"{name}.dense.bias"]

    x = nn.functional.conv2d(images, weights["embed.weight"], weights["embed.bias"])
    x = x + torch.from_numpy(reference.timing_signal(*size, hidden)).permute(2, 0, 1)
    scale, shift = (actions @ weights["action.dense.weight"].T + weights["action.dense.bias"]).chunk(2, 1)
    x = x * scale.sigmoid()[:, :, None, None] + shift[:, :, None, None]
    first = conv(x, "first")
    second = conv(first.clamp(min=0), "second")
    pooled = torch.cat([mean_with_attention(first, "first_pool"), mean_with_attention(second, "second_pool")], dim=1)
    expected = pooled @ weights["bits.weight"].T + weights["bits.bias"]
    assert (second < 0).any()
    assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
