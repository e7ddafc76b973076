"""Posterior of the discrete latent, which sees the next frame."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.nn import functional

from lightning_rl.cpu.patch_conv import PatchConv
from lightning_rl.networks.output_linear import OutputLinear
from lightning_rl.networks.world_model.injection import Injection
from lightning_rl.networks.world_model.latent import LatentConfig
from lightning_rl.networks.world_model.timing_signal import TimingSignal

_NUM_HEADS = 4


class AttentivePool(nn.Module):
    """Pools an image by a dense layer of its mean over positions and of four means of weighted features.

        [mean_p(w_pk x_p) for heads k, mean_p(x_p)],   w_k = softmax_p(a_k · x_p)

    The weights sum to one, and yet their terms are averaged, as in the published code.

    Args:
        channels: C.

    Reference:
        tensor2tensor, common_layers.py, `mean_with_attention`
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.attention = nn.Linear(channels, _NUM_HEADS, bias=False)  # softmax would cancel a bias
        self.dense = nn.Linear((_NUM_HEADS + 1) * channels, 2 * channels)

    def forward(self, images: Float[Tensor, "N {self.channels} H W"]) -> Float[Tensor, "N {2*self.channels}"]:
        """The pooled features."""
        positions = images.permute(0, 2, 3, 1).flatten(1, 2)
        weights = self.attention(positions).softmax(1)
        heads = weights.transpose(1, 2).to(positions.dtype) @ positions / positions.shape[1]
        pooled: Tensor = self.dense(torch.cat([heads, positions.mean(1, keepdim=True)], dim=1).flatten(1))
        return pooled


class Posterior(nn.Module):
    """Logits of the latent's bits, from the last frames, the action and the next frame.

    A dense layer to `hidden` channels, a timing signal and the action are followed by two 8×8 convolutions of stride 4,
    each with an attentive pool.

    Args:
        obs_shape: height, width and channels of the input, which includes the next frame.
        num_actions: A.
        hidden: channels of the dense layer.
        config: options of the latent.

    Reference:
        tensor2tensor, models/video/basic_stochastic.py, `inject_latent`, and common_layers.py, `double_discriminator`
    """

    def __init__(self, obs_shape: Sequence[int], num_actions: int, *, hidden: int, config: LatentConfig) -> None:
        super().__init__()
        height, width, channels = obs_shape
        self.embed = nn.Conv2d(channels, hidden, 1)
        self.timing = TimingSignal(height, width, hidden)
        self.action = Injection(num_actions, hidden)
        self.first = nn.Conv2d(hidden, config.channels, 8, stride=4)
        self.first_pool = AttentivePool(config.channels)
        self.second = PatchConv(config.channels, 4 * config.channels, 8, stride=4)
        self.second_pool = AttentivePool(4 * config.channels)
        self.bits = OutputLinear(10 * config.channels, config.num_bits)

    def forward(
        self, images: Float[Tensor, "N K H W"], actions: Float[Tensor, "N A"]
    ) -> Float32[Tensor, "N {self.bits.out_features}"]:
        """The logits."""
        features = self.action(self.timing(self.embed(images)), actions)
        first = self.first(_padded(features))
        second = self.second(_padded(first.relu()))
        logits: Tensor = self.bits(torch.cat([self.first_pool(first), self.second_pool(second)], dim=1))
        return logits.float()


def _padded(images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H2 W2"]:
    """TensorFlow's `SAME` padding for kernel size 8 and stride 4, which gives ⌈n / 4⌉ outputs."""
    height, width = (4 * (-(-size // 4) + 1) - size for size in images.shape[2:])
    return functional.pad(images, (width // 2, width - width // 2, height // 2, height - height // 2))
