"""The variational autoencoder beside the policy."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn

from lightning_rl.cpu.sub_pixel import SubPixelConv, SubPixelShuffle, UpConv
from lightning_rl.networks.output_linear import OutputLinear

_LUMINANCE = (299.0, 587.0, 114.0)  # ITU-R BT.601, in thousandths: sums of bytes by these are exact in float32
Images = Literal["binary", "rgb"]


class LatentDistribution(NamedTuple):
    """The normal distribution that an image is encoded as."""

    mean: Float32[Tensor, "N Z"]
    log_variance: Float32[Tensor, "N Z"]

    def sample(self, noise: Float[Tensor, "N Z"]) -> Float32[Tensor, "N Z"]:
        """The sample that standard normal noise ε gives: m + σ ε."""
        return self.mean + (self.log_variance / 2).exp() * noise


class VAE(nn.Module):
    """Encoder and decoder of Xu & Kaneko, figure 2.

    The encoder has 3×3 convolutions of stride 2 with 16 and 32 channels, unpadded, and one dense layer to means and log
    variances. The decoder has a dense layer to 16 channels at a quarter of the size, transposed 3×3 convolutions with
    32 and 16 channels that double it, and one that keeps it. What the scan of the paper does not show, the padding and
    the decoder's channels, is as in the tutorial that it follows.

    `binary` images are the paper's: greyscale, white above one half. They delete much of what Procgen shows; `rgb`
    keeps it.

    Args:
        obs_shape: height and width, multiples of 4, and the channels of a frame, 3.
        latent_size: Z, length of the code.
        images: what is encoded and reconstructed.

    Raises:
        ValueError: the frames have another size.

    Reference:
        Xu & Kaneko, Combining reinforcement learning and VAE to improve generalization in Procgen Benchmark, figure 2;
        TensorFlow's tutorial "Convolutional Variational Autoencoder"
    """

    def __init__(self, obs_shape: Sequence[int], *, latent_size: int = 64, images: Images = "binary") -> None:
        super().__init__()
        height, width, channels = obs_shape
        if height % 4 or width % 4 or min(height, width) < 8 or channels != 3:
            raise ValueError(
                f"obs_shape: height and width must be multiples of 4 from 8 on, with 3 channels, found {obs_shape}"
            )
        self.latent_size = latent_size
        self._kind = images
        image_channels = 1 if images == "binary" else channels
        encoded = 32 * _halved(_halved(height)) * _halved(_halved(width))
        self.encoder = nn.Sequential(
            nn.Conv2d(image_channels, 16, 3, stride=2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            OutputLinear(encoded, 2 * latent_size),
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent_size, 16 * (height // 4) * (width // 4)),
            nn.ReLU(),
            nn.Unflatten(1, (16, height // 4, width // 4)),
            UpConv(16, 32),
            nn.ReLU(),
            SubPixelShuffle(),
            UpConv(32, 16),
            nn.ReLU(),
            SubPixelConv(16, image_channels),
        )
        for part in (self.encoder, self.decoder):
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs

    def images(self, obs: UInt8[Tensor, "N H W C"]) -> Float32[Tensor, "N K H W"]:
        """What of the frames is encoded, 0 to 1."""
        if self._kind == "rgb":
            return rearrange(obs, "n h w c -> n c h w").float().div_(255)
        with torch.autocast(obs.device.type, enabled=False):
            luminance = obs.float() @ torch.tensor(_LUMINANCE, device=obs.device)
        return (luminance > 0.5 * 255 * sum(_LUMINANCE)).float().unsqueeze(1)

    def encode(self, images: Float32[Tensor, "N K H W"]) -> LatentDistribution:
        """The code's distribution."""
        return LatentDistribution(*self.encoder(images).chunk(2, dim=1))

    def decode(self, latents: Float[Tensor, "N Z"]) -> Float32[Tensor, "N K H W"]:
        """The logits of binary images; the means of others."""
        decoded: Tensor = self.decoder(latents)
        return decoded.float()

    def expected(self, decoded: Float32[Tensor, "N K H W"]) -> Float32[Tensor, "N K H W"]:
        """The images that `decode` speaks of: each pixel's expectation, 0 to 1."""
        return decoded.sigmoid() if self._kind == "binary" else decoded.clamp(0, 1)


def _halved(size: int) -> int:
    """After an unpadded 3×3 convolution of stride 2."""
    return (size - 1) // 2
