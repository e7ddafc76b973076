import pytest
import torch
from torch.testing import assert_close

from lightning_rl.networks.world_model.latent import LatentConfig
from lightning_rl.networks.world_model.posterior import AttentivePool, Posterior

N, C = 2, 3


def test_a_pool_is_a_dense_layer_of_the_mean_and_four_weighted_means() -> None:
    pool, images = AttentivePool(C).double(), torch.randn(N, C, 4, 5, dtype=torch.float64)

    features = pool(images)

    for image, found in zip(images.flatten(2), features, strict=True):
        weights = (pool.attention.weight @ image).exp()
        means = [image @ row / row.sum() for row in weights] + [image.mean(1)]
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
